//! Assembles a server around an open store, and takes it down again. Everything that it uses
//! comes in from outside: the listener, the store, the configuration, the end.
//!
//! ```text
//! stop ─► health NOT_SERVING ─► Goodbye on streams ─► open calls finish, or the grace ends
//!      ─► connections close, or are cut ─► the writer finishes what is queued, or its deadline
//!      passes ─► the store is closed
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures::future::FusedFuture as _;
use futures::{FutureExt as _, StreamExt as _};
use sync_proto::v1::admin_service_server::AdminServiceServer;
use sync_proto::v1::sync_service_server::SyncServiceServer;
use sync_proto::v1::write_service_server::WriteServiceServer;
use sync_proto::{DESCRIPTORS, limits::MESSAGE_BYTES_MAX};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::transport::server::Router;
use tonic_health::server::HealthReporter;
use tower::layer::util::{Identity, Stack};

use crate::auth::Access;
use crate::budget::WAITING_UPLOADS_MAX;
use crate::config::Config;
use crate::engine::herald::Herald;
use crate::engine::hub::Hub;
use crate::engine::ledger::Ledger;
use crate::engine::writer::Writer;
use crate::metrics::Metrics;
use crate::rpc::admin::AdminRpc;
use crate::rpc::ending::Ending;
use crate::rpc::loads::LoadBreaker;
use crate::rpc::places::Places;
use crate::rpc::reads::Reads;
use crate::rpc::storing::Storing;
use crate::rpc::sync::SyncRpc;
use crate::rpc::write::WriteRpc;
use crate::rpc::{
    AGE_SPREAD, BACKUPS_MAX, BRIEF_READS_MAX, Context, LOAD_READS_MAX, StreamSettings,
    VERIFICATIONS_MAX,
};
use crate::security::origins::Origins;
use crate::security::{Security, SecurityError};
use crate::store::{Store, StoreError};
use crate::traces::Traces;

use self::about::About;
use self::calls::CallsLayer;
use self::collector::Collector;
use self::connections::Bounds;
use self::ending::{
    NOTICE_MAX, STORE_CLOSE_MAX, WRITER_STOP_MAX, beside, close_store, last_words, stop_writer,
};
use self::line::Tls;
use self::measuring::Shown;
use self::peers::Peers;
use self::reach::Reach;
use self::upload::UploadBounds;
use self::web::WebLayer;

mod about;
mod calls;
mod collector;
mod connections;
mod ending;
mod framing;
mod gather;
mod leave;
pub(crate) mod line;
mod measuring;
mod peers;
mod reach;
mod reply;
mod spans;
mod upload;
mod web;

/// HTTP/2 streams of one connection: more than any one client needs, far from harm.
const CONNECTION_STREAMS_MAX: u32 = 1_024;
/// What a peer may send of one request before the server takes any of it: 5 MB/s over 25 ms.
const REQUEST_WINDOW_BYTES: u32 = 128 * 1024;
/// Likewise, of all requests of a connection: what it costs when none is taken. Larger than the
/// windows of all that may wait for room, or those could keep the others from getting on.
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const _: () =
    assert!(WAITING_UPLOADS_MAX < (CONNECTION_WINDOW_BYTES / REQUEST_WINDOW_BYTES) as usize);
/// Resets of one connection that we caused, or that wait to be taken, before it is closed: the
/// protection against rapid-reset floods, which tonic's default builder switches off.
const RESETS_MAX: usize = 256;
/// Size of all request headers.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// A peer that is silent for this long is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A peer that does not answer within this is gone.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server is there for. Health and reflection are about it.
const SERVICES: [&str; 3] = [
    sync_proto::v1::sync_service_server::SERVICE_NAME,
    sync_proto::v1::write_service_server::SERVICE_NAME,
    sync_proto::v1::admin_service_server::SERVICE_NAME,
];

/// The name of the server as a whole, for those who ask for its health.
const WHOLE: &str = "";

/// Why a server ended other than as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// What the configuration says of access makes no sense.
    #[error("configuration")]
    Config(#[source] SecurityError),
    /// The network or the system failed.
    #[error("the server could not {doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Storage failed.
    #[error("storage failed")]
    Store(#[from] StoreError),
    /// The disk did not take what was queued: it is not known whether it ever will.
    #[error("the writer did not end within {0:?}; the disk hangs")]
    WriterHangs(Duration),
    /// The store was not closed: what was acknowledged is on disk, and the next start brings it in
    /// order.
    #[error("the store was not closed within {0:?}; the disk hangs")]
    StoreHangs(Duration),
    /// Calls were still open when the grace period ended.
    #[error("calls were still open after {0:?} of grace")]
    Grace(Duration),
}

/// Where the server is reached.
#[derive(Debug)]
pub struct Listeners {
    /// Where callers come in.
    pub calls: TcpListener,
    /// Where operators do: all services, with a few connections of their own, and only here
    /// `AdminService`. `None` = with the callers.
    pub admin: Option<TcpListener>,
    /// Where Prometheus asks; `None` = nowhere.
    pub page: Option<TcpListener>,
}

/// Serves `ledger` on `listener` until `stop` is cancelled or storage fails.
pub async fn serve<S: Store>(
    listener: TcpListener,
    ledger: Ledger<S>,
    config: &Config,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let listeners = Listeners { calls: listener, admin: None, page: None };
    serve_measured(listeners, ledger, config, Metrics::off(), stop).await
}

/// The same on all of `listeners`, and counts what it does.
pub async fn serve_measured<S: Store>(
    listeners: Listeners,
    ledger: Ledger<S>,
    config: &Config,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let security = Security::load(config).map_err(ServeError::Config)?;
    let access = security.access();
    let (tls, pages) = (security.tls(), security.pages());
    let ledger = Arc::new(ledger);
    let hub = Arc::new(Hub::default());
    let fatal = CancellationToken::new();
    let (traces, exporting) = Exporting::start(config, &metrics)?;
    let (thread, writes) =
        Writer::start(Arc::clone(&ledger), Arc::clone(&hub), metrics.clone(), fatal.clone())
            .map_err(|error| system("start the writer", error))?;
    let herald = Herald::start(Arc::clone(&ledger), Arc::clone(&hub), fatal.clone());
    let herald = herald.map_err(|error| system("start the herald", error))?;
    let tasks = TaskTracker::new();
    let context = Context {
        ledger: Arc::clone(&ledger),
        hub,
        reads: Reads::of_this_runtime(tasks.clone()),
        brief_reads: Arc::new(Semaphore::new(BRIEF_READS_MAX)),
        backups: Arc::new(Semaphore::new(BACKUPS_MAX)),
        writes,
        metrics,
        streams: streams(config),
        load_reads: Arc::new(Semaphore::new(LOAD_READS_MAX)),
        pacing: config.pacing(),
        storing: Storing::default(),
        loads: LoadBreaker::default(),
        clients: Arc::default(),
        verifications: Arc::new(Semaphore::new(VERIFICATIONS_MAX)),
        ending: Ending::default(),
        drain: CancellationToken::new(),
        tasks,
    };
    // Files are looked at until the server drains, or ends however else.
    let unwatch = context.drain.child_token();
    let _unwatched = unwatch.clone().drop_guard();
    context.tasks.spawn(security.watch(context.metrics.clone(), unwatch));
    let door = Door { listeners, access, tls, pages, traces };
    let served = Box::pin(serve_calls(door, Arc::new(context), &fatal, config, stop)).await;
    // Whatever became of the calls: what was accepted is written before the store is closed. A
    // failure of storage is told first, because it is the reason of others. The last spans are sent
    // meanwhile.
    let (written, ()) = tokio::join!(stop_writer(thread, WRITER_STOP_MAX), exporting.end());
    drop(herald);
    let closed = close_store(ledger, STORE_CLOSE_MAX).await;
    written.and(closed).and(served)
}

/// The task that sends spans, if there is one. Dropping it ends it too, without waiting.
struct Exporting {
    end: DropGuard,
    tasks: TaskTracker,
}

/// Where callers come in, and who is let in.
struct Door {
    listeners: Listeners,
    access: Access,
    tls: Option<Tls>,
    /// Pages that may call; `None` = only gRPC is spoken.
    pages: Option<Origins>,
    traces: Traces,
}

/// Serves calls until `stop` or `fatal` is cancelled or a call asks for the end, then drains them.
async fn serve_calls<S: Store>(
    door: Door,
    context: Arc<Context<S>>,
    fatal: &CancellationToken,
    config: &Config,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let (mut health, health_service) = about::health();
    let calls = calls_layer(&context, config, door.access, door.traces);
    let web = WebLayer::new(door.pages, context.metrics.clone());
    let router = router(&context, config, calls.clone(), web)?.add_service(health_service);
    set_serving(&health, true).await;

    let Listeners { calls: listener, admin, page } = door.listeners;
    let mut bounds = bounds(config, door.tls, context.metrics.clone());
    let admin = admin.map(|admin| (admin, bounds.of_operators()));
    let of_use = bounds.of_use.clone();
    // However this ends, and also if it is dropped: no connection outlives it.
    let cut = bounds.cut.clone().drop_guard();
    let shown = page.map(|page| Shown::start(page, &context, &bounds));
    let incoming = connections::accept_all(listener, bounds);
    let incoming = match admin {
        None => incoming.left_stream(),
        Some((listener, bounds)) => {
            let operators = connections::accept_all(listener, bounds);
            futures::stream::select(incoming, operators).right_stream()
        }
    };
    let closing = CancellationToken::new();
    let closed = closing.clone().cancelled_owned();
    let mut serving = std::pin::pin!(router.serve_with_incoming_shutdown(incoming, closed));
    tokio::select! {
        biased;
        () = fatal.cancelled() => {}
        () = stop.cancelled() => {}
        () = context.ending.asked() => {}
        // Connections are accepted for ever, so this is a failure; it must not be asked again.
        ended = &mut serving => return ended.map_err(|error| system("serve", error)),
    }

    let grace = context.ending.grace(Duration::from_secs(config.grace_s));
    tracing::info!(grace_s = grace.as_secs(), "draining");
    set_serving(&health, false).await;
    context.drain.cancel();
    context.tasks.close();
    calls.open.close();
    closing.cancel();
    let answered = async {
        calls.open.wait().await;
        context.tasks.wait().await;
    };
    // Connections learn of the end while this is driven, but are no reason to wait: a silent peer
    // would keep its own open for ever.
    let mut serving = serving.fuse();
    let end = Instant::now() + grace;
    let answered = tokio::time::timeout_at(end, beside(&mut serving, answered)).await;
    // Whoever watches health has been told the last status.
    end_watches(&mut health).await;
    if answered.is_ok() {
        last_words(&mut serving, &of_use, end).await;
    }
    drop(cut);
    if !serving.is_terminated() && tokio::time::timeout(NOTICE_MAX, serving).await.is_err() {
        tracing::debug!("connections are still open");
    }
    if let Some(shown) = shown {
        shown.end().await;
    }
    answered.map_err(|_| ServeError::Grace(grace))
}

fn calls_layer<S: Store>(
    context: &Context<S>,
    config: &Config,
    access: Access,
    traces: Traces,
) -> CallsLayer {
    let uploads = UploadBounds {
        patience: Duration::from_secs(config.upload_timeout_s),
        drain: context.drain.clone(),
        ending: context.ending.clone(),
        grace: Duration::from_secs(config.grace_s),
    };
    let about = About::new(uploads.patience);
    let metrics = context.metrics.clone();
    CallsLayer { open: TaskTracker::new(), access, about, metrics, traces, uploads }
}

// === impl Exporting ===

impl Exporting {
    fn start(config: &Config, metrics: &Metrics) -> Result<(Traces, Self), ServeError> {
        let (end, tasks) = (CancellationToken::new(), TaskTracker::new());
        let collector = Collector::of(config, metrics);
        let collector = collector.map_err(|error| system("send spans", error))?;
        let traces = collector.map(|(traces, collector)| {
            tasks.spawn(collector.run(end.clone()));
            traces
        });
        tasks.close();
        Ok((traces.unwrap_or_default(), Self { end: end.drop_guard(), tasks }))
    }

    /// Ends it, and waits until what is left was sent, or not for long.
    async fn end(self) {
        self.end.disarm().cancel();
        self.tasks.wait().await;
    }
}

fn bounds(config: &Config, tls: Option<Tls>, metrics: Metrics) -> Bounds {
    Bounds {
        connections_max: config.connections_max,
        slots: Arc::new(Semaphore::new(config.connections_max)),
        peers: Peers::new(config.connections_per_peer_max),
        first_request_within: Duration::from_secs(config.first_request_timeout_s),
        of_use: TaskTracker::new(),
        cut: CancellationToken::new(),
        tls,
        http_1: config.grpc_web,
        metrics,
        budgets: config.budgets(),
        life_max: life_max(config),
        reach: Reach::All,
        numbers: Arc::default(),
    }
}

/// A connection that is old takes no new calls. Those on it end by themselves, streams because they are
/// old, too; this much later nothing is left that is worth waiting for.
fn life_max(config: &Config) -> Duration {
    let stream = Duration::from_secs(config.stream_age_max_s).mul_f64(1.0 + AGE_SPREAD);
    let graces =
        Duration::from_secs(config.grace_s) + Duration::from_millis(config.goodbye_jitter_ms);
    Duration::from_secs(config.connection_age_max_s) + stream + graces
}

fn streams(config: &Config) -> StreamSettings {
    StreamSettings {
        places: Places::new(config.places()),
        age_max: Duration::from_secs(config.stream_age_max_s),
        goodbye_jitter: Duration::from_millis(config.goodbye_jitter_ms),
        notice_interval: Duration::from_millis(config.notice_interval_ms),
    }
}

/// What every call passes through, the last first.
type Layers = Stack<CallsLayer, Stack<WebLayer, Identity>>;

fn router<S: Store>(
    context: &Arc<Context<S>>,
    config: &Config,
    calls: CallsLayer,
    web: WebLayer,
) -> Result<Router<Layers>, ServeError> {
    let sync = SyncServiceServer::new(SyncRpc::new(Arc::clone(context)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let write = WriteServiceServer::new(WriteRpc::new(Arc::clone(context)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin = AdminServiceServer::new(AdminRpc::new(Arc::clone(context)));
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection = config.reflection.then(|| builder().build_v1()).transpose();
    let reflection = reflection.map_err(|error| system("describe itself", error))?;
    let reflection = reflection.map(|it| it.max_decoding_message_size(about::REQUEST_BYTES_MAX));
    let alpha = config.reflection.then(|| builder().build_v1alpha()).transpose();
    let alpha = alpha.map_err(|error| system("describe itself", error))?;
    let alpha = alpha.map(|it| it.max_decoding_message_size(about::REQUEST_BYTES_MAX));
    Ok(tonic::transport::Server::builder()
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .initial_stream_window_size(REQUEST_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_local_error_reset_streams(Some(RESETS_MAX))
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_connection_age(Duration::from_secs(config.connection_age_max_s))
        .accept_http1(config.grpc_web)
        .layer(web)
        .layer(calls)
        .add_service(sync)
        .add_service(write)
        .add_service(admin)
        .add_optional_service(reflection)
        .add_optional_service(alpha))
}

/// Sets the health of the whole server and of each service.
async fn set_serving(health: &HealthReporter, serving: bool) {
    let status = if serving {
        tonic_health::ServingStatus::Serving
    } else {
        tonic_health::ServingStatus::NotServing
    };
    for service in SERVICES.into_iter().chain([WHOLE]) {
        health.set_service_status(service, status).await;
    }
}

/// Ends the streams of those who watch health; they have been told the last status.
async fn end_watches(health: &mut HealthReporter) {
    for service in SERVICES.into_iter().chain([WHOLE]) {
        health.clear_service_status(service).await;
    }
}

fn system(
    doing: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ServeError {
    ServeError::System { doing, source: source.into() }
}

#[cfg(test)]
mod tests;
