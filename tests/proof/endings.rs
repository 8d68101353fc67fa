//! Ends that cannot be good ones, because the disk does not take what it is given: the process
//! ends by itself all the same, when it promised to, and its exit code says what is known.

use std::ops::Range;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use sync_tests::compose::{commit, name, put};
use sync_tests::process::{Process, Program};
use sync_tests::report::not_run;
use sync_tests::wait::until_true;

use crate::SERVER;
use crate::machine::lacks;
use crate::tracer::{Fault, Tracer};

/// A call was open at the end of the grace; everything accepted is written.
const GRACE_EXCEEDED: i32 = 5;
/// Whether the last writes happened is unknown, or the store was not closed.
const DISK_HANGS: i32 = 6;

/// Tells a server to stop; how long it takes to end. It is not gone before its tracer is.
async fn ends(process: &Process) -> Duration {
    let stopping = Instant::now();
    process.terminate();
    let stat = format!("/proc/{}/stat", process.id());
    until_true("the process to exit", async || {
        std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "))
    })
    .await;
    stopping.elapsed()
}

/// A commit is under way whose sync takes so long (in microseconds, as strace wants it) when a
/// server is told to stop that gives calls one second.
async fn ends_during_a_sync(delay: &'static str, code: i32, takes: Range<Duration>) {
    if let Some(why) = lacks(true, &["strace"]) {
        return not_run("a server that is told to stop while its disk hangs", &why);
    }
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path()).with(&["--grace-s=1"]);
    let mut process = program.start_serving().await;
    let wire = program.wire();
    wire.commit(vec![put("list", "before", "")]).await;
    let fault = Fault { call: "fdatasync", what: delay, when: "1".to_owned(), file: None };
    let tracer = Tracer::attach(process.id(), &fault);
    let mutations = vec![put("list", "open", "")];
    let hanging = pin!(wire.try_commit(commit(mutations)));
    // On the same connection, so the server has the commit by then.
    let list = name("list");
    let Either::Right((_, hanging)) = select(hanging, pin!(wire.head(&list))).await else {
        panic!("the commit was answered")
    };
    let took = ends(&process).await;
    tracer.kill();
    let status = process.ended().await;
    assert_eq!(status.code(), Some(code), "{}", process.log());
    assert!(takes.contains(&took), "it took {took:?}\n{}", process.log());
    hanging.await.expect_err("nobody may say that it is done");

    let mut process = program.start_serving().await;
    let list = program.wire().load("list").await.contents();
    assert!(list.contains_key(b"before".as_slice()), "G3");
    if code == GRACE_EXCEEDED {
        assert!(list.contains_key(b"open".as_slice()), "what was accepted is written");
    }
    process.kill();
}

/// X14: a call that does not end within the grace is cut off, and what it was about is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_exceeds_the_grace_is_cut_off() {
    // The close syncs from other threads, each of which is held back once.
    let takes = Duration::from_secs(2)..Duration::from_secs(9);
    ends_during_a_sync("delay_enter=2000000", GRACE_EXCEEDED, takes).await;
}

/// X14: the grace, and ten seconds for the last writes; then the process ends, whatever the disk does.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_does_not_keep_the_process() {
    let takes = Duration::from_secs(11)..Duration::from_secs(15);
    ends_during_a_sync("delay_enter=60000000", DISK_HANGS, takes).await;
}

/// X14: nor if nothing is written any more, and the disk hangs while the store is closed: after ten
/// seconds the process ends, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_at_the_end_does_not_keep_the_process() {
    if let Some(why) = lacks(true, &["strace"]) {
        return not_run("a server whose disk hangs while it closes its store", &why);
    }
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut process = program.start_serving().await;
    program.wire().commit(vec![put("list", "before", "")]).await;
    let delay = "delay_enter=60000000";
    let fault = Fault {
        call: "fsync,fdatasync,sync_file_range",
        what: delay,
        when: "1+".to_owned(),
        file: None,
    };
    let tracer = Tracer::attach(process.id(), &fault);
    let took = ends(&process).await;
    tracer.kill();
    let status = process.ended().await;
    assert_eq!(status.code(), Some(DISK_HANGS), "{}", process.log());
    assert!(process.log().contains("the store was not closed within 10s"), "{}", process.log());
    assert!((10..14).contains(&took.as_secs()), "it took {took:?}\n{}", process.log());

    let mut process = program.start_serving().await;
    let list = program.wire().load("list").await.contents();
    assert!(list.contains_key(b"before".as_slice()), "G3");
    process.kill();
}
