//! What is out of range is named; what is not, passes.

use super::*;

fn valid() -> Config {
    Config { data_dir: "data".into(), ..Config::default() }
}

/// What makes a configuration bad.
type Break = fn(&mut Config);

/// G11: whatever is out of range is named, with the limit.
#[test]
fn settings_out_of_range_are_named() {
    valid().check().unwrap();
    let cases: [(&str, Break); 42] = [
        ("jwt_keys_url: must not hold credentials", |config| {
            config.jwt_keys_url = Some("https://me:word@issuer/keys".to_owned());
        }),
        ("jwt_keys_refresh_s: 0, must be 1", |config| config.jwt_keys_refresh_s = 0),
        ("jwt_leeway_s: 301, must be 0", |config| config.jwt_leeway_s = 301),
        ("tls_handshake_timeout_s: 61", |config| config.tls_handshake_timeout_s = 61),
        ("data_dir: must be set", |config| config.data_dir = PathBuf::new()),
        ("cache_mib: 0, must be 1 to 65536", |config| config.cache_mib = 0),
        ("cache_mib: 65537, must", |config| config.cache_mib = 65_537),
        ("free_disk_min_mib: 1048577, must be 0 to 1048576", |config| {
            config.free_disk_min_mib = 1_048_577;
        }),
        ("idempotency_window_s: 0, must be 1 to 2592000", |config| {
            config.idempotency_window_s = 0;
        }),
        ("ack_age_max_s: 0, must be 1 to 3153600000", |config| config.ack_age_max_s = 0),
        ("acks_max: 100000001, must be 0", |config| config.acks_max = 100_000_001),
        ("idempotency_window_s: 2592001", |config| config.idempotency_window_s = 2_592_001),
        ("write_audience_max: 2049, must be 0 to 2048", |config| {
            config.write_audience_max = 2_049;
        }),
        ("fan_out_per_s_max: 0, must be 1", |config| config.fan_out_per_s_max = 0),
        ("fan_out_dwell_s: 3601, must be 0", |config| config.fan_out_dwell_s = 3_601),
        ("notice_interval_ms: 9, must be 10", |config| config.notice_interval_ms = 9),
        ("connections_max: 0, must be 1 to", |config| config.connections_max = 0),
        ("connections_max: 1000001", |config| config.connections_max = 1_000_001),
        ("connections_per_peer_max: 0, must", |config| config.connections_per_peer_max = 0),
        ("first_request_timeout_s: 0", |config| config.first_request_timeout_s = 0),
        ("first_request_timeout_s: 3601", |config| config.first_request_timeout_s = 3_601),
        ("streams_max: 0, must be 1 to 1000000", |config| config.streams_max = 0),
        ("streams_max: 1000001", |config| config.streams_max = 1_000_001),
        ("stream_age_max_s: 0, must be 1 to 31536000", |config| config.stream_age_max_s = 0),
        ("goodbye_jitter_ms: 600001, must be 0", |config| config.goodbye_jitter_ms = 600_001),
        ("grace_s: 0, must be 1 to 300", |config| config.grace_s = 0),
        ("grace_s: 301", |config| config.grace_s = 301),
        ("requests_mib: 15, must be 16 to 65536", |config| config.requests_mib = 15),
        ("replies_mib: 65537, must be 16", |config| config.replies_mib = 65_537),
        ("pages_mib: 0, must be 16", |config| config.pages_mib = 0),
        ("loads_mib: 15, must be 16 to 65536", |config| config.loads_mib = 15),
        ("commits_per_s_per_subject_max: 1000000001, must be 0", |config| {
            config.commits_per_s_per_subject_max = 1_000_000_001;
        }),
        ("commit_burst_s: 0, must be 1 to 3600", |config| config.commit_burst_s = 0),
        ("upload_timeout_s: 3601, must be 1", |config| config.upload_timeout_s = 3_601),
        ("streams_per_subject_max: 0, must", |config| config.streams_per_subject_max = 0),
        ("targets_max: 0, must be 1 to 100000000", |config| config.targets_max = 0),
        ("targets_per_subject_max: 0, must", |config| config.targets_per_subject_max = 0),
        ("log: ", |config| config.log = "a=b=c".to_owned()),
        ("log: \"inof\" is no level", |config| config.log = "inof".to_owned()),
        ("log: \"loud\" is no level", |config| config.log = "warn, loud".to_owned()),
        ("log: ", |config| config.log = "sync_server=inof".to_owned()),
        ("tokens: tokens[0].sha256", |config| {
            let sha256 = "no hash".to_owned();
            let (read, write) = (Vec::new(), Vec::new());
            let token = TokenConfig { sha256, subject: "a".to_owned(), read, write, admin: false };
            config.tokens = vec![token];
        }),
    ];
    refuses(&cases);
}

/// Likewise, for traces.
#[test]
fn settings_of_traces_are_named() {
    refuses(&[
        ("otlp_endpoint: must begin with http://", |config| {
            config.otlp_endpoint = Some("collector:4317".to_owned());
        }),
        ("otlp_endpoint: must not hold credentials", |config| {
            config.otlp_endpoint = Some("http://me:word@collector:4317".to_owned());
        }),
        ("otlp_sample_per_mille: 1001, must be 0 to 1000", |config| {
            config.otlp_sample_per_mille = 1_001;
        }),
        ("otlp_service_name: must have 1 to 128", |config| config.otlp_service_name.clear()),
    ]);
}

fn refuses(cases: &[(&str, Break)]) {
    for (expected, spoil) in cases {
        let mut config = valid();
        spoil(&mut config);
        let error = config.check().unwrap_err().to_string();
        assert!(error.starts_with(&format!("configuration: {expected}")), "{error}");
    }
}

#[test]
fn the_limits_themselves_are_fine() {
    let mut config = valid();
    config.free_disk_min_mib = 1_048_576;
    // Off, as an empty variable of the environment says it.
    config.otlp_endpoint = Some(String::new());
    assert_eq!(config.collector(), None);
    config.tombstone_age_max_s = u64::MAX;
    (config.tombstones_max, config.idempotency_keys_max, config.acks_max) = (0, 0, 0);
    config.check().unwrap();
    assert_eq!(config.store().free_bytes_min, 1 << 40);
}

/// G11: what is a level, and what only looks like one.
#[test]
fn levels_and_filters_are_told_apart() {
    for filter in ["info", "WARN", "off", "3", "", "info,h2=warn", "sync_server::rpc", "[span]"] {
        let config = Config { log: filter.to_owned(), ..valid() };
        config.check().unwrap_or_else(|error| panic!("{filter}: {error}"));
    }
}

#[test]
fn variables_of_kubernetes_are_not_settings() {
    for variable in [
        "port",
        "port_7411_tcp",
        "port_7411_tcp_addr",
        "service_host",
        "service_port",
        "service_port_grpc",
    ] {
        assert!(is_of_kubernetes(variable), "{variable}");
    }
    for variable in ["ports", "service", "service_hosts", "listen", "data_dir", "tokens"] {
        assert!(!is_of_kubernetes(variable), "{variable}");
    }
}
