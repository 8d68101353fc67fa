//! The loop of a driver, and what it does for a conversation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use sync_proto::types::{CollectionName, Event, Scope};
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::errands::looked;
use super::{Asked, FLUSH_AFTER, Job, PullAnswer, Stream, Wake, Work, Worked, complain, now};
use crate::account::desk;
use crate::backoff::Backoff;
use crate::blocking::blocking;
use crate::client::EventStream;
use crate::error::ClientError;
use crate::mending::{Place, ask, work};
use crate::session::{
    Action, Choice, Fault, Input, MendFault, MendId, Report, Stats, StreamId, Task, WriteFault,
    written,
};
use crate::store::{Notes, Standing, StoreError, Visible, Write, check};
use crate::view::View;

/// Longest wait before a flush that failed is tried again.
const FLUSH_RETRY_MAX: Duration = Duration::from_secs(60);
/// Rows that are swept between two looks at the network.
const SWEEP_ROWS: usize = 1_000;
/// A network that never pauses is interrupted for sweeping after so many of its messages.
const SWEEP_EVERY: u32 = 64;

// === impl Work ===

impl Work {
    pub(super) async fn until(&mut self, stop: &CancellationToken) {
        loop {
            self.act().await;
            self.publish_stats();
            match self.wake(stop).await {
                Wake::Stop => return,
                Wake::Pulled(answer) => self.pulled(answer),
                Wake::Asked(asked) => self.asked(asked),
                Wake::Answered(answer) => self.answered(answer),
                Wake::Worked(worked) => {
                    self.working = None;
                    if let Some(input) = worked {
                        self.machine.handle(input, now());
                    }
                }
                Wake::Opened((id, opened)) => self.opened(id, opened),
                Wake::Message(id, message) => self.message(id, message),
                Wake::Looked(names) => self.machine.tell(desk::Input::LookAt(names), now()),
                Wake::Elapsed => {
                    self.machine.handle(Input::Received(self.client.received()), now());
                    self.machine.handle(Input::Elapsed, now());
                }
                Wake::Idle => self.sweep().await,
            }
            // A stream that never pauses must keep neither from happening.
            self.flush_if_due().await;
            self.acknowledge();
            self.since_sweep += 1;
            if self.sweeping && self.since_sweep >= SWEEP_EVERY {
                self.sweep().await;
            }
        }
    }

    async fn act(&mut self) {
        loop {
            while let Some(action) = self.machine.poll_action() {
                self.carry_out(action).await;
            }
            // Behind the page that came with it, which may tell what it is about.
            let Some(polled) = self.polled.pop_front() else { return };
            self.machine.tell(desk::Input::Polled(polled), now());
        }
    }

    /// Waits for whatever comes first. Answers of pulls come before messages of the stream: there
    /// are few of them, and a stream that never pauses must not keep them waiting.
    async fn wake(&mut self, stop: &CancellationToken) -> Wake {
        let deadline = self.machine.deadline();
        let ack_at = self.acks.as_ref().and_then(Acks::deadline);
        let deadline = [self.flush_at, ack_at].into_iter().flatten().fold(deadline, Ord::min);
        if self.working.is_none() {
            self.working = self.jobs.pop_front().map(|job| self.work(job));
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            names = looked(&mut self.errands) => Wake::Looked(names),
            Some(pulled) = self.pulls.next() => Wake::Pulled(pulled),
            Some(asked) = self.asks.next() => Wake::Asked(asked),
            Some(answer) = self.answers.next() => Wake::Answered(answer),
            worked = finished(&mut self.working) => Wake::Worked(worked),
            wake = self.stream.next() => wake,
            () = tokio::time::sleep_until(deadline.into()) => Wake::Elapsed,
            () = std::future::ready(()), if self.sweeping => Wake::Idle,
        }
    }

    async fn carry_out(&mut self, action: desk::Action) {
        match action {
            desk::Action::Session(action) => self.converse(action),
            desk::Action::Write(name, write, notes) => self.write(name, write, notes).await,
            desk::Action::Note(notes) => self.make_notes(notes).await,
            desk::Action::Scan => self.scan().await,
            desk::Action::Poll(id, cursor, after) => self.poll(id, cursor, after),
            desk::Action::Ack(cursor) => self.ack(cursor),
            desk::Action::Show(shown, summary) => self.show(shown, summary),
        }
    }

    fn converse(&mut self, action: Action) {
        match action {
            Action::OpenStream(id, subscribe) => {
                self.close_stream();
                let client = self.client.clone();
                let opening = async move { (id, client.subscribe(subscribe).await) };
                self.stream = Stream::Opening(opening.boxed());
            }
            Action::CloseStream(_) => self.close_stream(),
            Action::Pull(id, pull) => {
                let client = self.client.clone();
                self.pulls.push(async move { (id, client.pull_once(pull).await) }.boxed());
            }
            Action::SelfCheck(name) => self.jobs.push_back(Job::Check(name)),
            Action::Mend(name, id, task) => self.mend(name, id, task),
            Action::Chosen(name, choice) => log(&name, &choice),
            Action::Report(name, report) => self.report(&name, &report),
            Action::Write(..) => unreachable!("writes are given out with their notes"),
        }
    }

    async fn write(&mut self, name: CollectionName, write: Write, notes: Notes) {
        let (view, outcome) = match self.view(&name).await {
            Ok(view) => {
                let outcome = view.write_with(write, notes).await;
                (Some(view), outcome)
            }
            Err(failure) => (None, Err(failure)),
        };
        let told = written(&name, outcome);
        self.tell_outage(told.as_ref().err(), "a write to the local store failed");
        let (input, applied) =
            told.unwrap_or_else(|_| (Input::Written(name, Err(WriteFault::Failed)), None));
        self.flush_soon();
        self.machine.handle(input, now());
        if let (Some(view), Some(applied)) = (view, applied) {
            self.sweeping |= applied.visible == Visible::Swapped;
            // Whoever waits for a place finds counted what led to it.
            self.publish_stats();
            view.set_standing(applied.standing);
        }
    }

    /// The view by which a copy is written, so that whoever reads it hears of that.
    fn view(&self, name: &CollectionName) -> BoxFuture<'static, Result<Arc<View>, StoreError>> {
        if let Some(view) = self.kept.as_ref().and_then(|kept| kept.get(name)) {
            return std::future::ready(Ok(view.clone())).boxed();
        }
        let (views, name) = (self.views.clone(), name.clone());
        blocking("reading the local store", move || views.open(&name, Scope::All)).boxed()
    }

    pub(super) fn flush_soon(&mut self) {
        self.flush_at.get_or_insert(now() + FLUSH_AFTER);
    }

    fn report(&self, name: &CollectionName, report: &Report) {
        let Some(view) = self.views.find(name) else { return };
        // Whoever hears of a status finds counted what led to it.
        self.publish_stats();
        view.set_status(report.status);
        if let Some(at) = report.synced_at {
            view.set_synced(at);
        }
    }

    fn close_stream(&mut self) {
        if let Stream::Open(_, stream) = &self.stream {
            self.bytes += stream.bytes();
        }
        self.stream = Stream::Closed;
    }

    pub(super) fn publish_stats(&self) {
        let streamed = if let Stream::Open(_, stream) = &self.stream { stream.bytes() } else { 0 };
        let bytes_received = self.bytes + streamed;
        let reconcile_bytes = self.reconcile_bytes;
        *self.stats.lock() =
            Stats { bytes_received, reconcile_bytes, ..self.machine.stats().clone() };
        self.publish_account_stats();
    }

    fn pulled(&mut self, (id, answer): PullAnswer) {
        let (outcomes, polled) = match answer {
            Ok(pulled) => {
                self.bytes += pulled.bytes as u64;
                (Ok(pulled.outcomes), pulled.polled)
            }
            Err(failure) => {
                tracing::warn!(%failure, "a pull failed");
                (Err(Fault::from(&failure)), Vec::new())
            }
        };
        self.polled.extend(polled.into_iter().map(|(_, polled)| polled));
        self.machine.handle(Input::Pulled(id, outcomes), now());
    }

    fn opened(&mut self, id: StreamId, opened: Result<EventStream, ClientError>) {
        match opened {
            Ok(stream) => self.stream = Stream::Open(id, Box::new(stream)),
            Err(failure) => {
                self.stream = Stream::Closed;
                tracing::warn!(%failure, "the stream could not be opened");
                self.machine.handle(Input::StreamEnded(id, Fault::from(&failure)), now());
            }
        }
    }

    fn message(&mut self, id: StreamId, message: Option<Result<Event, ClientError>>) {
        let fault = match message {
            Some(Ok(event)) => return self.machine.handle(Input::Event(id, event), now()),
            Some(Err(ClientError::Malformed(broken))) => {
                tracing::warn!(%broken, "a message of the stream breaks the protocol");
                return self.machine.handle(Input::Malformed(id), now());
            }
            Some(Err(failure)) => {
                tracing::warn!(%failure, "the stream broke");
                Fault::from(&failure)
            }
            None => Fault::Passing,
        };
        self.close_stream();
        self.machine.handle(Input::StreamEnded(id, fault), now());
    }

    async fn flush_if_due(&mut self) {
        if self.flush_at.is_none_or(|at| now() < at) {
            return;
        }
        self.flush_at = None;
        let (store, written) = (self.store.clone(), self.copies_written());
        let flushed = blocking("flushing the local store", move || store.flush()).await;
        let lost = std::mem::replace(&mut self.lives, self.store.lives()) != self.lives;
        if flushed.is_ok() && self.unflushed.is_none() && !lost {
            if let Some(acks) = &mut self.acks {
                acks.flushed(written);
            }
            return self.machine.tell(desk::Input::Flushed, now());
        }
        // The store was, or is now, opened again, perhaps without what was written last.
        if let Some(acks) = &mut self.acks {
            acks.lost();
        }
        let (standings, failure) = match self.restate().await {
            Ok(standings) => (standings, flushed.err()),
            Err(failure) => (BTreeMap::new(), Some(flushed.err().unwrap_or(failure))),
        };
        self.flush_at = failure.map(|failure| {
            complain(&failure, "the local store could not be flushed");
            let new = Backoff::new(FLUSH_AFTER, FLUSH_RETRY_MAX);
            let wait = self.unflushed.get_or_insert(new).next(&mut rand::rng());
            now() + FLUSH_AFTER + wait
        });
        let failing_until = self.flush_at;
        if self.flush_at.is_none() {
            self.unflushed = None;
            // What is told is told after a flush.
            self.flush_at = self.acks.as_ref().map(|_| now() + FLUSH_AFTER);
        }
        let restated = Input::Restated { standings, failing_until };
        self.machine.handle(restated, now());
    }

    /// Where the copies stand, for everybody to see.
    async fn restate(&mut self) -> Result<BTreeMap<CollectionName, Standing>, StoreError> {
        let mut standings = BTreeMap::new();
        for view in self.views.held() {
            standings.insert(view.name().clone(), view.restate().await?);
        }
        let rest = self.machine.names();
        let rest = rest.into_iter().filter(|name| !standings.contains_key(name));
        for name in rest.collect::<Vec<_>>() {
            let (store, of) = (self.store.clone(), name.clone());
            let reading = blocking("reading the local store", move || store.standing(&of));
            standings.insert(name, reading.await?);
        }
        Ok(standings)
    }

    async fn sweep(&mut self) {
        self.since_sweep = 0;
        let store = self.store.clone();
        let swept = blocking("sweeping the local store", move || store.sweep(SWEEP_ROWS)).await;
        // After a failure the next load asks for it again.
        self.sweeping = swept.unwrap_or_else(|failure| {
            complain(&failure, "the local store could not be swept");
            false
        });
    }

    fn mend(&mut self, name: CollectionName, id: MendId, task: Task) {
        match Place::from(task) {
            Place::Here(task) => self.jobs.push_back(Job::Mend(name, id, task)),
            Place::Server(question) => {
                let client = self.client.clone();
                let asking = async move {
                    let (answer, bytes) = ask(&client, &name, question).await;
                    (name, id, answer, bytes)
                };
                self.asks.push(asking.boxed());
            }
        }
    }

    fn asked(&mut self, (name, id, answer, bytes): Asked) {
        self.bytes += bytes;
        self.reconcile_bytes += bytes;
        self.machine.handle(Input::Mended(name, id, answer), now());
    }

    fn work(&self, job: Job) -> BoxFuture<'static, Worked> {
        let store = self.store.clone();
        match job {
            Job::Check(name) => {
                let of = name.clone();
                let check = move || match store.snapshot(&of).and_then(|rows| check(&*rows)) {
                    Err(StoreError::Damaged { .. }) => Ok(false),
                    sound => sound,
                };
                let checking = blocking("checking the local store", check);
                let checking = async move {
                    let sound = checking.await;
                    let sound =
                        sound.inspect_err(|failure| complain(failure, "no check of a copy"));
                    Some(Input::SelfChecked(name, sound.ok()?))
                };
                checking.boxed()
            }
            Job::Mend(name, id, task) => {
                let of = name.clone();
                let working =
                    blocking("repairing the local store", move || work(&*store, &of, &task));
                let working = async move {
                    let done = working.await.unwrap_or_else(|failure| {
                        complain(&failure, "a repair begins again");
                        // What was staged may be gone.
                        Some(Err(MendFault::Moved))
                    });
                    Some(Input::Mended(name, id, done.unwrap_or(Err(MendFault::Damaged))))
                };
                working.boxed()
            }
        }
    }
}

// === impl Stream ===

impl Stream {
    /// What the stream brings next; waits for ever while there is none. May be cancelled.
    async fn next(&mut self) -> Wake {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Opening(opening) => Wake::Opened(opening.await),
            Self::Open(id, stream) => Wake::Message(*id, stream.next().await),
        }
    }
}

/// Waits for work on the rows, for ever if there is none.
async fn finished(working: &mut Option<BoxFuture<'static, Worked>>) -> Worked {
    match working {
        Some(working) => working.await,
        None => std::future::pending().await,
    }
}

fn log(collection: &CollectionName, choice: &Choice) {
    let Choice { reason, how, load_bytes, delta_bytes, reconcile_bytes } = choice;
    tracing::info!(
        %collection,
        reason = reason.as_str(),
        how = how.as_str(),
        load_bytes,
        delta_bytes,
        reconcile_bytes,
        "a copy is put right"
    );
}
