// The client under test of the conformance kit: ADDRESS CASE MODE NAME.
//
// Says in a JSON line where a copy stands each time it is caught up, and at the end of its input what
// it has met (conformance/README.md).

import { Code, createClient } from "@connectrpc/connect";
import { SyncService } from "../gen/deltasync/v1/sync_service_pb.js";
import { WriteService } from "../gen/deltasync/v1/write_service_pb.js";
import { Consumer } from "./consumer.js";
import type { Copy } from "./copy.js";
import { Copy as CollectionCopy } from "./copy.js";
import { toHex } from "./digest.js";
import { connect } from "./door.js";
import { Follower } from "./follower.js";
import { Account } from "./inbox.js";
import { Puller } from "./puller.js";
import { Refusal } from "./refusal.js";
import { Window } from "./window.js";
import { commit, Import } from "./writer.js";

const WRITTEN = 10;
const IMPORTED = 8;
const IMPORTED_BYTES = 700_000;
const ROWS = 10;

const [address, client, mode, name] = process.argv.slice(2);
if (address === undefined || client === undefined || name === undefined) {
  throw new Error("usage: conformance ADDRESS CASE MODE NAME");
}
const { DELTASYNC_CA_FILE: caFile, DELTASYNC_TOKEN: token } = process.env;
const transport = connect(address, caFile, token);
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
    try {
      await commit(stub, [{ collection, op: { case: "put", value: put } }], stop.signal);
    } catch (error) {
      return say({ done: { acknowledged: number, refused: refusal(error) } });
    }
  }
  say({ done: { acknowledged: WRITTEN } });
}

async function load(id: string, collection: string): Promise<void> {
  const commits = Array.from({ length: IMPORTED }, (_, index) => {
    const value = Buffer.from(`value ${index + 1} `.padEnd(IMPORTED_BYTES, "."));
    const put = { key: Buffer.from(`item ${index + 1}`), value };
    return [{ collection, op: { case: "put" as const, value: put } }];
  });
  const load = new Import(createClient(WriteService, transport), id, commits, stop.signal);
  const refused = await load.run().then(() => null, refusal);
  say({ done: { acknowledged: load.durable, refused } });
}

async function resume(id: string, collection: string): Promise<void> {
  const stub = createClient(SyncService, transport);
  const consumer = new Consumer(stub, id, collection, stop.signal, async (delta, anew) => {
    const keys = { put: [] as string[], gone: [] as string[] };
    for (const { key, kind } of delta.changes) {
      keys[kind.case === "put" ? "put" : "gone"].push(new TextDecoder().decode(key));
    }
    say({ took: { anew, ...keys } });
  });
  const refused = await consumer.catchUp().then(() => null, refusal);
  say({ done: { refused } });
}

/** What can be read in a refusal. */
function refusal(error: unknown): object {
  const { code, reason, fields, quotas } = Refusal.of(error);
  const name = (Code[code] ?? "").replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
  return { code: name, reason, fields, quotas: quotas.map(({ whose }) => whose) };
}

function shown(window: Window): void {
  say({
    at: {
      collection: window.collection,
      epoch: String(window.shown?.epoch),
      version: String(window.shown?.version),
      items: window.rows.length,
      digest: window.digest(),
    },
  });
}

async function keep(id: string, subject: string): Promise<void> {
  const stub = createClient(SyncService, transport);
  if (mode === "window") {
    return new Window(stub, id, subject, ROWS, stop.signal, shown).run();
  }
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
const writing = { write: () => write(name), import: () => load(client, name), resume: () => resume(client, name) };
if (mode === "write" || mode === "import" || mode === "resume") {
  process.stdin.removeAllListeners("end"); // it ends by itself
  await writing[mode]();
} else {
  await keep(client, name);
  const resets = new Set([...met].flatMap((copy) => [...copy.resets]));
  const mismatches = [...met].reduce((sum, copy) => sum + copy.mismatches, 0);
  say({ done: { resets: [...resets], mismatches } });
}
process.exit(0);
