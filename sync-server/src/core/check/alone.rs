//! One collection by itself, without what it has in common with others. Pure.

use super::Checker;
use crate::store::keys::CollectionId;

// === impl Checker ===

impl Checker {
    /// What does not fit in a collection all of whose rows were taken, and nothing else: its name,
    /// its head, log, keys, order, segments and tombstones.
    #[must_use]
    pub fn judge_alone(mut self, id: CollectionId) -> Vec<String> {
        self.close_segments();
        let tally = self.tallies.remove(&id).unwrap_or_default();
        let judged = self.judge(id, tally, false);
        let mut findings = self.findings;
        findings.extend(judged.err());
        findings
    }
}
