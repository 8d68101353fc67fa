//! What programs are told besides a code and a text (G11): every call that is refused says why in one
//! word of the list, a bad field by its path, when to come again; and nothing about what is not the
//! caller's (G10). A new call without bad input here fails.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet};
use sync_proto::limits::MESSAGE_BYTES_MAX;
use sync_proto::types::{REASON_DOMAIN, Reason};
use sync_proto::v1;
use sync_server::status;
use sync_tests::compose::put;
use sync_tests::data::workspace;
use sync_tests::server::TestServer;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::guard::{Guarded, token, tokens};
use crate::raw_calls::{Answer, call, calls};

/// A request with something wrong in the field of this path; `None`: the call has no field that
/// could be.
fn bad(path: &str) -> Option<(Vec<u8>, &'static str)> {
    let junk = || prost::bytes::Bytes::from_static(b"junk");
    let list = || "list".to_owned();
    Some(match path.rsplit('/').next().unwrap() {
        "Pull" => {
            let targets = vec![v1::Target { collection: list(), ..Default::default() }; 257];
            (v1::PullRequest { targets, ..Default::default() }.encode_to_vec(), "targets")
        }
        "Subscribe" => {
            let target = v1::Target { collection: "a//b".to_owned(), ..Default::default() };
            let asked = v1::SubscribeRequest { targets: vec![target], ..Default::default() };
            (asked.encode_to_vec(), "targets[0].collection")
        }
        "ListItems" => {
            let page_token = junk();
            let asked =
                v1::ListItemsRequest { collection: list(), page_token, ..Default::default() };
            (asked.encode_to_vec(), "page_token")
        }
        "GetItems" => {
            let keys = vec!["k".into(), vec![b'k'; 1_025].into()];
            let asked = v1::GetItemsRequest { collection: list(), keys, keys_only: false };
            (asked.encode_to_vec(), "keys[1].key")
        }
        "GetCollection" => (v1::GetCollectionRequest::default().encode_to_vec(), "collection"),
        "ListCollections" => {
            let asked = v1::ListCollectionsRequest { page_size: 1_001, ..Default::default() };
            (asked.encode_to_vec(), "page_size")
        }
        "Reconcile" => {
            let asked = v1::ReconcileRequest { collection: list(), depth: 3, ..Default::default() };
            (asked.encode_to_vec(), "depth")
        }
        "Ack" => (v1::AckRequest::default().encode_to_vec(), "client_id"),
        "Commit" => {
            let value = vec![0; 2 * 1024 * 1024].into();
            let put = v1::PutItem { key: "k".into(), value, sort_key: None };
            let op = Some(v1::mutation::Op::Put(put));
            let mutations = vec![v1::Mutation { collection: list(), op }];
            let asked = v1::CommitRequest { mutations, ..Default::default() };
            (asked.encode_to_vec(), "mutations[0].value")
        }
        "Import" => {
            let asked = v1::ImportRequest { import_id: list(), sequence: 1, mutations: vec![] };
            (asked.encode_to_vec(), "mutations")
        }
        "GetImport" => (v1::GetImportRequest::default().encode_to_vec(), "import_id"),
        "DeleteCollection" => {
            let collection = "inbox/me".to_owned();
            let asked = v1::DeleteCollectionRequest { collection, head_equals: None };
            (asked.encode_to_vec(), "collection")
        }
        _ => return bad_of_operator(path),
    })
}

/// The same of the calls of operators.
fn bad_of_operator(path: &str) -> Option<(Vec<u8>, &'static str)> {
    let junk = || prost::bytes::Bytes::from_static(b"junk");
    let list = || "list".to_owned();
    Some(match path.rsplit('/').next().unwrap() {
        "InspectCollection" => {
            (v1::InspectCollectionRequest::default().encode_to_vec(), "collection")
        }
        "SetPolicy" => {
            let age = Some(prost_types::Duration { seconds: -1, nanos: 0 });
            let policy = Some(v1::Policy { tombstone_age_max: age, ..Default::default() });
            let asked = v1::SetPolicyRequest { collection: list(), policy, clear: vec![] };
            (asked.encode_to_vec(), "policy.tombstone_age_max.seconds")
        }
        "Purge" => {
            let asked = v1::PurgeRequest { collection: list(), up_to_version: 1 << 63 };
            (asked.encode_to_vec(), "up_to_version")
        }
        "RotateEpoch" => (v1::RotateEpochRequest::default().encode_to_vec(), "collection"),
        "ListAudience" => (v1::ListAudienceRequest::default().encode_to_vec(), "collection"),
        "ListFollows" => (v1::ListFollowsRequest::default().encode_to_vec(), "subject"),
        "ListClients" => {
            let asked = v1::ListClientsRequest { page_token: junk(), ..Default::default() };
            (asked.encode_to_vec(), "page_token")
        }
        "ExplainClient" => (v1::ExplainClientRequest::default().encode_to_vec(), "client_id"),
        "Drain" => {
            let grace = Some(prost_types::Duration { seconds: -1, nanos: 0 });
            (v1::DrainRequest { grace }.encode_to_vec(), "grace.seconds")
        }
        "Backup" | "Verify" => return None,
        other => panic!("{other} is new: say here what could be wrong in its request"),
    })
}

/// The messages of the protocol by full name, and the request of each call by path.
fn descriptors() -> (BTreeMap<String, DescriptorProto>, BTreeMap<String, String>) {
    let files = FileDescriptorSet::decode(sync_proto::DESCRIPTORS).unwrap().file;
    let (mut messages, mut requests) = (BTreeMap::new(), BTreeMap::new());
    for file in &files {
        for message in &file.message_type {
            messages.insert(format!(".{}.{}", file.package(), message.name()), message.clone());
        }
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                requests.insert(path, method.input_type().to_owned());
            }
        }
    }
    (messages, requests)
}

/// Whether a path leads to a field of this message. The branch of a oneof may be left out, and so may
/// the name of a list's element be said (`keys[1].key`).
fn leads(messages: &BTreeMap<String, DescriptorProto>, message: &str, path: &str) -> bool {
    let (first, rest) = path.split_once('.').map_or((path, None), |(f, r)| (f, Some(r)));
    let (first, element) = first.split_once('[').map_or((first, false), |(name, _)| (name, true));
    let Some(known) = messages.get(message) else { return false };
    if let Some(field) = known.field.iter().find(|field| field.name() == first) {
        let scalar = field.type_name().is_empty();
        return rest.is_none_or(|rest| {
            (scalar && element && !rest.contains('.')) || leads(messages, field.type_name(), rest)
        });
    }
    let branches = known.field.iter().filter(|field| field.oneof_index.is_some());
    let mut branches = branches.filter(|field| !field.type_name().is_empty());
    branches.any(|branch| leads(messages, branch.type_name(), path))
}

fn status_of(answer: &Answer) -> Status {
    Status::with_details(answer.code, answer.text.clone(), answer.details.clone())
}

/// What a refusal must say, whatever it is about; returns its reason.
fn explained(what: &str, status: &Status) -> (Reason, ErrorDetails) {
    // There are clients that refuse details whose text is another one, and some show only theirs.
    let whole = tonic_types::pb::Status::decode(status.details());
    let whole = whole.unwrap_or_else(|error| panic!("{what}: no details: {error}: {status:?}"));
    assert_eq!((whole.code, &*whole.message), (status.code().into(), status.message()), "{what}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{what}: no reason: {status:?}"));
    assert_eq!(info.domain, REASON_DOMAIN, "{what}");
    let reason = status::reason_of(status).unwrap_or_else(|| panic!("{what}: {}", info.reason));
    assert_eq!(status.code(), status::code(reason), "{what}: {reason}");
    let violations = details.bad_request().map_or(0, |bad| bad.field_violations.len());
    assert_eq!(violations > 0, status.code() == Code::InvalidArgument, "{what}: {details:?}");
    let wait = details.retry_info().and_then(|retry| retry.retry_delay);
    let deletes_first = matches!(reason, Reason::CollectionQuota | Reason::StoredBytes);
    let limited = status.code() == Code::ResourceExhausted && !deletes_first;
    let passes = limited || matches!(status.code(), Code::Unavailable | Code::Internal);
    assert!(!passes || wait.is_some_and(|wait| !wait.is_zero()), "{what}: {details:?}");
    (reason, details)
}

/// G11: whatever is wrong in the request of whichever call, the field is named by a path that leads to
/// it, and bytes that are no message are called that.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_says_which_field_is_wrong() {
    let server = TestServer::start().await;
    server.wire().commit(vec![put("list", "k", "v")]).await;
    let channel = server.wire().channel();
    let (messages, requests) = descriptors();
    for path in calls() {
        let broken = call(&channel, None, &path, vec![b"\x0a\x05".to_vec()], 1).await;
        let (reason, _) = explained(&path, &status_of(&broken));
        assert_eq!(reason, Reason::Undecodable, "{path}: {broken:?}");
        let Some((request, field)) = bad(&path) else { continue };
        let refused = status_of(&call(&channel, None, &path, vec![request], 1).await);
        let (_, details) = explained(&path, &refused);
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, field, "{path}: {refused}");
        assert!(refused.message().ends_with(&violation.description), "{path}: {refused}");
        assert!(leads(&messages, &requests[&path], field), "{path} has no {field}");
    }
    assert!(!leads(&messages, ".deltasync.v1.CommitRequest", "mutations[0].valve"));
    server.stop().await;
}

fn mutations(op: v1::mutation::Op) -> Vec<v1::Mutation> {
    vec![v1::Mutation { collection: "list".to_owned(), op: Some(op) }]
}

fn commit(op: v1::mutation::Op) -> v1::CommitRequest {
    v1::CommitRequest { mutations: mutations(op), ..Default::default() }
}

fn value(size: usize) -> v1::mutation::Op {
    let value = vec![b'v'; size].into();
    v1::mutation::Op::Put(v1::PutItem { key: "n".into(), value, sort_key: None })
}

fn keyed(size: usize) -> v1::CommitRequest {
    v1::CommitRequest { idempotency_key: "i".to_owned(), ..commit(value(size)) }
}

/// Calls that are refused, as the server below stands, and why.
fn refused() -> Vec<(&'static str, Vec<u8>, Reason)> {
    let list = || "list".to_owned();
    let reorder = v1::ReorderItem { key: "none".into(), sort_key: "s".into() };
    let reorder = commit(v1::mutation::Op::Reorder(reorder));
    let present = v1::precondition::Condition::ItemPresent("none".into());
    let condition = v1::Precondition { collection: list(), condition: Some(present) };
    let conditional = v1::CommitRequest { preconditions: vec![condition], ..commit(value(1)) };
    let none = v1::GetCollectionRequest { collection: "none".to_owned() };
    let purge = v1::PurgeRequest { collection: list(), up_to_version: 99 };
    let gap = v1::ImportRequest {
        import_id: "i".to_owned(),
        sequence: 2,
        mutations: mutations(value(1)),
    };
    let targets =
        ["a", "b"].map(|name| v1::Target { collection: name.to_owned(), ..Default::default() });
    let two = v1::SubscribeRequest { targets: targets.to_vec(), ..Default::default() };
    let cursor = Some(v1::Cursor { epoch: 7, version: 1, base: 0 });
    let acked = vec![v1::AckedCursor { collection: list(), cursor }];
    let ack = v1::AckRequest { client_id: "phone".to_owned(), acked };
    let explain = v1::ExplainClientRequest { client_id: "nobody".to_owned(), ..Default::default() };
    let import = v1::GetImportRequest { import_id: "none".to_owned() };
    let keys = vec![vec![b'k'; MESSAGE_BYTES_MAX].into()];
    let large = v1::GetItemsRequest { collection: list(), keys, keys_only: false };
    vec![
        ("Sync/GetCollection", none.encode_to_vec(), Reason::NoSuchCollection),
        ("Write/GetImport", import.encode_to_vec(), Reason::NoSuchImport),
        ("Admin/ExplainClient", explain.encode_to_vec(), Reason::NoSuchClient),
        ("Write/Commit", reorder.encode_to_vec(), Reason::ItemMissing),
        ("Write/Commit", conditional.encode_to_vec(), Reason::PreconditionFailed),
        ("Write/Commit", keyed(2).encode_to_vec(), Reason::IdempotencyKeyReused),
        ("Write/Commit", commit(value(1_000)).encode_to_vec(), Reason::CollectionQuota),
        ("Write/Import", gap.encode_to_vec(), Reason::ImportGap),
        ("Admin/Purge", purge.encode_to_vec(), Reason::AboveHead),
        ("Sync/Ack", ack.encode_to_vec(), Reason::AckOtherEpoch),
        ("Sync/Subscribe", two.encode_to_vec(), Reason::StreamsTaken),
        ("Sync/GetItems", large.encode_to_vec(), Reason::MessageTooLarge),
        ("Sync/Peek", Vec::new(), Reason::NoSuchCall),
    ]
}

/// G11: refusals of every kind say their reason.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_refusal_has_its_reason() {
    let server = TestServer::with(|config| config.targets_max = 1).await;
    let wire = server.wire();
    wire.commit(vec![put("list", "k", "v")]).await;
    let quota = v1::Policy { bytes_max: Some(10), ..v1::Policy::default() };
    let collection = "list".to_owned();
    let asked = v1::SetPolicyRequest { collection, policy: Some(quota), clear: Vec::new() };
    wire.admin().set_policy(asked).await.unwrap();
    wire.write().commit(keyed(1)).await.unwrap();
    for (path, request, expected) in refused() {
        let (service, method) = path.split_once('/').unwrap();
        let full = format!("/deltasync.v1.{service}Service/{method}");
        let answer = call(&wire.channel(), None, &full, vec![request], 1).await;
        let (reason, details) = explained(path, &status_of(&answer));
        assert_eq!(reason, expected, "{path}: {answer:?}");
        let quota = matches!(reason, Reason::CollectionQuota | Reason::StreamsTaken);
        assert_eq!(details.quota_failure().is_some(), quota, "{path}: {details:?}");
        if reason == Reason::CollectionQuota {
            assert!(details.retry_info().is_none(), "it does not pass by itself: {details:?}");
        }
    }
    server.stop().await;
}

/// G11: before the keys are there that verify a token, a caller is told when to come again.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_verified_yet_is_told_when_to_come() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.toml");
    std::fs::write(&policy, "[[grants]]\nanyone = true\nread = [\"a\"]\n").unwrap();
    let server = TestServer::with(|config| {
        config.policy_file = Some(policy);
        config.jwt_keys_url = Some("http://127.0.0.1:1/keys".to_owned());
        config.jwt_audience = Some("us".to_owned());
    })
    .await;
    let path = "/deltasync.v1.SyncService/ListCollections";
    let channel = server.wire().channel();
    for (shown, expected) in
        [(Some("a.b.c"), Reason::KeysNotReady), (None, Reason::CredentialsNeeded)]
    {
        let answer = call(&channel, shown, path, vec![Vec::new()], 1).await;
        assert_eq!(explained(path, &status_of(&answer)).0, expected, "{answer:?}");
    }
    server.stop().await;
}

/// G10: the details of what is not allowed are the same bytes whatever is asked for and whether or not
/// it exists, and hold no name.
#[tokio::test(flavor = "multi_thread")]
async fn details_of_a_denial_tell_nothing() {
    let policy = "[[grants]]\nsubjects = [\"owner\"]\nread = [\"*\"]\nwrite = [\"*\"]\n".to_owned();
    let guarded = Guarded::start(&(policy + &tokens(&["owner", "idle"]))).await;
    guarded.wire("owner").commit(vec![put("theirs/aa", "k", "v")]).await;
    let (channel, idle) = (guarded.server.wire().channel(), token("idle"));
    let mut seen = Vec::new();
    for name in ["theirs/aa", "theirs/no", "inbox/them"] {
        let collection = name.to_owned();
        let keys = vec!["k".into()];
        let get = v1::GetItemsRequest { collection: collection.clone(), keys, keys_only: true };
        let list = v1::ListItemsRequest { collection: collection.clone(), ..Default::default() };
        let head = v1::GetCollectionRequest { collection: collection.clone() };
        let compare = v1::ReconcileRequest { collection, ..Default::default() };
        for (method, request) in [
            ("GetItems", get.encode_to_vec()),
            ("ListItems", list.encode_to_vec()),
            ("GetCollection", head.encode_to_vec()),
            ("Reconcile", compare.encode_to_vec()),
        ] {
            let path = format!("/deltasync.v1.SyncService/{method}");
            let answer = call(&channel, Some(&idle), &path, vec![request], 1).await;
            let (reason, details) = explained(&path, &status_of(&answer));
            assert_eq!(reason, Reason::NotAllowed, "{path} {name}");
            assert!(details.error_info().unwrap().metadata.is_empty(), "{path}: {details:?}");
            // The encoded status repeats the text, which names the field alone.
            assert!(!String::from_utf8_lossy(&answer.details).contains("theirs"), "{answer:?}");
            assert!(!String::from_utf8_lossy(&answer.details).contains(name), "{answer:?}");
            seen.push((method, answer));
        }
    }
    for (method, answer) in &seen {
        let (_, first) = seen.iter().find(|(other, _)| other == method).unwrap();
        assert_eq!(answer, first, "{method}");
    }
    guarded.server.stop().await;
}

/// The protocol's page explains every reason, with its code, and none besides.
#[test]
fn the_page_of_the_protocol_lists_every_reason() {
    let page = std::fs::read_to_string(workspace().join("docs/PROTOCOL.md")).unwrap();
    let table = page.split_once("| reason | code |").expect("a table of reasons").1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| `"));
    let told: BTreeMap<&str, i32> = rows
        .map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`')).skip(1);
            (cells.next().unwrap(), cells.next().unwrap().parse().unwrap())
        })
        .collect();
    let known: BTreeMap<&str, i32> = Reason::ALL
        .iter()
        .map(|reason| (reason.as_str(), i32::from(status::code(*reason))))
        .collect();
    assert_eq!(told, known);
}
