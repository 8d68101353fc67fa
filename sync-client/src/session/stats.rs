//! What a session has counted. Pure.

use std::collections::BTreeMap;

use super::status::{RepairHow, RepairReason};

/// Counters of a replica since it was built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of all messages from the server, as they were encoded.
    pub bytes_received: u64,
    /// Pulls sent.
    pub pulls: u64,
    /// Pulls that failed as a whole.
    pub pull_failures: u64,
    /// Targets of a pull that failed alone.
    pub target_failures: u64,
    /// Streams opened.
    pub streams: u64,
    /// Streams that broke, went silent, or could not be opened.
    pub stream_failures: u64,
    /// Deltas applied that came by the stream.
    pub pushes_applied: u64,
    /// Deltas applied that came by a pull.
    pub pages_applied: u64,
    /// Changes in the deltas that were applied.
    pub changes_applied: u64,
    /// Deltas dropped because the copy had them already.
    pub repeats: u64,
    /// Deltas that came early and were kept for later.
    pub held: u64,
    /// Times that the stream went on behind the copy, so that changes in between were missing.
    pub gaps: u64,
    /// Digests compared with the server's.
    pub digest_checks: u64,
    /// Digests that were not the server's.
    pub digest_mismatches: u64,
    /// Loads begun, by a new replica or to repair one.
    pub loads: u64,
    /// Repairs begun, by reason.
    pub repairs: BTreeMap<RepairReason, u64>,
    /// Repairs begun, by the way that was chosen. A comparison that is given up for a load counts
    /// as both.
    pub repair_ways: BTreeMap<RepairHow, u64>,
    /// Bytes of the answers that comparing copies took, items that were fetched included.
    pub reconcile_bytes: u64,
    /// Copies that were put right by what differed.
    pub reconciled: u64,
    /// Changes below the floor that turned out to lack no delete.
    pub unverified_proven: u64,
    /// Repairs that have not helped several times in a row.
    pub stuck: u64,
    /// Writes refused because somebody else had moved the copy.
    pub conflicts: u64,
    /// Messages that break the protocol and name no collection.
    pub malformed: u64,
}
