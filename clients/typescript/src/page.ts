// A page that shows a list and keeps it right: gRPC-Web in a browser, the same copy as in Node.
//
//   index.html?server=http://127.0.0.1:7411&collection=groups/42/members[&client=laptop-7]

import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { SyncService } from "../gen/deltasync/v1/sync_service_pb.js";
import { Copy, inOrder } from "./copy.js";
import { Follower } from "./follower.js";
import { Puller } from "./puller.js";

const asked = new URLSearchParams(location.search);
const collection = asked.get("collection") ?? "list";
const clientId = asked.get("client") ?? crypto.randomUUID();
const transport = createGrpcWebTransport({ baseUrl: asked.get("server") ?? location.origin });
const stop = new AbortController();
const text = new TextDecoder();

/** `catching up` also means: or trying to. */
function say(state: "catching up" | "live"): void {
  document.body.dataset.state = state;
  element("state").textContent = state;
}

function element(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found;
}

function show(copy: Copy): void {
  const rows = [...copy.rows.items.values()].sort(inOrder);
  element("list").replaceChildren(...rows.map((row) => {
    const line = document.createElement("li");
    line.textContent = `${text.decode(row.key)} = ${text.decode(row.value)}`;
    return line;
  }));
  document.body.dataset.version = String(copy.shown?.version);
  document.body.dataset.startedOver = String(copy.resets.size + copy.mismatches);
}

const client = createClient(SyncService, transport);
const copy = new Copy(collection, show);
const puller = new Puller(client, clientId, stop.signal);
await new Follower(client, clientId, [copy], stop.signal).run(async () => {
  say("catching up");
  await puller.pull([copy]);
  say("live");
});
