//! Where keys come from, and when they are fetched.

use super::*;

/// G11: an address that is none, or that would show or lose the keys on the way, is refused.
#[test]
fn only_sensible_sources_are_taken() {
    for (url, why) in [
        ("issuer/keys", "is no address"),
        ("ftp://issuer/keys", "must begin"),
        ("http://issuer/keys", "must begin with https://, except"),
        ("https://me:sesame@issuer/keys", "must not hold credentials"),
        ("https://", "is no address"),
    ] {
        let refused = Source::parse(url, None).unwrap_err();
        assert!(refused.starts_with(why), "{url}: {refused}");
    }
    let source = Source::parse("https://issuer.example/keys?v=1", None).unwrap();
    assert_eq!((source.host.as_str(), source.port), ("issuer.example", 443));
    assert_eq!(source.path, "/keys?v=1");
    let source = Source::parse("http://[::1]:8080", None).unwrap();
    assert_eq!((source.host.as_str(), source.port, source.secure), ("::1", 8080, false));
    Source::parse("http://127.0.0.1/keys", None).unwrap();
}

/// Failures are retried ever more rarely, and never all at the same moment.
#[test]
fn failures_back_off() {
    let interval = Duration::from_secs(300);
    let mut schedule = Schedule::new(interval);
    assert_eq!(schedule.next(true, 0.5), interval);
    let waits: Vec<u64> =
        (0..12).map(|_| u64::try_from(schedule.next(false, 1.0).as_millis()).unwrap()).collect();
    assert_eq!(waits[..4], [1_000, 2_000, 4_000, 8_000]);
    assert_eq!(waits[11], 300_000);
    assert_eq!(schedule.next(false, 0.0), interval / 2);
    assert!(schedule.next(true, 0.0) < interval && schedule.next(true, 1.0) > interval);
    assert_eq!(schedule.next(false, 1.0), RETRY_MIN);
}
