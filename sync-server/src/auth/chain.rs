//! The certificates of a client: whose they are, until when, and who vouches for them. Names are
//! those of the extension for them (SAN), a URI or a DNS name, exactly; never the common name.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

#[cfg(test)]
mod tests;

/// What a client has shown on its connection, and has proven to own.
pub struct Chain {
    /// Its own comes first.
    certificates: Vec<CertificateDer<'static>>,
    uris: Vec<String>,
    dns: Vec<String>,
    /// When the first of them ends.
    until: SystemTime,
    /// Who has vouched for it last: asked again only when that is somebody else.
    trusted_by: Mutex<Option<Authority>>,
}

/// Whom the server trusts to say who a client is.
#[derive(Clone)]
pub struct Authority(Arc<dyn ClientCertVerifier>);

/// Certificates of a client that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client's certificates cannot be read")]
pub struct UnreadableChain;

// === impl Chain ===

impl Chain {
    /// The certificates of a handshake that has succeeded.
    pub fn new(certificates: &[CertificateDer<'_>]) -> Result<Self, UnreadableChain> {
        let own = certificates.first().ok_or(UnreadableChain)?;
        let (_, own) = X509Certificate::from_der(own).map_err(|_| UnreadableChain)?;
        let (mut uris, mut dns) = (Vec::new(), Vec::new());
        let names = own.subject_alternative_name().map_err(|_| UnreadableChain)?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::OtherName(..)
                | GeneralName::RFC822Name(_)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::IPAddress(_)
                | GeneralName::RegisteredID(_)
                | GeneralName::Invalid(..) => {}
            }
        }
        let mut until = end(&own);
        for certificate in &certificates[1..] {
            let (_, other) = X509Certificate::from_der(certificate).map_err(|_| UnreadableChain)?;
            until = until.min(end(&other));
        }
        let certificates = certificates.iter().map(|one| one.clone().into_owned()).collect();
        Ok(Self { certificates, uris, dns, until, trusted_by: Mutex::default() })
    }

    /// When the first of the certificates ends.
    #[must_use]
    pub fn until(&self) -> SystemTime {
        self.until
    }

    /// All names that it bears.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.uris.iter().chain(&self.dns).map(String::as_str)
    }

    /// The one name that says who it is: its only URI; without any, its only DNS name.
    pub(crate) fn only_name(&self) -> Option<&str> {
        let names = if self.uris.is_empty() { &self.dns } else { &self.uris };
        match names.as_slice() {
            [only] => Some(only),
            [] | [_, _, ..] => None,
        }
    }

    /// Whether `authority` vouches for it.
    pub(crate) fn is_trusted_by(&self, authority: &Authority, now: SystemTime) -> bool {
        let mut trusted_by = self.trusted_by.lock();
        if trusted_by.as_ref().is_some_and(|last| last.is(authority)) {
            return true;
        }
        let Some((own, others)) = self.certificates.split_first() else { return false };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(now);
        let trusted = authority.0.verify_client_cert(own, others, now).is_ok();
        if trusted {
            *trusted_by = Some(authority.clone());
        }
        trusted
    }
}

/// When a certificate ends. One of before 1970 has ended.
pub(crate) fn end(certificate: &X509Certificate<'_>) -> SystemTime {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("len", &self.certificates.len()).finish_non_exhaustive()
    }
}

// === impl Authority ===

impl Authority {
    /// An authority that TLS asks, too.
    #[must_use]
    pub fn new(verifier: Arc<dyn ClientCertVerifier>) -> Self {
        Self(verifier)
    }

    /// What TLS asks.
    #[must_use]
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0)
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}
