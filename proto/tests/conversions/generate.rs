//! Arbitrary checked types, as a client or a server could hold them.

use std::time::Duration;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use sync_proto::digest::{Digest, Group, Segment};
use sync_proto::limits::{HEARTBEAT_MS_MAX, HEARTBEAT_MS_MIN, PAGE_BYTES_MAX, PAGE_CHANGES_MAX};
use sync_proto::types::{
    AcceptedTarget, Change, ChangeKind, CollectionName, Commit, Committed, Condition, Cursor,
    Delta, Epoch, Event, Failure, Found, Goodbye, GoodbyeReason, Head, InboxNotice, Item, Key,
    LeafEntry, ListItems, ListOrder, Mutation, Op, OrderPlace, OrderRange, Outcome, Plan, Position,
    Precondition, Pull, Reconcile, Reconciled, Reset, ResetReason, Round, Scope, SortKey, Subject,
    Subscribe, Target, Timestamp, Value, Version,
};

pub(crate) fn bytes(
    len: impl Into<proptest::collection::SizeRange>,
) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), len).prop_map(Bytes::from)
}

pub(crate) fn name() -> impl Strategy<Value = CollectionName> {
    "[a-z0-9äß東 ._-]{1,8}(/[a-z0-9äß東 ._-]{1,8}){0,3}"
        .prop_map(|name| CollectionName::new(&name).unwrap())
}

pub(crate) fn key() -> impl Strategy<Value = Key> {
    bytes(1..20).prop_map(|key| Key::new(key).unwrap())
}

fn sort_key() -> impl Strategy<Value = SortKey> {
    bytes(0..20).prop_map(|sort_key| SortKey::new(sort_key).unwrap())
}

fn value() -> impl Strategy<Value = Value> {
    bytes(0..100).prop_map(|value| Value::new(value).unwrap())
}

pub(crate) fn version() -> impl Strategy<Value = Version> {
    prop_oneof![0..100u64, 0..=Version::MAX.get()].prop_map(|v| Version::new(v).unwrap())
}

fn epoch() -> impl Strategy<Value = Epoch> {
    (1..=u64::MAX).prop_map(|epoch| Epoch::new(epoch).unwrap())
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 16]>().prop_map(Digest::from_be_bytes)
}

/// Up to the year 9999.
fn timestamp() -> impl Strategy<Value = Timestamp> {
    (0..253_402_300_800_000u64).prop_map(Timestamp::from_millis)
}

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

pub(crate) fn cursor() -> impl Strategy<Value = Cursor> {
    (epoch(), version(), version(), any::<bool>()).prop_map(|(epoch, a, b, under_way)| {
        let base = if under_way { a.max(b) } else { Version::ZERO };
        Cursor { epoch, version: a.min(b), base }
    })
}

pub(crate) fn head() -> impl Strategy<Value = Head> {
    (epoch(), version(), version(), any::<[u64; 3]>(), digest(), timestamp()).prop_map(
        |(epoch, a, b, [items, tombstones, bytes], digest, commit_time)| Head {
            epoch,
            version: a.max(b),
            floor: a.min(b),
            items,
            tombstones,
            bytes,
            digest,
            commit_time,
        },
    )
}

pub(crate) fn item() -> impl Strategy<Value = Item> {
    (key(), option::of(value()), 1..=u32::MAX, sort_key(), [version(), version(), version()])
        .prop_map(|(key, value, left_out, sort_key, [version, created, value_version])| {
            let len = |value: &Value| u32::try_from(value.as_bytes().len()).unwrap();
            let value_size = value.as_ref().map_or(left_out, len);
            Item { key, value, value_size, sort_key, version, created, value_version }
        })
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let kind = prop_oneof![
        (option::of(value()), sort_key(), version()).prop_map(
            |(value, sort_key, value_version)| {
                ChangeKind::Put { value, sort_key, value_version }
            }
        ),
        Just(ChangeKind::Delete),
        Just(ChangeKind::LeftScope),
    ];
    (key(), version(), version(), kind).prop_map(|(key, version, created, kind)| Change {
        key,
        version,
        created,
        kind,
    })
}

/// A page as a server could send it: versions in order behind `from`, none behind `to`.
pub(crate) fn delta() -> impl Strategy<Value = Delta> {
    let flags = any::<[bool; 3]>();
    (cursor(), vec((1..1_000u64, change()), 0..8), flags, option::of(digest()), head()).prop_map(
        |(mut from, steps, [has_more, initial, unverified], digest, head)| {
            from.version = from.version.min(Version::new(1 << 40).unwrap());
            let mut at = from.version.get();
            let step = |(step, change): (u64, Change)| {
                at += step;
                Change { version: Version::new(at).unwrap(), ..change }
            };
            let changes: Vec<Change> = steps.into_iter().map(step).collect();
            let has_more = has_more && !changes.is_empty();
            let last = changes.last().map_or(from.version, |last| last.version);
            let to = if has_more { from.between_pages(last) } else { Cursor::at(from.epoch, last) };
            Delta { from, to, changes, has_more, initial, digest, unverified, head }
        },
    )
}

fn reset() -> impl Strategy<Value = Reset> {
    use ResetReason::{AheadOfHead, BelowFloor, EpochChanged, Forced, TooLarge};
    let reasons = vec![EpochChanged, AheadOfHead, BelowFloor, TooLarge, Forced];
    (prop::sample::select(reasons), head(), any::<[u64; 2]>()).prop_map(
        |(reason, head, [estimated_changes, estimated_bytes])| Reset {
            reason,
            head,
            estimated_changes,
            estimated_bytes,
        },
    )
}

fn failure() -> impl Strategy<Value = Failure> {
    (any::<i32>(), ".{0,30}", option::of(millis(1..1 << 40)), option::of("[A-Z]{1,9}")).prop_map(
        |(code, message, retry_after, reason)| Failure { code, message, retry_after, reason },
    )
}

pub(crate) fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        head().prop_map(Outcome::Aligned),
        delta().prop_map(Outcome::Delta),
        reset().prop_map(Outcome::Reset),
        Just(Outcome::Denied),
        Just(Outcome::NotFound),
        option::of(head()).prop_map(Outcome::Deferred),
        failure().prop_map(Outcome::Failed),
    ]
}

fn accepted() -> impl Strategy<Value = AcceptedTarget> {
    let plan = prop_oneof![
        Just(Plan::Live),
        Just(Plan::CatchUp),
        Just(Plan::Load),
        Just(Plan::Absent),
        reset().prop_map(Plan::Reset),
        Just(Plan::Denied),
        Just(Plan::Notify),
    ];
    (name(), plan, option::of(head())).prop_map(|(collection, plan, head)| AcceptedTarget {
        collection,
        plan,
        head,
    })
}

fn position() -> impl Strategy<Value = Position> {
    (name(), cursor(), option::of(digest()), timestamp()).prop_map(
        |(collection, cursor, digest, commit_time)| Position {
            collection,
            cursor,
            digest,
            commit_time,
        },
    )
}

fn goodbye() -> impl Strategy<Value = Goodbye> {
    use GoodbyeReason::{CredentialsExpired, Draining, MaxAge, Overloaded};
    let reasons = vec![Draining, MaxAge, CredentialsExpired, Overloaded];
    (prop::sample::select(reasons), millis(0..1 << 40), millis(0..1 << 40))
        .prop_map(|(reason, retry_after, jitter)| Goodbye { reason, retry_after, jitter })
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (vec(accepted(), 0..4), millis(0..100_000))
            .prop_map(|(targets, heartbeat)| Event::Accepted(targets, heartbeat)),
        (name(), delta()).prop_map(|(name, delta)| Event::Changes(name, delta)),
        (name(), head()).prop_map(|(name, head)| Event::Notice(name, head)),
        (name(), name(), option::of(head())).prop_map(|(inbox, collection, head)| {
            Event::InboxNotice(InboxNotice { inbox, collection, head })
        }),
        (vec(position(), 0..4), timestamp()).prop_map(|(at, now)| Event::Bookmark(at, now)),
        (name(), reset()).prop_map(|(name, reset)| Event::Reset(name, reset)),
        (name(), any::<u64>()).prop_map(|(name, behind)| Event::Lagging(name, behind)),
        (name(), cursor()).prop_map(|(name, cursor)| Event::CaughtUp(name, cursor)),
        name().prop_map(Event::Absent),
        name().prop_map(Event::Revoked),
        (name(), failure()).prop_map(|(name, failure)| Event::Failed(name, failure)),
        goodbye().prop_map(Event::Goodbye),
    ]
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just(Scope::All),
        bytes(1..20).prop_map(Scope::KeyPrefix),
        btree_map(key(), Just(()), 1..6).prop_map(|keys| Scope::Keys(keys.into_keys().collect())),
        stretch().prop_map(Scope::Order),
    ]
}

/// Also those without ends.
fn stretch() -> impl Strategy<Value = OrderRange> {
    let place = || {
        let place = (sort_key(), option::of(key()));
        option::of(place.prop_map(|(sort_key, key)| OrderPlace { sort_key, key }))
    };
    (place(), place()).prop_filter_map("the ends are in order", |(from, to)| {
        OrderRange::new(from.clone(), to.clone()).or_else(|_| OrderRange::new(to, from)).ok()
    })
}

pub(crate) fn target() -> impl Strategy<Value = Target> {
    let options = (option::of(cursor()), scope(), option::of(1..=u64::MAX), any::<[bool; 4]>());
    let options = (options, option::of(name()));
    (name(), options).prop_map(|(collection, (options, polled_after))| {
        let (cursor, scope, changes_max, flags) = options;
        let [keys_only, verify, from_last_ack, notify_only] = flags;
        let from_last_ack = from_last_ack && cursor.is_none();
        Target {
            collection,
            cursor,
            scope,
            keys_only,
            changes_max,
            verify,
            from_last_ack,
            notify_only,
            polled_after,
        }
    })
}

pub(crate) fn pull() -> impl Strategy<Value = Pull> {
    (vec(target().prop_map(Ok), 1..5), 1..=PAGE_BYTES_MAX, 1..=PAGE_CHANGES_MAX, "[a-z]{0,20}")
        .prop_map(|(targets, bytes_max, changes_max, client_id)| Pull {
            targets: targets.into_iter().map(|target| target.map(|t| of(&client_id, t))).collect(),
            bytes_max,
            changes_max,
            client_id,
        })
}

/// Whoever has no name has no cursor at the server.
fn of(client_id: &str, target: Target) -> Target {
    Target { from_last_ack: target.from_last_ack && !client_id.is_empty(), ..target }
}

pub(crate) fn subscribe() -> impl Strategy<Value = Subscribe> {
    let heartbeat = millis(u64::from(HEARTBEAT_MS_MIN)..u64::from(HEARTBEAT_MS_MAX) + 1);
    (btree_map(name(), target(), 1..5), heartbeat, "[a-z]{0,20}").prop_map(
        |(targets, heartbeat, client_id)| {
            let named = |(collection, target)| of(&client_id, Target { collection, ..target });
            let targets = targets.into_iter().map(named).collect();
            Subscribe { targets, heartbeat, client_id }
        },
    )
}

pub(crate) fn list() -> impl Strategy<Value = ListItems> {
    let order = prop_oneof![Just(ListOrder::Key), Just(ListOrder::SortKey)];
    let whole = Just(OrderRange::default());
    let order =
        prop_oneof![(order, whole), stretch().prop_map(|stretch| (ListOrder::SortKey, stretch)),];
    let page = (1..=1_000usize, any::<u64>(), bytes(0..30), bytes(0..30));
    (name(), order, any::<[bool; 2]>(), page).prop_map(
        |(collection, (order, stretch), [descending, keys_only], page)| {
            let (page_size, skip, page_token, key_prefix) = page;
            ListItems {
                collection,
                order,
                descending,
                page_size,
                page_token,
                keys_only,
                key_prefix,
                stretch,
                skip,
            }
        },
    )
}

fn op(key: Key) -> impl Strategy<Value = Op> {
    let subject = || "[a-z]{1,9}".prop_map(|subject| Subject::new(&subject).unwrap());
    let (put, reorder, delete) = (key.clone(), key.clone(), key);
    prop_oneof![
        (value(), option::of(sort_key())).prop_map(move |(value, sort_key)| Op::Put {
            key: put.clone(),
            value,
            sort_key
        }),
        sort_key().prop_map(move |sort_key| Op::Reorder { key: reorder.clone(), sort_key }),
        Just(Op::Delete { key: delete }),
        subject().prop_map(|subject| Op::Follow { subject }),
        subject().prop_map(|subject| Op::Unfollow { subject }),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::CollectionAbsent),
        (option::of(epoch()), 1..=Version::MAX.get())
            .prop_map(|(epoch, at)| Condition::HeadEquals(epoch, Version::new(at).unwrap())),
        (key(), 1..=Version::MAX.get())
            .prop_map(|(key, at)| Condition::ItemVersionEquals(key, Version::new(at).unwrap())),
        key().prop_map(Condition::ItemAbsent),
        key().prop_map(Condition::ItemPresent),
    ]
}

pub(crate) fn commit() -> impl Strategy<Value = Commit> {
    let mutation = (name(), key()).prop_flat_map(|(collection, key)| {
        let place = (collection.clone(), key.clone());
        op(key).prop_map(move |op| (place.clone(), Mutation { collection: collection.clone(), op }))
    });
    let mutations = vec(mutation, 1..8).prop_map(|mutations| {
        let by_place: std::collections::BTreeMap<_, _> = mutations.into_iter().collect();
        by_place.into_values().collect()
    });
    let precondition = (name(), condition())
        .prop_map(|(collection, condition)| Precondition { collection, condition });
    (mutations, vec(precondition, 0..5), "[a-z]{0,20}").prop_map(
        |(mutations, preconditions, idempotency_key)| Commit {
            mutations,
            preconditions,
            idempotency_key,
        },
    )
}

pub(crate) fn committed() -> impl Strategy<Value = Committed> {
    (name(), option::of(epoch()), version(), version()).prop_map(
        |(collection, epoch, prev_version, version)| Committed {
            collection,
            epoch,
            prev_version,
            version,
        },
    )
}

fn some_of(most: u16, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u16>> {
    prop::collection::btree_set(0..most, count).prop_map(|set| set.into_iter().collect())
}

pub(crate) fn round() -> impl Strategy<Value = Round> {
    let at = || (epoch(), version()).prop_map(|(epoch, version)| Cursor::at(epoch, version));
    let group = |number| Group::new(u8::try_from(number).unwrap()).unwrap();
    let segment = |number| Segment::new(number).unwrap();
    prop_oneof![
        Just(Round::Groups),
        (at(), some_of(64, 1..64)).prop_map(move |(at, numbers)| Round::Leaves {
            at,
            groups: numbers.into_iter().map(group).collect(),
        }),
        (at(), some_of(4_096, 1..64), bytes(0..20)).prop_map(move |(at, numbers, page_token)| {
            let segments = numbers.into_iter().map(segment).collect();
            Round::Entries { at, segments, page_token }
        }),
    ]
}

pub(crate) fn reconcile() -> impl Strategy<Value = Reconcile> {
    (name(), round(), "[a-z0-9]{0,10}").prop_map(|(collection, round, client_id)| Reconcile {
        collection,
        round,
        client_id,
    })
}

fn leaf_entry() -> impl Strategy<Value = LeafEntry> {
    let versions = [version(), version(), version()];
    (key(), sort_key(), any::<[u8; 16]>(), versions, any::<u32>()).prop_map(
        |(key, sort_key, value_hash, [version, created, value_version], value_size)| LeafEntry {
            key,
            version,
            value_hash,
            sort_key,
            created,
            value_version,
            value_size,
        },
    )
}

/// Items of a collection, and the round that asks for exactly their segments.
pub(crate) fn entries() -> impl Strategy<Value = (Round, Reconciled)> {
    let by_place = vec(leaf_entry(), 1..10).prop_map(|entries| {
        let place = |entry: LeafEntry| ((Segment::of_key(&entry.key), entry.key.clone()), entry);
        entries.into_iter().map(place).collect::<std::collections::BTreeMap<_, _>>()
    });
    (cursor(), head(), by_place, bytes(0..20)).prop_map(|(at, head, by_place, next)| {
        let mut segments: Vec<Segment> = by_place.keys().map(|(segment, _)| *segment).collect();
        segments.dedup();
        let round = Round::Entries { at, segments, page_token: Bytes::new() };
        let found = Found::Entries(by_place.into_values().collect(), next);
        (round, Reconciled { head, found })
    })
}

/// As many sums as the round asks for; none for entries.
pub(crate) fn sums(round: &Round) -> impl Strategy<Value = Reconciled> + use<> {
    let nodes = match round {
        Round::Groups => 1,
        Round::Leaves { groups, .. } => groups.len(),
        Round::Entries { .. } => 0,
    };
    let found = vec(digest(), nodes * 64).prop_map(Found::Sums);
    (head(), found).prop_map(|(head, found)| Reconciled { head, found })
}
