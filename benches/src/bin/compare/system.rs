//! What the workloads ask of a system: five of them, ours among them, are behind these traits.

use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::failure::Outcome;
use crate::process::Usage;

/// What a call of a system comes to.
pub(crate) type Doing<'a, T> = BoxFuture<'a, Outcome<T>>;

/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 128;

/// One item to write.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Which collection, or topic, stream, prefix.
    pub(crate) collection: u32,
    pub(crate) key: u32,
    pub(crate) value: Bytes,
}

/// A place in what happened, as the system counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Epoch, or milliseconds.
    pub(crate) life: u64,
    /// Version, revision, sequence.
    pub(crate) at: u64,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    /// It has nothing: everything that is there comes first.
    Scratch,
    /// It has everything up to here.
    After(Mark),
}

/// What a reader got.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) changes: u64,
    /// Of changes as they came, without frames.
    pub(crate) bytes: u64,
    /// The server said that everything there is was sent.
    pub(crate) caught_up: bool,
    /// When latencies are wanted: where the clock of values begins, and those seen, in microseconds.
    pub(crate) latencies: Option<(Instant, Vec<u32>)>,
}

/// A user who is away: which collections it holds, and where it stands in them.
#[derive(Debug, Clone)]
pub(crate) struct Away {
    pub(crate) user: u32,
    /// By number.
    pub(crate) held: Vec<(u32, Mark)>,
    /// Where it stands in what the system tells it of itself, if it does.
    pub(crate) inbox: Option<Mark>,
}

/// What a login found.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Login {
    pub(crate) changed: u64,
    /// Bytes of messages, both ways.
    pub(crate) bytes: u64,
}

/// A server and how to speak to it.
pub(crate) trait System: Send + Sync {
    /// As the table shows it.
    fn name(&self) -> &'static str;
    /// What its program calls itself.
    fn version(&self) -> String;
    /// Starts it, or starts it again: its caches are cold, and what it stored is there.
    fn start(&mut self) -> Doing<'_, ()>;
    /// Its process; 0 = it does not run.
    fn pid(&self) -> u32;
    /// A connection, or what becomes one.
    fn connect(&self) -> Doing<'_, Box<dyn Line>>;
    /// Whether one connection carries many writers and readers.
    fn multiplexes(&self) -> bool {
        false
    }
    /// Whether a reader who was away gets the latest state of an item and not every state.
    fn coalesces(&self) -> bool {
        false
    }
    /// What must be set up before changes are pushed to readers.
    fn prepare_fan_out(&self) -> Doing<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    /// The most subscribers that it is asked to take, and why.
    fn subscribers_max(&self) -> Option<(usize, &'static str)> {
        None
    }
    /// What it has used.
    fn usage(&self) -> Usage {
        crate::process::usage(self.pid())
    }
}

/// A connection.
pub(crate) trait Line: Send + Sync {
    fn writer(&self) -> Doing<'_, Box<dyn Writer>>;
    /// A reader of a collection that exists.
    fn feed(&self, collection: u32, from: Start) -> Doing<'_, Box<dyn Feed>>;
    /// Where a collection stands.
    fn mark(&self, collection: u32) -> Doing<'_, Mark>;
    /// Lets a user follow what it holds, where a system can be told; where its inbox stands then.
    fn follow<'a>(&'a self, _away: &'a Away) -> Doing<'a, Option<Mark>> {
        Box::pin(async { Ok(None) })
    }
    /// Who comes back; `None` = the system has no call that asks for many collections at once.
    fn visitor(&self) -> Doing<'_, Option<Box<dyn Visitor>>> {
        Box::pin(async { Ok(None) })
    }
}

/// Comes back after having been away.
pub(crate) trait Visitor: Send {
    /// Finds out what changed, and reads it.
    fn log_in<'a>(&'a mut self, away: &'a Away) -> Doing<'a, Login>;
}

/// Writes. When a write returns, it is on disk.
pub(crate) trait Writer: Send {
    /// All items at once: atomic where the system can.
    fn write<'a>(&'a mut self, items: &'a [Item]) -> Doing<'a, ()>;
}

/// Reads what changes.
pub(crate) trait Feed: Send {
    /// Waits for the next message and takes it.
    fn next<'a>(&'a mut self, taken: &'a mut Taken) -> Doing<'a, ()>;
}

// === impl Taken ===

impl Taken {
    pub(crate) fn nothing() -> Self {
        Self { changes: 0, bytes: 0, caught_up: false, latencies: None }
    }

    /// Nothing so far, and latencies are wanted; the clock of values begins at `origin`.
    pub(crate) fn with_latencies(origin: Instant) -> Self {
        Self { latencies: Some((origin, Vec::new())), ..Self::nothing() }
    }

    /// Takes one change: its bytes, and its value, which begins with when it was written.
    pub(crate) fn take(&mut self, bytes: usize, value: impl FnOnce() -> Option<[u8; 8]>) {
        self.changes += 1;
        self.bytes += bytes as u64;
        let Some((origin, latencies)) = &mut self.latencies else { return };
        let Some(written) = value().map(u64::from_be_bytes).filter(|written| *written > 0) else {
            return;
        };
        let now = u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        latencies.push(u32::try_from(now.saturating_sub(written)).unwrap_or(u32::MAX));
    }
}

/// The stamp that a value begins with.
pub(crate) fn stamp_of(value: &[u8]) -> Option<[u8; 8]> {
    value.first_chunk::<8>().copied()
}
