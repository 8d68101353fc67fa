//! What the messages of the stream mean. Pure.

use std::time::{Duration, Instant};

use sync_proto::digest::Digest;
use sync_proto::types::{
    AcceptedTarget, CollectionName, Cursor, Delta, Event, Plan, Position, Reset,
};

use super::track::Track;
use super::writing::Source;
use super::{Action, Context, Fault, Session};
use crate::stream_life::goodbye_wait;

// === impl Session ===

impl Session {
    pub(super) fn on_event(&mut self, event: Event, now: Instant) {
        self.line.heard(now);
        match event {
            Event::Accepted(targets, heartbeat) => self.on_accepted(targets, heartbeat, now),
            Event::Changes(name, delta) => {
                self.touch(&name, now, |track, cx| track.on_changes(&name, delta, cx));
            }
            Event::Bookmark(positions, _) => {
                self.line.lives(now);
                for Position { collection: name, cursor, digest, .. } in positions {
                    self.touch(&name, now, |track, cx| {
                        track.on_position(&name, cursor, digest, cx);
                    });
                }
            }
            Event::CaughtUp(name, cursor) => {
                self.line.lives(now);
                self.touch(&name, now, |track, cx| track.on_position(&name, cursor, None, cx));
            }
            Event::Reset(name, reset) => {
                self.touch(&name, now, |track, cx| track.on_stream_reset(&name, &reset, cx));
            }
            Event::Lagging(name, _) => self.touch(&name, now, |track, _| track.caught_up = false),
            Event::Absent(name) => self.touch(&name, now, |track, cx| track.on_absent(&name, cx)),
            Event::Revoked(name) => self.touch(&name, now, Track::deny),
            Event::Failed(name, failure) => self.touch(&name, now, |track, cx| {
                track.leave_stream(cx);
                track.fail(failure.retry_after, cx);
            }),
            Event::Goodbye(goodbye) => {
                let wait = goodbye_wait(&goodbye, &mut self.dice);
                self.actions.extend(self.line.id().map(Action::CloseStream));
                self.end_stream(Fault::Passing, wait, now);
            }
            // Not asked for: no target of a session is in notify mode.
            Event::Notice(..) | Event::InboxNotice(_) => {}
        }
    }

    fn on_accepted(&mut self, targets: Vec<AcceptedTarget>, heartbeat: Duration, now: Instant) {
        self.line.accepted(heartbeat, now);
        for AcceptedTarget { collection: name, plan, head } in targets {
            self.touch(&name, now, |track, cx| {
                if let Some(head) = &head {
                    track.sees(head);
                }
                match plan {
                    Plan::Live => {
                        let at = head.map(|head| (head.cursor(), head.digest));
                        if let Some((cursor, digest)) = at {
                            track.on_position(&name, cursor, Some(digest), cx);
                        }
                    }
                    Plan::Absent => track.on_absent(&name, cx),
                    Plan::Reset(reset) => track.on_stream_reset(&name, &reset, cx),
                    Plan::Denied => track.deny(cx),
                    Plan::CatchUp | Plan::Load | Plan::Notify => {}
                }
            });
        }
        // Everybody's status hangs on the stream.
        self.touch_all(now, |_, _| {});
    }
}

// === impl Track ===

impl Track {
    /// A target that has ended brings nothing more, whatever is still under way.
    fn on_changes(&mut self, name: &CollectionName, delta: Delta, cx: &mut Context<'_>) {
        if self.stream.is_some() {
            self.stream_is_at(delta.to);
            self.on_delta(name, delta, Source::Push, cx);
        }
    }

    /// The stream has said everything up to here, and this is the head.
    fn on_position(
        &mut self,
        name: &CollectionName,
        head: Cursor,
        digest: Option<Digest>,
        cx: &mut Context<'_>,
    ) {
        if self.stream.is_some() {
            let behind = self.active().filter(|at| at.is_caught_up() && at.version < head.version);
            let passed = behind.is_some_and(|at| at.epoch == head.epoch) && self.is_joined();
            self.stream_is_at(head);
            if !self.scope.is_all() && passed && self.writing.is_none() {
                // What happened in between was outside of the part.
                self.pass_to(name, head, cx);
            }
            self.reach(name, head, digest, Source::Push, cx);
            self.see_hole(cx);
        }
    }

    /// The stream says that there is no such collection. That is about the life of it that the
    /// stream was in; a copy that a pull brought of another life may be newer.
    fn on_absent(&mut self, name: &CollectionName, cx: &mut Context<'_>) {
        if self.stream.is_none() {
            return;
        }
        let copy = self.standing.active().map(|at| at.epoch);
        if copy.is_none() || self.stream.is_some_and(|stream| stream.is_in(copy)) {
            self.vanish(name, cx);
        } else {
            self.stream_is_before_everything();
            self.pull_soon(cx.now);
        }
    }

    /// The stream carries this collection no further.
    fn on_stream_reset(&mut self, name: &CollectionName, reset: &Reset, cx: &mut Context<'_>) {
        if self.stream.is_none() {
            return;
        }
        self.leave_stream(cx);
        self.sees(&reset.head);
        if self.is_concerned(reset) {
            self.start_over(name, reset, cx);
        } else {
            self.pull_soon(cx.now);
        }
    }
}
