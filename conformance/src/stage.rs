//! One case while it is played: the server, the front, the client, and what is known of each.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use sync_proto::v1;
use tokio::time::{Instant, timeout_at};

use crate::backend::Backend;
use crate::catalogue::{Case, DEFAULT_COLLECTION, Mode, Step, Watch};
use crate::child::{Client, Done, Line};
use crate::faults::StreamFault;
use crate::front::Front;
use crate::run::Failure;
use crate::truth::{At, Place, Truth};
use crate::writes;

/// A case that waits for longer than this for one thing has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Items that a client in the mode `write` commits.
const WRITTEN: u64 = 10;

/// A case that is being played.
#[derive(Debug)]
pub struct Stage<'a> {
    case: &'a Case,
    command: &'a [String],
    backend: Backend,
    front: Front,
    address: String,
    truth: Truth,
    client: Option<Client>,
    at: BTreeMap<String, At>,
    done: Option<Done>,
    objections: Vec<String>,
}

// === impl Stage ===

impl<'a> Stage<'a> {
    /// A new server, and nothing in it.
    pub async fn set(case: &'a Case, command: &'a [String]) -> Result<Self, Failure> {
        let restarts =
            |step: &Step| matches!(step, Step::Restart | Step::CopyStore | Step::PutCopyInPlace);
        let backend = Backend::start(case.steps.iter().any(restarts)).await?;
        let (front, address) = Front::start(backend.channel()).await?;
        Ok(Self {
            case,
            command,
            backend,
            front,
            address: address.to_string(),
            truth: Truth::default(),
            client: None,
            at: BTreeMap::new(),
            done: None,
            objections: Vec::new(),
        })
    }

    /// Does one step.
    pub async fn step(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Start => self.start_client().await?,
            Step::Live => self.live().await?,
            Step::Arrive => self.arrive().await?,
            Step::Played => {
                let played = |this: &Self| this.front.look(|state| state.armed.is_empty());
                self.until("every fault to be played", played).await?;
            }
            Step::Commit(commit) => {
                self.commit(&commit.collection, writes::mutations(commit)).await?;
            }
            Step::Fill(fill) => {
                for mutations in writes::fill(DEFAULT_COLLECTION, *fill) {
                    self.commit(DEFAULT_COLLECTION, mutations).await?;
                }
            }
            Step::Follow(collections) => self.follow(collections, true).await?,
            Step::Unfollow(collections) => self.follow(collections, false).await?,
            Step::DeleteCollection(name) => {
                writes::delete(&self.backend, name).await?;
                self.note(name).await?;
            }
            Step::RotateEpoch(name) => {
                writes::rotate(&self.backend, name).await?;
                self.note(name).await?;
            }
            Step::Purge(name) => writes::purge(&self.backend, name).await?,
            Step::TellByPolling(name) => writes::tell_by_polling(&self.backend, name).await?,
            Step::CopyStore => {
                self.backend.copy_store().await?;
                self.reopened().await?;
            }
            Step::PutCopyInPlace => {
                self.backend.put_copy_in_place().await?;
                self.reopened().await?;
            }
            Step::Restart => {
                self.backend.restart().await?;
                self.reopened().await?;
            }
            Step::Away => {
                self.front.with(|state| state.away = true);
                self.front.to_streams(StreamFault::Cut);
            }
            Step::Back => self.front.with(|state| state.away = false),
            Step::CutPages(changes) => self.front.with(|state| state.page_changes = *changes),
            Step::Next(next) => self.front.with(|state| {
                state.armed.arm(next.fault, next.times, next.after);
            }),
            Step::Now(fault) => self.front.to_streams(*fault),
            Step::Watch(watch) => self.watch(*watch).await?,
        }
        Ok(())
    }

    /// The copies are the collections, the client ends, and has met what it should.
    pub async fn copied(&mut self) -> Result<(), Failure> {
        self.arrive().await?;
        self.finish()?;
        let Some(done) = self.done.take() else {
            return Err(Failure::Objection("said nothing at its end".to_owned()));
        };
        let met: BTreeSet<String> = done.resets.into_iter().collect();
        let expect = &self.case.expect;
        if met != expect.resets {
            self.object(format!("met the resets {met:?}, not {:?}", expect.resets));
        }
        if done.mismatches != expect.mismatches {
            let found = done.mismatches;
            self.object(format!("found {found} digests that differ, not {}", expect.mismatches));
        }
        let (calls, from_scratch) =
            self.front.look(|state| (state.seen.calls, state.seen.from_scratch));
        if calls > expect.calls_max {
            self.object(format!("made {calls} calls, more than {}", expect.calls_max));
        }
        if from_scratch > expect.from_scratch_max {
            let most = expect.from_scratch_max;
            self.object(format!("began from scratch {from_scratch} times, more than {most}"));
        }
        Ok(())
    }

    /// The client has written what it should, each commit once.
    pub async fn written(&mut self) -> Result<(), Failure> {
        self.until("the client to have committed", |this| this.done.is_some()).await?;
        self.finish()?;
        let acknowledged = self.done.take().unwrap_or_default().acknowledged;
        let items = self.backend.head(DEFAULT_COLLECTION).await?.map_or(0, |head| head.items);
        let keys = self.front.look(|state| state.seen.commits.len() as u64);
        for (what, found) in [
            ("commits were acknowledged", acknowledged),
            ("items are there", items),
            ("idempotency keys were used", keys),
        ] {
            if found != WRITTEN {
                self.object(format!("{found} {what}, not {WRITTEN}"));
            }
        }
        Ok(())
    }

    /// Ends it all: calls that were made, and what was wrong.
    pub async fn clear(mut self) -> Result<(u64, Vec<String>), Failure> {
        self.listen();
        self.front.stop();
        self.client = None;
        self.backend.close().await?;
        let (calls, seen) =
            self.front.look(|state| (state.seen.calls, state.seen.objections.clone()));
        let mut objections = self.objections;
        objections.extend(seen);
        Ok((calls, objections))
    }

    async fn start_client(&mut self) -> Result<(), Failure> {
        let mode = self.case.mode;
        if mode == Mode::Follow {
            self.note(DEFAULT_COLLECTION).await?;
        }
        let arguments = [&*self.address, &self.case.id, &mode.to_string(), mode.name()];
        let front = self.front.clone();
        self.client = Some(Client::start(self.command, &arguments, move || front.wake())?);
        Ok(())
    }

    /// Waits until a stream is at the head, and everything that it told has arrived.
    async fn live(&mut self) -> Result<(), Failure> {
        let name = match self.case.mode {
            Mode::Follow | Mode::Write => DEFAULT_COLLECTION.to_owned(),
            Mode::Inbox => inbox(self.case.mode),
        };
        self.until("a stream to be live", |this| this.front.look(|state| state.seen.is_live(&name)))
            .await
    }

    async fn arrive(&mut self) -> Result<(), Failure> {
        if self.case.mode == Mode::Inbox {
            self.note(&inbox(self.case.mode)).await?;
        }
        let arrived = |this: &Self| {
            let mut collections = this.truth.collections();
            collections.all(|name| this.at.get(name).is_some_and(|at| this.truth.is_head(at)))
        };
        let went = self.until("the copy to be the collection", arrived).await;
        went.map_err(|failure| {
            let stands: Vec<String> = self.at.values().map(At::describe).collect();
            let (client, server) = (stands.join("; "), self.truth.describe());
            failure.more(|text| {
                format!("{text}; the client stands at: {client}; the server at: {server}")
            })
        })
    }

    async fn watch(&mut self, watch: Watch) -> Result<(), Failure> {
        let end = Instant::now() + Duration::from_millis(watch.ms);
        let before = self.front.look(|state| state.seen.calls);
        let mut moves = self.front.moves();
        loop {
            let calls = self.front.look(|state| state.seen.calls) - before;
            if calls > watch.calls_max {
                let most = watch.calls_max;
                let text = format!("{calls} calls within {} ms, more than {most}", watch.ms);
                return Err(Failure::Objection(text));
            }
            if timeout_at(end, moves.changed()).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let give_up = Instant::now() + PATIENCE;
        let mut moves = self.front.moves();
        loop {
            moves.borrow_and_update();
            self.listen();
            if reached(self) {
                return Ok(());
            }
            if let Some(client) = &mut self.client
                && let Some(status) = client.ended()?
                && self.case.mode != Mode::Write
            {
                return Err(Failure::Objection(format!("the client ended by itself: {status}")));
            }
            if timeout_at(give_up, moves.changed()).await.is_err() {
                return Err(Failure::Objection(format!("waited {PATIENCE:?} for {what}")));
            }
        }
    }

    /// Judges what the client has said. Everything that was written is noted by then.
    fn listen(&mut self) {
        let Some(client) = &self.client else { return };
        let said = client.take();
        self.objections.extend(said.objections);
        for line in said.lines {
            match line {
                Line::At(at) => {
                    let before = self.at.get(&at.collection);
                    let back = self.case.expect.may_go_back;
                    self.objections.extend(self.truth.objection(before, &at, back));
                    self.at.insert(at.collection.clone(), at);
                }
                Line::Done(done) => self.done = Some(done),
            }
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let Some(client) = &mut self.client else { return Err(Failure::Case("no client")) };
        client.finish()?;
        let wrong = tokio::task::block_in_place(|| client.wait())?;
        self.listen();
        self.objections.extend(wrong);
        Ok(())
    }

    fn object(&mut self, objection: String) {
        self.objections.push(objection);
    }

    async fn commit(
        &mut self,
        collection: &str,
        mutations: Vec<v1::Mutation>,
    ) -> Result<(), Failure> {
        writes::commit(&self.backend, mutations).await?;
        self.note(collection).await
    }

    async fn follow(&mut self, collections: &[String], follows: bool) -> Result<(), Failure> {
        let subject = self.case.mode.name();
        let mutations = collections.iter().map(|name| writes::follow(name, subject, follows));
        writes::commit(&self.backend, mutations.collect()).await?;
        for name in collections {
            if follows {
                self.note(name).await?;
            } else {
                self.truth.is_gone(name);
            }
        }
        Ok(())
    }

    /// The server was started again: somewhere else, and perhaps with something else.
    async fn reopened(&mut self) -> Result<(), Failure> {
        let upstream = self.backend.channel();
        self.front.with(|state| state.upstream = upstream);
        let known: Vec<String> = self.truth.collections().cloned().collect();
        for name in known {
            self.note(&name).await?;
        }
        Ok(())
    }

    /// Notes where the collection stands.
    async fn note(&mut self, name: &str) -> Result<(), Failure> {
        match self.backend.head(name).await? {
            Some(head) => {
                let place = Place { epoch: head.epoch, version: head.version };
                let digest = head
                    .digest
                    .iter()
                    .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
                self.truth.stands(name, place, head.items, digest);
            }
            None => self.truth.is_gone(name),
        }
        Ok(())
    }
}

fn inbox(mode: Mode) -> String {
    format!("inbox/{}", mode.name())
}
