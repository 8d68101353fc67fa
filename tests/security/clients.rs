//! The Rust client over TLS: whom it trusts, what it shows, and what it does when that ends.

use std::path::Path;
use std::time::Duration;

use sync_client::{ClientBuilder, ClientError, MemoryStore, Status, SyncClient, Told};
use sync_tests::compose::{name, put};
use sync_tests::device::Device;
use sync_tests::server::TestServer;
use sync_tests::wait::{PATIENCE, pass, until_true};
use sync_tests::wire::Wire;
use tempfile::TempDir;

use crate::authority::{Authority, Client};
use crate::guard::{token, tokens};

/// A server that speaks TLS, and judges by a policy.
struct Secure {
    server: TestServer,
    authority: Authority,
    dir: TempDir,
}

fn policy(subjects: &[&str], reads: &str) -> String {
    format!(
        "[[grants]]\nsubjects = [\"root\"]\nread = [\"*\"]\nwrite = [\"*\"]\n\
         [[grants]]\nsubjects = [\"alice\", \"edge\"]\nread = [\"{reads}\"]\n{}",
        tokens(subjects)
    )
}

// === impl Secure ===

impl Secure {
    async fn start() -> Self {
        let authority = Authority::new();
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(dir.path().join(name));
        authority.server().write(dir.path(), "server");
        std::fs::write(dir.path().join("ca.crt"), &authority.pem).unwrap();
        std::fs::write(dir.path().join("policy"), policy(&["root", "alice"], "list")).unwrap();
        let server = TestServer::with(|config| {
            config.tls_cert_file = path("server.crt");
            config.tls_key_file = path("server.key");
            config.tls_client_ca_file = path("ca.crt");
            config.tls_client_required = false;
            config.policy_file = path("policy");
        })
        .await;
        Self { server, authority, dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn client(&self) -> ClientBuilder {
        SyncClient::builder(format!("https://localhost:{}", self.server.address().port()))
            .retry_for(Duration::ZERO)
    }

    async fn root(&self) -> Wire {
        let client = Client::new(&self.authority, None);
        client.wire(self.server.address()).await.unwrap().showing(&token("root"))
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// A client trusts whom it is told to, shows what it is told to, and says what is wrong with either
/// before it connects.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_trusts_and_shows_what_it_is_told_to() {
    let secure = Secure::start().await;
    secure.root().await.commit(vec![put("list", "a", "1")]).await;
    let (ca, list) = (secure.path("ca.crt"), name("list"));
    let trusting = || secure.client().ca_file(&ca);
    let with_token = trusting().bearer_token(token("alice")).build().unwrap();
    with_token.get_collection(&list).await.unwrap();
    secure.authority.issue("x", &["edge"]).write(secure.dir.path(), "edge");
    let (certificate, key) = (secure.path("edge.crt"), secure.path("edge.key"));
    let with_certificate = trusting().client_certificate(&certificate, &key).build().unwrap();
    with_certificate.get_collection(&list).await.unwrap();
    let nobody = trusting().build().unwrap().get_collection(&list).await;
    assert!(matches!(nobody, Err(ClientError::Unauthenticated(_))), "{nobody:?}");
    // Another authority, and another name, are not the server.
    write(&secure.path("other.crt"), &Authority::new().pem);
    for doubtful in
        [secure.client().ca_file(secure.path("other.crt")), trusting().server_name("other.host")]
    {
        let told = doubtful.build().unwrap().get_collection(&list).await;
        let Err(ClientError::Unavailable(Told { text, .. })) = told else { panic!("{told:?}") };
        assert!(text.contains("certificate"), "{text}");
    }
    for wrong in [
        secure.client().ca_file(secure.path("none")),
        secure.client().ca_file(&key),
        trusting().client_certificate(&certificate, &ca),
        trusting().token_file(secure.path("none")),
        SyncClient::builder("http://127.0.0.1:1").ca_file(&ca),
        SyncClient::builder("ftp://127.0.0.1:1"),
    ] {
        let refused = wrong.build().map(|_| ());
        assert!(matches!(refused, Err(ClientError::Setting(_))), "{refused:?}");
    }
    secure.server.stop().await;
}

async fn becomes(device: &Device, wanted: Status) {
    let collection = device.collection("list");
    let what = format!("{wanted:?}");
    until_true(&what, async || *collection.status().borrow() == wanted).await;
}

/// Time itself is what this is about.
async fn asks_seldom(device: &Device) {
    let asked = || device.replica.stats().pulls + device.replica.stats().streams;
    let before = asked();
    pass(Duration::from_secs(2)).await;
    assert!(asked() - before <= 4, "{} questions in two seconds", asked() - before);
    assert_eq!(device.contents("list").len(), 1, "the copy stays");
}

/// A server, and a device of Alice's with a copy of a list.
async fn alice_with_a_copy() -> (Secure, Device) {
    let secure = Secure::start().await;
    let root = secure.root().await;
    root.commit(vec![put("list", "a", "1")]).await;
    write(&secure.path("token"), &token("alice"));
    let client = secure.client().ca_file(secure.path("ca.crt")).token_file(secure.path("token"));
    let device = Device::start_with(client.build().unwrap(), MemoryStore::new(), &["list"]);
    device.converge(&root, "list").await;
    (secure, device)
}

/// A replica whose right to a collection ends says so, keeps its copy, and asks seldom.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_outlives_its_rights() {
    let (secure, device) = alice_with_a_copy().await;
    write(&secure.path("policy"), &policy(&["root", "alice"], "other"));
    becomes(&device, Status::Denied).await;
    asks_seldom(&device).await;
    device.stop().await;
    secure.server.stop().await;
}

/// A replica whose token is known no more says so, keeps its copy, asks seldom, and goes on by
/// itself when there is a new token in its file.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_takes_up_a_new_token() {
    let (secure, device) = alice_with_a_copy().await;
    // First the server knows only the new one.
    let new = tokens(&["fresh"]).replace("subject = \"fresh\"", "subject = \"alice\"");
    write(&secure.path("policy"), &(policy(&["root"], "list") + &new));
    becomes(&device, Status::Denied).await;
    asks_seldom(&device).await;
    write(&secure.path("token"), &format!("{}\n", token("fresh")));
    becomes(&device, Status::Live).await;
    device.collection("list").wait_until_ready(PATIENCE).await.unwrap();
    let root = secure.root().await;
    root.commit(vec![put("list", "b", "2")]).await;
    device.converge(&root, "list").await;
    device.stop().await;
    secure.server.stop().await;
}
