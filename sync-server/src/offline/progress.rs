//! Progress on standard error: a bar when a person watches, nothing otherwise.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar is drawn while nothing is told.
const TICK: Duration = Duration::from_millis(100);

/// A bar over rows that goes away when it is dropped.
pub(super) struct Rows(ProgressBar);

// === impl Rows ===

impl Rows {
    /// A bar for `doing`; how many rows there are may not be known.
    pub(super) fn new(shown: bool, doing: &'static str, total: Option<u64>) -> Self {
        // Draws nothing by itself when standard error is not a terminal.
        let target =
            if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total, target).with_message(doing);
        let bar = bar.with_style(style(if total.is_some() {
            "{msg:10} {bar:30} {human_pos}/{human_len} rows  {per_sec}, {eta} left"
        } else {
            "{msg:10} {spinner} {human_pos} rows  {elapsed}"
        }));
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    pub(super) fn set(&self, rows: u64) {
        self.0.set_position(rows);
    }

    pub(super) fn add(&self, rows: u64) {
        self.0.inc(rows);
    }

    pub(super) fn set_total(&self, rows: u64) {
        self.0.set_length(rows);
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates of this file are well-formed")
        .progress_chars("█▉▊▋▌▍▎▏ ")
}
