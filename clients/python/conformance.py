"""The client under test of the conformance kit: ADDRESS CASE follow|inbox|write NAME.

Says in a JSON line where a copy stands each time it is caught up, and at the end of its input what
it has met (conformance/README.md).
"""

import json
import sys
import threading

import grpc

from deltasync_client.copy import Copy
from deltasync_client.digest import MODULUS
from deltasync_client.follower import Follower, Session, Stopped
from deltasync_client.inbox import Account
from deltasync_client.puller import Puller
from deltasync_client.wire import sync_rpc, write_rpc
from deltasync_client.writer import commit, put

WRITTEN = 10


def say(**line):
    print(json.dumps(line), flush=True)


def arrived(copy: Copy):
    """Tells the digest of what readers see, computed anew."""
    total = sum(row.digest(key) for key, row in copy.rows.items.items()) % MODULUS
    epoch, version = copy.shown
    say(at={"collection": copy.name, "epoch": str(epoch), "version": str(version),
            "items": len(copy.rows.items), "digest": f"{total:032x}"})


def main(address: str, case: str, mode: str, name: str):
    channel = grpc.insecure_channel(address)
    stop = threading.Event()

    def wait(seconds: float):
        if stop.wait(seconds):
            raise Stopped

    if mode == "write":
        stub = write_rpc.WriteServiceStub(channel)
        for number in range(WRITTEN):
            item = put(name, f"item {number}".encode(), f"value {number}".encode())
            commit(stub, [item], wait)
        return say(done={"acknowledged": WRITTEN})

    stub = sync_rpc.SyncServiceStub(channel)
    puller = Puller(stub, wait, case)
    met = []  # every copy that there was

    def remember(copy):
        if copy not in met:
            met.append(copy)
        arrived(copy)

    if mode == "follow":
        copy = Copy(name, remember)
        session = Session(lambda: puller.pull([copy]), Follower(stub, [copy], case), stop)
    else:
        account = Account(name, puller, remember)
        follower = Follower(stub, [account.inbox], case, account.on_notice,
                            lambda _inbox: account.catch_up())
        session = Session(account.pull, follower, stop)
    met.append(copy if mode == "follow" else account.inbox)
    working = threading.Thread(target=session.run)
    working.start()
    sys.stdin.read()
    session.end()
    working.join()
    resets = sorted({reason for copy in met for reason in copy.resets})
    say(done={"resets": resets, "mismatches": sum(copy.mismatches for copy in met)})


if __name__ == "__main__":
    main(*sys.argv[1:5])
