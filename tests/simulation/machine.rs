//! What a device runs: the conversation of a replica, or the desk of an account around one. Both
//! are the real ones; what they ask for is told in the terms of the desk.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sync_client::account::desk::{Action, Desk, DeskConfig, Holdings, Input};
use sync_client::account::{Followed, Summary};
use sync_client::session::{self, Config, Session};
use sync_client::store::{MemoryStore, Notes, ReplicaStore as _};
use sync_proto::types::{CollectionName, Subject};

use crate::copies::FAILS_NEVER;

/// Writes of an account are flushed after this.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// The state machine that decides.
pub(crate) enum Machine {
    Replica(Box<Session>),
    Account(Box<Account>),
}

/// An account, and what its application was shown.
pub(crate) struct Account {
    pub(crate) subject: Subject,
    desk: Desk,
    list: BTreeMap<CollectionName, Followed>,
    summary: Summary,
    flush_at: Option<Instant>,
}

// === impl Machine ===

impl Machine {
    /// A replica of these collections, which stand where the store says.
    pub(crate) fn replica(
        store: &MemoryStore,
        names: &[CollectionName],
        seed: u64,
        now: Instant,
    ) -> Self {
        let standing =
            |name: &CollectionName| (name.clone(), store.standing(name).expect(FAILS_NEVER));
        let standings = names.iter().map(standing).collect();
        Self::Replica(Box::new(Session::new(Config::default(), standings, seed, now)))
    }

    /// An account of which the store holds what it holds.
    pub(crate) fn account(
        store: &MemoryStore,
        subject: Subject,
        clock_ms: u64,
        seed: u64,
        now: Instant,
    ) -> Self {
        let holdings = Holdings::read(store, &subject.inbox()).expect(FAILS_NEVER);
        let config = DeskConfig { subject: subject.clone(), clock_ms, ..DeskConfig::default() };
        let desk = Desk::new(config, holdings, seed, now);
        let list = desk.followed().map(|one| (one.name.clone(), one)).collect();
        let summary = Summary::default();
        // What an earlier life has written is flushed, too.
        let flush_at = Some(now + FLUSH_AFTER);
        Self::Account(Box::new(Account { subject, desk, list, summary, flush_at }))
    }

    pub(crate) fn handle(&mut self, input: Input, now: Instant) {
        match (self, input) {
            (Self::Replica(session), Input::Session(input)) => session.handle(input, now),
            (Self::Replica(_), other) => panic!("a replica asks for nothing like {other:?}"),
            (Self::Account(account), input) => account.desk.handle(input, now),
        }
    }

    /// Time has passed.
    pub(crate) fn elapse(&mut self, now: Instant) {
        if let Self::Account(account) = self
            && account.flush_at.is_some_and(|at| at <= now)
        {
            account.flush_at = None;
            return account.desk.handle(Input::Flushed, now);
        }
        self.handle(Input::Session(session::Input::Elapsed), now);
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        match self {
            Self::Replica(session) => session.poll_action().map(|action| {
                if let session::Action::Write(name, write) = action {
                    let none = Notes::none(name.clone());
                    Action::Write(name, write, none)
                } else {
                    Action::Session(action)
                }
            }),
            Self::Account(account) => account.desk.poll_action(),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        match self {
            Self::Replica(session) => session.deadline(),
            Self::Account(account) => {
                let desk = account.desk.deadline();
                account.flush_at.map_or(desk, |at| at.min(desk))
            }
        }
    }

    /// Something was written that is to be flushed.
    pub(crate) fn flush_soon(&mut self, now: Instant) {
        if let Self::Account(account) = self {
            account.flush_at.get_or_insert(now + FLUSH_AFTER);
        }
    }

    /// What the application is shown from now on.
    pub(crate) fn show(
        &mut self,
        shown: Vec<(CollectionName, Option<Followed>)>,
        summary: Summary,
    ) {
        let Self::Account(account) = self else { unreachable!("a replica shows no list") };
        account.summary = summary;
        for (name, one) in shown {
            match one {
                Some(one) => drop(account.list.insert(name, one)),
                None => drop(account.list.remove(&name)),
            }
        }
    }

    /// Whether it says that everything is as it should be.
    pub(crate) fn is_settled(&self) -> bool {
        match self {
            Self::Replica(session) => session.is_settled(),
            Self::Account(account) => account.summary.is_settled(),
        }
    }

    pub(crate) fn as_account(&self) -> Option<&Account> {
        match self {
            Self::Account(account) => Some(account),
            Self::Replica(_) => None,
        }
    }

    /// For whoever looks for a fault.
    pub(crate) fn tell(&self) -> String {
        match self {
            Self::Replica(session) => format!("{session:?}"),
            Self::Account(account) => {
                format!("{:?} {:?}\n{:?}", account.summary, account.list, account.desk)
            }
        }
    }
}

// === impl Account ===

impl Account {
    /// What the application sees that is followed.
    pub(crate) fn listed(&self) -> impl Iterator<Item = &CollectionName> {
        self.list.keys()
    }
}
