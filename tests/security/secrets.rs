//! What may never be seen in a log, however much is logged: tokens, and the names, keys and values
//! of users.

use sync_proto::types::{Event, Outcome, Subscribe};
use sync_proto::v1;
use sync_tests::compose::{commit, put, scratch};
use sync_tests::process::Program;
use sync_tests::wait::{PATIENCE, until_true, within};
use tonic::Code;

use crate::SERVER;
use crate::guard::{follows, token, tokens};

/// Everything that is a secret of this session.
const NAME: &str = "sesame/collection";
const KEY: &str = "sesame-key";
const VALUE: &str = "sesame-value";
const SUBJECT: &str = "sesame-subject";
const CLIENT: &str = "sesame-client";
const WORD: &str = "sesame";

/// G10: with everything logged, of every library, nothing of a whole session is in the log: not of
/// calls that are let in, nor of calls that are refused, nor of a policy that is bad.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_no_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    let grant = format!(
        "[[grants]]\nsubjects = [\"{SUBJECT}\"]\nread = [\"sesame\"]\nwrite = [\"sesame\"]\n"
    );
    std::fs::write(&file, grant.clone() + &tokens(&[SUBJECT])).unwrap();
    let settings = ["--log", "trace", "--policy-file", file.to_str().unwrap()];
    let program = Program::new(SERVER, &dir.path().join("data")).with(&settings);
    let mut process = program.start_serving().await;
    let wire = program.wire().showing(&token(SUBJECT));

    wire.commit(vec![put(NAME, KEY, VALUE), follows(NAME, SUBJECT)]).await;
    let mut events = wire
        .try_subscribe(Subscribe {
            targets: vec![scratch(NAME), scratch("sesames/foreign")],
            heartbeat: PATIENCE,
            client_id: CLIENT.to_owned(),
        })
        .await
        .unwrap();
    while !matches!(events.next().await, Event::CaughtUp(..)) {}
    let Outcome::Delta(delta) = wire.pull_as(CLIENT, vec![scratch(NAME)]).await.remove(0) else {
        panic!("a delta was due")
    };
    wire.ack(CLIENT, &[(NAME, delta.to)]).await.unwrap();
    let list = v1::ListItemsRequest { collection: NAME.to_owned(), ..Default::default() };
    within("a list", wire.sync().list_items(list)).await.unwrap();
    let foreign = wire.try_commit(commit(vec![put("sesames/foreign", KEY, VALUE)])).await;
    assert_eq!(foreign.unwrap_err().code(), Code::PermissionDenied);
    let stranger = program.wire().showing("sesame-guess");
    let refused = stranger.try_commit(commit(vec![put(NAME, KEY, VALUE)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    std::fs::write(&file, "[[grants]]\nsubjects = [\"sesame\"]\nread = [\"sesame//x\"]\n").unwrap();
    until_true("the refusal of a policy", async || process.log().contains("is refused")).await;
    std::fs::write(&file, tokens(&["another"])).unwrap();
    while !matches!(events.next_news().await, Event::Goodbye(_)) {}

    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0));
    let log = process.log();
    assert!(log.contains("TRACE") && log.contains("h2"), "it logs everything: {log:.200}");
    let telling: Vec<&str> = log.lines().filter(|line| line.contains(WORD)).collect();
    assert!(telling.is_empty(), "{} lines, the first: {:.500}", telling.len(), telling[0]);
}
