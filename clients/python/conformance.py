"""The client under test of the conformance kit: ADDRESS CASE MODE NAME.

Says in a JSON line where a copy stands each time it is caught up, and at the end of its input what
it has met (conformance/README.md).
"""

import json
import os
import sys
import threading

from deltasync_client.consumer import Consumer
from deltasync_client.copy import Copy
from deltasync_client.digest import MODULUS
from deltasync_client.door import connect
from deltasync_client.follower import Follower, Session, Stopped
from deltasync_client.inbox import Account
from deltasync_client.puller import Puller
from deltasync_client.refusal import Refused
from deltasync_client.window import Window
from deltasync_client.wire import sync_rpc, write_rpc
from deltasync_client.writer import bulk_load, commit, put

WRITTEN = 10
IMPORTED, IMPORTED_BYTES = 8, 700_000
ROWS = 10


def say(**line):
    print(json.dumps(line), flush=True)


def arrived(copy: Copy):
    """Tells the digest of what readers see, computed anew."""
    total = sum(row.digest(key) for key, row in copy.rows.items.items()) % MODULUS
    epoch, version = copy.shown
    say(at={"collection": copy.name, "epoch": str(epoch), "version": str(version),
            "items": len(copy.rows.items), "digest": f"{total:032x}"})


def refusal(refused: Refused | None):
    """What can be read in a refusal."""
    if refused is None:
        return None
    told = refused.refusal
    return {"code": told.code.name, "reason": told.reason, "fields": told.fields,
            "quotas": [whose for whose, _ in told.quotas]}


def write(stub, name: str, wait):
    for number in range(WRITTEN):
        item = put(name, f"item {number}".encode(), f"value {number}".encode())
        try:
            commit(stub, [item], wait)
        except Refused as refused:
            return say(done={"acknowledged": number, "refused": refusal(refused)})
    say(done={"acknowledged": WRITTEN})


def load(stub, case: str, name: str, wait):
    commits = [
        [put(name, f"item {n}".encode(), f"value {n} ".encode().ljust(IMPORTED_BYTES, b"."))]
        for n in range(1, IMPORTED + 1)
    ]
    try:
        say(done={"acknowledged": bulk_load(stub, case, commits, wait)})
    except Refused as refused:
        say(done={"acknowledged": refused.durable, "refused": refusal(refused)})


def resume(stub, case: str, name: str, wait):
    def took(delta, anew):
        keys = {"put": [], "gone": []}
        for change in delta.changes:
            kind = "put" if change.WhichOneof("kind") == "put" else "gone"
            keys[kind].append(change.key.decode())
        say(took={"anew": anew, **keys})

    refused = None
    try:
        Consumer(stub, wait, case, name, took).catch_up()
    except Refused as error:
        refused = error
    say(done={"refused": refusal(refused)})


def window_arrived(window: Window):
    epoch, version = window.shown
    say(at={"collection": window.collection, "epoch": str(epoch), "version": str(version),
            "items": len(window.rows), "digest": f"{window.digest():032x}"})


def main(address: str, case: str, mode: str, name: str):
    told = os.environ
    channel = connect(address, told.get("DELTASYNC_CA_FILE"), told.get("DELTASYNC_TOKEN"))
    stop = threading.Event()

    def wait(seconds: float):
        if stop.wait(seconds):
            raise Stopped

    if mode == "write":
        return write(write_rpc.WriteServiceStub(channel), name, wait)
    if mode == "import":
        return load(write_rpc.WriteServiceStub(channel), case, name, wait)
    stub = sync_rpc.SyncServiceStub(channel)
    if mode == "resume":
        return resume(stub, case, name, wait)
    puller = Puller(stub, wait, case)
    met = []  # every copy that there was

    def remember(copy):
        if copy not in met:
            met.append(copy)
        arrived(copy)

    if mode == "follow":
        copy = Copy(name, remember)
        met.append(copy)
        session = Session(lambda: puller.pull([copy]), Follower(stub, [copy], case), stop)
    elif mode == "window":
        window = Window(stub, case, name, ROWS, window_arrived)
        session = Session(window.list, window, stop)
    else:
        account = Account(name, puller, remember)
        follower = Follower(stub, [account.inbox], case, account.on_notice,
                            lambda _inbox: account.catch_up())
        met.append(account.inbox)
        session = Session(account.pull, follower, stop)
    working = threading.Thread(target=session.run)
    working.start()
    sys.stdin.read()
    session.end()
    working.join()
    resets = sorted({reason for copy in met for reason in copy.resets})
    say(done={"resets": resets, "mismatches": sum(copy.mismatches for copy in met)})


if __name__ == "__main__":
    main(*sys.argv[1:5])
