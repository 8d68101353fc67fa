//! How spans are sent to a collector in this process: in what batches, how often again, and when
//! they are given up. Waits are shorter than those of a server; of none it is said that it was
//! short, only that it was not too short.

use std::sync::atomic::{AtomicUsize, Ordering};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;
use tonic::Response;

use super::*;
use crate::metrics::Sample;

/// After this, something counts as not coming.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than all waits and attempts of [`QUICK`] for one batch.
const REST: Duration = Duration::from_secs(3);

const QUICK: Pace = Pace {
    gather_max: Duration::from_millis(200),
    export_max: Duration::from_millis(500),
    retry_min: Duration::from_millis(50),
    flush_max: PATIENCE,
};

/// A collector that hangs is given up only because the server ends.
const PATIENT: Pace =
    Pace { export_max: Duration::from_secs(600), flush_max: Duration::from_millis(300), ..QUICK };

/// A collector that answers as it is told, an attempt after the other, and ever again the last.
struct Answering {
    answers: Vec<Answer>,
    seen: AtomicUsize,
    attempts: mpsc::Sender<Attempt>,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Takes,
    /// All but so many.
    TakesPartly(i64),
    Fails(Code),
    Hangs,
}

#[derive(Debug)]
struct Attempt {
    at: Instant,
    spans: usize,
}

/// One that sends spans to such a collector.
struct Sending {
    traces: Traces,
    metrics: Metrics,
    attempts: mpsc::Receiver<Attempt>,
    end: CancellationToken,
    tasks: TaskTracker,
    _answering: DropGuard,
}

#[tonic::async_trait]
impl TraceService for Answering {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.get_ref().resource_spans.iter().flat_map(|one| &one.scope_spans);
        let spans = scopes.map(|one| one.spans.len()).sum();
        let number = self.seen.fetch_add(1, Ordering::Relaxed);
        self.attempts.try_send(Attempt { at: Instant::now(), spans }).unwrap();
        let rejected_spans = match self.answers[number.min(self.answers.len() - 1)] {
            Answer::Takes => 0,
            Answer::TakesPartly(rejected) => rejected,
            Answer::Fails(code) => return Err(Status::new(code, "as told")),
            Answer::Hangs => return std::future::pending().await,
        };
        let partly = ExportTracePartialSuccess { rejected_spans, error_message: String::new() };
        Ok(Response::new(ExportTraceServiceResponse { partial_success: Some(partly) }))
    }
}

// === impl Sending ===

impl Sending {
    async fn to(answers: &[Answer], pace: Pace) -> Self {
        let (told, attempts) = mpsc::channel(100);
        let service = Answering { answers: answers.to_vec(), seen: 0.into(), attempts: told };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let answering = CancellationToken::new();
        let cut = answering.clone();
        TaskTracker::new().spawn(async move {
            let serving = tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::select! {
                () = cut.cancelled() => {}
                ended = serving => ended.unwrap(),
            }
        });
        let (metrics, end, tasks) = (Metrics::on(), CancellationToken::new(), TaskTracker::new());
        let config = Config { otlp_endpoint: Some(endpoint), ..Config::default() };
        let (traces, mut collector) = Collector::of(&config, &metrics).unwrap().unwrap();
        collector.pace = pace;
        tasks.spawn(collector.run(end.clone()));
        tasks.close();
        Self { traces, metrics, attempts, end, tasks, _answering: answering.drop_guard() }
    }

    fn spans(&self, count: usize) {
        for _ in 0..count {
            drop(self.traces.begin("deltasync.v1.SyncService/Pull", None));
        }
    }

    async fn attempt(&mut self) -> Attempt {
        let attempt = timeout(PATIENCE, self.attempts.recv()).await;
        attempt.expect("an attempt").expect("the collector is there")
    }

    /// No attempt comes any more.
    async fn rests(&mut self) {
        let attempt = timeout(REST, self.attempts.recv()).await;
        assert!(attempt.is_err(), "{attempt:?}");
    }

    /// The server ends.
    async fn ends(&self) {
        self.end.cancel();
        timeout(PATIENCE, self.tasks.wait()).await.expect("its end");
    }

    /// How many spans were sent, dropped, refused.
    fn counted(&self) -> [usize; 3] {
        let page = self.metrics.render(&Sample::default());
        ["sent", "dropped", "refused"].map(|result| {
            let name = format!("deltasync_spans_total{{result=\"{result}\"}} ");
            let value = page.lines().find_map(|line| line.strip_prefix(&name));
            value.unwrap().parse().unwrap()
        })
    }
}

/// What has gathered for a moment is one batch, which has a bound; and each span is sent once.
#[tokio::test(flavor = "multi_thread")]
async fn batches_are_bounded() {
    let mut sending = Sending::to(&[Answer::Takes], QUICK).await;
    let began = Instant::now();
    sending.spans(3);
    let first = sending.attempt().await;
    assert_eq!(first.spans, 3);
    assert!(first.at.duration_since(began) >= QUICK.gather_max, "it did not wait for more");
    sending.spans(1_100);
    let mut batches = Vec::new();
    while batches.iter().sum::<usize>() < 1_100 {
        batches.push(sending.attempt().await.spans);
    }
    assert!(batches.iter().all(|spans| *spans <= 512), "{batches:?}");
    sending.rests().await;
    assert_eq!(sending.counted(), [1_103, 0, 0]);
}

/// What fails is tried five times in all, ever later, and given up then: what is newer is sent.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_bounded() {
    for fails in [Answer::Fails(Code::Unavailable), Answer::Hangs] {
        let answers = [fails, fails, fails, fails, fails, Answer::Takes];
        let mut sending = Sending::to(&answers, QUICK).await;
        sending.spans(2);
        let mut last = sending.attempt().await;
        for wait in [1, 2, 4, 8].map(|times| times * QUICK.retry_min) {
            let next = sending.attempt().await;
            assert_eq!(next.spans, 2, "{fails:?}");
            assert!(next.at.duration_since(last.at) >= wait, "{fails:?}: {last:?}, {next:?}");
            last = next;
        }
        sending.rests().await;
        assert_eq!(sending.counted(), [0, 2, 0], "{fails:?}");
        sending.spans(1);
        assert_eq!(sending.attempt().await.spans, 1, "{fails:?}");
        sending.ends().await;
        assert_eq!(sending.counted(), [1, 2, 0], "{fails:?}");
    }
}

/// What the collector does not want is not sent again, and counted as that.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_not_sent_again() {
    let answers = [Answer::Fails(Code::InvalidArgument), Answer::TakesPartly(2), Answer::Takes];
    let mut sending = Sending::to(&answers, QUICK).await;
    for (spans, counted) in [(3, [0, 0, 3]), (5, [3, 0, 5])] {
        sending.spans(spans);
        assert_eq!(sending.attempt().await.spans, spans);
        sending.rests().await;
        assert_eq!(sending.counted(), counted);
    }
}

/// At the end what is left is sent at once and completely, also what does not fit in one batch.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_sends_what_is_left() {
    let sending = Sending::to(&[Answer::Takes], QUICK).await;
    sending.spans(1_500);
    sending.ends().await;
    assert_eq!(sending.counted(), [1_500, 0, 0]);
}

/// If that fails it is tried once a batch, and what cannot be sent is counted: nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_no_collector() {
    let cases = [
        (Answer::Fails(Code::Unavailable), QUICK, 2),
        (Answer::Hangs, QUICK, 2),
        (Answer::Hangs, PATIENT, 1),
    ];
    for (fails, pace, attempts_max) in cases {
        let mut sending = Sending::to(&[fails], pace).await;
        sending.spans(700);
        sending.ends().await;
        assert_eq!(sending.counted(), [0, 700, 0], "{fails:?}");
        sending.attempts.close();
        let attempts = std::iter::from_fn(|| sending.attempts.try_recv().ok()).count();
        assert!(attempts <= attempts_max, "{fails:?}: {attempts} attempts");
    }
}

/// A collector that comes and goes fills no log.
#[test]
fn what_was_said_is_not_said_again_soon() {
    let mut said = Said::default();
    let begin = Instant::now();
    assert!(!said.taken(), "nothing was wrong");
    assert!(said.not_taken(begin), "the first time");
    for second in 1..600 {
        assert!(!said.not_taken(begin + Duration::from_secs(second)));
    }
    assert!(said.taken() && !said.taken(), "once");
    assert!(!said.not_taken(begin + Duration::from_secs(599)), "soon again");
    assert!(said.not_taken(begin + SAID_AGAIN));
}

/// What may pass is tried again, what is refused is not.
#[test]
fn only_what_may_pass_is_tried_again() {
    for (code, again) in [
        (Code::Unavailable, true),
        (Code::ResourceExhausted, true),
        (Code::DeadlineExceeded, true),
        (Code::InvalidArgument, false),
        (Code::Unimplemented, false),
        (Code::Unauthenticated, false),
    ] {
        let sent = Sent::of(&Status::new(code, "a secret of the collector"));
        assert_eq!(matches!(sent, Sent::Failed(_)), again, "{code}");
        let (Sent::Failed(told) | Sent::Refused(told)) = sent else { panic!("{code}") };
        assert!(!told.contains("secret"), "{told}");
    }
    let broken = Status::from_error(Box::new(std::io::Error::other("reset by peer")));
    assert!(matches!(Sent::of(&broken), Sent::Failed(told) if told.contains("reset by peer")));
}
