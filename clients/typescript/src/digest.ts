// The arithmetic that proves a copy equal to its collection (R47, R71). It runs in a browser too, whose
// own SHA-256 cannot be had without waiting.

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

export const DIGEST_BITS = 128;

export function itemDigest(
  key: Uint8Array, version: bigint, sortKey: Uint8Array, value: Uint8Array,
): bigint {
  const number = new Uint8Array(8);
  new DataView(number.buffer).setBigUint64(0, version);
  const hash = sha256.create();
  for (const field of [key, number, sortKey, value]) {
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, field.length);
    hash.update(length).update(field);
  }
  return fromBytes(hash.digest().subarray(0, 16));
}

/** The part of a collection that a key belongs to, 0..4095. */
export function segment(key: Uint8Array): number {
  return Number(fromBytes(sha256(key).subarray(0, 2))) >> 4;
}

/** What reconciliation compares values by. */
export function valueHash(value: Uint8Array): string {
  return bytesToHex(sha256(value)).slice(0, 32);
}

export function fromBytes(digest: Uint8Array): bigint {
  return BigInt(`0x${bytesToHex(digest)}`);
}

export function toHex(digest: bigint): string {
  return digest.toString(16).padStart(32, "0");
}

/** Sums and differences stay below 2^128. */
export function wrap(sum: bigint): bigint {
  return BigInt.asUintN(DIGEST_BITS, sum);
}
