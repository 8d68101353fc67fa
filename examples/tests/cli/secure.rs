//! `syncctl` over TLS: by flags and by environment, with a token's file and with a certificate.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::programs::{Ended, ended, syncctl};
use crate::server::Server;

const TOKEN: &str = "the token of root";

/// A server that speaks TLS, and the files of those who talk to it.
struct Secure {
    server: Server,
    dir: TempDir,
}

fn issue(issuer: &Issuer<'_, KeyPair>, dir: &Path, file: &str, name: &str) {
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    std::fs::write(dir.join(format!("{file}.crt")), certificate.pem()).unwrap();
    std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
}

// === impl Secure ===

impl Secure {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        issue(&issuer, dir.path(), "server", "localhost");
        issue(&issuer, dir.path(), "edge", "edge.prod");
        std::fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let hash = Sha256::digest(TOKEN).iter().fold(String::new(), |mut hash, byte| {
            write!(hash, "{byte:02x}").unwrap();
            hash
        });
        let policy = format!(
            "[[grants]]\nsubjects = [\"root\", \"edge.prod\"]\nread = [\"*\"]\nwrite = [\"*\"]\n\
             [[tokens]]\nsubject = \"root\"\nsha256 = \"{hash}\"\n"
        );
        std::fs::write(dir.path().join("policy"), policy).unwrap();
        let at = dir.path().to_owned();
        let server = Server::start_with(move |config| {
            config.tls_cert_file = Some(at.join("server.crt"));
            config.tls_key_file = Some(at.join("server.key"));
            config.tls_client_ca_file = Some(at.join("ca.crt"));
            config.tls_client_required = false;
            config.policy_file = Some(at.join("policy"));
        });
        Self { server, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `syncctl` with files as flags.
    fn run(&self, args: &[&str], files: &[(&str, &str)]) -> Ended {
        let mut command = syncctl(&self.server, args);
        command.env("SYNCCTL_SERVER", self.server.secure_uri());
        for (flag, file) in files {
            command.arg(flag).arg(self.path(file));
        }
        ended(command, &[])
    }
}

/// Whom to trust and what to show are flags or variables; what is wrong is said with its reason.
#[test]
fn tls_is_spoken_by_flags_and_by_environment() {
    let secure = Secure::start();
    let (ca, token) = (("--ca-file", "ca.crt"), ("--token-file", "token"));
    let certificate = [ca, ("--cert-file", "edge.crt"), ("--key-file", "edge.key")];
    let put = secure.run(&["put", "list", "a", "1"], &[ca, token]);
    assert_eq!(put.code, Some(0), "{put:?}");
    let get = secure.run(&["get", "list", "a"], &certificate);
    assert_eq!(get.code, Some(0), "{get:?}");
    let health = secure.run(&["health"], &[ca]);
    assert_eq!(health.code, Some(0), "{health:?}");

    let mut command = syncctl(&secure.server, &["get", "list", "a"]);
    command.env("SYNCCTL_SERVER", secure.server.secure_uri());
    command.env("SYNCCTL_CA_FILE", secure.path("ca.crt"));
    command.env("SYNCCTL_TOKEN_FILE", secure.path("token"));
    let by_environment = ended(command, &[]);
    assert_eq!(by_environment.code, Some(0), "{by_environment:?}");

    let nobody = secure.run(&["get", "list", "a"], &[ca]);
    assert!(nobody.err.contains("--token-file") && nobody.code != Some(0), "{nobody:?}");
    let distrusted = secure.run(&["get", "list", "a"], &[("--ca-file", "none"), token]);
    assert!(distrusted.err.contains("none") && distrusted.code == Some(2), "{distrusted:?}");
    let half = secure.run(&["get", "list", "a"], &[ca, ("--cert-file", "edge.crt")]);
    assert!(half.err.contains("--key-file") && half.code == Some(2), "{half:?}");
}
