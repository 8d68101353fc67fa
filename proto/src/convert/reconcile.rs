//! Rounds of a reconciliation between wire and checked types.

use bytes::Bytes;

use super::write::id;
use super::{collection, digest_bytes, digest_of, optional_cursor, required_head, version};
use crate::digest::{GROUPS, Group, SEGMENTS, SEGMENTS_PER_GROUP, Segment};
use crate::limits::RECONCILE_NODES_MAX;
use crate::types::{
    Cursor, Found, Key, LeafEntry, Malformed, Reconcile, Reconciled, Round, SortKey,
};
use crate::v1;

// === Reconcile ===

impl TryFrom<v1::ReconcileRequest> for Reconcile {
    type Error = Malformed;

    fn try_from(request: v1::ReconcileRequest) -> Result<Self, Malformed> {
        let name = collection(&request.collection)?;
        id(&request.client_id, "client_id")?;
        let at = optional_cursor(request.at).map_err(|e| e.within("at"))?;
        let unwanted = |field: &str| {
            Err(Malformed::new(field, format!("must be absent at depth {}", request.depth)))
        };
        if request.depth < 2 && !request.page_token.is_empty() {
            return unwanted("page_token");
        }
        let round = match request.depth {
            0 if at.is_some() => return unwanted("at"),
            0 if !request.nodes.is_empty() => return unwanted("nodes"),
            0 => Round::Groups,
            1 => {
                let group = |number| u8::try_from(number).ok().and_then(Group::new);
                Round::Leaves {
                    at: first_round(at)?,
                    groups: nodes(&request.nodes, GROUPS - 1, group)?,
                }
            }
            2 => {
                let segment = |number| u16::try_from(number).ok().and_then(Segment::new);
                Round::Entries {
                    at: first_round(at)?,
                    segments: nodes(&request.nodes, SEGMENTS - 1, segment)?,
                    page_token: request.page_token,
                }
            }
            depth => return Err(Malformed::new("depth", format!("{depth}, 0 to 2 is allowed"))),
        };
        Ok(Self { collection: name, round, client_id: request.client_id })
    }
}

fn first_round(at: Option<Cursor>) -> Result<Cursor, Malformed> {
    let at = at.ok_or_else(|| Malformed::new("at", "must be set at depths 1 and 2"))?;
    Ok(Cursor::at(at.epoch, at.version))
}

fn nodes<N: Ord>(
    wire: &[u32],
    most: usize,
    node: impl Fn(u32) -> Option<N>,
) -> Result<Vec<N>, Malformed> {
    if wire.is_empty() || wire.len() > RECONCILE_NODES_MAX {
        let reason = format!("{} of them, 1 to {RECONCILE_NODES_MAX} are allowed", wire.len());
        return Err(Malformed::new("nodes", reason));
    }
    let parse = |(index, number): (usize, &u32)| {
        let reason = || format!("{number}, 0 to {most} is allowed");
        node(*number).ok_or_else(|| Malformed::new(format!("nodes[{index}]"), reason()))
    };
    let nodes = wire.iter().enumerate().map(parse).collect::<Result<Vec<N>, _>>()?;
    if nodes.is_sorted_by(|a, b| a < b) {
        Ok(nodes)
    } else {
        Err(Malformed::new("nodes", "must be in ascending order, none twice"))
    }
}

impl From<Reconcile> for v1::ReconcileRequest {
    fn from(asked: Reconcile) -> Self {
        let wire = Self {
            collection: asked.collection.as_str().to_owned(),
            client_id: asked.client_id,
            ..Self::default()
        };
        match asked.round {
            Round::Groups => wire,
            Round::Leaves { at, groups } => Self {
                at: Some(at.into()),
                depth: 1,
                nodes: groups.into_iter().map(|group| group.get().into()).collect(),
                ..wire
            },
            Round::Entries { at, segments, page_token } => Self {
                at: Some(at.into()),
                depth: 2,
                nodes: segments.into_iter().map(|segment| segment.get().into()).collect(),
                page_token,
                ..wire
            },
        }
    }
}

// === Reconciled ===

impl From<Reconciled> for v1::ReconcileResponse {
    fn from(answer: Reconciled) -> Self {
        let wire = Self { head: Some(answer.head.into()), ..Self::default() };
        match answer.found {
            Found::Sums(sums) => {
                Self { sums: sums.into_iter().map(digest_bytes).collect(), ..wire }
            }
            Found::Entries(entries, next_page_token) => {
                let entries = entries.into_iter().map(Into::into).collect();
                Self { entries, next_page_token, ..wire }
            }
        }
    }
}

impl Reconciled {
    /// The answer to `round` as it came over the wire. Refused when it is not one: whoever compares
    /// sums of other nodes finds differences everywhere, or none.
    pub fn from_wire(wire: v1::ReconcileResponse, round: &Round) -> Result<Self, Malformed> {
        let head = required_head(wire.head)?;
        let sums = |nodes: usize| {
            let (count, wanted) = (wire.sums.len(), nodes * SEGMENTS_PER_GROUP);
            if count != wanted {
                return Err(Malformed::new(
                    "sums",
                    format!("{count} of them, {wanted} were asked"),
                ));
            }
            wire.sums.iter().map(digest_of).collect::<Result<_, _>>().map(Found::Sums)
        };
        let found = match round {
            Round::Groups => sums(1)?,
            Round::Leaves { groups, .. } => sums(groups.len())?,
            Round::Entries { segments, .. } => {
                Found::Entries(leaf_entries(wire.entries, segments)?, wire.next_page_token)
            }
        };
        Ok(Self { head, found })
    }
}

fn leaf_entries(
    wire: Vec<v1::LeafEntry>,
    segments: &[Segment],
) -> Result<Vec<LeafEntry>, Malformed> {
    let mut entries: Vec<LeafEntry> = Vec::with_capacity(wire.len());
    let mut before: Option<(Segment, Key)> = None;
    for (index, wire) in wire.into_iter().enumerate() {
        let entry = LeafEntry::try_from(wire).map_err(|e| e.within_element("entries", index))?;
        let place = (Segment::of_key(&entry.key), entry.key.clone());
        let misplaced = before.is_some_and(|before| before >= place);
        if misplaced || segments.binary_search(&place.0).is_err() {
            let reason = "out of order, or of a segment that was not asked for";
            return Err(Malformed::new("key", reason).within_element("entries", index));
        }
        before = Some(place);
        entries.push(entry);
    }
    Ok(entries)
}

// === LeafEntry ===

impl From<LeafEntry> for v1::LeafEntry {
    fn from(entry: LeafEntry) -> Self {
        Self {
            key: entry.key.to_bytes(),
            version: entry.version.get(),
            value_hash: Bytes::copy_from_slice(&entry.value_hash),
            sort_key: entry.sort_key.to_bytes(),
            created_version: entry.created.get(),
            value_version: entry.value_version.get(),
            value_size: entry.value_size,
        }
    }
}

impl TryFrom<v1::LeafEntry> for LeafEntry {
    type Error = Malformed;

    fn try_from(entry: v1::LeafEntry) -> Result<Self, Malformed> {
        Ok(Self {
            key: Key::new(entry.key)?,
            version: version(entry.version, "version")?,
            value_hash: entry.value_hash.as_ref().try_into().map_err(|_| {
                let reason = format!("{} bytes, it has 16", entry.value_hash.len());
                Malformed::new("value_hash", reason)
            })?,
            sort_key: SortKey::new(entry.sort_key)?,
            created: version(entry.created_version, "created_version")?,
            value_version: version(entry.value_version, "value_version")?,
            value_size: entry.value_size,
        })
    }
}
