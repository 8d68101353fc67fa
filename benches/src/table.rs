//! The report as people read it in a terminal. Pure: no store, no clock, no async.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::goals::{OURS, Verdict};
use crate::measure::{Measure, figure};
use crate::report::{Report, Series};
use crate::stats::Summary;

/// Measures that are shown with their spread; the others would make the table wider than a screen.
const SPREAD: [Measure; 3] = [Measure::PerSecond, Measure::Seconds, Measure::P99Ms];

/// The whole report.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut text = format!("{}\n{}\n", report.date, report.machine.line());
    for (system, version) in &report.versions {
        // Writing to a string cannot fail.
        let _written = writeln!(text, "{system}: {version}");
    }
    for workload in report.workloads() {
        let series: Vec<_> = report.series.iter().filter(|one| one.workload == workload).collect();
        let _written = writeln!(text, "\n{workload}\n{}", workload_table(&series));
    }
    for note in &report.notes {
        let _written = writeln!(text, "* {note}");
    }
    if !report.goals.is_empty() {
        let _written = writeln!(text, "\n{}", goals(&report.goals));
    }
    text
}

fn workload_table(series: &[&Series]) -> Table {
    let measures: BTreeSet<Measure> =
        series.iter().flat_map(|one| one.measures.keys().copied()).collect();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let heads = measures.iter().map(|measure| measure.title());
    table.set_header(["case", "system", "ours is"].into_iter().chain(heads));
    let mut case = "";
    for one in series {
        let shown = if one.case == case { "" } else { one.case.as_str() };
        case = &one.case;
        let mut row =
            vec![Cell::new(shown), Cell::new(one.system), Cell::new(ours_is(one, series))];
        for measure in &measures {
            let text = one.measures.get(measure).map(|summary| cell(*measure, summary));
            let text = text.unwrap_or_default();
            row.push(Cell::new(text).set_alignment(CellAlignment::Right));
        }
        table.add_row(row);
    }
    table
}

/// The median, with the spread where there is room.
fn cell(measure: Measure, summary: &Summary) -> String {
    let median = figure(summary.median);
    if SPREAD.contains(&measure) && summary.runs > 1 {
        return format!("{median} ({}–{})", figure(summary.min), figure(summary.max));
    }
    median
}

/// How much better we are than this system in this case, by the first measure of both.
fn ours_is(one: &Series, series: &[&Series]) -> String {
    let ours = series.iter().find(|other| other.case == one.case && other.system == OURS);
    let Some(ours) = ours.filter(|ours| ours.system != one.system) else { return String::new() };
    let both = one.measures.iter().find_map(|(measure, theirs)| {
        Some((*measure, ours.measures.get(measure)?.median, theirs.median))
    });
    both.map_or_else(String::new, |(measure, ours, theirs)| {
        let ratio = if measure.less_is_better() { theirs / ours } else { ours / theirs };
        format!("{ratio:.2} ×")
    })
}

fn goals(verdicts: &[Verdict]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["to reach", "reached", ""]);
    for Verdict { goal, reached, holds } in verdicts {
        let reached = reached.map_or_else(|| "–".to_owned(), figure);
        let holds = match holds {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "not measured",
        };
        table.add_row([goal, &reached, holds]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(system: &'static str, measure: Measure, runs: &[f64]) -> Series {
        let runs = runs.iter().map(|value| [(measure, *value)].into()).collect();
        Series::new("W1", "64 writers", system, runs)
    }

    #[test]
    fn a_row_says_median_spread_and_how_we_compare() {
        let ours = series(OURS, Measure::PerSecond, &[100.0, 300.0, 200.0]);
        let peer = series("etcd", Measure::PerSecond, &[100.0]);
        let text = workload_table(&[&ours, &peer]).to_string();
        assert!(text.contains("200 (100–300)"), "{text}");
        assert!(text.contains("2.00 ×"), "{text}");
    }

    #[test]
    fn of_latencies_the_smaller_one_is_better() {
        let ours = series(OURS, Measure::Seconds, &[1.0]);
        let peer = series("etcd", Measure::Seconds, &[3.0]);
        assert_eq!(ours_is(&peer, &[&ours, &peer]), "3.00 ×");
        assert_eq!(ours_is(&ours, &[&ours, &peer]), "");
    }
}
