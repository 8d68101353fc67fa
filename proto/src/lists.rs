//! How many items a request holds, counted before any of it is decoded: an item in which there is
//! nothing takes two bytes on the wire and a hundred times as much in memory, so that a request within
//! the limit of its size can be one that is not. Pure.
//!
//! Which fields are lists, and which messages hold some, is read off the descriptors: a list that is
//! added to the protocol is counted without a word here.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use prost::bytes::Buf as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost::{Message as _, Name};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

use crate::limits::{LIST_ITEMS_MAX, REQUEST_ITEMS_MAX};

/// Messages within messages, at most: what is deeper, no request of the protocol is.
const DEPTH_MAX: usize = 16;

/// A request holds more items than any request may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {LIST_ITEMS_MAX} items in one list, or {REQUEST_ITEMS_MAX} in all")]
pub(crate) struct TooMany;

/// The fields of a message that matter.
type Fields = BTreeMap<u32, Field>;

/// A field that is a list, or holds some.
#[derive(Debug, Clone)]
struct Field {
    is_list: bool,
    /// The message that it holds, if there are lists in it.
    holds: Option<String>,
}

/// The messages of the protocol that hold lists.
static MESSAGES: LazyLock<BTreeMap<String, Fields>> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(crate::DESCRIPTORS).expect("the build has encoded them");
    let mut messages = BTreeMap::new();
    for file in &files.file {
        for message in &file.message_type {
            describe(&format!(".{}", file.package()), message, &mut messages);
        }
    }
    keep_those_with_lists(&mut messages);
    messages
});

fn describe(within: &str, message: &DescriptorProto, to: &mut BTreeMap<String, Fields>) {
    let name = format!("{within}.{}", message.name());
    let field = |field: &prost_types::FieldDescriptorProto| {
        let is_message = field.r#type() == Type::Message;
        let holds = is_message.then(|| field.type_name().to_owned());
        let number = u32::try_from(field.number()).expect("numbers of fields are positive");
        (number, Field { is_list: field.label() == Label::Repeated, holds })
    };
    for nested in &message.nested_type {
        describe(&name, nested, to);
    }
    to.insert(name, message.field.iter().map(field).collect());
}

/// Drops what is no list and holds none, until nothing is left to drop.
fn keep_those_with_lists(messages: &mut BTreeMap<String, Fields>) {
    loop {
        let names: Vec<String> = messages.keys().cloned().collect();
        let mut dropped = false;
        messages.retain(|_, fields| {
            for field in fields.values_mut() {
                dropped |= field.holds.take_if(|name| names.binary_search(name).is_err()).is_some();
            }
            let before = fields.len();
            fields.retain(|_, field| field.is_list || field.holds.is_some());
            dropped |= fields.len() < before || fields.is_empty();
            !fields.is_empty()
        });
        if !dropped {
            return;
        }
    }
}

/// Fails if the encoded message has too many items to be decoded. What does not decode passes: how
/// far it does has been counted.
pub(crate) fn check<M: Name>(encoded: &[u8]) -> Result<(), TooMany> {
    let Some(fields) = MESSAGES.get(&format!(".{}.{}", M::PACKAGE, M::NAME)) else {
        return Ok(());
    };
    count(fields, encoded, DEPTH_MAX, &mut 0)
}

fn count(
    fields: &Fields,
    mut encoded: &[u8],
    depth: usize,
    in_all: &mut usize,
) -> Result<(), TooMany> {
    let mut in_list = 0;
    while encoded.has_remaining() {
        let Ok((number, wire)) = decode_key(&mut encoded) else { return Ok(()) };
        let Some(holds) = value(wire, &mut encoded) else { return Ok(()) };
        let Some(field) = fields.get(&number) else { continue };
        if field.is_list {
            in_list += 1;
            *in_all += 1;
        }
        if in_list > LIST_ITEMS_MAX || *in_all > REQUEST_ITEMS_MAX || depth == 0 {
            return Err(TooMany);
        }
        if let Some(message) = &field.holds {
            count(&MESSAGES[message], holds, depth - 1, in_all)?;
        }
    }
    Ok(())
}

/// Takes the value of a field; what it holds, if that has a length. `None` = it is not whole.
fn value<'a>(wire: WireType, encoded: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = match wire {
        WireType::Varint => {
            decode_varint(encoded).ok()?;
            return Some(&[]);
        }
        // What a group holds is looked at as if it were outside: it is never known, and is skipped.
        WireType::StartGroup | WireType::EndGroup => return Some(&[]),
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => usize::try_from(decode_varint(encoded).ok()?).ok()?,
    };
    encoded.split_off(..length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{COMMIT_MUTATIONS_MAX, COMMIT_PRECONDITIONS_MAX, SCOPE_KEYS_MAX};
    use crate::v1;

    const _: () = assert!(COMMIT_MUTATIONS_MAX + COMMIT_PRECONDITIONS_MAX < LIST_ITEMS_MAX);
    const _: () =
        assert!(crate::limits::PULL_TARGETS_MAX * (SCOPE_KEYS_MAX + 1) < REQUEST_ITEMS_MAX);

    fn keys(count: usize, key: &'static [u8]) -> v1::Target {
        let keys = vec![key.into(); count];
        let part = Some(v1::scope::Part::Keys(v1::KeySet { keys }));
        v1::Target { scope: Some(v1::Scope { part }), ..Default::default() }
    }

    fn pull(targets: Vec<v1::Target>) -> Vec<u8> {
        v1::PullRequest { targets, ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn the_largest_requests_are_not_too_large() {
        let request = pull(vec![keys(SCOPE_KEYS_MAX, b"k"); crate::limits::PULL_TARGETS_MAX]);
        assert_eq!(check::<v1::PullRequest>(&request), Ok(()));
        let mutations = vec![v1::Mutation::default(); COMMIT_MUTATIONS_MAX];
        let preconditions = vec![v1::Precondition::default(); COMMIT_PRECONDITIONS_MAX];
        let request = v1::CommitRequest { mutations, preconditions, ..Default::default() };
        assert_eq!(check::<v1::CommitRequest>(&request.encode_to_vec()), Ok(()));
    }

    #[test]
    fn items_of_a_list_are_counted() {
        let most = pull(vec![v1::Target::default(); LIST_ITEMS_MAX]);
        assert_eq!(check::<v1::PullRequest>(&most), Ok(()));
        let more = [&most[..], &[0x0a, 0]].concat();
        assert_eq!(check::<v1::PullRequest>(&more), Err(TooMany));
        // Neither what is unknown, nor a group, hides what comes behind it; what is broken does.
        let hidden = [&[0x7a, 1, b'x', 0x7b, 0x7c, 0x78, 1][..], &more].concat();
        assert_eq!(check::<v1::PullRequest>(&hidden), Err(TooMany));
        let broken = [&[0x0a, 0xff][..], &more].concat();
        assert_eq!(check::<v1::PullRequest>(&broken), Ok(()));
        assert!(v1::PullRequest::decode(&broken[..]).is_err());
        // A list of numbers is as long as it is; texts are no lists.
        assert_eq!(
            check::<v1::ReconcileRequest>(&[0x20, 1].repeat(LIST_ITEMS_MAX + 1)),
            Err(TooMany)
        );
        assert_eq!(check::<v1::PullRequest>(&[0x22, 1, b'c'].repeat(LIST_ITEMS_MAX + 1)), Ok(()));
    }

    #[test]
    fn lists_within_lists_are_counted_together() {
        let request = pull(vec![keys(LIST_ITEMS_MAX + 1, b"")]);
        assert_eq!(check::<v1::PullRequest>(&request), Err(TooMany));
        let request = pull(vec![keys(LIST_ITEMS_MAX, b""); 1 + REQUEST_ITEMS_MAX / LIST_ITEMS_MAX]);
        assert_eq!(check::<v1::PullRequest>(&request), Err(TooMany));
        // One field again and again adds to what it holds.
        let one = keys(1, b"").encode_to_vec();
        let target = v1::Target::decode(&one.repeat(3)[..]).unwrap();
        assert_eq!(target, keys(3, b""));
        let one = pull(vec![v1::Target::decode(&one.repeat(REQUEST_ITEMS_MAX)[..]).unwrap()]);
        assert_eq!(check::<v1::PullRequest>(&one), Err(TooMany));
    }

    #[test]
    fn every_list_of_a_request_is_known() {
        let known = |name: &str| MESSAGES.get(name).map(|fields| fields.keys().copied().collect());
        let of = |name: &str| known(&format!(".deltasync.v1.{name}"));
        assert_eq!(of("CommitRequest"), Some(vec![1, 2]));
        assert_eq!(of("ImportRequest"), Some(vec![3]));
        assert_eq!(of("PullRequest"), Some(vec![1]));
        assert_eq!(of("AckRequest"), Some(vec![2]));
        assert_eq!(of("GetItemsRequest"), Some(vec![2]));
        assert_eq!(of("KeySet"), Some(vec![1]));
        assert_eq!(of("GetCollectionRequest"), None);
    }
}
