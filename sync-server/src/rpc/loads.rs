//! Makes those wait that begin the same first load again and again. Who must wait is decided in
//! `core::loads`; here are its clock and its lock.

use parking_lot::Mutex;
use sync_proto::types::{AcceptedTarget, CollectionName, Failure, Plan, Target};
use tokio::time::Instant;

use super::Context;
use crate::auth::Caller;
use crate::core::loads::{Loads, Who};
use crate::status;
use crate::store::Store;

/// A number of the connection that a request came on; an extension of the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionNumber(pub u64);

/// Loads that were begun, of all calls.
#[derive(Debug)]
pub struct LoadBreaker {
    loads: Mutex<Loads>,
    since: Instant,
}

/// A target whose load may not begin now: its place among the targets, what it is told, and why.
pub(super) type HeldUp = (usize, AcceptedTarget, Failure);

/// Takes those targets out whose loads may not begin now.
pub(super) fn hold_up<S: Store>(
    context: &Context<S>,
    who: &Who,
    targets: Vec<Target>,
    may_read: impl Fn(&CollectionName) -> bool,
) -> (Vec<Target>, Vec<HeldUp>) {
    let (mut served, mut held_up) = (Vec::new(), Vec::new());
    for (index, target) in targets.into_iter().enumerate() {
        let name = target.collection.clone();
        // Whoever may not read, or finds nothing, is told that instead.
        let head = may_read(&name).then(|| context.ledger.head(&name)).flatten();
        let judged = head.is_some() && !target.notify_only;
        match judged.then(|| context.loads.held_up(who, &target)).flatten() {
            Some(failure) => {
                let told = AcceptedTarget { collection: name, plan: Plan::Load, head };
                held_up.push((index, told, failure));
            }
            None => served.push(target),
        }
    }
    (served, held_up)
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
