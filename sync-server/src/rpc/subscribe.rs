//! The shell of a subscription: waits, reads off the async workers, sends. What is read and said
//! is decided in `engine::following`. A page is read when everything before it has been taken, so
//! a subscriber that reads slowly parks the loop, costs a cursor, and finds larger, coalesced
//! pages when it reads again.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sync_proto::types::{
    AcceptedTarget, CollectionName, Event, GoodbyeReason, Plan, Subscribe, Target, Timestamp,
};
use sync_proto::v1;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tracing::Instrument as _;

use self::beat::Beat;
use self::end::End;
use self::rights::rights_move;
use self::room::Asked;
use super::Context;
use super::clients::OpenStream;
use super::loads::hold_up;
use super::outbox::{self, Outbox, Outgoing};
use super::places::{Holder, Place};
use crate::auth::{Caller, RulesSeen};
use crate::budget::{Account, Claim};
use crate::core::loads::Who;
use crate::core::page::PageLimits;
use crate::engine::following::Following;
use crate::engine::hub::Listener;
use crate::engine::ledger::Ledger;
use crate::engine::noticing::{Noticing, Watching};
use crate::engine::tails::Tail;
use crate::metrics::{Presence, SubscriberState};
use crate::status;
use crate::store::keys::ClientKey;
use crate::store::{Store, StoreError};
use crate::traces::CallTrace;

mod beat;
mod counting;
mod end;
mod rights;
mod room;
mod small;

/// A subscriber that makes a due target wait for this long is told that it lags.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// One stream.
struct Stream<S> {
    context: Arc<Context<S>>,
    caller: Caller,
    /// The rules that the targets have been judged by.
    rules: RulesSeen,
    outbox: Outbox,
    listener: Listener,
    began: Instant,
    heartbeat: Duration,
    end_of_age: Instant,
    /// What is to be said before the targets have their turn: that they were accepted, or where
    /// they stand.
    first: Vec<Event<Bytes>>,
    /// The wait for room that is under way.
    room: Option<Box<Asked>>,
    /// There was no room at once for what is to be said, and it has not been looked at whether it is
    /// small.
    parked: bool,
    /// Since when a target without a first load has been due and the subscriber has not made room.
    waiting_since: Option<Instant>,
    /// The client that reads, if it has a name.
    client: Option<OpenStream>,
    /// How it is counted.
    presence: Presence,
    /// The span of the call, which ends with it.
    traced: CallTrace,
    /// What is committed from then on is delivered live.
    began_at: Timestamp,
    _place: Place,
}

/// Who opens a stream.
pub(super) struct Reader<'a> {
    /// Who calls.
    pub(super) caller: &'a Caller,
    /// The same, as far as loops of loads are concerned.
    pub(super) who: &'a Who,
    /// The client, if it has a name.
    pub(super) client: Option<ClientKey>,
    /// What its messages are claimed from.
    pub(super) account: &'a Account,
    /// The span of its call.
    pub(super) traced: CallTrace,
}

/// What the loop woke up for.
enum Wake {
    Moved(BTreeSet<usize>),
    /// What was sent before has gone.
    Free,
    /// There is something to say, and room for it; whether also for a first load.
    Room(Claim, bool),
    /// There is something to say, and no room for it yet.
    Parked,
    /// It may be time for a sign of life, for a notice that had to wait, or to end.
    Time,
    /// What the caller may do may have changed.
    Rights,
}

/// What a stream says, and how far it has come. It goes from hand to hand in a box: a future has room
/// for it in each place where it may be.
struct Halves {
    following: Following,
    noticing: Noticing,
}

/// Starts the task of a stream and returns its messages.
pub(super) fn start<S: Store>(
    context: &Arc<Context<S>>,
    reader: Reader<'_>,
    asked: Subscribe,
) -> Result<Outgoing, Status> {
    let Reader { caller, who, client, account, traced } = reader;
    if context.drain.is_cancelled() {
        return Err(status::stopping("the server is stopping"));
    }
    let holder = Holder::of(caller, account.connection);
    let place = context.streams.places.take(holder, asked.targets.len());
    let place = place.map_err(|error| status::no_place(&error))?;
    let (outbox, outgoing) = outbox::open(account);
    // Before any right is judged: what changes meanwhile is judged again.
    let rules = caller.seen();
    let may_read = |name: &_| caller.may_read(name);
    let shown: Vec<_> = asked.targets.iter().map(|target| target.cursor).collect();
    let (targets, held_up) = hold_up(context, who, asked.targets, may_read);
    // Listen before looking: a head that moves in between is looked at again, not missed.
    let names = targets.iter().map(|target| target.collection.clone()).collect();
    let mut listener = context.hub.listen(names);
    let loads: Vec<Target> =
        targets.iter().filter(|target| target.cursor.is_none()).cloned().collect();
    let (following, mut accepted) =
        Following::accept(&context.ledger, targets, PageLimits::FULL, may_read);
    leave_denied(&mut listener, &accepted);
    let noticing = Noticing::new(following.targets(), &accepted, context.streams.notice_interval);
    for target in &loads {
        let load =
            |one: &AcceptedTarget| one.collection == target.collection && one.plan == Plan::Load;
        if accepted.iter().any(load) {
            context.loads.began(who, target);
        }
    }
    let mut first: Vec<Event<Bytes>> = Vec::new();
    for (index, target, failure) in held_up {
        accepted.insert(index, target);
        first.push(Event::Failed(accepted[index].collection.clone(), failure));
    }
    let client = client.map(|client| context.clients.open_stream(client));
    if let Some(client) = &client {
        client.decided(&shown, &accepted);
    }
    first.insert(0, Event::Accepted(accepted, asked.heartbeat));
    // Streams that began together should not all end together.
    let age = context.streams.age();
    let stream = Box::new(Stream {
        context: Arc::clone(context),
        caller: caller.clone(),
        rules,
        outbox,
        listener,
        began: Instant::now(),
        heartbeat: asked.heartbeat,
        end_of_age: Instant::now() + age,
        first,
        room: None,
        parked: false,
        waiting_since: None,
        client,
        presence: context.metrics.subscriber(),
        traced,
        began_at: Timestamp::now(),
        _place: place,
    });
    let halves = Box::new(Halves { following, noticing });
    // What is logged about it belongs to the call that has opened it.
    context.tasks.spawn(stream.run(halves).in_current_span());
    Ok(outgoing)
}

/// Nobody is woken for what may not be read.
fn leave_denied(listener: &mut Listener, accepted: &[AcceptedTarget]) {
    let denied = accepted.iter().filter(|one| one.plan == Plan::Denied);
    let denied: BTreeSet<_> = denied.map(|one| &one.collection).collect();
    listener.leave(|name| denied.contains(name));
}

// === impl Stream ===

impl<S: Store> Stream<S> {
    async fn run(mut self: Box<Self>, halves: Box<Halves>) {
        let ended = self.follow(halves).await;
        tracing::debug!(why = ended.word(), lived = ?self.began.elapsed(), "a stream ends");
        self.traced.ends(ended.word());
        match ended {
            End::Gone => {}
            End::Failed(status) => {
                self.traced.answered(status.code().into(), status::reason_of(&status));
                self.outbox.fail(status);
            }
            End::Goodbye(reason) => {
                self.room = None;
                if reason == GoodbyeReason::CredentialsExpired {
                    self.outbox.take_back();
                }
                let goodbye = end::goodbye(reason, self.context.streams.goodbye_jitter);
                // A subscriber that does not even take this loses it: the connection ends anyway.
                let gone = tokio::time::timeout(SLOW_AFTER, self.outbox.end(goodbye.into())).await;
                if gone.is_err() {
                    tracing::debug!("a subscriber did not take its last message");
                }
            }
        }
    }

    async fn follow(&mut self, mut halves: Box<Halves>) -> End {
        let mut beat = Beat::new(Instant::now(), self.heartbeat);
        // One for all times that a stream keeps: each costs an idle stream a tenth of a KiB.
        let mut timer = std::pin::pin!(sleep_until(self.end_of_age));
        // Begun once and not for each message: all streams wait for the same drain and rules.
        let mut end = std::pin::pin!(self.end());
        let mut rights = std::pin::pin!(rights_move(self.caller.clone(), self.rules.clone()));
        loop {
            match self.pass_on(&mut halves, &beat, &mut None) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(end) => return end,
            }
            let wake = tokio::select! {
                biased;
                end = &mut end => return end,
                () = &mut rights => {
                    rights.set(rights_move(self.caller.clone(), self.caller.seen()));
                    Wake::Rights
                }
                wake = self.wake(&beat, &mut halves, timer.as_mut()) => wake,
            };
            match wake {
                Wake::Moved(moved) => {
                    halves.noticing.mark(&moved, self.began.elapsed());
                    halves.following.mark(moved);
                }
                Wake::Time if self.end_of_age <= Instant::now() => {
                    return End::Goodbye(GoodbyeReason::MaxAge);
                }
                Wake::Time => {
                    beat.look(Instant::now());
                    // It is small, and does not wait for the room that others wait for.
                    self.parked |= beat.is_due() && self.room.is_some();
                }
                Wake::Free => {}
                Wake::Parked => match self.pass_small(halves, &mut beat).await {
                    Ok(passed) => halves = passed,
                    Err(end) => return end,
                },
                Wake::Rights => {
                    if let Err(end) = self.judge(&mut halves) {
                        return end;
                    }
                }
                Wake::Room(room, of_load) => {
                    // What was not at hand, or had no room, may have by now.
                    let mut room = Some(room);
                    match self.pass_on(&mut halves, &beat, &mut room) {
                        Ok(_) => {}
                        Err(end) => return end,
                    }
                    let Some(room) = room else { continue };
                    if beat.take() && self.first.is_empty() {
                        self.first.push(halves.following.bookmark(Timestamp::now()));
                    }
                    match self.step(halves, room, of_load).await {
                        Ok(stepped) => halves = stepped,
                        Err(end) => return end,
                    }
                }
            }
        }
    }

    /// Waits until others end the stream, whatever it says.
    fn end(&self) -> impl Future<Output = End> + use<S> {
        let (drain, subscriber) = (self.context.drain.clone(), self.outbox.watch());
        async move {
            tokio::select! {
                biased;
                () = drain.cancelled() => End::Goodbye(GoodbyeReason::Draining),
                () = subscriber.taker_gone() => End::Gone,
            }
        }
    }

    /// What to do next. A page is read only when there is room for it, so what a slow subscriber
    /// has not taken is still coalesced; and news are taken also while targets are due, so that a
    /// target that is far behind does not hide the others.
    async fn wake(&mut self, beat: &Beat, halves: &mut Halves, mut timer: Pin<&mut Sleep>) -> Wake {
        let state = match (halves.following.is_due(), halves.following.is_behind()) {
            (true, _) => SubscriberState::Parked,
            (false, true) => SubscriberState::Lagging,
            (false, false) => SubscriberState::Live,
        };
        self.presence.is(state);
        if let Some(client) = &self.client {
            client.is(state);
        }
        if halves.following.is_other_due() {
            self.waiting_since.get_or_insert_with(Instant::now);
        } else {
            self.waiting_since = None;
        }
        let notices = halves.noticing.is_due(self.began.elapsed());
        let beside = notices || beat.is_due() || !self.first.is_empty();
        let says = halves.following.is_due() || beside;
        let next_notice = halves.noticing.next_at().filter(|_| !notices);
        let next_notice = next_notice.map(|at| self.began + at);
        let deadlines = [next_notice, beat.next_look(), Some(self.end_of_age)];
        let next = deadlines.into_iter().flatten().min().expect("a stream ends");
        if timer.deadline() != next {
            timer.as_mut().reset(next);
        }
        let free = self.outbox.is_free();
        if says && free {
            self.ask_for_room(&mut halves.following, beside);
            // Whatever is small, and however fast it is taken, the time is looked at.
            if self.parked && Instant::now() < next {
                self.parked = false;
                return Wake::Parked;
            }
        }
        let room = async {
            match &mut self.room {
                Some(asked) if free => Some(asked.granted().await),
                Some(asked) => {
                    asked.comes(&self.outbox).await;
                    None
                }
                None => std::future::pending().await,
            }
        };
        let granted = tokio::select! {
            biased;
            () = timer => return Wake::Time,
            moved = self.listener.moved() => {
                self.parked |= self.room.is_some();
                return Wake::Moved(moved);
            }
            () = self.outbox.landed(), if says && !free => return Wake::Free,
            granted = room => granted,
        };
        let Some((claim, of_load)) = granted else { return Wake::Free };
        self.found_room(&mut halves.following, of_load);
        Wake::Room(claim, of_load)
    }

    /// Sends what is at hand for the next target, if nothing else is to be said first and there is
    /// room at once; whether it did. The rules are looked at before: they do not change until it is
    /// sent.
    fn pass_on(
        &mut self,
        halves: &mut Halves,
        beat: &Beat,
        room: &mut Option<Claim>,
    ) -> Result<bool, End> {
        let waits = self.waiting_since.is_some_and(|since| since.elapsed() >= SLOW_AFTER);
        let notices = halves.noticing.is_due(self.began.elapsed());
        let nothing_else = self.first.is_empty() && !beat.is_due() && !waits && !notices;
        if !nothing_else || !halves.following.is_due() || !self.outbox.is_free() {
            return Ok(false);
        }
        if self.rules.take_exchanged() || self.caller.rights().is_err() {
            self.judge(halves)?;
            return Ok(false);
        }
        let Some(tails) = halves.following.at_hand(&self.context.ledger) else {
            return Ok(false);
        };
        let messages = outbox::joined(&tails);
        let Some(room) = room.take().or_else(|| self.outbox.room_for(&messages)) else {
            return Ok(false);
        };
        self.hand_over(&tails, messages, Some(room), halves)?;
        Ok(true)
    }

    /// Sends the next target pages of which these are the messages.
    fn hand_over(
        &mut self,
        tails: &[Arc<Tail>],
        messages: Bytes,
        room: Option<Claim>,
        halves: &mut Halves,
    ) -> Result<(), End> {
        for tail in tails {
            self.count_changes(&tail.delta);
            // Before it is sent: a client may acknowledge it as soon as it has it.
            if let Some(client) = &self.client {
                client.says_changes(&tail.collection, &tail.delta);
            }
        }
        self.outbox.send(messages, room).map_err(|()| End::Gone)?;
        halves.following.took(tails);
        self.waiting_since = None;
        self.let_go_of_room();
        Ok(())
    }

    /// Gives the next target its turn and sends what there is to say. A first load keeps its turn
    /// unless the room is for one.
    async fn step(
        &mut self,
        mut halves: Box<Halves>,
        room: Claim,
        of_load: bool,
    ) -> Result<Box<Halves>, End> {
        let now = self.began.elapsed();
        let follows = halves.following.is_due() && (of_load || !halves.following.is_load_next());
        if follows || halves.noticing.is_due(now) {
            let since = self.waiting_since.take_if(|_| follows);
            let slow = since.is_some_and(|since| since.elapsed() >= SLOW_AFTER);
            let caller = self.caller.clone();
            let read = self.context.read(move |ledger| {
                let turn = follows.then_some(slow);
                let events = halves.step(ledger, turn, now, |name| caller.may_read(name));
                (halves, events)
            });
            let (stepped, events) = read.await.map_err(End::Failed)?;
            halves = stepped;
            let events = events.map_err(|error| End::Failed(status::storage(&error)))?;
            self.listen(&mut halves.noticing);
            self.first.extend(events);
        }
        // The last moment: what was read under other rules is not said under these.
        if self.rules.take_exchanged() || self.caller.rights().is_err() {
            self.judge(&mut halves)?;
        }
        let said = std::mem::take(&mut self.first);
        if said.is_empty() {
            return Ok(halves);
        }
        self.say(&said);
        let messages: Vec<_> = said.into_iter().map(v1::SubscribeResponse::from).collect();
        self.outbox.send(outbox::framed(&messages), Some(room)).map_err(|()| End::Gone)?;
        Ok(halves)
    }

    /// Listens to what is to be watched, before it is looked at once more.
    fn listen(&mut self, noticing: &mut Noticing) {
        for change in noticing.take_changes() {
            match change {
                Watching::Begin(id, name) => self.listener.watch(id, name),
                Watching::End(id) => self.listener.unwatch(id),
            }
        }
    }
}

// === impl Halves ===

impl Halves {
    /// Ends what may not be read any more, and says which targets that were.
    fn revoke(&mut self, may_read: impl Fn(&CollectionName) -> bool) -> BTreeSet<CollectionName> {
        let revoked = self.following.revoke(may_read);
        self.noticing.revoked(&revoked);
        revoked.into_iter().collect()
    }

    /// `turn`: the next target has its turn, and whether it waited for long.
    fn step<S: Store>(
        &mut self,
        ledger: &Ledger<S>,
        turn: Option<bool>,
        now: Duration,
        may_read: impl Fn(&CollectionName) -> bool,
    ) -> Result<Vec<Event<Bytes>>, StoreError> {
        let mut events = match turn {
            Some(slow) => self.following.step(ledger, slow)?,
            None => Vec::new(),
        };
        self.noticing.heard(&events)?;
        if self.noticing.is_due(now) {
            events.extend(self.noticing.step(ledger, now, may_read)?);
        }
        Ok(events)
    }
}
