"""Commits that are applied once, however often they must be sent (R52 to R62)."""

import uuid

import grpc

from .refusal import Refused, repeat
from .wire import write

TIMEOUT_S = 10
IMPORT_TIMEOUT_S = 3600  # its stream decides how long it takes


def put(collection: str, key: bytes, value: bytes) -> write.Mutation:
    return write.Mutation(collection=collection, put=write.PutItem(key=key, value=value))


def commit(stub, mutations, wait) -> write.CommitResponse:
    """All of the mutations or none. One key for all attempts: a retry changes nothing (R58).

    `Refused`: what cannot succeed, at once; what did not, after so many attempts.
    """
    request = write.CommitRequest(mutations=mutations, idempotency_key=uuid.uuid4().hex)
    return repeat(lambda: stub.Commit(request, timeout=TIMEOUT_S), wait)


def bulk_load(stub, import_id: str, commits, wait) -> int:
    """Imports a list of commits (each a list of mutations), and says how many are durable (R61, R62).

    What breaks off goes on behind what is durable. `Refused` as above; `durable` of it says how far
    the import came, and the same call with the same id goes on from there.
    """
    durable = 0

    def attempt():
        nonlocal durable
        if attempt.made:
            durable = _durable(stub, import_id)
        attempt.made = True
        if durable < len(commits):
            parts = _numbered(import_id, commits, durable)
            durable = stub.Import(parts, timeout=IMPORT_TIMEOUT_S).sequence
        return durable

    attempt.made = False
    try:
        return repeat(attempt, wait)
    except Refused as refused:
        refused.durable = repeat(lambda: _durable(stub, import_id), wait)
        raise


def _numbered(import_id: str, commits, durable: int):
    for sequence, mutations in enumerate(commits[durable:], start=durable + 1):
        yield write.ImportRequest(import_id=import_id, sequence=sequence, mutations=mutations)


def _durable(stub, import_id: str) -> int:
    try:
        return stub.GetImport(write.GetImportRequest(import_id=import_id), timeout=TIMEOUT_S).sequence
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:  # nothing of it was applied
            return 0
        raise
