//! G11: every limit, one step on either side: what is exactly as much as allowed passes, one more
//! is refused by an error that names the field and the limit.
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use sync_proto::convert::{id, page_size};
use sync_proto::limits::{
    COLLECTION_NAME_LEN_MAX, COMMIT_BYTES_MAX, COMMIT_MUTATIONS_MAX, COMMIT_PRECONDITIONS_MAX,
    HEARTBEAT_MS_MAX, HEARTBEAT_MS_MIN, ID_LEN_MAX, KEY_LEN_MAX, LIST_PAGE_MAX, MESSAGE_BYTES_MAX,
    PAGE_BYTES_MAX, PAGE_CHANGES_MAX, PULL_TARGETS_MAX, SCOPE_KEYS_MAX, SORT_KEY_LEN_MAX,
    SUBJECT_LEN_MAX, SUBSCRIBE_TARGETS_MAX, VALUE_LEN_MAX, VERSION_MAX,
};
use sync_proto::types::{Commit, Cursor, ListItems, Malformed, Pull, Reconcile, Subscribe, Target};
use sync_proto::v1;
use sync_proto::v1::mutation::Op;
use sync_proto::v1::precondition::Condition;

fn bytes(len: usize) -> Bytes {
    vec![b'x'; len].into()
}

fn text(len: usize) -> String {
    "x".repeat(len)
}

fn collection() -> String {
    "c".to_owned()
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap()
}

/// The first of so many different keys is `key-0000`.
fn keys(count: usize) -> Vec<Bytes> {
    (0..count).map(|number| format!("key-{number:04}").into()).collect()
}

fn mutation(op: Op) -> v1::Mutation {
    v1::Mutation { collection: collection(), op: Some(op) }
}

fn put(key: Bytes, value: Bytes, sort_key: Option<Bytes>) -> v1::Mutation {
    mutation(Op::Put(v1::PutItem { key, value, sort_key }))
}

fn commit_of(mutations: Vec<v1::Mutation>) -> Result<(), Malformed> {
    Commit::try_from(v1::CommitRequest { mutations, ..Default::default() }).map(|_| ())
}

fn commit_if(preconditions: Vec<v1::Precondition>) -> Result<(), Malformed> {
    let mutations = vec![put(bytes(1), bytes(1), None)];
    Commit::try_from(v1::CommitRequest { mutations, preconditions, ..Default::default() })
        .map(|_| ())
}

fn condition(condition: Condition) -> Vec<v1::Precondition> {
    vec![v1::Precondition { collection: collection(), condition: Some(condition) }]
}

fn target(index: usize) -> v1::Target {
    v1::Target { collection: format!("c{index}"), ..Default::default() }
}

fn pull_of(targets: usize) -> Result<(), Malformed> {
    let targets = (0..targets).map(target).collect();
    Pull::try_from(v1::PullRequest { targets, ..Default::default() }).map(|_| ())
}

fn subscribe_to(targets: usize, heartbeat_ms: u32) -> Result<(), Malformed> {
    let targets = (0..targets).map(target).collect();
    Subscribe::try_from(v1::SubscribeRequest { targets, heartbeat_ms, ..Default::default() })
        .map(|_| ())
}

fn scope_of(part: v1::scope::Part) -> Result<(), Malformed> {
    let scope = Some(v1::Scope { part: Some(part) });
    Target::try_from(v1::Target { scope, ..target(0) }).map(|_| ())
}

fn list(wire: v1::ListItemsRequest) -> Result<(), Malformed> {
    ListItems::try_from(v1::ListItemsRequest { collection: collection(), ..wire }).map(|_| ())
}

/// A limit: the field that its error names, the number, and a message of that size.
struct Limit {
    field: &'static str,
    max: usize,
    message: fn(usize) -> Result<(), Malformed>,
}

const NAMES: [Limit; 9] = [
    Limit {
        field: "mutations[0].collection",
        max: COLLECTION_NAME_LEN_MAX,
        message: |len| commit_of(vec![v1::Mutation { collection: text(len), ..put_one() }]),
    },
    Limit {
        field: "mutations[0].key",
        max: KEY_LEN_MAX,
        message: |len| commit_of(vec![put(bytes(len), bytes(0), None)]),
    },
    Limit {
        field: "mutations[0].key",
        max: KEY_LEN_MAX,
        message: |len| commit_of(vec![mutation(Op::Delete(v1::DeleteItem { key: bytes(len) }))]),
    },
    Limit {
        field: "mutations[0].sort_key",
        max: SORT_KEY_LEN_MAX,
        message: |len| commit_of(vec![put(bytes(1), bytes(0), Some(bytes(len)))]),
    },
    Limit {
        field: "mutations[0].sort_key",
        max: SORT_KEY_LEN_MAX,
        message: |len| {
            let (key, sort_key) = (bytes(1), bytes(len));
            commit_of(vec![mutation(Op::Reorder(v1::ReorderItem { key, sort_key }))])
        },
    },
    Limit {
        field: "mutations[0].value",
        max: VALUE_LEN_MAX,
        message: |len| commit_of(vec![put(bytes(1), bytes(len), None)]),
    },
    Limit {
        field: "mutations[0].subject",
        max: SUBJECT_LEN_MAX,
        message: |len| commit_of(vec![mutation(Op::Follow(v1::Follow { subject: text(len) }))]),
    },
    Limit {
        field: "mutations[0].subject",
        max: SUBJECT_LEN_MAX,
        message: |len| commit_of(vec![mutation(Op::Unfollow(v1::Unfollow { subject: text(len) }))]),
    },
    Limit { field: "import_id", max: ID_LEN_MAX, message: |len| id(&text(len), "import_id") },
];

const REQUESTS: [Limit; 16] = [
    Limit {
        field: "mutations",
        max: COMMIT_MUTATIONS_MAX,
        message: |count| {
            commit_of(keys(count).into_iter().map(|key| put(key, bytes(0), None)).collect())
        },
    },
    Limit {
        field: "mutations",
        max: COMMIT_BYTES_MAX,
        message: |len| {
            let values = (0..len).step_by(VALUE_LEN_MAX / 2);
            let rest = |at: usize| (len - at).min(VALUE_LEN_MAX / 2);
            // A key of four bytes counts, so each value is four bytes shorter.
            let put = |(n, at): (usize, usize)| match rest(at) {
                short @ ..=4 => put(vec![u8::try_from(n).unwrap(); short].into(), bytes(0), None),
                len => put(vec![u8::try_from(n).unwrap(); 4].into(), bytes(len - 4), None),
            };
            commit_of(values.enumerate().map(put).collect())
        },
    },
    Limit {
        field: "preconditions",
        max: COMMIT_PRECONDITIONS_MAX,
        message: |count| {
            commit_if(vec![condition(Condition::ItemAbsent(bytes(1))).remove(0); count])
        },
    },
    Limit {
        field: "preconditions[0].item_absent",
        max: KEY_LEN_MAX,
        message: |len| commit_if(condition(Condition::ItemAbsent(bytes(len)))),
    },
    Limit {
        field: "preconditions[0].item_present",
        max: KEY_LEN_MAX,
        message: |len| commit_if(condition(Condition::ItemPresent(bytes(len)))),
    },
    Limit {
        field: "preconditions[0].collection",
        max: COLLECTION_NAME_LEN_MAX,
        message: |len| {
            let condition = Some(Condition::ItemPresent(bytes(1)));
            commit_if(vec![v1::Precondition { collection: text(len), condition }])
        },
    },
    Limit {
        field: "idempotency_key",
        max: ID_LEN_MAX,
        message: |len| {
            let (mutations, idempotency_key) = (vec![put_one()], text(len));
            let wire = v1::CommitRequest { mutations, idempotency_key, ..Default::default() };
            Commit::try_from(wire).map(|_| ())
        },
    },
    Limit { field: "targets", max: PULL_TARGETS_MAX, message: pull_of },
    Limit {
        field: "client_id",
        max: ID_LEN_MAX,
        message: |len| {
            let (targets, client_id) = (vec![target(0)], text(len));
            let wire = v1::PullRequest { targets, client_id, ..Default::default() };
            Pull::try_from(wire).map(|_| ())
        },
    },
    Limit { field: "targets", max: SUBSCRIBE_TARGETS_MAX, message: |n| subscribe_to(n, 0) },
    Limit {
        field: "client_id",
        max: ID_LEN_MAX,
        message: |len| {
            let (targets, client_id) = (vec![target(0)], text(len));
            let wire = v1::SubscribeRequest { targets, client_id, ..Default::default() };
            Subscribe::try_from(wire).map(|_| ())
        },
    },
    Limit {
        field: "scope.keys.keys",
        max: SCOPE_KEYS_MAX,
        message: |count| scope_of(v1::scope::Part::Keys(v1::KeySet { keys: keys(count) })),
    },
    Limit {
        field: "scope.key_prefix",
        max: KEY_LEN_MAX,
        message: |len| scope_of(v1::scope::Part::KeyPrefix(bytes(len))),
    },
    Limit {
        field: "page_size",
        max: LIST_PAGE_MAX,
        message: |size| page_size(number(size)).map(|_| ()),
    },
    Limit {
        field: "page_size",
        max: LIST_PAGE_MAX,
        message: |size| {
            list(v1::ListItemsRequest { page_size: number(size), ..Default::default() })
        },
    },
    Limit {
        field: "key_prefix",
        max: KEY_LEN_MAX,
        message: |len| list(v1::ListItemsRequest { key_prefix: bytes(len), ..Default::default() }),
    },
];

fn put_one() -> v1::Mutation {
    put(bytes(1), bytes(1), None)
}

#[test]
fn as_much_as_allowed_passes_and_one_more_is_refused() {
    for limit in NAMES.iter().chain(&REQUESTS) {
        let Limit { field, max, message } = limit;
        assert_eq!(message(*max), Ok(()), "{field} of exactly {max}");
        let refused = message(max + 1).expect_err(field);
        assert_eq!(refused.field, *field, "{refused}");
        assert!(refused.reason.contains(&max.to_string()), "{refused} does not say {max}");
    }
}

#[test]
fn what_must_not_be_empty_is_refused_when_it_is() {
    let refusals = [
        ("mutations", commit_of(Vec::new())),
        ("mutations[0].key", commit_of(vec![put(bytes(0), bytes(1), None)])),
        ("mutations[0].op", commit_of(vec![v1::Mutation { op: None, ..put_one() }])),
        (
            "mutations[0].collection",
            commit_of(vec![v1::Mutation { collection: String::new(), ..put_one() }]),
        ),
        (
            "mutations[0].subject",
            commit_of(vec![mutation(Op::Follow(v1::Follow { subject: String::new() }))]),
        ),
        (
            "preconditions[0].condition",
            commit_if(vec![v1::Precondition { collection: collection(), condition: None }]),
        ),
        ("targets", pull_of(0)),
        ("targets", subscribe_to(0, 0)),
        ("scope.keys.keys", scope_of(v1::scope::Part::Keys(v1::KeySet { keys: Vec::new() }))),
        ("scope.key_prefix", scope_of(v1::scope::Part::KeyPrefix(bytes(0)))),
    ];
    for (field, refused) in refusals {
        assert_eq!(refused.expect_err(field).field, field);
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let twice = vec![put_one(), put_one()];
    assert_eq!(commit_of(twice).unwrap_err().field, "mutations[1].key");
    let two = vec![bytes(1), bytes(1)];
    let keys = scope_of(v1::scope::Part::Keys(v1::KeySet { keys: two }));
    assert_eq!(keys.unwrap_err().field, "scope.keys.keys[1]");
    let targets = vec![target(0), target(0)];
    let twice = Subscribe::try_from(v1::SubscribeRequest { targets, ..Default::default() });
    assert_eq!(twice.unwrap_err().field, "targets[1].collection");
    let cursor = Some(v1::Cursor { epoch: 1, version: 1, base: 0 });
    let both = Target::try_from(v1::Target { from_last_ack: true, cursor, ..target(0) });
    assert_eq!(both.unwrap_err().field, "cursor");
    let strange = id("a\nb", "import_id");
    assert_eq!(strange.unwrap_err().field, "import_id", "ids hold no control characters");
    for inbox in ["inbox/alice", "inbox/a/b"] {
        let theirs = v1::Mutation { collection: inbox.to_owned(), ..put_one() };
        assert_eq!(commit_of(vec![theirs]).unwrap_err().field, "mutations[0].collection");
    }
}

#[test]
fn names_are_segments_without_control_characters() {
    let name = |name: &str| {
        commit_of(vec![v1::Mutation { collection: name.to_owned(), ..put_one() }]).is_ok()
    };
    for good in ["a", "groups/42/members", "mit Leerzeichen", "東京/🐟", "..", "inbox"] {
        assert!(name(good), "{good:?}");
    }
    for bad in ["/", "/a", "a/", "a//b", "a\nb", "a\0", "\u{7f}", "a/\u{85}"] {
        assert!(!name(bad), "{bad:?}");
    }
}

#[test]
fn heartbeats_have_two_bounds() {
    for (heartbeat, allowed) in [
        (0, true),
        (1, false),
        (HEARTBEAT_MS_MIN - 1, false),
        (HEARTBEAT_MS_MIN, true),
        (HEARTBEAT_MS_MAX, true),
        (HEARTBEAT_MS_MAX + 1, false),
    ] {
        let answer = subscribe_to(1, heartbeat);
        assert_eq!(answer.is_ok(), allowed, "{heartbeat}: {answer:?}");
        if let Err(refused) = answer {
            assert_eq!(refused.field, "heartbeat_ms");
        }
    }
}

/// A budget is a wish: more than the most is the most.
/// R69: a path names fields of the proto, and which element of a list.
#[test]
fn refusals_name_the_field_and_the_element() {
    let keys = |keys: &[&'static str]| {
        let keys = keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
        scope_of(v1::scope::Part::Keys(v1::KeySet { keys }))
    };
    let version = v1::ItemVersionEquals { key: bytes(1), version: 0 };
    let again = [target(0), target(1), target(0)].to_vec();
    let twice = v1::SubscribeRequest { targets: again, ..Default::default() };
    let refusals = [
        (keys(&["a", ""]), "scope.keys.keys[1]: must not be empty"),
        (keys(&["b", "a", "b"]), "scope.keys.keys[2]: occurs twice"),
        (keys(&[]), "scope.keys.keys: 0 of them, 1 to 1000 are allowed"),
        (
            Subscribe::try_from(twice).map(|_| ()),
            "targets[2].collection: occurs twice in one stream",
        ),
        (
            commit_if(condition(Condition::ItemAbsent(bytes(0)))),
            "preconditions[0].item_absent: must not be empty",
        ),
        (
            commit_if(condition(Condition::ItemPresent(bytes(1_025)))),
            "preconditions[0].item_present: 1025 bytes, the limit is 1024",
        ),
        (
            commit_if(condition(Condition::ItemVersionEquals(version))),
            "preconditions[0].item_version_equals.version: 0 holds never; say item_absent",
        ),
        (
            commit_if(condition(Condition::HeadEquals(v1::HeadEquals { epoch: 7, version: 0 }))),
            "preconditions[0].head_equals.version: 0 holds never with an epoch; without one it \
             means that there is none",
        ),
    ];
    for (refused, expected) in refusals {
        assert_eq!(refused.unwrap_err().to_string(), expected);
    }
}

/// Each depth asks for what it needs and for nothing else.
#[test]
fn rounds_of_a_reconciliation_are_of_a_kind() {
    let at = Some(v1::Cursor { epoch: 1, version: 5, base: 0 });
    let round = |depth, at, nodes: Vec<u32>, page_token: &'static [u8]| {
        let page_token = Bytes::from_static(page_token);
        let request = v1::ReconcileRequest {
            collection: collection(),
            at,
            depth,
            nodes,
            page_token,
            ..Default::default()
        };
        Reconcile::try_from(request).map(|_| ())
    };
    let all: Vec<u32> = (0..64).collect();
    round(0, None, vec![], b"").unwrap();
    round(1, at, all.clone(), b"").unwrap();
    round(2, at, all, b"token").unwrap();
    round(2, at, vec![4_095], b"").unwrap();
    let refusals = [
        (round(0, at, vec![], b""), "at: must be absent at depth 0"),
        (round(0, None, vec![1], b""), "nodes: must be absent at depth 0"),
        (round(1, None, vec![1], b""), "at: must be set at depths 1 and 2"),
        (round(1, at, vec![], b""), "nodes: 0 of them, 1 to 64 are allowed"),
        (round(1, at, vec![64], b""), "nodes[0]: 64, 0 to 63 is allowed"),
        (round(1, at, vec![1], b"t"), "page_token: must be absent at depth 1"),
        (round(2, at, vec![1, 4_096], b""), "nodes[1]: 4096, 0 to 4095 is allowed"),
        (round(2, at, (0..65).collect(), b""), "nodes: 65 of them, 1 to 64 are allowed"),
        (round(2, at, vec![2, 1], b""), "nodes: must be in ascending order, none twice"),
        (round(2, at, vec![1, 1], b""), "nodes: must be in ascending order, none twice"),
        (round(3, at, vec![1], b""), "depth: 3, 0 to 2 is allowed"),
    ];
    for (refused, expected) in refusals {
        assert_eq!(refused.unwrap_err().to_string(), expected);
    }
}

#[test]
fn budgets_of_a_pull_are_clamped() {
    let most = (PAGE_BYTES_MAX, PAGE_CHANGES_MAX);
    for (asked, given) in [((0, 0), most), ((1, 1), (1, 1)), ((u64::MAX, u32::MAX), most)] {
        let (max_bytes, max_changes_per_target) = asked;
        let targets = vec![target(0)];
        let wire =
            v1::PullRequest { targets, max_bytes, max_changes_per_target, ..Default::default() };
        let pull = Pull::try_from(wire).unwrap();
        assert_eq!((pull.bytes_max, pull.changes_max), given, "{asked:?}");
    }
}

#[test]
fn cursors_stay_within_63_bits_and_an_epoch() {
    let cursor = |epoch, version, base| {
        let cursor = Some(v1::Cursor { epoch, version, base });
        Target::try_from(v1::Target { cursor, ..target(0) }).map(|target| target.cursor)
    };
    assert_eq!(cursor(0, 0, 0), Ok(None), "three zeros are no cursor");
    assert!(cursor(1, VERSION_MAX, 0).unwrap().is_some());
    for (bad, field) in [
        (cursor(1, VERSION_MAX + 1, 0), "cursor.version"),
        (cursor(1, 1, VERSION_MAX + 1), "cursor.base"),
        (cursor(0, 1, 0), "cursor.epoch"),
        (cursor(0, 0, 1), "cursor.epoch"),
    ] {
        assert_eq!(bad.unwrap_err().field, field);
    }
    let raised = Cursor::try_from(v1::Cursor { epoch: 1, version: 9, base: 4 }).unwrap();
    assert_eq!(raised.base, raised.version, "a base below the version means pages under way");
}

/// One bad target of a pull fails alone.
#[test]
fn a_bad_target_of_a_pull_does_not_fail_the_call() {
    let bad = v1::Target { collection: String::new(), ..Default::default() };
    let wire = v1::PullRequest { targets: vec![target(0), bad], ..Default::default() };
    let pull = Pull::try_from(wire).unwrap();
    assert!(pull.targets[0].is_ok());
    assert_eq!(pull.targets[1].as_ref().unwrap_err().field, "targets[1].collection");
}

const _: () = assert!(COMMIT_BYTES_MAX < MESSAGE_BYTES_MAX);
