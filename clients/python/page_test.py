"""Runs the client of the page against the real server, whatever becomes of it: DIRECTORY SERVER SYNCCTL.

`syncctl` writes, this remembers what, and in the end, and wherever it waits, the copy is that and
nothing else. A digest that differs fails it too: it would be mended by a load, and not be seen.
"""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
import page

directory, SERVER, SYNCCTL = sys.argv[1:]
client = page.client(directory)

NAME, CLIENT_ID = "groups/42/members", "page-test"
LOADED, A_COMMIT = 2_500, 100  # items: three pages
LIVE = 30
PATIENCE_S = 30


class Server:
    """On one port and one store, however often it is started."""

    def __init__(self, directory: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        self.directory, self.process = directory, None

    def start(self):
        options = ["--data-dir", self.directory / "store", "--listen", self.address, "--log", "error",
                   "--goodbye-jitter-ms", "500", "--free-disk-min-mib", "0"]
        self.process = subprocess.Popen([SERVER, *options])
        within("a server", lambda: self.ctl("health", check=False).returncode == 0)

    def end(self, how: signal.Signals):
        self.process.send_signal(how)
        code = self.process.wait(PATIENCE_S)
        assert how == signal.SIGKILL or code == 0, f"the server ended with {code}"

    def ctl(self, *words, check=True, text=None):
        command = [SYNCCTL, "--server", f"http://{self.address}", "--json", *words]
        return subprocess.run(command, check=check, input=text, capture_output=True, text=True)


class Truth:
    """What is written: key -> (sort_key, value)."""

    def __init__(self, server: Server):
        self.server, self.items = server, {}
        self.doomed = list(range(100, LOADED))  # those that were loaded and may be deleted

    def put(self, key: str, value: str, sort_key: str = ""):
        place = ["--sort-key", sort_key] if sort_key else []
        self.server.ctl("put", "--retry", "20s", *place, NAME, key, value)
        self.remember(key, value, sort_key)

    def delete(self, *keys: str):
        self.server.ctl("delete", "--retry", "20s", NAME, *keys)
        for key in keys:
            del self.items[key.encode()]

    def load(self):
        commits = []
        for first in range(0, LOADED, A_COMMIT):
            ops = []
            for number in range(first, first + A_COMMIT):
                key, value = f"loaded {number}", f"value {number}"
                ops.append({"collection": NAME, "op": "put", "key": key, "value_text": value})
                self.remember(key, value)
            commits.append(json.dumps({"tx": first, "time": "2026-01-31T12:00:00Z", "ops": ops}))
        self.server.ctl("import", "-", text="\n".join(commits))

    def remember(self, key: str, value: str, sort_key: str = ""):
        old = self.items.get(key.encode(), (b"", b""))
        self.items[key.encode()] = (sort_key.encode() or old[0], value.encode())

    def change(self, word: str):
        """One by one: new items, others, places in the list, deletes."""
        for number in range(LIVE):
            self.put(f"{word} {number % 20}", f"{word} {number}")
            if number % 3 == 0:
                self.put(f"loaded {number}", f"{word} anew {number}", f"place {word} {number}")
            if number % 5 == 4:
                self.delete(f"{word} {number % 20}", f"loaded {self.doomed.pop()}")


class Watched(client.Replica):
    """Counts the digests that differ."""

    wrong = 0

    def arrive(self, digest):
        right = super().arrive(digest)
        self.wrong += not right
        return right

    def contents(self):
        return {key: tuple(row[1:3]) for key, row in list(self.items.items())}


def within(what: str, condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.02)


def plays(server: Server):
    truth = Truth(server)
    stub = client.sync_service_pb2_grpc.SyncServiceStub(grpc.insecure_channel(server.address))
    replica = Watched(stub, NAME, CLIENT_ID)
    running = threading.Thread(target=client.run, args=[replica], daemon=True)

    def arrives(after: str):
        within(f"the copy after {after}", lambda: equal() or not running.is_alive())
        if not running.is_alive():
            raise SystemExit(f"the client has ended after {after}")
        if replica.wrong:
            raise SystemExit(f"{replica.wrong} digests differed until {after}")
        print(f"page: {len(truth.items):5} items after {after}")

    def equal():
        return replica.loading is None and replica.contents() == truth.items

    server.start()
    truth.load()
    running.start()
    arrives("the first load")
    truth.change("live")
    arrives("live changes and deletes")
    if server.ctl("explain", CLIENT_ID, NAME, check=False).returncode != 0:
        raise SystemExit(f"operators do not see {CLIENT_ID}")
    server.end(signal.SIGTERM)
    server.start()
    truth.change("restarted")
    arrives("a restart")
    writing = threading.Thread(target=truth.change, args=["killed"])
    writing.start()
    within("half of the changes", lambda: b"killed 10" in truth.items)
    server.end(signal.SIGKILL)
    server.start()
    writing.join()
    arrives("a kill amid changes")
    epoch = replica.cursor.epoch
    server.ctl("rotate-epoch", "--yes", NAME)
    truth.change("rotated")
    arrives("another epoch")
    if replica.cursor.epoch == epoch:
        raise SystemExit("the copy is of the old epoch")
    server.ctl("delete-collection", "--yes", NAME)
    truth.items.clear()
    within("an empty copy", lambda: replica.items == {})
    truth.put("created", "anew")
    arrives("a collection of the same name")
    server.end(signal.SIGTERM)


def main():
    with tempfile.TemporaryDirectory() as place:
        server = Server(Path(place))
        try:
            plays(server)
        finally:
            if server.process is not None and server.process.poll() is None:
                server.process.kill()
                server.process.wait()


if __name__ == "__main__":
    main()
