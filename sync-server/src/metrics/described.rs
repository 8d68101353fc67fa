//! Every metric: its name, what it says, which labels it has. `docs/OPERATIONS.md` shows the same
//! as a table, and a test compares the two with what a server tells.

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// As Prometheus sees it.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What it says.
    pub help: &'static str,
}

/// How a metric moves.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Is what it is now.
    Gauge,
    /// How many values were at most so large; the bounds, ascending.
    Histogram(&'static [f64]),
}

/// Entries that are written together: some 2,048 at most, and those of one more commit.
const ENTRY_BUCKETS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 2_048.0, 4_096.0];

/// Commits that share a sync: at most 512.
const GROUP_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// From a disk with its own battery to one that is about to fail.
const SYNC_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// From a look at a head to a call that waited for room.
const CALL_BUCKETS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// From the next room to a client that was away; the clock of commits has milliseconds.
const LATENCY_BUCKETS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// All of them.
pub const ALL: &[Described] = &[
    gauge("deltasync_build_info", "1; the label version says which program runs."),
    gauge("process_start_time_seconds", "When the process started, in seconds since 1970."),
    gauge("deltasync_store_bytes", "Bytes of the store's files. They shrink only by compacting."),
    gauge(
        "deltasync_store_unsynced_files",
        "Files of the store that are never synced. Must be 0: the server stops when it is not.",
    ),
    gauge("deltasync_disk_free_bytes", "Bytes free on the disk of the store."),
    gauge("deltasync_collections", "Collections that exist."),
    gauge("deltasync_items", "Live items of all collections."),
    gauge("deltasync_tombstones", "Tombstones of all collections."),
    gauge("deltasync_live_bytes", "Bytes of live items: keys, sort keys and values."),
    gauge("deltasync_store_amplification", "Bytes of files for each byte of live items."),
    gauge(
        "deltasync_floor_distance_versions",
        "Versions from the floor to the head, of the collection with fewest (least) and most (most), \
         among those that have forgotten deletes.",
    ),
    counter(
        "deltasync_commits_total",
        "Commits by result: done, refused, full (the disk), unknown (storage failed).",
    ),
    gauge("deltasync_acks", "Cursors that are held for clients."),
    counter("deltasync_acks_total", "Acks by result, like commits."),
    gauge("deltasync_clients", "Clients that are remembered: those served lately."),
    counter("deltasync_mutations_total", "Mutations of the commits that are done."),
    Described {
        name: "deltasync_commit_group_commits",
        kind: Kind::Histogram(GROUP_BUCKETS),
        help: "Commits and acks that were written together and shared a sync.",
    },
    Described {
        name: "deltasync_sync_seconds",
        kind: Kind::Histogram(SYNC_BUCKETS),
        help: "How long the disk took to make a group durable.",
    },
    counter(
        "deltasync_calls_total",
        "Calls by call and result: ok, refused, limited (a limit of ours), unavailable, \
         cancelled (the caller did not wait), failed (our fault).",
    ),
    Described {
        name: "deltasync_call_seconds",
        kind: Kind::Histogram(CALL_BUCKETS),
        help: "How long calls took until their answer, or the first of it, by call.",
    },
    gauge("deltasync_reads", "Reads of the store that are under way; 32 at most."),
    counter(
        "deltasync_sent_bytes_total",
        "Bytes sent to readers, by kind: delta, load (first loads), reconcile.",
    ),
    counter(
        "deltasync_repairs_total",
        "Reconciliations that were begun, by reader: in_step (its digest differs, or it doubts its \
         store), behind, unknown.",
    ),
    gauge(
        "deltasync_subscribers",
        "Streams by state: live, lagging (a target is behind), parked (what was sent has not been \
         taken).",
    ),
    Described {
        name: "deltasync_delivered_seconds",
        kind: Kind::Histogram(LATENCY_BUCKETS),
        help: "From a commit until it is sent on a stream that was open before.",
    },
    Described {
        name: "deltasync_applied_seconds",
        kind: Kind::Histogram(LATENCY_BUCKETS),
        help: "From a commit until a client that was there before acknowledges it, while it is the \
               newest.",
    },
    gauge("deltasync_write_queue_length", "Writes that wait for the writer; 1,024 at most."),
    counter(
        "deltasync_pull_targets_total",
        "Targets of Pull by outcome: aligned, delta, reset, denied, not_found, deferred, failed.",
    ),
    counter(
        "deltasync_resets_total",
        "Resets by call (pull, subscribe) and reason (epoch_changed, ahead_of_head, below_floor, \
         too_large, forced).",
    ),
    counter(
        "deltasync_calls_refused_total",
        "Calls refused by reason: unauthenticated, denied, unknown (there is no such call).",
    ),
    counter(
        "deltasync_errors_total",
        "Calls that were answered with an error, by reason: the words of the protocol.",
    ),
    counter(
        "deltasync_revocations_total",
        "What ended because a right did: target (of a stream), stream (its caller is nobody).",
    ),
    counter(
        "deltasync_reloads_total",
        "Files that had changed: what (policy, keys, certificate, authority), and result: done, \
         refused (the old one stays).",
    ),
    counter("deltasync_tls_handshakes_total", "TLS handshakes by result: done, failed, late."),
    gauge(
        "deltasync_tls_certificate_end_seconds",
        "When the server's certificate ends, in seconds since 1970; 0 without TLS.",
    ),
    gauge("deltasync_streams", "Live subscription streams."),
    gauge("deltasync_targets", "Targets on live subscription streams."),
    gauge("deltasync_connections", "Open connections; not those where only operators come in."),
    gauge("deltasync_requests_held_bytes", "Claimed for requests that arrive or are worked on."),
    gauge("deltasync_replies_held_bytes", "Claimed for answers that are made or not taken."),
    gauge("deltasync_loads_held_bytes", "Claimed for answers to first loads and reconciliations."),
    gauge("deltasync_pages_held_bytes", "Claimed for messages of subscriptions not taken."),
    gauge(
        "deltasync_waiting",
        "Who waits for room or for a turn, by what for: calls, requests, replies, loads, pages, reads.",
    ),
    gauge("deltasync_followed_collections", "Names that are followed, by diffusion: write, read."),
    counter("deltasync_inbox_entries_total", "Entries of inboxes that were written."),
    Described {
        name: "deltasync_inbox_group_entries",
        kind: Kind::Histogram(ENTRY_BUCKETS),
        help: "Entries of inboxes that were written with a group of commits which has some.",
    },
    counter(
        "deltasync_diffusion_switches_total",
        "Followed names whose diffusion changed, by what to: write, read.",
    ),
    counter(
        "deltasync_inbox_sweeps_total",
        "Deletions of read-diffused collections that are in all inboxes.",
    ),
    counter("deltasync_inbox_notices_total", "Notices sent on streams of inboxes."),
    counter(
        "deltasync_spans_total",
        "Spans of calls that were traced, by result: sent, dropped (too many waited, or too long), \
         refused (by the collector).",
    ),
    counter("deltasync_page_cache_total", "Shared pages by result: hit, miss (read and built)."),
];

const fn counter(name: &'static str, help: &'static str) -> Described {
    Described { name, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Described {
    Described { name, kind: Kind::Gauge, help }
}
