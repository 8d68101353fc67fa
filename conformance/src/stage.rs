//! One case while it is played: the server, the front, the client, and what is known of each.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use sync_proto::digest::Digest;
use sync_proto::types::{Key, Malformed, SortKey, Version};
use sync_proto::v1;
use tokio::time::{Instant, timeout_at};

use crate::backend::{Backend, BackendError};
use crate::catalogue::{Case, DEFAULT_COLLECTION, Mode, Step, Taken, Watch};
use crate::child::{Client, Done, Line, Refused};
use crate::faults::StreamFault;
use crate::front::Front;
use crate::run::Failure;
use crate::truth::{At, Place, Truth};
use crate::writes;

/// A case that waits for longer than this for one thing has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Rows that a client in the mode `window` shows.
const WINDOW_ROWS: usize = 10;
/// Items of a collection that a client has written, at most.
const ITEMS_MAX: usize = 1_000;

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
    /// What the client that runs now, or ran last, has taken.
    taken: Taken,
    done: Option<Done>,
    objections: Vec<String>,
}

// === impl Stage ===

impl<'a> Stage<'a> {
    /// A new server, and nothing in it.
    pub async fn set(case: &'a Case, command: &'a [String]) -> Result<Self, Failure> {
        let restarts =
            |step: &Step| matches!(step, Step::Restart | Step::CopyStore | Step::PutCopyInPlace);
        let backend = Backend::start(case.steps.iter().any(restarts), case.door).await?;
        let (front, address) = Front::start(backend.channel(), &case.id).await?;
        Ok(Self {
            case,
            command,
            backend,
            front,
            address: address.to_string(),
            truth: Truth::default(),
            client: None,
            at: BTreeMap::new(),
            taken: Taken::default(),
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
            Step::Quota(bytes) => writes::bound(&self.backend, DEFAULT_COLLECTION, *bytes).await?,
            Step::Taken(taken) => self.taken(taken).await?,
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
        if !self.case.expect.stranger {
            self.arrive().await?;
        }
        self.finish()?;
        if self.case.expect.stranger && !self.at.is_empty() {
            self.object("believed somebody whom it should not trust".to_owned());
        }
        let done = self.ended()?;
        let met: BTreeSet<String> = done.resets.into_iter().collect();
        let expect = &self.case.expect;
        if met != expect.resets {
            self.object(format!("met the resets {met:?}, not {:?}", expect.resets));
        }
        if done.mismatches != expect.mismatches {
            let found = done.mismatches;
            self.object(format!("found {found} digests that differ, not {}", expect.mismatches));
        }
        self.bounded();
        Ok(())
    }

    /// The client has asked for no more than it needs.
    pub fn bounded(&mut self) {
        let expect = &self.case.expect;
        let (calls, from_scratch) =
            self.front.look(|state| (state.seen.calls, state.seen.from_scratch));
        if calls > expect.calls_max {
            self.object(format!("made {calls} calls, more than {}", expect.calls_max));
        }
        if from_scratch > expect.from_scratch_max {
            let most = expect.from_scratch_max;
            self.object(format!("began from scratch {from_scratch} times, more than {most}"));
        }
    }

    /// The client has written what it should, each commit once, and has given up only where it must.
    pub async fn written(&mut self) -> Result<(), Failure> {
        self.until("the client to have committed", |this| this.done.is_some()).await?;
        self.finish()?;
        let Done { acknowledged, refused, .. } = self.ended()?;
        let (mode, expect) = (self.case.mode, &self.case.expect);
        let mut should: Vec<_> = writes::written(mode).collect();
        let most = should.len() as u64;
        let wanted = expect.acknowledged.unwrap_or(most);
        should.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        self.judge(refused.as_ref(), expect.refused.as_ref());
        if acknowledged != wanted {
            self.object(format!("{acknowledged} commits were acknowledged, not {wanted}"));
        }
        // Behind a guarded door the kit sees no commits.
        let keys = self.front.look(|state| state.seen.commits.len() as u64);
        let wanted = (wanted + 1).min(most);
        if mode == Mode::Write && self.case.door.is_none() && keys != wanted {
            self.object(format!("{keys} idempotency keys were used, not {wanted}"));
        }
        self.are_there(&should).await?;
        self.bounded();
        Ok(())
    }

    /// What was acknowledged is there, byte for byte, and of the rest nothing.
    async fn are_there(&mut self, should: &[(Bytes, Bytes)]) -> Result<(), Failure> {
        if self.backend.head(DEFAULT_COLLECTION).await?.is_none() {
            if !should.is_empty() {
                self.object("there is no collection".to_owned());
            }
            return Ok(());
        }
        let items = self.backend.first_rows(DEFAULT_COLLECTION, ITEMS_MAX).await?;
        let mut there: BTreeMap<_, _> =
            items.into_iter().map(|item| (item.key, item.value)).collect();
        there.retain(|key, _| key.starts_with(writes::WRITTEN_KEYS));
        for (key, value) in should {
            if there.remove(key).as_ref() != Some(value) {
                self.object(format!("{key:?} is not there, or is something else"));
            }
        }
        if !there.is_empty() {
            self.object(format!("there are more items: {:?}", there.keys()));
        }
        Ok(())
    }

    /// A client that keeps nothing has ended: it took what it should, and the server holds its ack.
    async fn taken(&mut self, should: &Taken) -> Result<(), Failure> {
        self.until("the client to have taken what there is", |this| this.done.is_some()).await?;
        self.finish()?;
        let Done { refused, .. } = self.ended()?;
        self.judge(refused.as_ref(), should.refused.as_ref());
        let taken = Taken { refused: should.refused.clone(), ..std::mem::take(&mut self.taken) };
        if taken != *should {
            self.object(format!("took {taken:?}, not {should:?}"));
        }
        let head = self.backend.head(DEFAULT_COLLECTION).await?;
        let head = head.map(|head| (head.epoch, head.version, 0));
        let acked = self.front.look(|state| state.seen.acked.get(DEFAULT_COLLECTION).copied());
        if should.refused.is_none() && acked != head {
            self.object(format!("acknowledged {acked:?}, and the head is {head:?}"));
        }
        Ok(())
    }

    fn judge(&mut self, refused: Option<&Refused>, should: Option<&Refused>) {
        if refused != should {
            self.object(format!("gave up at {refused:?}, not at {should:?}"));
        }
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
        if matches!(mode, Mode::Follow | Mode::Window) {
            self.note(DEFAULT_COLLECTION).await?;
        }
        let (address, variables) = match self.backend.door() {
            Some((address, variables)) => (address.to_string(), variables),
            None => (self.address.clone(), Vec::new()),
        };
        let arguments = [&*address, &self.case.id, &mode.to_string(), mode.name()];
        let front = self.front.clone();
        let heard = move || front.wake();
        self.client = Some(Client::start(self.command, &arguments, &variables, heard)?);
        Ok(())
    }

    /// Waits until a stream is at the head, and everything that it told has arrived.
    async fn live(&mut self) -> Result<(), Failure> {
        let name = match self.case.mode {
            Mode::Follow | Mode::Write | Mode::Import | Mode::Resume | Mode::Window => {
                DEFAULT_COLLECTION.to_owned()
            }
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
                && !self.case.mode.ends_by_itself()
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
                Line::Took(took) => {
                    self.taken.anew |= took.anew;
                    for key in took.put {
                        self.taken.gone.remove(&key);
                        self.taken.put.insert(key);
                    }
                    for key in took.gone {
                        self.taken.put.remove(&key);
                        self.taken.gone.insert(key);
                    }
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

    /// What the client said at its end.
    fn ended(&mut self) -> Result<Done, Failure> {
        self.done.take().ok_or_else(|| Failure::Objection("said nothing at its end".to_owned()))
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
            Some(head) if self.case.mode == Mode::Window => {
                let rows = self.backend.first_rows(name, WINDOW_ROWS).await?;
                let digest = in_order(head.version, &rows).map_err(BackendError::from)?;
                let place = Place { epoch: head.epoch, version: head.version };
                self.truth.stands(name, place, rows.len() as u64, digest.to_string());
            }
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

/// The digest of rows in their order, at a version: that of an item of this version whose key is
/// `window`, and whose value is the digests of the rows, joined.
fn in_order(version: u64, rows: &[v1::Item]) -> Result<Digest, Malformed> {
    let mut digests = Vec::new();
    for row in rows {
        let (key, sort_key) = (Key::new(row.key.clone())?, SortKey::new(row.sort_key.clone())?);
        let digest = Digest::of_item(&key, Version::new(row.version)?, &sort_key, &row.value);
        digests.extend(digest.to_be_bytes());
    }
    let (key, sort_key) = (Key::new("window")?, SortKey::default());
    Ok(Digest::of_item(&key, Version::new(version)?, &sort_key, &digests))
}

fn inbox(mode: Mode) -> String {
    format!("inbox/{}", mode.name())
}
