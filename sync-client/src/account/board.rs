//! The list of followed collections as its readers and the driver share it, and the feeds of what
//! changes in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sync_proto::types::{CollectionName, Subject, Timestamp};
use tokio::sync::{Notify, watch};

use super::desk::AccountStats;
use super::list::{FollowState, Followed, ListChange, Summary};
use crate::driver::{clock_ms, now};
use crate::session::Status;
use crate::view::View;

/// The list.
#[derive(Debug, Default)]
pub(crate) struct Board {
    state: Mutex<State>,
    summary: watch::Sender<Summary>,
}

#[derive(Debug, Default)]
struct State {
    list: BTreeMap<CollectionName, Followed>,
    feeds: Vec<Weak<Feed>>,
    stats: AccountStats,
}

/// What a consumer was not told yet: of each collection that changed, what it saw last. Bounded by
/// the number of collections.
#[derive(Debug, Default)]
struct Feed {
    missed: Mutex<BTreeMap<CollectionName, Option<Followed>>>,
    moved: Notify,
}

/// A feed of what changes in an account's list, for one consumer. Changes of one collection are
/// coalesced until the consumer asks for them.
#[derive(Debug)]
pub struct ListChanges {
    board: Arc<Board>,
    feed: Arc<Feed>,
}

/// A clock that jumped must not put a status off for ever.
const NEXT_TRY_MAX: Duration = Duration::from_secs(60 * 60);

// === impl Board ===

impl Board {
    pub(crate) fn new(list: impl IntoIterator<Item = Followed>, summary: Summary) -> Self {
        let list = list.into_iter().map(|one| (one.name.clone(), one)).collect();
        let state = State { list, ..State::default() };
        Self { state: Mutex::new(state), summary: watch::Sender::new(summary) }
    }

    pub(crate) fn list(&self) -> Vec<Followed> {
        self.state.lock().list.values().cloned().collect()
    }

    pub(crate) fn get(&self, name: &CollectionName) -> Option<Followed> {
        self.state.lock().list.get(name).cloned()
    }

    pub(crate) fn summary(&self) -> watch::Receiver<Summary> {
        self.summary.subscribe()
    }

    pub(crate) fn stats(&self) -> AccountStats {
        self.state.lock().stats
    }

    pub(crate) fn set_stats(&self, stats: AccountStats) {
        self.state.lock().stats = stats;
    }

    /// A feed; of everything that is there, or only of what changes from now on.
    pub(crate) fn subscribe(self: &Arc<Self>, with_all: bool) -> ListChanges {
        let feed = Arc::new(Feed::default());
        let mut state = self.state.lock();
        if with_all {
            feed.missed.lock().extend(state.list.keys().map(|name| (name.clone(), None)));
        }
        state.feeds.retain(|feed| feed.strong_count() > 0);
        state.feeds.push(Arc::downgrade(&feed));
        drop(state);
        ListChanges { board: self.clone(), feed }
    }

    /// These are what they are now.
    pub(crate) fn show(&self, shown: Vec<(CollectionName, Option<Followed>)>, summary: Summary) {
        let mut state = self.state.lock();
        let State { list, feeds, .. } = &mut *state;
        let feeds: Vec<Arc<Feed>> = feeds.iter().filter_map(Weak::upgrade).collect();
        for (name, now) in shown {
            let before = match now.clone() {
                Some(now) => list.insert(name.clone(), now),
                None => list.remove(&name),
            };
            if before != now {
                for feed in &feeds {
                    feed.missed.lock().entry(name.clone()).or_insert_with(|| before.clone());
                }
            }
        }
        drop(state);
        for feed in &feeds {
            feed.moved.notify_one();
        }
        self.summary.send_if_modified(|before| std::mem::replace(before, summary) != summary);
    }

    /// Gives a view of a copy its status. One that is in the session has a status of its own; any
    /// other is as fresh as the list.
    pub(crate) fn show_in(&self, view: &View, subject: &Subject) {
        let name = view.name();
        if *name == subject.inbox() {
            return;
        }
        // As long as the list is locked it does not move.
        let state = self.state.lock();
        let inbox = self.summary.borrow().inbox;
        if inbox == Status::Stopped {
            return view.set_status(inbox);
        }
        let live = inbox == Status::Live;
        let connecting = *view.status().borrow() == Status::Connecting;
        let status =
            match state.list.get(name).map(|one| &one.state) {
                None => Status::NotFollowed,
                Some(FollowState::Denied) => Status::Denied,
                // The session reports, and a view that was opened since shows this until then.
                Some(FollowState::Failed { next_try, .. }) if connecting => {
                    Status::BackingOff { until: until(*next_try) }
                }
                Some(FollowState::CatchingUp) if connecting && live => Status::Lagging,
                Some(FollowState::CatchingUp | FollowState::Failed { .. })
                    if *view.status().borrow() != Status::Live =>
                {
                    return;
                }
                Some(
                    FollowState::Pending | FollowState::CatchingUp | FollowState::Failed { .. },
                ) if live => Status::Lagging,
                Some(FollowState::Deleted | FollowState::Absent) if live => Status::Absent,
                Some(_) => inbox,
            };
        view.set_status(status);
        if matches!(status, Status::Live | Status::Absent) {
            view.set_synced(now());
        }
    }

    /// The driver has ended.
    pub(crate) fn stop(&self) {
        self.summary.send_modify(|summary| summary.inbox = Status::Stopped);
    }

    fn is_stopped(&self) -> bool {
        self.summary.borrow().inbox == Status::Stopped
    }
}

/// A moment of the system's clock, by the clock of statuses.
fn until(moment: Timestamp) -> Instant {
    let wait = moment.as_millis().saturating_sub(clock_ms());
    now() + Duration::from_millis(wait).min(NEXT_TRY_MAX)
}

// === impl ListChanges ===

impl ListChanges {
    /// The next change; waits for one. `None` when the account has stopped and everything was
    /// told. May be cancelled without losing anything.
    pub async fn next(&mut self) -> Option<ListChange> {
        let mut summary = self.board.summary();
        loop {
            let stopped = self.board.is_stopped();
            if let Some(change) = self.next_now() {
                return Some(change);
            }
            if stopped {
                return None;
            }
            tokio::select! {
                biased;
                () = self.feed.moved.notified() => {}
                _ = summary.wait_for(|summary| summary.inbox == Status::Stopped) => {}
            }
        }
    }

    /// The next change that there is already; `None` when everything up to now was told.
    pub fn next_now(&mut self) -> Option<ListChange> {
        loop {
            // In the order in which changes are shown: the list first.
            let state = self.board.state.lock();
            let (name, old) = self.feed.missed.lock().pop_first()?;
            let new = state.list.get(&name).cloned();
            drop(state);
            match (old, new) {
                (None, Some(new)) => return Some(ListChange::Added(new)),
                (Some(old), Some(new)) if old != new => {
                    return Some(ListChange::Changed { old, new });
                }
                (Some(old), None) => return Some(ListChange::Unfollowed(old)),
                // It came and went, or is again what it was.
                (None, None) | (Some(_), Some(_)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sync_proto::types::Scope;

    use super::*;
    use crate::store::MemoryStore;

    fn view(name: &str) -> View {
        let name = CollectionName::new(name).unwrap();
        View::new(name, Scope::All, Arc::new(MemoryStore::new())).unwrap()
    }

    fn board(name: &str, state: FollowState, inbox: Status) -> (Board, Subject) {
        let name = CollectionName::new(name).unwrap();
        let one = Followed { name, remote: None, local: None, items: 0, state };
        let summary = Summary { inbox, ..Summary::default() };
        (Board::new([one], summary), Subject::new("ada").unwrap())
    }

    fn shown(board: &Board, view: &View, subject: &Subject) -> Status {
        board.show_in(view, subject);
        *view.status().borrow()
    }

    /// A view that is opened while its collection is in the conversation says how it is doing, and
    /// not that there is no connection.
    #[test]
    fn a_view_that_is_opened_late_says_how_the_collection_is_doing() {
        let (board, subject) = board("a", FollowState::CatchingUp, Status::Live);
        assert_eq!(shown(&board, &view("a"), &subject), Status::Lagging);
        let next_try = Timestamp::from_millis(clock_ms() + 10_000);
        let failed = FollowState::Failed { attempts: 1, next_try, error: String::new() };
        let name = CollectionName::new("a").unwrap();
        let one = Followed { name, remote: None, local: None, items: 0, state: failed };
        let board = Board::new([one], Summary { inbox: Status::Live, ..Summary::default() });
        let Status::BackingOff { until } = shown(&board, &view("a"), &subject) else { panic!() };
        assert!(until <= now() + Duration::from_secs(10));
        // What the conversation has reported stays.
        let view = view("a");
        view.set_status(Status::StoreFailing { until });
        assert_eq!(shown(&board, &view, &subject), Status::StoreFailing { until });
    }

    /// Of a driver that has ended every view says so, whatever the list said last.
    #[test]
    fn a_stopped_account_shows_nothing_else() {
        let (board, subject) = board("a", FollowState::Current, Status::Live);
        let (ours, other) = (view("a"), view("not/followed"));
        assert_eq!(shown(&board, &ours, &subject), Status::Live);
        board.stop();
        ours.set_status(Status::Stopped);
        assert_eq!(shown(&board, &ours, &subject), Status::Stopped);
        assert_eq!(shown(&board, &other, &subject), Status::Stopped);
    }
}
