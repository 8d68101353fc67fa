//! The real program is killed again and again, half of the time before it has finished
//! starting. `DELTASYNC_CRASH_CYCLES` sets how often.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt as _;
use sync_proto::types::{Commit, Epoch, Mutation, Version};
use sync_tests::compose::{delete, name, put, scratch};
use sync_tests::process::Program;
use sync_tests::reader::PlainReader;
use sync_tests::seed::{dice, number};
use sync_tests::wire::Wire;
use tokio_util::task::TaskTracker;

use crate::SERVER;

/// Kills per run when the environment does not say.
const CYCLES: u64 = 14;

const WRITERS: usize = 4;

/// Each writer puts and deletes these in turn.
const SLOTS: u64 = 20;

/// What is known of the store from outside, over all its lives.
#[derive(Default)]
struct Known {
    epoch: Option<Epoch>,
    /// Which commit got which version: acknowledged to its writer.
    given: BTreeMap<Version, (usize, u64)>,
    /// Per writer: the last commit that was acknowledged, and the last that was sent.
    acknowledged: [u64; WRITERS],
    sent: [u64; WRITERS],
    /// The newest version that anybody was shown.
    shown: Version,
}

/// Commit `number` of a writer: the same in both collections, so that half a commit would show.
fn mutations(writer: usize, number: u64) -> Vec<Mutation> {
    let slot = format!("{writer}/{}", number % SLOTS);
    let change = |collection: &str| {
        let in_turn = if number % 7 == 3 {
            delete(collection, &slot)
        } else {
            put(collection, &slot, number.to_string())
        };
        [put(collection, format!("last/{writer}"), number.to_string()), in_turn]
    };
    ["left", "right"].into_iter().flat_map(change).collect()
}

fn commit(writer: usize, number: u64) -> Commit {
    let idempotency_key = format!("{writer} {number}");
    Commit { mutations: mutations(writer, number), idempotency_key, ..Commit::default() }
}

/// What a collection holds after so many commits of each writer.
fn expected(done: &[u64; WRITERS]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    for (writer, &done) in done.iter().enumerate().filter(|(_, done)| **done > 0) {
        rows.insert(format!("last/{writer}").into_bytes(), done.to_string().into_bytes());
        for number in done.saturating_sub(SLOTS - 1).max(1)..=done {
            if number % 7 != 3 {
                let slot = format!("{writer}/{}", number % SLOTS);
                rows.insert(slot.into_bytes(), number.to_string().into_bytes());
            }
        }
    }
    rows
}

/// G1, G2, G3, G4, T08, T13: through any number of kills no acknowledged commit is lost, none
/// is half there, no version is given twice, heads never go back, a commit of unknown outcome
/// can be sent again, and a reader that followed all along is never reset and converges.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_keeps_what_it_acknowledged() {
    let (mut dice, _seed) = dice();
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut known = Known::default();
    let mut follower = PlainReader::new(scratch("left"));
    for cycle in 0..number("DELTASYNC_CRASH_CYCLES").unwrap_or(CYCLES) {
        let mut process = program.start();
        if cycle % 2 == 1 {
            process.kill_after(Duration::from_micros(dice.random_range(0..30_000))).await;
            continue;
        }
        process.until_serving().await;
        let wire = program.wire();
        known.check(&wire).await;
        let cut = work_until_killed(&program, &mut known, follower.clone());
        let kill = async {
            let busy = if dice.random_bool(0.5) { 0..30 } else { 30..400 };
            process.kill_after(Duration::from_millis(dice.random_range(busy))).await;
        };
        (follower, ()) = tokio::join!(cut, kill);
    }
    let mut process = program.start_serving().await;
    let wire = program.wire();
    known.check(&wire).await;
    follower.catch_up(&wire).await;
    assert!(follower.copy == wire.load("left").await.copy, "the follower has converged");
    assert_eq!(follower.seen.resets, 0, "the follower was never reset");
    assert!(known.given.len() > 20, "{} commits in all", known.given.len());
    process.terminate();
    assert!(process.ended().await.success());
    process.check_log();
}

/// Writers write and the follower follows, until the connections break.
async fn work_until_killed(
    program: &Program,
    known: &mut Known,
    follower: PlainReader,
) -> PlainReader {
    let tracker = TaskTracker::new();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            tracker.spawn(write_until_cut(program.wire(), writer, known.acknowledged[writer] + 1))
        })
        .collect();
    let follower = tracker.spawn(follow_until_cut(program.wire(), follower));
    for (writer, task) in writers.into_iter().enumerate() {
        let (given, sent) = task.await.unwrap();
        known.sent[writer] = known.sent[writer].max(sent);
        for (number, version) in given {
            known.note(writer, number, version);
        }
    }
    let follower = follower.await.unwrap();
    known.shown = known.shown.max(follower.version());
    follower
}

/// Commits one after the other from `next` on; returns what was acknowledged and the last one
/// that was sent.
async fn write_until_cut(wire: Wire, writer: usize, next: u64) -> (Vec<(u64, Version)>, u64) {
    let mut given = Vec::new();
    for number in next.. {
        let Ok(done) = wire.try_commit(commit(writer, number)).await else {
            return (given, number);
        };
        assert_eq!(done[0].version, done[1].version, "both collections move as one");
        given.push((number, done[0].version));
    }
    unreachable!("the numbers do not end")
}

async fn follow_until_cut(wire: Wire, mut reader: PlainReader) -> PlainReader {
    let subscribe = sync_proto::types::Subscribe {
        targets: vec![reader.target.clone()],
        heartbeat: Duration::from_millis(100),
        client_id: String::new(),
    };
    let Ok(mut events) = wire.try_subscribe(subscribe).await else { return reader };
    while let Ok(Some(event)) = events.try_next().await {
        reader.hear(&event);
    }
    reader
}

// === impl Known ===

impl Known {
    fn note(&mut self, writer: usize, number: u64, version: Version) {
        let before = self.given.insert(version, (writer, number));
        assert!(
            before.is_none_or(|before| before == (writer, number)),
            "version {version} was given to {before:?} and to {:?}",
            (writer, number)
        );
        self.acknowledged[writer] = self.acknowledged[writer].max(number);
        self.shown = self.shown.max(version);
    }

    /// Compares the store with everything that is known of it, and settles what was not.
    async fn check(&mut self, wire: &Wire) {
        let Some(head) = wire.head(&name("left")).await else {
            assert!(self.given.is_empty(), "the store came back empty");
            return;
        };
        assert!(self.epoch.is_none_or(|epoch| epoch == head.epoch), "another epoch");
        self.epoch = Some(head.epoch);
        assert!(head.version >= self.shown, "{} was shown, now {}", self.shown, head.version);
        let (left, right) = (wire.load("left").await, wire.load("right").await);
        assert_eq!(left.contents(), right.contents(), "half a commit");
        let mut done = [0; WRITERS];
        for (writer, done) in done.iter_mut().enumerate() {
            if let Some(last) = left.contents().get(format!("last/{writer}").as_bytes()) {
                *done = std::str::from_utf8(last).unwrap().parse().unwrap();
            }
            let (low, high) = (self.acknowledged[writer], self.sent[writer]);
            assert!(
                (low..=high.max(low)).contains(done),
                "writer {writer}: {low} acknowledged, {high} sent, {done} there"
            );
        }
        assert_eq!(left.contents(), expected(&done));
        // The shown-but-lost would show here too: what the check itself saw counts as shown.
        self.shown = self.shown.max(head.version);
        for (writer, &done) in done.iter().enumerate() {
            if done > self.acknowledged[writer] {
                self.settle(wire, writer, done).await;
            }
        }
    }

    /// A commit is there whose answer was lost: sent again, it says so and does nothing.
    async fn settle(&mut self, wire: &Wire, writer: usize, number: u64) {
        let reply = wire.commit_reply(commit(writer, number)).await.unwrap();
        assert!(reply.replayed, "writer {writer}: {number} happened twice");
        let version = Version::new(reply.collections[0].version).unwrap();
        self.note(writer, number, version);
    }
}
