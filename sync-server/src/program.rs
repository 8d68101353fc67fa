//! The program around the server: configuration, logging, the store, signals, exit codes. A
//! library function, so that tests can run exactly what users run.

use std::error::Error;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::allocator;
use crate::cli::{Cli, Command};
use crate::config::{Config, LogFormat};
use crate::engine::ledger::Ledger;
use crate::metrics::Metrics;
use crate::offline;
use crate::rpc::reads::{self, READS_MAX};
use crate::security::Security;
use crate::server::{Listeners, ServeError, serve_measured};
use crate::store::measured::Measured;
use crate::store::{Store, StoreError};
use crate::verify::starting;

/// Threads for what blocks: the reads, and a few that must never wait for reads.
const BLOCKING_THREADS: usize = READS_MAX + 4;

/// What is left of a runtime that calls still hold on to gets this long.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

/// A store that was checked, and does not hold together.
#[derive(Debug, thiserror::Error)]
#[error("{count} finding(s): restore a backup, and look at disk and memory")]
pub(crate) struct Unsound {
    pub(crate) count: u64,
}

/// A store that was not opened.
#[derive(Debug, thiserror::Error)]
#[error("the store in {data_dir} cannot be used")]
struct StoreRefused {
    data_dir: String,
    #[source]
    source: StoreError,
}

/// How the program ended, as an exit code. `--help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Stopped = 0,
    CouldNotStart = 1,
    Configuration = 2,
    StoreRefused = 3,
    StorageFailed = 4,
    GraceExceeded = 5,
    WriterHangs = 6,
    Findings = 7,
}

/// Runs the program with the arguments and environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    allocator::tidy_often();
    let cli = Cli::parse();
    let json = cli.command.as_ref().is_some_and(Command::json);
    let config = match cli.load() {
        Ok(config) => config,
        Err(error) => return fail(Exit::Configuration, &error, json),
    };
    if let Some(format) = cli.print_config {
        let text = match cli.print(format) {
            Ok(text) => text,
            Err(error) => return fail(Exit::Configuration, &error, json),
        };
        return match write!(std::io::stdout(), "{text}") {
            Ok(()) => ExitCode::from(Exit::Stopped as u8),
            Err(error) => fail(Exit::CouldNotStart, &error, json),
        };
    }
    start_logging(&config);
    let ended = match &cli.command {
        None => run(&config),
        Some(command) => offline::carry_out(command, &config),
    };
    match ended {
        Ok(()) => ExitCode::from(Exit::Stopped as u8),
        Err((exit, error)) => fail(exit, error.as_ref(), json),
    }
}

pub(crate) type Ended = (Exit, Box<dyn Error>);

fn run(config: &Config) -> Result<(), Ended> {
    // Before the store is opened, which can take long. What is in force is read again then.
    if let Err(error) = Security::load(config) {
        return Err((Exit::Configuration, ServeError::Config(error).into()));
    }
    let refused = |error| refused(&config.data_dir, error);
    let progress = |rows: u64| tracing::info!(rows, "checking the store");
    let opened = starting::open(&config.data_dir, &config.store(), &progress);
    let (store, checked) = opened.map_err(refused)?;
    let metrics = if config.metrics_listen.is_some() { Metrics::on() } else { Metrics::off() };
    let store = Measured::new(store, metrics.clone());
    let ledger = Ledger::over(store, config.ledger(), checked).map_err(refused)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(reads::workers())
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|error| (Exit::CouldNotStart, error.into()))?;
    let ended = runtime.block_on(listen_and_serve(ledger, metrics, config));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    ended
}

async fn listen_and_serve<S: Store>(
    ledger: Ledger<S>,
    metrics: Metrics,
    config: &Config,
) -> Result<(), Ended> {
    let (listener, address) = bind(config.listen).await?;
    let admin = bind_if_asked(config.admin_listen).await?;
    if let Some((_, address)) = &admin {
        tracing::info!(%address, "serving operators");
    }
    let page = bind_if_asked(config.metrics_listen).await?;
    if let Some((_, address)) = &page {
        tracing::info!(%address, path = "/metrics", "showing metrics");
    }
    let stop = CancellationToken::new();
    let signals = stop.clone();
    let watching = tokio_util::task::TaskTracker::new();
    watching.spawn(async move {
        stop_signal().await;
        signals.cancel();
    });
    warn_of_danger(config);
    tracing::info!(%address, data_dir = %config.data_dir.display(), "serving");
    let only_listener = |(listener, _)| listener;
    let (admin, page) = (admin.map(only_listener), page.map(only_listener));
    let listeners = Listeners { calls: listener, admin, page };
    serve_measured(listeners, ledger, config, metrics, stop).await.map_err(|error| {
        let exit = match &error {
            ServeError::Config(_) => Exit::Configuration,
            ServeError::System { .. } => Exit::CouldNotStart,
            ServeError::Store(_) => Exit::StorageFailed,
            ServeError::Grace(_) => Exit::GraceExceeded,
            ServeError::WriterHangs(_) | ServeError::StoreHangs(_) => Exit::WriterHangs,
        };
        (exit, error.into())
    })?;
    tracing::info!("stopped");
    Ok(())
}

/// Says loudly what is only good for development, or of no use.
fn warn_of_danger(config: &Config) {
    if config.grpc_web && config.grpc_web_origins.is_empty() {
        tracing::warn!("grpc_web is on, but no page may call: grpc_web_origins is empty");
    }
    if config.tokens.is_empty() && config.policy_file.is_none() {
        tracing::warn!(
            "no tokens and no policy are configured: everybody who connects may do everything"
        );
    }
    let in_plain = config.listens().filter(|_| config.tls_cert_file.is_none());
    for (setting, address) in in_plain.filter(|(_, address)| !address.ip().is_loopback()) {
        tracing::warn!(
            setting,
            %address,
            "PLAINTEXT ANYWHERE: traffic is not encrypted, and the address is not loopback: \
             everybody on the way can read tokens and contents"
        );
    }
    if let Some(address) = config.metrics_listen.filter(|address| !address.ip().is_loopback()) {
        tracing::warn!(
            setting = "metrics_listen",
            %address,
            "PLAINTEXT ANYWHERE: the page of metrics is never encrypted, and the address is not \
             loopback: everybody on the way can read how much is done here, and no names"
        );
    }
}

async fn bind_if_asked(
    wanted: Option<SocketAddr>,
) -> Result<Option<(TcpListener, SocketAddr)>, Ended> {
    match wanted {
        Some(wanted) => bind(wanted).await.map(Some),
        None => Ok(None),
    }
}

async fn bind(wanted: SocketAddr) -> Result<(TcpListener, SocketAddr), Ended> {
    let could_not = |error: std::io::Error| {
        (Exit::CouldNotStart, format!("cannot listen on {wanted}: {error}").into())
    };
    let listener = TcpListener::bind(wanted).await.map_err(could_not)?;
    let address = listener.local_addr().map_err(could_not)?;
    Ok((listener, address))
}

/// Waits for SIGTERM, SIGINT, or SIGHUP of a terminal that was closed.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals.map(signal) else {
        tracing::error!("signals cannot be heard; the server stops only when killed");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
}

fn start_logging(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log).unwrap_or_default();
    let colour = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colour)
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// A store that cannot be opened: damaged or wrong is not the same as busy.
pub(crate) fn refused(data_dir: &Path, error: StoreError) -> Ended {
    let exit = match &error {
        StoreError::InUse { .. }
        | StoreError::Full { .. }
        | StoreError::NoRoom { .. }
        | StoreError::Missing { .. }
        | StoreError::NotEmpty { .. }
        | StoreError::Io { .. } => Exit::CouldNotStart,
        StoreError::NewerFormat { .. }
        | StoreError::WentBack { .. }
        | StoreError::Damaged { .. } => Exit::StoreRefused,
    };
    (exit, StoreRefused { data_dir: data_dir.display().to_string(), source: error }.into())
}

/// Work on a store that was opened did not succeed: a disk that fails then is a reason of its own.
pub(crate) fn worked(data_dir: &Path, error: StoreError) -> Ended {
    let failed = matches!(error, StoreError::Io { .. });
    let (exit, error) = refused(data_dir, error);
    (if failed { Exit::StorageFailed } else { exit }, error)
}

/// Says why, with all causes, where a person looks first.
fn fail(exit: Exit, error: &dyn Error, json: bool) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    let said = if json {
        serde_json::json!({ "error": text, "exit_code": exit as u8 }).to_string()
    } else {
        format!("sync-server: {text}")
    };
    // Nothing is left to do about a closed stderr.
    let _told = writeln!(std::io::stderr(), "{said}");
    ExitCode::from(exit as u8)
}
