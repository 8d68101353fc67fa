"""Keeps copies live on a stream (R38 to R45)."""

import random
import threading
from contextlib import closing

import grpc

from .backoff import Backoff
from .copy import Verdict
from .puller import DENIED_RETRY_S, reset_reason
from .refusal import Refusal
from .wire import sync, types

HEARTBEAT_MS = 15_000
ACCEPT_WITHIN_S = 20


class Stopped(Exception):
    """The client is to end."""


class Silence:
    """Cancels a stream that says nothing for three heartbeats (R41)."""

    def __init__(self, stream):
        self.stream, self.timer, self.seconds = stream, None, ACCEPT_WITHIN_S

    def restart(self):
        self.stop()
        self.timer = threading.Timer(self.seconds, self.stream.cancel)
        self.timer.daemon = True
        self.timer.start()

    def stop(self):
        if self.timer is not None:
            self.timer.cancel()


def heard(stream):
    """The messages of a stream, until it ends or is silent for too long."""
    silence = Silence(stream)
    try:
        silence.restart()
        for message in stream:
            if message.WhichOneof("message") == "accepted":
                silence.seconds = 3 * message.accepted.heartbeat_ms / 1000
            silence.restart()
            yield message
    finally:
        silence.stop()
        stream.cancel()


def goodbye_wait(bye) -> float:
    return (bye.retry_after_ms + random.random() * bye.jitter_ms) / 1000


class Follower:
    """One stream over some copies. `on_notice` hears of what moved without a delta."""

    def __init__(self, stub, copies, client_id="", on_notice=lambda notice: None,
                 after=lambda copy: None):
        self.stub, self.client_id = stub, client_id
        self.copies = {copy.name: copy for copy in copies}
        self.on_notice, self.after = on_notice, after
        self.stream, self.moved, self.ended = None, False, False

    def end(self):
        """Ends the stream that is open, and the one that is just being opened."""
        self.ended = True
        if self.stream is not None:
            self.stream.cancel()

    def follow(self) -> float | None:
        """Until a pull is needed (0), the stream is to be opened later (seconds), or it ended (None)."""
        targets = [types.Target(collection=c.name, cursor=c.cursor) for c in self.copies.values()]
        self.stream = self.stub.Subscribe(sync.SubscribeRequest(
            targets=targets, heartbeat_ms=HEARTBEAT_MS, client_id=self.client_id))
        if self.ended:
            self.stream.cancel()
        with closing(heard(self.stream)) as messages:
            for message in messages:
                kind = message.WhichOneof("message")
                wait = getattr(self, f"_on_{kind}", self._on_nothing)(message)
                if wait is not None:
                    return wait
        return None

    def _on_nothing(self, _message):
        """Lagging, CaughtUp, or something that a newer server says (R6)."""

    def _on_accepted(self, message):
        for target in message.accepted.targets:
            copy = self.copies[target.collection]
            if target.plan == sync.PLAN_LIVE:
                copy.compare(target.head.digest)
                if not copy.is_live:
                    return 0.0
            elif target.plan == sync.PLAN_RESET:
                copy.start_over(reset_reason(target.reset))
                return 0.0
            elif target.plan == sync.PLAN_ABSENT:
                copy.vanish()
            elif target.plan == sync.PLAN_DENIED:
                return 0.0  # the pull says so again, and waits
        return None

    def _on_changes(self, message):
        copy = self.copies[message.changes.collection]
        verdict = copy.apply(message.changes.delta)
        if verdict not in (Verdict.APPLIED, Verdict.REPEAT):
            return 0.0
        self.moved |= verdict is Verdict.APPLIED
        if copy.is_live:
            self.after(copy)
        return None

    def _on_bookmark(self, message):
        for place in message.bookmark.positions:
            copy, there = self.copies[place.collection], place.cursor
            here = copy.cursor
            if here is None or there.epoch != here.epoch or there.version > here.version:
                return 0.0  # a push was lost (R42)
            if there == here:
                copy.compare(place.digest)
                if not copy.is_live:
                    return 0.0
        return None

    def _on_notice(self, message):
        self.on_notice(message.notice)

    def _on_absent(self, message):
        self.copies[message.absent.collection].vanish()

    def _on_reset(self, message):
        self.copies[message.reset.collection].start_over(reset_reason(message.reset.reset))
        return 0.0

    def _on_revoked(self, _message):
        return 0.0

    def _on_failed(self, message):
        return message.failed.failure.retry_after_ms / 1000

    def _on_goodbye(self, message):
        return goodbye_wait(message.goodbye)


class Session:
    """Pull and stream in turn, until `stop` is set."""

    def __init__(self, pull, follower, stop: threading.Event):
        self.pull, self.follower, self.stop = pull, follower, stop
        self.backoff, self.hurried = Backoff(), False

    def run(self):
        try:
            while not self.stop.is_set():
                self._once()
        except Stopped:
            pass

    def _once(self):
        try:
            self.pull()
            wait = self.follower.follow()
        except grpc.RpcError as error:
            wait = self._after(Refusal.of(error))
        if self.follower.moved:
            self.follower.moved, self.hurried = False, False
            self.backoff.progress()
        if wait is None or (wait == 0 and self.hurried):  # what did not help is no hurry (R37)
            wait = self.backoff.next()
        self.hurried = wait == 0
        if self.stop.wait(wait):
            raise Stopped

    def _after(self, refusal) -> float | None:
        """How long to stay away after a refusal: as the server asks, and a random part (R128)."""
        if not refusal.may_pass:
            return DENIED_RETRY_S  # as after Denied: somebody must do something first (R127)
        if refusal.asked_wait_s is None:
            return None
        return refusal.asked_wait_s + self.backoff.next()

    def end(self):
        self.stop.set()
        self.follower.end()
