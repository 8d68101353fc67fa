"""The arithmetic that proves a copy equal to its collection (R47, R71)."""

import hashlib

MODULUS = 2**128


def item_digest(key: bytes, version: int, sort_key: bytes, value: bytes) -> int:
    fields = (key, version.to_bytes(8, "big"), sort_key, value)
    text = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "big")


def segment(key: bytes) -> int:
    return int.from_bytes(hashlib.sha256(key).digest()[:2], "big") >> 4


def value_hash(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()[:16]
