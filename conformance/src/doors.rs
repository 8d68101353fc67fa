//! The server's door where it is guarded: an authority that lives for one case, tokens, a policy, and
//! what a client is given to come in.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use sync_server::config::Config;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// Variables that tell a client whom to trust and what to show.
const CA_FILE: &str = "DELTASYNC_CA_FILE";
const TOKEN: &str = "DELTASYNC_TOKEN";
/// Who the kit itself is, by its certificate.
const KIT: &str = "kit.test";
/// Bytes that the tenant may store: seven of the ten items of the mode `write`.
const TENANT_BYTES_MAX: u64 = 100;

/// What a client shows at a guarded door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// The token of somebody who may read and write.
    Writer,
    /// Likewise, but the policy bounds what may be stored.
    Tenant,
    /// The token of somebody who may read.
    Reader,
    /// A token that nobody has given out.
    Stranger,
    /// No token.
    Nobody,
    /// A good token; but whom the client is told to trust does not vouch for the server.
    Impostor,
}

/// Files that live for one case.
#[derive(Debug)]
pub struct Guard {
    dir: TempDir,
    door: Door,
}

/// What goes wrong where certificates are made.
type Failed = Box<dyn std::error::Error + Send + Sync>;

// === impl Door ===

impl Door {
    fn token(self) -> Option<&'static str> {
        match self {
            Self::Writer | Self::Tenant | Self::Impostor => Some("secret of the writer"),
            Self::Reader => Some("secret of the reader"),
            Self::Stranger => Some("secret of nobody"),
            Self::Nobody => None,
        }
    }

    fn policy(self) -> String {
        let grants = format!(
            "[[identities]]\nname = \"{KIT}\"\nsubject = \"kit\"\n\
             [[grants]]\nsubjects = [\"kit\"]\nread = [\"*\"]\nwrite = [\"*\"]\nadmin = [\"*\"]\n\
             [[grants]]\nsubjects = [\"writer\", \"reader\"]\nread = [\"*\"]\n\
             [[grants]]\nsubjects = [\"writer\"]\nwrite = [\"*\"]\n"
        );
        let tokens = [(Self::Writer, "writer"), (Self::Reader, "reader")].map(|(door, subject)| {
            let hash = hex(&Sha256::digest(door.token().unwrap_or_default()));
            format!("[[tokens]]\nsubject = \"{subject}\"\nsha256 = \"{hash}\"\n")
        });
        let stored = format!("[[stored]]\nbelow = \"list\"\nbytes_max = {TENANT_BYTES_MAX}\n");
        let stored = if self == Self::Tenant { stored } else { String::new() };
        grants + &tokens.concat() + &stored
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

// === impl Guard ===

impl Guard {
    /// An authority, and what it vouches for.
    pub fn new(door: Door) -> io::Result<Self> {
        let this = Self { dir: TempDir::new()?, door };
        this.make().map_err(io::Error::other)?;
        Ok(this)
    }

    /// What the server is told.
    pub fn guard(&self, config: &mut Config) {
        config.tls_cert_file = Some(self.path("server.crt"));
        config.tls_key_file = Some(self.path("server.key"));
        config.tls_client_ca_file = Some(self.path("ca.crt"));
        config.tls_client_required = false;
        config.policy_file = Some(self.path("policy.toml"));
    }

    /// What a client is told.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let authority = if self.door == Door::Impostor { "other.crt" } else { "ca.crt" };
        let authority = self.path(authority).display().to_string();
        let token = self.door.token().map(|token| (TOKEN, token.to_owned()));
        token.into_iter().chain([(CA_FILE, authority)]).collect()
    }

    /// The kit's own way in: its certificate.
    pub fn channel(&self, address: SocketAddr) -> io::Result<Channel> {
        let connector = TlsConnector::from(Arc::new(self.own().map_err(io::Error::other)?));
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(io::Error::other)?;
        let endpoint = endpoint.origin(Uri::from_static("https://127.0.0.1"));
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move {
                let name = ServerName::from(address.ip());
                let line = TcpStream::connect(address).await?;
                Ok::<_, io::Error>(TokioIo::new(connector.connect(name, line).await?))
            }
        })))
    }

    fn own(&self) -> Result<ClientConfig, Failed> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.crt"))?)?;
        let chain = vec![CertificateDer::from_pem_file(self.path("kit.crt"))?];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(self.path("kit.key"))?)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn make(&self) -> Result<(), Failed> {
        let authority = Authority::make(&self.path("ca.crt"))?;
        let here = SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));
        authority.vouch(here, &self.path("server"))?;
        authority.vouch(SanType::DnsName(KIT.try_into()?), &self.path("kit"))?;
        Authority::make(&self.path("other.crt"))?;
        fs::write(self.path("policy.toml"), self.door.policy())?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Who vouches for others.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

// === impl Authority ===

impl Authority {
    /// A new one, with its certificate in this file.
    fn make(file: &Path) -> Result<Self, Failed> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority of one case");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(file, params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key) })
    }

    /// Vouches for whoever has this name: `path.crt` and `path.key`.
    fn vouch(&self, name: SanType, path: &Path) -> Result<(), Failed> {
        let mut params = CertificateParams::default();
        // Who bears the name of the authority that vouches for it counts as vouching for itself.
        params.distinguished_name.push(DnType::CommonName, "vouched for");
        params.subject_alt_names.push(name);
        let key = KeyPair::generate()?;
        fs::write(path.with_extension("crt"), params.signed_by(&key, &self.issuer)?.pem())?;
        fs::write(path.with_extension("key"), key.serialize_pem())?;
        Ok(())
    }
}
