// Why a call did not succeed, read from the google.rpc details of its status (R128), and retries.

import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  BadRequestSchema, ErrorInfoSchema, QuotaFailureSchema, RetryInfoSchema,
} from "../gen/google/rpc/error_details_pb.js";
import { Backoff, sleep } from "./backoff.js";

const DOMAIN = "deltasync.v1";
/** Longer waits are mistakes. */
const ASKED_WAIT_MAX_MS = 60 * 60 * 1000;
/** About a minute and a half; then somebody should know. */
const ATTEMPTS_MAX = 12;
const MAY_PASS = new Set([
  Code.Unavailable, Code.Unknown, Code.Canceled, Code.DeadlineExceeded, Code.Internal,
]);

/** A quota that is used up. */
export interface UsedUp {
  /** Whose it is: a principal, a collection, the names below one. */
  whose: string;
  /** Which it is, and its limit. */
  limit: string;
}

/** A call that is of no use to repeat, or was repeated often enough. */
export class Refusal extends Error {
  constructor(
    readonly code: Code,
    readonly text: string,
    /** The word to decide by; empty: it did not come from the server. */
    readonly reason: string,
    /** Paths of what is wrong in the request. */
    readonly fields: string[],
    readonly quotas: UsedUp[],
    /** The server asks to stay away for at least so long. */
    readonly askedWaitMs: number | undefined,
  ) {
    const usedUp = quotas.map(({ whose, limit }) => `; used up: ${whose}, ${limit}`);
    super(`${Code[code]} ${reason}: ${text}${usedUp.join("")}`);
    this.name = "Refusal";
  }

  static of(error: unknown): Refusal {
    if (error instanceof Refusal) return error;
    const told = ConnectError.from(error);
    const info = told.findDetails(ErrorInfoSchema).find(({ domain }) => domain === DOMAIN);
    const delay = told.findDetails(RetryInfoSchema)[0]?.retryDelay;
    const asked = delay && Math.min(Math.max(durationMs(delay), 0), ASKED_WAIT_MAX_MS);
    const wrong = told.findDetails(BadRequestSchema).flatMap((one) => one.fieldViolations);
    const quotas = told.findDetails(QuotaFailureSchema).flatMap((one) => one.violations);
    return new Refusal(
      told.code, told.rawMessage, info?.reason ?? "", wrong.map(({ field }) => field),
      quotas.map(({ subject, description }) => ({ whose: subject, limit: description })), asked,
    );
  }

  /** Whether the same call may succeed later, without anybody doing anything. */
  get mayPass(): boolean {
    if (this.code === Code.ResourceExhausted) {
      // A quota of bytes does not pass by itself: it says why, and nothing of when.
      return this.askedWaitMs !== undefined || this.reason === "";
    }
    return MAY_PASS.has(this.code);
  }
}

/** Calls until it succeeds; a `Refusal` when that is hopeless, or after so many attempts. */
export async function repeat<T>(
  call: () => Promise<T>, stop: AbortSignal, wait: typeof sleep = sleep,
): Promise<T> {
  const backoff = new Backoff();
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call();
    } catch (error) {
      if (stop.aborted) throw error;
      const refusal = Refusal.of(error);
      if (!refusal.mayPass || attempt === ATTEMPTS_MAX) throw refusal;
      // The random part on top: not all who were sent away come back together.
      await wait((refusal.askedWaitMs ?? 0) + backoff.next(), stop);
    }
  }
}
