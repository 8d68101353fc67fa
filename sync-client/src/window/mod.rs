//! Windows: a list view of a collection that is too large to be synchronised. A window holds the
//! first rows of the list, or those from a rank or a place on, in either direction: keys, versions
//! and sort keys at first, contents of what is on screen when they are needed. It is kept up to
//! date by a stream of its stretch of the list. [`Window`] is for applications; the [`Machine`] that
//! decides everything is pure, for those who want to drive it themselves.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sync_proto::types::CollectionName;
use tokio::sync::watch;

use crate::client::SyncClient;

mod details;
mod driver;
mod feed;
mod line;
mod listing;
mod machine;
mod rows;
#[cfg(test)]
mod tests;
mod view;

pub use driver::WindowDriver;
pub use feed::WindowDifferences;
pub use machine::{Action, AskId, Config, Fault, Input, Listed, Machine, WindowStart, Wish};
pub use view::{Detail, Verdict, WindowDifference, WindowRow, WindowView};

/// A list view of a collection that is too large to be synchronised. Cheap to clone; clones are the
/// same window. Does nothing by itself: its [`WindowDriver`] does.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// use sync_client::types::CollectionName;
/// use sync_client::{SyncClient, Verdict, Window};
///
/// // Nobody listens there.
/// let client = SyncClient::connect("http://127.0.0.1:1")?;
/// let name = CollectionName::new("catalog")?;
/// let (window, driver) = Window::builder(client, name).first(20).build();
/// let stop = tokio_util::sync::CancellationToken::new();
/// let task = tokio::spawn(driver.run(stop.clone()));
///
/// // With a server, one would wait for `Verdict::Complete`.
/// let lost = |verdict: &Verdict| matches!(verdict, Verdict::Stale { .. });
/// let view = window.wait_for(|view| lost(&view.verdict)).await;
/// assert!(view.rows.is_empty(), "it says that it knows nothing");
/// window.grow(20);
/// # stop.cancel();
/// # task.await?;
/// # Ok(()) }) }
/// ```
///
/// # What holds
///
/// * [`Verdict::Complete`] names a cursor, and the rows are exactly what the collection had there
///   at that cursor. Nothing else claims that.
/// * A row that goes says why: [`WindowDifference::Deleted`] or [`WindowDifference::Left`]; what
///   went while the server could not be heard is [`WindowDifference::Vanished`].
/// * Keys, versions and sort keys come first; contents are fetched, in batches, for what is on
///   screen ([`Window::show_details`]), once for each version of a value, and again only if they
///   did not fit into the cache. Memory is bounded: 10,000 rows, and
///   [`WindowBuilder::details_bytes`].
/// * Some rows behind the last one are held in reserve: what goes is replaced at once.
/// * The server tells of every change in the collection, by key only where it is outside of the
///   window: a window into a collection that is written all the time costs that much.
/// * A window that begins at a rank other than 0 begins, from the moment it was listed, where the
///   item of that rank stood: items that come and go before it do not move it.
/// * When the server is lost, the last rows stay readable. They are kept in memory only.
#[derive(Clone)]
pub struct Window {
    collection: CollectionName,
    wish: Arc<watch::Sender<Wish>>,
    view: watch::Receiver<Arc<WindowView>>,
    received: Arc<AtomicU64>,
}

/// What a [`Window`] is made of.
#[derive(Debug)]
pub struct WindowBuilder {
    client: SyncClient,
    config: Config,
    wish: Wish,
}

/// Rows of a window when it is not said how many.
const FIRST: usize = 20;
/// Bytes of contents that are kept when it is not said how many.
const DETAILS_BYTES: usize = 8 * 1024 * 1024;
/// Quiet time before the server gives a sign of life when it is not said.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The longest wait between two attempts when it is not said.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

// === impl Window ===

impl Window {
    /// A window into a collection; its first 20 rows, unless something else is said.
    #[must_use]
    pub fn builder(client: SyncClient, collection: CollectionName) -> WindowBuilder {
        let config = Config {
            collection,
            descending: false,
            heartbeat: HEARTBEAT,
            client_id: client.client_id().to_owned(),
            details_bytes_max: DETAILS_BYTES,
            backoff_longest: LONGEST_BACKOFF,
        };
        let wish =
            Wish { rows: FIRST, start: WindowStart::Rank(0), moves: 0, on_screen: 0..usize::MAX };
        WindowBuilder { client, config, wish }
    }

    /// The collection that it shows.
    #[must_use]
    pub fn collection(&self) -> &CollectionName {
        &self.collection
    }

    /// What it shows now. Answers at once, whatever the network does; when the server is lost, what
    /// was there last.
    #[must_use]
    pub fn view(&self) -> Arc<WindowView> {
        self.view.borrow().clone()
    }

    /// What it shows, now and from now on.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<WindowView>> {
        self.view.clone()
    }

    /// Waits for a view; the last one there was, if the driver ends before.
    pub async fn wait_for(&self, wanted: impl FnMut(&Arc<WindowView>) -> bool) -> Arc<WindowView> {
        let mut view = self.view.clone();
        let found = view.wait_for(wanted).await.map(|view| view.clone());
        found.unwrap_or_else(|_| self.view())
    }

    /// All rows of the window as entered, and what differs from then on, one net difference per
    /// item for a consumer that looks when it likes.
    #[must_use]
    pub fn differences(&self) -> WindowDifferences {
        WindowDifferences::new(self.view.clone())
    }

    /// Shows so many more rows.
    pub fn grow(&self, rows: usize) {
        self.wish.send_modify(|wish| wish.rows = wish.rows.saturating_add(rows));
    }

    /// Shows so many rows.
    pub fn resize(&self, rows: usize) {
        self.wish.send_modify(|wish| wish.rows = rows);
    }

    /// Begins elsewhere. What is shown stays until the other rows are there.
    pub fn move_to(&self, start: WindowStart) {
        self.wish.send_modify(|wish| {
            wish.start = start;
            wish.moves += 1;
        });
    }

    /// Fetches contents only of these rows of the window; of all of them when nothing is said.
    pub fn show_details(&self, of: Range<usize>) {
        self.wish.send_modify(|wish| wish.on_screen = of);
    }

    /// Bytes of all messages that it has received.
    #[must_use]
    pub fn bytes_received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("collection", &self.collection).finish_non_exhaustive()
    }
}

// === impl WindowBuilder ===

impl WindowBuilder {
    /// How many rows it shows, at most 10,000.
    #[must_use]
    pub fn first(mut self, rows: usize) -> Self {
        self.wish.rows = rows;
        self
    }

    /// Against the order of the list: last first.
    #[must_use]
    pub fn descending(mut self, descending: bool) -> Self {
        self.config.descending = descending;
        self
    }

    /// Where it begins; where the list does when not said.
    #[must_use]
    pub fn start(mut self, start: WindowStart) -> Self {
        self.wish.start = start;
        self
    }

    /// Bytes of contents that are kept for rows that come back; 8 MiB when not said. While the
    /// contents of the rows on screen are more than that, the rest of them is not fetched.
    #[must_use]
    pub fn details_bytes(mut self, bytes: usize) -> Self {
        self.config.details_bytes_max = bytes;
        self
    }

    /// Fetches contents only of these rows, see [`Window::show_details`].
    #[must_use]
    pub fn show_details(mut self, of: Range<usize>) -> Self {
        self.wish.on_screen = of;
        self
    }

    /// Quiet time after which the server gives a sign of life, 100 ms to 60 s; 15 s when not said.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.config.heartbeat = heartbeat;
        self
    }

    /// The longest wait between two attempts to reach the server; 30 s when not said.
    #[must_use]
    pub fn longest_backoff(mut self, longest: Duration) -> Self {
        self.config.backoff_longest = longest;
        self
    }

    /// The window, and what keeps it up to date. Nothing is sent before the driver runs.
    #[must_use]
    pub fn build(self) -> (Window, WindowDriver) {
        let Self { client, config, wish } = self;
        let (wish, wishes) = watch::channel(wish);
        let (view, views) = watch::channel(Arc::new(WindowView::nothing()));
        let received = Arc::new(AtomicU64::new(0));
        let window = Window {
            collection: config.collection.clone(),
            wish: Arc::new(wish),
            view: views,
            received: received.clone(),
        };
        (window, WindowDriver { client, config, wish: wishes, view, received })
    }
}
