//! A window's conversation with the server, as a state machine. Pure: no network, no clock; time
//! and dice are arguments. [`Machine::handle`] takes what happened, [`Machine::poll_action`] says
//! what to do, [`Machine::view`] what to show, [`Machine::deadline`] when to call again with
//! [`Input::Elapsed`].
//!
//! ```text
//!          moved, reset, other epoch                     rows left, grown
//!         +------------------------+          +-------------------------------+
//!         v                        |          v                               |
//!  Fresh listing --listed--> stream of the stretch, from --changes--> rows below the mark:
//!         |                  the head of the first page               list more behind the end,
//!         +--not found--> notices only --moved--> Fresh               then the longer stretch
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sync_proto::types::{
    CollectionName, Cursor, Event, Head, Item, Key, ListItems, OrderPlace, Subscribe,
};

use super::details::Details;
use super::line::Line;
use super::listing::Listing;
use super::rows::{Row, Rows, Span};
use super::view::{Departed, Departure, Verdict, WindowRow, WindowView};
use crate::backoff::{Backoff, part_of};
use crate::client::{Found, GetItemsReply};

/// What a window is about and how much it may hold.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which collection.
    pub collection: CollectionName,
    /// Last first.
    pub descending: bool,
    /// Quiet time before the server gives a sign of life.
    pub heartbeat: Duration,
    /// Names the device; empty = anonymous.
    pub client_id: String,
    /// Bytes of contents that are kept.
    pub details_bytes_max: usize,
    /// Longest wait between two attempts.
    pub backoff_longest: Duration,
}

/// What the application wants to see. A level: only the last wish counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// How many rows.
    pub rows: usize,
    /// Where the window begins.
    pub start: WindowStart,
    /// Counts the moves, so that a move to where it was is one.
    pub moves: u64,
    /// The rows of the window whose contents are shown.
    pub on_screen: std::ops::Range<usize>,
}

/// Where a window is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WindowStart {
    /// With the item of this rank, 0 being the first in the direction of the window; from then on,
    /// where that item stood. Costs the server about a row for each item that is passed over.
    Rank(u64),
    /// With the first item that stands here, or behind it in the direction of the window.
    Place(OrderPlace),
}

/// Which question, or which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(pub(super) u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// So many bytes have come by the connection since the client was made, also of messages that
    /// are not whole yet. Told before [`Self::Elapsed`]: a page takes long on a slow line.
    Received(u64),
    /// The application wants to see something else.
    Wish(Wish),
    /// A listing was answered, or not.
    Listed(AskId, Result<Listed, Fault>),
    /// Contents were answered, or not.
    Fetched(AskId, Result<GetItemsReply, Fault>),
    /// A message came by a stream, in order.
    Event(AskId, Event),
    /// A stream could not be opened, broke, or ended.
    StreamEnded(AskId, Fault),
    /// Time has passed.
    Elapsed,
}

/// A page of a listing.
#[derive(Debug)]
pub struct Listed {
    /// In the order asked for.
    pub items: Vec<Item>,
    /// Where the next page begins; `None` = this was the last.
    pub next: Option<bytes::Bytes>,
    /// The collection at the moment of reading.
    pub head: Head,
    /// Items that were passed over because that was asked for.
    pub skipped: u64,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Try again.
    Passing,
    /// There is no such collection.
    Absent,
    /// Not readable.
    Denied,
    /// The server does not know the credentials: they may just be renewed.
    Unauthenticated,
    /// What the question goes by has changed: begin again.
    BeginAgain,
}

/// What to do.
#[derive(Debug)]
pub enum Action {
    /// Ask for a page of a listing.
    List(AskId, ListItems),
    /// Ask for items with their contents.
    Fetch(AskId, Vec<Key>),
    /// Open a stream, in place of one that is open.
    Open(AskId, Subscribe),
    /// Drop the stream.
    Close,
}

/// The state of a window's conversation.
#[derive(Debug)]
pub struct Machine {
    pub(super) config: Config,
    pub(super) dice: StdRng,
    pub(super) wish: Wish,
    pub(super) held: Option<Held>,
    pub(super) listing: Option<Listing>,
    /// When to list anew after a failure.
    pub(super) list_at: Option<Instant>,
    pub(super) list_backoff: Backoff,
    pub(super) line: Line,
    pub(super) standing: Standing,
    /// Since when the rows are not kept up.
    pub(super) lost_since: Option<Instant>,
    details: Details,
    fetching: Option<AskId>,
    fetch_at: Option<Instant>,
    fetch_backoff: Backoff,
    departed: Arc<Departed>,
    actions: VecDeque<Action>,
    next_id: u64,
}

/// The rows of one place of the window.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) moves: u64,
    pub(super) rows: Rows,
    /// The rows are all there is in here, at the cursor.
    pub(super) span: Span,
    pub(super) cursor: Cursor,
    /// The rows are of one state of the collection, and nothing is known to be missing.
    pub(super) caught_up: bool,
    pub(super) rank: Option<u64>,
    pub(super) total: u64,
}

/// What the server says of the collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is there, as far as is known.
    There,
    Absent,
    Denied,
}

/// Rows that a window holds at most.
pub(super) const ROWS_MAX: usize = 10_000;
/// Rows that are held behind the last one that is shown: what leaves is replaced at once. Half as
/// many as are shown, within these.
const RESERVE: (usize, usize) = (8, 100);
/// Windows of the back-off of questions.
const WAITS_FIRST: Duration = Duration::from_millis(200);
/// A collection that is not readable is asked for again this often, give or take a half.
const DENIED_RETRY: Duration = Duration::from_secs(5 * 60);
/// Least wait after credentials that the server does not know.
const UNKNOWN_WAIT: Duration = Duration::from_secs(5);

// === impl Machine ===

impl Machine {
    /// A window that begins to list its rows. `seed` throws the dice.
    #[must_use]
    pub fn new(config: Config, wish: Wish, seed: u64, now: Instant) -> Self {
        let waits = Backoff::new(WAITS_FIRST, config.backoff_longest.max(WAITS_FIRST));
        let mut machine = Self {
            dice: StdRng::seed_from_u64(seed),
            details: Details::new(config.details_bytes_max),
            wish,
            held: None,
            listing: None,
            list_at: None,
            list_backoff: waits,
            line: Line::new(waits, config.heartbeat),
            standing: Standing::There,
            lost_since: None,
            fetching: None,
            fetch_at: None,
            fetch_backoff: waits,
            departed: Arc::default(),
            actions: VecDeque::new(),
            next_id: 0,
            config,
        };
        machine.list_fresh();
        machine.settle(now);
        machine
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Wish(wish) => self.on_wish(wish),
            Input::Listed(id, answer) => self.on_listed(id, answer, now),
            Input::Fetched(id, answer) => self.on_fetched(id, answer, now),
            Input::Event(id, event) if self.line.is_current(id) => self.on_event(event, now),
            Input::StreamEnded(id, fault) if self.line.is_current(id) => {
                self.on_stream_ended(fault, now);
            }
            // Of a stream that was dropped.
            Input::Event(..) | Input::StreamEnded(..) => {}
            Input::Received(bytes) => self.line.received = bytes,
            Input::Elapsed => self.on_time(now),
        }
        self.settle(now);
    }

    /// What to do, in order, before the next input.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What it is about.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the application wanted to see last.
    #[must_use]
    pub fn wish(&self) -> &Wish {
        &self.wish
    }

    /// When to call again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let waits = [self.list_at, self.fetch_at, self.line.deadline()];
        waits.into_iter().flatten().min()
    }

    /// What to show.
    #[must_use]
    pub fn view(&self) -> WindowView {
        let held = self.held.as_ref();
        let shown = self.shown(held).map(|row| WindowRow {
            key: row.key.clone(),
            sort_key: row.sort_key.clone(),
            version: row.version,
            created: row.created,
            detail: self.details.of(row),
        });
        let rows: Vec<WindowRow> = shown.collect();
        WindowView {
            verdict: self.verdict(),
            rank: held.and_then(|held| held.rank),
            total: held.map(|held| held.total),
            ends: held.is_some_and(|held| held.span.ends() && held.rows.len() == rows.len()),
            // Of a collection that is gone: those that the window has made.
            moves: held.map_or(self.wish.moves, |held| held.moves),
            departed: self.departed.clone(),
            rows,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match (self.standing, &self.held, self.lost_since) {
            (Standing::Denied, _, _) => Verdict::Denied,
            (_, _, Some(since)) => Verdict::Stale { since },
            (Standing::Absent, _, None) => Verdict::Absent,
            (Standing::There, None, None) => Verdict::Filling,
            (Standing::There, Some(held), None) => {
                let full = held.span.ends() || held.rows.len() >= self.rows_wanted();
                let at = held.cursor;
                if !full || !held.caught_up || held.moves != self.wish.moves {
                    Verdict::Filling
                } else if self.wish.rows > ROWS_MAX && !held.span.ends() {
                    Verdict::Truncated { at }
                } else {
                    Verdict::Complete { at }
                }
            }
        }
    }

    pub(super) fn rows_wanted(&self) -> usize {
        self.wish.rows.clamp(1, ROWS_MAX)
    }

    pub(super) fn reserve(&self) -> usize {
        (self.rows_wanted() / 2).clamp(RESERVE.0, RESERVE.1)
    }

    fn shown<'a>(&self, held: Option<&'a Held>) -> impl Iterator<Item = &'a Row> + use<'a> {
        let (descending, most) = (self.config.descending, self.rows_wanted());
        held.into_iter().flat_map(move |held| held.rows.iter(descending)).take(most)
    }

    pub(super) fn ask(&mut self) -> AskId {
        self.next_id += 1;
        AskId(self.next_id)
    }

    pub(super) fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn on_wish(&mut self, wish: Wish) {
        let moved = wish.moves != self.wish.moves;
        self.wish = wish;
        if moved {
            self.list_fresh();
        }
    }

    fn on_time(&mut self, now: Instant) {
        if self.list_at.is_some_and(|at| at <= now) {
            self.list_at = None;
            self.ask_again();
        }
        if self.fetch_at.is_some_and(|at| at <= now) {
            self.fetch_at = None;
        }
        self.on_line_time(now);
    }

    /// Whatever has happened: holds as many rows as it should, keeps them up, fetches contents.
    fn settle(&mut self, now: Instant) {
        let (wanted, reserve) = (self.rows_wanted(), self.reserve());
        let descending = self.config.descending;
        let mut low = false;
        if let Some(held) = &mut self.held {
            if held.rows.len() > wanted + 2 * reserve {
                let last = held.rows.truncate(wanted + reserve, descending);
                held.span.end_with(last);
            }
            low = !held.span.ends() && held.rows.len() < wanted + reserve / 2;
        }
        let may_list = self.listing.is_none() && self.list_at.is_none();
        if low && may_list && self.standing == Standing::There {
            self.list_more();
        }
        self.open_if_due(now);
        self.fetch();
    }

    fn fetch(&mut self) {
        if self.fetching.is_some() || self.fetch_at.is_some() || self.standing != Standing::There {
            return;
        }
        let Some(held) = &self.held else { return };
        let screen = self.wish.on_screen.clone();
        let most = self.rows_wanted().min(screen.end).saturating_sub(screen.start);
        let on_screen = || held.rows.iter(self.config.descending).skip(screen.start).take(most);
        let keys = self.details.wanted(on_screen());
        self.details.make_room(on_screen());
        if !keys.is_empty() {
            let id = self.ask();
            self.fetching = Some(id);
            self.push(Action::Fetch(id, keys));
        }
    }

    fn on_fetched(&mut self, id: AskId, answer: Result<GetItemsReply, Fault>, now: Instant) {
        if self.fetching != Some(id) {
            return;
        }
        self.fetching = None;
        let reply = match answer {
            Ok(reply) => reply,
            Err(fault) => {
                if fault == Fault::Denied {
                    self.deny(now);
                }
                self.fetch_at = Some(now + self.fetch_backoff.next(&mut self.dice));
                return;
            }
        };
        let Some(held) = &self.held else { return };
        if reply.head.epoch != held.cursor.epoch {
            self.fetch_at = Some(now + self.fetch_backoff.next(&mut self.dice));
            return;
        }
        // An answer that does not get on is not asked for again at once.
        let mut gets_on = false;
        for found in reply.results {
            match found {
                Found::Item(item) => {
                    let known = held.rows.get(&item.key).map(|row| row.value_version);
                    gets_on |= known.is_none_or(|known| known <= item.value_version);
                    self.details.keep(item.key, item.value_version, item.value);
                }
                // Until the stream says so, the row counts as one without content; but not an item
                // that has come since, under the same key.
                Found::Gone(key) => {
                    let (known, at) = (held.rows.get(&key), reply.head.version);
                    gets_on |= known.is_some_and(|row| row.value_version <= at);
                    self.details.keep(key, at, None);
                }
            }
        }
        if gets_on {
            self.fetch_backoff.reset();
        } else {
            self.fetch_at = Some(now + self.fetch_backoff.next(&mut self.dice));
        }
    }

    /// The server went back: versions of values that it gave may be given again.
    pub(super) fn distrust_details(&mut self) {
        self.details.clear();
    }

    /// Shows other rows: all of them are new.
    pub(super) fn replace(&mut self, held: Held) {
        let before = self.held.replace(held);
        let held = self.held.as_ref().expect("it was just put there");
        let Some(before) = before else { return };
        if before.cursor.epoch != held.cursor.epoch {
            self.details.clear();
        }
        if before.moves == held.moves {
            let now: BTreeSet<&Key> = held.rows.keys().collect();
            let gone: Vec<Key> =
                before.rows.keys().filter(|key| !now.contains(key)).cloned().collect();
            for key in gone {
                self.depart(key, Departure::Unknown);
            }
        }
    }

    pub(super) fn depart(&mut self, key: Key, why: Departure) {
        Arc::make_mut(&mut self.departed).add(key, why);
    }

    /// There is no such collection: its items are deleted.
    pub(super) fn vanish(&mut self) {
        if let Some(held) = self.held.take() {
            for key in held.rows.keys() {
                self.depart(key.clone(), Departure::Deleted);
            }
        }
        self.details.clear();
        self.listing = None;
        self.lost_since = None;
        self.standing = Standing::Absent;
        self.close();
    }

    pub(super) fn deny(&mut self, now: Instant) {
        // Not all windows at the same moment.
        let wait = DENIED_RETRY / 2 + part_of(DENIED_RETRY, &mut self.dice);
        self.shut_out(now + wait);
    }

    pub(super) fn not_known(&mut self, now: Instant) {
        let wait = self.list_backoff.next(&mut self.dice) + UNKNOWN_WAIT;
        self.shut_out(now + wait);
    }

    fn shut_out(&mut self, until: Instant) {
        self.standing = Standing::Denied;
        self.listing = None;
        self.list_at = Some(until);
        self.close();
    }
}
