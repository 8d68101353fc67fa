//! Authorities and certificates that live for one test, and connections that use them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use sync_tests::wire::Wire;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::{Endpoint, Uri};

/// Who vouches for others.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// How a client connects.
#[derive(Clone)]
pub(crate) struct Client {
    config: ClientConfig,
}

// === impl Authority ===

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate with these names, URIs or of DNS, and this common name.
    pub(crate) fn issue(&self, common: &str, names: &[&str]) -> Pair {
        self.issue_for(common, names, Duration::from_secs(3_600))
    }

    /// Likewise, for so long from now.
    pub(crate) fn issue_for(&self, common: &str, names: &[&str], life: Duration) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common);
        params.not_before = (std::time::SystemTime::now() - Duration::from_secs(60)).into();
        params.not_after = (std::time::SystemTime::now() + life).into();
        for name in names {
            params.subject_alt_names.push(if name.contains(':') {
                SanType::URI((*name).try_into().unwrap())
            } else {
                SanType::DnsName((*name).try_into().unwrap())
            });
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    /// A certificate of a server on this machine.
    pub(crate) fn server(&self) -> Pair {
        self.issue("server", &["localhost"])
    }
}

// === impl Pair ===

impl Pair {
    /// Writes both as `name.crt` and `name.key`, the key last.
    pub(crate) fn write(&self, dir: &Path, name: &str) {
        std::fs::write(dir.join(format!("{name}.crt")), &self.certificate).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), &self.key).unwrap();
    }

    /// What a server needs that shows it.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key);
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }
}

// === impl Client ===

impl Client {
    /// One that trusts this authority, and shows this certificate.
    pub(crate) fn new(trusted: &Authority, shown: Option<&Pair>) -> Self {
        Self::speaking(rustls::ALL_VERSIONS, trusted, shown)
    }

    /// Likewise, in these versions of TLS.
    pub(crate) fn speaking(
        versions: &[&'static SupportedProtocolVersion],
        trusted: &Authority,
        shown: Option<&Pair>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes());
                let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { config }
    }

    /// The same, offering other protocols.
    pub(crate) fn offering(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|one| one.as_bytes().to_vec()).collect();
        self
    }

    /// A bare connection.
    pub(crate) async fn connect(&self, to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(to).await?;
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    /// A connection for calls.
    pub(crate) async fn wire(&self, to: SocketAddr) -> Result<Wire, tonic::transport::Error> {
        let client = self.clone();
        let endpoint = Endpoint::from_static("http://localhost")
            .origin(Uri::from_static("https://localhost"))
            .connect_timeout(sync_tests::wait::PATIENCE);
        let connector = tower::service_fn(move |_: Uri| {
            let client = client.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(client.connect(to).await?)) }
        });
        Ok(Wire::over(endpoint.connect_with_connector(connector).await?))
    }
}
