//! What is seen while the history runs: one line for the history and one for each follower. To
//! something that is not a terminal, a few plain lines instead.

use std::io::{self, Write as _};
use std::time::Duration;

use indicatif::{
    HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle,
};

use crate::follower::Holding;

const TICK: Duration = Duration::from_millis(100);

/// The lines.
pub(crate) struct Screen {
    lines: MultiProgress,
    quiet: bool,
    pub(crate) history: ProgressBar,
    pub(crate) always: ProgressBar,
    pub(crate) away: ProgressBar,
    pub(crate) new: ProgressBar,
}

// === impl Screen ===

impl Screen {
    /// `quiet` = nothing is to be seen.
    pub(crate) fn new(transactions: usize, quiet: bool) -> Self {
        let lines = MultiProgress::with_draw_target(if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        });
        let line = |name: &'static str| {
            let line = lines.add(ProgressBar::no_length());
            line.set_style(style("{prefix:>8}  {msg}"));
            line.set_prefix(name);
            line
        };
        let history = lines.add(ProgressBar::new(transactions as u64));
        history.set_style(style("{prefix:>8}  {bar:30} {human_pos}/{human_len} commits  {msg}"));
        history.set_prefix("history");
        let (always, away, new) = (line("always"), line("away"), line("new"));
        new.set_message("not there yet");
        Self { lines, quiet, history, always, away, new }
    }

    /// Says something for good, above the lines.
    pub(crate) fn say(&self, text: &str) -> io::Result<()> {
        if self.quiet {
            return Ok(());
        }
        if self.lines.is_hidden() {
            return writeln!(io::stderr(), "{text}");
        }
        self.lines.println(text)
    }

    /// A follower that is online.
    pub(crate) fn online(line: &ProgressBar, holding: Holding, received: u64) {
        line.set_message(format!(
            "online   {} groups and lists, {} items, {} received",
            HumanCount(holding.collections as u64),
            HumanCount(holding.items),
            HumanBytes(received)
        ));
    }

    /// Turns a follower's line into a bar over the collections that it is to catch up.
    pub(crate) fn catching_up(line: &ProgressBar, collections: usize) {
        line.set_style(style("{prefix:>8}  {bar:30} {human_pos}/{human_len} equal  {msg}"));
        line.set_length(collections as u64);
        line.set_message("catching up");
        line.enable_steady_tick(TICK);
    }

    /// The lines stay as they are.
    pub(crate) fn finish(&self) {
        for line in [&self.history, &self.always, &self.away, &self.new] {
            line.abandon();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates of this file are well-formed")
        .progress_chars("█▉▊▋▌▍▎▏ ")
}
