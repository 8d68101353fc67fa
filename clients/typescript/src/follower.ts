// Keeps copies live on a stream (R38 to R45).

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import {
  type AcceptedTarget, type Goodbye, type Notice, Plan, type Position, type SubscribeRequestSchema,
  type SubscribeResponse, type SyncService,
} from "../gen/deltasync/v1/sync_service_pb.js";
import { Backoff, sleep } from "./backoff.js";
import type { Copy } from "./copy.js";
import { DENIED_RETRY_MS, reason } from "./puller.js";
import { Refusal } from "./refusal.js";

export const HEARTBEAT_MS = 15_000;
const ACCEPT_WITHIN_MS = 20_000;

/** What a stream's message means for the stream: it goes on, or is over and what to wait then. */
export type Next = "go on" | number | "back off";

export class Follower {
  /** Hears of collections that an inbox does not announce. */
  onNotice: (notice: Notice) => Promise<void> = async () => {};
  /** Called when a delta has been applied and the copy is live. */
  after: (copy: Copy) => Promise<void> = async () => {};
  moved = false;

  constructor(
    private readonly client: Client<typeof SyncService>,
    private readonly clientId: string,
    private readonly copies: Copy[],
    private readonly stop: AbortSignal,
  ) {}

  /** Pulls and follows in turn until the client is to end. */
  async run(pull: () => Promise<void>): Promise<void> {
    return run(this, pull, () => this.follow(), this.stop);
  }

  private async follow(): Promise<number | "back off"> {
    const targets = this.copies.map(({ name, cursor }) => ({ collection: name, cursor }));
    const request = { targets, heartbeatMs: HEARTBEAT_MS, clientId: this.clientId };
    return heard(this.client, request, this.stop, (said) => this.take(said));
  }

  private async take({ message }: SubscribeResponse): Promise<Next> {
    switch (message.case) {
      case "accepted":
        return message.value.targets.every((target) => this.accepted(target)) ? "go on" : 0;
      case "changes": {
        const copy = this.copy(message.value.collection);
        const verdict = message.value.delta && copy?.apply(message.value.delta);
        if (copy === undefined || (verdict !== "applied" && verdict !== "repeat")) return 0;
        this.moved ||= verdict === "applied";
        if (copy.isLive) await this.after(copy);
        return "go on";
      }
      case "bookmark":
        return message.value.positions.every((place) => this.marked(place)) ? "go on" : 0;
      case "notice":
        await this.onNotice(message.value);
        return "go on";
      case "absent":
        this.copy(message.value.collection)?.vanish();
        return "go on";
      case "reset":
        this.copy(message.value.collection)?.startOver(reason(message.value.reset));
        return 0;
      case "revoked": // the pull says so again, and waits
        return 0;
      case "failed":
        return Number(message.value.failure?.retryAfterMs ?? 0) || "back off";
      case "goodbye":
        return goodbyeWait(message.value);
      case "lagging":
      case "caughtUp":
      case undefined: // something that a newer server says (R6)
        return "go on";
    }
  }

  /** Whether the stream goes on. */
  private accepted(target: AcceptedTarget): boolean {
    const copy = this.copy(target.collection);
    switch (target.plan) {
      case Plan.LIVE:
        if (target.head !== undefined) copy?.compare(target.head.digest);
        return copy?.isLive ?? false;
      case Plan.RESET:
        copy?.startOver(reason(target.reset));
        return false;
      case Plan.ABSENT:
        copy?.vanish();
        return true;
      case Plan.DENIED:
        return false;
      default:
        return true;
    }
  }

  /** Whether the stream goes on: no push was lost, and the digest fits (R42). */
  private marked({ collection, cursor: there, digest }: Position): boolean {
    const copy = this.copy(collection);
    const here = copy?.cursor;
    if (copy === undefined || here === undefined || there === undefined) return false;
    if (there.epoch !== here.epoch || there.version > here.version) return false;
    if (there.version === here.version && here.base === 0n) {
      copy.compare(digest);
      return copy.isLive;
    }
    return true;
  }

  private copy(name: string): Copy | undefined {
    return this.copies.find((copy) => copy.name === name);
  }
}

/** Pulls, or lists, and follows in turn until the client is to end. */
export async function run(
  follower: { moved: boolean },
  pull: () => Promise<void>,
  follow: () => Promise<number | "back off">,
  stop: AbortSignal,
): Promise<void> {
  const backoff = new Backoff();
  let hurried = false;
  while (!stop.aborted) {
    let wait: number | "back off" = "back off";
    let refusal: Refusal | undefined;
    try {
      await pull();
      wait = await follow();
    } catch (error) {
      if (stop.aborted) return;
      console.error(String(error));
      refusal = Refusal.of(error);
    }
    if (follower.moved) {
      follower.moved = hurried = false;
      backoff.progress();
    }
    if (refusal !== undefined) wait = waitAfter(refusal, backoff);
    // What did not help is no hurry (R37).
    const pause: number = wait === "back off" || (wait === 0 && hurried) ? backoff.next() : wait;
    hurried = pause === 0;
    await sleep(pause, stop).catch(() => undefined); // it is the loop that ends
  }
}

/** How long to stay away after a refusal: as the server asks, and a random part (R128). */
function waitAfter({ mayPass, askedWaitMs }: Refusal, backoff: Backoff): number | "back off" {
  // As after Denied: somebody must do something first (R127).
  if (!mayPass) return DENIED_RETRY_MS;
  return askedWaitMs === undefined ? "back off" : askedWaitMs + backoff.next();
}

/** Hands on what a stream says until that is over, it ends, or is silent for too long (R41). */
export async function heard(
  client: Client<typeof SyncService>,
  request: MessageInitShape<typeof SubscribeRequestSchema>,
  stop: AbortSignal,
  take: (said: SubscribeResponse) => Promise<Next>,
): Promise<number | "back off"> {
  const ended = new AbortController();
  const signal = AbortSignal.any([stop, ended.signal]);
  let patience = ACCEPT_WITHIN_MS;
  const listen = () => setTimeout(() => ended.abort(new Error("silence")), patience);
  let silence = listen();
  try {
    for await (const said of client.subscribe(request, { signal })) {
      clearTimeout(silence);
      if (said.message.case === "accepted") patience = 3 * said.message.value.heartbeatMs;
      silence = listen();
      const next = await take(said);
      if (next !== "go on") return next;
    }
  } finally {
    clearTimeout(silence);
    ended.abort();
  }
  return "back off";
}

/** As long as the server says, and a random part (R44). */
export function goodbyeWait({ retryAfterMs, jitterMs }: Goodbye): number {
  return Number(retryAfterMs) + Math.random() * Number(jitterMs);
}
