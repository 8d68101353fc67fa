//! Clients that prove who they are by certificate: by exact URI or DNS name, never by common name.

use std::time::Duration;

use sync_proto::types::{Event, Goodbye, GoodbyeReason, Outcome, Plan};
use sync_proto::v1;
use sync_server::config::Config;
use sync_tests::compose::{put, scratch};
use sync_tests::server::TestServer;
use sync_tests::wire::Wire;
use tempfile::TempDir;
use tonic::Code;

use crate::authority::{Authority, Client, Pair};
use crate::guard::{token, tokens};

const POLICY: &str = r#"
[[grants]]
subjects = ["spiffe://prod/edge", "edge.prod"]
via = ["certificate"]
read = ["ours"]

[[grants]]
subjects = ["root"]
read = ["*"]
write = ["*"]

[[grants]]
anyone = true
read = ["inbox/{subject}"]

[[identities]]
name = "spiffe://prod/phone"
subject = "alice"
"#;

/// A server that knows clients of an authority.
struct Mutual {
    server: TestServer,
    ours: Authority,
    clients: Authority,
    dir: TempDir,
}

// === impl Mutual ===

impl Mutual {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let (ours, clients) = (Authority::new(), Authority::new());
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(dir.path().join(name));
        ours.server().write(dir.path(), "server");
        std::fs::write(dir.path().join("clients.crt"), &clients.pem).unwrap();
        let policy = POLICY.to_owned() + &tokens(&["root", "edge.prod"]);
        std::fs::write(dir.path().join("policy.toml"), policy).unwrap();
        let server = TestServer::with(|config| {
            config.tls_cert_file = path("server.crt");
            config.tls_key_file = path("server.key");
            config.tls_client_ca_file = path("clients.crt");
            config.policy_file = path("policy.toml");
            change(config);
        })
        .await;
        Self { server, ours, clients, dir }
    }

    async fn wire(&self, shown: Option<&Pair>) -> Result<Wire, tonic::transport::Error> {
        Client::new(&self.ours, shown).wire(self.server.address()).await
    }

    /// What somebody with this certificate is told of a collection.
    async fn pulls(&self, pair: &Pair, collection: &str) -> Result<Outcome, Code> {
        let wire = self.wire(Some(pair)).await.unwrap();
        let targets = vec![scratch(collection).into()];
        let request = v1::PullRequest { targets, ..Default::default() };
        let outcomes = wire.pull_raw(request).await.map_err(|status| status.code())?;
        Ok(outcomes.into_iter().next().unwrap())
    }
}

/// G10: the exact name counts, whether URI or DNS; what merely looks like it, a common name, or more
/// than one name does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_its_exact_name() {
    let mutual = Mutual::start(|_| {}).await;
    let any = mutual.clients.issue("any", &["any.prod"]);
    let root = mutual.wire(Some(&any)).await.unwrap().showing(&token("root"));
    root.commit(vec![put("ours", "a", "1")]).await;
    for (common, names, expected) in [
        ("x", &["spiffe://prod/edge"][..], Ok(true)),
        ("x", &["edge.prod"], Ok(true)),
        ("x", &["spiffe://prod/edge", "other.prod"], Ok(true)),
        ("x", &["spiffe://prod/edge2"], Ok(false)),
        ("x", &["spiffe://prod/edge/"], Ok(false)),
        ("x", &["edge.prod.example"], Ok(false)),
        ("edge.prod", &["other.prod"], Ok(false)),
        ("edge.prod", &[], Err(Code::Unauthenticated)),
        ("x", &["edge.prod", "other.prod"], Err(Code::Unauthenticated)),
        ("x", &["spiffe://prod/edge", "spiffe://prod/other"], Err(Code::Unauthenticated)),
    ] {
        let pair = mutual.clients.issue(common, names);
        let told = mutual.pulls(&pair, "ours").await;
        let read = told.map(|outcome| matches!(outcome, Outcome::Delta(_)));
        assert_eq!(read, expected, "{common} {names:?}");
    }
    // A name can be mapped to a subject, which then has an inbox of its own.
    let phone = mutual.clients.issue("x", &["spiffe://prod/phone"]);
    assert!(matches!(mutual.pulls(&phone, "inbox/alice").await, Ok(Outcome::NotFound)));
    assert!(matches!(mutual.pulls(&phone, "inbox/bob").await, Ok(Outcome::Denied)));
    // The same name, proven otherwise than the grant asks for.
    let wire = mutual.wire(Some(&any)).await.unwrap().showing(&token("edge.prod"));
    assert!(matches!(wire.pull_one(scratch("ours")).await, Outcome::Denied));
    mutual.server.stop().await;
}

/// G10: without a certificate of the right authority there is no connection; or none but with a
/// token, where certificates may be left out.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_connect() {
    let mutual = Mutual::start(|_| {}).await;
    let forged = Authority::new().issue("x", &["spiffe://prod/edge"]);
    let old = mutual.clients.issue_for("x", &["spiffe://prod/edge"], Duration::ZERO);
    for shown in [None, Some(&forged), Some(&old)] {
        let request =
            v1::PullRequest { targets: vec![scratch("ours").into()], ..Default::default() };
        // A client of TLS 1.3 learns of the refusal with its first call.
        let refused = match mutual.wire(shown).await {
            Err(_) => true,
            Ok(wire) => wire.pull_raw(request).await.is_err(),
        };
        assert!(refused, "{shown:?}");
    }
    mutual.server.stop().await;

    let optional = Mutual::start(|config| config.tls_client_required = false).await;
    let wire = optional.wire(None).await.unwrap();
    let request = v1::PullRequest { targets: vec![scratch("ours").into()], ..Default::default() };
    let refused = wire.pull_raw(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    assert!(matches!(
        wire.showing(&token("root")).pull_one(scratch("ours")).await,
        Outcome::NotFound
    ));
    optional.server.stop().await;
}

/// G10: an authority that is trusted no more ends the streams of those it vouched for, on
/// connections that are open; a certificate that ends does, too.
#[tokio::test(flavor = "multi_thread")]
async fn trust_ends_on_open_streams() {
    let mutual = Mutual::start(|_| {}).await;
    let names = &["spiffe://prod/edge"];
    let brief = mutual.clients.issue_for("x", names, Duration::from_secs(4));
    let long = mutual.clients.issue("x", names);
    for (pair, exchange) in [(brief, false), (long, true)] {
        let wire = mutual.wire(Some(&pair)).await.unwrap();
        let mut events = wire.subscribe(vec![scratch("ours")]).await;
        assert_eq!(events.accepted().await[0].plan, Plan::Absent);
        if exchange {
            let other = Authority::new().pem;
            std::fs::write(mutual.dir.path().join("clients.crt"), other).unwrap();
        }
        let event = events.next_news().await;
        let Event::Goodbye(Goodbye { reason, .. }) = event else { panic!("{event:?}") };
        assert_eq!(reason, GoodbyeReason::CredentialsExpired);
        let request =
            v1::PullRequest { targets: vec![scratch("ours").into()], ..Default::default() };
        let refused = wire.pull_raw(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    mutual.server.stop().await;
}
