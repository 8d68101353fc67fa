//! The file format of import and export: one transaction a line, as JSON. Pure.
//!
//! ```text
//! {"tx":1,"time":"2026-01-31T12:00:00Z","ops":[
//!   {"collection":"groups/42/members","op":"put","key":"ann","value":{"role":"admin"}},
//!   {"collection":"groups/42/members","op":"delete","key":"bob"}]}
//! ```

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use sync_client::types::{CollectionName, Key, Malformed, Mutation, Op, SortKey, Value};
use sync_proto::limits::{COMMIT_BYTES_MAX, COMMIT_MUTATIONS_MAX};

use crate::text::{KeyFields, SortKeyFields, ValueFields, from_base64};

/// The part of `--help` about the format.
pub(crate) const FORMAT_HELP: &str = "\
The format is JSON Lines, one transaction a line, in order:
  {\"tx\":1,\"time\":\"2026-01-31T12:00:00Z\",\"ops\":[OP, ...]}
  OP  {\"collection\":NAME,\"op\":\"put\",\"key\":KEY,\"value\":{...}}
      {\"collection\":NAME,\"op\":\"delete\",\"key\":KEY}
\"tx\" and \"time\" are for people. A put may have \"sort_key\". A \"value\" is stored exactly as it
is written; in its place, \"value_text\" holds other text and \"value_base64\" bytes that are not
text; likewise \"key_base64\" and \"sort_key_base64\".";

/// A line of a file, not checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(rename = "tx")]
    _tx: Option<IgnoredAny>,
    #[serde(rename = "time")]
    _time: Option<IgnoredAny>,
    #[serde(borrow)]
    ops: Vec<OpLine<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpLine<'a> {
    collection: String,
    op: OpName,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(borrow, default, deserialize_with = "given")]
    value: Option<&'a RawValue>,
    value_text: Option<String>,
    value_base64: Option<String>,
    sort_key: Option<String>,
    sort_key_base64: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OpName {
    Put,
    Delete,
}

/// A line of an export: puts only.
#[derive(Serialize)]
pub(crate) struct Puts<'a> {
    tx: u64,
    time: &'a str,
    ops: Vec<PutLine<'a>>,
}

#[derive(Serialize)]
struct PutLine<'a> {
    collection: &'a str,
    op: OpName,
    #[serde(flatten)]
    key: KeyFields<'a>,
    #[serde(flatten)]
    value: ValueFields<'a>,
    #[serde(flatten)]
    sort_key: SortKeyFields<'a>,
}

/// What an export writes of an item.
pub(crate) struct Content<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) sort_key: &'a [u8],
}

// === impl Line ===

/// Reads a line. `prefix` is put before every name of a collection.
pub(crate) fn parse(line: &[u8], prefix: &str) -> Result<Vec<Mutation>, String> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| json_error(&error))?;
    let parse = |(index, op): (usize, OpLine<'_>)| {
        op.mutation(prefix).map_err(|error| error.within_element("ops", index).to_string())
    };
    line.ops.into_iter().enumerate().map(parse).collect()
}

/// A value that is there, also if it is `null`, which serde would read as absent.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// What is wrong with the JSON. The line that it names is always the first: there is one.
fn json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    format!("column {}: {reason}", error.column())
}

// === impl OpLine ===

impl OpLine<'_> {
    fn mutation(self, prefix: &str) -> Result<Mutation, Malformed> {
        let collection = CollectionName::new(&format!("{prefix}{}", self.collection))?;
        let key = bytes("key", self.key, self.key_base64)?;
        let key = Key::new(key.ok_or_else(|| Malformed::new("key", "must be set"))?)?;
        let text = match (self.value, self.value_text) {
            (Some(_), Some(_)) => return Err(Malformed::new("value", "is given twice")),
            (Some(json), None) => Some(json.get().to_owned()),
            (None, text) => text,
        };
        let value = bytes("value", text, self.value_base64)?;
        let sort_key = bytes("sort_key", self.sort_key, self.sort_key_base64)?;
        let op = match (self.op, value, sort_key) {
            (OpName::Put, Some(value), sort_key) => Op::Put {
                key,
                value: Value::new(value)?,
                sort_key: sort_key.map(SortKey::new).transpose()?,
            },
            (OpName::Put, None, _) => return Err(Malformed::new("value", "a put has one")),
            (OpName::Delete, None, None) => Op::Delete { key },
            (OpName::Delete, _, _) => {
                let reason = "a delete has neither value nor sort key";
                return Err(Malformed::new("op", reason));
            }
        };
        Ok(Mutation { collection, op })
    }
}

/// A field that is either text or base64.
fn bytes(
    field: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Bytes>, Malformed> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(Malformed::new(field, "is given twice")),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => {
            let bytes = from_base64(&base64).map_err(|reason| Malformed::new(field, reason))?;
            Ok(Some(bytes.into()))
        }
        (None, None) => Ok(None),
    }
}

/// A transaction as commits: one, or as many as the limits of a commit make of it. Always the
/// same for the same transaction: an import that goes on counts them.
pub(crate) fn commits(transaction: Vec<Mutation>) -> Vec<Vec<Mutation>> {
    let mut commits: Vec<Vec<Mutation>> = Vec::new();
    let mut room = 0;
    for mutation in transaction {
        // Names do not count towards the limit, but they do towards the size of the message.
        let size = mutation.op.size() + mutation.collection.as_str().len();
        match commits.last_mut() {
            Some(last) if last.len() < COMMIT_MUTATIONS_MAX && size <= room => {
                room -= size;
                last.push(mutation);
            }
            Some(_) | None => {
                room = COMMIT_BYTES_MAX.saturating_sub(size);
                commits.push(vec![mutation]);
            }
        }
    }
    commits
}

// === impl Puts ===

impl<'a> Puts<'a> {
    /// A line that puts these items of a collection.
    pub(crate) fn new(
        tx: u64,
        time: &'a str,
        collection: &'a CollectionName,
        items: impl IntoIterator<Item = Content<'a>>,
    ) -> Self {
        let put = |item: Content<'a>| PutLine {
            collection: collection.as_str(),
            op: OpName::Put,
            key: KeyFields::new(item.key),
            value: ValueFields::new(item.value),
            sort_key: SortKeyFields::new(item.sort_key),
        };
        Self { tx, time, ops: items.into_iter().map(put).collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn name() -> CollectionName {
        CollectionName::new("groups/42/members").unwrap()
    }

    fn put(op: &Op) -> (&[u8], &[u8], &[u8]) {
        match op {
            Op::Put { key, value, sort_key } => {
                let sort_key = sort_key.as_ref().map(SortKey::as_bytes).unwrap_or_default();
                (key.as_bytes(), value.as_bytes(), sort_key)
            }
            Op::Delete { .. } | Op::Reorder { .. } | Op::Follow { .. } | Op::Unfollow { .. } => {
                panic!("not a put: {op:?}")
            }
        }
    }

    #[test]
    fn a_value_is_stored_exactly_as_it_is_written() {
        let line = br#"{"tx":1,"time":"t","ops":[{"collection":"a/b","op":"put","key":"k","value":{"n": 1.50, "big":123456789012345678901234567890}}]}"#;
        let mutations = parse(line, "x/").unwrap();
        assert_eq!(mutations[0].collection.as_str(), "x/a/b");
        let expected = br#"{"n": 1.50, "big":123456789012345678901234567890}"#;
        assert_eq!(put(&mutations[0].op).1, expected);
    }

    #[test]
    fn a_line_that_breaks_a_rule_names_the_field() {
        let refused = |op: &str| {
            let line = format!("{{\"ops\":[{{\"collection\":\"c\",{op}}}]}}");
            parse(line.as_bytes(), "").unwrap_err()
        };
        assert!(refused(r#""op":"put","key":"k""#).starts_with("ops[0].value"));
        assert!(refused(r#""op":"put","value":{}"#).starts_with("ops[0].key"));
        assert!(refused(r#""op":"put","key":"","value":{}"#).starts_with("ops[0].key"));
        let twice = refused(r#""op":"put","key":"k","value":{},"value_text":"a""#);
        assert!(twice.starts_with("ops[0].value: is given twice"), "{twice}");
        assert!(refused(r#""op":"delete","key":"k","value":{}"#).starts_with("ops[0].op"));
        assert!(refused(r#""op":"drop","key":"k""#).contains("drop"));
        assert!(refused(r#""op":"delete","key":"k","vaule":{}"#).contains("vaule"));
        assert!(parse(b"{\"ops\":[{\"collection\":\"a//b\"", "").is_err());
    }

    #[test]
    fn a_transaction_above_the_limits_is_split_and_loses_nothing() {
        let put = |number: usize, size: usize| Mutation {
            collection: name(),
            op: Op::Put {
                key: Key::new(format!("{number:08}")).unwrap(),
                value: Value::new(vec![b'x'; size]).unwrap(),
                sort_key: None,
            },
        };
        let many: Vec<_> = (0..=COMMIT_MUTATIONS_MAX * 2).map(|n| put(n, 1)).collect();
        let sizes: Vec<_> = commits(many.clone()).iter().map(Vec::len).collect();
        assert_eq!(sizes, [COMMIT_MUTATIONS_MAX, COMMIT_MUTATIONS_MAX, 1]);
        assert_eq!(commits(many.clone()).concat(), many);

        let large: Vec<_> = (0..7).map(|n| put(n, 1024 * 1024)).collect();
        let split = commits(large.clone());
        assert!(split.iter().all(|commit| {
            commit.iter().map(|mutation| mutation.op.size()).sum::<usize>() <= COMMIT_BYTES_MAX
        }));
        assert_eq!(split.concat(), large);
        assert!(commits(Vec::new()).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_exported_is_imported_byte_by_byte(
            key in vec(any::<u8>(), 1..20),
            value in prop_oneof![
                vec(any::<u8>(), 0..50),
                "\\PC*".prop_map(String::into_bytes),
                "[{]\"[a-z]\": ?[0-9]{1,3}(,\n?\"b\":\"x\")?[}]\\s?".prop_map(String::into_bytes),
            ],
            sort_key in vec(any::<u8>(), 0..5),
        ) {
            let content = Content { key: &key, value: &value, sort_key: &sort_key };
            let name = name();
            let line = serde_json::to_vec(&Puts::new(1, "t", &name, [content])).unwrap();
            prop_assert!(!line.contains(&b'\n'));
            let mutations = parse(&line, "").unwrap();
            prop_assert_eq!(mutations.len(), 1);
            prop_assert_eq!(put(&mutations[0].op), (&key[..], &value[..], &sort_key[..]));
        }
    }
}
