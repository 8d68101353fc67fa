//! Attacks by connecting: peers that say nothing, or nothing that makes sense, or do not answer.

use std::time::Duration;

use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::frames::{END_HEADERS, END_STREAM, Kind, PREFACE, frame, head};
use crate::{Target, pause};

/// More connections than the server takes at once.
const MANY: usize = 4_600;

/// Connections made in a row, and the pause after them: 2,000 a second.
const AT_ONCE: usize = 20;
const EVERY: Duration = Duration::from_millis(10);

/// Peers that hold a connection each, and say little.
const HOLDERS: usize = 1_500;

/// Bytes of a peer that speaks no protocol.
const NOISE: usize = 4_096;

/// How long a peer that speaks no protocol waits for what it is told.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// Opens more connections than there may be, and one more for each that is closed.
pub(crate) async fn connections(target: &Target) {
    let mut open: Vec<TcpStream> = Vec::new();
    while !target.is_over() {
        open.retain(|stream| still_open(target, stream));
        for _ in 0..AT_ONCE {
            if open.len() < MANY
                && let Some(stream) = target.connect().await
            {
                open.push(stream);
            }
        }
        pause(target, EVERY).await;
    }
    open.retain(|stream| still_open(target, stream));
    target.count("held at the end", open.len() as u64);
    // Cut by the end of the process.
    std::mem::forget(open);
}

/// Looks whether a connection was closed by the server, and counts it then.
fn still_open(target: &Target, stream: &TcpStream) -> bool {
    let mut some = [0; 256];
    loop {
        match stream.try_read(&mut some) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
            Ok(0) | Err(_) => {
                target.count("closed", 1);
                return false;
            }
            Ok(_) => {}
        }
    }
}

/// Connects, and then says nothing, or only that it speaks HTTP/2.
pub(crate) async fn silent(target: &Target) {
    let mut hello = PREFACE.to_vec();
    frame(&mut hello, Kind::Settings, 0, 0, &[]);
    hold(target, |number| if number % 2 == 0 { Vec::new() } else { hello.clone() }).await;
}

/// Asks for something, so that its connection is of use, and is then gone without a word: it
/// neither reads nor answers any more.
pub(crate) async fn half_open(target: &Target) {
    let mut asks = PREFACE.to_vec();
    frame(&mut asks, Kind::Settings, 0, 0, &[]);
    let flags = END_HEADERS | END_STREAM;
    frame(&mut asks, Kind::Headers, flags, 1, &head("/grpc.health.v1.Health/Check"));
    hold(target, |_| asks.clone()).await;
}

async fn hold(target: &Target, says: impl Fn(usize) -> Vec<u8>) {
    let mut open = Vec::new();
    for number in 0..HOLDERS {
        if let Some(mut stream) = target.connect().await
            && stream.write_all(&says(number)).await.is_ok()
        {
            open.push(stream);
        }
        if number % AT_ONCE == 0 {
            pause(target, EVERY).await;
        }
        if target.is_over() {
            break;
        }
    }
    tokio::time::sleep_until(target.end).await;
    open.retain(|stream| still_open(target, stream));
    target.count("held at the end", open.len() as u64);
    std::mem::forget(open);
}

/// Connects again and again and sends noise, every second time as HTTP/2's first frames.
pub(crate) async fn random(target: &Target) {
    let mut number = 0_u64;
    while !target.is_over() {
        for _ in 0..4 {
            number += 1;
            let (target, begin) = (target.clone(), number.is_multiple_of(2));
            target.tasks.clone().spawn(async move { noise(&target, begin).await });
        }
        pause(target, EVERY).await;
    }
}

async fn noise(target: &Target, begin: bool) {
    let Some(mut stream) = target.connect().await else { return };
    let mut bytes = if begin { PREFACE.to_vec() } else { Vec::new() };
    let mut noise = vec![0; NOISE];
    rand::rng().fill(&mut noise[..]);
    if begin {
        // A short length, so that it is a frame and not merely one too large.
        noise[..2].fill(0);
    }
    bytes.extend(noise);
    if stream.write_all(&bytes).await.is_ok() {
        target.count("noises", 1);
    }
    let mut said = Vec::new();
    match timeout(TOLD_WITHIN, stream.read_to_end(&mut said)).await {
        Ok(_) => target.count("closed", 1),
        Err(_) => target.count("held", 1),
    }
}
