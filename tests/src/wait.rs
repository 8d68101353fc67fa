//! Waiting with a deadline. A test that waits says for what; tests themselves never sleep.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// How long anything may take before it counts as never: far above what a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits for `future`, which is `what`.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let came = timeout(PATIENCE, future).await.ok();
    came.unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// Looks again and again until there is something to see.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = within(what, look()).await {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        sleep(LOOK_EVERY).await;
    }
}

/// Like [`until`], for a condition that is true or not.
pub async fn until_true(what: &str, mut look: impl AsyncFnMut() -> bool) {
    until(what, async || look().await.then_some(())).await;
}

/// Lets time pass where time itself is what the test is about: a reader that stalls, a kill at
/// a random moment.
pub async fn pass(time: Duration) {
    sleep(time).await;
}
