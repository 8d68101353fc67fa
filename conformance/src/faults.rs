//! Which faults are asked for, and which of them is due. Pure.

use std::collections::{BTreeMap, VecDeque};

use serde::Deserialize;

/// What becomes of one answer, message or call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A push is lost.
    DropPush,
    /// A push comes twice.
    RepeatPush,
    /// A push comes after the next one.
    SwapPush,
    /// After a push, the first one of the stream comes again.
    StalePush,
    /// A push is followed by a copy of it that is of another epoch.
    StrayPush,
    /// A byte of a value is another one.
    DamageValue,
    /// A delete is missing.
    LoseDelete,
    /// A change has no content, as if a newer server had sent a kind that the client does not know.
    UnknownChange,
    /// The message is larger than a client takes.
    HugeMessage,
    /// A page passes, and what comes next is `UNAVAILABLE`: the stream ends, or the next call does.
    BreakOff,
    /// A call is refused with `UNAVAILABLE`.
    Unavailable,
    /// A commit, an import or an ack is carried out, but its answer is `UNAVAILABLE`.
    LoseAnswer,
    /// A call is refused with `RESOURCE_EXHAUSTED`, and is not to be repeated for so many
    /// milliseconds (`RetryInfo`).
    Busy(u64),
    /// A call is refused with `UNAUTHENTICATED`.
    Unauthenticated,
    /// A commit, or an ack, reaches the server as nobody may send it: without a key, or far ahead.
    Spoil,
    /// A commit of an import is not passed on.
    LeaveOut,
    /// Nothing more of an import is passed on, and its answer is `UNAVAILABLE`.
    BreakImport,
    /// A target's cursor cannot be continued, for this reason; whoever shows it again hears it again,
    /// so the collection must have moved on by then.
    Reset(Reason),
    /// A target of a pull is deferred.
    Defer,
    /// A target of a pull fails, and is to be asked for again in 300 ms.
    Fail,
    /// A target is not readable.
    Deny,
}

/// What becomes of the streams that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamFault {
    /// They fail with `UNAVAILABLE`.
    Cut,
    /// They end without a word.
    End,
    /// They say nothing more, and do not end.
    Silence,
    /// They end with a goodbye.
    Goodbye(Farewell),
    /// Their targets are told that their cursor cannot be continued.
    Reset(Reason),
    /// Bookmarks tell of where the collection stood before.
    OldBookmark,
}

/// What a goodbye says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Farewell {
    /// The least wait.
    pub retry_after_ms: u64,
    /// A random part of this is waited besides.
    pub jitter_ms: u64,
}

/// Why a cursor cannot be continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// `EPOCH_CHANGED`
    EpochChanged,
    /// `AHEAD_OF_HEAD`
    AheadOfHead,
    /// `BELOW_FLOOR`
    BelowFloor,
    /// `TOO_LARGE`
    TooLarge,
    /// `FORCED`
    Forced,
}

/// What a fault befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A call, before it is carried out.
    Call,
    /// The answer to a commit, an import or an ack.
    CommitAnswer,
    /// A commit or an ack, on its way to the server.
    Request,
    /// A commit of an import, on its way to the server.
    ImportPart,
    /// A target, in a pull or when a stream is opened.
    Target,
    /// A target of a pull.
    PullTarget,
    /// A delta with changes, however it comes.
    Delta,
    /// A push of changes.
    Push,
    /// A delta that has been passed on.
    Page,
}

/// The faults that wait for their moment.
#[derive(Debug, Default)]
pub struct Armed {
    waiting: VecDeque<Waiting>,
    /// Cursors that were said not to be continued: whoever shows them again hears it again.
    condemned: BTreeMap<(String, Place), Reason>,
}

/// Epoch, version and base.
pub type Place = (u64, u64, u64);

#[derive(Debug)]
struct Waiting {
    fault: Fault,
    /// So many moments that it fits pass before it is due.
    after: u32,
}

// === impl Fault ===

impl Fault {
    /// What it befalls.
    #[must_use]
    pub fn moment(self) -> Moment {
        match self {
            Self::DropPush
            | Self::RepeatPush
            | Self::SwapPush
            | Self::StalePush
            | Self::StrayPush => Moment::Push,
            Self::DamageValue | Self::LoseDelete | Self::UnknownChange | Self::HugeMessage => {
                Moment::Delta
            }
            Self::BreakOff => Moment::Page,
            Self::Unavailable | Self::Busy(_) | Self::Unauthenticated => Moment::Call,
            Self::Spoil => Moment::Request,
            Self::LeaveOut | Self::BreakImport => Moment::ImportPart,
            Self::LoseAnswer => Moment::CommitAnswer,
            Self::Reset(_) | Self::Deny => Moment::Target,
            Self::Defer | Self::Fail => Moment::PullTarget,
        }
    }
}

// === impl Reason ===

impl Reason {
    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Self::EpochChanged => 1,
            Self::AheadOfHead => 2,
            Self::BelowFloor => 3,
            Self::TooLarge => 4,
            Self::Forced => 5,
        }
    }
}

// === impl Armed ===

impl Armed {
    /// Asks for a fault, after so many moments that it would fit.
    pub fn arm(&mut self, fault: Fault, times: u32, after: u32) {
        self.waiting.extend((0..times).map(|_| Waiting { fault, after }));
    }

    /// The first fault that befalls this, if it is due now.
    pub fn take(&mut self, moment: Moment) -> Option<Fault> {
        let index = self.waiting.iter().position(|waiting| waiting.fault.moment() == moment)?;
        let waiting = &mut self.waiting[index];
        if waiting.after > 0 {
            waiting.after -= 1;
            return None;
        }
        self.waiting.remove(index).map(|waiting| waiting.fault)
    }

    /// What befalls a target that shows this cursor. Without one there is nothing to be continued.
    pub fn judge(&mut self, collection: &str, shown: Option<Place>) -> Option<Fault> {
        let Some(shown) = shown else {
            return if matches!(self.next(Moment::Target), Some(Fault::Reset(_))) {
                None
            } else {
                self.take(Moment::Target)
            };
        };
        let place = (collection.to_owned(), shown);
        if let Some(reason) = self.condemned.get(&place) {
            return Some(Fault::Reset(*reason));
        }
        let fault = self.take(Moment::Target);
        if let Some(Fault::Reset(reason)) = fault {
            self.condemned.insert(place, reason);
        }
        fault
    }

    /// The first fault that befalls this, without taking it.
    #[must_use]
    pub fn next(&self, moment: Moment) -> Option<Fault> {
        self.waiting.iter().map(|waiting| waiting.fault).find(|fault| fault.moment() == moment)
    }

    /// Whether all of them have been played.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
