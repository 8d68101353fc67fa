"""Hands changes on and keeps no copy: the server holds the place (R110 to R116)."""

from .backoff import Backoff
from .puller import DENIED_RETRY_S, TIMEOUT_S, reset_reason
from .refusal import repeat
from .wire import sync, types


class Consumer:
    """`hand_on(delta, anew)` must have done its work, durably, when it returns.

    `anew`: what comes, up to the last page, is all that there is; what it does not mention does not
    exist. A consumer that dies before its ack is handed the same again.
    """

    def __init__(self, stub, wait, client_id: str, collection: str, hand_on):
        self.stub, self.wait, self.client_id = stub, wait, client_id
        self.collection, self.hand_on = collection, hand_on
        self.resets = set()

    def catch_up(self) -> bool:
        """Takes everything behind the last ack. False: there is no such collection.

        `Refused`: by the server, for good; also an ack that it does not take (R112).
        """
        backoff, at, anew = Backoff(), self._last_ack(), False
        while True:
            outcome = self._pull(at)
            kind = outcome.WhichOneof("result")
            if kind == "delta":
                delta = outcome.delta
                anew = anew or (delta.initial and getattr(delta, "from").version == 0)
                self.hand_on(delta, anew)
                if not (anew and delta.has_more):  # a load counts when it is whole
                    self._ack(delta.to)
                if not delta.has_more:
                    return True
                at = types.Target(collection=self.collection, cursor=delta.to)
                backoff.progress()
            elif kind == "aligned":
                head = outcome.aligned.head
                self._ack(types.Cursor(epoch=head.epoch, version=head.version))
                return True
            elif kind == "reset":  # what is held cannot be continued: without it, from the start
                self.resets.add(reset_reason(outcome.reset))
                at, anew = types.Target(collection=self.collection), True
            elif kind == "not_found":
                return False
            elif kind == "denied":
                self.wait(DENIED_RETRY_S)
            else:  # deferred, failed, or an outcome that is not known
                self.wait(outcome.failed.retry_after_ms / 1000 + backoff.next())

    def _last_ack(self):
        return types.Target(collection=self.collection, from_last_ack=True)

    def _pull(self, target):
        request = sync.PullRequest(targets=[target], client_id=self.client_id)
        return repeat(lambda: self.stub.Pull(request, timeout=TIMEOUT_S), self.wait).outcomes[0]

    def _ack(self, cursor) -> None:
        acked = sync.AckedCursor(collection=self.collection, cursor=cursor)
        request = sync.AckRequest(client_id=self.client_id, acked=[acked])
        repeat(lambda: self.stub.Ack(request, timeout=TIMEOUT_S), self.wait)
