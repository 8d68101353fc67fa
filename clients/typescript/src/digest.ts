// The arithmetic that proves a copy equal to its collection (R47, R71).

import { createHash } from "node:crypto";

export const DIGEST_BITS = 128;

export function itemDigest(
  key: Uint8Array, version: bigint, sortKey: Uint8Array, value: Uint8Array,
): bigint {
  const number = Buffer.alloc(8);
  number.writeBigUInt64BE(version);
  const hash = createHash("sha256");
  for (const field of [key, number, sortKey, value]) {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(field.length);
    hash.update(length).update(field);
  }
  return fromBytes(hash.digest().subarray(0, 16));
}

/** The part of a collection that a key belongs to, 0..4095. */
export function segment(key: Uint8Array): number {
  return createHash("sha256").update(key).digest().readUInt16BE(0) >> 4;
}

/** What reconciliation compares values by. */
export function valueHash(value: Uint8Array): string {
  return createHash("sha256").update(value).digest("hex").slice(0, 32);
}

export function fromBytes(digest: Uint8Array): bigint {
  return BigInt(`0x${Buffer.from(digest).toString("hex")}`);
}

export function toHex(digest: bigint): string {
  return digest.toString(16).padStart(32, "0");
}

/** Sums and differences stay below 2^128. */
export function wrap(sum: bigint): bigint {
  return BigInt.asUintN(DIGEST_BITS, sum);
}
