//! Guarded servers: their policies, and the tokens that go with them.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use sync_proto::types::{Mutation, Op, Subject};
use sync_server::config::Config;
use sync_tests::compose::name;
use sync_tests::data::hex;
use sync_tests::server::TestServer;
use sync_tests::wire::Wire;
use tempfile::TempDir;

use crate::authority::Authority;

/// Who shows which token: each subject's is its name with this behind it.
const SECRET: &str = "-0123456789-secret";

/// A server with a policy file that can be exchanged.
pub(crate) struct Guarded {
    pub(crate) server: TestServer,
    dir: TempDir,
}

/// The token of a subject.
pub(crate) fn token(subject: &str) -> String {
    format!("{subject}{SECRET}")
}

/// The lines of a policy that let these subjects in.
pub(crate) fn tokens(subjects: &[&str]) -> String {
    let entry = |subject: &&str| {
        let hash = hex(&Sha256::digest(token(subject)));
        format!("[[tokens]]\nsubject = \"{subject}\"\nsha256 = \"{hash}\"\n")
    };
    subjects.iter().map(entry).collect()
}

/// A subject follows a collection.
pub(crate) fn follows(collection: &str, subject: &str) -> Mutation {
    let subject = Subject::new(subject).unwrap();
    Mutation { collection: name(collection), op: Op::Follow { subject } }
}

// === impl Guarded ===

impl Guarded {
    /// A server with this policy.
    pub(crate) async fn start(policy: &str) -> Self {
        Self::start_with(policy, |_, _| {}).await
    }

    /// A server with this policy that believes what these keys sign, too.
    pub(crate) async fn believing(policy: &str, keys: &str) -> Self {
        Self::start_with(policy, |config, dir| {
            let file = dir.join("keys.json");
            std::fs::write(&file, keys).unwrap();
            config.jwt_audience = Some("deltasync".to_owned());
            config.jwt_keys_file = Some(file);
        })
        .await
    }

    /// The same, and believes this authority as to who clients are; it shows a certificate of it, too.
    pub(crate) async fn vouched_for(policy: &str, authority: &Authority) -> Self {
        Self::start_with(policy, |config, dir| {
            authority.server().write(dir, "server");
            std::fs::write(dir.join("clients.crt"), &authority.pem).unwrap();
            config.tls_cert_file = Some(dir.join("server.crt"));
            config.tls_key_file = Some(dir.join("server.key"));
            config.tls_client_ca_file = Some(dir.join("clients.crt"));
            config.tls_client_required = false;
        })
        .await
    }

    /// A server with this policy, whose configuration and directory are changed before.
    pub(crate) async fn start_with(policy: &str, change: impl FnOnce(&mut Config, &Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, policy).unwrap();
        let server = TestServer::with(|config| {
            config.policy_file = Some(path);
            change(config, dir.path());
        })
        .await;
        Self { server, dir }
    }

    /// Exchanges the policy, as an editor or an operator does.
    pub(crate) fn exchange(&self, policy: &str) {
        let new = self.dir.path().join("policy.new");
        std::fs::write(&new, policy).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    /// Where the policy is.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("policy.toml")
    }

    /// The connection of a subject.
    pub(crate) fn wire(&self, subject: &str) -> Wire {
        self.server.wire().showing(&token(subject))
    }
}
