//! A commit to plan, and which rows planning it needs. Pure.

use sync_proto::types::{Commit, Condition, Mutation, Op, Precondition};

use super::acks::{Claim, Claims};
use super::stored::TooMuch;
use super::workspace::Needs;
use crate::store::rows::ReceiptKind;

/// What a mutation or a precondition takes besides its names and contents.
const STEP_OVERHEAD_BYTES: usize = 128;

/// A commit to plan.
#[derive(Debug, Clone)]
pub enum Request {
    /// A commit by itself.
    Commit {
        /// What to do.
        commit: Commit,
        /// Tells another request under the same idempotency key apart.
        fingerprint: [u8; 16],
    },
    /// A commit of an import.
    Import {
        /// Which import.
        import_id: String,
        /// Number of the commit in the import, from 1.
        sequence: u64,
        /// What to do.
        mutations: Vec<Mutation>,
    },
    /// What would store too much: answered if it repeats what was done, and refused otherwise.
    Repeat(Repeated, TooMuch),
    /// What a client has applied: it rides in the same groups.
    Ack(Claims),
}

/// What may have been done before.
#[derive(Debug, Clone)]
pub enum Repeated {
    /// A commit under this key.
    Commit {
        /// Which key.
        idempotency_key: String,
        /// Tells another request under the same key apart.
        fingerprint: [u8; 16],
    },
    /// A commit of an import.
    Import {
        /// Which import.
        import_id: String,
        /// Number of the commit in the import.
        sequence: u64,
    },
}

// === impl Request ===

impl Request {
    /// Says which rows planning it needs.
    pub fn needs(&self, needs: &mut Needs) {
        match self {
            Self::Commit { commit, .. } if !commit.idempotency_key.is_empty() => {
                needs.receipt(ReceiptKind::Commit, &commit.idempotency_key);
            }
            Self::Commit { .. } => {}
            Self::Import { import_id, .. } => needs.receipt(ReceiptKind::Import, import_id),
            Self::Repeat(Repeated::Commit { idempotency_key, .. }, _) => {
                needs.receipt(ReceiptKind::Commit, idempotency_key);
            }
            Self::Repeat(Repeated::Import { import_id, .. }, _) => {
                needs.receipt(ReceiptKind::Import, import_id);
            }
            Self::Ack(claims) => claims.places().for_each(|place| needs.ack(place)),
        }
        for precondition in self.preconditions() {
            precondition_needs(precondition, needs);
        }
        for mutation in self.mutations() {
            needs.collection(&mutation.collection);
            match &mutation.op {
                Op::Put { key, .. } | Op::Delete { key } | Op::Reorder { key, .. } => {
                    needs.changed(&mutation.collection, key);
                }
                Op::Follow { subject } | Op::Unfollow { subject } => {
                    needs.member(&mutation.collection, subject);
                }
            }
        }
    }

    /// What it changes.
    #[must_use]
    pub fn mutations(&self) -> &[Mutation] {
        match self {
            Self::Commit { commit, .. } => &commit.mutations,
            Self::Import { mutations, .. } => mutations,
            Self::Repeat(..) | Self::Ack(_) => &[],
        }
    }

    fn preconditions(&self) -> &[Precondition] {
        match self {
            Self::Commit { commit, .. } => &commit.preconditions,
            Self::Import { .. } | Self::Repeat(..) | Self::Ack(_) => &[],
        }
    }

    fn claims(&self) -> &[Claim] {
        match self {
            Self::Commit { .. } | Self::Import { .. } | Self::Repeat(..) => &[],
            Self::Ack(claims) => &claims.claims,
        }
    }

    /// How many steps of work it is: mutations, preconditions and claims.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.mutations().len() + self.preconditions().len() + self.claims().len()
    }

    /// About how much memory it takes: what waits for the writer is bounded by this.
    #[must_use]
    pub fn size(&self) -> usize {
        let mutation = |mutation: &Mutation| {
            STEP_OVERHEAD_BYTES + mutation.collection.as_str().len() + mutation.op.size()
        };
        let precondition = |precondition: &Precondition| {
            let key = match &precondition.condition {
                Condition::CollectionAbsent | Condition::HeadEquals(..) => 0,
                Condition::ItemVersionEquals(key, _)
                | Condition::ItemAbsent(key)
                | Condition::ItemPresent(key) => key.as_bytes().len(),
            };
            STEP_OVERHEAD_BYTES + precondition.collection.as_str().len() + key
        };
        let claim = |claim: &Claim| STEP_OVERHEAD_BYTES + claim.collection.as_str().len();
        self.mutations().iter().map(mutation).sum::<usize>()
            + self.preconditions().iter().map(precondition).sum::<usize>()
            + self.claims().iter().map(claim).sum::<usize>()
    }
}

fn precondition_needs(precondition: &Precondition, needs: &mut Needs) {
    match &precondition.condition {
        Condition::CollectionAbsent | Condition::HeadEquals(..) => {
            needs.collection(&precondition.collection);
        }
        Condition::ItemVersionEquals(key, _)
        | Condition::ItemAbsent(key)
        | Condition::ItemPresent(key) => needs.judged(&precondition.collection, key),
    }
}
