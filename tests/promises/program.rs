//! The program around the server: what it says of its settings, how it ends, what it describes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use sync_server::config::Config;
use sync_tests::compose::put;
use sync_tests::process::Program;
use sync_tests::server::TestServer;
use sync_tests::wait::within;
use tonic::transport::Channel;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::SERVER;

/// Runs the program to its end.
fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(SERVER);
    command.args(args).envs(env.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = [stdout, stderr].concat();
    (status.code().expect("it was not killed"), String::from_utf8(text).unwrap())
}

/// A setting that is unknown or makes no sense is an error that names it, wherever it stands.
#[test]
fn a_wrong_setting_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = dir.path().join("server.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let data = ["--data-dir", "unused"];
    let with = |more: &[&'static str]| [&data[..], more].concat();
    let (code, text) = run(&with(&["--nonsense", "1"]), &[]);
    assert!(code == 2 && text.contains("--nonsense"), "{code}: {text}");
    let (code, text) = run(&with(&["--cache-mib", "much"]), &[]);
    assert!(code == 2 && text.contains("--cache-mib"), "{code}: {text}");
    let (code, text) = run(&with(&["--cache-mib", "0"]), &[]);
    assert!(code == 2 && text.contains("cache_mib"), "{code}: {text}");
    let (code, text) = run(&with(&["--grace-s", "301"]), &[]);
    assert!(code == 2 && text.contains("grace_s"), "{code}: {text}");
    let (code, text) = run(&data, &[("SYNC_SERVER_NONSENSE", "1")]);
    assert!(code == 2 && text.to_lowercase().contains("nonsense"), "{code}: {text}");
    let (code, text) = run(&data, &[("SYNC_SERVER_STREAMS_MAX", "-1")]);
    assert!(code == 2 && text.to_lowercase().contains("streams_max"), "{code}: {text}");
    let unknown = file("data_dir = \"unused\"\nnonsense = 1\n");
    let (code, text) = run(&["--config", &unknown], &[]);
    assert!(code == 2 && text.contains("nonsense"), "{code}: {text}");
    let wrong = file("data_dir = \"unused\"\nlisten = \"here\"\n");
    let (code, text) = run(&["--config", &wrong], &[]);
    assert!(code == 2 && text.contains("listen"), "{code}: {text}");
    let (code, text) = run(&["--config", "no such file"], &[]);
    assert!(code == 2 && text.contains("no such file"), "{code}: {text}");
    let (code, text) = run(&[], &[]);
    assert!(code == 2 && text.contains("data_dir"), "{code}: {text}");
}

/// Flags win over the environment, the environment over the file, the file over the defaults.
#[test]
fn settings_have_an_order_of_precedence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server.toml");
    std::fs::write(
        &path,
        "data_dir = \"of the file\"\ncache_mib = 3\ngrace_s = 3\nstreams_max = 3\n",
    )
    .unwrap();
    let args = ["--config", path.to_str().unwrap(), "--print-config", "--cache-mib", "5"];
    let env = [("SYNC_SERVER_CACHE_MIB", "4"), ("SYNC_SERVER_GRACE_S", "4")];
    let (code, text) = run(&args, &env);
    assert_eq!(code, 0, "{text}");
    let config: Config = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (config.cache_mib, config.grace_s, config.streams_max, config.tombstones_max),
        (5, 4, 3, 1_000_000)
    );
    assert_eq!(config.data_dir, Path::new("of the file"));
}

/// `--help` tells every setting that there is, and every exit code.
#[test]
fn help_is_complete() {
    let (code, help) = run(&["--help"], &[]);
    assert_eq!(code, 0);
    let settings = serde_json::to_value(Config::default()).unwrap();
    for setting in settings.as_object().unwrap().keys().filter(|setting| *setting != "tokens") {
        let flag = format!("--{} ", setting.replace('_', "-"));
        assert!(help.contains(&flag), "--help does not tell of {flag}");
    }
    for exit in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 "] {
        assert!(help.contains(exit), "--help does not tell of exit code {exit}");
    }
}

/// SIGTERM ends it well; a second server on the same store or port says what is in its way; what
/// is not a store of this program's format is refused as such.
#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_mean_something() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::new(SERVER, dir.path());
    let mut process = program.start_serving().await;
    program.wire().commit(vec![put("list", "a", "1")]).await;

    let mut rival = Program::new(SERVER, dir.path()).start();
    assert_eq!(rival.ended().await.code(), Some(1), "{}", rival.log());
    assert!(rival.log().contains("in use"), "{}", rival.log());
    let elsewhere = tempfile::tempdir().unwrap();
    let mut rival = Program::new(SERVER, elsewhere.path()).at(program.address()).start();
    assert_eq!(rival.ended().await.code(), Some(1), "{}", rival.log());
    assert!(rival.log().contains("in use"), "{}", rival.log());

    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
    process.check_log();

    let format = dir.path().join("store/format");
    let ours = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, "99\n").unwrap();
    let mut older = program.start();
    assert_eq!(older.ended().await.code(), Some(3), "{}", older.log());
    assert!(older.log().contains("format 99"), "{}", older.log());
    std::fs::write(&format, ours).unwrap();
    program.start_serving().await.kill();
}

/// Both reflections tell the services and everything that they need to be called.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_describes_itself() {
    let wanted = [
        "deltasync.v1.AdminService",
        "deltasync.v1.SyncService",
        "deltasync.v1.WriteService",
        "grpc.health.v1.Health",
    ];
    let server = TestServer::start().await;
    for told in [
        services_v1(server.wire().channel()).await,
        services_v1alpha(server.wire().channel()).await,
    ] {
        for service in wanted {
            assert!(told.contains(service), "{told:?} lacks {service}");
        }
    }
    server.stop().await;
    let silent = TestServer::with(|config| config.reflection = false).await;
    let mut client = ServerReflectionClient::new(silent.wire().channel());
    let refused = client.server_reflection_info(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    silent.stop().await;
}

macro_rules! services {
    ($name:ident, $version:ident) => {
        async fn $name(channel: Channel) -> BTreeSet<String> {
            use pb::server_reflection_request::MessageRequest;
            use pb::server_reflection_response::MessageResponse;
            use tonic_reflection::pb::$version as pb;
            let mut client = pb::server_reflection_client::ServerReflectionClient::new(channel);
            let list = pb::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let replies = client.server_reflection_info(tokio_stream::iter([list])).await;
            let mut replies = replies.unwrap().into_inner();
            let reply = within("a reflection", replies.message()).await.unwrap().unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
                panic!("{reply:?}")
            };
            list.service.into_iter().map(|service| service.name).collect()
        }
    };
}

services!(services_v1, v1);
services!(services_v1alpha, v1alpha);
