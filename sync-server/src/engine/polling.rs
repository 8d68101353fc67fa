//! What inboxes do not announce: the collections that a subject follows and that are read by their
//! followers, with where they stand and where the inbox says that they stand. Found by whichever is
//! less: the names that are read, or the entries of the inbox. A look is bounded and of one durable
//! state, heads and rows alike; a search takes as many looks as it is given, and says where the next
//! one goes on.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use sync_proto::convert::{decode_change, decode_inbox_entry};
use sync_proto::types::{
    ChangeKind, CollectionName, Diffusion, Head, InboxEntry, Key, Outcome, Polled, PolledHead,
    Scope, Target, Version,
};

use super::ledger::{Heads, Ledger};
use super::view::View;
use crate::core::inbox::{entry_key, in_scope, truth};
use crate::store::keys::{self, CollectionId, Row};
use crate::store::rows::{KeyRow, LogRow, RowKind};
use crate::store::{Direction, KeyRange, Store, StoreError};

/// Heads that one target of a pull is told of.
pub const POLLED_MAX: usize = 512;

/// What a head takes in a reply besides its name: tags, lengths, epoch, version.
const POLLED_OVERHEAD_BYTES: usize = 40;

/// Names, or entries, of one look. Few in tests, so that searches take several.
const LOOK_MAX: usize = if cfg!(test) { 2 } else { 512 };

/// The names that are read are looked at if they are at most so many. Of more, the entries of the
/// inbox are: a search goes on behind a name, and nobody is told a name that it does not follow.
const READ_NAMES_MAX: usize = if cfg!(test) { 5 } else { 8_192 };

/// A collection that a subject follows and that does not announce itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotFollow {
    /// Which collection.
    pub name: CollectionName,
    /// Where the inbox says that it stands.
    pub entry: InboxEntry,
    /// Where it stands.
    pub truth: InboxEntry,
}

/// A search among what a subject follows.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "whether something may be told is a function")]
pub struct Search<'a> {
    /// The inbox.
    pub inbox: &'a CollectionName,
    /// Which of its entries.
    pub scope: &'a Scope,
    /// Only names behind this one.
    pub after: Option<&'a CollectionName>,
    /// Only those of which the inbox does not say where they stand.
    pub only_moved: bool,
    /// Only what may be told.
    pub may_read: &'a dyn Fn(&CollectionName) -> bool,
    /// End when this many are found.
    pub most: usize,
}

/// What a search found, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What was sought, and it was seen to be so.
    pub follows: Vec<HotFollow>,
    /// The search ended early, behind this one, which may be one of them.
    pub rest: Option<HotFollow>,
}

/// A name that may be what is sought: where it stands, and where its entry is, if that is known.
struct Candidate {
    name: CollectionName,
    truth: InboxEntry,
    version: Option<Version>,
}

/// Live entries with their versions, and behind which name there may be more.
type Entries = (Vec<Entry>, Option<CollectionName>);

/// A name that is followed, and the version of its entry.
type Entry = (CollectionName, Version);

/// Candidates of one durable state, in the inbox of this id.
struct Candidates<'v, S> {
    id: CollectionId,
    names: Vec<Candidate>,
    /// The last entry that was looked at, if entries were.
    last: Option<Entry>,
    /// Behind which name there may be more.
    next: Option<CollectionName>,
    view: View<'v, S>,
}

/// What one look found.
#[derive(Default)]
struct Looked {
    found: Vec<HotFollow>,
    /// A place of the inbox behind which a search can go on, if it was looked at.
    last: Option<HotFollow>,
    /// Behind which name to look next; `None`: that was all.
    next: Option<CollectionName>,
}

// === impl Ledger ===

impl<S: Store> Ledger<S> {
    /// Whether no collection is read by its followers.
    pub fn announces_everything(&self) -> bool {
        self.heads.read().read_diffused.is_empty()
    }

    /// How often a collection came to be read by its followers, or ceased to be.
    pub fn switches(&self) -> u64 {
        self.heads.read().switches
    }

    /// Those that came to be read since there had been so many switches; `None`: too many to say.
    pub fn switched_since(&self, switches: u64) -> Option<BTreeSet<CollectionName>> {
        let heads = self.heads.read();
        let behind = (Bound::Excluded(switches), Bound::Unbounded);
        let since = heads.read_since.range(behind).map(|(_, name)| name.clone());
        let since: BTreeSet<_> = since.take(READ_NAMES_MAX + 1).collect();
        (since.len() <= READ_NAMES_MAX).then_some(since)
    }

    /// Searches, by name. Takes its looks out of `looks`, and takes one at least; looks on as long
    /// as there is nothing behind which the next search could go on. Stops when nobody waits any
    /// more.
    pub fn hot_follows(
        &self,
        search: &Search<'_>,
        looks: &mut usize,
        cancelled: &AtomicBool,
    ) -> Result<Found, StoreError> {
        let mut found = Found::default();
        let mut after = search.after.cloned();
        while found.follows.len() < search.most && !cancelled.load(Ordering::Relaxed) {
            if *looks == 0 && found.rest.is_some() {
                return Ok(found);
            }
            *looks = looks.saturating_sub(1);
            let looked = self.look_for_hot(search, after.as_ref())?;
            found.follows.extend(looked.found);
            found.rest = looked.last.or(found.rest);
            if looked.next.is_none() {
                break;
            }
            after = looked.next;
        }
        found.rest = None;
        found.follows.truncate(search.most);
        Ok(found)
    }

    /// What a subject follows under one name, if it does not announce itself.
    pub fn hot_follow(
        &self,
        inbox: &CollectionName,
        name: &CollectionName,
    ) -> Result<Option<HotFollow>, StoreError> {
        let Some((id, candidate, view)) = self.candidate(inbox, name) else { return Ok(None) };
        Ok(follows(id, vec![candidate], &view)?.pop())
    }

    /// Where a name stands by now, and whether those who follow it must be told so.
    pub fn stands_at(&self, name: &CollectionName) -> Option<(InboxEntry, Option<Head>)> {
        let heads = self.heads.read();
        let audience = heads.audiences.get(name)?;
        let head = heads.by_name.get(name).map(|(_, meta)| meta.head);
        (audience.mode == Diffusion::Read).then(|| (truth(head.as_ref(), audience), head))
    }

    /// What the answer to a target says besides: of an inbox that is read to its end, where those
    /// collections stand that it does not announce. `bytes_max` bounds it; with `some`, at least
    /// one is told whatever it takes. Also how many bytes it takes.
    pub(super) fn polled(
        &self,
        target: &Target,
        outcome: &Outcome<Bytes>,
        (bytes_max, some): (usize, bool),
        looks: &mut usize,
        cancelled: &AtomicBool,
    ) -> Result<(Polled, usize), StoreError> {
        let complete = match outcome {
            Outcome::Aligned(_) => true,
            Outcome::Delta(delta) => !delta.has_more,
            Outcome::Reset(_)
            | Outcome::Denied
            | Outcome::NotFound
            | Outcome::Deferred(_)
            | Outcome::Failed(_) => false,
        };
        if !complete || !target.collection.is_inbox() {
            return Ok((Polled::default(), 0));
        }
        let search = Search {
            inbox: &target.collection,
            scope: &target.scope,
            after: target.polled_after.as_ref(),
            only_moved: true,
            // Where it stands is no more than the entry says that its subject reads anyway.
            may_read: &|_| true,
            most: POLLED_MAX + 1,
        };
        let Found { mut follows, rest } = self.hot_follows(&search, looks, cancelled)?;
        let ends_early = rest.is_some();
        // The place to go on from is told too: it says what the inbox says, or what was found.
        follows.extend(rest.filter(|rest| follows.last().is_none_or(|it| it.name != rest.name)));
        let (count, mut bytes) = (follows.len(), 0);
        let fits = |found: &HotFollow| {
            let size = POLLED_OVERHEAD_BYTES + found.name.as_str().len();
            let fits = bytes + size <= bytes_max || (some && bytes == 0);
            bytes += if fits { size } else { 0 };
            fits
        };
        let heads: Vec<PolledHead> = follows
            .into_iter()
            .take(POLLED_MAX)
            .take_while(fits)
            .map(|found| PolledHead { collection: found.name, entry: found.truth })
            .collect();
        let more = heads.len() < count || ends_early;
        Ok((Polled { heads, more }, bytes))
    }

    fn look_for_hot(
        &self,
        search: &Search<'_>,
        after: Option<&CollectionName>,
    ) -> Result<Looked, StoreError> {
        let Some(looked) = self.candidates(search, after)? else { return Ok(Looked::default()) };
        let Candidates { id, names, last, next, view } = looked;
        let sought = |candidate: &Candidate| {
            in_scope(search.scope, &candidate.name) && (search.may_read)(&candidate.name)
        };
        let mut found = follows(id, names.into_iter().filter(sought).collect(), &view)?;
        found.retain(|follow| !(search.only_moved && follow.entry == follow.truth));
        let last = match last.filter(|_| next.is_some()) {
            Some((name, version)) => {
                let entry = entry_at(id, &name, version, &view)?;
                let told = found.last().filter(|told| told.name == name);
                Some(told.cloned().unwrap_or(HotFollow { name, entry, truth: entry }))
            }
            None => None,
        };
        Ok(Looked { found, last, next })
    }

    fn candidate(
        &self,
        inbox: &CollectionName,
        name: &CollectionName,
    ) -> Option<(CollectionId, Candidate, View<'_, S>)> {
        let view = self.view_of_now();
        let heads = self.heads.read();
        // Nothing is applied while the view lives, so at most its batch has become durable.
        let view = view.settled(Arc::clone(&heads.undo));
        let (id, _) = heads.by_name.get(inbox)?;
        let candidate = heads.candidate(name, None)?;
        Some((*id, candidate, view))
    }

    /// Names that may be what is sought, and the rows that belong to them.
    fn candidates(
        &self,
        search: &Search<'_>,
        after: Option<&CollectionName>,
    ) -> Result<Option<Candidates<'_, S>>, StoreError> {
        let view = self.view_of_now();
        let (id, view) = {
            let heads = self.heads.read();
            let view = view.settled(Arc::clone(&heads.undo));
            let Some((id, meta)) = heads.by_name.get(search.inbox) else { return Ok(None) };
            if heads.read_diffused.is_empty() {
                return Ok(None);
            }
            let read = heads.read_diffused.len();
            if read <= READ_NAMES_MAX && read as u64 <= meta.head.items {
                let bound = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_str()));
                let names = heads.read_diffused.range::<str, _>((bound, Bound::Unbounded));
                let names: Vec<_> = names.map(|(name, _)| name).take(LOOK_MAX).cloned().collect();
                let next = names.last().filter(|_| names.len() == LOOK_MAX).cloned();
                let names = names.iter().filter_map(|name| heads.candidate(name, None)).collect();
                return Ok(Some(Candidates { id: *id, names, last: None, next, view }));
            }
            (*id, view)
        };
        self.candidates_of_inbox(id, search.scope, after, view).map(Some)
    }

    fn candidates_of_inbox<'v>(
        &'v self,
        id: CollectionId,
        scope: &Scope,
        after: Option<&CollectionName>,
        mut view: View<'v, S>,
    ) -> Result<Candidates<'v, S>, StoreError> {
        loop {
            let (entries, next) = entries(id, scope, after, &view)?;
            let heads = self.heads.read();
            if view.belongs_to(&heads.undo) {
                let last = entries.iter().rfind(|(name, _)| in_scope(scope, name)).cloned();
                let names = entries
                    .into_iter()
                    .filter_map(|(name, version)| heads.candidate(&name, Some(version)));
                let names = names.collect();
                return Ok(Candidates { id, names, last, next, view });
            }
            // A batch has become durable meanwhile. No other is applied while the view lives, so
            // this happens once.
            view = view.settled(Arc::clone(&heads.undo));
        }
    }
}

// === impl Heads ===

impl Heads {
    /// A name, if its followers read.
    fn candidate(&self, name: &CollectionName, version: Option<Version>) -> Option<Candidate> {
        let audience = self.audiences.get(name)?;
        let head = self.by_name.get(name).map(|(_, meta)| &meta.head);
        let truth = truth(head, audience);
        (audience.mode == Diffusion::Read).then(|| Candidate { name: name.clone(), truth, version })
    }
}

/// What an inbox says of those names that its subject follows.
fn follows<S: Store>(
    id: CollectionId,
    candidates: Vec<Candidate>,
    view: &View<'_, S>,
) -> Result<Vec<HotFollow>, StoreError> {
    let unknown = candidates.iter().filter(|candidate| candidate.version.is_none());
    let places: Vec<_> = unknown.map(|it| keys::key_key(id, &entry_key(&it.name))).collect();
    let mut rows = view.get_many(&places)?.into_iter();
    let (mut followed, mut logs) = (Vec::new(), Vec::new());
    for Candidate { name, truth, version } in candidates {
        let version = if version.is_some() {
            version
        } else {
            let row = rows.next().expect("one for each").map(KeyRow::decode).transpose()?;
            row.filter(|row| row.kind == RowKind::Live).map(|row| row.version)
        };
        if let Some(version) = version {
            logs.push(keys::log_key(id, version, &entry_key(&name)));
            followed.push((name, truth));
        }
    }
    let follow = |((name, truth), log)| Ok(HotFollow { name, entry: entry(log)?, truth });
    followed.into_iter().zip(view.get_many(&logs)?).map(follow).collect()
}

fn entry_at<S: Store>(
    id: CollectionId,
    name: &CollectionName,
    version: Version,
    view: &View<'_, S>,
) -> Result<InboxEntry, StoreError> {
    entry(view.get(&keys::log_key(id, version, &entry_key(name)))?)
}

fn entry(log: Option<Bytes>) -> Result<InboxEntry, StoreError> {
    let log = log.ok_or_else(|| no_entry("a key points to a log row that is not there"))?;
    let change =
        decode_change(LogRow::decode(log)?.change).map_err(|error| no_entry(&error.to_string()))?;
    match change.kind {
        ChangeKind::Put { value: Some(value), .. } => {
            decode_inbox_entry(&value).map_err(|error| no_entry(&error.to_string()))
        }
        ChangeKind::Put { value: None, .. } | ChangeKind::Delete | ChangeKind::LeftScope => {
            Err(no_entry("a live entry without a value"))
        }
    }
}

/// The next live entries of an inbox, and behind which name there may be more.
fn entries<S: Store>(
    id: CollectionId,
    scope: &Scope,
    after: Option<&CollectionName>,
    view: &View<'_, S>,
) -> Result<Entries, StoreError> {
    let whole = match scope {
        Scope::KeyPrefix(prefix) => keys::key_range(id, prefix),
        Scope::All | Scope::Keys(_) | Scope::Order(_) => keys::key_range(id, &[]),
    };
    let range = match after {
        Some(name) => {
            let mut start = keys::key_key(id, &entry_key(name));
            start.push(0);
            KeyRange { start: start.max(whole.start), end: whole.end }
        }
        None => whole,
    };
    let mut entries = Vec::new();
    let (mut rows, mut last, mut more, mut broken) = (0, None, false, None);
    view.scan(&range, Direction::Forward, &mut |place, value| {
        if rows == LOOK_MAX {
            more = true;
            return ControlFlow::Break(());
        }
        rows += 1;
        match Row::decode(place, value) {
            Ok(Row::Key { key, row, .. }) => match name_of(&key) {
                Ok(name) => {
                    if row.kind == RowKind::Live {
                        entries.push((name.clone(), row.version));
                    }
                    last = Some(name);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    broken = Some(error);
                    ControlFlow::Break(())
                }
            },
            Ok(_) => ControlFlow::Break(()),
            Err(error) => {
                broken = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    broken.map_or(Ok((entries, last.filter(|_| more))), Err)
}

/// The name that a key of an inbox stands for.
pub(super) fn name_of(key: &Key) -> Result<CollectionName, StoreError> {
    let name = std::str::from_utf8(key.as_bytes()).ok();
    let name = name.and_then(|name| CollectionName::new(name).ok());
    name.ok_or_else(|| no_entry("an entry of what is no name"))
}

fn no_entry(reason: &str) -> StoreError {
    StoreError::Damaged { place: "an inbox".to_owned(), reason: reason.to_owned() }
}
