//! Encryption of connections: whom to trust, and the certificate that the client shows. The files
//! are read for every connection, so a new certificate counts from the next one on.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// HTTP/2, as it is called in a handshake.
const HTTP_2: &[u8] = b"h2";

/// What a client needs to speak TLS, as files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tls {
    /// Whom to trust; `None` = whom the system trusts.
    pub(super) ca_file: Option<PathBuf>,
    /// Certificate and key of the client.
    pub(super) own_files: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must bear; `None` = that in the address.
    pub(super) server_name: Option<String>,
}

// === impl Tls ===

impl Tls {
    /// Reads the files, which blocks, and says what is wrong with them.
    pub(super) fn config(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            Some(file) => {
                for certificate in certificates(file)? {
                    let added = roots.add(certificate);
                    added.map_err(|error| format!("{}: {error}", file.display()))?;
                }
            }
            None => {
                // One that the system keeps and nobody understands is no reason to trust none.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err("there is nobody to trust: no certificate of an authority".to_owned());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match &self.own_files {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let said = |error: &dyn std::fmt::Display| format!("{}: {error}", key.display());
                let own = PrivateKeyDer::from_pem_file(key).map_err(|error| said(&error))?;
                let config = builder.with_client_auth_cert(certificates(certificate)?, own);
                config.map_err(|error| said(&error))?
            }
        };
        config.alpn_protocols = vec![HTTP_2.to_vec()];
        Ok(config)
    }

    /// The name that the server of this host must bear.
    pub(super) fn name(&self, host: &str) -> Result<ServerName<'static>, String> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(name.to_owned()).map_err(|error| format!("{name}: {error}"))
    }

    /// Speaks TLS over a connection to a host.
    pub(super) async fn secure<T: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: T,
    ) -> io::Result<TlsStream<T>> {
        let name = self.name(host).map_err(io::Error::other)?;
        let read = self.clone();
        let config = tokio::task::spawn_blocking(move || read.config()).await?;
        let connector = TlsConnector::from(Arc::new(config.map_err(io::Error::other)?));
        connector.connect(name, stream).await
    }
}

fn certificates(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let all = CertificateDer::pem_file_iter(file).map_err(|error| said(&error))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|error| said(&error))?;
    if all.is_empty() { Err(said(&"holds no certificate")) } else { Ok(all) }
}
