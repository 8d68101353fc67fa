//! Whether the rows of a store fit together. Pure: rows are fed in key order, once; what does
//! not fit is a finding. Every relation between rows is a sum over both sides that must agree,
//! so the check needs a few words of memory per collection and no look-ups (the idea of the
//! digest, applied to ourselves).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::quality::FixedState;
use sync_proto::digest::{Digest, SEGMENTS, Segment};
use sync_proto::types::{CollectionName, Key, Policy, Subject, Version};

use crate::store::StoreError;
use crate::store::keys::{CollectionId, ROW_FORMAT, ROW_FORMAT_INDEXED, ROW_FORMAT_OLDEST, Row};
use crate::store::rows::{Audience, KeyRow, LogRow, Meta, RowKind, Sweep};

use self::acked::AckTally;
use self::audiences::Audiences;
pub use self::logged::Logged;

mod acked;
mod alone;
mod audiences;
mod logged;
#[cfg(test)]
mod tests;

/// Findings that are kept; a store that is broken everywhere need not be listed whole.
const FINDINGS_MAX: usize = 100;

/// Takes rows of a store in key order and says whether they fit together. Several can share the
/// work, each with another part of the rows, if they are merged before the end.
#[derive(Debug, Default)]
pub struct Checker {
    tallies: BTreeMap<CollectionId, Tally>,
    names: BTreeMap<String, CollectionId>,
    doomed: Vec<CollectionId>,
    /// Segment sums of the collection whose log is being read.
    segments: Option<(CollectionId, Vec<Digest>)>,
    /// Takes a part of one collection's log only: its sums are not complete before the end.
    partial: bool,
    partial_segments: BTreeMap<CollectionId, Vec<Digest>>,
    receipts: Sum,
    receipt_ages: Sum,
    audiences: Audiences,
    acks: AckTally,
    next_id: Option<CollectionId>,
    format: Option<u32>,
    upgrading: bool,
    rows: u64,
    findings: Vec<String>,
    findings_count: u64,
}

/// What a check came to.
#[derive(Debug, Default)]
pub struct Report {
    /// What was found to be there.
    pub checked: Checked,
    /// What does not fit, the first of it.
    pub findings: Vec<String>,
    /// How much does not fit.
    pub findings_count: u64,
    /// Collections whose sums do not agree: which of their rows is wrong takes another look.
    pub suspects: Vec<CollectionId>,
    /// Likewise, receipts and their ages.
    pub receipts_differ: bool,
    /// Likewise, audiences and inboxes.
    pub audiences_differ: bool,
    /// Likewise, cursors that are held for clients, and their ages.
    pub acks_differ: bool,
}

/// A store whose rows fit together.
#[derive(Debug, Default)]
pub struct Checked {
    /// Its collections.
    pub collections: Vec<(CollectionId, Meta)>,
    /// Deleted collections whose rows are still to be purged.
    pub doomed: Vec<CollectionId>,
    /// The id that the next new collection gets.
    pub next_id: u64,
    /// How many receipts are kept.
    pub receipts: u64,
    /// How many cursors are held for clients.
    pub acks: u64,
    /// Rows read.
    pub rows: u64,
    /// Whether there was nothing at all: a new store.
    pub empty: bool,
    /// Whether the rows are of an older format, or on the way from one.
    pub outdated: bool,
    /// Whether the items by segment are not all there yet.
    pub unindexed: bool,
    /// Those who follow, by name.
    pub audiences: BTreeMap<CollectionName, Audience>,
    /// Whose inboxes are still to be told of deletions.
    pub sweeps: BTreeMap<CollectionName, Sweep>,
}

/// What the rows of one collection say, from each side.
#[derive(Debug, Default)]
struct Tally {
    meta: Option<Meta>,
    policy: Policy,
    log_items: u64,
    log_tombstones: u64,
    log_bytes: u64,
    log_digest: Digest,
    newest: Version,
    oldest_tombstone: Option<Version>,
    log_rows: Sum,
    key_rows: Sum,
    log_order: Sum,
    order_rows: Sum,
    key_tombstones: Sum,
    tombstone_rows: Sum,
    log_segments: Sum,
    segment_rows: Sum,
    log_members: Sum,
    member_rows: Sum,
}

/// An order-independent sum of rows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sum {
    count: u64,
    sum: u64,
}

// === impl Checker ===

impl Checker {
    /// Takes the next row.
    pub fn row(&mut self, key: &[u8], value: Bytes) {
        self.rows += 1;
        match Row::decode(key, value) {
            Ok(row) => self.take(row),
            Err(error) => self.finding(error.to_string()),
        }
    }

    /// Rows taken so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes a part of the rows; others take the rest. `partial`: it is a part of the log of one
    /// collection. `inboxes` are the ids of all inboxes, whose names may be elsewhere.
    #[must_use]
    pub fn of_part(partial: bool, inboxes: Arc<BTreeSet<CollectionId>>) -> Self {
        Self { partial, audiences: Audiences::knowing(inboxes), ..Self::default() }
    }

    /// Takes over what another has found in other rows of the same store.
    pub fn merge(&mut self, mut other: Self) {
        self.close_segments();
        other.close_segments();
        for (id, tally) in other.tallies {
            self.tally(id).merge(tally);
        }
        for (id, sums) in other.partial_segments {
            match self.partial_segments.entry(id) {
                Entry::Vacant(place) => drop(place.insert(sums)),
                Entry::Occupied(mut place) => {
                    for (ours, theirs) in place.get_mut().iter_mut().zip(sums) {
                        *ours += theirs;
                    }
                }
            }
        }
        self.names.extend(other.names);
        self.doomed.extend(other.doomed);
        self.receipts.merge(other.receipts);
        self.receipt_ages.merge(other.receipt_ages);
        self.audiences.merge(other.audiences);
        self.acks.merge(other.acks);
        self.next_id = self.next_id.or(other.next_id);
        self.format = self.format.or(other.format);
        self.upgrading |= other.upgrading;
        self.rows += other.rows;
        let more = FINDINGS_MAX.saturating_sub(self.findings.len());
        self.findings.extend(other.findings.into_iter().take(more));
        self.findings_count += other.findings_count;
    }

    /// What does not fit, or the store's collections.
    pub fn finish(self) -> Result<Checked, Vec<String>> {
        let report = self.report();
        if report.findings.is_empty() { Ok(report.checked) } else { Err(report.findings) }
    }

    /// What was found, whether or not it fits.
    #[must_use]
    pub fn report(mut self) -> Report {
        self.close_segments();
        for (id, sums) in std::mem::take(&mut self.partial_segments) {
            self.tally(id).add_segments(sums);
        }
        self.judge_format();
        let older = |than| self.rows > 0 && self.format.is_some_and(|format| format < than);
        let unindexed = self.upgrading || older(ROW_FORMAT_INDEXED);
        let outdated = unindexed || older(ROW_FORMAT);
        let receipts_differ = self.receipts != self.receipt_ages;
        if receipts_differ {
            self.finding("receipts and their ages do not agree".to_owned());
        }
        let next_id = self.next_id.map_or(0, |id| id.0);
        let (mut collections, mut suspects, mut heads) = (Vec::new(), Vec::new(), 0);
        let mut inboxes = BTreeMap::new();
        for (id, tally) in std::mem::take(&mut self.tallies) {
            if id.0 >= next_id {
                self.finding(format!("collection {} is not below the next id {next_id}", id.0));
            }
            if self.doomed.contains(&id) {
                continue;
            }
            heads += usize::from(tally.meta.is_some());
            let name = tally.meta.as_ref().map(|meta| &meta.name);
            if let Some(subject) = name.and_then(Subject::of_inbox) {
                inboxes.insert(subject, tally.log_members);
            }
            match self.judge(id, tally, unindexed) {
                Ok(meta) => collections.push((id, meta)),
                Err(reason) => {
                    suspects.push(id);
                    self.finding(format!("collection {}: {reason}", id.0));
                }
            }
        }
        if self.names.len() != heads {
            self.finding("names and collections do not agree".to_owned());
        }
        // What is wrong with a collection says enough of its followers.
        let audiences_differ =
            suspects.is_empty() && self.tell_all(self.audiences.judge(&collections, inboxes));
        let acks_differ = !self.acks.agree();
        let disagree = acks_differ.then(|| "acks and their ages do not agree".to_owned());
        self.tell_all(disagree.into_iter().chain(self.acks.beyond(&collections)).collect());
        let checked = Checked {
            collections,
            doomed: self.doomed,
            next_id,
            receipts: self.receipts.count,
            acks: self.acks.count(),
            rows: self.rows,
            empty: self.rows == 0,
            outdated,
            unindexed,
            audiences: self.audiences.states,
            sweeps: self.audiences.sweeps,
        };
        let (findings, findings_count) = (self.findings, self.findings_count);
        Report {
            checked,
            findings,
            findings_count,
            suspects,
            receipts_differ,
            audiences_differ,
            acks_differ,
        }
    }

    fn judge_format(&mut self) {
        let known = |format| (ROW_FORMAT_OLDEST..=ROW_FORMAT).contains(&format);
        if self.rows > 0 && !self.format.is_some_and(known) {
            self.finding(format!("row format {:?}, this program writes {ROW_FORMAT}", self.format));
        }
    }

    /// Takes these findings; whether there are any.
    fn tell_all(&mut self, findings: Vec<String>) -> bool {
        let any = !findings.is_empty();
        for finding in findings {
            self.finding(finding);
        }
        any
    }

    fn take(&mut self, row: Row) {
        match row {
            Row::Name { name, id } => {
                self.audiences.name(&name, id);
                self.names.insert(name, id);
            }
            Row::Meta { id, meta } => self.tally(id).meta = Some(meta),
            Row::Log { id, version, key, row } => {
                if let Err(reason) = self.log_row(id, version, &key, row) {
                    self.finding(format!("collection {}, version {version}: {reason}", id.0));
                }
            }
            Row::Key { id, key, row } => self.tally(id).key_row(&key, &row),
            Row::Order { id, sort_key, key } => {
                self.tally(id).order_rows.add((sort_key.as_bytes(), key.as_bytes()));
            }
            Row::Segment { id, segment, digest } => {
                self.tally(id).segment_rows.add((segment.get(), digest.to_be_bytes()));
            }
            Row::Tombstone { id, time, version, key } => {
                self.tally(id).tombstone_rows.add((
                    time.as_millis(),
                    version.get(),
                    key.as_bytes(),
                ));
            }
            Row::Doomed { id } => self.doomed.push(id),
            Row::Receipt { kind, name, receipt } => {
                self.receipts.add((receipt.time.as_millis(), kind, name));
            }
            Row::ReceiptAge { time, kind, name } => {
                self.receipt_ages.add((time.as_millis(), kind, name));
            }
            Row::NextId { id } => self.next_id = Some(id),
            Row::Format { format } => self.format = Some(format),
            Row::Upgrading => self.upgrading = true,
            Row::Member { id, segment, key } => {
                self.tally(id).member_rows.add((segment.get(), key.as_bytes()));
            }
            Row::Policy { id, policy } => self.tally(id).policy = policy,
            Row::Audience { name, subject } => self.audiences.follower(name, subject),
            Row::AudienceState { name, audience } => {
                self.audiences.states.insert(name, audience);
            }
            Row::Sweep { name, sweep } => {
                self.audiences.sweeps.insert(name, sweep);
            }
            Row::Ack { place, held } => self.acks.ack(&place, &held),
            Row::AckAge { time, place } => self.acks.age(time, &place),
        }
    }

    fn tally(&mut self, id: CollectionId) -> &mut Tally {
        self.tallies.entry(id).or_default()
    }

    fn log_row(
        &mut self,
        id: CollectionId,
        version: Version,
        key: &Key,
        row: LogRow,
    ) -> Result<(), String> {
        if self.segments.as_ref().is_none_or(|(open, _)| *open != id) {
            self.close_segments();
            self.segments = Some((id, vec![Digest::EMPTY; SEGMENTS]));
        }
        let change = row.change.clone();
        let logged = Logged::of_log(version, key, row)?;
        if logged.live {
            self.audiences.item(id, key, &change)?;
        }
        let tally = self.tallies.entry(id).or_default();
        tally.newest = tally.newest.max(version);
        if logged.live {
            tally.log_items += 1;
            tally.log_digest += logged.digest;
            tally.log_bytes += logged.bytes(key);
            tally.log_order.add((logged.sort_key.as_bytes(), key.as_bytes()));
            let (_, sums) = self.segments.as_mut().expect("opened above");
            let segment = Segment::of_key(key).get();
            sums[usize::from(segment)] += logged.digest;
            tally.log_members.add((segment, key.as_bytes()));
        } else {
            tally.log_tombstones += 1;
            let oldest = tally.oldest_tombstone.get_or_insert(version);
            *oldest = version.min(*oldest);
        }
        tally.log_rows.add((key.as_bytes(), logged));
        Ok(())
    }

    fn close_segments(&mut self) {
        let Some((id, sums)) = self.segments.take() else { return };
        if !self.partial {
            self.tally(id).add_segments(sums);
            return;
        }
        let place =
            self.partial_segments.entry(id).or_insert_with(|| vec![Digest::EMPTY; SEGMENTS]);
        for (whole, part) in place.iter_mut().zip(sums) {
            *whole += part;
        }
    }

    fn judge(&self, id: CollectionId, tally: Tally, unindexed: bool) -> Result<Meta, String> {
        let Some(meta) = tally.meta else { return Err("rows without a head".to_owned()) };
        let meta = Meta { policy: tally.policy, ..meta };
        if self.names.get(meta.name.as_str()) != Some(&id) {
            return Err("its name leads elsewhere".to_owned());
        }
        let head = &meta.head;
        let agree = [
            ("live items", head.items == tally.log_items),
            ("tombstones", head.tombstones == tally.log_tombstones),
            ("bytes", head.bytes == tally.log_bytes),
            ("digest", head.digest == tally.log_digest),
            ("head", tally.newest <= head.version),
            // Tombstones go oldest first, and the floor with them; of its own version some may stay.
            ("floor", tally.oldest_tombstone.is_none_or(|oldest| oldest >= head.floor)),
            ("key rows", tally.key_rows == tally.log_rows),
            ("list order", tally.order_rows == tally.log_order),
            ("tombstone ages", tally.tombstone_rows == tally.key_tombstones),
            ("segment sums", tally.segment_rows == tally.log_segments),
            // Older rows have no such index yet; it is made of the others.
            ("items by segment", unindexed || tally.member_rows == tally.log_members),
        ];
        match agree.iter().find(|(_, fits)| !fits) {
            None => Ok(meta),
            Some((what, _)) => Err(format!("{what} do not agree with the log")),
        }
    }

    fn finding(&mut self, finding: String) {
        self.findings_count += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

// === impl Tally ===

impl Tally {
    fn key_row(&mut self, key: &Key, row: &KeyRow) {
        self.key_rows.add((key.as_bytes(), Logged::of_key(row)));
        if row.kind == RowKind::Tombstone {
            let place = (row.time.as_millis(), row.version.get(), key.as_bytes());
            self.key_tombstones.add(place);
        }
    }

    fn add_segments(&mut self, sums: Vec<Digest>) {
        for (number, sum) in (0u16..).zip(sums) {
            if sum != Digest::EMPTY {
                self.log_segments.add((number, sum.to_be_bytes()));
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.meta = self.meta.take().or(other.meta);
        self.policy = self.policy.with(other.policy);
        self.log_items += other.log_items;
        self.log_tombstones += other.log_tombstones;
        self.log_bytes += other.log_bytes;
        self.log_digest += other.log_digest;
        self.newest = self.newest.max(other.newest);
        self.oldest_tombstone =
            [self.oldest_tombstone, other.oldest_tombstone].into_iter().flatten().min();
        for (ours, theirs) in [
            (&mut self.log_rows, other.log_rows),
            (&mut self.key_rows, other.key_rows),
            (&mut self.log_order, other.log_order),
            (&mut self.order_rows, other.order_rows),
            (&mut self.key_tombstones, other.key_tombstones),
            (&mut self.tombstone_rows, other.tombstone_rows),
            (&mut self.log_segments, other.log_segments),
            (&mut self.segment_rows, other.segment_rows),
            (&mut self.log_members, other.log_members),
            (&mut self.member_rows, other.member_rows),
        ] {
            ours.merge(theirs);
        }
    }
}

// === impl Sum ===

impl Sum {
    fn add(&mut self, row: impl Hash) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(FixedState::default().hash_one(row));
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// The findings of a check as one error.
#[must_use]
pub fn as_damage(findings: &[String]) -> StoreError {
    StoreError::Damaged {
        place: "the rows".to_owned(),
        reason: format!("{} finding(s): {}", findings.len(), findings.join("; ")),
    }
}
