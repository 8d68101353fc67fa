// What a refusal tells, and what becomes of it (R128).

import { equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  BadRequestSchema, ErrorInfoSchema, QuotaFailureSchema, RetryInfoSchema,
} from "../gen/google/rpc/error_details_pb.js";
import { Refusal, repeat } from "./refusal.js";

type Details = NonNullable<ConstructorParameters<typeof ConnectError>[3]>;

function refused(code: Code, reason: string, ...more: Details): ConnectError {
  const info = { desc: ErrorInfoSchema, value: { reason, domain: "deltasync.v1" } };
  return new ConnectError("no", code, undefined, [info, ...more]);
}

/** The waits between calls that always fail so. */
async function waits(error: ConnectError): Promise<number[]> {
  const waited: number[] = [];
  const call = () => repeat(() => Promise.reject(error), new AbortController().signal, async (ms) => {
    waited.push(ms);
  });
  await rejects(call, Refusal);
  return waited;
}

test("a quota of bytes is not asked for again, and is named", async () => {
  const violations = [{ subject: "below:users/alice", description: "stored_bytes: 9 bytes" }];
  const quota = { desc: QuotaFailureSchema, value: { violations } };
  const error = refused(Code.ResourceExhausted, "STORED_BYTES", quota);
  equal((await waits(error)).length, 0);
  for (const word of ["STORED_BYTES", "below:users/alice", "9 bytes"]) {
    ok(Refusal.of(error).message.includes(word), word);
  }
});

test("retries wait as they are asked to, not all alike, and end", async () => {
  const retry = { desc: RetryInfoSchema, value: { retryDelay: { seconds: 0n, nanos: 700_000_000 } } };
  const waited = await waits(refused(Code.ResourceExhausted, "COMMIT_RATE", retry));
  equal(waited.length, 11);
  ok(waited.every((wait) => wait >= 700 && wait <= 30_700), String(waited));
  ok(new Set(waited).size > 1, "there is no jitter");
});

test("a field that is wrong is named, and the call is not sent again", async () => {
  const fieldViolations = [{ field: "mutations[3].value", description: "is too large" }];
  const wrong = { desc: BadRequestSchema, value: { fieldViolations } };
  const error = refused(Code.InvalidArgument, "MALFORMED", wrong);
  equal((await waits(error)).length, 0);
  equal(Refusal.of(error).fields.join(), "mutations[3].value");
});

test("what the transport says has no details, and may pass", () => {
  for (const code of [Code.Unavailable, Code.ResourceExhausted]) {
    ok(Refusal.of(new ConnectError("gone", code)).mayPass);
  }
});
