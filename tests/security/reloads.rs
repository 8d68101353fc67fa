//! Files that change while a server runs: what is counted, and what stays in force.

use std::path::Path;

use sync_server::auth::principal::Credentials;
use sync_server::config::Config;
use sync_server::metrics::{Metrics, Sample};
use sync_server::security::Security;
use sync_tests::wait::until_true;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::guard::{token, tokens};

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// G10: a change that makes no sense is counted and changes nothing; a good one after it counts.
#[tokio::test]
async fn changes_are_counted_and_bad_ones_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let authority = Authority::new();
    authority.server().write(dir.path(), "server");
    write(&path("ca.crt"), &authority.pem);
    write(&path("secret"), &"s".repeat(32));
    write(&path("policy"), &tokens(&["alice"]));
    let security = Security::load(&Config {
        data_dir: "unused".into(),
        policy_file: Some(path("policy")),
        jwt_secret_file: Some(path("secret")),
        jwt_audience: Some("deltasync".to_owned()),
        tls_cert_file: Some(path("server.crt")),
        tls_key_file: Some(path("server.key")),
        tls_client_ca_file: Some(path("ca.crt")),
        ..Config::default()
    })
    .unwrap();
    let (access, metrics, stop) = (security.access(), Metrics::on(), CancellationToken::new());
    let known = |subject: &str| {
        let header = format!("Bearer {}", token(subject));
        access.identify(Credentials::of_header(Some(&header))).is_ok()
    };
    let counted = async |what: &str, result: &str| {
        let line = format!("deltasync_reloads_total{{what=\"{what}\",result=\"{result}\"}} 1");
        until_true(&line, async || {
            metrics.render(&Sample::default()).lines().any(|found| found == line)
        })
        .await;
    };
    let changes = async {
        for (what, file, good) in [
            ("policy", "policy", tokens(&["bob"])),
            ("keys", "secret", "t".repeat(32)),
            ("certificate", "server.crt", String::new()),
            ("authority", "ca.crt", Authority::new().pem),
        ] {
            write(&path(file), "nonsense");
            counted(what, "refused").await;
            assert!(known("alice") || what != "policy", "what was before stays");
            if what == "certificate" {
                authority.server().write(dir.path(), "server");
            } else {
                write(&path(file), &good);
            }
            counted(what, "done").await;
        }
        assert!(known("bob") && !known("alice"));
        let page = metrics.render(&Sample::default());
        let ends = page.lines().find_map(|line| {
            line.strip_prefix("deltasync_tls_certificate_end_seconds ")?.parse::<f64>().ok()
        });
        assert!(ends.is_some_and(|ends| ends > 1.7e9), "{ends:?}");
        stop.cancel();
    };
    tokio::join!(security.watch(metrics.clone(), stop.clone()), changes);
}
