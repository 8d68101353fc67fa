// A copy of a collection, and how deltas change it. No network, no clock.

import { create } from "@bufbuild/protobuf";
import { bytesToHex } from "@noble/hashes/utils.js";
import type { Change, Cursor, Delta, Head } from "../gen/deltasync/v1/types_pb.js";
import { CursorSchema } from "../gen/deltasync/v1/types_pb.js";
import { fromBytes, itemDigest, wrap } from "./digest.js";

export interface Row {
  key: Uint8Array;
  version: bigint;
  valueVersion: bigint;
  sortKey: Uint8Array;
  value: Uint8Array;
}

/** Items by key (in hexadecimal: bytes are no map keys here), and the sum of their digests (R48). */
export class Rows {
  readonly items = new Map<string, Row>();
  sum = 0n;
}

/** What became of a delta. */
export type Verdict =
  | "applied"
  | "repeat" // the copy has it already
  | "gap" // something before it is missing, or it is of another life: pull
  | "broken" // a change that this client does not know (R6): pull
  | "damaged"; // the copy is not what the server thinks: it starts over

/** Where readers stand; epoch 0: there is no such collection. */
export interface Place {
  epoch: bigint;
  version: bigint;
}

/**
 * What readers see of a collection, and what is being loaded beside it.
 *
 * A real client keeps rows and cursor in one database transaction (R7); here both change together
 * after everything was checked.
 */
export class Copy {
  rows = new Rows();
  shown: Place | undefined;
  cursor: Cursor | undefined;
  readonly resets = new Set<string>();
  mismatches = 0;
  /** A load is under way, or begins with the next delta. */
  private staged: Rows | undefined = new Rows();

  constructor(readonly name: string, private readonly onArrival: (copy: Copy) => void) {}

  get isLive(): boolean {
    return this.cursor !== undefined && this.staged === undefined && this.cursor.base === 0n;
  }

  /** Takes a delta if it fits behind the cursor (R22). */
  apply(delta: Delta): Verdict {
    const { from, to } = delta;
    const unfit = this.judge(from, to);
    if (unfit !== undefined || to === undefined) return unfit ?? "broken";
    const rows = this.staged ?? this.rows;
    const planned = plan(rows, delta.changes);
    if (typeof planned === "string") {
      if (planned === "damaged") this.startOver();
      return planned;
    }
    // Compare before readers see it (R49): what does not fit is never shown.
    if (!delta.hasMore && delta.digest.length > 0 && fromBytes(delta.digest) !== planned.sum) {
      this.mismatch();
      return "damaged";
    }
    for (const [key, row] of planned.edits) {
      if (row === undefined) rows.items.delete(key);
      else rows.items.set(key, row);
    }
    rows.sum = planned.sum;
    this.cursor = to;
    if (!delta.hasMore) this.arrive(to);
    return "applied";
  }

  /** The server says that the cursor is the head (R7). */
  align(head: Head): void {
    this.cursor = create(CursorSchema, { epoch: head.epoch, version: head.version });
    this.compare(head.digest);
  }

  /** At the head: a load is finished, and the digest proves the copy or not. */
  compare(digest: Uint8Array): void {
    const rows = this.staged ?? this.rows;
    if (digest.length > 0 && fromBytes(digest) !== rows.sum) this.mismatch();
    else if (this.cursor !== undefined) this.arrive(this.cursor);
  }

  /** Readers keep the old items until the next load is finished (R37). */
  startOver(reason?: string): void {
    if (reason !== undefined) this.resets.add(reason);
    this.cursor = undefined;
    this.staged = new Rows();
  }

  /** There is no such collection: the copy is empty, and has no cursor. */
  vanish(): void {
    this.startOver();
    this.rows = new Rows();
    this.shown = { epoch: 0n, version: 0n };
    this.onArrival(this);
  }

  /** The digest of what readers see, computed anew. */
  total(): bigint {
    return wrap([...this.rows.items.values()].reduce((sum, row) => sum + digestOf(row), 0n));
  }

  /** Why a delta between these places does not fit, if it does not. */
  private judge(from?: Cursor, to?: Cursor): Verdict | undefined {
    const at = this.cursor;
    if (from === undefined || to === undefined) return "broken";
    if (at === undefined) return from.version > 0n ? "gap" : undefined;
    if (from.epoch !== at.epoch || to.epoch !== at.epoch) return "gap";
    if (to.version <= at.version) return "repeat";
    if (from.version > at.version) return "gap";
    const reach = at.version > at.base ? at.version : at.base;
    // A page of somebody else's load leaves out deletes that this copy needs.
    return from.base > from.version && reach < from.base ? "gap" : undefined;
  }

  private mismatch(): void {
    this.mismatches += 1;
    this.startOver();
  }

  private arrive(at: Cursor): void {
    if (this.staged !== undefined) {
      this.rows = this.staged;
      this.staged = undefined;
    }
    if (this.shown?.epoch !== at.epoch || this.shown.version !== at.version) {
      this.shown = { epoch: at.epoch, version: at.version };
      this.onArrival(this);
    }
  }
}

/** What would be where (undefined: nothing), and the sum then. */
function plan(
  rows: Rows, changes: Change[],
): { edits: Map<string, Row | undefined>; sum: bigint } | "broken" | "damaged" {
  const edits = new Map<string, Row | undefined>();
  let sum = rows.sum;
  for (const { key, version, kind } of changes) {
    const id = bytesToHex(key);
    const old = edits.has(id) ? edits.get(id) : rows.items.get(id);
    let row: Row | undefined;
    if (kind.case === "put") {
      const { sortKey, valueVersion, valueOmitted } = kind.value;
      if (valueOmitted && old?.valueVersion !== valueVersion) return "damaged"; // R25, R26
      const value = valueOmitted && old !== undefined ? old.value : kind.value.value;
      row = { key, version, valueVersion, sortKey, value };
    } else if (kind.case === undefined) {
      return "broken";
    }
    sum += (row ? digestOf(row) : 0n) - (old ? digestOf(old) : 0n);
    edits.set(id, row);
  }
  return { edits, sum: wrap(sum) };
}

function digestOf(row: Row): bigint {
  return itemDigest(row.key, row.version, row.sortKey, row.value);
}

/** In list order: by sort key, then key, byte by byte. */
export function inOrder(one: Omit<Row, "value">, other: Omit<Row, "value">): number {
  return bytewise(one.sortKey, other.sortKey) || bytewise(one.key, other.key);
}

function bytewise(one: Uint8Array, other: Uint8Array): number {
  const differs = one.findIndex((byte, at) => byte !== other[at]);
  if (differs === -1) return one.length - other.length;
  return (one[differs] ?? 0) - (other[differs] ?? -1);
}
