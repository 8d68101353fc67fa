// The first rows of a list that is too large to be copied, kept right (R63 to R68, R100 to R108).

import { create } from "@bufbuild/protobuf";
import { bytesToHex, concatBytes, hexToBytes, utf8ToBytes } from "@noble/hashes/utils.js";
import { type Client, Code, ConnectError } from "@connectrpc/connect";
import {
  ListOrder, Plan, type SubscribeResponse, type SyncService,
} from "../gen/deltasync/v1/sync_service_pb.js";
import { type Cursor, CursorSchema, type Delta, type Item } from "../gen/deltasync/v1/types_pb.js";
import { inOrder, type Place, type Row } from "./copy.js";
import { itemDigest, toHex } from "./digest.js";
import { goodbyeWait, heard, HEARTBEAT_MS, type Next, run } from "./follower.js";
import { DENIED_RETRY_MS, TIMEOUT_MS } from "./puller.js";

/** In windows: rows that are held. What goes is replaced at once. */
const RESERVE = 2;
/** In windows: with more rows than this the stretch is chosen anew. */
const HELD_MAX = 4;
/** After a longer absence the list is read anew, which costs less (R103). */
const CHANGES_MAX = 1_000n;

/** A row whose content is fetched when it is shown. */
type Held = Omit<Row, "value"> & { value: Uint8Array | undefined };

/**
 * Keys and places of a stretch from the beginning of the list on, by a stream; contents of what is
 * shown, by key, when they are needed. `onArrival` is called when both are of one version.
 */
export class Window {
  shown: Place | undefined;
  moved = false;
  private held = new Map<string, Held>();
  private cursor: Cursor | undefined;
  /** The first place behind the stretch; undefined: it ends with the list. */
  private end: { sortKey: Uint8Array; key: Uint8Array } | undefined;
  /** The listing is a state of the collection from this version on. */
  private completeFrom = 0n;

  constructor(
    private readonly client: Client<typeof SyncService>,
    private readonly clientId: string,
    readonly collection: string,
    private readonly size: number,
    private readonly stop: AbortSignal,
    private readonly onArrival: (window: Window) => void,
  ) {}

  /** What is shown, in list order. */
  get rows(): Held[] {
    return [...this.held.values()].sort(inOrder).slice(0, this.size);
  }

  /** Of the rows in their order: that of an item that is made of theirs. */
  digest(): string {
    if (this.cursor === undefined) return toHex(0n);
    const digests = this.rows.map(({ key, version, sortKey, value }) => (
      hexToBytes(toHex(itemDigest(key, version, sortKey, value ?? new Uint8Array())))
    ));
    const none = new Uint8Array();
    const all = concatBytes(...digests);
    return toHex(itemDigest(utf8ToBytes("window"), this.cursor.version, none, all));
  }

  /** Lists and follows in turn until the client is to end. */
  run(): Promise<void> {
    return run(this, () => this.list(), () => this.follow(), this.stop);
  }

  /** Reads the stretch, unless its cursor can be continued. */
  private async list(): Promise<void> {
    if (this.cursor !== undefined) return;
    try {
      await this.readList();
    } catch (error) {
      if (ConnectError.from(error).code !== Code.NotFound) throw error;
      this.vanish();
    }
  }

  private async readList(): Promise<void> {
    const wanted = RESERVE * this.size + 1;
    const items: Item[] = [];
    let first: Cursor | undefined;
    let pageToken: Uint8Array = new Uint8Array();
    do {
      const page = await this.client.listItems({
        collection: this.collection, order: ListOrder.SORT_KEY, keysOnly: true,
        pageSize: wanted - items.length, pageToken,
      }, { timeoutMs: TIMEOUT_MS, signal: this.stop });
      items.push(...page.items);
      const { epoch, version } = page.head ?? { epoch: 0n, version: 0n };
      // What was listed is caught up from the head of the first page (R104).
      first ??= create(CursorSchema, { epoch, version });
      this.completeFrom = version;
      pageToken = page.nextPageToken;
    } while (pageToken.length > 0 && items.length < wanted);
    // Up to before the last one that was read.
    const behind = pageToken.length > 0 ? items.pop() : undefined;
    this.end = behind && { sortKey: behind.sortKey, key: behind.key };
    const before = this.held;
    this.held = new Map();
    for (const item of items) this.put(before, item);
    this.cursor = first;
  }

  /** Takes a row, with the content that was known of it. */
  private put(before: Map<string, Held>, row: Omit<Row, "value">): void {
    const { key, version, valueVersion, sortKey } = row;
    const id = bytesToHex(key);
    const old = before.get(id);
    const value = old?.valueVersion === valueVersion ? old.value : undefined;
    this.held.set(id, { key, version, valueVersion, sortKey, value });
  }

  private async follow(): Promise<number | "back off"> {
    const { collection, cursor } = this;
    const target = cursor === undefined
      ? { collection, notifyOnly: true } // until there is such a collection
      : {
        collection, cursor, keysOnly: true, maxChanges: CHANGES_MAX,
        scope: {
          part: {
            case: "order" as const,
            value: this.end === undefined ? {} : { to: this.end },
          },
        },
      };
    const request = { targets: [target], clientId: this.clientId, heartbeatMs: HEARTBEAT_MS };
    return heard(this.client, request, this.stop, (said) => this.take(said));
  }

  private async take(said: SubscribeResponse): Promise<Next> {
    const { message } = said;
    if (message.case === "goodbye") return goodbyeWait(message.value);
    if (message.case === "failed") return Number(message.value.failure?.retryAfterMs ?? 0);
    if (message.case === "revoked") return DENIED_RETRY_MS;
    if (await this.goesOn(said)) return "go on";
    this.cursor = undefined;
    return 0;
  }

  /** Whether the stretch can be continued. */
  private async goesOn({ message }: SubscribeResponse): Promise<boolean> {
    const target = message.case === "accepted" ? message.value.targets[0] : undefined;
    const plan = target?.plan;
    if (this.cursor === undefined) {
      return message.case !== "notice" && target?.head === undefined; // else it was created
    }
    switch (message.case) {
      case "accepted":
        return plan === Plan.LIVE ? this.arrive() : plan === Plan.CATCH_UP;
      case "changes":
        return message.value.delta !== undefined && this.apply(this.cursor, message.value.delta);
      case "caughtUp":
        return this.moveTo(message.value.cursor);
      case "bookmark": // changes elsewhere move the cursor without a delta (R42)
        for (const { cursor } of message.value.positions) {
          if (!(await this.moveTo(cursor))) return false;
        }
        return true;
      case "reset":
      case "absent":
        return false;
      default: // lagging, or something that a newer server says (R6)
        return true;
    }
  }

  private async apply(at: Cursor, { from, to, changes, hasMore }: Delta): Promise<boolean> {
    if (from?.epoch !== at.epoch || to?.epoch !== at.epoch) return false; // another life
    if (from.version > at.version) return false; // a gap
    if (to.version <= at.version) return true; // a repeat
    for (const { key, version, kind } of changes) {
      if (kind.case === undefined) return false; // a change that this client does not know (R6)
      if (kind.case === "put") this.put(this.held, { key, version, ...kind.value });
      else this.held.delete(bytesToHex(key));
    }
    this.cursor = to;
    this.moved = true;
    return hasMore || this.arrive();
  }

  private async moveTo(to?: Cursor): Promise<boolean> {
    if (to === undefined || to.epoch !== this.cursor?.epoch) return false;
    if (to.version >= this.cursor.version) this.cursor = to;
    return this.arrive();
  }

  /** At the head. `false`: the stretch has too few rows now, or too many. */
  private async arrive(): Promise<boolean> {
    const { cursor } = this;
    if (cursor === undefined || cursor.version < this.completeFrom) return true;
    const few = this.end !== undefined && this.held.size < this.size;
    if (few || this.held.size > HELD_MAX * this.size) return false;
    await this.fetch();
    if (this.rows.every(({ value }) => value !== undefined)) this.show(cursor);
    return true;
  }

  private vanish(): void {
    this.held = new Map();
    this.cursor = undefined;
    this.show({ epoch: 0n, version: 0n });
  }

  private show({ epoch, version }: Place): void {
    if (this.shown?.epoch === epoch && this.shown.version === version) return;
    this.shown = { epoch, version };
    this.onArrival(this);
  }

  /** Contents of what is shown. What has moved on meanwhile comes by the stream, and again here. */
  private async fetch(): Promise<void> {
    let keys = this.rows.filter(({ value }) => value === undefined).map(({ key }) => key);
    while (keys.length > 0) {
      const options = { timeoutMs: TIMEOUT_MS, signal: this.stop };
      const { results } = await this.client.getItems({ collection: this.collection, keys }, options);
      for (const { result } of results) {
        if (result.case !== "found") continue;
        const row = this.held.get(bytesToHex(result.value.key));
        if (row?.valueVersion === result.value.valueVersion) row.value = result.value.value;
      }
      keys = keys.slice(Math.max(results.length, 1)); // a reply ends at 1 MiB (R67)
    }
  }
}
