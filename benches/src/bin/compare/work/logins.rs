//! W6, a login storm: clients that hold 200 collections of which 3 changed come back, find out which,
//! and read what is new.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sync_benches::measure::Measure;
use sync_benches::report::Sample;
use tokio::task::JoinSet;

use crate::failure::{Failure, Outcome, within};
use crate::system::{Away, Line, Mark, System, Visitor};
use crate::values::Values;
use crate::work::filling::all;
use crate::work::{Bench, MEASURE_WITHIN, Moment, Samples, float};

const WORKLOAD: &str = "W6";
const CASE: &str = "200 held, 3 changed";

/// Collections of a user, one of each group.
const GROUPS: u32 = 200;
/// Collections of a group.
const GROUP: u32 = 10;
/// Groups of which every collection changes: what a user finds.
const CHANGED: u32 = 3;
/// Items of a collection.
const ITEMS: u32 = 5;

/// Logins at once, and the connections that they share.
const AT_ONCE: usize = 32;
const LINES: usize = 8;

/// Measures it for all systems, which take turns.
pub(crate) async fn run(bench: &mut Bench) -> Outcome<()> {
    crate::progress(&format!("{WORKLOAD} {CASE}"));
    let mut samples = Samples::of(WORKLOAD);
    let systems = bench.systems(true).await;
    let mut crowds = Vec::new();
    for system in &systems {
        match prepare(system.as_ref(), bench.sizes.users).await {
            Ok(Some(users)) => crowds.push(Some(Arc::new(users))),
            Ok(None) => {
                let why = "it has no call that asks for many subjects at once";
                bench.note(format!("{WORKLOAD}, {}: not run, {why}", system.name()));
                crowds.push(None);
            }
            Err(failure) => {
                samples.take(bench, CASE, system.as_ref(), Err(failure));
                crowds.push(None);
            }
        }
    }
    for _ in 0..bench.sizes.runs {
        for (system, users) in systems.iter().zip(&crowds) {
            let Some(users) = users.as_ref().filter(|_| samples.is_sound(CASE, system.as_ref()))
            else {
                continue;
            };
            let outcome = measure(system.as_ref(), users, bench.sizes.commits_for).await;
            samples.take(bench, CASE, system.as_ref(), outcome);
        }
    }
    bench.add(samples);
    Ok(())
}

/// Fills the collections, lets users follow theirs, and changes some while they are away. `None` =
/// the system cannot be asked.
async fn prepare(system: &dyn System, users: u32) -> Outcome<Option<Vec<Away>>> {
    let line = system.connect().await?;
    if line.visitor().await?.is_none() {
        return Ok(None);
    }
    let mut values = Values::new(1);
    let mut writer = line.writer().await?;
    for group in 0..GROUPS {
        let of_group = group * GROUP..(group + 1) * GROUP;
        let all = of_group.flat_map(|collection| (0..ITEMS).map(move |key| (collection, key)));
        let items: Vec<_> = all.map(|(collection, key)| values.item(collection, key)).collect();
        writer.write(&items).await?;
    }
    let mut marks = Vec::new();
    for collection in 0..GROUPS * GROUP {
        marks.push(line.mark(collection).await?);
    }
    let held = |user: u32| {
        let of_group = |group| group * GROUP + user % GROUP;
        (0..GROUPS)
            .map(of_group)
            .map(|one| (one, marks[one as usize]))
            .collect::<Vec<(u32, Mark)>>()
    };
    let mut away = Vec::new();
    for user in 0..users {
        away.push(Away { user, held: held(user), inbox: None });
    }
    for one in &mut away {
        one.inbox = line.follow(one).await?;
    }
    for collection in 0..CHANGED * GROUP {
        writer.write(&[values.item(collection, 0)]).await?;
    }
    Ok(Some(away))
}

async fn measure(system: &dyn System, users: &Arc<Vec<Away>>, time: Duration) -> Outcome<Sample> {
    let mut lines: Vec<Box<dyn Line>> = Vec::new();
    for _ in 0..LINES {
        lines.push(system.connect().await?);
    }
    let mut visitors = Vec::new();
    for index in 0..AT_ONCE {
        visitors.extend(lines[index % LINES].visitor().await?);
    }
    let next = Arc::new(AtomicUsize::new(0));
    let before = Moment::now(system);
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for visitor in visitors {
        tasks.spawn(come_back(visitor, Arc::clone(users), Arc::clone(&next), end));
    }
    let done = within("a run of logins", MEASURE_WITHIN, all(tasks)).await?;
    let logins: u64 = done.iter().map(|(logins, _)| logins).sum();
    let bytes: u64 = done.iter().map(|(_, bytes)| bytes).sum();
    let mut sample = before.used(system).sample(logins);
    sample.insert(Measure::EachBytes, float(bytes) / float(logins.max(1)));
    Ok(sample)
}

/// Logs in one user after the other; how many, and their bytes.
async fn come_back(
    mut visitor: Box<dyn Visitor>,
    users: Arc<Vec<Away>>,
    next: Arc<AtomicUsize>,
    end: Instant,
) -> Outcome<(u64, u64)> {
    let (mut logins, mut bytes) = (0, 0);
    while Instant::now() < end {
        let user = &users[next.fetch_add(1, Ordering::Relaxed) % users.len()];
        let login = visitor.log_in(user).await?;
        if login.changed != u64::from(CHANGED) {
            return Err(Failure::Wrong(format!("a login found {} of {CHANGED}", login.changed)));
        }
        logins += 1;
        bytes += login.bytes;
    }
    Ok((logins, bytes))
}
