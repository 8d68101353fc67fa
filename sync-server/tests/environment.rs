//! What the program makes of its environment.

use std::process::Command;

/// Runs the program until it has printed its configuration.
fn print_config(variables: &[(&str, &str)]) -> (Option<i32>, String) {
    print(&["--print-config"], variables)
}

fn print(flags: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sync-server"));
    command.args(["--data-dir", "unused"]).args(flags).envs(variables.iter().copied());
    let output = command.output().expect("the program was built");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("it speaks UTF-8"))
}

/// Kubernetes sets these in every container beside a Service named sync-server.
#[test]
fn what_kubernetes_injects_is_ignored() {
    let (code, text) = print_config(&[
        ("SYNC_SERVER_SERVICE_HOST", "10.0.0.1"),
        ("SYNC_SERVER_SERVICE_PORT", "7411"),
        ("SYNC_SERVER_SERVICE_PORT_GRPC", "7411"),
        ("SYNC_SERVER_PORT", "tcp://10.0.0.1:7411"),
        ("SYNC_SERVER_PORT_7411_TCP", "tcp://10.0.0.1:7411"),
        ("SYNC_SERVER_PORT_7411_TCP_ADDR", "10.0.0.1"),
        ("SYNC_SERVER_GRACE_S", "7"),
    ]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("\"grace_s\": 7"), "{text}");
    let told = print(&["--print-config=toml"], &[("SYNC_SERVER_GRACE_S", "7")]);
    let line = told.1.lines().find(|line| line.starts_with("grace_s = 7 "));
    let line = line.unwrap_or_else(|| panic!("{told:?}"));
    assert!(line.ends_with(" # environment SYNC_SERVER_GRACE_S"), "{line}");
    let (code, text) = print_config(&[("SYNC_SERVER_SERVICE", "1")]);
    assert!(code == Some(2) && text.contains("service"), "{text}");
}

/// Tokens come from the file: a variable that seems to set some must not pass unseen.
#[test]
fn tokens_are_not_read_from_the_environment() {
    let (code, text) = print_config(&[("SYNC_SERVER_TOKENS", "[]")]);
    assert!(code == Some(2) && text.contains("SYNC_SERVER_TOKENS: tokens are only read"), "{text}");
}
