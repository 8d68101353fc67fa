//! G8: when peers who do not read hold all the room there is for answers, those who do read are
//! answered all the same: in few words, or in small pages.

#![allow(clippy::unwrap_used, reason = "tests")]

mod peers;

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use h2::RecvStream;
use prost::Message as _;
use sync_proto::v1;
use tonic::codegen::http::Response;

use peers::{Peer, Server, grpc_status, tight, told, within};

const COMMIT: &str = "/deltasync.v1.WriteService/Commit";
const GET: &str = "/deltasync.v1.SyncService/GetItems";
const LIST: &str = "/deltasync.v1.SyncService/ListItems";
const PULL: &str = "/deltasync.v1.SyncService/Pull";

/// Items of the list, and what each holds: more than fits into a page.
const ITEMS: usize = 60;
const ITEM_BYTES: usize = 20_000;

/// What a page takes when others hold all room: one such item.
const BRIEF_BYTES_MAX: usize = 24 * 1024;

/// Peers that do not read: each has been answered a page of a megabyte, of 16 MiB.
const SILENT: usize = 16;

/// Who does not read is cut after two seconds: who is answered before has not waited for that.
const AT_ONCE: Duration = Duration::from_secs(1);

fn key(number: usize) -> String {
    format!("item {number:02}")
}

fn put(collection: &str, key: &str, bytes: usize) -> v1::CommitRequest {
    let value = vec![b'v'; bytes].into();
    let put = v1::PutItem { key: key.to_owned().into(), value, ..Default::default() };
    let op = Some(v1::mutation::Op::Put(put));
    let mutation = v1::Mutation { collection: collection.to_owned(), op };
    v1::CommitRequest { mutations: vec![mutation], ..Default::default() }
}

fn pull(collection: &str, cursor: Option<v1::Cursor>) -> v1::PullRequest {
    let target = v1::Target { collection: collection.to_owned(), cursor, ..Default::default() };
    v1::PullRequest { targets: vec![target], ..Default::default() }
}

/// A list of more than a page, another of one large item; where the list began.
async fn fill(peer: &mut Peer) -> v1::Cursor {
    let mut began = None;
    for number in 0..ITEMS {
        let put = put("list", &key(number), ITEM_BYTES);
        let written: v1::CommitResponse = told(peer, COMMIT, &put).await;
        let written = &written.collections[0];
        let first = v1::Cursor { epoch: written.epoch, version: written.version, base: 0 };
        began.get_or_insert(first);
    }
    let _: v1::CommitResponse = told(peer, COMMIT, &put("large", "k", 1_000_000)).await;
    began.unwrap()
}

/// Peers that ask for this and take a little of the answer.
async fn hold(server: &Server, asked: &v1::PullRequest) -> Vec<(Response<RecvStream>, Peer)> {
    let mut held = Vec::new();
    for _ in 0..SILENT {
        let mut silent = Peer::over(server.connect().await, tight()).await.unwrap();
        let mut call = silent.call(PULL).await.unwrap();
        call.send(asked, true);
        held.push((within(call.response).await.unwrap(), silent));
    }
    held
}

fn delta(answer: v1::PullResponse) -> v1::Delta {
    match answer.outcomes.into_iter().next().unwrap().result {
        Some(v1::outcome::Result::Delta(delta)) => delta,
        other => panic!("{other:?}"),
    }
}

fn bytes_of(delta: &v1::Delta) -> usize {
    delta.changes.iter().map(bytes::Bytes::len).sum()
}

/// Pulls until there is no more: the keys, and how large the largest page was.
async fn follow(peer: &mut Peer, mut cursor: Option<v1::Cursor>) -> (Vec<String>, usize) {
    let (mut keys, mut largest) = (Vec::new(), 0);
    loop {
        let page = delta(told(peer, PULL, &pull("list", cursor)).await);
        largest = largest.max(bytes_of(&page));
        let key = |change: bytes::Bytes| {
            String::from_utf8(v1::Change::decode(change).unwrap().key.to_vec()).unwrap()
        };
        keys.extend(page.changes.into_iter().map(key));
        cursor = page.to;
        if !page.has_more {
            return (keys, largest);
        }
    }
}

/// What cannot be cut short waits for room until somebody is cut, and gets it.
async fn assert_large_one_waits(peer: &mut Peer, asked: Instant) {
    let page = delta(told(peer, PULL, &pull("large", None)).await);
    assert!(bytes_of(&page) > 1_000_000);
    assert!(asked.elapsed() > AT_ONCE, "there was room for it: {:?}", asked.elapsed());
}

/// Resumes, windows, look-ups and commits beside resumes that nobody takes.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_is_answered_beside_resumes_that_are_not_taken() {
    let server = Server::start(|config| config.replies_mib = 16).await;
    let mut honest = server.peer().await;
    let began = fill(&mut honest).await;
    let (_, largest) = follow(&mut honest, Some(began)).await;
    assert!(largest > 900_000, "with room for it a page is as large as it may be: {largest}");
    let held = hold(&server, &pull("list", Some(began))).await;

    let asked = Instant::now();
    let (keys, largest) = follow(&mut honest, Some(began)).await;
    assert_eq!(keys, (1..ITEMS).map(key).collect::<Vec<_>>());
    assert!(largest <= BRIEF_BYTES_MAX, "{largest}");
    let list = v1::ListItemsRequest { collection: "list".to_owned(), ..Default::default() };
    let window: v1::ListItemsResponse = told(&mut honest, LIST, &list).await;
    assert_eq!(window.items.len(), 1);
    assert!(!window.next_page_token.is_empty());
    let keys = (0..9).map(|number| key(number).into()).collect();
    let get = v1::GetItemsRequest { collection: "list".to_owned(), keys, ..Default::default() };
    let found: v1::GetItemsResponse = told(&mut honest, GET, &get).await;
    assert_eq!(found.results.len(), 1);
    let commit = put("list", "another", 1);
    let written: v1::CommitResponse = told(&mut honest, COMMIT, &commit).await;
    assert_eq!(written.collections.len(), 1);
    assert!(asked.elapsed() < AT_ONCE, "it took {:?}", asked.elapsed());

    // What cannot be cut short waits for room, and gets it.
    let get = v1::GetItemsRequest {
        collection: "large".to_owned(),
        keys: vec!["k".into()],
        ..Default::default()
    };
    let found: v1::GetItemsResponse = told(&mut honest, GET, &get).await;
    assert_eq!(found.results.len(), 1);
    assert_large_one_waits(&mut honest, asked).await;
    drop(held);
    server.stop().await.unwrap();
}

/// First loads beside others that nobody takes.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_loads_beside_loads_that_are_not_taken() {
    let server = Server::start(|config| config.loads_mib = 16).await;
    let mut honest = server.peer().await;
    fill(&mut honest).await;
    let held = hold(&server, &pull("list", None)).await;
    let asked = Instant::now();
    let (keys, largest) = follow(&mut honest, None).await;
    assert_eq!(keys, (0..ITEMS).map(key).collect::<Vec<_>>());
    assert!(largest <= BRIEF_BYTES_MAX, "{largest}");
    assert!(asked.elapsed() < AT_ONCE, "it took {:?}", asked.elapsed());
    assert_large_one_waits(&mut honest, asked).await;
    drop(held);
    server.stop().await.unwrap();
}

/// Few calls at a time beside as many as there may be, whose answers nobody takes. Not all of those
/// wait: one too many is refused at once.
#[tokio::test(flavor = "multi_thread")]
async fn who_makes_few_calls_is_served_beside_who_makes_all() {
    let server = Server::start(|config| config.loads_mib = 16).await;
    let mut honest = server.peer().await;
    fill(&mut honest).await;
    let mut peers = Vec::new();
    let calls = FuturesUnordered::new();
    let asked = Instant::now();
    for _ in 0..6 {
        let mut silent = Peer::over(server.connect().await, tight()).await.unwrap();
        for _ in 0..1_000 {
            let mut call = silent.call(PULL).await.unwrap();
            call.send(&pull("large", None), true);
            calls.push(call.response);
        }
        peers.push(silent);
    }
    // The rest waits, or has an answer that is not taken.
    let mut refused = calls.filter(|answer| {
        let refused =
            answer.as_ref().is_ok_and(|answer| answer.headers().contains_key("grpc-status"));
        std::future::ready(refused)
    });
    let refusal = within(refused.next()).await.unwrap().unwrap();
    assert_eq!(grpc_status(&refusal), "8", "RESOURCE_EXHAUSTED");
    assert!(asked.elapsed() < AT_ONCE, "it waited {:?}", asked.elapsed());

    let asked = Instant::now();
    let (keys, _) = follow(&mut honest, None).await;
    assert_eq!(keys.len(), ITEMS);
    let commit = put("list", "another", 1);
    let written: v1::CommitResponse = told(&mut honest, COMMIT, &commit).await;
    assert_eq!(written.collections.len(), 1);
    assert!(asked.elapsed() < AT_ONCE, "it took {:?}", asked.elapsed());
    drop((refused, peers));
    server.stop().await.unwrap();
}
