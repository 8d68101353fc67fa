"""Commits that are applied once, however often they must be sent (R52 to R59)."""

import uuid

import grpc

from .backoff import Backoff
from .wire import write

RETRYABLE = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED,
}
TIMEOUT_S = 10


def put(collection: str, key: bytes, value: bytes) -> write.Mutation:
    return write.Mutation(collection=collection, put=write.PutItem(key=key, value=value))


def commit(stub, mutations, wait) -> write.CommitResponse:
    """All of the mutations or none. One key for all attempts: a retry changes nothing (R58)."""
    request = write.CommitRequest(mutations=mutations, idempotency_key=uuid.uuid4().hex)
    backoff = Backoff()
    while True:
        try:
            return stub.Commit(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() not in RETRYABLE:
                raise
            wait(backoff.next())
