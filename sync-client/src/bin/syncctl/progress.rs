//! Progress bars, on standard error: none when nobody sees them, none for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sync_client::Status;
use sync_client::types::CollectionName;

use crate::output::Output;

/// How often a bar that waits is drawn.
const TICK: Duration = Duration::from_millis(100);

/// The first loads of several collections, as one bar that goes away when all are loaded.
pub(crate) struct Loads {
    bar: ProgressBar,
    /// Items loaded, and about how many there are.
    items: BTreeMap<CollectionName, (u64, u64)>,
    /// Collections that are still to be loaded.
    waiting: BTreeSet<CollectionName>,
}

/// A bar over transactions; how many there are may be unknown.
pub(crate) fn of_transactions(output: &Output, count: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(count, target(output));
    let bar = bar.with_style(style(if count.is_some() {
        "{bar:30} {human_pos}/{human_len} transactions, {msg}  {elapsed}, {eta} left"
    } else {
        "{spinner} {human_pos} transactions, {msg}  {elapsed}"
    }));
    bar.enable_steady_tick(TICK);
    bar
}

/// A bar over items; its length may be set later.
pub(crate) fn of_items(output: &Output) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), target(output));
    bar.with_style(style("{bar:30} {human_pos}/{human_len} items  {msg}"))
}

/// A bar over rows; about how many there are is told on the way.
pub(crate) fn of_rows(output: &Output) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), target(output));
    bar.with_style(style("{bar:30} {human_pos}/{human_len} rows, {msg}  {elapsed}, {eta} left"))
}

// === impl Loads ===

impl Loads {
    pub(crate) fn new(output: &Output, names: &[CollectionName]) -> Self {
        let waiting = names.iter().cloned().collect();
        Self { bar: of_items(output), items: BTreeMap::new(), waiting }
    }

    /// Moves the bar. `true` = nothing is left to load.
    pub(crate) fn status(&mut self, name: &CollectionName, status: Status) -> bool {
        match status {
            Status::Loading { done, total } => {
                self.items.insert(name.clone(), (done, total));
            }
            Status::Live | Status::Absent | Status::Denied => {
                self.waiting.remove(name);
                if let Some((done, total)) = self.items.get_mut(name) {
                    *done = *total;
                }
            }
            Status::Connecting
            | Status::Lagging
            | Status::Repairing { .. }
            | Status::Stuck { .. }
            | Status::StoreFailing { .. }
            | Status::BackingOff { .. }
            | Status::Stopped
            | _ => {}
        }
        self.bar.set_length(self.items.values().map(|(_, total)| total).sum());
        self.bar.set_position(self.items.values().map(|(done, _)| done).sum());
        self.bar.set_message(format!("collections to go: {}", self.waiting.len()));
        if self.waiting.is_empty() {
            self.bar.finish_and_clear();
        }
        self.waiting.is_empty()
    }

    /// Which collections are not loaded yet.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &CollectionName> {
        self.waiting.iter()
    }

    /// Prints while the bar is out of the way.
    pub(crate) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

fn target(output: &Output) -> ProgressDrawTarget {
    if output.json() {
        return ProgressDrawTarget::hidden();
    }
    // Draws nothing by itself when standard error is not a terminal.
    ProgressDrawTarget::stderr()
}

fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates of this file are well-formed")
        .progress_chars("█▉▊▋▌▍▎▏ ")
}
