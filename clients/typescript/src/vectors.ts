// Compares the golden vectors of proto/vectors with what this client computes.

import { deepStrictEqual as equal } from "node:assert";
import { readFileSync } from "node:fs";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { type Cursor, CursorSchema, DeltaSchema } from "../gen/deltasync/v1/types_pb.js";
import { Copy } from "./copy.js";
import { itemDigest, segment, toHex, valueHash, wrap } from "./digest.js";

/** Items of the collection that reconcile.json tells of. */
const RECONCILED = 2_000;

interface Place {
  epoch: string;
  version: string;
  base: string;
}

interface Entry {
  key: string;
  version: string;
  value_hash: string;
  sort_key: string;
  value_size: number;
}

function load<T>(name: string): T {
  const file = new URL(`../../../../proto/vectors/${name}.json`, import.meta.url);
  return JSON.parse(readFileSync(file, "utf8")) as T;
}

function bytes(hex: string): Buffer {
  return Buffer.from(hex, "hex");
}

function digests(): void {
  const told = load<{
    items: {
      name: string; key: string; version: string; sort_key: string; value: string;
      item_digest: string; segment: number; group: number;
    }[];
    collections: { name: string; items: string[]; digest: string }[];
  }>("digest");
  const found = new Map<string, bigint>();
  for (const item of told.items) {
    const key = bytes(item.key);
    const digest = itemDigest(key, BigInt(item.version), bytes(item.sort_key), bytes(item.value));
    found.set(item.name, digest);
    equal(toHex(digest), item.item_digest, item.name);
    equal(segment(key), item.segment, item.name);
    equal(Math.floor(segment(key) / 64), item.group, item.name);
  }
  for (const { name, items, digest } of told.collections) {
    equal(toHex(wrap(items.reduce((sum, one) => sum + (found.get(one) ?? 0n), 0n))), digest, name);
  }
}

function sums(): void {
  const told = load<{
    group_sums: string[];
    leaf_sums: { group: number; sums: string[] };
    entries: { segment: number; entries: Entry[] };
  }>("reconcile");
  const leaves = new Array<bigint>(4096).fill(0n);
  const groups = new Array<bigint>(64).fill(0n);
  const entries: Entry[] = [];
  for (let n = 0; n < RECONCILED; n += 1) {
    const key = Buffer.from(`item ${n}`);
    const value = Buffer.from(`value ${n}`);
    const sortKey = Buffer.from(String(n % 7));
    const leaf = segment(key);
    const group = Math.floor(leaf / 64);
    const digest = itemDigest(key, BigInt(n + 1), sortKey, value);
    leaves[leaf] = wrap((leaves[leaf] ?? 0n) + digest);
    groups[group] = wrap((groups[group] ?? 0n) + digest);
    if (leaf === told.entries.segment) {
      entries.push({
        key: key.toString("hex"), version: String(n + 1), value_hash: valueHash(value),
        sort_key: sortKey.toString("hex"), value_size: value.length,
      });
    }
  }
  equal(groups.map(toHex), told.group_sums);
  const first = 64 * told.leaf_sums.group;
  equal(leaves.slice(first, first + 64).map(toHex), told.leaf_sums.sums);
  entries.sort((a, b) => (a.key < b.key ? -1 : 1));
  equal(entries, told.entries.entries);
}

function place(cursor?: Cursor): Place {
  return {
    epoch: String(cursor?.epoch), version: String(cursor?.version), base: String(cursor?.base),
  };
}

function cursors(): void {
  const told = load<{ cursors: (Place & { name: string; encoded: string })[] }>("cursors");
  for (const { name, encoded, epoch, version, base } of told.cursors) {
    const cursor = fromBinary(CursorSchema, bytes(encoded));
    equal(place(cursor), { epoch, version, base }, name);
    equal(Buffer.from(toBinary(CursorSchema, cursor)).toString("hex"), encoded, name);
  }
}

function pages(): void {
  const told = load<{
    copies: {
      name: string;
      pages: {
        to: Place; changes: number; verdict: string; delta: string;
        arrived: { items: number; digest: string } | null;
      }[];
    }[];
  }>("pages");
  for (const { name, pages } of told.copies) {
    const copy = new Copy(name, () => {});
    for (const page of pages) {
      const delta = fromBinary(DeltaSchema, bytes(page.delta));
      equal(delta.changes.length, page.changes, name);
      const verdict = copy.apply(delta);
      equal(verdict, page.verdict, name);
      if (verdict !== "applied") continue;
      equal(place(copy.cursor), page.to, name);
      if (page.arrived !== null) {
        equal(copy.isLive, true, name);
        equal(copy.rows.items.size, page.arrived.items, name);
        equal(toHex(copy.total()), page.arrived.digest, name);
      }
    }
  }
}

for (const check of [digests, sums, cursors, pages]) check();
console.log("the vectors hold");
