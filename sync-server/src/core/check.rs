//! Whether the rows of a store fit together. Pure: rows are fed in key order, once; what does
//! not fit is a finding. Every relation between rows is a sum over both sides that must agree,
//! so the check needs a few words of memory per collection and no look-ups (the idea of the
//! digest, applied to ourselves).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use sync_proto::convert::decode_change;
use sync_proto::digest::{Digest, SEGMENTS, Segment};
use sync_proto::types::{ChangeKind, Key, Version};

use crate::store::StoreError;
use crate::store::keys::{CollectionId, ROW_FORMAT, Row};
use crate::store::rows::{KeyRow, LogRow, Meta, RowKind};

/// Findings that are kept; a store that is broken everywhere need not be listed whole.
const FINDINGS_MAX: usize = 100;

/// Takes all rows of a store in key order and says whether they fit together.
#[derive(Debug, Default)]
pub struct Checker {
    tallies: BTreeMap<CollectionId, Tally>,
    names: BTreeMap<String, CollectionId>,
    doomed: Vec<CollectionId>,
    /// Segment sums of the collection whose log is being read.
    segments: Option<(CollectionId, Vec<Digest>)>,
    receipts: Sum,
    receipt_ages: Sum,
    next_id: Option<CollectionId>,
    format: Option<u32>,
    rows: u64,
    findings: Vec<String>,
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
    /// Rows read.
    pub rows: u64,
    /// Whether there was nothing at all: a new store.
    pub empty: bool,
}

/// What the rows of one collection say, from each side.
#[derive(Debug, Default)]
struct Tally {
    meta: Option<Meta>,
    log_items: u64,
    log_tombstones: u64,
    log_bytes: u64,
    log_digest: Digest,
    newest: Version,
    log_rows: Sum,
    key_rows: Sum,
    log_order: Sum,
    order_rows: Sum,
    key_tombstones: Sum,
    tombstone_rows: Sum,
    log_segments: Sum,
    segment_rows: Sum,
}

/// What the log row and the key row of a key both say. Planning trusts the key row alone with all
/// of it.
#[derive(Debug, Hash)]
struct Identity<'a> {
    key: &'a [u8],
    live: bool,
    version: Version,
    created: Version,
    value_version: Version,
    value_len: u32,
    digest: [u8; 16],
    sort_key: &'a [u8],
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

    /// What does not fit, or the store's collections.
    pub fn finish(mut self) -> Result<Checked, Vec<String>> {
        self.close_segments();
        if self.rows > 0 && self.format != Some(ROW_FORMAT) {
            self.finding(format!("row format {:?}, this program writes {ROW_FORMAT}", self.format));
        }
        if self.receipts != self.receipt_ages {
            self.finding("receipts and their ages do not agree".to_owned());
        }
        let next_id = self.next_id.map_or(0, |id| id.0);
        let mut collections = Vec::new();
        for (id, tally) in std::mem::take(&mut self.tallies) {
            if id.0 >= next_id {
                self.finding(format!("collection {} is not below the next id {next_id}", id.0));
            }
            if self.doomed.contains(&id) {
                continue;
            }
            match self.judge(id, tally) {
                Ok(meta) => collections.push((id, meta)),
                Err(reason) => self.finding(format!("collection {}: {reason}", id.0)),
            }
        }
        if self.names.len() != collections.len() {
            self.finding("names and collections do not agree".to_owned());
        }
        if !self.findings.is_empty() {
            return Err(self.findings);
        }
        Ok(Checked {
            collections,
            doomed: self.doomed,
            next_id,
            receipts: self.receipts.count,
            rows: self.rows,
            empty: self.rows == 0,
        })
    }

    fn take(&mut self, row: Row) {
        match row {
            Row::Name { name, id } => {
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
        let kind = row.kind;
        let (created, value_version) = (row.created, row.value_version);
        let change = decode_change(row.change).map_err(|error| error.to_string())?;
        if change.key != *key || change.version != version || change.created != created {
            return Err("the change is not the one that its row says".to_owned());
        }
        let tally = self.tallies.entry(id).or_default();
        tally.newest = tally.newest.max(version);
        let mut identity = Identity {
            key: key.as_bytes(),
            live: kind == RowKind::Live,
            version,
            created,
            value_version,
            value_len: 0,
            digest: Digest::EMPTY.to_be_bytes(),
            sort_key: &[],
        };
        match (kind, &change.kind) {
            (
                RowKind::Live,
                ChangeKind::Put { value: Some(value), sort_key, value_version: said },
            ) if *said == value_version => {
                let digest = Digest::of_item(key, version, sort_key, value.as_bytes());
                let too_large = |_| "too large".to_owned();
                identity.value_len = u32::try_from(value.as_bytes().len()).map_err(too_large)?;
                identity.digest = digest.to_be_bytes();
                identity.sort_key = sort_key.as_bytes();
                tally.log_items += 1;
                tally.log_digest += digest;
                let names = key.as_bytes().len() + sort_key.as_bytes().len();
                tally.log_bytes += u64::try_from(names).map_err(too_large)?;
                tally.log_bytes += u64::from(identity.value_len);
                tally.log_order.add((sort_key.as_bytes(), key.as_bytes()));
                let (_, sums) = self.segments.as_mut().expect("opened above");
                sums[usize::from(Segment::of_key(key).get())] += digest;
            }
            (RowKind::Tombstone, ChangeKind::Delete) => tally.log_tombstones += 1,
            (RowKind::Live | RowKind::Tombstone, _) => {
                return Err("the change is not of the kind that its row says".to_owned());
            }
        }
        tally.log_rows.add(identity);
        Ok(())
    }

    fn close_segments(&mut self) {
        let Some((id, sums)) = self.segments.take() else { return };
        let tally = self.tallies.entry(id).or_default();
        for (number, sum) in (0u16..).zip(sums) {
            if sum != Digest::EMPTY {
                tally.log_segments.add((number, sum.to_be_bytes()));
            }
        }
    }

    fn judge(&self, id: CollectionId, tally: Tally) -> Result<Meta, String> {
        let Some(meta) = tally.meta else { return Err("rows without a head".to_owned()) };
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
            ("key rows", tally.key_rows == tally.log_rows),
            ("list order", tally.order_rows == tally.log_order),
            ("tombstone ages", tally.tombstone_rows == tally.key_tombstones),
            ("segment sums", tally.segment_rows == tally.log_segments),
        ];
        match agree.iter().find(|(_, fits)| !fits) {
            None => Ok(meta),
            Some((what, _)) => Err(format!("{what} do not agree with the log")),
        }
    }

    fn finding(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

// === impl Tally ===

impl Tally {
    fn key_row(&mut self, key: &Key, row: &KeyRow) {
        self.key_rows.add(Identity {
            key: key.as_bytes(),
            live: row.kind == RowKind::Live,
            version: row.version,
            created: row.created,
            value_version: row.value_version,
            value_len: row.value_len,
            digest: row.digest.to_be_bytes(),
            sort_key: row.sort_key.as_bytes(),
        });
        if row.kind == RowKind::Tombstone {
            let place = (row.time.as_millis(), row.version.get(), key.as_bytes());
            self.key_tombstones.add(place);
        }
    }
}

// === impl Sum ===

impl Sum {
    fn add(&mut self, row: impl Hash) {
        let mut hasher = DefaultHasher::new();
        row.hash(&mut hasher);
        self.count += 1;
        self.sum = self.sum.wrapping_add(hasher.finish());
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
