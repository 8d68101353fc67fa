//! Every call of the protocol's descriptor × every kind of caller × every kind of collection. A new
//! call without a line in `needs` and in `request` fails here.

use futures::future::join_all;
use prost::Message as _;
use sync_proto::v1;
use sync_tests::compose::put;
use sync_tests::wire::Wire;
use tonic::Code;
use tonic::transport::Channel;

use crate::authority::{Authority, Client, Pair};
use crate::guard::{Guarded, follows, token, tokens};
use crate::issuer::{Signer, claims, in_seconds, set};
use crate::raw_calls::{Answer, call, calls};

/// What a call takes, said a second time and independently of the server's own table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Read,
    Write,
    Keep,
    Whole,
    /// To be somebody.
    Known,
}

/// Somebody, and what the policy below gives.
#[derive(Clone, Default)]
struct Who {
    /// `None`: shows nothing.
    token: Option<String>,
    /// Shown by its connection, to a server that asks for one.
    certificate: Option<Pair>,
    known: bool,
    may: &'static [Needs],
}

const POLICY: &str = r#"
[[grants]]
subjects = ["reader"]
read = ["ours"]

[[grants]]
subjects = ["writer"]
write = ["ours"]

[[grants]]
subjects = ["keeper"]
admin = ["ours"]

[[grants]]
subjects = ["follower"]
follow = ["ours"]

[[grants]]
subjects = ["operator"]
admin = ["*"]

[[grants]]
subjects = ["owner"]
read = ["*"]
write = ["*"]

[revoked]
subjects = ["mallory"]
"#;

/// A name of each kind, all equally long, and whether `ours` covers it.
const NAMES: [(&str, bool); 6] = [
    ("ours/here", true),
    ("ours/none", true),
    // Begins alike, and exists.
    ("oursister", false),
    ("theirs/aa", false),
    ("theirs/no", false),
    ("inbox/bob", false),
];

fn needs(path: &str) -> Needs {
    let method = path.strip_prefix("/deltasync.v1.").expect("a call of the protocol");
    match method {
        "SyncService/Pull"
        | "SyncService/Subscribe"
        | "SyncService/ListItems"
        | "SyncService/GetItems"
        | "SyncService/GetCollection"
        | "SyncService/ListCollections"
        | "SyncService/Reconcile"
        | "SyncService/Ack" => Needs::Read,
        "WriteService/Commit" | "WriteService/Import" | "WriteService/DeleteCollection" => {
            Needs::Write
        }
        "WriteService/GetImport" => Needs::Known,
        "AdminService/InspectCollection"
        | "AdminService/SetPolicy"
        | "AdminService/Purge"
        | "AdminService/RotateEpoch"
        | "AdminService/ListAudience"
        | "AdminService/ListFollows" => Needs::Keep,
        "AdminService/Backup"
        | "AdminService/Verify"
        | "AdminService/ListClients"
        | "AdminService/ExplainClient"
        | "AdminService/Drain" => Needs::Whole,
        other => panic!("{other} is new: say here what it takes, and in `request` how it is asked"),
    }
}

/// A well-formed request about a collection.
fn request(path: &str, name: &str) -> Vec<u8> {
    let collection = name.to_owned();
    let target = v1::Target { collection: collection.clone(), ..Default::default() };
    let mutation = || {
        let put = v1::PutItem { key: "k".into(), value: "v".into(), sort_key: None };
        v1::Mutation { collection: name.to_owned(), op: Some(v1::mutation::Op::Put(put)) }
    };
    match path.rsplit('/').next().unwrap() {
        "Pull" => v1::PullRequest { targets: vec![target], ..Default::default() }.encode_to_vec(),
        "Subscribe" => {
            v1::SubscribeRequest { targets: vec![target], ..Default::default() }.encode_to_vec()
        }
        "ListItems" => v1::ListItemsRequest { collection, ..Default::default() }.encode_to_vec(),
        "GetItems" => {
            let keys = vec!["k".into()];
            v1::GetItemsRequest { collection, keys, keys_only: false }.encode_to_vec()
        }
        "GetCollection" => v1::GetCollectionRequest { collection }.encode_to_vec(),
        "ListCollections" => {
            v1::ListCollectionsRequest { prefix: collection, ..Default::default() }.encode_to_vec()
        }
        "Reconcile" => v1::ReconcileRequest { collection, ..Default::default() }.encode_to_vec(),
        "Ack" => {
            let cursor = Some(v1::Cursor { epoch: 7, version: 1, base: 0 });
            let acked = vec![v1::AckedCursor { collection, cursor }];
            v1::AckRequest { client_id: "phone".to_owned(), acked }.encode_to_vec()
        }
        "Commit" => {
            v1::CommitRequest { mutations: vec![mutation()], ..Default::default() }.encode_to_vec()
        }
        "Import" => {
            let (import_id, mutations) = (format!("into {name}"), vec![mutation()]);
            v1::ImportRequest { import_id, sequence: 1, mutations }.encode_to_vec()
        }
        "GetImport" => v1::GetImportRequest { import_id: "none".to_owned() }.encode_to_vec(),
        "DeleteCollection" => {
            v1::DeleteCollectionRequest { collection, head_equals: None }.encode_to_vec()
        }
        "InspectCollection" => v1::InspectCollectionRequest { collection }.encode_to_vec(),
        "SetPolicy" => {
            let policy = Some(v1::Policy { tombstones_max: Some(9), ..Default::default() });
            v1::SetPolicyRequest { collection, policy, clear: Vec::new() }.encode_to_vec()
        }
        "Purge" => v1::PurgeRequest { collection, up_to_version: 1 }.encode_to_vec(),
        "RotateEpoch" => v1::RotateEpochRequest { collection }.encode_to_vec(),
        "ListAudience" => {
            v1::ListAudienceRequest { collection, ..Default::default() }.encode_to_vec()
        }
        // Its collection is the inbox of a subject.
        "ListFollows" => {
            let subject = name.strip_prefix("inbox/").unwrap_or("bob").to_owned();
            v1::ListFollowsRequest { subject, ..Default::default() }.encode_to_vec()
        }
        "ExplainClient" => {
            v1::ExplainClientRequest { client_id: "phone".to_owned(), collection }.encode_to_vec()
        }
        // One that would be let through and still must not end the server.
        "Drain" => {
            let grace = Some(prost_types::Duration { seconds: -1, nanos: 0 });
            v1::DrainRequest { grace }.encode_to_vec()
        }
        "Backup" | "Verify" | "ListClients" => Vec::new(),
        other => panic!("{other} is new: say here how it is asked"),
    }
}

/// Callers by name.
type Callers = Vec<(String, Who)>;

/// Those who are known, each with other rights; shown to be so in some way.
fn known(how: &str, shows: impl Fn(&'static str) -> Who) -> Callers {
    let rights: [(_, &'static [Needs]); 6] = [
        ("idle", &[]),
        ("follower", &[]),
        ("reader", &[Needs::Read]),
        ("writer", &[Needs::Write]),
        ("keeper", &[Needs::Keep]),
        ("operator", &[Needs::Keep, Needs::Whole]),
    ];
    let one = |(name, may)| (format!("{name}{how}"), Who { known: true, may, ..shows(name) });
    rights.map(one).into()
}

/// Those who are nobody, whatever they show.
fn nobody<const N: usize>(callers: [(&str, Who); N]) -> Callers {
    callers.map(|(name, who)| (name.to_owned(), who)).into()
}

fn everybody() -> Callers {
    let shows = |token: String| Who { token: Some(token), ..Who::default() };
    let bad = nobody([
        ("nobody", Who::default()),
        ("stranger", shows("guess".to_owned())),
        ("mallory", shows(token("mallory"))),
    ]);
    [bad, known("", |name| shows(token(name)))].concat()
}

/// The same with signed tokens, good and bad.
fn everybody_signed(issuer: &Signer) -> Callers {
    let shows = |token: String| Who { token: Some(token), ..Who::default() };
    let mut late = claims("operator");
    late["exp"] = in_seconds(-600).into();
    let mut for_others = claims("operator");
    for_others["aud"] = "somebody else".into();
    let bad = nobody([
        ("signed by a stranger", shows(Signer::elliptic("key").sign(&claims("operator")))),
        ("signed for too short a time", shows(issuer.sign(&late))),
        ("signed for another service", shows(issuer.sign(&for_others))),
        ("mallory, signed", shows(issuer.sign(&claims("mallory")))),
    ]);
    [bad, known(", signed", |name| shows(issuer.sign(&claims(name))))].concat()
}

/// The same with certificates, good and bad.
fn everybody_certified(authority: &Authority) -> Callers {
    let shows = |names: &[&str]| Who {
        certificate: Some(authority.issue("operator", names)),
        ..Who::default()
    };
    let bad = nobody([
        ("a common name, certified", shows(&[])),
        ("mallory, certified", shows(&["mallory"])),
    ]);
    let unlike = ["operator.example", "spiffe://operator"];
    let unlike = unlike.map(|name| (name.to_owned(), Who { known: true, ..shows(&[name]) }));
    [bad, unlike.into(), known(", certified", |name| shows(&[name]))].concat()
}

/// Whether this call of this caller is to be let through.
fn allowed(path: &str, who: &Who, covered: bool) -> bool {
    let covered = covered && !path.ends_with("/ListFollows");
    let (needs, everywhere) = (needs(path), who.may.contains(&Needs::Whole));
    match needs {
        Needs::Known => who.known,
        Needs::Read | Needs::Write | Needs::Keep => {
            who.may.contains(&needs) && (covered || everywhere)
        }
        Needs::Whole => everywhere,
    }
}

/// Whether an answer lets nothing through: by its code, or by what it says of its only target.
fn denies(path: &str, answer: &Answer) -> bool {
    if answer.code != Code::Ok {
        return matches!(answer.code, Code::PermissionDenied | Code::Unauthenticated);
    }
    match path.rsplit('/').next().unwrap() {
        "Pull" => {
            let reply = v1::PullResponse::decode(answer.messages[0].clone()).unwrap();
            matches!(reply.outcomes[0].result, Some(v1::outcome::Result::Denied(_)))
        }
        "Subscribe" => {
            let reply = v1::SubscribeResponse::decode(answer.messages[0].clone()).unwrap();
            let Some(v1::subscribe_response::Message::Accepted(accepted)) = reply.message else {
                panic!("{reply:?}")
            };
            accepted.targets[0].plan() == v1::Plan::Denied && accepted.targets[0].head.is_none()
        }
        _ => false,
    }
}

/// An answer as if it were about another collection of an equally long name.
fn about(answer: &Answer, name: &str, other: &str) -> Answer {
    let swap = |message: &prost::bytes::Bytes| -> prost::bytes::Bytes {
        let text = message.to_vec();
        let mut swapped = text.clone();
        for start in 0..text.len().saturating_sub(name.len() - 1) {
            if text[start..].starts_with(name.as_bytes()) {
                swapped[start..start + name.len()].copy_from_slice(other.as_bytes());
            }
        }
        swapped.into()
    };
    let messages = answer.messages.iter().map(swap).collect();
    let (text, details) = (answer.text.replace(name, other), swap(&answer.details));
    Answer { text, details, messages, ..answer.clone() }
}

/// Whom servers of this test believe.
struct Believed {
    issuer: Signer,
    authority: Authority,
}

impl Believed {
    /// A server, the connection of a caller to it, and that of its owner.
    async fn server_for(&self, who: &Who) -> (Guarded, Channel, Wire) {
        let names =
            ["idle", "follower", "reader", "writer", "keeper", "operator", "owner", "mallory"];
        let policy = POLICY.to_owned() + &tokens(&names);
        let Some(pair) = &who.certificate else {
            let guarded = Guarded::believing(&policy, &set(&[&self.issuer])).await;
            let (channel, owner) = (guarded.server.wire().channel(), guarded.wire("owner"));
            return (guarded, channel, owner);
        };
        let guarded = Guarded::vouched_for(&policy, &self.authority).await;
        let connect = async |shown| {
            Client::new(&self.authority, shown).wire(guarded.server.address()).await.unwrap()
        };
        let (channel, owner) = (connect(Some(pair)).await.channel(), connect(None).await);
        (guarded, channel, owner.showing(&token("owner")))
    }
}

/// What all calls of one caller are answered, held against what they should be.
async fn check(name: &str, who: &Who, believed: &Believed) -> Vec<String> {
    let mut findings = Vec::new();
    let (guarded, channel, owner) = believed.server_for(who).await;
    for collection in ["ours/here", "oursister", "theirs/aa"] {
        owner.commit(vec![put(collection, "k", "v")]).await;
    }
    owner.commit(vec![follows("theirs/aa", "bob")]).await;
    for path in calls() {
        let mut of_foreign: Option<(&str, Answer)> = None;
        for (collection, covered) in NAMES {
            let token = who.token.as_deref();
            let messages = vec![request(&path, collection)];
            let answer = call(&channel, token, &path, messages, 1).await;
            let asked = format!("{name}, {path}, {collection}");
            if !who.known && answer.code != Code::Unauthenticated {
                findings.push(format!("{asked}: {answer:?}"));
            }
            let listing = path.ends_with("/ListCollections") && who.known;
            if listing {
                // What may not be read is not listed, and that is all.
                let reply = v1::ListCollectionsResponse::decode(answer.messages[0].clone());
                let shown = !reply.unwrap().collections.is_empty();
                if shown != (allowed(&path, who, covered) && collection == "ours/here") {
                    findings.push(format!("{asked}: {answer:?}"));
                }
            } else if collection.starts_with("inbox/") && needs(&path) == Needs::Write {
                // Nobody writes there, whoever it is; which is said before anything is looked up.
                if who.known && answer.code != Code::InvalidArgument {
                    findings.push(format!("{asked}: {answer:?}"));
                }
                continue;
            } else if denies(&path, &answer) == allowed(&path, who, covered) {
                findings.push(format!("{asked}: {answer:?}"));
            }
            if covered || allowed(&path, who, covered) {
                continue;
            }
            // Whatever exists, and whatever is merely called like it: one answer.
            match &of_foreign {
                None => of_foreign = Some((collection, answer)),
                Some((other, first)) => {
                    let expected = about(first, other, collection);
                    if answer != expected {
                        findings.push(format!("{asked}: {answer:?} tells more than {expected:?}"));
                    }
                }
            }
        }
    }
    guarded.server.stop().await;
    findings
}

/// G10: every call of every kind of caller on every kind of collection is let through or not, as
/// the rights say; and of what is not covered, what exists and what does not are answered alike.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_judged() {
    let believed = Believed { issuer: Signer::elliptic("key"), authority: Authority::new() };
    let with_tokens = everybody().into_iter().chain(everybody_signed(&believed.issuer));
    let callers: Vec<_> = with_tokens.chain(everybody_certified(&believed.authority)).collect();
    let checks = callers.iter().map(|(name, who)| check(name, who, &believed));
    let findings = join_all(checks).await.concat();
    assert!(findings.is_empty(), "{} findings: {:#.3000}", findings.len(), findings.join("\n"));
}

/// G10: also what is no call of the protocol is answered to those only who are known; health is
/// told to everybody, the description of the services to those who are known.
#[tokio::test(flavor = "multi_thread")]
async fn other_calls_are_judged_too() {
    let guarded = Guarded::start(&tokens(&["idle"])).await;
    let (channel, idle) = (guarded.server.wire().channel(), token("idle"));
    let reflection = ["v1", "v1alpha"]
        .map(|version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"));
    for path in reflection.iter().map(String::as_str).chain([
        "/deltasync.v1.SyncService/Peek",
        "/deltasync.v1.SyncService/pull",
        "/other.Service/Call",
    ]) {
        let expected = if path.contains("reflection") { Code::Ok } else { Code::Unimplemented };
        let stranger = call(&channel, None, path, Vec::new(), 1).await;
        assert_eq!(stranger.code, Code::Unauthenticated, "{path}: {stranger:?}");
        let known = call(&channel, Some(&idle), path, Vec::new(), 1).await;
        assert_eq!(known.code, expected, "{path}: {known:?}");
    }
    let health = call(&channel, None, "/grpc.health.v1.Health/Check", vec![Vec::new()], 1).await;
    assert_eq!(health.code, Code::Ok, "{health:?}");
    guarded.server.stop().await;
}
