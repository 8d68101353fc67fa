//! What is known of a store from outside, over all its lives: everything that was acknowledged
//! to a writer or shown to a reader, and what must therefore be there.

use std::collections::BTreeMap;
use std::fmt;

use sync_proto::types::{Epoch, Version};

use super::plan::{COLLECTIONS, Id, Rows, Values, WRITERS, churned, mirrored};
use crate::compose::name;
use crate::reader::PlainReader;
use crate::wire::Wire;

/// A promise that was not kept, in words.
#[derive(Debug)]
pub struct Violation(pub String);

/// What is known of a store.
#[derive(Debug)]
pub struct Known {
    values: Values,
    lines: [Line; 3],
    acknowledged: [u64; WRITERS],
    sent: [u64; WRITERS],
}

/// What is known of one collection.
#[derive(Debug, Default)]
struct Line {
    epoch: Option<Epoch>,
    /// The newest version that anybody was shown.
    shown: Version,
    /// Which commit has which version.
    given: BTreeMap<Version, Id>,
    versions: BTreeMap<Id, Version>,
}

/// Fails with a sentence unless it holds.
pub fn ensure(holds: bool, says: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(says())) }
}

// === impl Known ===

impl Known {
    /// Of a store that nobody has written to.
    #[must_use]
    pub fn new(values: Values) -> Self {
        Self { values, lines: Default::default(), acknowledged: [0; WRITERS], sent: [0; WRITERS] }
    }

    /// How large the values are.
    #[must_use]
    pub fn values(&self) -> Values {
        self.values
    }

    /// Commits whose versions are known.
    #[must_use]
    pub fn commits(&self) -> usize {
        self.lines[0].given.len()
    }

    /// The next commit of a writer.
    #[must_use]
    pub fn next(&self, writer: usize) -> Id {
        Id { writer, number: self.acknowledged[writer] + 1 }
    }

    /// A commit was sent; whether it happened is another question.
    pub fn note_sent(&mut self, id: Id) {
        self.sent[id.writer] = self.sent[id.writer].max(id.number);
    }

    /// A commit was acknowledged with this version of a collection.
    pub fn note_acknowledged(
        &mut self,
        collection: usize,
        id: Id,
        version: Version,
    ) -> Result<(), Violation> {
        self.note_sent(id);
        self.acknowledged[id.writer] = self.acknowledged[id.writer].max(id.number);
        self.note_seen(collection, version, id)
    }

    /// Somebody was shown that this version is that commit.
    pub fn note_seen(
        &mut self,
        collection: usize,
        version: Version,
        id: Id,
    ) -> Result<(), Violation> {
        let at = COLLECTIONS[collection];
        self.note_shown(collection, version);
        let line = &mut self.lines[collection];
        let before = line.given.insert(version, id).unwrap_or(id);
        ensure(before == id, || format!("{at}: {version} was given to {before:?} and to {id:?}"))?;
        let before = line.versions.insert(id, version).unwrap_or(version);
        ensure(before == version, || format!("{at}: {id:?} has version {before} and {version}"))
    }

    /// Somebody was shown this head.
    pub fn note_shown(&mut self, collection: usize, version: Version) {
        let line = &mut self.lines[collection];
        line.shown = line.shown.max(version);
    }

    /// Compares the store with everything that is known of it, and settles what was not.
    pub async fn check(&mut self, wire: &Wire) -> Result<(), Violation> {
        let mut loads = Vec::new();
        for collection in 0..COLLECTIONS.len() {
            loads.push(self.load(wire, collection).await?);
        }
        ensure(loads[0].contents() == loads[1].contents(), || "half a commit".to_owned())?;
        let mut done = [0; WRITERS];
        for row in &loads[0].copy.rows {
            let value = row.1.value.clone().unwrap_or_default();
            if let Some(id) = Id::of_row(row.0.as_bytes(), value.as_bytes()) {
                done[id.writer] = id.number;
            }
        }
        for (writer, done) in done.iter().enumerate() {
            let (low, high) = (self.acknowledged[writer], self.sent[writer]);
            ensure((low..=high).contains(done), || {
                format!("writer {writer}: {low} acknowledged, {high} sent, {done} there")
            })?;
        }
        let mirrored = mirrored(&done, self.values);
        self.compare(0, &loads[0], &mirrored)?;
        self.compare(1, &loads[1], &mirrored)?;
        self.compare(2, &loads[2], &churned(&done))?;
        for (writer, done) in done.into_iter().enumerate() {
            for number in self.acknowledged[writer] + 1..=done {
                self.settle(wire, Id { writer, number }).await?;
            }
        }
        Ok(())
    }

    /// Everything of a collection, which must not be less than what was shown.
    async fn load(&mut self, wire: &Wire, collection: usize) -> Result<PlainReader, Violation> {
        let at = COLLECTIONS[collection];
        let head = wire.head(&name(at)).await;
        let line = &mut self.lines[collection];
        if let Some(head) = head {
            ensure(line.epoch.is_none_or(|epoch| epoch == head.epoch), || {
                format!("{at}: another epoch")
            })?;
            line.epoch = Some(head.epoch);
        }
        let version = head.map_or(Version::ZERO, |head| head.version);
        ensure(version >= line.shown, || {
            format!("{at}: {} was shown, now it stands at {version}", line.shown)
        })?;
        // What the check itself sees counts as shown.
        line.shown = version;
        if head.is_none() {
            return Ok(PlainReader::new(crate::compose::scratch(at)));
        }
        let wire = wire.clone();
        let loading =
            tokio_util::task::TaskTracker::new().spawn(async move { wire.load(at).await });
        loading.await.map_err(|panic| Violation(format!("{at}: {}", told(panic))))
    }

    /// Every row is what it must be, at the version that its commit has.
    fn compare(
        &mut self,
        collection: usize,
        load: &PlainReader,
        wanted: &Rows,
    ) -> Result<(), Violation> {
        let at = COLLECTIONS[collection];
        ensure(load.copy.rows.len() == wanted.len(), || {
            format!("{at}: {} rows instead of {}", load.copy.rows.len(), wanted.len())
        })?;
        for (key, row) in &load.copy.rows {
            let value = row.value.clone().unwrap_or_default();
            let (key, len) = (key.as_bytes(), value.as_bytes().len());
            let text = String::from_utf8_lossy(key);
            let Some((id, wanted)) = wanted.get(key) else {
                return Err(Violation(format!("{at}: {text} should not be there")));
            };
            ensure(value.as_bytes() == wanted, || {
                format!("{at}: {text} has {len} bytes that are not the {} of {id:?}", wanted.len())
            })?;
            self.note_seen(collection, row.version, *id)?;
        }
        Ok(())
    }

    /// A commit is there whose answer was lost: sent again, it says so and does nothing.
    async fn settle(&mut self, wire: &Wire, id: Id) -> Result<(), Violation> {
        let reply = wire.commit_reply(id.commit(self.values)).await;
        let reply = reply.map_err(|status| Violation(format!("{id:?} sent again: {status}")))?;
        ensure(reply.replayed, || format!("{id:?} happened twice"))?;
        for told in reply.collections {
            let collection = COLLECTIONS.iter().position(|name| *name == told.collection);
            let collection = collection.expect("a commit changes these three");
            let version = Version::new(told.version).expect("a version");
            self.note_acknowledged(collection, id, version)?;
        }
        Ok(())
    }
}

/// What a task panicked with.
pub(super) fn told(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "was cancelled".to_owned() };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without words".to_owned())
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
