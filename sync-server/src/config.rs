//! The configuration: flags over environment over file over defaults, checked before anything
//! starts. A setting that is unknown or makes no sense is an error that names it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::auth::quotas::PER_S_MAX;
use crate::auth::{Rules, TokenConfig};
use crate::budget::{Budget, Budgets, LOADS_SETTING};
use crate::core::acks::AckRetention;
use crate::core::diffusion::{self, FAN_OUT_ENTRIES_MAX};
use crate::core::rates::Pace;
use crate::core::retention::Retention;
use crate::engine::ledger::Settings;
use crate::flight::CALL_BYTES;
use crate::rpc::pacing::Pacing;
use crate::rpc::places::Limits;
use crate::security::fetching::Source;
use crate::security::origins::{self, Origins};
use crate::store::disk::DiskOptions;
use crate::traces;

mod printing;

#[cfg(test)]
mod tests;

/// Environment variables of settings begin with this, e.g. `SYNC_SERVER_LISTEN`.
pub const ENV_PREFIX: &str = "SYNC_SERVER_";

/// The setting that is not read from the environment: a list of tables cannot be written there so
/// that a person sees what it grants.
const FILE_ONLY: &str = "tokens";

/// Calls at once, besides streams that were accepted; a quarter of them on one connection.
const CALLS_MAX: usize = 4_096;

/// This part of them is for the first calls of each connection.
const FIRST_CALLS: usize = 4;

/// Calls at once that wait to be among them.
const WAITING_CALLS_MAX: usize = 4_096;

/// A quarter of a budget of messages holds one.
const MESSAGES_MIB_MIN: u64 = 16;

/// This part of the memory for messages of subscriptions is for pages that are at hand: those who
/// have to wait for a page of their own do not make the others wait, too.
const SHARED_PAGES: u64 = 4;

/// These parts of the memory for answers are for those of a few words, and for pages that are kept
/// small because others hold the rest: who reads what it is told need not wait for who does not.
const TELLS: u64 = 16;
const BRIEFS: u64 = 8;

/// The configuration in force. `--help` says what each setting means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the flags of the same names are the documentation")]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting that is on or off")]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub admin_listen: Option<SocketAddr>,
    pub metrics_listen: Option<SocketAddr>,
    pub cache_mib: u64,
    pub free_disk_min_mib: u64,
    pub tombstone_age_max_s: u64,
    pub tombstones_max: u64,
    pub idempotency_window_s: u64,
    pub idempotency_keys_max: u64,
    pub write_audience_max: u64,
    pub fan_out_per_s_max: u64,
    pub fan_out_dwell_s: u64,
    pub notice_interval_ms: u64,
    pub ack_age_max_s: u64,
    pub acks_max: u64,
    pub connections_max: usize,
    pub connections_per_peer_max: usize,
    pub first_request_timeout_s: u64,
    pub requests_mib: u64,
    pub replies_mib: u64,
    pub loads_mib: u64,
    pub pages_mib: u64,
    pub upload_timeout_s: u64,
    pub streams_max: usize,
    pub streams_per_subject_max: usize,
    pub targets_max: usize,
    pub targets_per_subject_max: usize,
    pub commits_per_s_per_subject_max: u64,
    pub mutations_per_s_per_subject_max: u64,
    pub commit_burst_s: u64,
    pub stream_age_max_s: u64,
    pub connection_age_max_s: u64,
    pub goodbye_jitter_ms: u64,
    pub grace_s: u64,
    pub reflection: bool,
    pub grpc_web: bool,
    #[serde(deserialize_with = "origins::listed")]
    pub grpc_web_origins: Vec<String>,
    pub policy_file: Option<PathBuf>,
    pub jwt_keys_file: Option<PathBuf>,
    pub jwt_secret_file: Option<PathBuf>,
    pub jwt_keys_url: Option<String>,
    pub jwt_keys_ca_file: Option<PathBuf>,
    pub jwt_keys_refresh_s: u64,
    pub jwt_audience: Option<String>,
    pub jwt_issuer: Option<String>,
    pub jwt_leeway_s: u64,
    pub jwt_groups_claim: String,
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    pub tls_client_ca_file: Option<PathBuf>,
    pub tls_client_required: bool,
    pub tls_handshake_timeout_s: u64,
    pub plaintext_anywhere: bool,
    pub otlp_endpoint: Option<String>,
    pub otlp_sample_per_mille: u32,
    pub otlp_service_name: String,
    pub log: String,
    pub log_format: LogFormat,
    /// Who may do what; only in the file. None = everybody may do everything.
    pub tokens: Vec<TokenConfig>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file or the environment could not be read into settings.
    #[error("configuration: {0}")]
    Unreadable(Box<figment::Error>),
    /// A setting is out of range.
    #[error("configuration: {setting}: {reason}")]
    Invalid {
        /// Which one.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Whether Kubernetes sets this variable (without the prefix, in lower case) in every container
/// beside a Service named sync-server.
fn is_of_kubernetes(variable: &str) -> bool {
    matches!(variable, "port" | "service_host" | "service_port")
        || variable.starts_with("port_")
        || variable.starts_with("service_port_")
}

/// Levels of the log, as the filter takes them.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// A part of a filter that is meant to be a level and is none. The filter itself would take it for
/// the name of a module, and log nothing of all others.
fn no_level(filter: &str) -> Option<&str> {
    let is_level = |word: &str| {
        // Numbers are levels too.
        word.parse::<u8>().is_ok_and(|number| number <= 5)
            || LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word))
    };
    filter.split(',').map(str::trim).find(|part| {
        // What names a module, a span or a field says more than one word.
        let word = part.chars().all(char::is_alphanumeric);
        word && !part.is_empty() && !is_level(part)
    })
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7411)),
            admin_listen: None,
            metrics_listen: None,
            cache_mib: 16,
            free_disk_min_mib: 256,
            tombstone_age_max_s: 30 * 24 * 60 * 60,
            tombstones_max: 1_000_000,
            idempotency_window_s: 600,
            idempotency_keys_max: 100_000,
            write_audience_max: 512,
            fan_out_per_s_max: 2_000,
            fan_out_dwell_s: 30,
            notice_interval_ms: 1_000,
            ack_age_max_s: 90 * 24 * 60 * 60,
            acks_max: 1_000_000,
            connections_max: 4_096,
            connections_per_peer_max: 1_024,
            first_request_timeout_s: 10,
            requests_mib: 64,
            replies_mib: 64,
            loads_mib: 32,
            pages_mib: 64,
            upload_timeout_s: 10,
            streams_max: 10_000,
            streams_per_subject_max: 5_000,
            targets_max: 200_000,
            targets_per_subject_max: 100_000,
            commits_per_s_per_subject_max: 0,
            mutations_per_s_per_subject_max: 0,
            commit_burst_s: 10,
            stream_age_max_s: 3_600,
            connection_age_max_s: 3_600,
            goodbye_jitter_ms: 5_000,
            grace_s: 10,
            reflection: true,
            grpc_web: false,
            grpc_web_origins: Vec::new(),
            policy_file: None,
            jwt_keys_file: None,
            jwt_secret_file: None,
            jwt_keys_url: None,
            jwt_keys_ca_file: None,
            jwt_keys_refresh_s: 300,
            jwt_audience: None,
            jwt_issuer: None,
            jwt_leeway_s: 10,
            jwt_groups_claim: "groups".to_owned(),
            tls_cert_file: None,
            tls_key_file: None,
            tls_client_ca_file: None,
            tls_client_required: true,
            tls_handshake_timeout_s: 5,
            plaintext_anywhere: false,
            otlp_endpoint: None,
            otlp_sample_per_mille: 1_000,
            otlp_service_name: "sync-server".to_owned(),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            tokens: Vec::new(),
        }
    }
}

impl Config {
    /// `flags` over the environment over `file` over `defaults`, checked.
    pub fn load(
        defaults: &Self,
        file: Option<&Path>,
        flags: &impl Serialize,
    ) -> Result<Self, ConfigError> {
        Self::extracted(&Self::merged(defaults, file, flags)?)
    }

    /// The same as a file, with where each value comes from, without secrets.
    pub fn explain(
        defaults: &Self,
        file: Option<&Path>,
        flags: &impl Serialize,
    ) -> Result<String, ConfigError> {
        let figment = Self::merged(defaults, file, flags)?;
        Ok(printing::to_toml(&Self::extracted(&figment)?, &figment))
    }

    fn extracted(figment: &Figment) -> Result<Self, ConfigError> {
        let config: Self =
            figment.extract().map_err(|error| ConfigError::Unreadable(Box::new(error)))?;
        config.check()?;
        Ok(config)
    }

    fn merged(
        defaults: &Self,
        file: Option<&Path>,
        flags: &impl Serialize,
    ) -> Result<Figment, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(defaults));
        if let Some(file) = file {
            figment = figment.merge(Toml::file_exact(file));
        }
        let env = Env::prefixed(ENV_PREFIX).ignore(&["config"]);
        let env = env.filter(|variable| !is_of_kubernetes(&variable.as_str().to_ascii_lowercase()));
        if env.iter().any(|(variable, _)| variable == FILE_ONLY) {
            let reason = format!("{ENV_PREFIX}TOKENS: tokens are only read from the file");
            return Err(ConfigError::Invalid { setting: FILE_ONLY, reason });
        }
        Ok(figment.merge(env).merge(Serialized::defaults(flags)))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |setting, reason: &str| {
            Err(ConfigError::Invalid { setting, reason: reason.to_owned() })
        };
        if self.data_dir.as_os_str().is_empty() {
            return invalid("data_dir", "must be set, e.g. --data-dir ./data");
        }
        let count = |count| u64::try_from(count).unwrap_or(u64::MAX);
        let ranges = [
            ("cache_mib", self.cache_mib, 1, 65_536),
            ("free_disk_min_mib", self.free_disk_min_mib, 0, 1024 * 1024),
            ("idempotency_window_s", self.idempotency_window_s, 1, 30 * 24 * 60 * 60),
            ("write_audience_max", self.write_audience_max, 0, FAN_OUT_ENTRIES_MAX),
            ("fan_out_per_s_max", self.fan_out_per_s_max, 1, 1_000_000),
            ("fan_out_dwell_s", self.fan_out_dwell_s, 0, 3_600),
            ("notice_interval_ms", self.notice_interval_ms, 10, 60_000),
            ("ack_age_max_s", self.ack_age_max_s, 1, 100 * 365 * 24 * 60 * 60),
            ("acks_max", self.acks_max, 0, 100_000_000),
            ("connections_max", count(self.connections_max), 1, 1_000_000),
            ("connections_per_peer_max", count(self.connections_per_peer_max), 1, 1_000_000),
            ("first_request_timeout_s", self.first_request_timeout_s, 1, 3_600),
            ("requests_mib", self.requests_mib, MESSAGES_MIB_MIN, 65_536),
            ("replies_mib", self.replies_mib, MESSAGES_MIB_MIN, 65_536),
            ("loads_mib", self.loads_mib, MESSAGES_MIB_MIN, 65_536),
            ("pages_mib", self.pages_mib, MESSAGES_MIB_MIN, 65_536),
            ("upload_timeout_s", self.upload_timeout_s, 1, 3_600),
            ("streams_max", count(self.streams_max), 1, 1_000_000),
            ("streams_per_subject_max", count(self.streams_per_subject_max), 1, 1_000_000),
            ("targets_max", count(self.targets_max), 1, 100_000_000),
            ("targets_per_subject_max", count(self.targets_per_subject_max), 1, 100_000_000),
            ("commits_per_s_per_subject_max", self.commits_per_s_per_subject_max, 0, PER_S_MAX),
            ("mutations_per_s_per_subject_max", self.mutations_per_s_per_subject_max, 0, PER_S_MAX),
            ("commit_burst_s", self.commit_burst_s, 1, 3_600),
            ("stream_age_max_s", self.stream_age_max_s, 1, 365 * 24 * 60 * 60),
            ("connection_age_max_s", self.connection_age_max_s, 1, 365 * 24 * 60 * 60),
            ("goodbye_jitter_ms", self.goodbye_jitter_ms, 0, 600_000),
            ("grace_s", self.grace_s, 1, 300),
            ("jwt_keys_refresh_s", self.jwt_keys_refresh_s, 1, 24 * 60 * 60),
            ("jwt_leeway_s", self.jwt_leeway_s, 0, 300),
            ("tls_handshake_timeout_s", self.tls_handshake_timeout_s, 1, 60),
            ("otlp_sample_per_mille", self.otlp_sample_per_mille.into(), 0, 1_000),
        ];
        for (setting, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return invalid(setting, &format!("{value}, must be {min} to {max}"));
            }
        }
        // Before it could be printed: an address may hold a password, and this one must not.
        if let Some(url) = &self.jwt_keys_url
            && let Err(reason) = Source::parse(url, None)
        {
            return invalid("jwt_keys_url", reason);
        }
        if let Err(error) = Origins::of(self.grpc_web, &self.grpc_web_origins) {
            return invalid("grpc_web_origins", &error.to_string());
        }
        self.check_traces()?;
        if let Err(error) = Rules::of_tokens(&self.tokens) {
            return invalid("tokens", &error.to_string());
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log) {
            return invalid("log", &error.to_string());
        }
        if let Some(word) = no_level(&self.log) {
            let levels = LEVELS.join(", ");
            return invalid("log", &format!("{word:?} is no level; the levels are {levels}"));
        }
        Ok(())
    }

    fn check_traces(&self) -> Result<(), ConfigError> {
        let invalid = |setting, reason: String| Err(ConfigError::Invalid { setting, reason });
        if let Some(reason) = self.collector().and_then(traces::wrong_with) {
            return invalid("otlp_endpoint", reason.to_owned());
        }
        if !(1..=traces::SERVICE_NAME_LEN_MAX).contains(&self.otlp_service_name.len()) {
            let reason = format!("must have 1 to {} bytes", traces::SERVICE_NAME_LEN_MAX);
            return invalid("otlp_service_name", reason);
        }
        Ok(())
    }

    /// The same without secrets, for printing.
    #[must_use]
    pub fn printable(&self) -> Self {
        let mut printable = self.clone();
        for token in &mut printable.tokens {
            "(hidden)".clone_into(&mut token.sha256);
        }
        printable
    }

    /// Where calls are served, by setting.
    pub fn listens(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let admin = self.admin_listen.map(|address| ("admin_listen", address));
        std::iter::once(("listen", self.listen)).chain(admin)
    }

    /// How the ledger keeps what it has.
    #[must_use]
    pub fn ledger(&self) -> Settings {
        Settings {
            retention: Retention {
                tombstone_age_max: Duration::from_secs(self.tombstone_age_max_s),
                tombstones_max: self.tombstones_max,
            },
            receipt_window: Duration::from_secs(self.idempotency_window_s),
            receipts_max: self.idempotency_keys_max,
            diffusion: diffusion::Limits {
                write_audience_max: self.write_audience_max,
                fan_out_per_s_max: self.fan_out_per_s_max,
                dwell: Duration::from_secs(self.fan_out_dwell_s),
            },
            acks: AckRetention {
                age_max: Duration::from_secs(self.ack_age_max_s),
                count_max: self.acks_max,
            },
        }
    }

    /// How many streams and targets there may be.
    #[must_use]
    pub fn places(&self) -> Limits {
        Limits {
            streams_max: self.streams_max,
            streams_per_subject_max: self.streams_per_subject_max,
            targets_max: self.targets_max,
            targets_per_subject_max: self.targets_per_subject_max,
        }
    }

    /// Where spans are sent to; `None` = nowhere.
    #[must_use]
    pub fn collector(&self) -> Option<&str> {
        self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty())
    }

    /// How fast everybody may write.
    #[must_use]
    pub fn pacing(&self) -> Pacing {
        let pace = Pace {
            commits_per_s: self.commits_per_s_per_subject_max,
            mutations_per_s: self.mutations_per_s_per_subject_max,
        };
        Pacing::new(pace, Duration::from_secs(self.commit_burst_s))
    }

    /// What the server may hold for its peers.
    #[must_use]
    pub fn budgets(&self) -> Budgets {
        let budget = |setting, mib: u64| {
            let bytes = usize::try_from(mib * 1024 * 1024).expect("it was checked");
            Budget::new(setting, bytes)
        };
        let (tells, briefs) = (self.replies_mib / TELLS, self.replies_mib / BRIEFS);
        Budgets {
            calls: Budget::new("calls", (CALLS_MAX - CALLS_MAX / FIRST_CALLS) * CALL_BYTES),
            first_calls: Budget::new("calls", CALLS_MAX / FIRST_CALLS * CALL_BYTES),
            waiting_calls: Budget::new("calls", WAITING_CALLS_MAX),
            requests: budget("requests_mib", self.requests_mib),
            replies: budget("replies_mib", self.replies_mib - tells - briefs),
            tells: budget("replies_mib", tells),
            briefs: budget("replies_mib", briefs),
            loads: budget(LOADS_SETTING, self.loads_mib),
            pages: budget("pages_mib", self.pages_mib - self.pages_mib / SHARED_PAGES),
            shared_pages: budget("pages_mib", self.pages_mib / SHARED_PAGES),
        }
    }

    /// How the store uses memory and disk.
    #[must_use]
    pub fn store(&self) -> DiskOptions {
        DiskOptions {
            cache_bytes: self.cache_mib * 1024 * 1024,
            free_bytes_min: self.free_disk_min_mib * 1024 * 1024,
            ..DiskOptions::default()
        }
    }
}
