//! What changes in a window, for a consumer that looks when it likes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use super::view::{WindowDifference, WindowView, differences};

/// The differences between what a consumer was told and what the window shows: net ones, so that a
/// consumer that is slow costs nobody anything.
pub struct WindowDifferences {
    view: watch::Receiver<Arc<WindowView>>,
    told: Option<Arc<WindowView>>,
    due: VecDeque<WindowDifference>,
}

// === impl WindowDifferences ===

impl WindowDifferences {
    pub(super) fn new(view: watch::Receiver<Arc<WindowView>>) -> Self {
        Self { view, told: None, due: VecDeque::new() }
    }

    /// The next difference; `None` = the driver has ended. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<WindowDifference> {
        loop {
            if let Some(difference) = self.due.pop_front() {
                return Some(difference);
            }
            if self.told.is_some() && self.view.changed().await.is_err() {
                return None;
            }
            let now = self.view.borrow_and_update().clone();
            self.due.extend(differences(self.told.as_deref(), &now));
            self.told = Some(now);
        }
    }
}

impl fmt::Debug for WindowDifferences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowDifferences").field("due", &self.due.len()).finish_non_exhaustive()
    }
}
