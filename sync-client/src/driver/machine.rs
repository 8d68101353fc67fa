//! What a driver runs: the conversation of a replica, or the desk of an account around one.

use std::time::Instant;

use sync_proto::types::CollectionName;

use crate::account::desk::{AccountStats, Action, Desk, Input};
use crate::session::{self, Session, Stats};
use crate::store::Notes;

/// The state machine that decides.
#[derive(Debug)]
pub(super) enum Machine {
    Replica(Box<Session>),
    Account(Box<Desk>),
}

// === impl Machine ===

impl Machine {
    /// Takes in what happened in the conversation.
    pub(super) fn handle(&mut self, input: session::Input, now: Instant) {
        match self {
            Self::Replica(session) => session.handle(input, now),
            Self::Account(desk) => desk.handle(Input::Session(input), now),
        }
    }

    /// Takes in what concerns accounts only.
    pub(super) fn tell(&mut self, input: Input, now: Instant) {
        match self {
            // A replica asks nothing of the kind.
            Self::Replica(_) => {}
            Self::Account(desk) => desk.handle(input, now),
        }
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        match self {
            Self::Replica(session) => session.poll_action().map(|action| match action {
                session::Action::Write(name, write) => {
                    let none = Notes::none(name.clone());
                    Action::Write(name, write, none)
                }
                other @ (session::Action::OpenStream(..)
                | session::Action::CloseStream(_)
                | session::Action::Pull(..)
                | session::Action::SelfCheck(_)
                | session::Action::Mend(..)
                | session::Action::Chosen(..)
                | session::Action::Report(..)) => Action::Session(other),
            }),
            Self::Account(desk) => desk.poll_action(),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        match self {
            Self::Replica(session) => session.deadline(),
            Self::Account(desk) => desk.deadline(),
        }
    }

    /// The collections of the conversation.
    pub(super) fn names(&self) -> Vec<CollectionName> {
        match self {
            Self::Replica(session) => session.names().cloned().collect(),
            Self::Account(desk) => desk.conversing().cloned().collect(),
        }
    }

    /// What an account has counted.
    pub(super) fn account_stats(&self) -> Option<AccountStats> {
        match self {
            Self::Replica(_) => None,
            Self::Account(desk) => Some(*desk.stats()),
        }
    }

    pub(super) fn stats(&self) -> &Stats {
        match self {
            Self::Replica(session) => session.stats(),
            Self::Account(desk) => desk.session_stats(),
        }
    }
}
