//! What is measured, in which unit, and how a person reads it. Pure: no store, no clock, no async.

use serde::Serialize;

/// One kind of figure. The order is that of the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// What is done in a second: commits, changes, deliveries or clients, as the workload says.
    PerSecond,
    /// From begin to end.
    Seconds,
    /// The same, for a second client that does what the first has done.
    SecondSeconds,
    /// Half of the latencies are below, in milliseconds.
    P50Ms,
    /// 99 of 100 latencies are below, in milliseconds.
    P99Ms,
    /// Time of the server's processors for one operation, in microseconds.
    ServerUs,
    /// Time of the server's processors for the whole, in milliseconds.
    ServerMs,
    /// The same, for a second client that does what the first has done.
    SecondServerMs,
    /// Processors that the server kept busy.
    ServerCores,
    /// Processors that clients kept busy, all of them together.
    ClientCores,
    /// Memory of the server that this took at its peak, in MiB.
    PeakMib,
    /// Memory of the server, in MiB.
    MemoryMib,
    /// Memory of the server for each, in KiB.
    EachKib,
    /// Bytes on the wire, both ways, for each.
    EachBytes,
    /// Bytes on the wire in all, in KiB.
    WireKib,
    /// Bytes as a share of those of a first load, in per cent.
    LoadPercent,
}

// === impl Measure ===

impl Measure {
    /// The head of its column.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::PerSecond => "per s",
            Self::Seconds => "s",
            Self::SecondSeconds => "2nd s",
            Self::P50Ms => "p50 ms",
            Self::P99Ms => "p99 ms",
            Self::ServerUs => "server µs each",
            Self::ServerMs => "server ms",
            Self::SecondServerMs => "2nd server ms",
            Self::ServerCores => "server cores",
            Self::ClientCores => "client cores",
            Self::PeakMib => "peak MiB",
            Self::MemoryMib => "MiB",
            Self::EachKib => "KiB each",
            Self::EachBytes => "B each",
            Self::WireKib => "wire KiB",
            Self::LoadPercent => "% of a load",
        }
    }

    /// Whether less is better.
    #[must_use]
    pub fn less_is_better(self) -> bool {
        self != Self::PerSecond
    }
}

/// A figure as a person reads it: three digits that count, thousands apart.
#[must_use]
pub fn figure(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_has_three_digits_that_count() {
        assert_eq!(figure(1_234_567.8), "1,234,568");
        assert_eq!(figure(100.0), "100");
        assert_eq!(figure(23.456), "23.5");
        assert_eq!(figure(1.0), "1.00");
        assert_eq!(figure(0.012_34), "0.012");
        assert_eq!(figure(-1234.0), "-1,234");
    }
}
