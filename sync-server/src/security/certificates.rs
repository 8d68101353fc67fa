//! Certificates and keys of TLS, read from PEM: who we are, whom we trust.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::auth::chain::{Authority, end};

/// HTTP/2, as it is called in a handshake.
pub(crate) const HTTP_2: &[u8] = b"h2";
/// HTTP/1.1, which only gRPC-Web is spoken over.
pub(crate) const HTTP_1: &[u8] = b"http/1.1";

/// Nothing older is spoken.
const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Who we are: a configuration of TLS, and when its certificates end.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) until: SystemTime,
}

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadCertificates {
    /// The file cannot be read, or is no PEM.
    #[error("cannot be read as PEM")]
    Pem(#[source] pem::Error),
    /// There is none.
    #[error("holds no certificate")]
    Empty,
    /// They are no certificates.
    #[error("holds what is no certificate")]
    Unreadable,
    /// They have ended: nobody who is careful would connect.
    #[error("holds a certificate whose time is over")]
    Expired,
    /// TLS does not take them.
    #[error("cannot be used")]
    Refused(#[source] rustls::Error),
    /// They are not those of an authority.
    #[error("holds no authority for clients")]
    NoAuthority(#[source] VerifierBuilderError),
}

/// The one implementation of cryptography that is used.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Who we are, and who may say who clients are.
pub(crate) fn identity(
    certificates: &[u8],
    key: &[u8],
    authority: Option<&Authority>,
    http_1: bool,
    now: SystemTime,
) -> Result<Identity, BadCertificates> {
    let chain = all(certificates)?;
    let mut until = None;
    for certificate in &chain {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| BadCertificates::Unreadable)?;
        let end = end(&certificate);
        until = Some(until.map_or(end, |first: SystemTime| first.min(end)));
    }
    let until = until.ok_or(BadCertificates::Empty)?;
    if until <= now {
        return Err(BadCertificates::Expired);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(BadCertificates::Pem)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(BadCertificates::Refused)?;
    let builder = match authority {
        Some(authority) => builder.with_client_cert_verifier(authority.verifier()),
        None => builder.with_no_client_auth(),
    };
    // A key of another certificate is refused here.
    let mut config = builder.with_single_cert(chain, key).map_err(BadCertificates::Refused)?;
    let spoken = [HTTP_2].into_iter().chain(http_1.then_some(HTTP_1));
    config.alpn_protocols = spoken.map(<[u8]>::to_vec).collect();
    Ok(Identity { config: Arc::new(config), until })
}

/// Who may say who clients are; `required`: whoever shows no certificate is not let in.
pub(crate) fn authority(pem: &[u8], required: bool) -> Result<Authority, BadCertificates> {
    let mut roots = RootCertStore::empty();
    for certificate in all(pem)? {
        roots.add(certificate).map_err(BadCertificates::Refused)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map(Authority::new).map_err(BadCertificates::NoAuthority)
}

/// How to reach somebody whom this file, or the system, trusts.
pub(crate) fn client(ca_file: Option<&Path>) -> Result<ClientConfig, BadCertificates> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(file) => {
            for certificate in CertificateDer::pem_file_iter(file).map_err(BadCertificates::Pem)? {
                let certificate = certificate.map_err(BadCertificates::Pem)?;
                roots.add(certificate).map_err(BadCertificates::Refused)?;
            }
        }
        None => {
            // One that the system keeps and nobody understands is no reason to trust none.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(BadCertificates::Empty);
    }
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(VERSIONS).map_err(BadCertificates::Refused)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn all(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadCertificates> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(BadCertificates::Pem)?;
    if all.is_empty() { Err(BadCertificates::Empty) } else { Ok(all) }
}
