// Catches copies up by pulls: many in one call, a page of each in a reply (R12 to R21).

import type { Client } from "@connectrpc/connect";
import type { Outcome, PolledHead, SyncService } from "../gen/deltasync/v1/sync_service_pb.js";
import { type Reset, ResetReason } from "../gen/deltasync/v1/types_pb.js";
import { Backoff, sleep } from "./backoff.js";
import type { Copy } from "./copy.js";

const TARGETS_MAX = 256;
export const TIMEOUT_MS = 30_000;
export const DENIED_RETRY_MS = 120_000;

/** Whether a copy has arrived, and how long to wait before the next pull. */
interface Taken {
  done: boolean;
  wait: number | "back off";
}

export class Puller {
  constructor(
    private readonly client: Client<typeof SyncService>,
    private readonly clientId: string,
    private readonly stop: AbortSignal,
  ) {}

  /**
   * Until each copy is the server's collection, or is known to be gone. `onPolled` hears of
   * collections that an inbox among them does not announce (R85).
   */
  async pull(copies: Copy[], onPolled: (head: PolledHead) => void = () => {}): Promise<void> {
    const backoff = new Backoff();
    const polledAfter = new Map<string, string>();
    let waiting = copies;
    while (waiting.length > 0) {
      const batch = waiting.slice(0, TARGETS_MAX);
      const outcomes = await this.ask(batch, polledAfter);
      const again: Copy[] = [];
      let delay = 0;
      batch.forEach((copy, index) => {
        const outcome = outcomes[index];
        if (outcome === undefined) return again.push(copy);
        const { done, wait } = take(copy, outcome);
        for (const head of outcome.polled) {
          onPolled(head);
          polledAfter.set(copy.name, head.collection);
        }
        if (!done || outcome.polledMore) again.push(copy);
        if (wait === 0) backoff.progress();
        delay = Math.max(delay, wait === "back off" ? backoff.next() : wait);
      });
      waiting = [...again, ...waiting.slice(TARGETS_MAX)];
      if (waiting.length > 0 && delay > 0) await sleep(delay, this.stop);
    }
  }

  private async ask(batch: Copy[], polledAfter: Map<string, string>): Promise<Outcome[]> {
    const targets = batch.map(({ name, cursor }) => ({
      collection: name, cursor, polledAfter: polledAfter.get(name) ?? "",
    }));
    const request = { targets, clientId: this.clientId };
    const options = { timeoutMs: TIMEOUT_MS, signal: this.stop };
    return (await this.client.pull(request, options)).outcomes;
  }
}

function take(copy: Copy, { result }: Outcome): Taken {
  switch (result.case) {
    case "aligned":
      if (result.value.head !== undefined) copy.align(result.value.head);
      return { done: copy.isLive, wait: copy.isLive ? 0 : "back off" };
    case "delta": {
      const verdict = copy.apply(result.value);
      if (verdict === "applied") return { done: copy.isLive, wait: 0 };
      if (verdict === "gap") copy.startOver();
      return { done: false, wait: "back off" };
    }
    case "reset":
      copy.startOver(reason(result.value));
      return { done: false, wait: 0 };
    case "notFound":
      copy.vanish();
      return { done: true, wait: 0 };
    case "denied": // minutes, not seconds
      return { done: false, wait: DENIED_RETRY_MS };
    case "failed":
      return { done: false, wait: Number(result.value.retryAfterMs) || "back off" };
    case "deferred":
    case undefined: // an outcome that is not known (R6)
      return { done: false, wait: "back off" };
  }
}

/** The protocol's name of a reason. */
export function reason(reset?: Reset): string {
  return ResetReason[reset?.reason ?? ResetReason.UNSPECIFIED] ?? "UNKNOWN";
}
