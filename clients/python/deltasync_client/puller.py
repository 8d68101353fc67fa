"""Catches copies up by pulls: many in one call, a page of each in a reply (R12 to R21)."""

from .backoff import Backoff
from .copy import Verdict
from .wire import sync, types

TARGETS_MAX = 256
TIMEOUT_S = 30
DENIED_RETRY_S = 120


class Puller:
    """`wait(seconds)` sleeps, and raises when the client is to end."""

    def __init__(self, stub, wait, client_id: str = ""):
        self.stub, self.wait, self.client_id = stub, wait, client_id

    def pull(self, copies, on_polled=lambda head: None) -> None:
        """Until each copy is the server's collection, or is known to be gone.

        `on_polled` hears of collections that an inbox among them does not announce (R85).
        """
        backoff, waiting, polled_after = Backoff(), list(copies), {}
        while waiting:
            batch, rest = waiting[:TARGETS_MAX], waiting[TARGETS_MAX:]
            again, delay = [], 0.0
            for copy, outcome in zip(batch, self._ask(batch, polled_after)):
                for head in outcome.polled:
                    on_polled(head)
                done, wait_s = self._take(copy, outcome)
                if outcome.polled_more:
                    done = False
                    if outcome.polled:
                        polled_after[copy.name] = outcome.polled[-1].collection
                if not done:
                    again.append(copy)
                if wait_s is None:
                    wait_s = backoff.next()
                elif wait_s == 0:
                    backoff.progress()
                delay = max(delay, wait_s)
            waiting = again + rest
            if waiting and delay:
                self.wait(delay)

    def _ask(self, batch, polled_after):
        targets = [
            types.Target(collection=copy.name, cursor=copy.cursor,
                         polled_after=polled_after.get(copy.name, ""))
            for copy in batch
        ]
        request = sync.PullRequest(targets=targets, client_id=self.client_id)
        return self.stub.Pull(request, timeout=TIMEOUT_S).outcomes

    def _take(self, copy, outcome):
        """Whether the copy has arrived, and how long to wait before the next pull (None: back off)."""
        kind = outcome.WhichOneof("result")
        if kind == "aligned":
            copy.align(outcome.aligned.head)
            return copy.is_live, 0.0 if copy.is_live else None
        if kind == "delta":
            verdict = copy.apply(outcome.delta)
            if verdict is Verdict.GAP:
                copy.start_over()
            progress = verdict is Verdict.APPLIED
            return copy.is_live and progress, 0.0 if progress else None
        if kind == "reset":
            copy.start_over(reset_reason(outcome.reset))
            return False, 0.0
        if kind == "not_found":
            copy.vanish()
            return True, 0.0
        if kind == "denied":  # minutes, not seconds
            return False, DENIED_RETRY_S
        if kind == "failed" and outcome.failed.retry_after_ms:
            return False, outcome.failed.retry_after_ms / 1000
        return False, None  # deferred, failed for good, or an outcome that is not known


def reset_reason(reset) -> str:
    """As the protocol calls it; a reason that is not known has a number only."""
    known = types.ResetReason.DESCRIPTOR.values_by_number.get(reset.reason)
    return known.name.removeprefix("RESET_REASON_") if known else str(reset.reason)
