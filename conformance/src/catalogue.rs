//! The catalogue: what is played, and what must be true in the end. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;

use crate::child::Refused;
use crate::doors::Door;
use crate::faults::{Fault, StreamFault};

/// The collection of a case that names none.
pub const DEFAULT_COLLECTION: &str = "list";

/// The catalogue as it is published.
pub const PUBLISHED: &str = include_str!("../cases.json");

/// All cases.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// What the file is.
    pub about: String,
    /// In the order in which they are shown.
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Its name, for people and for the client's log.
    pub id: String,
    /// What must hold, with the rules that say so.
    pub promise: String,
    /// What the client is.
    #[serde(default)]
    pub mode: Mode,
    /// The client talks to the real server itself, over TLS, and shows this; no fault befalls it.
    #[serde(default)]
    pub door: Option<Door>,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// What must be true in the end, besides the copy.
    #[serde(default)]
    pub expect: Expect,
}

/// What a client under test does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Keeps a copy of the collection.
    #[default]
    Follow,
    /// Keeps a copy of the subject's inbox and of everything in it.
    Inbox,
    /// Commits ten items to the collection, one by one.
    Write,
    /// Imports eight large items, one a commit.
    Import,
    /// Takes what changed since it acknowledged last, acknowledges it and ends; keeps no copy.
    Resume,
    /// Shows the first ten rows of the list, and keeps them right.
    Window,
}

/// One thing that happens.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// The client is started.
    Start,
    /// Waits until the client's stream is open, and has told it that it is at the head.
    Live,
    /// Waits until the copy is the collection.
    Arrive,
    /// Waits until every fault that was asked for has been played.
    Played,
    /// A commit.
    Commit(Commit),
    /// Many items.
    Fill(Fill),
    /// The collection is deleted.
    DeleteCollection(String),
    /// The collection gets another epoch.
    RotateEpoch(String),
    /// The collection may hold so many bytes.
    Quota(u64),
    /// Waits until a client of the mode `resume` has ended: it has taken exactly this, and the server
    /// holds its ack of the head.
    Taken(Taken),
    /// All deletes up to the head are forgotten.
    Purge(String),
    /// Followers of the collection are told by polled heads and notices instead of entries.
    TellByPolling(String),
    /// The subject follows the collections.
    Follow(Vec<String>),
    /// The subject follows them no more.
    Unfollow(Vec<String>),
    /// A copy of the data directory is taken.
    CopyStore,
    /// The server is stopped, and started over the copy that was taken.
    PutCopyInPlace,
    /// The server is stopped in good order, and started again.
    Restart,
    /// From now on every call is refused with `UNAVAILABLE`, and streams are cut.
    Away,
    /// Calls are served again.
    Back,
    /// Pages of a pull are cut at so many changes.
    CutPages(u32),
    /// What becomes of the next answer or message that the fault fits.
    Next(Next),
    /// What becomes of the streams that are open now.
    Now(StreamFault),
    /// For so long the client must be heard no more often than so.
    Watch(Watch),
}

/// Items that change together.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Where.
    #[serde(rename = "in", default = "default_collection")]
    pub collection: String,
    /// Items that are put: key to value.
    #[serde(default)]
    pub put: BTreeMap<String, String>,
    /// Items that are deleted.
    #[serde(default)]
    pub delete: Vec<String>,
    /// Items that move: key to sort key.
    #[serde(default)]
    pub reorder: BTreeMap<String, String>,
}

/// Many items, in commits of `per_commit`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fill {
    /// How many.
    pub items: u32,
    /// How large each is.
    pub value_bytes: usize,
    /// How many a version has.
    pub per_commit: u32,
}

/// What a client of the mode `resume` takes before it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Taken {
    /// It was told that this is all that there is.
    pub anew: bool,
    /// Keys of items that it was given.
    pub put: BTreeSet<String>,
    /// Keys of items that it was told to be gone.
    pub gone: BTreeSet<String>,
    /// Its ack was refused.
    pub refused: Option<Refused>,
}

/// A fault that waits for its moment.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Next {
    /// What.
    pub fault: Fault,
    /// How often.
    #[serde(default = "once")]
    pub times: u32,
    /// So many moments that the fault fits pass before.
    #[serde(default)]
    pub after: u32,
}

/// A time in which little may be heard.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// How long.
    pub ms: u64,
    /// Most calls.
    pub calls_max: u64,
}

/// What must be true in the end, besides the copy.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// The reasons of all resets that the client was told.
    pub resets: BTreeSet<String>,
    /// Digests that the client found to differ.
    pub mismatches: u64,
    /// Most calls of the whole case.
    pub calls_max: u64,
    /// Most targets that were asked for without a cursor.
    pub from_scratch_max: u64,
    /// What the client gave up at.
    pub refused: Option<Refused>,
    /// Commits that are acknowledged, if not all of them are.
    pub acknowledged: Option<u64>,
    /// The client must not have found anybody that it trusts.
    pub stranger: bool,
    /// The client may be shown an earlier state: an older copy was put in place.
    pub may_go_back: bool,
}

/// A catalogue that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The JSON is not that of a catalogue.
    #[error("the catalogue cannot be read")]
    Json(#[from] serde_json::Error),
    /// Two cases have one name.
    #[error("two cases are called {0}")]
    Twice(String),
    /// A filter fits nothing.
    #[error("no case is called {0}")]
    Unknown(String),
}

fn default_collection() -> String {
    DEFAULT_COLLECTION.to_owned()
}

fn once() -> u32 {
    1
}

// === impl Catalogue ===

impl Catalogue {
    /// The catalogue as it is published.
    pub fn published() -> Result<Self, CatalogueError> {
        Self::parse(PUBLISHED)
    }

    /// Reads a catalogue.
    pub fn parse(json: &str) -> Result<Self, CatalogueError> {
        let catalogue: Self = serde_json::from_str(json)?;
        let mut ids = BTreeSet::new();
        match catalogue.cases.iter().find(|case| !ids.insert(&case.id)) {
            Some(case) => Err(CatalogueError::Twice(case.id.clone())),
            None => Ok(catalogue),
        }
    }

    /// The cases of these names; of none: all.
    pub fn only(self, ids: &[String]) -> Result<Vec<Case>, CatalogueError> {
        let unknown = ids.iter().find(|id| self.cases.iter().all(|case| case.id != **id));
        if let Some(unknown) = unknown {
            return Err(CatalogueError::Unknown(unknown.clone()));
        }
        let asked = |case: &Case| ids.is_empty() || ids.contains(&case.id);
        Ok(self.cases.into_iter().filter(asked).collect())
    }
}

// === impl Mode ===

impl Mode {
    /// Whether the client ends when it has done what it was started for.
    #[must_use]
    pub fn ends_by_itself(self) -> bool {
        match self {
            Self::Write | Self::Import | Self::Resume => true,
            Self::Follow | Self::Inbox | Self::Window => false,
        }
    }

    /// What the client is told to copy or to write: a collection, or a subject.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Follow | Self::Write | Self::Import | Self::Resume | Self::Window => {
                DEFAULT_COLLECTION
            }
            Self::Inbox => "reader",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follow => "follow",
            Self::Inbox => "inbox",
            Self::Write => "write",
            Self::Import => "import",
            Self::Resume => "resume",
            Self::Window => "window",
        })
    }
}

// === impl Expect ===

impl Default for Expect {
    fn default() -> Self {
        Self {
            resets: BTreeSet::new(),
            mismatches: 0,
            calls_max: 40,
            from_scratch_max: 1,
            refused: None,
            acknowledged: None,
            stranger: false,
            may_go_back: false,
        }
    }
}
