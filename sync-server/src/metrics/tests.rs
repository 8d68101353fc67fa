//! What is rendered is what is described.

use std::collections::BTreeSet;

use sync_proto::types::Timestamp;

use super::*;

/// The names in a page, with what each label was seen to be.
fn names(page: &str) -> BTreeSet<&str> {
    let samples = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect()
}

/// Every metric is there before anything has happened, and none that is not described.
#[test]
fn the_page_is_what_is_described() {
    let metrics = Metrics::on();
    metrics.synced(Duration::from_millis(2));
    metrics.wrote_group(3, 70);
    metrics.answered("/deltasync.v1.SyncService/Pull", 0, Duration::from_millis(1));
    let (committed, now) = (Timestamp::from_millis(5), Timestamp::from_millis(9));
    metrics.delivered(committed, now);
    metrics.applied(committed, now);
    let page = metrics.render(&Sample::default());
    let mut expected = BTreeSet::new();
    for metric in ALL {
        assert!(page.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{page}");
        match metric.kind {
            Kind::Counter | Kind::Gauge => {
                expected.insert(metric.name.to_owned());
            }
            Kind::Histogram(buckets) => {
                assert!(buckets.is_sorted());
                expected
                    .extend(["bucket", "sum", "count"].map(|end| format!("{}_{end}", metric.name)));
            }
        }
    }
    assert_eq!(names(&page), expected.iter().map(String::as_str).collect(), "{page}");
}

#[test]
fn what_happens_is_counted() {
    let metrics = Metrics::on();
    metrics.committed(CommitResult::Done, 7);
    metrics.committed(CommitResult::Refused, 7);
    metrics.pulled(&Outcome::<()>::Denied);
    metrics.stream_reset(ResetReason::BelowFloor);
    for code in [0, 8, 13, 5, 14] {
        metrics.answered("/deltasync.v1.WriteService/Commit", code, Duration::from_millis(30));
    }
    metrics.answered("/some.Other/Call", 0, Duration::ZERO);
    metrics.wrote_group(2, 0);
    metrics.wrote_group(3, 70);
    metrics.sent(SentKind::Load, 900);
    metrics.repairs(RepairReader::InStep);
    metrics.delivered(Timestamp::from_millis(5), Timestamp::from_millis(5 + 30));
    let (mut parked, _live) = (metrics.subscriber(), metrics.subscriber());
    parked.is(SubscriberState::Lagging);
    parked.is(SubscriberState::Parked);
    drop(metrics.subscriber());
    let (store_bytes, live_bytes, floor_distance) = (300, 100, Some((4, 9)));
    let sample = Sample { store_bytes, live_bytes, floor_distance, ..Sample::default() };
    let waiting = Waiting { loads: 3, ..Waiting::default() };
    let sample = Sample { waiting, page_hits: 5, unsynced_files: 1, ..sample };
    let page = metrics.render(&sample);
    for line in [
        "deltasync_mutations_total 7",
        "deltasync_commits_total{result=\"done\"} 1",
        "deltasync_commits_total{result=\"refused\"} 1",
        "deltasync_commits_total{result=\"full\"} 0",
        "deltasync_pull_targets_total{outcome=\"denied\"} 1",
        "deltasync_resets_total{call=\"subscribe\",reason=\"below_floor\"} 1",
        "deltasync_resets_total{call=\"pull\",reason=\"below_floor\"} 0",
        "deltasync_page_cache_total{result=\"hit\"} 5",
        "deltasync_store_unsynced_files 1",
        "deltasync_commit_group_commits_sum 5",
        "deltasync_inbox_group_entries_sum 70",
        "deltasync_inbox_group_entries_count 1",
        "deltasync_calls_total{call=\"WriteService/Commit\",result=\"ok\"} 1",
        "deltasync_calls_total{call=\"WriteService/Commit\",result=\"refused\"} 1",
        "deltasync_calls_total{call=\"WriteService/Commit\",result=\"limited\"} 1",
        "deltasync_calls_total{call=\"WriteService/Commit\",result=\"failed\"} 1",
        "deltasync_calls_total{call=\"WriteService/Commit\",result=\"unavailable\"} 1",
        "deltasync_call_seconds_bucket{call=\"WriteService/Commit\",le=\"0.025\"} 0",
        "deltasync_call_seconds_bucket{call=\"WriteService/Commit\",le=\"0.1\"} 5",
        "deltasync_sent_bytes_total{kind=\"load\"} 900",
        "deltasync_repairs_total{reader=\"in_step\"} 1",
        "deltasync_delivered_seconds_bucket{le=\"0.05\"} 1",
        "deltasync_subscribers{state=\"live\"} 1",
        "deltasync_subscribers{state=\"lagging\"} 0",
        "deltasync_subscribers{state=\"parked\"} 1",
        "deltasync_store_amplification 3",
        "deltasync_floor_distance_versions{of=\"least\"} 4",
        "deltasync_disk_free_bytes NaN",
        "deltasync_waiting{for=\"loads\"} 3",
        "deltasync_waiting{for=\"reads\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert_eq!(Metrics::off().render(&sample), "");
}
