//! A client that begins the same first load again and again waits longer and longer; whoever gets on
//! does not.

use std::time::Duration;

use sync_proto::types::{Cursor, Event, Failure, Outcome, Plan, Scope, Subscribe, Target};
use sync_proto::v1;
use sync_tests::compose::{after, name, put, scratch, scratch_of};
use sync_tests::server::TestServer;
use sync_tests::wait::until;
use sync_tests::wire::Wire;
use tonic::Code;

const LIST: &str = "list";

/// Loads that a client may begin before it must wait.
const FREE: usize = 8;

async fn pull(wire: &Wire, client_id: &str, targets: Vec<Target>) -> Vec<Outcome> {
    let targets = targets.into_iter().map(Into::into).collect();
    let client_id = client_id.to_owned();
    let request = v1::PullRequest { targets, client_id, ..Default::default() };
    wire.pull_raw(request).await.unwrap()
}

async fn load(wire: &Wire, client_id: &str) -> Outcome {
    pull(wire, client_id, vec![scratch(LIST)]).await.remove(0)
}

#[track_caller]
fn assert_held_up(failure: &Failure) {
    assert_eq!(failure.code, i32::from(Code::ResourceExhausted), "{failure:?}");
    let wait = failure.retry_after.expect("it says when to come back");
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{failure:?}");
}

async fn served() -> TestServer {
    let server = TestServer::start().await;
    server.wire().commit(vec![put(LIST, "a", "1"), put("other", "a", "1")]).await;
    server
}

/// The loop is broken for the client that loops, on whatever connection, and for nobody else;
/// after the wait it is served again, and once it gets on it is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_loop_of_loads_is_slowed_down() {
    let server = served().await;
    for _ in 0..FREE {
        let outcome = load(&server.new_connection(), "loops").await;
        assert!(matches!(outcome, Outcome::Delta(_)), "{outcome:?}");
    }
    let wire = server.wire();
    let at = Cursor { base: wire.head(&name(LIST)).await.unwrap().version, ..cursor(wire).await };
    let part = scratch_of(LIST, "a");
    let targets = vec![
        scratch("other"),
        scratch(LIST),
        part.clone(),
        scratch("none"),
        after(LIST, Cursor { version: sync_tests::compose::version(0), ..at }),
    ];
    let outcomes = pull(wire, "loops", targets).await;
    let [other, looped, part_of_it, none, goes_on] = &outcomes[..] else { panic!("five targets") };
    let Outcome::Failed(failure) = looped else { panic!("{looped:?}") };
    assert_held_up(failure);
    assert!(matches!(other, Outcome::Delta(_)), "{other:?}");
    assert!(matches!(part_of_it, Outcome::Delta(_)), "{part_of_it:?}");
    assert!(matches!(none, Outcome::NotFound), "{none:?}");
    assert!(matches!(goes_on, Outcome::Delta(_)), "a load that goes on: {goes_on:?}");
    assert_eq!(part.scope, Scope::KeyPrefix("a".into()));
    for innocent in ["another", ""] {
        let outcome = load(wire, innocent).await;
        assert!(matches!(outcome, Outcome::Delta(_)), "{innocent:?}: {outcome:?}");
    }
    until("the wait to be over", async || match load(wire, "loops").await {
        Outcome::Delta(_) => Some(()),
        Outcome::Failed(failure) => {
            assert_held_up(&failure);
            None
        }
        outcome @ (Outcome::Aligned(_)
        | Outcome::Reset(_)
        | Outcome::Denied
        | Outcome::NotFound
        | Outcome::Deferred(_)) => panic!("{outcome:?}"),
    })
    .await;
    let outcome = load(wire, "loops").await;
    let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
    assert!(failure.retry_after.unwrap() > Duration::from_secs(1), "the next wait is longer");
    let aligned = pull(wire, "loops", vec![after(LIST, cursor(wire).await)]).await;
    assert!(matches!(aligned[0], Outcome::Aligned(_)), "{aligned:?}");
    let outcome = load(wire, "loops").await;
    assert!(matches!(outcome, Outcome::Delta(_)), "it got on: {outcome:?}");
    server.stop().await;
}

async fn cursor(wire: &Wire) -> Cursor {
    wire.head(&name(LIST)).await.unwrap().cursor()
}

/// A stream tells it of the target that loops and serves the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_who_loops_and_serves_the_others() {
    let server = served().await;
    let wire = server.wire();
    let subscribe = || Subscribe {
        targets: vec![scratch(LIST), scratch("other")],
        heartbeat: Duration::from_millis(200),
        client_id: "loops".to_owned(),
    };
    for _ in 0..FREE {
        let mut events = wire.try_subscribe(subscribe()).await.unwrap();
        events.accepted().await;
        assert!(matches!(events.next_news().await, Event::Changes(..)));
    }
    // It got on from its loads of the other one.
    let head = wire.head(&name("other")).await.unwrap();
    pull(wire, "loops", vec![after("other", head.cursor())]).await;
    let mut events = wire.try_subscribe(subscribe()).await.unwrap();
    let accepted = events.accepted().await;
    assert_eq!(accepted.len(), 2);
    assert!(accepted.iter().all(|target| target.plan == Plan::Load), "{accepted:?}");
    let first = events.next_news().await;
    let Event::Failed(of, failure) = first else { panic!("{first:?}") };
    assert_eq!(of, name(LIST));
    assert_held_up(&failure);
    let Event::Changes(of, _) = events.next_news().await else { panic!("the other is served") };
    assert_eq!(of, name("other"));
    wire.commit(vec![put(LIST, "b", "1")]).await;
    wire.commit(vec![put("other", "b", "1")]).await;
    loop {
        let event = events.next_news().await;
        assert!(!matches!(&event, Event::Changes(of, _) if *of == name(LIST)), "it has ended");
        if matches!(&event, Event::Changes(of, _) if *of == name("other")) {
            break;
        }
    }
    server.stop().await;
}
