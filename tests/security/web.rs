//! gRPC-Web, for pages in a browser: off unless it is asked for, for the pages that are listed, and
//! bounded and guarded like gRPC. Everything down to the bytes of HTTP/1.1.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use prost::Message as _;
use sync_proto::types::{Event, GoodbyeReason, Subscribe};
use sync_proto::v1;
use sync_server::config::Config;
use sync_tests::compose::{commit, name, put, scratch, version};
use sync_tests::process::Program;
use sync_tests::reader::PlainReader;
use sync_tests::server::TestServer;
use sync_tests::wait::{pass, until_true};
use sync_tests::web::{Coding, Frames, Head, ORIGIN, WebFrame, WebLine};
use tonic::Code;

use crate::SERVER;
use crate::authority::{Authority, Client};
use crate::guard::{token, tokens};
use crate::raw_calls;

const COMMIT: &str = "/deltasync.v1.WriteService/Commit";
const PULL: &str = "/deltasync.v1.SyncService/Pull";
const SUBSCRIBE: &str = "/deltasync.v1.SyncService/Subscribe";

const FOREIGN: &str = "https://evil.example";

/// A server that pages of [`ORIGIN`] may call.
async fn open_to_pages(change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::with(|config| {
        config.grpc_web = true;
        config.grpc_web_origins = vec![ORIGIN.to_owned()];
        change(config);
    })
    .await
}

fn pull(collection: &str) -> v1::PullRequest {
    v1::PullRequest { targets: vec![scratch(collection).into()], ..Default::default() }
}

fn subscribe(collection: &str, heartbeat: Duration) -> v1::SubscribeRequest {
    let targets = vec![scratch(collection)];
    Subscribe { targets, heartbeat, client_id: String::new() }.into()
}

fn event(message: &[u8]) -> Event {
    v1::SubscribeResponse::decode(message).unwrap().try_into().unwrap()
}

/// Takes frames of a stream until it has heard what it wants.
async fn until_heard(
    page: &mut WebLine,
    frames: &mut Frames,
    mut wanted: impl FnMut(&Event) -> bool,
) {
    loop {
        let part = page.part().await.expect("the stream goes on");
        for frame in frames.take(&part) {
            let WebFrame::Message(message) = frame else { panic!("{frame:?}") };
            if wanted(&event(&message)) {
                return;
            }
        }
    }
}

/// Whether the line has been closed without an answer.
async fn is_cut(page: &mut WebLine) -> bool {
    page.rest().await.is_empty()
}

/// Who does not ask for it has HTTP/2 and gRPC only.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_off_by_default() {
    let server = TestServer::start().await;
    let mut page = WebLine::to(server.address()).await;
    let headers = [("content-type", Coding::Binary.media_type())];
    page.begin("POST", PULL, &headers, 0).await;
    let said = page.rest().await;
    assert!(!said.starts_with(b"HTTP/1"), "{}", String::from_utf8_lossy(&said));
    server.stop().await;
}

/// Calls and streams in both codings, several on one connection; the trailers are in the body, and
/// the page may read everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_calls_and_follows() {
    let server = open_to_pages(|_| {}).await;
    let mut page = WebLine::to(server.address()).await;
    for (number, coding) in [Coding::Binary, Coding::Text].into_iter().enumerate() {
        let key = format!("{number}");
        let request = v1::CommitRequest::from(commit(vec![put("list", key, "value")]));
        let answer = page.call(COMMIT, coding, &[("origin", ORIGIN)], &request).await;
        assert_eq!((answer.head.status, answer.code), (200, 0), "{answer:?}");
        assert!(answer.trailers.contains("grpc-status: 0\r\n"), "{answer:?}");
        let reply = v1::CommitResponse::decode(&answer.messages[0][..]).unwrap();
        assert_eq!(reply.collections[0].version, 2 * number as u64 + 1);
        let answer = page.call(PULL, coding, &[("origin", ORIGIN)], &pull("list")).await;
        assert_eq!(answer.code, 0);
        let reply = v1::PullResponse::decode(&answer.messages[0][..]).unwrap();
        assert_eq!(reply.outcomes.len(), 1);
        let exposed = answer.head.header("access-control-expose-headers").unwrap();
        for header in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
            assert!(exposed.split(", ").any(|one| one == header), "{exposed}");
        }
        assert_eq!(answer.head.header("access-control-allow-origin"), Some(ORIGIN));
        assert_eq!(answer.head.header("content-type"), Some(coding.media_type()));
        assert_eq!(answer.head.header("vary"), Some("origin"));

        let mut stream = WebLine::to(server.address()).await;
        let request = subscribe("list", Duration::from_secs(1));
        let head = stream.begin_call(SUBSCRIBE, coding, &[], &request).await;
        assert_eq!(head.status, 200);
        let (mut frames, mut reader) = (Frames::new(coding), PlainReader::new(scratch("list")));
        let last = server.wire().commit(vec![put("list", "pushed", "now")]).await;
        until_heard(&mut stream, &mut frames, |event| {
            reader.hear(event);
            reader.version() == last
        })
        .await;
        assert_eq!(reader.copy, server.wire().load("list").await.copy);
        // An error before any message is all in the head, where a page finds it too.
        let answer =
            page.call(PULL, coding, &[("origin", ORIGIN)], &v1::PullRequest::default()).await;
        assert_eq!(answer.code, Code::InvalidArgument as i32, "{answer:?}");
        assert!(answer.head.header("grpc-message").unwrap().starts_with("targets:"));
        // And so is why, in the bytes that gRPC has.
        let details = answer.head.header("grpc-status-details-bin").unwrap();
        let details = STANDARD_NO_PAD.decode(details.trim_end_matches('=')).unwrap();
        let channel = server.wire().channel();
        let refused = raw_calls::call(&channel, None, PULL, vec![Vec::new()], 1).await;
        assert_eq!(details, refused.details, "{refused:?}");
    }
    server.stop().await;
}

/// G10: browsers are told what pages of a listed origin may do; others are told nothing, and what
/// they ask all the same is not done.
#[tokio::test(flavor = "multi_thread")]
async fn only_listed_pages_may_call() {
    let server = open_to_pages(|_| {}).await;
    let mut page = WebLine::to(server.address()).await;
    let asking = |origin| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type,x-grpc-web"),
        ]
    };
    let head = page.ask("OPTIONS", COMMIT, &asking(ORIGIN), b"").await;
    assert_eq!(head.status, 204);
    assert_eq!(head.header("access-control-allow-origin"), Some(ORIGIN));
    assert_eq!(head.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(head.header("access-control-allow-credentials"), None);
    let allowed = head.header("access-control-allow-headers").unwrap();
    for header in ["authorization", "content-type", "grpc-timeout", "x-grpc-web", "x-user-agent"] {
        assert!(allowed.split(", ").any(|one| one == header), "{allowed}");
    }
    assert_eq!(head.header("vary"), Some("origin"));

    let request = v1::CommitRequest::from(commit(vec![put("list", "a", "1")]));
    for foreign in [FOREIGN, "null", "", "https://app.example.evil", "http://app.example"] {
        let told_nothing = |head: &Head| {
            assert_eq!(head.status, 403, "{foreign}");
            assert_eq!(head.header("access-control-allow-origin"), None, "{foreign}");
            assert_eq!(head.header("access-control-allow-headers"), None, "{foreign}");
        };
        let mut page = WebLine::to(server.address()).await;
        told_nothing(&page.ask("OPTIONS", COMMIT, &asking(foreign), b"").await);
        let mut page = WebLine::to(server.address()).await;
        let shown = [("origin", foreign)];
        told_nothing(&page.begin_call(COMMIT, Coding::Binary, &shown, &request).await);
    }
    assert_eq!(server.wire().head(&name("list")).await, None, "nothing was done");
    server.stop().await;
}

/// G11: what is neither gRPC-Web nor a browser's question is refused, and gRPC is what it was.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_spoken_over_http_1() {
    let server = open_to_pages(|_| {}).await;
    let web = ("content-type", Coding::Binary.media_type());
    for (method, headers, status) in [
        ("GET", vec![], 405),
        ("GET", vec![web], 405),
        ("PUT", vec![web], 405),
        ("OPTIONS", vec![], 405),
        ("POST", vec![], 415),
        ("POST", vec![("content-type", "application/grpc")], 415),
        ("POST", vec![("content-type", "application/grpc-web+json")], 415),
        ("POST", vec![("content-type", "application/x-www-form-urlencoded")], 415),
    ] {
        let mut page = WebLine::to(server.address()).await;
        let head = page.ask(method, PULL, &headers, b"").await;
        assert_eq!(head.status, status, "{method} {headers:?}");
        while page.part().await.is_some() {}
        assert!(is_cut(&mut page).await, "nothing more is heard");
    }
    let mut page = WebLine::to(server.address()).await;
    let unknown = page.call("/no.Service/Call", Coding::Binary, &[], &pull("list")).await;
    assert_eq!(unknown.code, Code::Unimplemented as i32);
    server.wire().commit(vec![put("list", "a", "1")]).await;
    server.stop().await;
}

/// G10: whoever shows no token, or another's, gets over gRPC-Web what gRPC would tell.
#[tokio::test(flavor = "multi_thread")]
async fn rights_are_the_same_as_over_grpc() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.toml");
    let grant = "[[grants]]\nsubjects = [\"reader\"]\nread = [\"list\"]\n".to_owned();
    std::fs::write(&policy, grant + &tokens(&["reader"])).unwrap();
    let server = open_to_pages(|config| config.policy_file = Some(policy)).await;
    let mut page = WebLine::to(server.address()).await;
    for path in raw_calls::calls() {
        for shown in [vec![], vec![("authorization", "Bearer of nothing")]] {
            let answer = page.call(&path, Coding::Binary, &shown, &pull("list")).await;
            assert_eq!(answer.code, Code::Unauthenticated as i32, "{path} {answer:?}");
            assert!(answer.messages.is_empty());
        }
    }
    let bearer = format!("Bearer {}", token("reader"));
    let shown = [("authorization", bearer.as_str()), ("origin", ORIGIN)];
    let request = v1::CommitRequest::from(commit(vec![put("list", "a", "1")]));
    let answer = page.call(COMMIT, Coding::Text, &shown, &request).await;
    assert_eq!(answer.code, Code::PermissionDenied as i32, "{answer:?}");
    let answer = page.call(PULL, Coding::Text, &shown, &pull("list")).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    server.stop().await;
}

/// Likewise over TLS, where HTTP/1.1 is agreed on only while gRPC-Web is on.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_spoken_over_tls() {
    let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
    authority.server().write(dir.path(), "server");
    let server = open_to_pages(|config| {
        config.tls_cert_file = Some(dir.path().join("server.crt"));
        config.tls_key_file = Some(dir.path().join("server.key"));
    })
    .await;
    for (offered, agreed) in [
        (&["http/1.1"][..], Some(&b"http/1.1"[..])),
        (&[], None),
        (&["http/1.1", "h2"], Some(b"h2")),
    ] {
        let client = Client::new(&authority, None).offering(offered);
        let stream = client.connect(server.address()).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        if agreed != Some(b"h2") {
            let answer = WebLine::over(stream)
                .call(PULL, Coding::Binary, &[("origin", ORIGIN)], &pull("list"))
                .await;
            assert_eq!(answer.code, 0, "{answer:?}");
        }
    }
    let wire = Client::new(&authority, None).wire(server.address()).await.unwrap();
    wire.commit(vec![put("list", "a", "1")]).await;
    server.stop().await;
}

/// G8, X10: a page that stops reading during a flood of 60 MB delays nobody and costs no more than
/// what lies in the transport, in base64 too; when it reads again it gets the latest state, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_page_is_caught_up_by_coalesced_changes() {
    let server = open_to_pages(|_| {}).await;
    let mut pages = Vec::new();
    for coding in [Coding::Binary, Coding::Text] {
        let mut page = WebLine::to(server.address()).await;
        let request = subscribe("list", Duration::from_secs(60));
        assert_eq!(page.begin_call(SUBSCRIBE, coding, &[], &request).await.status, 200);
        pages.push((page, Frames::new(coding), PlainReader::new(scratch("list"))));
    }
    let flooding = Instant::now();
    for number in 0..300_u32 {
        let value = vec![u8::try_from(number % 251).unwrap(); 200_000];
        server.wire().commit(vec![put("list", format!("{}", number % 10), value)]).await;
    }
    assert!(flooding.elapsed() < Duration::from_secs(20), "commits were delayed");
    // Long enough that the server notices.
    pass(Duration::from_millis(1_500)).await;
    for (mut page, mut frames, mut reader) in pages {
        let mut lagged = false;
        until_heard(&mut page, &mut frames, |event| {
            lagged |= matches!(event, Event::Lagging(..));
            reader.hear(event);
            reader.version() == version(300)
        })
        .await;
        assert!(lagged, "it was told that it lags");
        assert!(reader.seen.changes < 100, "{} changes of 300", reader.seen.changes);
        assert!(reader.copy == server.wire().load("list").await.copy);
    }
    server.stop().await;
}

/// G8: answers that pages do not take are counted, the base64 of them too; while others wait, who
/// takes nothing is cut.
#[tokio::test(flavor = "multi_thread")]
async fn pages_that_take_no_answers_keep_nobody_waiting() {
    let server = open_to_pages(|config| config.replies_mib = 16).await;
    for number in 0..6_u8 {
        server.wire().commit(vec![put("list", [number], vec![number; 1_000_000])]).await;
    }
    let request = v1::GetItemsRequest {
        collection: "list".to_owned(),
        keys: (0..3_u8).map(|number| vec![number].into()).collect(),
        ..Default::default()
    };
    let mut stalled = Vec::new();
    for number in 0..40 {
        let mut page = WebLine::to(server.address()).await;
        let coding = if number % 2 == 0 { Coding::Text } else { Coding::Binary };
        let headers = [("content-type", coding.media_type())];
        let body = coding.body(&request);
        let path = "/deltasync.v1.SyncService/GetItems";
        page.begin("POST", path, &headers, body.len()).await;
        page.send(&body).await;
        stalled.push(page);
    }
    until_true("an honest answer", async || {
        let mut page = WebLine::to(server.address()).await;
        page.call(PULL, Coding::Text, &[], &pull("list")).await.code == 0
    })
    .await;
    drop(stalled);
    server.stop().await;
}

/// G8: a head that does not end, a head without an end, a body that does not come, and one that is
/// larger than a message: each has its deadline or its limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_sends_badly_is_given_up() {
    let server = open_to_pages(|config| {
        config.first_request_timeout_s = 1;
        config.upload_timeout_s = 1;
    })
    .await;
    let mut silent = WebLine::to(server.address()).await;
    silent.send(b"POST / HTTP/1.1\r\nhost: ").await;
    assert!(is_cut(&mut silent).await, "it made no request in time");

    let mut endless = WebLine::to(server.address()).await;
    assert!(endless.send(b"POST / HTTP/1.1\r\nx: ").await);
    let (mut sent, filler) = (0, [b'x'; 4_096]);
    while endless.send(&filler).await && sent < 64 * 1024 * 1024 {
        sent += filler.len();
    }
    // What lies in the buffers of the system counts, but is nobody's memory for long.
    assert!(sent < 16 * 1024 * 1024, "{sent} bytes of a head were taken");
    assert!(is_cut(&mut endless).await, "it is not told what it would not read");

    for coding in [Coding::Binary, Coding::Text] {
        let headers = [("content-type", coding.media_type())];
        let mut slow = WebLine::to(server.address()).await;
        slow.begin("POST", PULL, &headers, 1_000_000).await;
        slow.send(&coding.body(&pull("list"))[..8]).await;
        let head = slow.head().await.expect("an answer");
        let deadline = (Code::DeadlineExceeded as i32).to_string();
        assert_eq!(head.header("grpc-status"), Some(deadline.as_str()), "{head:?}");

        let large = v1::PullRequest { client_id: "x".repeat(5_000_000), ..pull("list") };
        let mut page = WebLine::to(server.address()).await;
        let body = coding.body(&large);
        page.begin("POST", PULL, &headers, body.len()).await;
        page.send(&body).await;
        let head = page.head().await.expect("an answer");
        let limit = (Code::OutOfRange as i32).to_string();
        assert_eq!(head.header("grpc-status"), Some(limit.as_str()), "{head:?}");
    }
    let mut page = WebLine::to(server.address()).await;
    let bad = page.ask("POST", PULL, &[("content-type", Coding::Text.media_type())], b"!!!!").await;
    assert_eq!(bad.header("grpc-status"), Some("3"), "{bad:?}");
    server.stop().await;
}

/// A page that follows is told when the server stops, and one that does nothing does not delay it.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_told_of_the_end() {
    let server = open_to_pages(|_| {}).await;
    let mut idle = WebLine::to(server.address()).await;
    assert_eq!(idle.call(PULL, Coding::Binary, &[], &pull("list")).await.code, 0);
    let mut page = WebLine::to(server.address()).await;
    let request = subscribe("list", Duration::from_secs(1));
    page.begin_call(SUBSCRIBE, Coding::Binary, &[], &request).await;
    let mut frames = Frames::new(Coding::Binary);
    until_heard(&mut page, &mut frames, |event| matches!(event, Event::Accepted(..))).await;
    let stopping = Instant::now();
    server.begin_stop();
    let mut last = Vec::new();
    while let Some(part) = page.part().await {
        last.extend(frames.take(&part));
    }
    let Some(WebFrame::Trailers(trailers)) = last.pop() else { panic!("{last:?}") };
    assert!(trailers.contains("grpc-status: 0"), "{trailers}");
    let Some(WebFrame::Message(goodbye)) = last.pop() else { panic!("{last:?}") };
    let Event::Goodbye(goodbye) = event(&goodbye) else { panic!("{goodbye:?}") };
    assert_eq!(goodbye.reason, GoodbyeReason::Draining);
    server.ended().await.unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(5), "it took {:?}", stopping.elapsed());
    drop(idle);
}

/// G11: the settings, as people give them; one that makes no sense ends the start with its name.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_let_nobody_in_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    for (flags, said) in [
        (&["--grpc-web", "--grpc-web-origins=https://a.example,*"][..], "\"*\" would let"),
        (&["--grpc-web", "--grpc-web-origins=https://a.example/"], "not even a slash"),
        (&["--grpc-web-origins=https://a.example"], "is of no use without grpc_web"),
    ] {
        let mut refused = program.clone().with(flags).start();
        assert_eq!(refused.ended().await.code(), Some(2), "{}", refused.log());
        let log = refused.log();
        assert!(log.contains("grpc_web_origins: ") && log.contains(said), "{log}");
    }
    let text = r#"{ "data_dir": "d", "grpc_web": true, "grpc_web_origins": "http://a, http://b" }"#;
    let config: Config = serde_json::from_str(text).unwrap();
    assert_eq!(config.grpc_web_origins, ["http://a", "http://b"], "as a variable has it");
    let flags = ["--grpc-web", "--grpc-web-origins=https://a.example,https://b.example"];
    let mut serving = program.clone().with(&flags).start_serving().await;
    let mut page = WebLine::to(program.address()).await;
    let shown = [("origin", "https://b.example")];
    assert_eq!(page.call(PULL, Coding::Binary, &shown, &pull("list")).await.code, 0);
    serving.terminate();
    assert_eq!(serving.ended().await.code(), Some(0));
}
