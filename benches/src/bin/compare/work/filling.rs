//! Puts items into a store before something is measured: as fast as the system can, still synced.

use std::ops::Range;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::failure::{Failure, Outcome, within};
use crate::system::System;
use crate::values::Values;

/// Writers that fill at once.
const WRITERS: u32 = 4;

/// Items of one write.
const ITEMS: u32 = 1_000;

/// Filling takes at most this long, and this long for each item: the largest stores take a while.
const FILL_WITHIN: Duration = Duration::from_secs(60);
const FILL_EACH_WITHIN: Duration = Duration::from_micros(500);

/// Writes one item for each of these keys of a collection; the values are those of the round, so
/// that each round changes every item.
pub(crate) async fn fill(
    system: &dyn System,
    collection: u32,
    keys: Range<u32>,
    round: u32,
) -> Outcome<()> {
    let line = system.connect().await?;
    let mut tasks = JoinSet::new();
    let each = (keys.end - keys.start).div_ceil(WRITERS).max(1);
    for begin in keys.clone().step_by(each as usize) {
        let end = (begin + each).min(keys.end);
        let mut writer = line.writer().await?;
        tasks.spawn(async move {
            let mut values = Values::new(u64::from(round) << 32 | u64::from(begin));
            for from in (begin..end).step_by(ITEMS as usize) {
                let some = from..(from + ITEMS).min(end);
                let items: Vec<_> = some.map(|key| values.item(collection, key)).collect();
                writer.write(&items).await?;
            }
            Ok(())
        });
    }
    let time = FILL_WITHIN + FILL_EACH_WITHIN * (keys.end - keys.start);
    within("filling a store", time, all(tasks)).await.map(drop)
}

/// What all tasks came to, or the first failure.
pub(crate) async fn all<T: 'static>(mut tasks: JoinSet<Outcome<T>>) -> Outcome<Vec<T>> {
    let mut done = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        done.push(ended.map_err(|error| Failure::Wrong(format!("a task: {error}")))??);
    }
    Ok(done)
}
