//! A process that stores nothing goes on from what it has acknowledged, whoever dies.
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt as _;
use serde_json::Value as Json;
use sync_client::types::ResetReason;
use sync_client::{Arrival, ClientError, SyncClient};
use sync_tests::compose::{delete, name, put};
use sync_tests::process::Program;
use sync_tests::seed::dice;
use sync_tests::server::TestServer;
use sync_tests::wait::{pass, until_true, within};
use sync_tests::wire::Wire;

use crate::{CONSUMER, SERVER};

const LISTS: [&str; 2] = ["list", "other"];

/// What the consumer has written, in all of its lives.
#[derive(Debug, Default)]
struct Sink {
    items: BTreeMap<String, BTreeMap<String, String>>,
    /// Loads that are not finished.
    staged: BTreeMap<String, BTreeMap<String, String>>,
    begun: u32,
    lines: u32,
}

impl Sink {
    fn take(&mut self, line: &Json) {
        self.lines += 1;
        if let Some(list) = line["begins"].as_str() {
            self.begun += 1;
            self.staged.insert(list.to_owned(), BTreeMap::new());
        } else if let Some(list) = line["changes"].as_str() {
            let staged = self.staged.get_mut(list);
            let rows = staged.unwrap_or_else(|| self.items.entry(list.to_owned()).or_default());
            for change in line["of"].as_array().unwrap() {
                let key = change[0].as_str().unwrap().to_owned();
                match &change[1] {
                    Json::String(value) => drop(rows.insert(key, value.clone())),
                    Json::Null if change.as_array().unwrap().len() == 1 => drop(rows.remove(&key)),
                    // The value has not changed since what was acknowledged.
                    _ => assert!(rows.contains_key(&key), "{key} of {list} lacks its value"),
                }
            }
            if line["more"] == Json::Bool(false)
                && let Some(loaded) = self.staged.remove(list)
            {
                self.items.insert(list.to_owned(), loaded);
            }
        } else if let Some(list) = line["absent"].as_str() {
            self.items.remove(list);
            self.staged.remove(list);
        }
    }
}

/// A consumer that runs.
struct Consumer {
    child: Child,
    reader: JoinHandle<()>,
}

impl Consumer {
    fn start(uri: &str, sink: &Arc<Mutex<Sink>>) -> Self {
        let mut child = Command::new(CONSUMER)
            .args([uri, "indexer"])
            .args(LISTS)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let sink = Arc::clone(sink);
        let reader = std::thread::spawn(move || {
            // What is written is kept, also when the writer is dead. Half a line is none.
            for line in lines.map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line) {
                    sink.lock().take(&line);
                }
            }
        });
        Self { child, reader }
    }

    /// Kills it with SIGKILL.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
        // A load that was not finished begins again.
    }
}

async fn contents(wire: &Wire, list: &str) -> BTreeMap<String, String> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let contents = wire.load(list).await.contents();
    contents.into_iter().map(|(key, value)| (text(key), text(value))).collect()
}

/// G1, G3, G5: server and client are killed again and again while a writer puts and deletes; the
/// client keeps no cursor and no copy, and what it has written in all of its lives is what the
/// server has, without a load after the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stores_nothing_misses_nothing() {
    let (mut dice, _seed) = dice();
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let uri = format!("http://{}", program.address());
    let sink = Arc::new(Mutex::new(Sink::default()));
    let mut process = program.start_serving().await;
    for list in LISTS {
        program.wire().commit(vec![put(list, "first", "1")]).await;
    }
    let mut consumer = Consumer::start(&uri, &sink);
    until_true("both lists to be loaded", async || sink.lock().items.len() == 2).await;
    for round in 0..12 {
        for number in 0..dice.random_range(1..30) {
            let (list, item) = (LISTS[number % 2], format!("{}", dice.random_range(0..20)));
            let change = if dice.random_bool(0.3) {
                delete(list, &item)
            } else {
                put(list, &item, format!("{round} {number}"))
            };
            program.wire().commit(vec![change]).await;
        }
        pass(Duration::from_millis(dice.random_range(0..60))).await;
        if round % 3 != 1 {
            consumer.kill();
            consumer = Consumer::start(&uri, &sink);
        }
        if round % 3 != 0 {
            process.kill();
            process = program.start_serving().await;
        }
    }
    for list in LISTS {
        let wanted = contents(&program.wire(), list).await;
        until_true("everything to be written", async || sink.lock().items[list] == wanted).await;
    }
    consumer.kill();
    let (lines, begun) = {
        let sink = sink.lock();
        (sink.lines, sink.begun)
    };
    // A life that ends before its first ack begins again; there were two lists to load.
    eprintln!("{lines} lines, {begun} loads");
    assert!(begun <= 4, "{begun} loads: it did not go on from its acks");
    process.terminate();
    assert!(process.ended().await.success());
    process.check_log();
}

/// G6: whatever ends the past of a consumer, it is told to begin anew, and ends with what is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_told_when_it_must_begin_anew() {
    let server = TestServer::with(|config| config.tombstones_max = 0).await;
    let wire = server.wire();
    let client = || SyncClient::builder(server.uri()).client_id("indexer").build().unwrap();
    let nameless = SyncClient::connect(server.uri()).unwrap();
    assert!(matches!(nameless.resume([name("list")]), Err(ClientError::Setting(_))));
    assert!(matches!(nameless.ack(Vec::new()).await, Err(ClientError::Setting(_))));

    let mut one = client().resume([name("list")]).unwrap();
    let next = async |of: &mut sync_client::Resumed| within("an arrival", of.next()).await.unwrap();
    assert_eq!(next(&mut one).await, Arrival::Absent(name("list")));
    wire.commit(vec![put("list", "a", "1"), put("list", "b", "1")]).await;
    assert_eq!(next(&mut one).await, Arrival::Begins(name("list"), None));
    one.ack().await.unwrap();
    let Arrival::Changes(_, load) = next(&mut one).await else { panic!("the items") };
    assert_eq!((load.changes.len(), load.has_more), (2, false));
    // Not acknowledged: the next life is handed the same again.
    let mut two = client().resume([name("list")]).unwrap();
    assert_eq!(next(&mut two).await, Arrival::Begins(name("list"), None));
    assert!(matches!(next(&mut two).await, Arrival::Changes(_, again) if again == load));
    two.ack().await.unwrap();
    drop(two);
    let mut three = client().resume([name("list")]).unwrap();
    assert_eq!(next(&mut three).await, Arrival::CaughtUp(name("list"), load.to), "nothing is new");
    drop((one, three));
    // The floor passes behind it.
    wire.commit(vec![delete("list", "a")]).await;
    until_true("the delete to be forgotten", async || {
        wire.head(&name("list")).await.unwrap().tombstones == 0
    })
    .await;
    let mut four = client().resume([name("list")]).unwrap();
    let why = Some(ResetReason::BelowFloor);
    assert_eq!(next(&mut four).await, Arrival::Begins(name("list"), why));
    let Arrival::Changes(_, load) = next(&mut four).await else { panic!("all that there is") };
    assert_eq!((load.changes.len(), load.has_more), (1, false));
    four.ack().await.unwrap();
    // Another life of the collection, while it is connected.
    wire.delete_collection("list").await;
    loop {
        match next(&mut four).await {
            Arrival::CaughtUp(..) => {}
            Arrival::Absent(_) => break,
            other => panic!("{other:?}"),
        }
    }
    wire.commit(vec![put("list", "c", "1")]).await;
    assert_eq!(next(&mut four).await, Arrival::Begins(name("list"), None));
    assert!(matches!(next(&mut four).await, Arrival::Changes(..)));
    four.ack().await.unwrap();
    drop(four);
    let mut five = client().resume([name("list")]).unwrap();
    assert!(matches!(next(&mut five).await, Arrival::CaughtUp(..)));
    server.stop().await;
}
