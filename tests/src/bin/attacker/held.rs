//! Attacks by not taking what one has asked for. The test has written what there is to ask for:
//! `attacked` holds an item of a megabyte after a small one.

use std::time::Duration;

use bytes::BytesMut;
use h2::RecvStream;
use prost::Message as _;
use sync_proto::v1;
use tokio::time::interval;
use tonic::codegen::http::Response;

use crate::peer::{PREFIX_LEN, Peer, answered};
use crate::{Target, pause};

const COMMIT: &str = "/deltasync.v1.WriteService/Commit";
const PULL: &str = "/deltasync.v1.SyncService/Pull";
const SUBSCRIBE: &str = "/deltasync.v1.SyncService/Subscribe";

/// The collection that there is to ask for.
const ATTACKED: &str = "attacked";

/// Calls that are made in a row, and the pause after them.
const AT_ONCE: usize = 20;
const EVERY: Duration = Duration::from_millis(10);

/// Streams of a connection: fewer than the server allows, or it would not see how many there are.
const OF_ONE: usize = 1_000;

/// Targets of a stream: as many as there may be.
const TARGETS: usize = 1_024;

/// Pause of a peer whose connection was closed.
const BACK_AFTER: Duration = Duration::from_millis(100);

/// Peers that read slowly, the streams of each, and what one takes at a time.
const SLOW: usize = 16;
const SLOW_STREAMS: usize = 16;
const SIP: usize = 1_024;

fn target_of(collection: String) -> v1::Target {
    v1::Target { collection, ..Default::default() }
}

/// More live streams than there may be, of one target each.
pub(crate) async fn streams(target: &Target) {
    // In turn the one that there is, which is sent, and others.
    subscribe_all(target, 13, |stream| {
        let name = if stream % 64 == 0 { ATTACKED.to_owned() } else { format!("none/{stream}") };
        vec![target_of(name)]
    })
    .await;
}

/// More targets of live streams than there may be.
pub(crate) async fn targets(target: &Target) {
    let none = |number| target_of(format!("none/{number}"));
    subscribe_all(target, 1, |_| (0..TARGETS).map(none).collect()).await;
}

async fn subscribe_all(
    target: &Target,
    connections: usize,
    targets: impl Fn(usize) -> Vec<v1::Target>,
) {
    for connection in 0..connections {
        let Some(mut peer) = Peer::open(target).await else { continue };
        for stream in 0..OF_ONE {
            let targets = targets(connection * OF_ONE + stream);
            // Many targets cost in proportion: fewer streams at once.
            let at_once = (AT_ONCE / targets.len().min(AT_ONCE)).max(1);
            let request = v1::SubscribeRequest { targets, ..Default::default() };
            let Some(call) = peer.ask(SUBSCRIBE, &request).await else { break };
            hold(target, call.response);
            if stream % at_once == 0 {
                pause(target, EVERY).await;
            }
            if target.is_over() {
                return;
            }
        }
    }
}

/// Waits for an answer, and takes nothing of it.
fn hold(target: &Target, response: h2::client::ResponseFuture) {
    let counted = target.clone();
    target.tasks.spawn(async move {
        let answer = answered(&counted, response).await;
        tokio::time::sleep_until(counted.end).await;
        std::mem::forget(answer);
    });
}

/// Answers to resumes that nobody takes.
pub(crate) async fn unread_pulls(target: &Target) {
    let Some(cursor) = first_cursor(target).await else { return };
    unread(target, v1::Cursor { base: 0, ..cursor }).await;
}

/// First loads that nobody takes, behind the small item: what is large cannot be cut short.
pub(crate) async fn unread_loads(target: &Target) {
    let Some(cursor) = first_cursor(target).await else { return };
    assert!(cursor.base > cursor.version, "the load has only begun");
    unread(target, cursor).await;
}

/// Asks for what is behind a cursor again and again, from as many connections as it takes.
async fn unread(target: &Target, cursor: v1::Cursor) {
    let request = v1::PullRequest {
        targets: vec![v1::Target { cursor: Some(cursor), ..target_of(ATTACKED.to_owned()) }],
        ..Default::default()
    };
    let mut peers = Vec::new();
    while !target.is_over() {
        if peers.len() < 24
            && let Some(peer) = Peer::open(target).await
        {
            peers.push(peer);
        }
        let mut open = Vec::new();
        for mut peer in peers {
            if let Some(call) = peer.ask(PULL, &request).await {
                hold(target, call.response);
                open.push(peer);
            }
        }
        peers = open;
        pause(target, EVERY).await;
    }
}

/// The cursor behind the first change, of a load that has more to come.
async fn first_cursor(target: &Target) -> Option<v1::Cursor> {
    let mut peer = Peer::open(target).await?;
    let request = v1::PullRequest {
        targets: vec![target_of(ATTACKED.to_owned())],
        max_changes_per_target: 1,
        ..Default::default()
    };
    let call = peer.ask(PULL, &request).await?;
    let mut answer = answered(target, call.response).await?.into_body();
    let mut bytes = BytesMut::new();
    while let Some(data) = answer.data().await {
        bytes.extend_from_slice(&data.ok()?);
    }
    let message = bytes.freeze().slice(PREFIX_LEN..);
    let reply = v1::PullResponse::decode(message).ok()?;
    let Some(v1::outcome::Result::Delta(delta)) = reply.outcomes.into_iter().next()?.result else {
        return None;
    };
    delta.to
}

/// Streams of a collection that changes all the time, of which a little is taken now and then, or
/// nothing at all.
pub(crate) async fn slow_readers(target: &Target) {
    for number in 0..SLOW {
        let target = target.clone();
        target.tasks.clone().spawn(async move {
            while !target.is_over() {
                read_slowly(&target, number % 2 == 0).await;
                pause(&target, BACK_AFTER).await;
            }
        });
    }
    let Some(mut peer) = Peer::open(target).await else { return };
    let mut number = 0_u64;
    while !target.is_over() {
        number += 1;
        let put = v1::PutItem {
            key: format!("news {}", number % 8).into(),
            value: vec![b'n'; 100_000].into(),
            ..Default::default()
        };
        let op = Some(v1::mutation::Op::Put(put));
        let mutations = vec![v1::Mutation { collection: ATTACKED.to_owned(), op }];
        let request = v1::CommitRequest { mutations, ..Default::default() };
        let Some(call) = peer.ask(COMMIT, &request).await else { return };
        hold(target, call.response);
        pause(target, Duration::from_millis(100)).await;
    }
}

/// Opens streams on a connection, and reads them slowly or not at all, until it is closed.
async fn read_slowly(target: &Target, reads: bool) {
    let Some(mut peer) = Peer::open(target).await else { return };
    for _ in 0..SLOW_STREAMS {
        let targets = vec![target_of(ATTACKED.to_owned())];
        let request = v1::SubscribeRequest { targets, ..Default::default() };
        let Some(call) = peer.ask(SUBSCRIBE, &request).await else { break };
        if !reads {
            hold(target, call.response);
            continue;
        }
        let counted = target.clone();
        target.tasks.spawn(async move {
            if let Some(mut answer) = answered(&counted, call.response).await {
                sip(&counted, &mut answer).await;
            }
        });
    }
    peer.ended().await;
}

/// Takes a little of an answer, again and again.
async fn sip(target: &Target, answer: &mut Response<RecvStream>) {
    let body = answer.body_mut();
    let mut ticks = interval(Duration::from_millis(100));
    let mut owed = 0;
    while !target.is_over() {
        ticks.tick().await;
        if owed < SIP {
            let Some(Ok(data)) = body.data().await else { return };
            owed += data.len();
        }
        let some = SIP.min(owed);
        owed -= some;
        if body.flow_control().release_capacity(some).is_err() {
            return;
        }
        target.count("sips", 1);
    }
}
