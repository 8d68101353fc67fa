//! One subject's world as a state machine around a [`Session`]. Pure: no network, no store, no
//! clock, no async; time and dice are arguments. The session talks about the inbox, about what
//! somebody looks at, and about what is being caught up just now; the desk decides what that is,
//! keeps the books of what is still to be done, and says how far the inbox is processed.
//!
//! ```text
//!                 told: inbox page, polled head, notice
//!                                |
//!              covered by copy   v   not covered
//!        Idle <------------------+------------> Waiting --its turn--> Working (in the session)
//!         ^                                        ^                    |    |       ^
//!         |          in step with the server       |              fails |    | denied| goes on
//!         +----------------------------------------|--------------------|----+       |
//!         |                                        |                    v    v       |
//!         |            told again, looked at, later|     Resting <------+   Denied   |
//!         |                                        +----------|--------------+       |
//!   the inbox drops it: Dropping -> gone                      +----------------------+
//! ```
//!
//! Whoever runs a desk carries out every action before the next input, in order;
//! [`Action::Write`], [`Action::Note`] and [`Action::Scan`] are answered at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sync_proto::digest::Digest;
use sync_proto::types::{
    CollectionName, Cursor, Event, InboxEntry, Outcome, Polled, PolledHead, Subject, Version,
};

use self::acks::Acks;
use self::entry::{Clock, Entry};
use self::polling::Polling;
use super::list::{Followed, Summary};
use super::note::Note;
use crate::backoff::{Backoff, part_of};
use crate::session::{self, Config, Fault, PullId, Session, Stats, Status};
use crate::store::{Notes, Standing, Write};

mod acks;
mod books;
mod checking;
mod entry;
mod inbox;
mod polling;
mod settling;
mod survey;
#[cfg(test)]
mod tests;
mod turns;

pub use acks::AckFault;
pub use polling::PollId;
pub use survey::Holdings;

/// The state of an account.
#[derive(Debug)]
pub struct Desk {
    inbox: CollectionName,
    session: Session,
    clock: Clock,
    dice: StdRng,
    ack_every: Duration,
    entries: BTreeMap<CollectionName, Entry>,
    /// Of entries that wait for a moment.
    later: BTreeSet<(Instant, CollectionName)>,
    /// Of entries that wait for their turn, the oldest first.
    ready: BTreeSet<(u64, CollectionName)>,
    /// Of entries that are to be done: the version of the inbox that asked for each.
    asked: BTreeSet<(Version, CollectionName)>,
    dropping: usize,
    pending: usize,
    working: usize,
    failed: usize,
    /// What the user looks at, in this order.
    looked_at: Vec<CollectionName>,
    /// Where the copy of the inbox stands.
    inbox_standing: Standing,
    inbox_status: Status,
    /// What the write of the inbox that was given out leads to.
    page: Option<inbox::Page>,
    /// The books are to be compared with the store; when that is tried again, if it failed.
    scanning: bool,
    scan_at: Option<Instant>,
    /// The store remembers that the rows of the inbox were exchanged.
    exchanged: bool,
    /// Whose pulls are under way.
    flying: BTreeMap<PullId, Vec<CollectionName>>,
    acks: Acks,
    polling: Polling,
    /// Entries whose notes are not what they should be, and when they are written.
    unnoted: BTreeSet<CollectionName>,
    /// Of each note that is being made: which collections, and whether it says that the rows of the
    /// inbox were compared.
    noting: VecDeque<(Vec<CollectionName>, bool)>,
    note_at: Option<Instant>,
    /// How often in a row the local store did not take notes, comparisons and drops.
    store_waits: Backoff,
    /// Notes that go with the write of a copy, if the copy has this digest then.
    carried: BTreeMap<CollectionName, (Option<Note>, Option<Digest>)>,
    /// When the next copy is checked, and which was the last.
    check_at: Instant,
    checked: Option<CollectionName>,
    changed: BTreeSet<CollectionName>,
    shown: Summary,
    actions: VecDeque<Action>,
    stats: AccountStats,
}

/// How an account behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeskConfig {
    /// Whose account.
    pub subject: Subject,
    /// How the conversation behaves.
    pub session: Config,
    /// Least time between two acks.
    pub ack_every: Duration,
    /// What the system's clock says at the beginning, in milliseconds since 1970.
    pub clock_ms: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Something of the conversation, also time that passed.
    Session(session::Input),
    /// What a pull of the inbox said besides; comes behind the pull.
    Polled(Polled),
    /// What [`Action::Poll`] brought.
    PolledOn(PollId, Result<Polled, Fault>),
    /// Somebody looks at these now, and at nothing else.
    LookAt(Vec<CollectionName>),
    /// What [`Action::Scan`] found; `None` = the store did not read.
    Scanned(Option<Holdings>),
    /// Whether [`Action::Note`] was carried out.
    Noted(bool),
    /// Everything that was written so far survives a power cut.
    Flushed,
    /// What became of an ack.
    Acked(Result<(), AckFault>),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An action of the conversation that is no write.
    Session(session::Action),
    /// Change a copy and make the notes, both at once; answered by
    /// [`session::Input::Written`].
    Write(CollectionName, Write, Notes),
    /// Make these notes; answered by [`Input::Noted`].
    Note(Notes),
    /// Read what the store holds of the account, see [`Holdings::read`]; answered by
    /// [`Input::Scanned`].
    Scan,
    /// Ask for more heads that the inbox does not announce, behind this name, from where the copy
    /// of the inbox stands. An answer without heads, because the copy is behind, is none.
    Poll(PollId, Option<Cursor>, Option<CollectionName>),
    /// Acknowledge the inbox up to here.
    Ack(Cursor),
    /// Show these; `None` = not followed any more.
    Show(Vec<(CollectionName, Option<Followed>)>, Summary),
}

/// What an account has counted since it was built, besides what its session has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountStats {
    /// Entries of the inbox that asked for a collection.
    pub asked: u64,
    /// Heads that were polled or noticed and asked for a collection.
    pub polled: u64,
    /// Collections that were caught up.
    pub caught_up: u64,
    /// Attempts to catch one up that failed.
    pub failures: u64,
    /// Collections that turned out not to be readable.
    pub denied: u64,
    /// Copies that were dropped because their collections are not followed any more.
    pub dropped: u64,
    /// Times that the whole list was compared with the copies.
    pub scans: u64,
    /// Acks that were sent.
    pub acks: u64,
    /// Acks that the server took.
    pub acks_accepted: u64,
    /// Entries of the inbox that are not what the protocol says.
    pub malformed: u64,
}

/// Collections that are caught up at once: as many as the pulls under way can carry.
const WORKING_MAX: usize = 8 * 256;
/// Collections of those that somebody looks at which the stream carries, too.
pub const LOOKED_AT_STREAMED_MAX: usize = 64;
/// Collections that somebody can look at.
pub const LOOKED_AT_MAX: usize = 1_024;
/// How long collections are gathered that are to be caught up, so that those of which one hears at
/// the same time go into one pull.
const GATHER: Duration = Duration::from_millis(20);
/// What is looked at comes by the stream; if it did not after this, it is pulled.
const STREAM_GRACE: Duration = Duration::from_millis(500);
/// A collection that is not readable is asked for again this often, give or take a half.
const DENIED_RETRY: Duration = Duration::from_secs(60 * 60);
/// Least wait after the local store did not take something, and windows of what is waited besides.
const STORE_RETRY: Duration = Duration::from_secs(1);
const STORE_WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Longest wait that a note of an earlier life can ask for.
const WAIT_MAX: Duration = Duration::from_secs(60 * 60);

// === impl Desk ===

impl Desk {
    /// An account of which the store holds this. `seed` throws the dice.
    #[must_use]
    pub fn new(config: DeskConfig, holdings: Holdings, seed: u64, now: Instant) -> Self {
        let DeskConfig { subject, session, ack_every, clock_ms } = config;
        let inbox = subject.inbox();
        let standing = holdings.inbox;
        let tracks = BTreeMap::from([(inbox.clone(), standing)]);
        let mut dice = StdRng::seed_from_u64(seed);
        let first_check = part_of(session.first_check, &mut dice);
        let mut desk = Self {
            session: Session::new(session, tracks, seed, now),
            inbox,
            clock: Clock { began: now, began_ms: clock_ms },
            dice,
            ack_every,
            entries: BTreeMap::new(),
            later: BTreeSet::new(),
            ready: BTreeSet::new(),
            asked: BTreeSet::new(),
            dropping: 0,
            pending: 0,
            working: 0,
            failed: 0,
            looked_at: Vec::new(),
            inbox_standing: standing,
            inbox_status: Status::Connecting,
            page: None,
            scanning: false,
            scan_at: None,
            exchanged: false,
            flying: BTreeMap::new(),
            acks: Acks::new(now),
            polling: Polling::default(),
            unnoted: BTreeSet::new(),
            noting: VecDeque::new(),
            note_at: None,
            store_waits: Backoff::new(STORE_WAITS.0, STORE_WAITS.1),
            carried: BTreeMap::new(),
            check_at: now + first_check,
            checked: None,
            changed: BTreeSet::new(),
            shown: Summary::default(),
            actions: VecDeque::new(),
            stats: AccountStats::default(),
        };
        desk.on_scanned(Some(holdings), now);
        desk.tick(now);
        desk
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Session(input) => match self.damaged(&input) {
                Some(name) => self.mend(&name, now),
                None => self.converse(input, now),
            },
            Input::Polled(polled) => self.on_polled(polled, now),
            Input::PolledOn(id, answer) => self.on_polled_on(id, answer, now),
            Input::LookAt(names) => self.look_at(names, now),
            Input::Scanned(holdings) => self.on_scanned(holdings, now),
            Input::Noted(made) => self.on_noted(made, now),
            Input::Flushed => self.acks.on_flushed(self.processed()),
            Input::Acked(answer) => self.on_acked(answer, now),
        }
        self.tick(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`session::Input::Elapsed`] is due if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let own = [
            self.later.first().map(|(at, _)| *at),
            self.note_at,
            self.scan_at,
            self.acks.deadline().filter(|_| !self.scanning),
            self.polling.deadline(),
            Some(self.check_at),
        ];
        own.into_iter().flatten().fold(self.session.deadline(), Instant::min)
    }

    /// What the conversation has counted.
    #[must_use]
    pub fn session_stats(&self) -> &Stats {
        self.session.stats()
    }

    /// What the account has counted.
    #[must_use]
    pub fn stats(&self) -> &AccountStats {
        &self.stats
    }

    /// Everything that is followed, by name.
    pub fn followed(&self) -> impl Iterator<Item = Followed> {
        let shown = self.entries.iter().filter(|(_, entry)| !entry.is_dropping());
        shown.map(|(name, entry)| entry.shown(name, &self.clock))
    }

    /// The collections of the conversation.
    pub(crate) fn conversing(&self) -> impl Iterator<Item = &CollectionName> {
        self.session.names()
    }

    /// All of it in a few numbers.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let is_live = matches!(self.inbox_status, Status::Live | Status::Absent);
        let hears = self.inbox_status == Status::Absent || self.polling.is_over();
        let knows = self.has_the_list() && hears;
        let inbox = if is_live && !knows { Status::Lagging } else { self.inbox_status };
        Summary {
            inbox,
            followed: self.entries.len() - self.dropping,
            pending: self.pending,
            failed: self.failed,
        }
    }

    /// Whether the list is known: where rows were exchanged it is not before it was compared.
    fn has_the_list(&self) -> bool {
        !self.scanning && self.page.is_none()
    }

    /// How far the inbox is processed: everything that it has asked for up to here is done.
    #[must_use]
    pub fn processed(&self) -> Option<Cursor> {
        let at = self.inbox_standing.cursor.filter(Cursor::is_caught_up)?;
        if self.inbox_standing.load.is_some() || self.scanning || self.page.is_some() {
            return None;
        }
        let first = self.asked.first().map(|(asked, _)| asked.get());
        let version = first.map_or(at.version.get(), |first| at.version.get().min(first - 1));
        let version = Version::new(version).ok().filter(|version| *version > Version::ZERO)?;
        Some(Cursor::at(at.epoch, version))
    }

    /// Passes something on to the session, and sees what follows for whom it concerned.
    fn converse(&mut self, input: session::Input, now: Instant) {
        let (mut touched, mut noticed) = (Vec::new(), None);
        match &input {
            session::Input::Written(name, result) if self.is_dropping(name) => {
                let result = *result;
                return self.on_dropped(&name.clone(), result, now);
            }
            session::Input::Written(name, result) => {
                touched.push(name.clone());
                self.carried_out(&name.clone(), *result);
            }
            session::Input::Pulled(id, answer) => {
                touched = self.flying.remove(id).unwrap_or_default();
                match answer {
                    Ok(outcomes) => self.note_failures(&touched, outcomes),
                    Err(_) => touched.iter().for_each(|name| self.is_not_pulled(name)),
                }
            }
            session::Input::Event(_, Event::InboxNotice(notice)) => noticed = Some(notice.clone()),
            session::Input::Event(_, Event::Accepted(..)) => self.polling.begin_anew(),
            session::Input::Restated { .. } => self.scan(),
            session::Input::Event(..)
            | session::Input::Malformed(_)
            | session::Input::StreamEnded(..)
            | session::Input::SelfChecked(..)
            | session::Input::Mended(..)
            | session::Input::Received(_)
            | session::Input::Elapsed => {}
        }
        let page = if let session::Input::Written(name, result) = &input
            && *name == self.inbox
        {
            Some((self.page.take(), *result))
        } else {
            None
        };
        self.session.handle(input, now);
        if let Some((page, result)) = page {
            self.on_inbox_written(page, result, now);
        }
        self.drain(&mut touched, now);
        for name in touched {
            self.settle(&name, now);
        }
        if let Some(notice) = noticed.filter(|notice| notice.inbox == self.inbox) {
            let head = notice.head.map(|head| InboxEntry::Exists(head.epoch, head.version));
            let entry = head.unwrap_or(InboxEntry::Absent);
            self.hear(PolledHead { collection: notice.collection, entry }, now);
        }
    }

    /// Remembers what the server says of collections that fail, and that it knows nothing of them.
    fn note_failures(&mut self, names: &[CollectionName], outcomes: &[Outcome]) {
        for (name, outcome) in names.iter().zip(outcomes) {
            if matches!(outcome, Outcome::Failed(_) | Outcome::Deferred(_)) {
                self.is_not_pulled(name);
            }
            if let (Outcome::Failed(failure), Some(entry)) = (outcome, self.entries.get_mut(name)) {
                entry.set_error(&format!("{} (code {})", failure.message, failure.code));
            }
        }
    }

    /// Everything that is due by now.
    fn tick(&mut self, now: Instant) {
        self.scan_again(now);
        self.take_turns(now);
        self.poll_on(now);
        self.check_next(now);
        self.acknowledge(now);
        let mut touched = Vec::new();
        self.drain(&mut touched, now);
        for name in touched {
            self.settle(&name, now);
        }
        self.make_notes(now);
        self.show();
    }

    fn show(&mut self) {
        let summary = self.summary();
        if self.changed.is_empty() && summary == self.shown {
            return;
        }
        self.shown = summary;
        let shown = std::mem::take(&mut self.changed).into_iter().map(|name| {
            let entry = self.entries.get(&name).filter(|entry| !entry.is_dropping());
            let shown = entry.map(|entry| entry.shown(&name, &self.clock));
            (name, shown)
        });
        let shown = shown.collect();
        self.actions.push_back(Action::Show(shown, summary));
    }
}

impl Default for DeskConfig {
    fn default() -> Self {
        Self {
            subject: Subject::new("nobody").expect("well-formed"),
            session: Config::default(),
            ack_every: Duration::from_secs(5),
            clock_ms: 0,
        }
    }
}
