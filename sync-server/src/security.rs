//! What decides who may do what, read from files: checked at the start, and taken up again while the
//! server runs. A file that makes no sense is refused and what was in force stays, with a warning
//! and in the metrics. Nothing of a file's content is logged.

use std::path::Path;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::watching::{Contents, FileError, Watched};
use crate::auth::policy::{BadPolicy, Policy};
use crate::auth::{Access, AccessControl, BadToken, Rules};
use crate::config::Config;
use crate::metrics::{Metrics, Reload, Reloaded};

mod watching;

/// How often files are looked at. A change is taken up when two looks in a row saw the same, so
/// within two or three times this.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The rules in force, and the files that they come from.
#[derive(Debug)]
pub struct Security {
    access: Access,
    control: AccessControl,
    policy: Option<Watched>,
}

/// Why the configuration of access cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecurityError {
    /// A token of the configuration.
    #[error(transparent)]
    Token(#[from] BadToken),
    /// A file could not be read.
    #[error("{setting}: {path}: {source}")]
    File {
        /// Which setting names it.
        setting: &'static str,
        /// Where it is.
        path: String,
        /// What is wrong.
        source: FileError,
    },
    /// The policy makes no sense.
    #[error("policy_file: {path}: {source}")]
    Policy {
        /// Where it is.
        path: String,
        /// What is wrong.
        source: BadPolicy,
    },
    /// Nobody could ever be let in.
    #[error(
        "policy_file: there is no way to tell who calls: configure [[tokens]], in the \
         configuration or in the policy"
    )]
    Nobody,
}

// === impl Security ===

impl Security {
    /// What the configuration says, checked.
    pub fn load(config: &Config) -> Result<Self, SecurityError> {
        let mut rules = Rules::of_tokens(&config.tokens)?;
        let mut watched = None;
        if let Some(path) = &config.policy_file {
            let (file, contents) = read("policy_file", path)?;
            rules.policy = policy(path, &contents)?;
            rules.guarded = true;
            if rules.tokens.is_empty() && rules.policy.tokens.is_empty() {
                return Err(SecurityError::Nobody);
            }
            watched = Some(file);
        }
        let (access, control) = Access::new(rules);
        Ok(Self { access, control, policy: watched })
    }

    /// Who may do what.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access.clone()
    }

    /// Takes up what changes in the files, until `stop` is cancelled.
    pub async fn watch(mut self, metrics: Metrics, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            self.look(&metrics).await;
        }
    }

    async fn look(&mut self, metrics: &Metrics) {
        if let Some(file) = &mut self.policy
            && let Some(contents) = file.changed().await
        {
            let path = file.path().to_owned();
            let taken = contents
                .map_err(|source| file_error("policy_file", &path, source))
                .and_then(|contents| policy(&path, &contents))
                .map(|policy| self.control.change(|rules| rules.policy = policy));
            tell(metrics, Reloaded::Policy, &taken);
        }
    }
}

/// Says what became of a file that had changed.
fn tell(metrics: &Metrics, what: Reloaded, taken: &Result<(), SecurityError>) {
    match taken {
        Ok(()) => {
            tracing::info!(?what, "a file has changed and is in force");
            metrics.reloaded(what, Reload::Done);
        }
        Err(error) => {
            let error = error as &dyn std::error::Error;
            tracing::warn!(?what, error, "a file has changed and is refused; the old one stays");
            metrics.reloaded(what, Reload::Refused);
        }
    }
}

fn read(setting: &'static str, path: &Path) -> Result<(Watched, Contents), SecurityError> {
    Watched::open(path).map_err(|source| file_error(setting, path, source))
}

fn policy(path: &Path, contents: &Contents) -> Result<Policy, SecurityError> {
    let text = std::str::from_utf8(contents)
        .map_err(|_| file_error("policy_file", path, FileError::NoText))?;
    Policy::parse(text)
        .map_err(|source| SecurityError::Policy { path: path.display().to_string(), source })
}

fn file_error(setting: &'static str, path: &Path, source: FileError) -> SecurityError {
    SecurityError::File { setting, path: path.display().to_string(), source }
}
