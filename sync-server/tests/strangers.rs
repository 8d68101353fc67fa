//! What nobody in particular can do to a server: ask about it, and send what is no request.

#![allow(clippy::unwrap_used, reason = "tests")]

mod peers;

use std::time::{Duration, Instant};

use futures::future::join_all;
use sync_proto::types::Reason;
use sync_proto::v1;
use sync_server::status::reason_of;

use peers::{CHECK, Call, Peer, Server, ask, framed, grpc_status, take, until, within};

const COMMIT: &str = "/deltasync.v1.WriteService/Commit";
const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECT_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// A commit of one item of so many bytes.
fn put(bytes: usize) -> v1::CommitRequest {
    let put =
        v1::PutItem { key: "k".into(), value: vec![b'v'; bytes].into(), ..Default::default() };
    let op = Some(v1::mutation::Op::Put(put));
    let mutation = v1::Mutation { collection: "list".to_owned(), op };
    v1::CommitRequest { mutations: vec![mutation], ..Default::default() }
}

/// Whether the server is well: the question has no field that is set.
async fn check(peer: &mut Peer) -> String {
    ask(peer, CHECK, &v1::GetImportRequest::default()).await.1
}

/// G8, G10: what anybody may ask about the server itself has bounds of its own: a short question, in
/// time, and of one address not more than some. Calls of others are served meanwhile, and questions
/// again when those are over.
#[tokio::test(flavor = "multi_thread")]
async fn questions_about_the_server_are_bounded() {
    let server = Server::start(|config| config.upload_timeout_s = 1).await;
    let mut peer = server.peer().await;
    // Reflection ends without a word.
    for (path, status) in [(CHECK, "11"), (WATCH, "11"), (REFLECT, "0"), (REFLECT_ALPHA, "0")] {
        let mut call = peer.call(path).await.unwrap();
        call.body.send_data(framed(&put(4_096)), false).unwrap();
        assert_eq!(take(within(call.response).await.unwrap()).await.1, status, "{path}");
    }
    let began = Instant::now();
    let (mut bodies, mut responses) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        let Call { response, mut body } = peer.call(CHECK).await.unwrap();
        body.send_data(framed(&put(100)).slice(..100), false).unwrap();
        bodies.push(body);
        responses.push(within(response));
    }
    assert_eq!(ask(&mut peer, COMMIT, &put(1)).await.1, "0");
    let (mut late, mut refused) = (0, 0);
    for response in join_all(responses).await {
        match grpc_status(&response.unwrap()) {
            "4" => late += 1,
            "8" => refused += 1,
            other => panic!("status {other}"),
        }
    }
    assert_eq!((late, refused), (128, 172));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(check(&mut peer).await, "0");
    // Who watches has a place for as long as that lasts.
    let mut watching = Vec::new();
    for _ in 0..4 {
        let mut watcher = server.peer().await;
        for _ in 0..32 {
            let mut call = watcher.call(WATCH).await.unwrap();
            call.send(&v1::GetImportRequest::default(), true);
            let answer = within(call.response).await.unwrap();
            assert!(!answer.headers().contains_key("grpc-status"));
            watching.push((answer, watcher.connection.abort_handle()));
        }
    }
    assert_eq!(ask(&mut peer, WATCH, &v1::GetImportRequest::default()).await.1, "8");
    assert_eq!(check(&mut peer).await, "0", "they take no place of who asks once");
    for (_, connection) in watching {
        connection.abort();
    }
    let again = async || {
        let mut call = peer.call(WATCH).await.unwrap();
        call.send(&v1::GetImportRequest::default(), true);
        !within(call.response).await.unwrap().headers().contains_key("grpc-status")
    };
    until(again).await;
    server.stop().await.unwrap();
}

/// G11: a request that ends too early, or that is marked as what it is not, is its caller's fault and
/// not ours: nobody is told to try it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_no_message_is_its_callers_fault() {
    let server = Server::start(|_| {}).await;
    let mut peer = server.peer().await;
    let whole = framed(&put(1_000));
    let flagged: Vec<u8> = [&[1], &whole[1..]].concat();
    let strange: Vec<u8> = [&[9], &whole[1..]].concat();
    let parts = [whole.slice(..0), whole.slice(..3), whole.slice(..900)];
    for sent in parts.into_iter().chain([flagged.into(), strange.into()]) {
        let sent_bytes = sent.len();
        let mut call = peer.call(COMMIT).await.unwrap();
        call.body.send_data(sent, true).unwrap();
        let answer = within(call.response).await.unwrap();
        assert_eq!(grpc_status(&answer), "3", "{sent_bytes} bytes");
        let told = tonic::Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(reason_of(&told), Some(Reason::Undecodable), "{told:?}");
    }
    server.stop().await.unwrap();
}
