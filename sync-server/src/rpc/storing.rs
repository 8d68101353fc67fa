//! Holds what is stored below a name to the quota that the policy says. What there is, is read off the
//! heads of the collections there, so a restart forgets nothing; when to look is decided in
//! `core::stored`.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sync_proto::types::{Mutation, Op};
use tokio::time::Instant;
use tonic::Status;

use super::Context;
use crate::auth::Caller;
use crate::auth::stored::StoredQuota;
use crate::core::stored::{Adding, Stored};
use crate::status;
use crate::store::Store;

/// What is known of everything that has a quota.
#[derive(Debug, Clone)]
pub struct Storing {
    stored: Arc<Mutex<Stored>>,
    since: Instant,
}

/// A commit that is being written; it is, or was not, when this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    stored: Arc<Mutex<Stored>>,
    adding: Vec<Adding>,
}

// === impl Storing ===

impl Default for Storing {
    fn default() -> Self {
        Self { stored: Arc::default(), since: Instant::now() }
    }
}

impl Storing {
    /// Takes room for a commit, below every name with a quota that it puts anything below.
    pub(super) async fn room<S: Store>(
        &self,
        context: &Context<S>,
        caller: &Caller,
        mutations: &[Mutation],
    ) -> Result<Room, Status> {
        let mut taken = Room { stored: Arc::clone(&self.stored), adding: Vec::new() };
        let quotas = caller.stored_quotas();
        for adding in additions(&quotas, mutations) {
            let begun = self.stored.lock().begin(&adding, self.since.elapsed());
            if begun.is_none() {
                let look = self.stored.lock().look(&adding.root, self.since.elapsed());
                let root = adding.root.clone();
                let found = context.read(move |ledger| ledger.bytes_below(&root)).await?;
                let begun = self.stored.lock().begin_after(&adding, &look, found);
                begun.map_err(|error| status::too_much(&error))?;
            }
            taken.adding.push(adding);
        }
        Ok(taken)
    }
}

/// What a commit would add below each name.
fn additions(quotas: &[StoredQuota], mutations: &[Mutation]) -> Vec<Adding> {
    let mut found: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for quota in quotas {
        for mutation in mutations {
            let (Op::Put { .. }, Some(root)) = (&mutation.op, quota.root(&mutation.collection))
            else {
                continue;
            };
            *found.entry((root, quota.bytes_max)).or_default() += bytes_of(&mutation.op);
        }
    }
    let adding = |((root, bytes_max), bytes): ((&str, u64), u64)| Adding {
        root: root.to_owned(),
        bytes,
        bytes_max,
    };
    found.into_iter().map(adding).collect()
}

fn bytes_of(op: &Op) -> u64 {
    match op {
        Op::Put { key, value, sort_key } => {
            let sort_key = sort_key.as_ref().map_or(0, |sort_key| sort_key.as_bytes().len());
            (key.as_bytes().len() + value.as_bytes().len() + sort_key) as u64
        }
        Op::Delete { .. } | Op::Reorder { .. } | Op::Follow { .. } | Op::Unfollow { .. } => 0,
    }
}

// === impl Room ===

impl Drop for Room {
    fn drop(&mut self) {
        let mut stored = self.stored.lock();
        for adding in &self.adding {
            stored.end(adding);
        }
    }
}
