// Connections of Node: plain, or over TLS with a token (R1, R2).

import { readFileSync } from "node:fs";
import type { Interceptor, Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

/** A default client of any language takes so much; the server sends no more (R4). */
const MESSAGE_BYTES_MAX = 4 * 1024 * 1024;

/** `caFile`: the authority that vouches for the server. `token`: shown with every call, over TLS only. */
export function connect(address: string, caFile?: string, token?: string): Transport {
  const readMaxBytes = MESSAGE_BYTES_MAX;
  if (caFile === undefined) {
    return createGrpcTransport({ baseUrl: `http://${address}`, readMaxBytes });
  }
  const shows: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  return createGrpcTransport({
    baseUrl: `https://${address}`,
    readMaxBytes,
    nodeOptions: { ca: readFileSync(caFile) },
    interceptors: token === undefined ? [] : [shows],
  });
}
