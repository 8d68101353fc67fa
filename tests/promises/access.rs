//! Nobody reads, writes or lists what their token does not cover, and a refusal does not say
//! what exists.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};
use sync_client::{MemoryStore, SyncClient, WaitError};
use sync_proto::types::{Outcome, Plan};
use sync_proto::v1;
use sync_server::auth::TokenConfig;
use sync_tests::compose::{commit, put, scratch};
use sync_tests::data::hex;
use sync_tests::device::Device;
use sync_tests::server::TestServer;
use sync_tests::wait::{PATIENCE, until_true};
use sync_tests::wire::Wire;
use tonic::Code;

fn token(secret: &str, read: &[&str], write: &[&str]) -> TokenConfig {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    TokenConfig {
        sha256: hex(&Sha256::digest(secret)),
        subject: format!("the owner of {secret}"),
        read: own(read),
        write: own(write),
        admin: false,
    }
}

/// A server with three collections; `alice` may read `groups` and write `groups/1`.
async fn guarded() -> (TestServer, Wire, Wire) {
    let tokens = vec![token("root", &["*"], &["*"]), token("alice", &["groups"], &["groups/1"])];
    let server = TestServer::with(|config| config.tokens = tokens).await;
    let (root, alice) = (server.wire().showing("root"), server.wire().showing("alice"));
    for collection in ["groups/1", "groups/2", "groups2"] {
        root.commit(vec![put(collection, "a", "1")]).await;
    }
    (server, root, alice)
}

/// G10: one answer for what is not covered, whether or not it exists; the other targets of the
/// call are served.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_does_not_cover_is_denied_and_not_described() {
    let (server, _, alice) = guarded().await;
    let targets = ["groups/1", "groups2", "none", "groups/none"].map(scratch).to_vec();
    let outcomes = alice.pull(targets.clone()).await;
    assert!(matches!(outcomes[0], Outcome::Delta(_)), "{:?}", outcomes[0]);
    assert!(matches!(outcomes[1], Outcome::Denied), "{:?}", outcomes[1]);
    assert!(matches!(outcomes[2], Outcome::Denied), "{:?}", outcomes[2]);
    assert!(matches!(outcomes[3], Outcome::NotFound), "{:?}", outcomes[3]);

    let mut events = alice.subscribe(targets).await;
    let accepted = events.accepted().await;
    assert_eq!((&accepted[1].plan, accepted[1].head), (&Plan::Denied, None));
    assert_eq!((&accepted[2].plan, accepted[2].head), (&Plan::Denied, None));
    assert_eq!(accepted[3].plan, Plan::Absent);

    for collection in ["groups2", "none"] {
        let name = collection.to_owned();
        let request = v1::GetCollectionRequest { collection: name.clone() };
        let head = alice.sync().get_collection(request).await.unwrap_err();
        let request = v1::ListItemsRequest { collection: name.clone(), ..Default::default() };
        let list = alice.sync().list_items(request).await.unwrap_err();
        let keys = vec!["a".into()];
        let request = v1::GetItemsRequest { collection: name, keys, keys_only: false };
        let items = alice.sync().get_items(request).await.unwrap_err();
        for refusal in [head, list, items] {
            assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
        }
    }
    server.stop().await;
}

/// G10: writes are judged collection by collection, all or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_touches_a_foreign_collection_changes_nothing() {
    let (server, root, alice) = guarded().await;
    alice.commit(vec![put("groups/1", "b", "2")]).await;
    for foreign in ["groups/2", "groups2", "none"] {
        let both = vec![put("groups/1", "c", "3"), put(foreign, "c", "3")];
        let refusal = alice.try_commit(commit(both)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
    }
    let request =
        v1::DeleteCollectionRequest { collection: "groups/2".to_owned(), head_equals: None };
    let refusal = alice.write().delete_collection(request).await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
    assert_eq!(root.load("groups/1").await.copy.rows.len(), 2);
    assert_eq!(root.load("groups/2").await.copy.rows.len(), 1);
    server.stop().await;
}

/// G10: a listing shows what may be read; strangers get nothing at all.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_listings_are_filtered() {
    let (server, _, alice) = guarded().await;
    let reply = alice.sync().list_collections(v1::ListCollectionsRequest::default()).await;
    let listed: BTreeSet<String> =
        reply.unwrap().into_inner().collections.into_iter().map(|info| info.name).collect();
    assert!(listed.iter().eq(["groups/1", "groups/2"]), "{listed:?}");
    for stranger in [server.wire().clone(), server.wire().showing("guess")] {
        let targets = vec![scratch("groups/1").into()];
        let request = v1::PullRequest { targets, ..Default::default() };
        let refusal = stranger.pull_raw(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::Unauthenticated, "{refusal}");
        let refusal = stranger.try_commit(commit(vec![put("x", "a", "1")])).await.unwrap_err();
        assert_eq!(refusal.code(), Code::Unauthenticated, "{refusal}");
    }
    server.stop().await;
}

/// G10: a replica whose credentials nobody knows says so, and goes on when it is given others.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_credentials_says_why() {
    let (server, root, _) = guarded().await;
    let client = SyncClient::connect(server.uri()).unwrap();
    let device = Device::start_with(client.clone(), MemoryStore::new(), &["groups/1"]);
    let refused = device.collection("groups/1").wait_until_ready(PATIENCE).await;
    assert!(matches!(refused, Err(WaitError::Denied)), "{refused:?}");
    client.set_bearer_token(Some("root")).unwrap();
    let copy = device.collection("groups/1");
    until_true("the copy", async || copy.wait_until_ready(PATIENCE).await.is_ok()).await;
    device.converge(&root, "groups/1").await;
    device.stop().await;
    server.stop().await;
}
