//! What is rendered is what is described.

use std::collections::BTreeSet;

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
    metrics.wrote_group(3);
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
    let sample = Sample { page_hits: 5, unsynced_files: 1, ..Sample::default() };
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
        "deltasync_disk_free_bytes NaN",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert_eq!(Metrics::off().render(&sample), "");
}
