// Shows that a page's list is right whatever becomes of its network: a real server, a real browser, and
// a line between them that can be cut.
//
//   node drive.mjs SERVER-PROGRAM BROWSER-PROGRAM DIRECTORY-OF-THE-PAGE

import { deepStrictEqual as equal, ok } from "node:assert";
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer as createHttpServer } from "node:http";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { chromium } from "playwright-core";
import { WriteService } from "../dist/gen/deltasync/v1/write_service_pb.js";
import { commit } from "../dist/src/writer.js";

const PATIENCE_MS = 30_000;
const COLLECTION = "groups/42/members";
const ITEMS = 1_000;
/** Of a list of a megabyte: what a page may get that has it all but a few lines. */
const RESUMED_BYTES_MAX = 100_000;
const VALUE = "x".repeat(1_000);

const [serverProgram, browserProgram, pageDir] = process.argv.slice(2);
const within = (what, promise) => Promise.race([
  promise,
  new Promise((_, failed) =>
    setTimeout(() => failed(new Error(`waited in vain for ${what}`)), PATIENCE_MS).unref()),
]);

/** Listens on a free port of this machine. */
function listening(server) {
  return new Promise((done) => server.listen(0, "127.0.0.1", () => done(server.address().port)));
}

/** The page, as any web server would show it. */
function pages() {
  const types = { html: "text/html", js: "text/javascript" };
  return createHttpServer(async ({ url }, answer) => {
    const name = new URL(url, "http://page").pathname === "/page.js" ? "page.js" : "index.html";
    answer.setHeader("content-type", types[name.split(".")[1]]);
    answer.end(await readFile(join(pageDir, name)));
  });
}

/** A line to the server that counts what passes towards the page, and can be cut. */
class Line {
  passed = 0;
  closed = false;
  #open = new Set();

  constructor(port) {
    this.server = createServer((page) => {
      if (this.closed) return page.destroy();
      const there = connect(port, "127.0.0.1");
      for (const [from, to] of [[page, there], [there, page]]) {
        this.#open.add(from);
        from.on("error", () => {}).on("close", () => {
          this.#open.delete(from);
          to.destroy();
        });
      }
      page.pipe(there);
      there.on("data", (bytes) => { this.passed += bytes.length; }).pipe(page);
    });
  }

  /** Cuts every connection. */
  cut() {
    for (const socket of this.#open) socket.destroy();
  }
}

/** What the list must be, and how it is written. */
class Truth {
  rows = new Map();

  constructor(port) {
    const transport = createGrpcTransport({ baseUrl: `http://127.0.0.1:${port}` });
    this.client = createClient(WriteService, transport);
  }

  async write(changes) {
    const bytes = new TextEncoder();
    const mutations = changes.map(([name, value]) => {
      const key = bytes.encode(name);
      const op = value === undefined
        ? { case: "delete", value: { key } }
        : { case: "put", value: { key, value: bytes.encode(value) } };
      return { collection: COLLECTION, op };
    });
    await commit(this.client, mutations, AbortSignal.timeout(PATIENCE_MS));
    for (const [name, value] of changes) {
      if (value === undefined) this.rows.delete(name);
      else this.rows.set(name, value);
    }
  }

  lines() {
    return [...this.rows].map(([name, value]) => `${name} = ${value}`).sort();
  }
}

/** Deletes, changes and inserts, differently each time. */
function some(round) {
  return [0, 1, 2, 3].flatMap((n) => [
    [`item ${1000 + 100 * round + n}`, undefined],
    [`item ${1500 + 10 * round + n}`, `changed in round ${round}`],
    [`new ${round} ${n}`, `came in round ${round}`],
  ]);
}

async function startServer(port, origin, dir) {
  const settings = [`--data-dir=${dir}`, `--listen=127.0.0.1:${port}`, "--free-disk-min-mib=1"];
  const web = ["--grpc-web", `--grpc-web-origins=${origin}`];
  const server = spawn(serverProgram, [...settings, ...web], { stdio: ["ignore", "inherit", "inherit"] });
  const reached = () => new Promise((done) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("connect", () => done(true)).on("error", () => done(false)).on("connect", () => socket.end());
  });
  for (const until = Date.now() + PATIENCE_MS; !(await reached());) {
    ok(Date.now() < until && server.exitCode === null, "the server does not serve");
    await new Promise((done) => setTimeout(done, 50));
  }
  return server;
}

async function freePort() {
  const server = createServer();
  const port = await listening(server);
  await new Promise((done) => server.close(done));
  return port;
}

/** What the page shows. */
const shown = () => [...document.querySelectorAll("#list li")].map((line) => line.textContent);

async function isRight(page, truth, what) {
  const expected = truth.lines();
  const test = (lines) => document.body.dataset.state === "live"
    && JSON.stringify([...document.querySelectorAll("#list li")].map((line) => line.textContent))
      === JSON.stringify(lines);
  await page.waitForFunction(test, expected, { timeout: PATIENCE_MS, polling: 50 }).catch(async () => {
    equal(await page.evaluate(shown), expected, what);
    throw new Error(`${what}: ${await page.evaluate(() => document.body.dataset.state)}`);
  });
  console.log(`ok: ${what}`);
}

/** Loses the network, lets the list move, comes back. */
async function away(page, truth, line, round, how, lose) {
  const before = await page.evaluate(shown);
  await lose(true);
  await page.waitForFunction(() => document.body.dataset.state !== "live", null,
    { timeout: PATIENCE_MS, polling: 50 });
  await truth.write(some(round));
  await truth.write([[`new ${round} 0`, undefined], [`new ${round} 9`, "came last"]]);
  equal(await page.evaluate(shown), before, "a page without a network keeps what it has");
  const passed = line.passed;
  await lose(false);
  await isRight(page, truth, `the list after ${how}`);
  const resumed = line.passed - passed;
  ok(resumed < RESUMED_BYTES_MAX, `${resumed} bytes after ${how}: it did not go on from its cursor`);
  const startedOver = await page.evaluate(() => document.body.dataset.startedOver);
  equal(startedOver, "0", "it never had to start over");
}

async function main(dir) {
  const port = await freePort();
  const line = new Line(port);
  const linePort = await listening(line.server);
  const web = pages();
  const origin = `http://127.0.0.1:${await listening(web)}`;
  const server = await startServer(port, origin, dir);
  const browser = await chromium.launch({ executablePath: browserProgram, args: ["--no-sandbox"] });
  try {
    const truth = new Truth(port);
    await truth.write(Array.from({ length: ITEMS }, (_, n) => [`item ${1000 + n}`, VALUE]));
    const context = await browser.newContext();
    const page = await context.newPage();
    page.on("pageerror", (error) => console.error(`the page: ${error}`));
    const asked = new URLSearchParams({ server: `http://127.0.0.1:${linePort}`, collection: COLLECTION });
    await page.goto(`${origin}/?${asked}`);
    await isRight(page, truth, "the list at first");
    await truth.write(some(0));
    await isRight(page, truth, "the list after a push");
    await away(page, truth, line, 1, "the browser was offline", async (lost) => {
      await context.setOffline(lost);
      if (lost) line.cut(); // what was open when the browser went offline
    });
    await away(page, truth, line, 2, "nobody answered", async (lost) => {
      line.closed = lost;
      if (lost) line.cut();
    });
    await truth.write(some(3));
    await isRight(page, truth, "the list after one more push");
    const foreign = await context.newPage();
    await foreign.goto(`http://localhost:${new URL(origin).port}/?${asked}`);
    await foreign.waitForFunction(() => document.body.dataset.state === "catching up");
    const answer = foreign.waitForEvent("requestfailed", { timeout: PATIENCE_MS });
    await within("a foreign page to be refused", answer);
    equal(await foreign.evaluate(shown), [], "a page of another origin sees nothing");
    console.log("ok: a page of another origin sees nothing");
  } finally {
    await browser.close();
    server.kill("SIGTERM");
    const code = await within("the server to end", new Promise((done) => server.on("exit", done)));
    line.cut();
    line.server.close();
    web.close();
    web.closeAllConnections();
    equal(code, 0, "the server ends well");
  }
}

const dir = await mkdtemp(join(tmpdir(), "deltasync-web-"));
try {
  await main(join(dir, "data"));
} finally {
  await rm(dir, { recursive: true, force: true });
}
process.exit(0);
