//! Makes those wait that begin the same first load again and again. Who must wait is decided in
//! `core::loads`; here are its clock and its lock.

use parking_lot::Mutex;
use sync_proto::types::{Failure, Target};
use tokio::time::Instant;

use crate::auth::Caller;
use crate::core::loads::{Loads, Who};
use crate::status;

/// A number of the connection that a request came on; an extension of the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionNumber(pub u64);

/// Loads that were begun, of all calls.
#[derive(Debug)]
pub struct LoadBreaker {
    loads: Mutex<Loads>,
    since: Instant,
}

// === impl LoadBreaker ===

impl Default for LoadBreaker {
    fn default() -> Self {
        Self { loads: Mutex::default(), since: Instant::now() }
    }
}

impl LoadBreaker {
    /// Who makes a call, for this purpose.
    pub(super) fn who(caller: &Caller, client_id: &str, on: ConnectionNumber) -> Who {
        if client_id.is_empty() {
            return Who::Connection(on.0);
        }
        let subject = caller.subject().to_owned();
        Who::Client { subject, client_id: client_id.to_owned() }
    }

    /// What a target is answered whose load may not begin now. A target that shows where it was
    /// caught up got on from its loads.
    pub(super) fn held_up(&self, who: &Who, target: &Target) -> Option<Failure> {
        let mut loads = self.loads.lock();
        if loads.is_empty() {
            return None;
        }
        let load = who.load(target);
        match target.cursor {
            None => {
                let wait = loads.may_begin(who, load, self.since.elapsed()).err()?;
                tracing::debug!(?wait, "a load is begun again and again");
                Some(status::begun_again(wait))
            }
            Some(cursor) => {
                if cursor.is_caught_up() {
                    loads.got_on(load);
                }
                None
            }
        }
    }

    /// Takes note that the load of a target has begun.
    pub(super) fn began(&self, who: &Who, target: &Target) {
        self.loads.lock().began(who.load(target), self.since.elapsed());
    }
}
