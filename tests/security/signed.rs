//! Signed tokens: who may show them, when they end, and how keys are exchanged.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use sync_proto::types::{Event, Goodbye, GoodbyeReason, Outcome, Plan};
use sync_proto::v1;
use sync_server::config::Config;
use sync_tests::compose::{commit, put, scratch};
use sync_tests::server::TestServer;
use sync_tests::wait::{until_true, within};
use sync_tests::wire::Wire;
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::authority::Authority;
use crate::guard::{follows, token, tokens};
use crate::issuer::{Shown, Signer, claims, in_seconds, set};

const POLICY: &str = r#"
[[grants]]
anyone = true
via = ["jwt"]
read = ["inbox/{subject}"]
write = ["users/{subject}"]
follow = ["users"]

[[grants]]
groups = ["readers"]
read = ["users"]

[[grants]]
subjects = ["root"]
via = ["token"]
read = ["*"]
write = ["*"]

[revoked]
token_ids = ["stolen"]
"#;

/// A server that knows these keys.
async fn knowing(keys: &str, change: impl FnOnce(&mut Config, &Path)) -> (TestServer, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.toml"), POLICY.to_owned() + &tokens(&["root"])).unwrap();
    std::fs::write(dir.path().join("keys.json"), keys).unwrap();
    let server = TestServer::with(|config| {
        config.policy_file = Some(dir.path().join("policy.toml"));
        config.jwt_audience = Some("deltasync".to_owned());
        config.jwt_keys_file = Some(dir.path().join("keys.json"));
        change(config, dir.path());
    })
    .await;
    (server, dir)
}

/// What a pull of the caller's inbox is answered: the mildest question that needs to be somebody.
async fn asks(wire: &Wire, subject: &str) -> Result<Outcome, Status> {
    let targets = vec![scratch(&format!("inbox/{subject}")).into()];
    let request = v1::PullRequest { targets, ..Default::default() };
    Ok(wire.pull_raw(request).await?.remove(0))
}

async fn refusal(wire: &Wire) -> Code {
    asks(wire, "alice").await.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// G10: a signed token says who its owner is, and that one reaches what is its own; what is forged,
/// for somebody else, over, not yet begun or revoked is nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_signed_token_is_its_subject() {
    let (one, two, other) =
        (Signer::elliptic("one"), Signer::edwards("two"), Signer::edwards("two"));
    let (server, _dir) = knowing(&set(&[&one, &two]), |_, _| {}).await;
    let showing = |token: &str| server.wire().showing(token);
    for signer in [&one, &two] {
        let alice = showing(&signer.sign(&claims("alice")));
        alice.commit(vec![put("users/alice", "a", "1"), follows("users/bob", "alice")]).await;
        for foreign in [put("users/alice2", "a", "1"), follows("users/bob", "bob")] {
            let refused = alice.try_commit(commit(vec![foreign])).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        }
        assert!(matches!(asks(&alice, "alice").await, Ok(Outcome::Delta(_))));
        assert!(matches!(asks(&alice, "bob").await, Ok(Outcome::Denied)));
    }
    let mut grouped = claims("carol");
    grouped["groups"] = json!(["readers"]);
    let carol = showing(&two.sign(&grouped));
    assert!(matches!(carol.pull_one(scratch("users/alice")).await, Outcome::Delta(_)));
    // A subject that is a token's is none of its rights: the grant asks for another proof.
    let root = showing(&two.sign(&claims("root")));
    assert!(matches!(root.pull_one(scratch("users/alice")).await, Outcome::Denied));
    for (change, expected) in [
        (json!({}), Code::Ok),
        (json!({"aud": "other"}), Code::Unauthenticated),
        (json!({"exp": in_seconds(-60)}), Code::Unauthenticated),
        (json!({"nbf": in_seconds(60)}), Code::Unauthenticated),
        (json!({"jti": "stolen"}), Code::Unauthenticated),
        (json!({"jti": "mine"}), Code::Ok),
        (json!({"exp": "soon"}), Code::Unauthenticated),
    ] {
        let mut told = claims("alice");
        told.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert_eq!(refusal(&showing(&two.sign(&told))).await, expected, "{change}");
    }
    assert_eq!(refusal(&showing(&other.sign(&claims("alice")))).await, Code::Unauthenticated);
    server.stop().await;
}

/// G10: a shared secret signs, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_signs() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let secret = "a secret of more than 32 bytes .....";
    let (server, _dir) = knowing("", |config, dir| {
        std::fs::write(dir.join("secret"), secret).unwrap();
        config.jwt_keys_file = None;
        config.jwt_secret_file = Some(dir.join("secret"));
    })
    .await;
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(json!({"alg": "HS256"})), part(claims("alice")));
    for (secret, expected) in [(secret, Code::Ok), ("another secret", Code::Unauthenticated)] {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let signed = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, message.as_bytes()));
        let wire = server.wire().showing(&format!("{message}.{signed}"));
        assert_eq!(refusal(&wire).await, expected);
    }
    server.stop().await;
}

/// G10: a stream ends within a second of its token, and the token opens no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let signer = Signer::edwards("one");
    let (server, _dir) = knowing(&set(&[&signer]), |config, _| config.jwt_leeway_s = 0).await;
    let ends = in_seconds(3);
    let mut brief = claims("alice");
    brief["exp"] = json!(ends);
    let wire = server.wire().showing(&signer.sign(&brief));
    let mut events = wire.subscribe(vec![scratch("inbox/alice")]).await;
    assert_eq!(events.accepted().await[0].plan, Plan::Absent);
    let event = events.next_news().await;
    let Event::Goodbye(Goodbye { reason, .. }) = event else { panic!("{event:?}") };
    assert_eq!(reason, GoodbyeReason::CredentialsExpired);
    let late = in_seconds(0) - ends;
    assert!((0..=3).contains(&late), "it ended {late} s after its token");
    assert_eq!(events.try_next().await.unwrap(), None);
    assert_eq!(refusal(&wire).await, Code::Unauthenticated);
    server.stop().await;
}

/// G10: keys are exchanged by id: a new one counts at once, and with an old one everything ends that
/// it has signed.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_exchanged_by_id() {
    let (old, new) = (Signer::elliptic("old"), Signer::edwards("new"));
    let (server, dir) = knowing(&set(&[&old]), |_, _| {}).await;
    let with_old = server.wire().showing(&old.sign(&claims("alice")));
    let with_new = server.wire().showing(&new.sign(&claims("alice")));
    let mut events = with_old.subscribe(vec![scratch("inbox/alice")]).await;
    events.accepted().await;
    assert_eq!(refusal(&with_new).await, Code::Unauthenticated);
    std::fs::write(dir.path().join("keys.json"), set(&[&old, &new])).unwrap();
    until_true("the new key", async || refusal(&with_new).await == Code::Ok).await;
    assert_eq!(refusal(&with_old).await, Code::Ok);
    std::fs::write(dir.path().join("keys.json"), set(&[&new])).unwrap();
    assert!(matches!(events.next_news().await, Event::Goodbye(_)));
    assert_eq!(refusal(&with_old).await, Code::Unauthenticated);
    assert_eq!(refusal(&with_new).await, Code::Ok);
    server.stop().await;
}

/// G10: keys come from an address: a token of a key that was not known is known soon after, keys
/// that fail to come leave those that came, and no call ever waits.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_in_the_background() {
    let (old, new) = (Signer::elliptic("old"), Signer::edwards("new"));
    let shown = Shown::start(None).await;
    let url = shown.url();
    let (server, _dir) = knowing("", |config, _| {
        config.jwt_keys_file = None;
        config.jwt_keys_url = Some(url);
    })
    .await;
    let with_old = server.wire().showing(&old.sign(&claims("alice")));
    let with_new = server.wire().showing(&new.sign(&claims("alice")));
    until_true("the first question", async || shown.asked.load(Ordering::Relaxed) > 0).await;
    // The issuer says nothing at all: whoever calls is told at once to come back.
    let begun = Instant::now();
    assert_eq!(refusal(&with_old).await, Code::Unavailable);
    let root = server.wire().showing(&token("root"));
    assert!(matches!(root.pull_one(scratch("users/alice")).await, Outcome::NotFound));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    shown.shows(Some(set(&[&old])));
    until_true("the first keys", async || refusal(&with_old).await == Code::Ok).await;
    // The next regular look is minutes away: the unknown key itself is the reason to look.
    shown.shows(Some(set(&[&old, &new])));
    until_true("the new key", async || refusal(&with_new).await == Code::Ok).await;
    shown.shows(Some("no keys".to_owned()));
    let asked = shown.asked.load(Ordering::Relaxed);
    let stranger = server.wire().showing(&Signer::edwards("third").sign(&claims("alice")));
    until_true("another look", async || {
        assert_eq!(refusal(&stranger).await, Code::Unauthenticated);
        shown.asked.load(Ordering::Relaxed) > asked
    })
    .await;
    assert_eq!(refusal(&with_old).await, Code::Ok);
    within("the end", server.stop()).await;
}

/// G10: over TLS, keys are believed of an issuer for whom the file of authorities vouches, and of nobody
/// else; the file is read anew each time.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_from_those_who_are_vouched_for() {
    let (vouches, knows_nobody) = (Authority::new(), Authority::new());
    let signer = Signer::elliptic("key");
    let shown = Shown::start_over_tls(Some(set(&[&signer])), &vouches.server()).await;
    let url = shown.url_over_tls();
    let (server, dir) = knowing("", |config, dir| {
        let authorities = dir.join("authorities.pem");
        std::fs::write(&authorities, &knows_nobody.pem).unwrap();
        config.jwt_keys_file = None;
        config.jwt_keys_url = Some(url);
        config.jwt_keys_ca_file = Some(authorities);
    })
    .await;
    let alice = server.wire().showing(&signer.sign(&claims("alice")));
    let asked = || shown.asked.load(Ordering::Relaxed);
    // Each refusal is a reason to look again.
    until_true("a few attempts", async || {
        assert_eq!(refusal(&alice).await, Code::Unavailable, "nobody vouches for the issuer");
        asked() > 1
    })
    .await;
    std::fs::write(dir.path().join("authorities.pem"), &vouches.pem).unwrap();
    until_true("the keys", async || refusal(&alice).await == Code::Ok).await;
    server.stop().await;
}
