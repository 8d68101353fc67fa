//! Cursors that are held for clients: what may be claimed, and what a claim changes. Pure.
//!
//! ```text
//! claim: no such collection > of another epoch > above the head > more than was sent > taken
//! taken: another epoch than held -> replaces it;  behind what is held, or the same -> stays;
//!        beyond what is held -> moves it
//! ```

use std::cmp::Reverse;
use std::time::Duration;

use sync_proto::types::{CollectionName, Cursor, Head, Timestamp, Version};

use super::plan::{Answer, Moment, Refusal};
use super::workspace::Workspace;
use crate::store::keys::{AckPlace, ClientKey, Held};

#[cfg(test)]
mod tests;

/// A held cursor that is acknowledged again is as good as new once this part of its life is over:
/// so a client of a quiet collection keeps its cursor, and an ack that is merely repeated costs no
/// write.
const REFRESHED_AFTER: u32 = 16;

/// How long and how many, when nothing else is said: three times as long as tombstones.
const AGE_MAX_DEFAULT: Duration = Duration::from_secs(90 * 24 * 60 * 60);
const COUNT_MAX_DEFAULT: u64 = 1_000_000;

/// What a client says that it has applied.
#[derive(Debug, Clone)]
pub struct Claims {
    /// Which client.
    pub client: ClientKey,
    /// How far it has come; no collection twice.
    pub claims: Vec<Claim>,
}

/// How far a client says that it has applied a collection.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Which collection.
    pub collection: CollectionName,
    /// Applied up to here.
    pub cursor: Cursor,
    /// The newest cursor that was sent to the client; `None` = not known, so only the head bounds
    /// what may be claimed.
    pub sent: Option<Cursor>,
}

/// Why a claim was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AckRefusal {
    /// There is no such collection.
    #[error("collection: there is no such collection")]
    NoCollection,
    /// The cursor is of another life of the collection.
    #[error("cursor: of another epoch; the collection stands at {0}")]
    OtherEpoch(Cursor),
    /// Nobody can have been sent this.
    #[error("cursor: above the head; the collection stands at {0}")]
    AboveHead(Cursor),
    /// The client was not sent this.
    #[error("cursor: claims more than was sent to this client, which is {0}; pull first")]
    NeverSent(Cursor),
}

/// How long held cursors are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckRetention {
    /// A cursor that was not acknowledged for this long is forgotten.
    pub age_max: Duration,
    /// Cursors held at most; above it those go that were noted longest ago. An ack that changes
    /// nothing is noted anew only when a sixteenth of `age_max` has passed.
    pub count_max: u64,
}

/// How far a cursor reaches. At one version, whoever is caught up claims more than whoever is
/// between two pages, and that more than a load that is under way.
fn reach(cursor: Cursor) -> (Version, Reverse<Version>) {
    (cursor.version, Reverse(cursor.base))
}

/// Of two cursors of a collection, the one that says more; of two epochs, the newer one.
#[must_use]
pub fn further(before: Cursor, now: Cursor) -> Cursor {
    let back = before.epoch == now.epoch && reach(now) < reach(before);
    if back { before } else { now }
}

/// Whether a claim may be believed. `head` is what is durable: nobody was shown more.
fn judge(head: Option<&Head>, claim: &Claim) -> Result<(), AckRefusal> {
    let (cursor, head) = (claim.cursor, head.ok_or(AckRefusal::NoCollection)?);
    if cursor.epoch != head.epoch {
        return Err(AckRefusal::OtherEpoch(head.cursor()));
    }
    if cursor.version.max(cursor.base) > head.version {
        return Err(AckRefusal::AboveHead(head.cursor()));
    }
    match claim.sent {
        Some(sent) if sent.epoch == cursor.epoch && reach(cursor) > reach(sent) => {
            Err(AckRefusal::NeverSent(sent))
        }
        Some(_) | None => Ok(()),
    }
}

/// What is held after a claim that may be believed.
fn hold(held: Option<Held>, claim: Cursor, now: Timestamp, retention: &AckRetention) -> Held {
    let Some(held) = held else { return Held { time: now, cursor: claim } };
    let cursor = further(held.cursor, claim);
    let age = Duration::from_millis(now.as_millis().saturating_sub(held.time.as_millis()));
    if cursor == held.cursor && age < retention.age_max / REFRESHED_AFTER {
        return held;
    }
    // A clock that went back must not make a cursor look older.
    Held { time: now.max(held.time), cursor }
}

// === impl AckRetention ===

impl Default for AckRetention {
    fn default() -> Self {
        Self { age_max: AGE_MAX_DEFAULT, count_max: COUNT_MAX_DEFAULT }
    }
}

impl AckRetention {
    /// Whether a cursor that was acknowledged then may be forgotten.
    #[must_use]
    pub fn outlived(&self, time: Timestamp, now: Timestamp) -> bool {
        let age = now.as_millis().saturating_sub(time.as_millis());
        u128::from(age) >= self.age_max.as_millis()
    }

    /// How many are too many.
    #[must_use]
    pub fn surplus(&self, count: u64) -> u64 {
        count.saturating_sub(self.count_max)
    }
}

// === impl Claims ===

impl Claims {
    /// Where the cursors are held.
    pub(super) fn places(&self) -> impl Iterator<Item = AckPlace> {
        self.claims.iter().map(|claim| self.place(claim))
    }

    fn place(&self, claim: &Claim) -> AckPlace {
        AckPlace { client: self.client.clone(), collection: claim.collection.clone() }
    }
}

// === impl Workspace ===

impl Workspace {
    /// Takes all claims, or none and says which one is wrong.
    pub(super) fn plan_ack(&mut self, asked: &Claims, at: &Moment<'_>) -> Result<Answer, Refusal> {
        for (index, claim) in asked.claims.iter().enumerate() {
            // Before the group: what is planned in it is not durable, so nobody has it.
            let head = self.durable_head(&claim.collection);
            judge(head, claim).map_err(|reason| Refusal::Ack { index, reason })?;
        }
        for claim in &asked.claims {
            let slot = self.acks.get_mut(&asked.place(claim)).expect("needs() asked for the row");
            slot.now = Some(hold(slot.now, claim.cursor, at.now, &at.acks));
        }
        Ok(Answer { collections: Vec::new(), replayed: false })
    }
}
