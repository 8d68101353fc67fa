//! Many users come back at once: each holds 200 collections, of which about three have changed. What
//! that costs by the inbox, against asking for all cursors in one pull, and one by one. The shapes are
//! those of a real history: its teams and organisations are the collections, and a user is in what
//! some of its people are in. `DELTASYNC_LOGINS` sets how many users.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sync_proto::convert::encode_change;
use sync_proto::types::{
    CollectionName, Cursor, Delta, Mutation, Op, Outcome, Subject, Target, Value,
};
use sync_tests::compose::{after, name, put, scratch};
use sync_tests::data::{History, State};
use sync_tests::process::{Process, Program};
use sync_tests::proxy::Proxy;
use sync_tests::report::report;
use sync_tests::seed::number;
use sync_tests::wire::Wire;

use crate::SERVER;

/// Users when the environment does not say.
const USERS: u64 = 12;

/// Collections of a user, and how many of them change while it is away, on average.
const HELD: usize = 200;
const CHANGED: usize = 3;

/// Mutations of one commit while the store is filled.
const FILL: usize = 2_000;

/// Bytes of a login by the inbox beyond what changed: the figure to reach.
const BEYOND_MAX: u64 = 2 * 1024;

/// A user who is away.
struct User {
    inbox: String,
    groups: BTreeSet<String>,
    /// Where it stands in its inbox.
    at: Option<Cursor>,
}

/// How a user comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Inbox,
    AllAtOnce,
    OneByOne,
}

/// What the logins of all users cost together.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    trips: u64,
    to_server: u64,
    to_client: u64,
    /// Bytes of the changes themselves.
    changes: u64,
    /// Collections that had changed.
    found: u64,
    processor: Duration,
    time: Duration,
}

/// What the history comes to, without collections that are empty in the end.
fn state() -> State {
    let mut state = State::new();
    for transaction in History::shipped().transactions() {
        for Mutation { collection, op } in transaction.mutations {
            let items = state.entry(collection.as_str().to_owned()).or_default();
            let text = |key: &sync_proto::types::Key| String::from_utf8(key.to_bytes().to_vec());
            match op {
                Op::Put { key, value, .. } => {
                    items.insert(text(&key).unwrap(), Value::to_bytes(&value).to_vec());
                }
                Op::Delete { key } => drop(items.remove(&text(&key).unwrap())),
                Op::Reorder { .. } | Op::Follow { .. } | Op::Unfollow { .. } => unreachable!(),
            }
        }
    }
    state.retain(|_, items| !items.is_empty());
    state
}

/// Users who are in what some people of the history are in: as many of them as it takes to be in
/// enough.
fn users(state: &State, count: u64, dice: &mut StdRng) -> Vec<User> {
    let mut of_person: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let groups = state.iter().filter(|(name, _)| !name.ends_with("/teams"));
    for (group, members) in groups {
        for person in members.keys() {
            of_person.entry(person).or_default().insert(group);
        }
    }
    let people: Vec<_> = of_person.into_values().collect();
    let user = |number| {
        let mut groups = BTreeSet::new();
        while groups.len() < HELD {
            let person = &people[dice.random_range(0..people.len())];
            let new = person.iter().filter(|group| !groups.contains(**group));
            let new: Vec<_> = new.take(HELD - groups.len()).collect();
            groups.extend(new.into_iter().map(|group| (*group).to_owned()));
        }
        User { inbox: format!("inbox/users/{number}"), groups, at: None }
    };
    (0..count).map(user).collect()
}

async fn fill(wire: &Wire, state: &State, users: &[User]) {
    let items = state.iter().flat_map(|(group, items)| items.iter().map(move |item| (group, item)));
    let puts: Vec<_> = items.map(|(group, (key, value))| put(group, key, value)).collect();
    for some in puts.chunks(FILL) {
        wire.commit(some.to_vec()).await;
    }
    for user in users {
        let subject = user.inbox.strip_prefix("inbox/").unwrap();
        let follow = |group: &String| {
            let subject = Subject::new(subject).unwrap();
            Mutation { collection: name(group), op: Op::Follow { subject } }
        };
        wire.commit(user.groups.iter().map(follow).collect()).await;
    }
}

/// Changes some collections, so that a user finds about three; which.
async fn change(wire: &Wire, state: &State, dice: &mut StdRng) -> BTreeSet<String> {
    let mut names: Vec<_> = state.keys().filter(|name| !name.ends_with("/teams")).collect();
    names.shuffle(dice);
    let count = (names.len() * CHANGED).div_ceil(HELD);
    for group in &names[..count] {
        let (person, _) = state[*group].iter().next().unwrap();
        wire.commit(vec![put(group, person, r#"{"role":"changed"}"#)]).await;
    }
    names[..count].iter().map(|name| (*name).clone()).collect()
}

// === impl User ===

impl User {
    /// Comes back over a connection of its own; the names that it found changed.
    async fn log_in(
        &self,
        way: Way,
        wire: &Wire,
        held: &BTreeMap<String, Cursor>,
        cost: &mut Cost,
    ) -> BTreeSet<String> {
        let target = |group: &String| after(group, held[group]);
        let mut found = BTreeSet::new();
        match way {
            Way::Inbox => {
                let inbox = after(&self.inbox, self.at.unwrap());
                let entries = pull(wire, vec![inbox], cost).await;
                let moved = entries.iter().flat_map(|(_, delta)| &delta.changes);
                let moved = moved.map(|change| String::from_utf8(change.key.to_bytes().to_vec()));
                let moved: Vec<String> = moved.map(Result::unwrap).collect();
                if !moved.is_empty() {
                    take(
                        pull(wire, moved.iter().map(target).collect(), cost).await,
                        &mut found,
                        cost,
                    );
                }
            }
            Way::AllAtOnce => {
                let targets = self.groups.iter().map(target).collect();
                take(pull(wire, targets, cost).await, &mut found, cost);
            }
            Way::OneByOne => {
                for group in &self.groups {
                    take(pull(wire, vec![target(group)], cost).await, &mut found, cost);
                }
            }
        }
        found
    }
}

/// One round trip: what has changed.
async fn pull(wire: &Wire, targets: Vec<Target>, cost: &mut Cost) -> Vec<(CollectionName, Delta)> {
    cost.trips += 1;
    let names: Vec<_> = targets.iter().map(|target| target.collection.clone()).collect();
    let changed = |(name, outcome)| match outcome {
        Outcome::Delta(delta) => {
            assert!(!delta.has_more, "{name} is one page");
            Some((name, delta))
        }
        Outcome::Aligned(_) => None,
        other @ (Outcome::Reset(_)
        | Outcome::Denied
        | Outcome::NotFound
        | Outcome::Deferred(_)
        | Outcome::Failed(_)) => panic!("{name}: {other:?}"),
    };
    names.into_iter().zip(wire.pull(targets).await).filter_map(changed).collect()
}

fn take(deltas: Vec<(CollectionName, Delta)>, found: &mut BTreeSet<String>, cost: &mut Cost) {
    for (name, delta) in deltas {
        cost.found += 1;
        cost.changes +=
            delta.changes.iter().map(|one| encode_change(one).len() as u64).sum::<u64>();
        found.insert(name.as_str().to_owned());
    }
}

/// All users come back, each once.
async fn storm(
    way: Way,
    (users, held, changed): (&[User], &BTreeMap<String, Cursor>, &BTreeSet<String>),
    process: &Process,
    proxy: &Proxy,
) -> Cost {
    let (began, before, passed) = (Instant::now(), process.processor(), proxy.passed());
    let mut cost = Cost::default();
    for user in users {
        let found = user.log_in(way, &Wire::to(proxy.address()), held, &mut cost).await;
        let wanted: BTreeSet<_> = user.groups.intersection(changed).cloned().collect();
        assert_eq!(found, wanted, "{way:?} finds what has changed");
    }
    let (to_server, to_client) = proxy.passed();
    cost.time = began.elapsed();
    cost.processor = process.processor().saturating_sub(before);
    Cost { to_server: to_server - passed.0, to_client: to_client - passed.1, ..cost }
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn tell(way: Way, cost: &Cost, users: u64) {
    let users = users as f64;
    let each = |count: u64| count as f64 / users;
    report(&format!(
        "{way:?}: {:.1} round trips, {:.0} B up, {:.0} B down ({:.0} B of changes), \
         {:.2} ms of the server's processor, {:.1} ms, a user",
        each(cost.trips),
        each(cost.to_server),
        each(cost.to_client),
        each(cost.changes),
        cost.processor.as_secs_f64() * 1_000.0 / users,
        cost.time.as_secs_f64() * 1_000.0 / users,
    ));
}

/// 200 held collections, about 3 changed: the inbox and one batched pull find them, for less than
/// 2 KB beyond what changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_the_inbox_costs_what_has_changed() {
    let count = number("DELTASYNC_LOGINS").unwrap_or(USERS);
    let mut dice = StdRng::seed_from_u64(7);
    let dir = tempfile::tempdir().unwrap();
    // Only the size of an audience decides: the rate of filling is not that of a service.
    let program = Program::new(SERVER, dir.path()).with(&["--fan-out-per-s-max=1000000"]);
    let mut process = program.start_serving().await;
    let (wire, proxy) = (program.wire(), Proxy::to(program.address()).await);
    let state = state();
    let mut users = users(&state, count, &mut dice);
    fill(&wire, &state, &users).await;
    let mut held = BTreeMap::new();
    for group in state.keys() {
        held.insert(group.clone(), wire.head(&name(group)).await.unwrap().cursor());
    }
    for user in &mut users {
        let Outcome::Delta(delta) = wire.pull_one(scratch(&user.inbox)).await else { panic!() };
        assert_eq!((delta.changes.len(), delta.has_more), (HELD, false));
        user.at = Some(delta.to);
    }
    let changed = change(&wire, &state, &mut dice).await;
    let (members, groups) = (state.values().map(BTreeMap::len).sum::<usize>(), state.len());
    report(&format!(
        "{count} users of {HELD} collections each, {groups} collections with {members} items, \
         {} of them changed",
        changed.len()
    ));
    let away = (users.as_slice(), &held, &changed);
    let mut costs = Vec::new();
    // The first time warms the server's cache up.
    for way in [Way::AllAtOnce, Way::Inbox, Way::AllAtOnce, Way::OneByOne] {
        costs.push((way, storm(way, away, &process, &proxy).await));
    }
    for (way, cost) in &costs[1..] {
        tell(*way, cost, count);
    }
    let inbox = costs[1].1;
    assert_eq!(inbox.found, costs[2].1.found);
    let beyond = (inbox.to_server + inbox.to_client - inbox.changes) / count;
    assert!(inbox.trips <= 2 * count, "{} round trips", inbox.trips);
    assert!(beyond <= BEYOND_MAX, "{beyond} B a user beyond what changed, both ways");
    process.terminate();
    assert!(process.ended().await.success());
    process.check_log();
}
