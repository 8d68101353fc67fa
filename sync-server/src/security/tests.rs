//! What a configuration may say.

use super::*;

const TOKEN: &str = "[[tokens]]\nsubject = \"a\"\nsha256 = \"";

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config { data_dir: "unused".into(), ..Config::default() };
    change(&mut config);
    config
}

fn refused(config: &Config) -> String {
    said(&Security::load(config).map(|_| ()).unwrap_err())
}

fn policy() -> String {
    format!("{TOKEN}{}\"\n", "0a".repeat(32))
}

/// G11: plain text for others than this machine is refused unless it is asked for.
#[test]
fn plain_text_stays_on_this_machine() {
    let anywhere = |plaintext| {
        config(|config| {
            config.listen = ([0, 0, 0, 0], 7411).into();
            config.plaintext_anywhere = plaintext;
        })
    };
    let text = refused(&anywhere(false));
    assert!(text.contains("tls_cert_file") && text.contains("plaintext_anywhere"), "{text}");
    Security::load(&anywhere(true)).unwrap();
    let operators = config(|config| config.admin_listen = "0.0.0.0:7412".parse().ok());
    assert!(refused(&operators).starts_with("admin_listen: 0.0.0.0:7412 "));
    Security::load(&config(|config| config.listen = "[::1]:0".parse().unwrap())).unwrap();
}

/// G11: settings that do not go together are refused, and the one to change is named.
#[test]
fn settings_that_do_not_go_together_are_named() {
    type Break = fn(&mut Config, &Path);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    file("policy", &policy());
    file("empty", "");
    file("secret", &"s".repeat(32));
    let cases: [(&str, Break); 11] = [
        ("policy_file: nobody could", |config, dir| config.policy_file = Some(dir.join("empty"))),
        ("policy_file: ", |config, dir| config.policy_file = Some(dir.join("none"))),
        ("policy_file: ", |config, dir| config.policy_file = Some(dir.join("secret"))),
        ("jwt_audience: must be set", |config, dir| {
            config.jwt_secret_file = Some(dir.join("secret"));
        }),
        ("policy_file: is needed", |config, dir| {
            config.jwt_secret_file = Some(dir.join("secret"));
            config.jwt_audience = Some("a".to_owned());
        }),
        ("jwt_keys_file: set one of", |config, dir| {
            config.jwt_secret_file = Some(dir.join("secret"));
            config.jwt_keys_file = Some(dir.join("secret"));
        }),
        ("jwt_keys_url: must begin", |config, _| {
            config.jwt_keys_url = Some("http://issuer/keys".to_owned());
            config.jwt_audience = Some("a".to_owned());
        }),
        ("jwt_audience: is of no use", |config, _| config.jwt_audience = Some("a".to_owned())),
        ("tls_key_file: must be set", |config, dir| config.tls_cert_file = Some(dir.join("a"))),
        ("tls_client_ca_file: is of no", |config, dir| {
            config.tls_client_ca_file = Some(dir.join("a"));
        }),
        ("tls_cert_file: ", |config, dir| {
            config.tls_cert_file = Some(dir.join("policy"));
            config.tls_key_file = Some(dir.join("policy"));
        }),
    ];
    for (expected, spoil) in cases {
        let text = refused(&config(|config| spoil(config, dir.path())));
        assert!(text.starts_with(expected), "{expected}: {text}");
    }
}
