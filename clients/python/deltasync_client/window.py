"""The first rows of a list that is too large to be copied, kept right (R63 to R68, R100 to R108)."""

from contextlib import closing

import grpc

from .copy import Row
from .digest import item_digest
from .follower import goodbye_wait, heard
from .puller import DENIED_RETRY_S, TIMEOUT_S
from .wire import sync, types

HEARTBEAT_MS = 15_000
RESERVE = 2  # rows that are held, in windows: what goes is replaced at once
ROWS_MAX = 4  # in windows: with more than this the stretch is chosen anew
CHANGES_MAX = 1_000  # after a longer absence the list is read anew, which costs less (R103)


class Window:
    """Keys and places of a stretch from the beginning of the list on, by a stream; contents of what is
    shown, by key, when they are needed. `on_arrival(window)` is called when both are of one version."""

    def __init__(self, stub, client_id: str, collection: str, size: int, on_arrival):
        self.stub, self.client_id, self.collection = stub, client_id, collection
        self.size, self.on_arrival = size, on_arrival
        self.held = {}  # key: Row, whose value is None until it is fetched
        self.cursor, self.end_of_stretch = None, None
        self.complete_from = 0  # the listing is a state of the collection from this version on
        self.shown = None
        self.stream, self.moved, self.ended = None, False, False

    @property
    def rows(self) -> list:
        """(key, Row) of what is shown, in list order."""
        held = sorted(self.held.items(), key=lambda entry: (entry[1].sort_key, entry[0]))
        return held[:self.size]

    def digest(self) -> int:
        """Of the rows in their order: that of an item that is made of theirs."""
        if self.cursor is None:
            return 0
        digests = (row.digest(key).to_bytes(16, "big") for key, row in self.rows)
        return item_digest(b"window", self.cursor.version, b"", b"".join(digests))

    def end(self) -> None:
        self.ended = True
        if self.stream is not None:
            self.stream.cancel()

    def list(self) -> None:
        """Reads the stretch, unless its cursor can be continued."""
        if self.cursor is not None:
            return
        try:
            self._read_list()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            self._vanish()

    def _read_list(self) -> None:
        wanted, token, items, heads = RESERVE * self.size + 1, b"", [], []
        while len(items) < wanted:
            page = self.stub.ListItems(sync.ListItemsRequest(
                collection=self.collection, order=sync.LIST_ORDER_SORT_KEY, keys_only=True,
                page_size=wanted - len(items), page_token=token), timeout=TIMEOUT_S)
            items += page.items
            heads.append(page.head)
            token = page.next_page_token
            if not token:
                break
        values = {(key, row.value_version): row.value for key, row in self.held.items()}
        self.end_of_stretch = None
        if token:  # up to before the last one that was read
            last = items.pop()
            self.end_of_stretch = types.OrderPlace(sort_key=last.sort_key, key=last.key)
        self.held = {
            item.key: Row(item.version, item.value_version, item.sort_key,
                          values.get((item.key, item.value_version)))
            for item in items
        }
        # What was listed is caught up from the head of the first page (R104).
        self.cursor = types.Cursor(epoch=heads[0].epoch, version=heads[0].version)
        self.complete_from = heads[-1].version

    def follow(self) -> float | None:
        """As a follower does: until a wait is over, or something is to be listed anew (0)."""
        if self.cursor is None:  # until there is such a collection
            target = types.Target(collection=self.collection, notify_only=True)
        else:
            stretch = types.OrderRange(to=self.end_of_stretch)
            target = types.Target(collection=self.collection, cursor=self.cursor, keys_only=True,
                                  scope=types.Scope(order=stretch), max_changes=CHANGES_MAX)
        self.stream = self.stub.Subscribe(sync.SubscribeRequest(
            targets=[target], heartbeat_ms=HEARTBEAT_MS, client_id=self.client_id))
        if self.ended:
            self.stream.cancel()
        with closing(heard(self.stream)) as messages:
            for message in messages:
                kind = message.WhichOneof("message")
                if kind == "goodbye":
                    return goodbye_wait(message.goodbye)
                if kind == "failed":
                    return message.failed.failure.retry_after_ms / 1000
                if kind == "revoked":
                    return DENIED_RETRY_S
                if not self._take(kind, message):
                    self.cursor = None
                    return 0.0
        return None

    def _take(self, kind, message) -> bool:
        """Whether the stretch can be continued."""
        if self.cursor is None:
            created = kind == "notice" or (
                kind == "accepted" and message.accepted.targets[0].HasField("head"))
            return not created
        if kind == "accepted":
            plan = message.accepted.targets[0].plan
            if plan == sync.PLAN_LIVE:
                return self._arrive()
            return plan == sync.PLAN_CATCH_UP
        if kind == "changes":
            return self._apply(message.changes.delta)
        if kind == "caught_up":
            return self._move_to(message.caught_up.cursor)
        if kind == "bookmark":  # changes elsewhere move the cursor without a delta (R42)
            return all(self._move_to(place.cursor) for place in message.bookmark.positions)
        return kind not in ("reset", "absent")

    def _apply(self, delta) -> bool:
        start, to, at = getattr(delta, "from"), delta.to, self.cursor
        if not start.epoch == to.epoch == at.epoch or start.version > at.version:
            return False  # a gap, or another life
        if to.version <= at.version:
            return True  # a repeat
        for change in delta.changes:
            kind = change.WhichOneof("kind")
            if kind == "put":
                put, old = change.put, self.held.get(change.key)
                known = old is not None and old.value_version == put.value_version
                self.held[change.key] = Row(change.version, put.value_version, put.sort_key,
                                            old.value if known else None)
            elif kind in ("delete", "left_scope"):
                self.held.pop(change.key, None)
            else:
                return False  # a change that this client does not know (R6)
        self.cursor, self.moved = to, True
        return delta.has_more or self._arrive()

    def _vanish(self) -> None:
        self.held, self.cursor = {}, None
        if self.shown != (0, 0):
            self.shown = (0, 0)
            self.on_arrival(self)

    def _move_to(self, cursor) -> bool:
        if cursor.epoch != self.cursor.epoch:
            return False
        if cursor.version >= self.cursor.version:
            self.cursor = cursor
        return self._arrive()

    def _arrive(self) -> bool:
        """At the head. False: the stretch has too few rows now, or too many."""
        if self.cursor.version < self.complete_from:
            return True
        few = self.end_of_stretch is not None and len(self.held) < self.size
        if few or len(self.held) > ROWS_MAX * self.size:
            return False
        self._fetch()
        at = (self.cursor.epoch, self.cursor.version)
        if at != self.shown and all(row.value is not None for _, row in self.rows):
            self.shown = at
            self.on_arrival(self)
        return True

    def _fetch(self) -> None:
        """Contents of what is shown. What has moved on meanwhile comes by the stream, and again here."""
        missing = [key for key, row in self.rows if row.value is None]
        while missing:
            request = sync.GetItemsRequest(collection=self.collection, keys=missing)
            results = self.stub.GetItems(request, timeout=TIMEOUT_S).results
            for result in results:
                item = result.found
                row = self.held.get(item.key)
                if row is not None and row.value_version == item.value_version:
                    self.held[item.key] = Row(row.version, row.value_version, row.sort_key, item.value)
            missing = missing[max(len(results), 1):]  # a reply ends at 1 MiB (R67)
