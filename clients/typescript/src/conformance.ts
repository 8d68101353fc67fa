// The client under test of the conformance kit: ADDRESS CASE follow|inbox|write NAME.
//
// Says in a JSON line where a copy stands each time it is caught up, and at the end of its input what
// it has met (conformance/README.md).

import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { SyncService } from "../gen/deltasync/v1/sync_service_pb.js";
import { WriteService } from "../gen/deltasync/v1/write_service_pb.js";
import type { Copy } from "./copy.js";
import { Copy as CollectionCopy } from "./copy.js";
import { toHex } from "./digest.js";
import { Follower } from "./follower.js";
import { Account } from "./inbox.js";
import { Puller } from "./puller.js";
import { commit } from "./writer.js";

const WRITTEN = 10;
/** A default client of any language takes so much (R4). */
const MESSAGE_BYTES_MAX = 4 * 1024 * 1024;

const [address, client, mode, name] = process.argv.slice(2);
if (address === undefined || client === undefined || name === undefined) {
  throw new Error("usage: conformance ADDRESS CASE follow|inbox|write NAME");
}
const transport = createGrpcTransport({
  baseUrl: `http://${address}`, readMaxBytes: MESSAGE_BYTES_MAX,
});
const stop = new AbortController();
const met = new Set<Copy>();

function say(line: object): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function arrived(copy: Copy): void {
  met.add(copy);
  say({
    at: {
      collection: copy.name,
      epoch: String(copy.shown?.epoch),
      version: String(copy.shown?.version),
      items: copy.rows.items.size,
      digest: toHex(copy.total()),
    },
  });
}

async function write(collection: string): Promise<void> {
  const stub = createClient(WriteService, transport);
  for (let number = 0; number < WRITTEN; number += 1) {
    const put = { key: Buffer.from(`item ${number}`), value: Buffer.from(`value ${number}`) };
    await commit(stub, [{ collection, op: { case: "put", value: put } }], stop.signal);
  }
  say({ done: { acknowledged: WRITTEN } });
  process.exit(0);
}

async function keep(id: string, subject: string): Promise<void> {
  const stub = createClient(SyncService, transport);
  const puller = new Puller(stub, id, stop.signal);
  if (mode === "inbox") {
    const account = new Account(subject, puller, arrived);
    const follower = new Follower(stub, id, [account.inbox], stop.signal);
    follower.onNotice = (notice) => account.onNotice(notice);
    follower.after = () => account.catchUp();
    return follower.run(() => account.pull());
  }
  const copy = new CollectionCopy(subject, arrived);
  met.add(copy);
  return new Follower(stub, id, [copy], stop.signal).run(() => puller.pull([copy]));
}

process.stdin.resume();
process.stdin.on("end", () => stop.abort(new Error("the client is to end")));
if (mode === "write") {
  await write(name);
} else {
  await keep(client, name);
  const resets = new Set([...met].flatMap((copy) => [...copy.resets]));
  const mismatches = [...met].reduce((sum, copy) => sum + copy.mismatches, 0);
  say({ done: { resets: [...resets], mismatches } });
  process.exit(0);
}
