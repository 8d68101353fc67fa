//! What a server is asked: any bytes become a request, or an error that names a field, and what was
//! understood is understood the same when it is said again. What is counted before a request is decoded
//! is counted right. The file that counts is included as it is, so nothing of it has to be public.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::{Message as _, Name};
use sync_proto::types::{
    Ack, CollectionName, Commit, ListItems, Malformed, Pull, Reconcile, Subject, Subscribe,
};
use sync_proto::{DESCRIPTORS, convert, limits, v1};
use sync_server::core::window;

#[path = "../../proto/src/lists.rs"]
mod lists;

/// Bytes of a request that is made too large on purpose: enough of the smallest items.
const COPIES_BYTES_MAX: usize = 1024 * 1024;

/// The least that an item takes: its tag and its length.
const ITEM_BYTES_MIN: usize = 2;

/// What is said so often that it may hold too many items is refused, and not before.
fn count<M: Name + Default>(bytes: &[u8], items: impl FnOnce(&M) -> usize) {
    let Ok(message) = M::decode(bytes) else { return };
    let few = limits::LIST_ITEMS_MAX * ITEM_BYTES_MIN / bytes.len().max(1);
    let repeated = |copies: usize| bytes.repeat(copies.min(COPIES_BYTES_MAX / bytes.len().max(1)));
    assert_eq!(lists::check::<M>(&repeated(few)), Ok(()), "so few bytes hold few items");
    let items = items(&message);
    let Some(fit) = limits::LIST_ITEMS_MAX.checked_div(items) else { return };
    let many = repeated(fit + 1);
    if many.len() == (fit + 1) * bytes.len() {
        assert_eq!(lists::check::<M>(&many), Err(lists::TooMany), "{} copies", fit + 1);
    }
}

fn named(refused: &Malformed) {
    assert!(!refused.field.is_empty() && !refused.reason.is_empty(), "{refused:?}");
}

/// A page of a listing: its size, and behind what it begins.
fn page(prefix: &str, size: u32, token: &[u8]) {
    match convert::page_size(size) {
        Ok(most) => assert!((1..=limits::LIST_PAGE_MAX).contains(&most)),
        Err(refused) => named(&refused),
    }
    let names = window::names_question(prefix);
    if let Ok(Some(name)) = window::name_position(token, names) {
        assert_eq!(window::names_token(names, &name), token);
    }
    if let Ok(name) = CollectionName::new(prefix) {
        let audience = window::audience_question(&name);
        if let Ok(Some(subject)) = window::subject_position(token, audience) {
            assert_eq!(window::subject_token(audience, &subject), token);
        }
        let token = window::names_token(names, &name);
        assert_eq!(window::name_position(&token, names), Ok(Some(name)));
    }
    if let Ok(subject) = Subject::new(prefix) {
        let token = window::subject_token(names, &subject);
        assert_eq!(window::subject_position(&token, names), Ok(Some(subject)));
    }
}

/// Requests of operators, and those for lists and audiences.
fn administration(kind: u8, bytes: &[u8]) {
    match kind {
        0 => {
            let Ok(wire) = v1::AckRequest::decode(bytes) else { return };
            match Ack::try_from(wire) {
                Ok(ack) => assert_eq!(Ack::try_from(v1::AckRequest::from(ack.clone())), Ok(ack)),
                Err(refused) => named(&refused),
            }
        }
        1 => {
            let Ok(wire) = v1::SetPolicyRequest::decode(bytes) else { return };
            match convert::policy_change(wire.policy, &wire.clear) {
                Ok(change) => {
                    let clear = convert::policy_fields(&change.clear);
                    let again = convert::policy_change(Some(change.set.into()), &clear);
                    assert_eq!(again, Ok(change));
                }
                Err(refused) => named(&refused),
            }
        }
        2 => {
            let Ok(wire) = v1::DrainRequest::decode(bytes) else { return };
            match convert::grace(wire.grace) {
                Ok(grace) => {
                    assert_eq!(convert::grace(convert::drain_request(grace).grace), Ok(grace));
                }
                Err(refused) => named(&refused),
            }
        }
        3 => {
            let Ok(wire) = v1::ListCollectionsRequest::decode(bytes) else { return };
            page(&wire.prefix, wire.page_size, &wire.page_token);
        }
        4 => {
            let Ok(wire) = v1::ListAudienceRequest::decode(bytes) else { return };
            page(&wire.collection, wire.page_size, &wire.page_token);
        }
        5 => {
            let Ok(wire) = v1::DeleteCollectionRequest::decode(bytes) else { return };
            if let Some(Err(refused)) = wire.head_equals.map(convert::head_equals) {
                named(&refused);
            }
        }
        _ => {
            count::<v1::PullRequest>(bytes, |wire| wire.targets.len());
            count::<v1::AckRequest>(bytes, |wire| wire.acked.len());
            count::<v1::GetItemsRequest>(bytes, |wire| wire.keys.len());
            count::<v1::CommitRequest>(bytes, |wire| wire.mutations.len());
        }
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    match kind % 14 {
        0 => {
            let Ok(wire) = v1::PullRequest::decode(bytes) else { return };
            if let Ok(pull) = Pull::try_from(wire)
                && let Ok(wire) = v1::PullRequest::try_from(pull.clone())
            {
                assert_eq!(Pull::try_from(wire).unwrap(), pull);
            }
        }
        1 => {
            let Ok(wire) = v1::SubscribeRequest::decode(bytes) else { return };
            if let Ok(asked) = Subscribe::try_from(wire) {
                let again = v1::SubscribeRequest::from(asked.clone());
                assert_eq!(Subscribe::try_from(again).unwrap(), asked);
            }
        }
        2 => {
            let Ok(wire) = v1::CommitRequest::decode(bytes) else { return };
            if let Ok(commit) = Commit::try_from(wire) {
                let again = v1::CommitRequest::from(commit.clone());
                assert_eq!(Commit::try_from(again).unwrap(), commit);
            }
        }
        3 => {
            let Ok(wire) = v1::ListItemsRequest::decode(bytes) else { return };
            if let Ok(list) = ListItems::try_from(wire) {
                let again = v1::ListItemsRequest::from(list.clone());
                assert_eq!(ListItems::try_from(again).unwrap(), list);
            }
        }
        4 => {
            let Ok(wire) = v1::ReconcileRequest::decode(bytes) else { return };
            if let Ok(asked) = Reconcile::try_from(wire) {
                let again = v1::ReconcileRequest::from(asked.clone());
                assert_eq!(Reconcile::try_from(again).unwrap(), asked);
            }
        }
        5 => {
            let Ok(wire) = v1::ImportRequest::decode(bytes) else { return };
            drop(convert::mutations(wire.mutations));
        }
        6 => {
            // Stored by an earlier server, read by this one.
            if let Ok(change) = convert::decode_change(Bytes::copy_from_slice(bytes)) {
                let again = convert::encode_change(&change);
                assert_eq!(convert::decode_change(again).unwrap(), change);
            }
            drop(convert::decode_committed(Bytes::copy_from_slice(bytes)));
        }
        other => administration(other - 7, bytes),
    }
});
