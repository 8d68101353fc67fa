//! Which charts are drawn.

use sync_benches::measure::Measure;
use sync_benches::plot::chart;
use sync_benches::report::Report;

/// File, workload, measure, title.
const CHARTS: [(&str, &str, Measure, &str); 5] = [
    (
        "w1-commits.svg",
        "W1",
        Measure::PerSecond,
        "Durable commits: mutations a second, each synced",
    ),
    (
        "w2-catch-up.svg",
        "W2",
        Measure::Seconds,
        "Catch-up: seconds until the client has everything",
    ),
    ("w3-fan-out.svg", "W3", Measure::PerSecond, "Fan-out: deliveries a second"),
    (
        "w3-latency.svg",
        "W3",
        Measure::P99Ms,
        "Fan-out: from write to delivery, 99 of 100, at 100 writes/s",
    ),
    (
        "w4-first-load.svg",
        "W4",
        Measure::Seconds,
        "First load: seconds from a server that has just started",
    ),
];

/// Those of what was measured, with their names.
pub(crate) fn all(report: &Report) -> Vec<(&'static str, String)> {
    let drawn = CHARTS.iter().filter_map(|(file, workload, measure, title)| {
        Some((*file, chart(report, workload, *measure, title)?))
    });
    drawn.collect()
}
