//! At a limit a request passes; one above it is refused with the field and the limit named, and
//! nothing has changed.

use sync_proto::limits::{
    COLLECTION_NAME_LEN_MAX, COMMIT_BYTES_MAX, COMMIT_MUTATIONS_MAX, COMMIT_PRECONDITIONS_MAX,
    ID_LEN_MAX, KEY_LEN_MAX, SORT_KEY_LEN_MAX, SUBJECT_LEN_MAX, VALUE_LEN_MAX,
};
use sync_proto::v1;
use sync_proto::v1::mutation::Op;
use sync_tests::raw;
use sync_tests::server::TestServer;
use tonic::{Code, Status};

fn put(key: Vec<u8>, value: Vec<u8>, sort_key: Option<Vec<u8>>) -> v1::Mutation {
    mutation(Op::Put(v1::PutItem {
        key: key.into(),
        value: value.into(),
        sort_key: sort_key.map(Into::into),
    }))
}

fn mutation(op: Op) -> v1::Mutation {
    v1::Mutation { collection: "list".to_owned(), op: Some(op) }
}

fn request(mutations: Vec<v1::Mutation>) -> v1::CommitRequest {
    v1::CommitRequest { mutations, ..Default::default() }
}

/// A commit that passes `limit`, or goes `over` it by one.
struct Limit {
    field: &'static str,
    most: usize,
    commit: fn(usize) -> v1::CommitRequest,
}

const LIMITS: [Limit; 9] = [
    Limit {
        field: "mutations[0].key",
        most: KEY_LEN_MAX,
        commit: |n| request(vec![put(vec![b'k'; n], vec![], None)]),
    },
    Limit {
        field: "mutations[0].sort_key",
        most: SORT_KEY_LEN_MAX,
        commit: |n| request(vec![put(vec![b'k'], vec![], Some(vec![b's'; n]))]),
    },
    Limit {
        field: "mutations[0].value",
        most: VALUE_LEN_MAX,
        commit: |n| request(vec![put(vec![b'k'], vec![b'v'; n], None)]),
    },
    Limit {
        field: "mutations[0].collection",
        most: COLLECTION_NAME_LEN_MAX,
        commit: |n| {
            let mut mutation = put(vec![b'k'], vec![], None);
            mutation.collection = "n".repeat(n);
            request(vec![mutation])
        },
    },
    Limit {
        field: "mutations",
        most: COMMIT_MUTATIONS_MAX,
        commit: |n| {
            request((0..n).map(|n| put(n.to_string().into_bytes(), vec![], None)).collect())
        },
    },
    Limit {
        field: "mutations",
        most: COMMIT_BYTES_MAX,
        commit: |n| {
            let parts = [n / 3, n / 3, n - 2 * (n / 3)];
            let part = |(index, size): (usize, usize)| {
                put(vec![u8::try_from(index).unwrap()], vec![b'v'; size - 1], None)
            };
            request(parts.into_iter().enumerate().map(part).collect())
        },
    },
    Limit {
        field: "preconditions",
        most: COMMIT_PRECONDITIONS_MAX,
        commit: |n| {
            let absent = v1::Precondition {
                collection: "none".to_owned(),
                condition: Some(v1::precondition::Condition::ItemAbsent("k".into())),
            };
            let preconditions = vec![absent; n];
            v1::CommitRequest { preconditions, ..request(vec![put(vec![b'k'], vec![], None)]) }
        },
    },
    Limit {
        field: "idempotency_key",
        most: ID_LEN_MAX,
        commit: |n| {
            let idempotency_key = "i".repeat(n);
            v1::CommitRequest { idempotency_key, ..request(vec![put(vec![b'k'], vec![], None)]) }
        },
    },
    Limit {
        field: "mutations[0].subject",
        most: SUBJECT_LEN_MAX,
        commit: |n| request(vec![mutation(Op::Follow(v1::Follow { subject: "s".repeat(n) }))]),
    },
];

/// G11: every limit of a commit, on both sides.
#[tokio::test(flavor = "multi_thread")]
async fn at_a_limit_passes_and_one_above_is_refused_by_name() {
    for Limit { field, most, commit } in LIMITS {
        let server = TestServer::start().await;
        let refusal = send(&server, commit(most + 1)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{field}: {refusal}");
        assert!(refusal.message().starts_with(&format!("{field}: ")), "{field}: {refusal}");
        assert!(refusal.message().contains(&most.to_string()), "{field}: {refusal}");
        let list = v1::ListCollectionsRequest::default();
        let listed = server.wire().sync().list_collections(list).await.unwrap().into_inner();
        assert!(listed.collections.is_empty(), "{field}: nothing was changed");
        let passed = send(&server, commit(most)).await;
        match passed {
            Ok(()) => {}
            // Audiences are not offered; what matters is that the length was not refused.
            Err(status) => assert_eq!(status.code(), Code::Unimplemented, "{field}: {status}"),
        }
        server.stop().await;
    }
}

async fn send(server: &TestServer, request: v1::CommitRequest) -> Result<(), Status> {
    server.wire().write().commit(request).await.map(|_| ())
}

/// G11: what no limit covers but makes no sense is refused by name as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_by_name() {
    let server = TestServer::start().await;
    let good = || put(vec![b'k'], vec![], None);
    let named = |name: &str| v1::Mutation { collection: name.to_owned(), ..good() };
    let with = |condition| {
        let precondition = v1::Precondition { collection: "list".to_owned(), condition };
        v1::CommitRequest { preconditions: vec![precondition], ..request(vec![good()]) }
    };
    let cases = [
        (request(vec![]), "mutations: "),
        (request(vec![good(), put(vec![], vec![], None)]), "mutations[1].key: "),
        (request(vec![good(), good()]), "mutations[1].key: "),
        (request(vec![v1::Mutation { op: None, ..good() }]), "mutations[0].op: "),
        (request(vec![named("")]), "mutations[0].collection: "),
        (request(vec![named("/a")]), "mutations[0].collection: "),
        (request(vec![named("a/")]), "mutations[0].collection: "),
        (request(vec![named("a\nb")]), "mutations[0].collection: "),
        (request(vec![named("inbox/me")]), "mutations[0].collection: "),
        (request(vec![mutation(Op::Follow(v1::Follow::default()))]), "mutations[0].subject: "),
        (with(None), "preconditions[0].condition: "),
    ];
    for (request, field) in cases {
        let refusal = send(&server, request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{field}: {refusal}");
        assert!(refusal.message().starts_with(field), "{field}: {refusal}");
    }
    // Names are names: anything else is allowed, also what looks like a path.
    for name in ["..", "a/../b", "inboxes/1", "größe", "a b"] {
        send(&server, request(vec![named(name)])).await.unwrap();
    }
    server.stop().await;
}

/// G11: bytes that are no message are the caller's fault, in every kind of call, and change
/// nothing; what a stream sent before them stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_decode_is_refused_as_the_callers_fault() {
    let server = TestServer::start().await;
    let wire = server.wire();
    // Field 1 with a length of 5 and nothing behind it, a group that nobody opened, and a string
    // that is no UTF-8.
    let broken: [&[u8]; 3] = [b"\x0a\x05", b"\x0c", b"\x0a\x02\xff\xfe"];
    let methods = [
        "/deltasync.v1.SyncService/GetCollection",
        "/deltasync.v1.SyncService/Subscribe",
        "/deltasync.v1.WriteService/DeleteCollection",
        "/deltasync.v1.WriteService/Commit",
        "/deltasync.v1.WriteService/Import",
        "/deltasync.v1.AdminService/InspectCollection",
    ];
    for method in methods {
        for message in broken {
            let refusal = raw::call(wire.channel(), method, vec![message]).await.unwrap_err();
            assert_eq!(refusal.code(), Code::InvalidArgument, "{method}: {refusal}");
            assert!(refusal.message().starts_with("request: does not decode: "), "{refusal}");
        }
    }
    // An import id and a sequence number of 1, and a put of `k` into `list`.
    let good: &[u8] = b"\x0a\x01i\x10\x01\x1a\x0b\x0a\x04list\x12\x03\x0a\x01k";
    let import = vec![good, b"\x0a\x05"];
    let refusal = raw::call(wire.channel(), methods[4], import).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
    let known = v1::GetImportRequest { import_id: "i".to_owned() };
    let known = wire.write().get_import(known).await.unwrap().into_inner();
    assert_eq!(known.sequence, 1, "what came before stays, and is told");
    server.stop().await;
}
