"""What a refusal tells, and what becomes of it (R128)."""

import unittest

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from deltasync_client.backoff import LONGEST_S
from deltasync_client.refusal import ATTEMPTS_MAX, DOMAIN, Refusal, Refused, repeat


class Error(grpc.RpcError):
    """What a call fails with, as grpcio makes it."""

    def __init__(self, code, *told):
        self._code = code
        packed = [Any() for _ in told]
        for one, detail in zip(packed, told):
            one.Pack(detail)
        status = Status(code=code.value[0], message="no", details=packed)
        self._trailer = [("grpc-status-details-bin", status.SerializeToString())] if told else []

    def code(self):
        return self._code

    def details(self):
        return "no"

    def trailing_metadata(self):
        return self._trailer


def reason(word):
    return details.ErrorInfo(domain=DOMAIN, reason=word)


def waits(error):
    """The waits between calls that always fail so, and what that ends with."""
    waited = []

    def call():
        raise error

    try:
        repeat(call, waited.append)
    except Refused as refused:
        return waited, refused
    raise AssertionError("it has not failed")


class Refusals(unittest.TestCase):
    def test_a_quota_of_bytes_is_not_asked_for_again_and_is_named(self):
        quota = details.QuotaFailure(violations=[details.QuotaFailure.Violation(
            subject="below:users/alice", description="stored_bytes: 9 bytes")])
        error = Error(grpc.StatusCode.RESOURCE_EXHAUSTED, reason("STORED_BYTES"), quota)
        waited, refused = waits(error)
        self.assertEqual(waited, [])
        for word in ("STORED_BYTES", "below:users/alice", "9 bytes"):
            self.assertIn(word, str(refused))

    def test_retries_wait_as_they_are_asked_to_not_all_alike_and_end(self):
        retry = details.RetryInfo(retry_delay=Duration(nanos=700_000_000))
        error = Error(grpc.StatusCode.RESOURCE_EXHAUSTED, reason("COMMIT_RATE"), retry)
        waited, _ = waits(error)
        self.assertEqual(len(waited), ATTEMPTS_MAX - 1)
        self.assertTrue(all(0.7 <= wait <= 0.7 + LONGEST_S for wait in waited), waited)
        self.assertGreater(len(set(waited)), 1, "there is no jitter")

    def test_a_field_that_is_wrong_is_named_and_the_call_is_not_sent_again(self):
        wrong = details.BadRequest(field_violations=[
            details.BadRequest.FieldViolation(field="mutations[3].value")])
        waited, refused = waits(Error(grpc.StatusCode.INVALID_ARGUMENT, reason("MALFORMED"), wrong))
        self.assertEqual(waited, [])
        self.assertEqual(refused.refusal.fields, ("mutations[3].value",))

    def test_what_the_transport_says_has_no_details_and_may_pass(self):
        for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            self.assertTrue(Refusal.of(Error(code)).may_pass, code)


if __name__ == "__main__":
    unittest.main()
