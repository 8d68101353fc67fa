//! Audiences and inboxes, row by row: who lacks an entry, which entry lacks a follower or says
//! something else. Needs look-ups for every row, so it is only done when the sums do not agree.

use std::ops::ControlFlow;

use sync_proto::convert::{decode_change, decode_inbox_entry};
use sync_proto::types::{ChangeKind, CollectionName, Diffusion, InboxEntry, Subject};

use super::{Findings, naming};
use crate::core::inbox::{entry_key, truth};
use crate::store::KeyRange;
use crate::store::disk::aside::Aside;
use crate::store::keys::{self, CollectionId, Row};
use crate::store::rows::{Audience, KeyRow, LogRow, Meta, RowKind};

/// Names every row about a follower that does not fit the others.
pub(super) fn name_rows(store: &Aside, findings: &mut Findings) {
    let everything = KeyRange { start: Vec::new(), end: None };
    let mut tell = |place: &[u8], what: String| findings.add((naming::row(place), what));
    store.scan(&everything, &mut |place, value| {
        match Row::decode(place, value) {
            Ok(Row::Audience { name, subject }) => {
                if let Some(what) = judge_follower(store, &name, &subject) {
                    tell(place, what);
                }
            }
            Ok(Row::AudienceState { name, audience }) => {
                let count = followers(store, &name);
                if count != audience.count {
                    tell(place, format!("it says {} followers, there are {count}", audience.count));
                }
            }
            Ok(Row::Meta { id, meta }) => {
                if let Some(subject) = Subject::of_inbox(&meta.name) {
                    judge_inbox(store, id, &subject, &mut tell);
                }
            }
            Ok(Row::Sweep { name, .. }) => {
                if state(store, &name).is_none_or(|state| state.mode == Diffusion::Write) {
                    tell(place, "its audience needs no sweep".to_owned());
                }
            }
            Ok(
                Row::Name { .. }
                | Row::Log { .. }
                | Row::Key { .. }
                | Row::Order { .. }
                | Row::Segment { .. }
                | Row::Tombstone { .. }
                | Row::Doomed { .. }
                | Row::Receipt { .. }
                | Row::ReceiptAge { .. }
                | Row::NextId { .. }
                | Row::Format { .. }
                | Row::Upgrading
                | Row::Member { .. }
                | Row::Policy { .. }
                | Row::Ack { .. }
                | Row::AckAge { .. },
            )
            // What does not read was told when all rows were read.
            | Err(_) => {}
        }
        ControlFlow::Continue(())
    });
}

/// What is wrong with a row that says who follows.
fn judge_follower(store: &Aside, name: &CollectionName, subject: &Subject) -> Option<String> {
    let Some(state) = state(store, name) else {
        return Some("the audience as a whole has no row".to_owned());
    };
    let entry = meta(store, &subject.inbox()).and_then(|(id, _)| entry(store, id, name));
    let Some(entry) = entry else { return Some("the inbox has no entry".to_owned()) };
    let wanted = truth(meta(store, name).map(|(_, meta)| meta.head).as_ref(), &state);
    let wrong = state.mode == Diffusion::Write && entry != wanted;
    wrong.then(|| format!("the inbox says {entry:?}, the collection stands at {wanted:?}"))
}

/// Names the entries of an inbox that nobody follows.
fn judge_inbox(
    store: &Aside,
    id: CollectionId,
    subject: &Subject,
    tell: &mut impl FnMut(&[u8], String),
) {
    store.scan(&keys::key_range(id, &[]), &mut |place, value| {
        if let Ok(Row::Key { key, row, .. }) = Row::decode(place, value)
            && row.kind == RowKind::Live
        {
            let name = std::str::from_utf8(key.as_bytes()).ok();
            let name = name.and_then(|name| CollectionName::new(name).ok());
            let row = name.and_then(|name| store.get(&keys::audience_key(&name, subject)));
            if row.is_none() {
                tell(place, "an entry, but the subject is not in the audience".to_owned());
            }
        }
        ControlFlow::Continue(())
    });
}

fn followers(store: &Aside, name: &CollectionName) -> u64 {
    let mut count = 0;
    store.scan(&keys::audience_range(name, None), &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    });
    count
}

fn state(store: &Aside, name: &CollectionName) -> Option<Audience> {
    let place = keys::audience_state_key(name);
    match Row::decode(&place, store.get(&place)?) {
        Ok(Row::AudienceState { audience, .. }) => Some(audience),
        _ => None,
    }
}

fn meta(store: &Aside, name: &CollectionName) -> Option<(CollectionId, Meta)> {
    let place = keys::name_key(name);
    let Ok(Row::Name { id, .. }) = Row::decode(&place, store.get(&place)?) else { return None };
    let place = keys::meta_key(id);
    match Row::decode(&place, store.get(&place)?) {
        Ok(Row::Meta { meta, .. }) => Some((id, meta)),
        _ => None,
    }
}

fn entry(store: &Aside, inbox: CollectionId, name: &CollectionName) -> Option<InboxEntry> {
    let key = entry_key(name);
    let row = KeyRow::decode(store.get(&keys::key_key(inbox, &key))?).ok()?;
    let log = LogRow::decode(store.get(&keys::log_key(inbox, row.version, &key))?).ok()?;
    match decode_change(log.change).ok()?.kind {
        ChangeKind::Put { value: Some(value), .. } => decode_inbox_entry(&value).ok(),
        ChangeKind::Put { value: None, .. } | ChangeKind::Delete | ChangeKind::LeftScope => None,
    }
}
