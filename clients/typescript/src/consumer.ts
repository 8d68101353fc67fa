// Hands changes on and keeps no copy: the server holds the place (R110 to R116).

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import type { Outcome, SyncService } from "../gen/deltasync/v1/sync_service_pb.js";
import type { CursorSchema, Delta, TargetSchema } from "../gen/deltasync/v1/types_pb.js";
import { Backoff, sleep } from "./backoff.js";
import { DENIED_RETRY_MS, TIMEOUT_MS } from "./puller.js";
import { repeat } from "./refusal.js";

export class Consumer {
  /**
   * `handOn` has done its work, durably, when it returns. `anew`: what comes, up to the last page, is
   * all that there is; what it does not mention does not exist. A consumer that dies before its ack is
   * handed the same again.
   */
  constructor(
    private readonly client: Client<typeof SyncService>,
    private readonly clientId: string,
    private readonly collection: string,
    private readonly stop: AbortSignal,
    private readonly handOn: (delta: Delta, anew: boolean) => Promise<void>,
  ) {}

  /**
   * Takes everything behind the last ack; `false`: there is no such collection. A `Refusal`: by the
   * server, for good; also an ack that it does not take (R112).
   */
  async catchUp(): Promise<boolean> {
    const { collection } = this;
    const backoff = new Backoff();
    let anew = false;
    let target: MessageInitShape<typeof TargetSchema> = { collection, fromLastAck: true };
    for (;;) {
      const result: Outcome["result"] | undefined = (await this.pull(target))?.result;
      let wait = 0;
      switch (result?.case) {
        case "delta": {
          const delta: Delta = result.value;
          anew ||= delta.initial && delta.from?.version === 0n;
          await this.handOn(delta, anew);
          // A load counts when it is whole.
          if (delta.to !== undefined && !(anew && delta.hasMore)) await this.ack(delta.to);
          if (!delta.hasMore) return true;
          target = { collection, cursor: delta.to };
          backoff.progress();
          continue;
        }
        case "aligned": {
          const { epoch, version } = result.value.head ?? { epoch: 0n, version: 0n };
          await this.ack({ epoch, version });
          return true;
        }
        case "reset": // what is held cannot be continued: without it, from the start
          target = { collection };
          anew = true;
          continue;
        case "notFound":
          return false;
        case "denied":
          wait = DENIED_RETRY_MS;
          break;
        case "failed":
          wait = Number(result.value.retryAfterMs);
          break;
        case "deferred":
        case undefined: // an outcome that is not known (R6)
          break;
      }
      await sleep(wait + backoff.next(), this.stop);
    }
  }

  private async pull(
    target: MessageInitShape<typeof TargetSchema>,
  ): Promise<Outcome | undefined> {
    const request = { targets: [target], clientId: this.clientId };
    const options = { timeoutMs: TIMEOUT_MS, signal: this.stop };
    return (await repeat(() => this.client.pull(request, options), this.stop)).outcomes[0];
  }

  private async ack(cursor: MessageInitShape<typeof CursorSchema>): Promise<void> {
    const request = { clientId: this.clientId, acked: [{ collection: this.collection, cursor }] };
    const options = { timeoutMs: TIMEOUT_MS, signal: this.stop };
    await repeat(() => this.client.ack(request, options), this.stop);
  }
}
