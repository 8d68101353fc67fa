//! The command line: the flags of the server, and the commands that work on a store while no
//! server has it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::config::{Config, ConfigError, LogFormat};

/// The deltasync server: keeps versioned collections and their change logs, and serves them by
/// pull and push.
///
/// Each setting may be a flag, an environment variable (`SYNC_SERVER_` and the name of the flag,
/// e.g. `SYNC_SERVER_DATA_DIR`) or a line of the configuration file (`data_dir = "..."`); flags
/// win over the environment, the environment over the file. Tokens (`[[tokens]]`) are only read
/// from the file; `SYNC_SERVER_TOKENS` is an error. Any other variable with the prefix is an error
/// too, except those that Kubernetes sets for a Service named sync-server: `SYNC_SERVER_PORT`,
/// `SYNC_SERVER_PORT_*`, `SYNC_SERVER_SERVICE_HOST`, `SYNC_SERVER_SERVICE_PORT` and
/// `SYNC_SERVER_SERVICE_PORT_*` are ignored.
///
/// Without a command it serves. The commands need the data directory for themselves: they refuse
/// to work while a server has it.
///
/// Exit codes: 0 stopped as asked; 1 could not start; 2 wrong usage or configuration; 3 the store
/// is damaged, too new, or went back; 4 storage failed while running; 5 did not stop within the
/// grace period; 6 the disk did not take the last writes in time, whether they happened is unknown, or
/// the store was not closed in time.
#[derive(Debug, Parser)]
#[command(
    name = "sync-server",
    version,
    verbatim_doc_comment,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "SYNC_SERVER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print the configuration in force, without secrets, and exit: as one JSON object, or as a file
    /// that `--config` takes, with where each value comes from (`--print-config=toml`).
    #[arg(
        long,
        value_name = "FORMAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "json"
    )]
    pub print_config: Option<PrintFormat>,
    #[command(flatten)]
    flags: Flags,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How the configuration is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PrintFormat {
    /// One object.
    Json,
    /// A file, with the origin of each value.
    Toml,
}

/// What works on a store without serving it.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the store anew, so that its files shrink: they never do while it serves.
    ///
    /// Checks every row, copies the store beside itself, checks the copy, and exchanges the two.
    /// May be killed at any moment: the store is whole, and the next start removes what is left.
    /// Needs room for the copy; `--free-disk-min-mib` of the disk stay free. The store keeps its
    /// identity, every row and its place in time: clients notice nothing.
    ///
    /// Exit codes: 0 done; 1 not done: a server has the store, there is none, or the disk has not
    /// the room; 2 wrong usage or configuration; 3 the store is damaged, too new, or went back;
    /// 4 storage failed meanwhile. The store is whole in every case but 3.
    #[command(verbatim_doc_comment)]
    Compact(Offline),
    /// Check every invariant of a store, row by row, and name whatever does not fit.
    ///
    /// Changes nothing: the store is copied aside first, because its engine writes whenever it
    /// opens one, and the copy is removed afterwards. Needs the room for it; `--free-disk-min-mib`
    /// of the disk stay free. Keys of items appear in what is found.
    ///
    /// Exit codes: 0 everything fits; 1 not checked: a server has the store, there is none, or the
    /// disk has not the room; 2 wrong usage or configuration; 3 a newer program wrote it; 4 the
    /// disk failed meanwhile; 7 something does not fit.
    #[command(verbatim_doc_comment)]
    Verify(Verify),
    /// Build a store from a backup that `syncctl backup` took.
    ///
    /// The data directory must be empty or missing. Reads the whole backup first and refuses it if a
    /// single byte is not what was written; builds the store beside its place, checks every row of
    /// it, and only then puts it there. Versions, items, tombstones and names are those of the
    /// backup; every collection gets a new epoch, so clients start over or repair what differs.
    /// Idempotency keys and the progress of imports are not kept.
    ///
    /// Exit codes: 0 done; 1 not done: the directory is not empty, a server has it, the file cannot
    /// be read, or the disk has not the room; 2 wrong usage or configuration; 3 the backup is
    /// damaged, not complete, or too new; 4 storage failed meanwhile.
    #[command(verbatim_doc_comment)]
    Restore(Restore),
}

/// How to restore a store.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup.
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    #[command(flatten)]
    pub(crate) offline: Offline,
}

/// How to verify a store.
#[derive(Debug, Args)]
pub struct Verify {
    /// Copy the store into this directory instead of the data directory: another disk, perhaps.
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) offline: Offline,
}

/// How a command works on a store.
#[derive(Debug, Args)]
pub struct Offline {
    /// Configuration file (TOML), the same as the server's: only what concerns the store counts.
    #[arg(long, value_name = "FILE", env = "SYNC_SERVER_CONFIG")]
    config: Option<PathBuf>,
    /// Tell the result, or the error, as one JSON object; show no progress.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    flags: StoreFlags,
}

/// Settings as flags; what is not given is left to the environment and the file.
#[derive(Debug, Default, Args, Serialize)]
struct Flags {
    #[command(flatten)]
    #[serde(flatten)]
    store: StoreFlags,
    /// Address to listen on; port 0 picks a free one. Default 127.0.0.1:7411.
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// Another address, for operators: `AdminService` is served there and nowhere else, the other services
    /// there too. Port 0 picks a free one and logs it. Default: none, `AdminService` is served with
    /// the others.
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_listen: Option<SocketAddr>,
    /// Address for Prometheus to scrape, `GET /metrics`, without encryption or tokens; port 0 picks
    /// a free one and logs it. Default: none, nothing is measured.
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics_listen: Option<SocketAddr>,
    /// Forget tombstones older than this, in seconds. Default 2592000 (30 days).
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tombstone_age_max_s: Option<u64>,
    /// Keep at most this many tombstones per collection, whatever their age. Default 1000000.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tombstones_max: Option<u64>,
    /// How long an idempotency key protects a retry, in seconds. 1..2592000, default 600.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_window_s: Option<u64>,
    /// Keep at most this many idempotency keys. Default 100000.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_keys_max: Option<u64>,
    /// Update the inbox of every follower of a collection that has at most this many; the others
    /// poll. 0..2048, default 512.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    write_audience_max: Option<u64>,
    /// Let followers poll a collection that would update more inboxes than this in a second.
    /// 1..1000000, default 2000.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    fan_out_per_s_max: Option<u64>,
    /// Keep to what was chosen by that rate for at least this long, in seconds. 0..3600, default 30.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    fan_out_dwell_s: Option<u64>,
    /// Tell a stream of an inbox at most once in this time that a collection moved which followers
    /// poll, in milliseconds. 10..60000, default 1000.
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    notice_interval_ms: Option<u64>,
    /// Forget a cursor that a client has not acknowledged for this long, in seconds.
    /// 1..3153600000, default 7776000 (90 days).
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ack_age_max_s: Option<u64>,
    /// Hold at most this many cursors for clients. At most 100000000, default 1000000.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    acks_max: Option<u64>,
    /// Connections at once; what comes beyond them is closed as soon as it is accepted.
    /// 1..1000000, default 4096.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    connections_max: Option<usize>,
    /// The same of those from one address; of IPv6, from one /64. 1..1000000, default 1024.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    connections_per_peer_max: Option<usize>,
    /// Close a connection that has not made a request by then, in seconds. 1..3600, default 10.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    first_request_timeout_s: Option<u64>,
    /// Memory for requests that arrive or are worked on, in MiB; one connection may use a quarter
    /// of it. More waits, at most 5 s. 16..65536, default 64.
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_mib: Option<u64>,
    /// Likewise, for answers that are made or have not been taken. 16..65536, default 64.
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    replies_mib: Option<u64>,
    /// Likewise, for messages of subscriptions that have not been taken; streams wait without an
    /// end. 16..65536, default 64.
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pages_mib: Option<u64>,
    /// Memory for answers to first loads and reconciliations that are made or have not been taken, in
    /// MiB: however many there are, other calls have theirs. 16..65536, default 32.
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    loads_mib: Option<u64>,
    /// End a request of which nothing comes within this, in seconds, or all of it slower than
    /// 16 KiB/s. 1..3600, default 10.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    upload_timeout_s: Option<u64>,
    /// Live subscription streams at once. 1..1000000, default 10000.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    streams_max: Option<usize>,
    /// Live subscription streams of one token's subject at once; without tokens, of one connection.
    /// 1..1000000, default 5000.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    streams_per_subject_max: Option<usize>,
    /// Targets on all live streams together. 1..100000000, default 200000.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    targets_max: Option<usize>,
    /// Likewise, on those of one token's subject; without tokens, of one connection.
    /// 1..100000000, default 100000.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    targets_per_subject_max: Option<usize>,
    /// Commits a second of one token's subject; without tokens, of one connection. Above it they are
    /// refused, imports slowed down. 0 = any number. 0..1000000000, default 0.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    commits_per_s_per_subject_max: Option<u64>,
    /// Likewise, mutations of commits. 0..1000000000, default 0.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    mutations_per_s_per_subject_max: Option<u64>,
    /// Who has written nothing may write what is allowed in this long at once, in seconds. 1..3600,
    /// default 10.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    commit_burst_s: Option<u64>,
    /// End streams older than this with Goodbye, in seconds. 1..31536000, default 3600.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_age_max_s: Option<u64>,
    /// Take no new calls on connections older than this, in seconds. 1..31536000, default 3600.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_age_max_s: Option<u64>,
    /// Spread the return of clients over this after a Goodbye, in milliseconds. At most 600000,
    /// default 5000.
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    goodbye_jitter_ms: Option<u64>,
    /// Time that open calls get when the server stops, in seconds. 1..300, default 10.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_s: Option<u64>,
    /// Who may do what (TOML): grants, tokens, who is revoked. Checked at the start, and taken up
    /// again within a second when it changes. Default: none.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_file: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    security: SecurityFlags,
    /// Offer gRPC reflection. Default true.
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    reflection: Option<bool>,
    /// Answer gRPC-Web too, also over HTTP/1.1: what pages in a browser speak. Default false.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_web: Option<bool>,
    /// Origins of the pages that may call so, with commas between them, each as a browser says it,
    /// e.g. `https://app.example`. Default: none, only callers that are no pages.
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_web_origins: Option<Vec<String>>,
    #[command(flatten)]
    #[serde(flatten)]
    traces: TraceFlags,
}

/// Settings of traces.
#[derive(Debug, Default, Args, Serialize)]
#[expect(clippy::struct_field_names, reason = "settings have these names everywhere")]
struct TraceFlags {
    /// Send spans of calls to the OpenTelemetry collector there (OTLP over gRPC), e.g.
    /// `http://127.0.0.1:4317`; empty = none. Default: none.
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    otlp_endpoint: Option<String>,
    /// So many of a thousand traces that begin here are sampled; of those that callers have begun,
    /// all that they sample. 0..1000, default 1000.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    otlp_sample_per_mille: Option<u32>,
    /// The server's `service.name` there. Default sync-server.
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    otlp_service_name: Option<String>,
}

/// Settings of credentials and of encryption. Files are taken up again within a second when they
/// change; one that makes no sense is refused, and what was in force stays.
#[derive(Debug, Default, Args, Serialize)]
struct SecurityFlags {
    /// Let in who shows a JWT that is signed by one of these public keys: a JWK set, or PEM. Needs
    /// `--jwt-audience` and `--policy-file`. Default: none.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_keys_file: Option<PathBuf>,
    /// Likewise, signed with this shared secret of at least 32 bytes (HS256, HS384, HS512).
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_secret_file: Option<PathBuf>,
    /// Likewise, signed by one of the keys that this address shows as a JWK set. Fetched in the
    /// background, again and again; those fetched last stay in force while that fails.
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_keys_url: Option<String>,
    /// Whom to trust to be that address (PEM). Default: whom the system trusts.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_keys_ca_file: Option<PathBuf>,
    /// Fetch the keys so often, in seconds, give or take a tenth. 1..86400, default 300.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_keys_refresh_s: Option<u64>,
    /// Whom a JWT must be for (`aud`).
    #[arg(long, value_name = "AUDIENCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_audience: Option<String>,
    /// Who must have issued a JWT (`iss`). Default: whoever has the keys.
    #[arg(long, value_name = "ISSUER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_issuer: Option<String>,
    /// How far clocks may be apart, in seconds. 0..300, default 10.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_leeway_s: Option<u64>,
    /// The claim of a JWT that names its groups. Default groups.
    #[arg(long, value_name = "CLAIM")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_groups_claim: Option<String>,
    /// The server's certificate and those that lead to an authority (PEM). With `--tls-key-file` the
    /// server speaks TLS, 1.2 and 1.3. Default: none, it speaks plain text.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert_file: Option<PathBuf>,
    /// The private key of that certificate (PEM).
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key_file: Option<PathBuf>,
    /// Let in who shows a certificate of these authorities (PEM), under the URI or DNS name in it.
    /// Needs `--policy-file`. Default: none.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client_ca_file: Option<PathBuf>,
    /// Refuse connections without such a certificate; if false, they may show a token instead.
    /// Default true.
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client_required: Option<bool>,
    /// Give up a TLS handshake that takes longer, in seconds. 1..60, default 5.
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_handshake_timeout_s: Option<u64>,
    /// Speak plain text also where others than this machine can listen: tokens and contents can be
    /// read on the way. Default false.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext_anywhere: Option<bool>,
}

/// Settings that concern the store and the program around it.
#[derive(Debug, Default, Args, Serialize)]
struct StoreFlags {
    /// Directory of the store; the server creates it if it does not exist. Required.
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,
    /// Memory for the store's page cache, in MiB; the process uses two to three times as much.
    /// 1..65536, default 16.
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_mib: Option<u64>,
    /// Refuse to write while less than this is free on the disk, in MiB. 0..1048576, default 256.
    #[arg(long, value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    free_disk_min_mib: Option<u64>,
    /// What to log, in the syntax of tracing's `EnvFilter`. Default info, with a command warn.
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// How to log: text or json. Default text.
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
}

// === impl Cli ===

impl Cli {
    /// The configuration in force, for printing.
    pub fn print(&self, format: PrintFormat) -> Result<String, ConfigError> {
        match format {
            PrintFormat::Json => {
                let text = serde_json::to_string_pretty(&self.load()?.printable());
                Ok(text.expect("settings are plain values") + "\n")
            }
            PrintFormat::Toml => {
                Config::explain(&Config::default(), self.config.as_deref(), &self.flags)
            }
        }
    }

    /// The configuration in force.
    pub fn load(&self) -> Result<Config, ConfigError> {
        match &self.command {
            None => Config::load(&Config::default(), self.config.as_deref(), &self.flags),
            Some(command) => command.offline().load(),
        }
    }
}

// === impl Command ===

impl Command {
    /// Whether the result is for a program.
    #[must_use]
    pub fn json(&self) -> bool {
        self.offline().json
    }

    fn offline(&self) -> &Offline {
        match self {
            Self::Compact(offline) => offline,
            Self::Verify(verify) => &verify.offline,
            Self::Restore(restore) => &restore.offline,
        }
    }
}

// === impl Offline ===

impl Offline {
    fn load(&self) -> Result<Config, ConfigError> {
        // A person watches: what goes well is told by the progress and the result.
        let defaults = Config { log: "warn".to_owned(), ..Config::default() };
        Config::load(&defaults, self.config.as_deref(), &self.flags)
    }
}
