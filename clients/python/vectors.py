"""Compares the golden vectors of proto/vectors with what this client computes."""

import json

from deltasync_client.copy import Copy, Verdict
from deltasync_client.digest import MODULUS, item_digest, segment, value_hash
from deltasync_client.wire import ROOT, types

VECTORS = ROOT / "proto" / "vectors"
RECONCILED = 2_000  # items of the collection that reconcile.json tells of


def load(name: str):
    return json.loads((VECTORS / f"{name}.json").read_text())


def equal(what, found, told):
    if found != told:
        raise SystemExit(f"{what}: {found!r} is not {told!r}")


def digests():
    vectors, found = load("digest"), {}
    for item in vectors["items"]:
        key, sort_key, value = (bytes.fromhex(item[f]) for f in ("key", "sort_key", "value"))
        found[item["name"]] = item_digest(key, int(item["version"]), sort_key, value)
        equal(item["name"], f"{found[item['name']]:032x}", item["item_digest"])
        equal(item["name"], segment(key), item["segment"])
        equal(item["name"], segment(key) // 64, item["group"])
    for collection in vectors["collections"]:
        total = sum(found[name] for name in collection["items"]) % MODULUS
        equal(collection["name"], f"{total:032x}", collection["digest"])


def sums():
    vectors, leaves = load("reconcile"), {}
    for n in range(RECONCILED):
        key, sort_key, value = f"item {n}".encode(), str(n % 7).encode(), f"value {n}".encode()
        leaves.setdefault(segment(key), []).append((key, n + 1, sort_key, value))

    def total(segments):
        items = [item for s in segments for item in leaves.get(s, [])]
        return f"{sum(item_digest(*item) for item in items) % MODULUS:032x}"

    groups = [total(range(64 * g, 64 * g + 64)) for g in range(64)]
    equal("group sums", groups, vectors["group_sums"])
    first = 64 * vectors["leaf_sums"]["group"]
    equal("leaf sums", [total([s]) for s in range(first, first + 64)], vectors["leaf_sums"]["sums"])
    entries = [
        {"key": key.hex(), "version": str(version), "value_hash": value_hash(value).hex(),
         "sort_key": sort_key.hex(), "value_size": len(value)}
        for key, version, sort_key, value in sorted(leaves[vectors["entries"]["segment"]])
    ]
    equal("entries", entries, vectors["entries"]["entries"])


def cursors():
    for told in load("cursors")["cursors"]:
        cursor = types.Cursor.FromString(bytes.fromhex(told["encoded"]))
        equal(told["name"], place(cursor), {f: told[f] for f in ("epoch", "version", "base")})
        equal(told["name"], cursor.SerializeToString().hex(), told["encoded"])


def pages():
    for told in load("pages")["copies"]:
        copy = Copy(told["name"])
        for page in told["pages"]:
            delta = types.Delta.FromString(bytes.fromhex(page["delta"]))
            equal(told["name"], len(delta.changes), page["changes"])
            verdict = copy.apply(delta)
            equal(told["name"], verdict.name.lower(), page["verdict"])
            if verdict is Verdict.APPLIED:
                equal(told["name"], place(copy.cursor), page["to"])
            if verdict is Verdict.APPLIED and page["arrived"] is not None:
                equal(told["name"], copy.is_live, True)
                equal(told["name"], len(copy.rows.items), page["arrived"]["items"])
                equal(told["name"], f"{copy.rows.sum:032x}", page["arrived"]["digest"])


def place(cursor):
    return {f: str(getattr(cursor, f)) for f in ("epoch", "version", "base")}


if __name__ == "__main__":
    for check in (digests, sums, cursors, pages):
        check()
    print("the vectors hold")
