//! The end of a server whose disk has ended before it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use sync_proto::types::{CollectionName, Commit, Key, Mutation, Op, Value};

use super::*;
use crate::core::request::Request;
use crate::engine::ledger::Settings;
use crate::engine::reserving::Reserved;
use crate::metrics::Metrics;
use crate::store::memory::MemoryStore;
use crate::store::{Batch, Direction, KeyRange, Usage};

/// Syncs when it is let.
struct HangingStore {
    memory: MemoryStore,
    hangs: Arc<AtomicBool>,
}

impl Store for HangingStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.memory.get(key)
    }

    fn scan(
        &self,
        range: &KeyRange,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.memory.scan(range, direction, visit)
    }

    fn room(&self) -> Result<(), StoreError> {
        self.memory.room()
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.memory.apply(batch)
    }

    fn sync(&self) -> Result<(), StoreError> {
        while self.hangs.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.memory.sync()
    }

    fn usage(&self) -> Usage {
        self.memory.usage()
    }
}

fn put() -> Request {
    let op =
        Op::Put { key: Key::new("k").unwrap(), value: Value::new("v").unwrap(), sort_key: None };
    let collection = CollectionName::new("c").unwrap();
    let mutations = vec![Mutation { collection, op }];
    let commit = Commit { mutations, preconditions: Vec::new(), idempotency_key: String::new() };
    Request::Commit { commit, fingerprint: [0; 16] }
}

/// X14: a hung disk does not hang the exit.
#[tokio::test(flavor = "multi_thread")]
async fn a_hung_disk_does_not_hang_the_end() {
    let hangs = Arc::new(AtomicBool::new(false));
    let store = HangingStore { memory: MemoryStore::new(), hangs: Arc::clone(&hangs) };
    let ledger = Arc::new(Ledger::open(store, Settings::default(), &mut |_| {}).unwrap());
    let start = || {
        Writer::start(
            Arc::clone(&ledger),
            Arc::new(Hub::default()),
            Metrics::off(),
            CancellationToken::new(),
        )
    };
    let (writer, queue) = start().unwrap();
    queue.commit(put(), Reserved::default()).await.unwrap();
    stop_writer(writer, Duration::from_secs(60)).await.unwrap();

    let (writer, queue) = start().unwrap();
    hangs.store(true, Ordering::Relaxed);
    let mut changed = put();
    if let Request::Commit { commit, .. } = &mut changed {
        commit.mutations[0].op = Op::Delete { key: Key::new("k").unwrap() };
    }
    let pending = queue.submit(changed, Reserved::default()).await.unwrap();
    let stopped = stop_writer(writer, Duration::from_millis(100)).await;
    assert!(matches!(stopped, Err(ServeError::WriterHangs(_))), "{stopped:?}");
    hangs.store(false, Ordering::Relaxed);
    pending.answer().await.unwrap();
}

/// Reads that wait for the disk may hold every thread of theirs; the writer ends without one.
#[test]
fn busy_readers_do_not_delay_the_writers_end() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let read = tokio::task::spawn_blocking(move || released.recv());
        let ledger = Ledger::open(MemoryStore::new(), Settings::default(), &mut |_| {}).unwrap();
        let fatal = CancellationToken::new();
        let (writer, _) =
            Writer::start(Arc::new(ledger), Arc::new(Hub::default()), Metrics::off(), fatal)
                .unwrap();
        stop_writer(writer, Duration::from_secs(5)).await.unwrap();
        drop(release);
        read.await.unwrap().unwrap_err();
    });
}
