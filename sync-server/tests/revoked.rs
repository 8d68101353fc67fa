//! What the transport has of a stream whose caller may nothing any more.

#![allow(clippy::unwrap_used, reason = "tests")]

mod peers;

use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use sync_proto::v1;

use peers::{Peer, Server, ask, read, tight, until, within};

const COMMIT: &str = "/deltasync.v1.WriteService/Commit";
const SUBSCRIBE: &str = "/deltasync.v1.SyncService/Subscribe";
const SECRET: &str = "alice-0123456789-secret";

/// Bytes of a value: far more than the transport has of a stream that is not read.
const LARGE: usize = 1_000_000;

/// What a connection may have of a stream before anybody looks at rights: what the peer has let come,
/// and the part that waits in the library for more.
const ON_THE_WAY_MAX: usize = 4 * 32 * 1_024;

fn write_policy(file: &Path, revoked: &str) {
    let digest = Sha256::digest(SECRET);
    let hash = digest.iter().fold(String::new(), |mut hash, byte| {
        write!(hash, "{byte:02x}").unwrap();
        hash
    });
    let policy = format!(
        "[[tokens]]\nsubject = \"alice\"\nsha256 = \"{hash}\"\n\
         [[grants]]\nanyone = true\nread = [\"*\"]\nwrite = [\"*\"]\n{revoked}"
    );
    let new = file.with_extension("new");
    std::fs::write(&new, policy).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// G10: a page that its reader has begun to take, and one that lies behind it, go no further when the
/// reader is revoked: the stream ends, however late that is read.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    write_policy(&file, "");
    let policy = file.clone();
    let server = Server::start(|config| config.policy_file = Some(policy)).await;
    let mut peer = Peer::over(server.connect().await, tight()).await.unwrap();
    peer.token = Some(SECRET);
    let put =
        v1::PutItem { key: "k".into(), value: vec![b'v'; LARGE].into(), ..Default::default() };
    let op = Some(v1::mutation::Op::Put(put));
    let mutation = v1::Mutation { collection: "list".to_owned(), op };
    let commit = v1::CommitRequest { mutations: vec![mutation], ..Default::default() };
    assert_eq!(ask(&mut peer, COMMIT, &commit).await.1, "0");

    let target = v1::Target { collection: "list".to_owned(), ..Default::default() };
    let subscribe = v1::SubscribeRequest { targets: vec![target], ..Default::default() };
    let mut call = peer.call(SUBSCRIBE).await.unwrap();
    call.send(&subscribe, true);
    let mut body = within(call.response).await.unwrap().into_body();
    let mut taken = read(&mut body, 10_000).await;
    write_policy(&file, "[revoked]\nsubjects = [\"alice\"]\n");
    let refused = async || ask(&mut peer, COMMIT, &commit).await.1 == "16";
    until(refused).await;
    while let Some(data) = within(body.data()).await {
        let len = data.unwrap().len();
        body.flow_control().release_capacity(len).unwrap();
        taken += len;
    }
    assert!(taken <= ON_THE_WAY_MAX, "{taken} bytes of {LARGE}");
    let trailers = within(body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "16");
    server.stop().await.unwrap();
}
