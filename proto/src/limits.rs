//! The limits of the protocol, by name. They are no settings, clients of every language rely on them:
//! together they keep every message under the 4 MiB that gRPC clients accept by default.

/// Longest collection name, in bytes of UTF-8.
pub const COLLECTION_NAME_LEN_MAX: usize = 512;
/// Longest item key, in bytes.
pub const KEY_LEN_MAX: usize = 1024;
/// Longest sort key, in bytes.
pub const SORT_KEY_LEN_MAX: usize = 1024;
/// Longest item value, in bytes.
pub const VALUE_LEN_MAX: usize = 1024 * 1024;
/// Longest subject of an inbox, in bytes of UTF-8.
pub const SUBJECT_LEN_MAX: usize = 256;
/// Longest client id, import id and idempotency key, in bytes of UTF-8.
pub const ID_LEN_MAX: usize = 128;

/// Most mutations of one commit.
pub const COMMIT_MUTATIONS_MAX: usize = 5_000;
/// Most bytes of one commit: keys, sort keys and values of its mutations.
pub const COMMIT_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Most preconditions of one commit.
pub const COMMIT_PRECONDITIONS_MAX: usize = 1_000;

/// Most targets of one Pull.
pub const PULL_TARGETS_MAX: usize = 256;
/// Most targets of one Subscribe.
pub const SUBSCRIBE_TARGETS_MAX: usize = 1_024;
/// Most keys of a key-set scope.
pub const SCOPE_KEYS_MAX: usize = 1_000;
/// Most changes of one page, unless a single version holds more.
pub const PAGE_CHANGES_MAX: usize = 1_000;
/// Most bytes of one page's changes, unless a single version holds more.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Most keys of one `GetItems`.
pub const GET_ITEMS_KEYS_MAX: usize = 1_000;
/// Most entries of one page of a listing.
pub const LIST_PAGE_MAX: usize = 1_000;
/// Entries of one page of a listing when the request does not say.
pub const LIST_PAGE_DEFAULT: usize = 100;

/// Most positions of one Ack.
pub const ACK_POSITIONS_MAX: usize = 1_024;
/// Most positions of one client in a page of `ListClients`.
pub const CLIENT_POSITIONS_MAX: usize = 256;
/// Most decisions that `ExplainClient` tells, the newest.
pub const DECISIONS_TOLD_MAX: usize = 1_000;
/// Most subjects of one client id that it tells of.
pub const CLIENT_SUBJECTS_MAX: usize = 16;
/// Longest time that `Drain` may leave to open calls, in seconds.
pub const GRACE_S_MAX: u64 = 300;

/// Most groups or segments that one round of a reconciliation asks for.
pub const RECONCILE_NODES_MAX: usize = 64;
/// Most entries of one page of a reconciliation.
pub const RECONCILE_ENTRIES_MAX: usize = 5_000;
/// Most bytes of one page of a reconciliation.
pub const RECONCILE_BYTES_MAX: usize = 1024 * 1024;

/// Longest time that a policy may keep tombstones, in seconds: a hundred years.
pub const TOMBSTONE_AGE_S_MAX: u64 = 100 * 365 * 24 * 60 * 60;

/// Most items of the lists of one message within a request, whatever they are: more than any list of
/// the protocol may have. What has more is not even decoded.
pub const LIST_ITEMS_MAX: usize = 8_192;
/// Most items of all lists of a request, those within others, too: a thousand keys for each of 256
/// targets, and some more.
pub const REQUEST_ITEMS_MAX: usize = 262_144;

/// Largest gRPC message, both ways, in bytes: what every language accepts by default.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Quiet time before a bookmark when the subscriber does not say, in milliseconds.
pub const HEARTBEAT_MS_DEFAULT: u32 = 15_000;
/// Shortest heartbeat that a subscriber may ask for, in milliseconds.
pub const HEARTBEAT_MS_MIN: u32 = 100;
/// Longest heartbeat that a subscriber may ask for, in milliseconds.
pub const HEARTBEAT_MS_MAX: u32 = 60_000;

/// Highest version: 2^63 - 1, so that it fits the signed integers of every language.
pub const VERSION_MAX: u64 = i64::MAX as u64;

/// Names below this belong to the server.
pub const INBOX_PREFIX: &str = "inbox/";
