"""A copy of a collection, and how deltas change it. No network, no clock."""

from dataclasses import dataclass
from enum import Enum, auto

from .digest import MODULUS, item_digest


@dataclass(frozen=True)
class Row:
    version: int
    value_version: int
    sort_key: bytes
    value: bytes

    def digest(self, key: bytes) -> int:
        return item_digest(key, self.version, self.sort_key, self.value)


@dataclass
class Rows:
    """Items and the running sum of their digests (R48)."""

    items: dict
    sum: int = 0


class Verdict(Enum):
    """What became of a delta."""

    APPLIED = auto()
    REPEAT = auto()  # the copy has it already
    GAP = auto()  # something before it is missing, or it is of another life: pull
    BROKEN = auto()  # a change that this client does not know (R6): pull
    DAMAGED = auto()  # the copy is not what the server thinks: it starts over


class Copy:
    """What readers see (`rows`), and what is being loaded beside it (`staged`).

    A real client keeps rows and cursor in one database transaction (R7); here both change in one
    statement after everything was checked.
    """

    def __init__(self, name: str, on_arrival=lambda copy: None):
        self.name = name
        self.on_arrival = on_arrival  # called whenever the copy is the server's collection
        self.rows = Rows({})
        self.staged = Rows({})  # not None: a load is under way, or begins with the next delta
        self.cursor = None
        self.shown = None  # the cursor that readers are at; (0, 0): there is no such collection
        self.resets = set()
        self.mismatches = 0

    @property
    def is_live(self) -> bool:
        return self.cursor is not None and self.staged is None and self.cursor.base == 0

    def apply(self, delta) -> Verdict:
        """Takes a delta if it fits behind the cursor (R22)."""
        start, end, at = getattr(delta, "from"), delta.to, self.cursor
        if at is not None:
            if not start.epoch == end.epoch == at.epoch:
                return Verdict.GAP
            if end.version <= at.version:
                return Verdict.REPEAT
            if start.base > start.version and max(at.version, at.base) < start.base:
                return Verdict.GAP  # a page of somebody else's load
        if start.version > (at.version if at is not None else 0):
            return Verdict.GAP
        rows = self.rows if self.staged is None else self.staged
        try:
            edits, total = self._plan(rows, delta.changes)
        except ValueError:
            return Verdict.BROKEN
        except KeyError:
            self.start_over()
            return Verdict.DAMAGED
        # Compare before readers see it (R49): what does not fit is never shown.
        if not delta.has_more and delta.digest and int.from_bytes(delta.digest, "big") != total:
            self._mismatch()
            return Verdict.DAMAGED
        for key, row in edits.items():
            if row is None:
                rows.items.pop(key, None)
            else:
                rows.items[key] = row
        rows.sum, self.cursor = total, end
        if not delta.has_more:
            self._arrive()
        return Verdict.APPLIED

    def align(self, head) -> None:
        """The server says that the cursor is the head (R7)."""
        self.cursor = type(self.cursor)(epoch=head.epoch, version=head.version)
        self.compare(head.digest)

    def compare(self, digest: bytes) -> None:
        """At the head: a load is finished, and the digest proves the copy or not."""
        rows = self.rows if self.staged is None else self.staged
        if digest and int.from_bytes(digest, "big") != rows.sum:
            self._mismatch()
        else:
            self._arrive()

    def start_over(self, reason: str | None = None) -> None:
        """Readers keep the old items until the next load is finished (R37)."""
        if reason is not None:
            self.resets.add(reason)
        self.cursor, self.staged = None, Rows({})

    def vanish(self) -> None:
        """There is no such collection: the copy is empty, and has no cursor."""
        self.start_over()
        self.rows, self.shown = Rows({}), (0, 0)
        self.on_arrival(self)

    def _plan(self, rows, changes):
        """What would be where, and the sum then. KeyError: a value that was left out is not here."""
        edits, total = {}, rows.sum
        for change in changes:
            key, kind = change.key, change.WhichOneof("kind")
            old = edits[key] if key in edits else rows.items.get(key)
            if kind == "put":
                put = change.put
                value = put.value
                if put.value_omitted:  # R25, R26
                    if old is None or old.value_version != put.value_version:
                        raise KeyError(key)
                    value = old.value
                new = Row(change.version, put.value_version, put.sort_key, value)
            elif kind in ("delete", "left_scope"):
                new = None
            else:
                raise ValueError("a change without content")
            total += (new.digest(key) if new else 0) - (old.digest(key) if old else 0)
            edits[key] = new
        return edits, total % MODULUS

    def _mismatch(self) -> None:
        self.mismatches += 1
        self.start_over()

    def _arrive(self) -> None:
        if self.staged is not None:
            self.rows, self.staged = self.staged, None
        shown = (self.cursor.epoch, self.cursor.version)
        if shown != self.shown:
            self.shown = shown
            self.on_arrival(self)
