// Commits that are applied once, however often they must be sent (R52 to R59).

import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError } from "@connectrpc/connect";
import type {
  CommitResponse, MutationSchema, WriteService,
} from "../gen/deltasync/v1/write_service_pb.js";
import { Backoff, sleep } from "./backoff.js";

const TIMEOUT_MS = 10_000;
const MAY_PASS = new Set([
  Code.Unavailable, Code.Unknown, Code.Canceled, Code.DeadlineExceeded, Code.Internal,
  Code.ResourceExhausted,
]);

/** All of the mutations or none. One key for all attempts: a retry changes nothing (R58). */
export async function commit(
  client: Client<typeof WriteService>,
  mutations: MessageInitShape<typeof MutationSchema>[],
  stop: AbortSignal,
): Promise<CommitResponse> {
  const request = { mutations, idempotencyKey: crypto.randomUUID() };
  const backoff = new Backoff();
  for (;;) {
    try {
      return await client.commit(request, { timeoutMs: TIMEOUT_MS, signal: stop });
    } catch (error) {
      if (stop.aborted || !MAY_PASS.has(ConnectError.from(error).code)) throw error;
      await sleep(backoff.next(), stop);
    }
  }
}
