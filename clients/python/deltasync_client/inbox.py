"""Everything that a subject follows: its inbox says what moved, pulls fetch it (R82 to R89)."""

from .copy import Copy
from .wire import types


class Account:
    """Copies of a subject's inbox and of all that is in it.

    It streams the inbox alone and pulls what it tells of (R126). The queue of what is to be caught
    up is worked off before anything else is heard; a client with a disk keeps it there (R120).
    """

    def __init__(self, subject: str, puller, on_arrival=lambda copy: None):
        self.puller, self.on_arrival = puller, on_arrival
        self.inbox = Copy(f"inbox/{subject}", on_arrival)
        self.copies = {}
        self.polled = {}  # what was told of collections that do not write to inboxes

    def pull(self) -> None:
        """The inbox, and then what it and the polled heads tell of."""
        self.puller.pull([self.inbox], self._on_polled)
        self.catch_up()

    def on_notice(self, notice) -> None:
        """A collection moved that the inbox does not announce."""
        state = types.INBOX_STATE_EXISTS if notice.HasField("head") else types.INBOX_STATE_DELETED
        self.polled[notice.collection] = types.InboxEntry(
            state=state, epoch=notice.head.epoch, version=notice.head.version)
        self.catch_up()

    def catch_up(self) -> None:
        """Pulls what differs from what was told, drops what is followed no more."""
        told = {key.decode(): row.value for key, row in self.inbox.rows.items.items()}
        for name in self.copies.keys() - told.keys():
            self.copies.pop(name).vanish()
        behind = []
        for name, value in told.items():
            copy = self.copies.setdefault(name, Copy(name, self.on_arrival))
            words = [types.InboxEntry.FromString(value), self.polled.get(name)]
            if not all(covers(copy, word) for word in words if word is not None):
                behind.append(copy)
        self.puller.pull(behind)
        self.polled.clear()

    def _on_polled(self, head) -> None:
        self.polled[head.collection] = head.entry


def covers(copy: Copy, entry) -> bool:
    """Whether the copy has what the entry tells of (R121)."""
    if entry.state == types.INBOX_STATE_EXISTS:
        return (copy.is_live and copy.cursor.epoch == entry.epoch
                and copy.cursor.version >= entry.version)
    return copy.cursor is None and copy.shown == (0, 0)
