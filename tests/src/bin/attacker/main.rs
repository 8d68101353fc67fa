//! One attack on a server, in a process of its own, so that what it costs is not taken for what the
//! server costs. It runs on one thread, at a rate that is bounded, for as long as it is told, and
//! says then what it has achieved, a count a line: an attack that never took place must be seen.
//!
//! ```text
//! attacker ADDRESS ATTACK SECONDS
//! ```
#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

mod calls;
mod crowds;
mod floods;
mod frames;
mod held;
mod peer;

/// A server that does not answer a handshake within this is not answering.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The first address that attackers come from; honest clients have another. All of 127/8 is this
/// machine.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 7, 0, 1);

/// What is attacked, until when, and what came of it.
#[derive(Debug, Clone)]
struct Target {
    address: SocketAddr,
    end: Instant,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
    tasks: TaskTracker,
    /// Connections come from so many addresses in turn.
    addresses: u32,
    next_address: Arc<AtomicU32>,
}

// === impl Target ===

impl Target {
    fn count(&self, what: &str, more: u64) {
        let mut counts = self.counts.lock();
        *counts.entry(what.to_owned()).or_default() += more;
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// The same, attacked from so many addresses.
    fn from(&self, addresses: u32) -> Self {
        Self { addresses, ..self.clone() }
    }

    /// A connection; `None` = there is none to be had now.
    async fn connect(&self) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        let number = self.next_address.fetch_add(1, Ordering::Relaxed) % self.addresses;
        let address = Ipv4Addr::from_bits(FIRST.to_bits() + number);
        if socket.bind(SocketAddr::from((address, 0))).is_err() {
            self.count("no port", 1);
            return None;
        }
        let connected = timeout(CONNECT_WITHIN, socket.connect(self.address)).await;
        let what = match &connected {
            Ok(Ok(_)) => "opened",
            Ok(Err(_)) => "not connected",
            Err(_) => "not connected in time",
        };
        self.count(what, 1);
        let stream = connected.ok()?.ok()?;
        stream.set_nodelay(true).ok()?;
        Some(stream)
    }
}

/// Waits for `time`, or for the end of the attack.
async fn pause(target: &Target, time: Duration) {
    tokio::time::sleep_until(target.end.min(Instant::now() + time)).await;
}

async fn attack(name: &str, target: &Target) {
    match name {
        "connections" => crowds::connections(target).await,
        "crowd" => crowds::connections(&target.from(64)).await,
        "silent" => crowds::silent(&target.from(4)).await,
        "half-open" => crowds::half_open(&target.from(4)).await,
        "random" => crowds::random(target).await,
        "pings" => floods::pings(target).await,
        "settings" => floods::settings(target).await,
        "priorities" => floods::priorities(target).await,
        "window-updates" => floods::window_updates(target).await,
        "rapid-reset" => floods::rapid_reset(target).await,
        "made-resets" => floods::made_resets(target).await,
        "continuations" => floods::continuations(target).await,
        "headers" => floods::headers(target).await,
        "empty-data" => floods::empty_data(target).await,
        "streams" => held::streams(target).await,
        "targets" => held::targets(target).await,
        "unread-pulls" => held::unread_pulls(target).await,
        "unread-loads" => held::unread_loads(target).await,
        "slow-readers" => held::slow_readers(target).await,
        "uploads" => calls::uploads(target).await,
        "bombs" => calls::bombs(target).await,
        "questions" => calls::questions(&target.from(4)).await,
        "prefixes" => calls::prefixes(target).await,
        "empties" => calls::empties(target).await,
        other => panic!("there is no attack {other:?}"),
    }
}

/// What the attack itself took of a processor.
fn percent(seconds: Duration) -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    // In hundredths of a second.
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
    ticks / seconds.as_secs().max(1)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (address, name) = (args.next().unwrap().parse().unwrap(), args.next().unwrap());
    let seconds = Duration::from_secs_f64(args.next().unwrap().parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let target = Target {
            address,
            end: Instant::now() + seconds,
            counts: Arc::default(),
            tasks: TaskTracker::new(),
            addresses: 1,
            next_address: Arc::default(),
        };
        attack(&name, &target).await;
        tokio::time::sleep_until(target.end).await;
        target.count("percent of a core", percent(seconds));
        let counts = target.counts.lock();
        let lines: Vec<_> = counts.iter().map(|(what, n)| format!("{what}: {n}\n")).collect();
        io::stdout().write_all(lines.concat().as_bytes()).unwrap();
    });
    // Whatever is still open is cut by the end of the process, as a peer's machine would do it.
    runtime.shutdown_background();
}
