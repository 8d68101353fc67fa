//! The server's certificate and whoever vouches for clients: read, checked, and exchanged together
//! with what depends on them while the server runs.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;

use super::certificates::{self, Identity};
use super::watching::{Contents, FileError, Watched};
use super::{SecurityError, file_error, tell};
use crate::auth::AccessControl;
use crate::auth::chain::Authority;
use crate::config::Config;
use crate::metrics::{Metrics, Reloaded};
use crate::server::line::Tls;

const CERTIFICATE: &str = "tls_cert_file";
const KEY: &str = "tls_key_file";
const AUTHORITY: &str = "tls_client_ca_file";

/// What is in force, and the files that it comes from.
#[derive(Debug)]
pub(super) struct TlsFiles {
    certificate: One,
    key: One,
    authority: Option<One>,
    required: bool,
    /// The certificate and key in force: a new authority does not wait for a pair that is being
    /// exchanged.
    pair: (Contents, Contents),
    trusted: Option<Authority>,
    tls: Tls,
    until: SystemTime,
}

/// A file, as it was seen last, good or not: of two files that belong together one changes first.
#[derive(Debug)]
struct One {
    setting: &'static str,
    file: Watched,
    contents: Contents,
}

// === impl One ===

impl One {
    fn open(setting: &'static str, path: &Path) -> Result<Self, SecurityError> {
        let (file, contents) =
            Watched::open(path).map_err(|source| file_error(setting, path, source))?;
        Ok(Self { setting, file, contents })
    }

    /// Whether there is something new to judge; an error if it cannot be read.
    async fn changed(&mut self) -> Result<bool, SecurityError> {
        match self.file.changed().await {
            None => Ok(false),
            Some(Ok(contents)) => {
                self.contents = contents;
                Ok(true)
            }
            Some(Err(source)) => Err(self.unreadable(source)),
        }
    }

    fn unreadable(&self, source: FileError) -> SecurityError {
        file_error(self.setting, self.file.path(), source)
    }

    fn bad(&self, source: certificates::BadCertificates) -> SecurityError {
        let path = self.file.path().display().to_string();
        SecurityError::Certificates { setting: self.setting, path, source }
    }
}

// === impl TlsFiles ===

impl TlsFiles {
    /// What the configuration says, checked; `None` = plain text.
    pub(super) fn load(config: &Config) -> Result<Option<Self>, SecurityError> {
        let setting = |setting, reason| Err(SecurityError::Setting { setting, reason });
        let (certificate, key) = match (&config.tls_cert_file, &config.tls_key_file) {
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => return setting(KEY, "must be set together with tls_cert_file"),
            (None, Some(_)) => {
                return setting(CERTIFICATE, "must be set together with tls_key_file");
            }
            (None, None) if config.tls_client_ca_file.is_some() => {
                return setting(AUTHORITY, "is of no use without tls_cert_file and tls_key_file");
            }
            (None, None) => return Ok(None),
        };
        let (certificate, key) = (One::open(CERTIFICATE, certificate)?, One::open(KEY, key)?);
        let authority = config.tls_client_ca_file.as_deref();
        let authority = authority.map(|path| One::open(AUTHORITY, path)).transpose()?;
        let required = config.tls_client_required;
        let trusted = authority.as_ref().map(|one| vouching(one, required)).transpose()?;
        let Identity { config: tls, until } = certificates::identity(
            &certificate.contents,
            &key.contents,
            trusted.as_ref(),
            config.grpc_web,
            SystemTime::now(),
        )
        .map_err(|source| certificate.bad(source))?;
        let pair = (certificate.contents.clone(), key.contents.clone());
        let handshake_within = Duration::from_secs(config.tls_handshake_timeout_s);
        let (tls, http_1) = (Arc::new(RwLock::new(tls)), config.grpc_web);
        let tls = Tls { config: tls, handshake_within, http_1 };
        Ok(Some(Self { certificate, key, authority, required, pair, trusted, tls, until }))
    }

    /// How connections are secured, now and after every exchange.
    pub(super) fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// Who vouches for clients.
    pub(super) fn trusted(&self) -> Option<Authority> {
        self.trusted.clone()
    }

    /// When the certificate ends.
    pub(super) fn until(&self) -> SystemTime {
        self.until
    }

    /// Takes up what has changed.
    pub(super) async fn look(&mut self, control: &AccessControl, metrics: &Metrics) {
        let (certificate, key) = (self.certificate.changed().await, self.key.changed().await);
        match certificate.and_then(|changed| Ok(changed | key?)) {
            Ok(false) => {}
            Ok(true) => {
                let taken = self.exchange_pair();
                if taken.is_ok() {
                    metrics.certificate_ends(self.until);
                }
                tell(metrics, Reloaded::Certificate, &taken);
            }
            Err(error) => tell(metrics, Reloaded::Certificate, &Err(error)),
        }
        let Some(authority) = &mut self.authority else { return };
        match authority.changed().await {
            Ok(false) => {}
            Ok(true) => {
                let taken = self.exchange_authority(control);
                tell(metrics, Reloaded::Authority, &taken);
            }
            Err(error) => tell(metrics, Reloaded::Authority, &Err(error)),
        }
    }

    fn exchange_pair(&mut self) -> Result<(), SecurityError> {
        let pair = (self.certificate.contents.clone(), self.key.contents.clone());
        self.put_in_force(pair)
    }

    /// Whoever was let in by the old one is judged anew, also on connections that are open.
    fn exchange_authority(&mut self, control: &AccessControl) -> Result<(), SecurityError> {
        let Some(authority) = &self.authority else { return Ok(()) };
        let before = self.trusted.replace(vouching(authority, self.required)?);
        let put = self.put_in_force(self.pair.clone());
        if put.is_err() {
            self.trusted = before;
        }
        let trusted = self.trusted.clone();
        control.change(|rules| rules.authority = trusted);
        put
    }

    fn put_in_force(&mut self, pair: (Contents, Contents)) -> Result<(), SecurityError> {
        let now = SystemTime::now();
        let Identity { config, until } =
            certificates::identity(&pair.0, &pair.1, self.trusted.as_ref(), self.tls.http_1, now)
                .map_err(|source| self.certificate.bad(source))?;
        *self.tls.config.write() = config;
        self.pair = pair;
        self.until = until;
        Ok(())
    }
}

fn vouching(file: &One, required: bool) -> Result<Authority, SecurityError> {
    certificates::authority(&file.contents, required).map_err(|source| file.bad(source))
}
