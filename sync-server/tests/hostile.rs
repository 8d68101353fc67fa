//! What a peer can make a server hold: by not reading, by not finishing, by asking for too much.
//! The program runs in a process of its own, whose memory is looked at from outside; its budgets
//! are the smallest there are, a quarter of which is one connection's.

#![allow(clippy::unwrap_used, reason = "tests")]

mod peers;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use h2::RecvStream;
use h2::client::Builder;
use sync_proto::v1;
use sync_server::auth::TokenConfig;
use tokio::net::TcpStream;
use tonic::codegen::http::Response;

use peers::{Call, Peer, Server, ask, framed, grpc_status, read, take, tight, told, within};

const ACK: &str = "/deltasync.v1.SyncService/Ack";
const COMMIT: &str = "/deltasync.v1.WriteService/Commit";
const IMPORT: &str = "/deltasync.v1.WriteService/Import";
const PULL: &str = "/deltasync.v1.SyncService/Pull";
const PURGE: &str = "/deltasync.v1.AdminService/Purge";
const SUBSCRIBE: &str = "/deltasync.v1.SyncService/Subscribe";

/// Bytes of the large value.
const LARGE: usize = 1_000_000;

/// Calls of a hostile peer: if each held a large value, it would be seen.
const CALLS: usize = 100;

/// What they may cost the process, in MiB.
const GROWTH_MIB_MAX: u64 = 40;

/// The program.
struct Program {
    child: Child,
    address: SocketAddr,
}

// === impl Program ===

impl Program {
    fn start(dir: &std::path::Path, settings: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sync-server"))
            .args(["--listen", "127.0.0.1:0", "--cache-mib", "16", "--free-disk-min-mib", "1"])
            .args(settings)
            .arg("--data-dir")
            .arg(dir)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, address) = line.split_once("serving address=")?;
            Some(address.split(' ').next()?.parse().unwrap())
        });
        Self { child, address: address.unwrap() }
    }

    /// A peer that takes so much of an answer before it reads any.
    async fn peer(&self, window: u32) -> Peer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        // What is not read of one answer must not keep the peer from reading another.
        let mut builder = Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(1 << 24);
        Peer::over(stream, builder).await.unwrap()
    }

    /// The memory of the process.
    fn mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        rss.trim().split(' ').next().unwrap().parse::<u64>().unwrap() / 1024
    }

    /// Fails if the process has grown by more than the budgets explain.
    fn check_growth(&self, before: u64) {
        let grown = self.mib().saturating_sub(before);
        assert!(grown < GROWTH_MIB_MAX, "the process has grown by {grown} MiB");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn put(key: &str, bytes: usize) -> v1::CommitRequest {
    let key = key.to_owned().into();
    let put = v1::PutItem { key, value: vec![b'v'; bytes].into(), ..Default::default() };
    let op = Some(v1::mutation::Op::Put(put));
    let mutation = v1::Mutation { collection: "list".to_owned(), op };
    v1::CommitRequest { mutations: vec![mutation], ..Default::default() }
}

fn pull() -> v1::PullRequest {
    let target = v1::Target { collection: "list".to_owned(), ..Default::default() };
    v1::PullRequest { targets: vec![target], ..Default::default() }
}

fn subscribe(targets: usize) -> v1::SubscribeRequest {
    let target = |n: usize| v1::Target {
        collection: if n == 0 { "list".to_owned() } else { format!("list/{n}") },
        ..Default::default()
    };
    v1::SubscribeRequest { targets: (0..targets).map(target).collect(), ..Default::default() }
}

/// G8: answers that are not read cost no more than the budget, keep nobody else waiting, and none
/// is lost.
#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(dir.path(), &["--replies-mib", "16", "--loads-mib", "16"]);
    let mut honest = program.peer(65_535).await;
    assert_eq!(ask(&mut honest, COMMIT, &put("k", LARGE)).await.1, "0");
    assert_eq!(ask(&mut honest, PULL, &pull()).await.1, "0");
    let before = program.mib();

    let mut hostile = program.peer(20_000).await;
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let mut call = hostile.call(PULL).await.unwrap();
        call.send(&pull(), true);
        calls.push(call.response);
    }
    // It is answered as far as there is room, and others are answered beside it.
    let mut calls: FuturesUnordered<_> = calls.into_iter().collect();
    let first = within(calls.next()).await.unwrap().unwrap();
    assert!(hostile.is_served().await, "the server has seen the calls before");
    for _ in 0..20 {
        let (bytes, status) = ask(&mut honest, PULL, &pull()).await;
        assert!(bytes > LARGE && status == "0", "{bytes} {status}");
    }
    program.check_growth(before);
    assert!(take(first).await.0 > LARGE);
    while let Some(response) = within(calls.next()).await {
        let (bytes, status) = take(response.unwrap()).await;
        assert!(bytes > LARGE && status == "0", "{bytes} {status}");
        program.check_growth(before);
    }
}

/// G8, G11: when first loads have all the room there is for them, and nobody takes them, a resume, a
/// health check and a commit are answered as ever; a load waits, and gets its turn.
#[tokio::test(flavor = "multi_thread")]
async fn unread_loads_delay_no_resume() {
    let server = Server::start(|config| (config.loads_mib, config.replies_mib) = (16, 16)).await;
    let mut honest = server.peer().await;
    let resume = filled(&mut honest).await;
    let held = hold_loads(&server).await;
    let began = Instant::now();
    let mut late = server.peer().await;
    let mut load = late.call(PULL).await.unwrap();
    load.send(&pull(), true);
    let mut took = Vec::new();
    for number in 0..10 {
        let asked = Instant::now();
        let (_, status) = ask(&mut honest, PULL, &resume).await;
        assert_eq!(status, "0");
        assert!(honest.is_served().await);
        assert_eq!(ask(&mut honest, COMMIT, &put(&format!("other {number}"), 1)).await.1, "0");
        took.push(asked.elapsed());
    }
    took.sort_unstable();
    assert!(took[5] < Duration::from_millis(100), "{took:?}");
    // Not one of them waits until somebody is cut.
    assert!(took[9] < Duration::from_secs(1), "{took:?}");
    let mut load = Box::pin(within(load.response));
    // Whoever takes nothing is cut only after two seconds.
    if began.elapsed() < Duration::from_secs(1) {
        assert!((&mut load).now_or_never().is_none(), "there was room for the load");
    }
    assert!(take(load.await.unwrap()).await.0 > LARGE);
    drop(held);
    server.stop().await.unwrap();
}

/// G8: whoever asks for more loads than it takes, on all calls that there may be, is cut when others
/// want to call: that they wait for each other is its own doing.
#[tokio::test(flavor = "multi_thread")]
async fn loads_that_wait_keep_no_call_out() {
    let server = Server::start(|config| config.loads_mib = 16).await;
    let mut honest = server.peer().await;
    let resume = filled(&mut honest).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut hostile = Peer::over(server.connect().await, tight()).await.unwrap();
        for _ in 0..1_000 {
            let mut call = hostile.call(PULL).await.unwrap();
            call.send(&pull(), true);
            held.push(call.response);
        }
        // Answered behind all others: the server has begun them, or has had enough of this peer.
        if !hostile.is_served().await {
            break;
        }
    }
    assert_eq!(ask(&mut honest, PULL, &resume).await.1, "0");
    drop(held);
    server.stop().await.unwrap();
}

/// Writes a large item; the pull of somebody who has it.
async fn filled(peer: &mut Peer) -> v1::PullRequest {
    let written: v1::CommitResponse = told(peer, COMMIT, &put("k", LARGE)).await;
    let written = &written.collections[0];
    let cursor = v1::Cursor { epoch: written.epoch, version: written.version, base: 0 };
    let mut resume = pull();
    resume.targets[0].cursor = Some(cursor);
    resume
}

/// So many first loads, of which each has taken a little of an answer of a megabyte, that there is no
/// room among 16 MiB to make another one.
async fn hold_loads(server: &Server) -> Vec<(Response<RecvStream>, Peer)> {
    let mut held = Vec::new();
    for _ in 0..13 {
        let mut hostile = Peer::over(server.connect().await, tight()).await.unwrap();
        let mut call = hostile.call(PULL).await.unwrap();
        call.send(&pull(), true);
        held.push((within(call.response).await.unwrap(), hostile));
    }
    held
}

/// G11, R12: when loads have all their room, and whoever holds it gets on with taking, a pull of
/// nothing but a load is refused after a while; of another pull the load fails alone.
#[tokio::test(flavor = "multi_thread")]
async fn loads_without_room_fail_alone() {
    let server = Server::start(|config| (config.loads_mib, config.replies_mib) = (16, 16)).await;
    let mut honest = server.peer().await;
    let mut mixed = filled(&mut honest).await;
    mixed.targets.extend(pull().targets);
    let readers = hold_loads(&server).await.into_iter().map(|(response, peer)| async move {
        let (mut body, _peer) = (response.into_body(), peer);
        let mut pace = tokio::time::interval(Duration::from_millis(700));
        loop {
            pace.tick().await;
            read(&mut body, 40_000).await;
        }
    });
    let mut other = server.peer().await;
    let only = pull();
    let asked = async {
        let mixed = told::<v1::PullResponse>(&mut honest, PULL, &mixed);
        tokio::join!(mixed, ask(&mut other, PULL, &only))
    };
    let (mixed, (_, refused)) = tokio::select! {
        answers = asked => answers,
        _ = join_all(readers) => unreachable!("they read for ever"),
    };
    assert_eq!(refused, "8");
    let [resumed, load] = &mixed.outcomes[..] else { panic!("{mixed:?}") };
    assert!(matches!(resumed.result, Some(v1::outcome::Result::Aligned(_))), "{resumed:?}");
    let Some(v1::outcome::Result::Failed(failure)) = &load.result else { panic!("{load:?}") };
    assert_eq!((failure.code, failure.retry_after_ms), (8, 2_000), "{failure:?}");
    server.stop().await.unwrap();
}

/// G8, G11: requests that never end cost no more than the budget, and end with a reason; the
/// connection serves on. An import may pause between two messages.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_requests_are_bounded_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["--requests-mib", "16", "--upload-timeout-s", "1"];
    let program = Program::start(dir.path(), &settings);
    let mut peer = program.peer(65_535).await;
    let mut import = peer.call(IMPORT).await.unwrap();
    let mutations = |n| v1::ImportRequest {
        import_id: "i".to_owned(),
        sequence: n,
        mutations: put("k", 10).mutations,
    };
    import.send(&mutations(1), false);
    assert_eq!(ask(&mut peer, COMMIT, &put("k", 10)).await.1, "0");
    let before = program.mib();

    let whole = framed(&put("large", LARGE));
    let mut calls: Vec<Call> = Vec::new();
    for _ in 0..CALLS {
        let mut call = peer.call(COMMIT).await.unwrap();
        call.body.send_data(whole.slice(..LARGE), false).unwrap();
        calls.push(call);
    }
    let (mut bodies, mut responses) = (Vec::new(), Vec::new());
    for Call { response, body } in calls {
        bodies.push(body);
        responses.push(within(response));
    }
    let (mut late, mut refused) = (0, 0);
    for response in join_all(responses).await {
        program.check_growth(before);
        let response = response.unwrap();
        match grpc_status(&response) {
            "4" => late += 1,
            "8" => {
                let text = response.headers()["grpc-message"].to_str().unwrap();
                assert!(text.starts_with("requests_mib"), "{text}");
                refused += 1;
            }
            other => panic!("status {other}"),
        }
    }
    assert!(late > 0 && refused > 0, "{late} late, {refused} refused");
    import.send(&mutations(2), true);
    assert_eq!(take(within(import.response).await.unwrap()).await.1, "0");
    assert_eq!(ask(&mut peer, COMMIT, &put("large", LARGE)).await.1, "0");
}

/// G8: requests that wait for room do not keep those of their connection that have it from
/// arriving: each is served in its turn.
#[tokio::test(flavor = "multi_thread")]
async fn many_large_requests_at_once_are_served() {
    let server = Server::start(|config| config.requests_mib = 16).await;
    let mut peer = server.peer().await;
    let mut calls = Vec::new();
    for n in 0..12 {
        let mut call = peer.call(COMMIT).await.unwrap();
        call.send(&put(&n.to_string(), LARGE), true);
        calls.push(call.response);
    }
    for call in calls {
        assert_eq!(take(within(call).await.unwrap()).await.1, "0");
    }
    server.stop().await.unwrap();
}

/// G8: subscribers that do not read cost a message each, not pages; each gets its page when it
/// reads.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_subscribers_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(dir.path(), &["--pages-mib", "16"]);
    let mut honest = program.peer(65_535).await;
    assert_eq!(ask(&mut honest, COMMIT, &put("k", LARGE)).await.1, "0");
    assert_eq!(ask(&mut honest, PULL, &pull()).await.1, "0");
    let before = program.mib();

    let mut hostile = program.peer(20_000).await;
    let mut streams = Vec::new();
    for _ in 0..CALLS {
        let mut call = hostile.call(SUBSCRIBE).await.unwrap();
        call.send(&subscribe(1), true);
        streams.push(within(call.response).await.unwrap().into_body());
    }
    assert!(hostile.is_served().await);
    let mut call = honest.call(SUBSCRIBE).await.unwrap();
    call.send(&subscribe(1), true);
    let mut body = within(call.response).await.unwrap().into_body();
    assert!(read(&mut body, LARGE).await >= LARGE, "an honest subscriber has its page");
    program.check_growth(before);
    // They have room in no certain order, so each must read on before all have their page.
    for bytes in join_all(streams.iter_mut().map(|body| read(body, LARGE))).await {
        assert!(bytes >= LARGE, "a page when it reads");
    }
    program.check_growth(before);
}

fn token(secret: &str) -> TokenConfig {
    use sha2::{Digest as _, Sha256};
    use std::fmt::Write as _;
    let mut sha256 = String::new();
    for byte in Sha256::digest(secret) {
        write!(sha256, "{byte:02x}").unwrap();
    }
    let everything = vec!["*".to_owned()];
    TokenConfig {
        sha256,
        subject: secret.to_owned(),
        read: everything.clone(),
        write: everything,
        admin: true,
    }
}

/// G8, G10: who is not known is told so before anything of the request has come, by every service.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_by_the_head_of_a_call() {
    let server = Server::start(|config| config.tokens = vec![token("one")]).await;
    let mut peer = server.peer().await;
    for secret in [None, Some("guess")] {
        peer.token = secret;
        for path in [COMMIT, IMPORT, PULL, SUBSCRIBE, ACK, PURGE] {
            let call = peer.call(path).await.unwrap();
            let refused = within(call.response).await.unwrap();
            assert_eq!(grpc_status(&refused), "16", "{path}");
        }
    }
    peer.token = Some("one");
    assert_eq!(ask(&mut peer, COMMIT, &put("k", 1)).await.1, "0");
    server.stop().await.unwrap();
}

/// G8, G11: streams and targets are counted in total and by token, and a refusal names the limit.
#[tokio::test(flavor = "multi_thread")]
async fn streams_and_targets_are_counted_by_token() {
    let server = Server::start(|config| {
        config.tokens = vec![token("one"), token("two")];
        config.streams_per_subject_max = 2;
        config.targets_max = 100;
        config.targets_per_subject_max = 60;
    })
    .await;
    // Connections do not matter: what is counted is whose token it is.
    let mut open = Vec::new();
    for (secret, targets, expected) in [
        ("one", 50, None),
        ("one", 11, Some("targets_per_subject_max: 60")),
        ("two", 51, Some("targets_max: 100")),
        ("one", 10, None),
        ("one", 1, Some("streams_per_subject_max: 2")),
        ("two", 40, None),
    ] {
        let mut peer = server.peer().await;
        peer.token = Some(secret);
        let mut call = peer.call(SUBSCRIBE).await.unwrap();
        call.send(&subscribe(targets), true);
        let response = within(call.response).await.unwrap();
        match expected {
            None => open.push((peer, response)),
            Some(limit) => {
                assert_eq!(grpc_status(&response), "8", "{limit}");
                let text = response.headers()["grpc-message"].to_str().unwrap();
                assert!(text.starts_with(&limit.replace(' ', "%20")), "{text}");
            }
        }
    }
    server.stop().await.unwrap();
}
