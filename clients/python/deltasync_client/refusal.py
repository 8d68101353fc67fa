"""Why a call did not succeed, read from the google.rpc details of its status (R128), and retries."""

from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2 as details
from grpc_status import rpc_status

from .backoff import Backoff

PASSES = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL,
}
DOMAIN = "deltasync.v1"
ASKED_WAIT_MAX_S = 3600  # longer waits are mistakes
ATTEMPTS_MAX = 12  # about a minute and a half; then somebody should know


@dataclass(frozen=True)
class Refusal:
    code: grpc.StatusCode
    text: str
    reason: str = ""  # the word to decide by; empty: it did not come from the server
    fields: tuple = ()  # paths of what is wrong in the request
    quotas: tuple = ()  # what is used up: (whose, which)
    asked_wait_s: float | None = None  # the server asks to stay away at least so long

    @classmethod
    def of(cls, error: grpc.RpcError) -> "Refusal":
        known = {"code": error.code(), "text": error.details() or ""}
        try:
            status = rpc_status.from_call(error)
        except ValueError:  # details that belong to another status
            status = None
        for detail in status.details if status else ():
            known |= _read(detail)
        return cls(**known)

    @property
    def may_pass(self) -> bool:
        """Whether the same call may succeed later, without anybody doing anything."""
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # A quota of bytes does not pass by itself: it says why, and nothing of when.
            return self.asked_wait_s is not None or not self.reason
        return self.code in PASSES

    def __str__(self):
        used_up = "".join(f"; used up: {whose}, {which}" for whose, which in self.quotas)
        return f"{self.code.name} {self.reason}: {self.text}{used_up}"


class Refused(Exception):
    """A call that is of no use to repeat, or was repeated often enough."""

    durable: int | None = None  # of an import: how many commits are durable, if that is known

    def __init__(self, refusal: Refusal):
        super().__init__(str(refusal))
        self.refusal = refusal


def repeat(call, wait):
    """Calls until it succeeds. `wait(seconds)` sleeps, and raises when the client is to end."""
    backoff = Backoff()
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return call()
        except grpc.RpcError as error:
            refusal = Refusal.of(error)
            if not refusal.may_pass or attempt == ATTEMPTS_MAX:
                raise Refused(refusal) from error
            # The random part on top: not all who were sent away come back together.
            wait((refusal.asked_wait_s or 0) + backoff.next())


def _read(detail) -> dict:
    """What one detail says. One that is not known says nothing (R6)."""
    info, retry = details.ErrorInfo(), details.RetryInfo()
    request, quota = details.BadRequest(), details.QuotaFailure()
    if detail.Unpack(info):
        return {"reason": info.reason} if info.domain == DOMAIN else {}
    if detail.Unpack(retry):
        seconds = retry.retry_delay.ToTimedelta().total_seconds()
        return {"asked_wait_s": min(max(seconds, 0), ASKED_WAIT_MAX_S)}
    if detail.Unpack(request):
        return {"fields": tuple(wrong.field for wrong in request.field_violations)}
    if detail.Unpack(quota):
        return {"quotas": tuple((one.subject, one.description) for one in quota.violations)}
    return {}
