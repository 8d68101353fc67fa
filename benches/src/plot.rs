//! A chart as SVG: one bar for each system in each case, a line for the spread. Pure: no store, no
//! clock, no async.

use std::fmt::Write as _;

use crate::measure::{Measure, figure};
use crate::report::{Report, Series};
use crate::stats::Summary;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 62.0;
const BAR: f64 = 15.0;
const GAP: f64 = 10.0;
const BELOW: f64 = 30.0;

/// Above this ratio of the longest bar to the shortest, lengths are logarithmic.
const LINEAR_RATIO_MAX: f64 = 50.0;

/// Colours by system, in the order in which systems occur; ours is the first.
const COLOURS: [&str; 8] =
    ["#1b6ef3", "#7fb2ff", "#e07b39", "#c63d4f", "#3f9b6d", "#8a63b8", "#8c8c8c", "#b59f3b"];

/// A chart of one measure of one workload; `None` = there is nothing to show.
#[must_use]
pub fn chart(report: &Report, workload: &str, measure: Measure, title: &str) -> Option<String> {
    let has =
        |series: &&Series| series.workload == workload && series.measures.contains_key(&measure);
    let series: Vec<&Series> = report.series.iter().filter(has).collect();
    let bars: Vec<(&Series, Summary)> =
        series.iter().map(|one| (*one, one.measures[&measure])).collect();
    let scale = Scale::of(bars.iter().map(|(_, summary)| *summary))?;
    let mut systems: Vec<&str> = Vec::new();
    for (one, _) in &bars {
        if !systems.contains(&one.system) {
            systems.push(one.system);
        }
    }
    let mut body = String::new();
    let mut y = TOP;
    let mut case = "";
    for (one, summary) in &bars {
        if one.case != case {
            y += GAP;
            case = &one.case;
            text(&mut body, (LEFT - 8.0, y + BAR - 3.0), "end", 12, &one.case);
        }
        let colour = systems.iter().position(|system| *system == one.system).unwrap_or(0);
        bar(&mut body, y, &scale, summary, COLOURS[colour % COLOURS.len()], one.system);
        y += BAR + 2.0;
    }
    let height = y + BELOW;
    let mut head = String::new();
    text(&mut head, (14.0, 24.0), "start", 16, title);
    let better = if measure.less_is_better() { "shorter is better" } else { "longer is better" };
    let lengths = if scale.log { ", lengths logarithmic" } else { "" };
    let unit = format!(
        "{}, {better}{lengths}; median, the line is from the least to the most",
        measure.title()
    );
    text(&mut head, (14.0, 42.0), "start", 11, &unit);
    let below = format!("{} · {}", report.date, report.machine.line());
    text(&mut body, (14.0, height - 10.0), "start", 10, &below);
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{head}{body}</svg>\n"
    ))
}

/// Values to lengths.
struct Scale {
    log: bool,
    least: f64,
    most: f64,
}

fn bar(body: &mut String, y: f64, scale: &Scale, summary: &Summary, colour: &str, system: &str) {
    let length = scale.length(summary.median);
    // Writing to a string cannot fail.
    let _written = writeln!(
        body,
        "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>"
    );
    let (from, to) = (LEFT + scale.length(summary.min), LEFT + scale.length(summary.max));
    let middle = y + BAR / 2.0;
    let _written = writeln!(
        body,
        "<line x1=\"{from:.1}\" y1=\"{middle:.1}\" x2=\"{to:.1}\" y2=\"{middle:.1}\" stroke=\"#222222\"/>"
    );
    let label = format!("{system} {}", figure(summary.median));
    text(body, (to.max(LEFT + length) + 6.0, y + BAR - 3.5), "start", 11, &label);
}

fn text(body: &mut String, (x, y): (f64, f64), anchor: &str, size: u32, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _written = writeln!(
        body,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"#222222\">{words}</text>"
    );
}

// === impl Scale ===

impl Scale {
    /// `None` = nothing to show.
    fn of(summaries: impl Iterator<Item = Summary> + Clone) -> Option<Self> {
        let most = summaries.clone().map(|summary| summary.max).max_by(f64::total_cmp)?;
        let above_zero = |value: &f64| *value > 0.0;
        let least =
            summaries.map(|summary| summary.min).filter(above_zero).min_by(f64::total_cmp)?;
        Some(Self { log: most / least > LINEAR_RATIO_MAX, least, most })
    }

    fn length(&self, value: f64) -> f64 {
        let room = WIDTH - LEFT - RIGHT;
        if self.log {
            // The least bar is a tenth of a decade long.
            let begin = self.least / 1.26;
            return room * (value.max(begin) / begin).ln() / (self.most / begin).ln();
        }
        room * value / self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(value: f64) -> Summary {
        Summary { median: value, min: value, max: value, runs: 1 }
    }

    #[test]
    fn lengths_are_linear_until_the_least_bar_would_vanish() {
        let linear = Scale::of([summary(10.0), summary(100.0)].into_iter()).unwrap();
        assert!((linear.length(50.0) * 2.0 - linear.length(100.0)).abs() < 1e-9);
        let log = Scale::of([summary(1.0), summary(1_000.0)].into_iter()).unwrap();
        assert!(log.log && log.length(1.0) > 10.0);
        assert!((log.length(1_000.0) - linear.length(100.0)).abs() < 1e-9);
        assert!(log.length(10.0) > log.length(1.0));
        assert!(Scale::of([summary(0.0)].into_iter()).is_none());
    }
}
