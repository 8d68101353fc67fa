"""The page's client under test of the conformance kit: DIRECTORY ADDRESS CASE MODE NAME.

It only follows. What it does is its own; here is told what it met (conformance/README.md).
"""

import json
import os
import sys
import threading

import grpc
import page
from deltasync_client.digest import MODULUS, item_digest

client = page.client(sys.argv[1])


def say(**line):
    print(json.dumps(line), flush=True)


class Told(client.Replica):
    """Says where it stands whenever that is another place, and remembers resets and wrong digests."""

    def __init__(self, stub, name, client_id):
        self.resets, self.mismatches, self.shown = set(), 0, None
        self.pulls = stub.Pull
        stub.Pull = self.heard_pull
        super().__init__(stub, name, client_id)

    def arrive(self, digest):
        right = super().arrive(digest)
        if right:
            self.show(self.cursor.epoch, self.cursor.version)
        else:
            self.mismatches += 1
        return right

    def vanish(self):
        super().vanish()
        self.show(0, 0)

    def show(self, *place):
        if place == self.shown:
            return
        self.shown = place
        digests = (item_digest(key, *row[:3]) for key, row in self.items.items())
        say(at={"collection": self.name, "epoch": str(place[0]), "version": str(place[1]),
                "items": len(self.items), "digest": f"{sum(digests) % MODULUS:032x}"})

    def heard_pull(self, request, timeout):
        response = self.pulls(request, timeout=timeout)
        self.note(response.outcomes[0])
        return response

    def hear(self, message):
        self.note(message.reset)
        for target in message.accepted.targets:
            self.note(target)
        return super().hear(message)

    def note(self, told):
        if told.HasField("reset"):
            name = client.types.ResetReason.Name(told.reset.reason)
            self.resets.add(name.removeprefix("RESET_REASON_"))


def main(address, case, mode, name):
    if mode != "follow":
        raise SystemExit(f"the client of the page only follows, and this is {mode}")
    stub = client.sync_service_pb2_grpc.SyncServiceStub(grpc.insecure_channel(address))
    replica = Told(stub, name, case)
    threading.Thread(target=client.run, args=[replica], daemon=True).start()
    sys.stdin.read()
    say(done={"resets": sorted(replica.resets), "mismatches": replica.mismatches})
    os._exit(0)  # it has no end of its own


if __name__ == "__main__":
    main(*sys.argv[2:6])
