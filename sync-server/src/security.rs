//! What decides who may do what and who may listen, read from files and from an issuer: checked at
//! the start, and taken up again while the server runs. What makes no sense is refused and what was
//! in force stays, with a warning and in the metrics. Nothing of any content is logged.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::fetching::{Schedule, Source};
use self::origins::{BadOrigins, Origins};
use self::tls::TlsFiles;
use self::watching::{Contents, FileError, Watched};
use crate::auth::jwt::JwtRules;
use crate::auth::keys::{BadKeys, KeySet};
use crate::auth::policy::{BadPolicy, Policy};
use crate::auth::{Access, AccessControl, BadToken, Rules, SignedTokens};
use crate::config::Config;
use crate::metrics::{Metrics, Reload, Reloaded};
use crate::server::line::Tls;

pub(crate) mod certificates;
pub(crate) mod fetching;
pub(crate) mod origins;
mod tls;
mod watching;

#[cfg(test)]
mod tests;

pub use self::certificates::BadCertificates;
pub use self::watching::FileError as UnusableFile;

/// How often files are looked at. A change is taken up when two looks in a row saw the same, so
/// within two or three times this.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

const POLICY: &str = "policy_file";
const KEYS: &str = "jwt_keys_file";
const SECRET: &str = "jwt_secret_file";
const URL: &str = "jwt_keys_url";
const AUDIENCE: &str = "jwt_audience";

/// The rules in force, and where they come from.
#[derive(Debug)]
pub struct Security {
    access: Access,
    files: Files,
    source: Option<(Source, Duration)>,
    pages: Option<Origins>,
}

/// What is looked at again and again.
#[derive(Debug)]
struct Files {
    control: Arc<AccessControl>,
    policy: Option<Watched>,
    /// Keys, and the setting that says of which kind.
    keys: Option<(&'static str, Watched)>,
    tls: Option<TlsFiles>,
}

/// Why the configuration of access cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecurityError {
    /// A token of the configuration.
    #[error(transparent)]
    Token(#[from] BadToken),
    /// A setting that does not go with the others.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file could not be read.
    #[error("{setting}: {path}")]
    File {
        /// Which setting names it.
        setting: &'static str,
        /// Where it is.
        path: String,
        /// What is wrong.
        source: FileError,
    },
    /// The policy makes no sense.
    #[error("policy_file: {path}")]
    Policy {
        /// Where it is.
        path: String,
        /// What is wrong.
        source: BadPolicy,
    },
    /// The keys cannot be used.
    #[error("{setting}: {path}")]
    Keys {
        /// Which setting names them.
        setting: &'static str,
        /// Where they are.
        path: String,
        /// What is wrong.
        source: BadKeys,
    },
    /// Certificates or their key cannot be used.
    #[error("{setting}: {path}")]
    Certificates {
        /// Which setting names them.
        setting: &'static str,
        /// Where they are.
        path: String,
        /// What is wrong.
        source: BadCertificates,
    },
    /// Pages that cannot be.
    #[error("grpc_web_origins: {0}")]
    Origins(#[from] BadOrigins),
    /// Everybody on the way could listen.
    #[error(
        "{setting}: {address} is not this machine alone, and without TLS everybody on the way could read \
         tokens and contents: set tls_cert_file and tls_key_file, or listen on 127.0.0.1 behind a \
         TLS proxy, or say plaintext_anywhere = true where the network can be trusted"
    )]
    Plaintext {
        /// Which setting says so.
        setting: &'static str,
        /// Where it was to listen.
        address: std::net::SocketAddr,
    },
}

// === impl Security ===

impl Security {
    /// What the configuration says, checked.
    pub fn load(config: &Config) -> Result<Self, SecurityError> {
        let setting = |setting, reason| Err(SecurityError::Setting { setting, reason });
        let pages = Origins::of(config.grpc_web, &config.grpc_web_origins)?;
        let tls = TlsFiles::load(config)?;
        for (setting, address) in config.listens() {
            if tls.is_none() && !address.ip().is_loopback() && !config.plaintext_anywhere {
                return Err(SecurityError::Plaintext { setting, address });
            }
        }
        let mut rules = Rules::of_tokens(&config.tokens)?;
        rules.authority = tls.as_ref().and_then(TlsFiles::trusted);
        let mut policy = None;
        if let Some(path) = &config.policy_file {
            let (file, contents) = read(POLICY, path)?;
            rules.policy = parse_policy(path, &contents)?;
            policy = Some(file);
        }
        let (keys, source) = signed_tokens(config, &mut rules)?;
        let tokens = !rules.tokens.is_empty() || !rules.policy.tokens.is_empty();
        let others = rules.jwt.is_some() || rules.authority.is_some();
        if others && policy.is_none() {
            return setting(
                POLICY,
                "is needed: without it nobody with a JWT or a certificate may do \
                                    anything",
            );
        }
        if policy.is_some() && !tokens && !others {
            return setting(
                POLICY,
                "nobody could be let in: configure tokens, jwt_… or \
                                    tls_client_ca_file",
            );
        }
        rules.guarded = tokens || others;
        let (access, control) = Access::new(rules);
        let files = Files { control: Arc::new(control), policy, keys, tls };
        Ok(Self { access, files, source, pages })
    }

    /// Who may do what.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access.clone()
    }

    /// The pages that may call over gRPC-Web; `None` = it is off.
    #[must_use]
    pub(crate) fn pages(&self) -> Option<Origins> {
        self.pages.clone()
    }

    /// How connections are secured; `None` = they are not.
    #[must_use]
    pub fn tls(&self) -> Option<Tls> {
        self.files.tls.as_ref().map(TlsFiles::tls)
    }

    /// Takes up what changes, until `stop` is cancelled.
    pub async fn watch(self, metrics: Metrics, stop: CancellationToken) {
        if let Some(tls) = &self.files.tls {
            metrics.certificate_ends(tls.until());
        }
        let control = Arc::clone(&self.files.control);
        let fetches = async {
            match self.source {
                Some((source, interval)) => fetch(&source, interval, &control, &metrics).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.files.watch(&metrics) => {}
            () = fetches => {}
        }
    }
}

/// How signed tokens are judged, and where their keys come from.
type KeyFile = Option<(&'static str, Watched)>;
type KeySource = Option<(Source, Duration)>;

fn signed_tokens(
    config: &Config,
    rules: &mut Rules,
) -> Result<(KeyFile, KeySource), SecurityError> {
    let setting = |setting, reason| Err(SecurityError::Setting { setting, reason });
    let files = [(KEYS, &config.jwt_keys_file), (SECRET, &config.jwt_secret_file)];
    let mut files = files.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?)));
    let (file, second) = (files.next(), files.next());
    if second.is_some() || (file.is_some() && config.jwt_keys_url.is_some()) {
        let reason = "set one of jwt_keys_file, jwt_secret_file and jwt_keys_url, not several";
        return setting(file.map_or(URL, |(name, _)| name), reason);
    }
    if file.is_none() && config.jwt_keys_url.is_none() {
        return match config.jwt_audience {
            Some(_) => setting(
                AUDIENCE,
                "is of no use without jwt_keys_file, jwt_secret_file or \
                                          jwt_keys_url",
            ),
            None => Ok((None, None)),
        };
    }
    let Some(audience) = config.jwt_audience.clone().filter(|audience| !audience.is_empty()) else {
        return setting(AUDIENCE, "must be set: tokens for somebody else must not be of use here");
    };
    let jwt = JwtRules {
        audience,
        issuer: config.jwt_issuer.clone(),
        leeway: Duration::from_secs(config.jwt_leeway_s),
        groups_claim: config.jwt_groups_claim.clone(),
    };
    let (mut keys, mut watched, mut source) = (None, None, None);
    if let Some((name, path)) = file {
        let (file, contents) = read(name, path)?;
        keys = Some(parse_keys(name, path, &contents)?);
        watched = Some((name, file));
    }
    if let Some(url) = &config.jwt_keys_url {
        let parsed = Source::parse(url, config.jwt_keys_ca_file.clone());
        let parsed = parsed.map_err(|reason| SecurityError::Setting { setting: URL, reason })?;
        source = Some((parsed, Duration::from_secs(config.jwt_keys_refresh_s)));
    }
    rules.jwt = Some(SignedTokens { rules: jwt, keys });
    Ok((watched, source))
}

// === impl Files ===

impl Files {
    async fn watch(mut self, metrics: &Metrics) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look(metrics).await;
        }
    }

    async fn look(&mut self, metrics: &Metrics) {
        if let Some(file) = &mut self.policy
            && let Some(contents) = file.changed().await
        {
            let path = file.path();
            let taken = contents
                .map_err(|source| file_error(POLICY, path, source))
                .and_then(|contents| parse_policy(path, &contents))
                .map(|policy| self.control.change(|rules| rules.policy = policy));
            tell(metrics, Reloaded::Policy, &taken);
        }
        if let Some((setting, file)) = &mut self.keys
            && let Some(contents) = file.changed().await
        {
            let path = file.path();
            let taken = contents
                .map_err(|source| file_error(setting, path, source))
                .and_then(|contents| parse_keys(setting, path, &contents))
                .map(|keys| exchange_keys(&self.control, keys));
            tell(metrics, Reloaded::Keys, &taken);
        }
        if let Some(tls) = &mut self.tls {
            tls.look(&self.control, metrics).await;
        }
    }
}

/// Fetches keys for ever.
async fn fetch(source: &Source, interval: Duration, control: &AccessControl, metrics: &Metrics) {
    let mut schedule = Schedule::new(interval);
    let mut last = None;
    loop {
        let fetched = source.fetch().await;
        let keys = match &fetched {
            Ok(contents) => KeySet::parse_public(contents).map_err(|error| error.to_string()),
            Err(error) => Err(said(error)),
        };
        let well = keys.is_ok();
        match keys {
            // The same again is no news.
            Ok(keys) if last.as_ref() == Some(&keys) => {}
            Ok(keys) => {
                exchange_keys(control, keys.clone());
                tell(metrics, Reloaded::Keys, &Ok(()));
                last = Some(keys);
            }
            Err(error) => {
                metrics.reloaded(Reloaded::Keys, Reload::Refused);
                if schedule.is_well() {
                    tracing::warn!(error, "keys cannot be fetched; those fetched last stay");
                } else {
                    tracing::debug!(error, "keys cannot be fetched yet");
                }
            }
        }
        fetching::wait(&mut schedule, well, &control.unknown_keys).await;
    }
}

fn exchange_keys(control: &AccessControl, keys: KeySet) {
    control.change(|rules| {
        if let Some(signed) = &mut rules.jwt {
            signed.keys = Some(keys);
        }
    });
}

/// An error and all of its causes, in one line.
fn said(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Says what became of something that had changed.
fn tell(metrics: &Metrics, what: Reloaded, taken: &Result<(), SecurityError>) {
    match taken {
        Ok(()) => {
            tracing::info!(?what, "a change of access is in force");
            metrics.reloaded(what, Reload::Done);
        }
        Err(error) => {
            let error = said(error);
            tracing::warn!(?what, error, "a change of access is refused; what was before stays");
            metrics.reloaded(what, Reload::Refused);
        }
    }
}

fn read(setting: &'static str, path: &Path) -> Result<(Watched, Contents), SecurityError> {
    Watched::open(path).map_err(|source| file_error(setting, path, source))
}

fn parse_policy(path: &Path, contents: &Contents) -> Result<Policy, SecurityError> {
    let text = std::str::from_utf8(contents);
    let text = text.map_err(|_| file_error(POLICY, path, FileError::NoText))?;
    let path = path.display().to_string();
    Policy::parse(text).map_err(|source| SecurityError::Policy { path, source })
}

fn parse_keys(
    setting: &'static str,
    path: &Path,
    contents: &Contents,
) -> Result<KeySet, SecurityError> {
    let keys =
        if setting == SECRET { KeySet::of_secret(contents) } else { KeySet::parse(contents) };
    let path = path.display().to_string();
    keys.map_err(|source| SecurityError::Keys { setting, path, source })
}

fn file_error(setting: &'static str, path: &Path, source: FileError) -> SecurityError {
    SecurityError::File { setting, path: path.display().to_string(), source }
}
