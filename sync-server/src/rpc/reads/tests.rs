//! Reads that hang hold up nobody else.

use std::future::pending;
use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn runtime(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

fn spawn<F: Future<Output: Send> + Send + 'static>(task: F) -> JoinHandle<F::Output> {
    TaskTracker::new().spawn(task)
}

/// A read that hangs until the other end is dropped; says where it runs.
fn hanging(told: mpsc::Sender<String>, until: mpsc::Receiver<()>) -> impl FnOnce() + Send {
    move || {
        told.send(thread::current().name().unwrap_or_default().to_owned()).unwrap();
        until.recv().unwrap_err();
    }
}

/// G8: whatever hangs, calls are answered: as many workers as there are cores never read, what they
/// are not lent for goes elsewhere, and even that leaves room for others.
#[test]
fn reads_that_hang_hold_up_nobody() {
    let runtime = runtime(workers());
    runtime.block_on(async {
        let reads = Arc::new(Reads::of_this_runtime(TaskTracker::new()));
        let (told, places) = mpsc::channel();
        let mut ends = Vec::new();
        for _ in 0..READS_MAX {
            let (end, until) = mpsc::channel();
            ends.push(end);
            let (reads, read) = (Arc::clone(&reads), hanging(told.clone(), until));
            spawn(async move { reads.run(read).await });
        }
        let began: Vec<String> =
            (0..READS_MAX).map(|_| places.recv_timeout(SOON).unwrap()).collect();
        assert_eq!(began.len(), READS_MAX);
        assert_eq!(reads.running(), READS_MAX);
        assert_eq!(reads.lent.available_permits(), 0, "workers are lent first");
        // Tasks that wake each other, as connections and calls do, and timers.
        for _ in 0..100 {
            let task = spawn(async {
                let inner = spawn(async { tokio::task::yield_now().await });
                inner.await.unwrap();
                timeout(Duration::from_millis(1), pending::<()>()).await.unwrap_err();
            });
            timeout(SOON, task).await.expect("a task runs").unwrap();
        }
        // One that waits for its turn and is given up costs nothing.
        let mut late = Box::pin(reads.run(|| panic!("it had no turn")));
        assert!(timeout(Duration::from_millis(50), &mut late).await.is_err());
        assert_eq!(reads.waiting(), 1);
        drop(late);
        assert_eq!(reads.waiting(), 0);
        drop(ends);
        let all = timeout(SOON, reads.turns.acquire_many(u32::try_from(READS_MAX).unwrap()));
        drop(all.await.expect("every read ends").unwrap());
        assert_eq!(timeout(SOON, reads.run(|| 7)).await.unwrap().unwrap(), 7);
    });
}

/// What waits beside a read, woken by whoever asked for it just before, does not wait for it.
#[test]
fn a_read_takes_nothing_along() {
    let runtime = runtime(workers());
    for _ in 0..200 {
        runtime.block_on(async {
            let reads = Reads::of_this_runtime(TaskTracker::new());
            let (told, places) = mpsc::channel();
            let (end, until) = mpsc::channel();
            let woken = Arc::new(tokio::sync::Notify::new());
            let waiting = Arc::clone(&woken);
            let (waits, begun) = tokio::sync::oneshot::channel();
            let other = spawn(async move {
                let notified = waiting.notified();
                waits.send(()).unwrap();
                notified.await;
            });
            begun.await.unwrap();
            let asking = spawn(async move {
                woken.notify_one();
                reads.run(hanging(told, until)).await
            });
            timeout(SOON, other).await.expect("it does not wait for the read").unwrap();
            places.recv_timeout(SOON).unwrap();
            drop(end);
            timeout(SOON, asking).await.unwrap().unwrap().unwrap();
        });
    }
}

/// A runtime that has no workers to lend hands every read over.
#[test]
fn without_workers_to_spare_reads_are_handed_over() {
    runtime(1).block_on(async {
        let reads = Reads::of_this_runtime(TaskTracker::new());
        assert_eq!(reads.lent.available_permits(), 0);
        let (told, places) = mpsc::channel();
        let (end, until) = mpsc::channel();
        let read = reads.run(hanging(told, until));
        tokio::pin!(read);
        assert!(timeout(Duration::from_millis(100), &mut read).await.is_err(), "it hangs");
        places.recv_timeout(SOON).unwrap();
        let task = spawn(async { 3 });
        assert_eq!(timeout(SOON, task).await.unwrap().unwrap(), 3, "the only worker is free");
        drop(end);
        timeout(SOON, read).await.unwrap().unwrap();
    });
}

/// A read that panics is told, and gives its turn and its worker back.
#[test]
fn a_read_that_panics_gives_back_what_it_had() {
    runtime(workers()).block_on(async {
        let reads = Reads::of_this_runtime(TaskTracker::new());
        for _ in 0..2 * READS_MAX {
            let panicked = reads.run(|| -> () { panic!("broken") }).await.unwrap_err();
            assert!(panicked.is_panic());
        }
        assert_eq!((reads.running(), reads.lent.available_permits()), (0, workers() - cores()));
    });
}
