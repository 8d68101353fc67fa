//! Bytes on disk: every row comes back as it went, and the order of keys is the order of what
//! they mean.

use bytes::Bytes;
use proptest::prelude::*;
use sync_proto::digest::Digest;
use sync_proto::types::{Cursor, Diffusion, Epoch, Head, Subject};

use super::*;
use crate::store::rows::{RowKind, encode_policy};

prop_compose! {
    fn version()(number in 0..=sync_proto::limits::VERSION_MAX) -> Version {
        Version::new(number).unwrap()
    }
}

prop_compose! {
    fn item_key()(bytes in prop::collection::vec(any::<u8>(), 1..40)) -> Key {
        Key::new(bytes).unwrap()
    }
}

prop_compose! {
    /// Many zeros: they are what escaping is about.
    fn sort_key()(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..20)) -> SortKey {
        SortKey::new(bytes).unwrap()
    }
}

prop_compose! {
    fn key_row()(
        live: bool,
        version in version(),
        created in version(),
        value_version in version(),
        time: u64,
        value_len: u32,
        digest: [u8; 16],
        sort_key in sort_key(),
    ) -> KeyRow {
        KeyRow {
            kind: if live { RowKind::Live } else { RowKind::Tombstone },
            version,
            created,
            value_version,
            time: Timestamp::from_millis(time),
            value_len,
            digest: Digest::from_be_bytes(digest),
            sort_key,
        }
    }
}

fn diffusion() -> impl Strategy<Value = Option<Diffusion>> {
    prop_oneof![Just(None), Just(Some(Diffusion::Write)), Just(Some(Diffusion::Read))]
}

proptest! {
    /// The rows of an audience come back, and lie together in the order of its subjects.
    #[test]
    fn audiences_come_back_as_they_went(
        names in prop::array::uniform2("[a-c]{1,3}(/[a-c ]{1,2})?"),
        subjects in prop::array::uniform2("[a-c]{1,3}(/[a-c]{1,2})?"),
        count in 1u64.., mode in diffusion(), since: u64, ended: bool, epoch in 1u64..,
        version in version(),
    ) {
        let name = CollectionName::new(&names[0]).unwrap();
        let other = CollectionName::new(&names[1]).unwrap();
        let [subject, behind] = subjects.map(|subject| Subject::new(&subject).unwrap());
        let row = audience_key(&name, &subject);
        let read = Row::decode(&row, Bytes::new()).unwrap();
        prop_assert_eq!(read, Row::Audience { name: name.clone(), subject: subject.clone() });
        prop_assert!(audience_range(&name, None).contains(&row));
        prop_assert_eq!(audience_range(&other, None).contains(&row), other == name);
        let from = audience_range(&name, Some(&behind)).contains(&row);
        prop_assert_eq!(from, subject.as_str() >= behind.as_str());

        let last_life = ended.then(|| (Epoch::new(epoch).unwrap(), version));
        let (mode, since) = (mode.unwrap_or(Diffusion::Read), Timestamp::from_millis(since));
        let audience = Audience { count, mode, since, last_life };
        let read = Row::decode(&audience_state_key(&name), audience.encode()).unwrap();
        prop_assert_eq!(read, Row::AudienceState { name: name.clone(), audience });

        for next in [None, Some(subject)] {
            let sweep = Sweep(next);
            let read = Row::decode(&sweep_key(&name), sweep.encode()).unwrap();
            prop_assert_eq!(read, Row::Sweep { name: name.clone(), sweep });
        }
    }

    #[test]
    fn keys_lead_back_to_what_they_mean(
        id: u64, version in version(), time: u64, key in item_key(), sort_key in sort_key(),
    ) {
        let id = CollectionId(id);
        let time = Timestamp::from_millis(time);
        let read = |row: Vec<u8>| Row::decode(&row, Bytes::new()).unwrap();
        prop_assert_eq!(
            read(order_key(id, &sort_key, &key)),
            Row::Order { id, sort_key, key: key.clone() }
        );
        prop_assert_eq!(
            read(tombstone_key(id, time, version, &key)),
            Row::Tombstone { id, time, version, key: key.clone() }
        );
        prop_assert_eq!(read(doomed_key(id)), Row::Doomed { id });
        let segment = Segment::of_key(&key);
        let member = member_key(id, segment, &key);
        prop_assert!(member_range(id, segment).contains(&member));
        prop_assert_eq!(read(member), Row::Member { id, segment, key });
    }

    #[test]
    fn values_come_back_as_they_went(
        row in key_row(), id: u64, key in item_key(), change: Vec<u8>, payload: Vec<u8>,
        fingerprint: [u8; 16],
    ) {
        let id = CollectionId(id);
        let read = Row::decode(&key_key(id, &key), row.encode()).unwrap();
        prop_assert_eq!(read, Row::Key { id, key: key.clone(), row: row.clone() });

        let (kind, created, value_version) = (row.kind, row.created, row.value_version);
        let log = LogRow { kind, created, value_version, change: change.into() };
        let read = Row::decode(&log_key(id, row.version, &key), log.encode()).unwrap();
        prop_assert_eq!(read, Row::Log { id, version: row.version, key, row: log });

        let receipt = Receipt { time: row.time, fingerprint, payload: payload.into() };
        prop_assert_eq!(Receipt::decode(receipt.encode()).unwrap(), receipt);
    }

    #[test]
    fn a_head_comes_back_as_it_went(
        id: u64, epoch in 1..u64::MAX, version in version(), counts: [u64; 3], digest: [u8; 16],
        time: u64,
    ) {
        let [items, tombstones, bytes] = counts;
        let head = Head {
            epoch: Epoch::new(epoch).unwrap(),
            version,
            floor: version,
            items,
            tombstones,
            bytes,
            digest: Digest::from_be_bytes(digest),
            commit_time: Timestamp::from_millis(time),
        };
        let id = CollectionId(id);
        let policy = Policy::default();
        let meta = Meta { name: CollectionName::new("a/b").unwrap(), head, policy };
        let read = Row::decode(&meta_key(id), meta.encode()).unwrap();
        prop_assert_eq!(read, Row::Meta { id, meta });
    }

    #[test]
    fn a_policy_comes_back_as_it_went(
        age: Option<u32>, most: Option<u64>, bytes: Option<u64>, diffusion in diffusion(),
    ) {
        let age = age.map(|millis| std::time::Duration::from_millis(millis.into()));
        let policy =
            Policy { tombstone_age_max: age, tombstones_max: most, bytes_max: bytes, diffusion };
        let id = CollectionId(7);
        let read = Row::decode(&policy_key(id), encode_policy(&policy)).unwrap();
        prop_assert_eq!(read, Row::Policy { id, policy });
    }

    /// Also names that hold zeros, which are what escaping is about.
    #[test]
    fn an_ack_comes_back_as_it_went(
        client_id in "[a-z\u{0}]{1,9}", subject in "[a-b\u{0}]{0,9}", other in "[a-b\u{0}]{0,9}",
        time: u64, epoch in 1..u64::MAX, version in version(),
    ) {
        let key = |subject: &str| ClientKey {
            client_id: client_id.clone(),
            subject: subject.to_owned(),
        };
        let (client, stranger) = (key(&subject), key(&other));
        prop_assert_eq!(ClientKey::from_bytes(&client.to_bytes()), Some(client.clone()));
        prop_assert_eq!(client.to_bytes().cmp(&stranger.to_bytes()), client.cmp(&stranger));
        let place = AckPlace { client, collection: CollectionName::new("a/b").unwrap() };
        let row = ack_key(&place);
        let cursor = Cursor { epoch: Epoch::new(epoch).unwrap(), version, base: version };
        let held = Held { time: Timestamp::from_millis(time), cursor };
        prop_assert_eq!(Held::decode(held.encode()).unwrap(), held);
        prop_assert_eq!(acks_of_range(&stranger).contains(&row), stranger == place.client);
        prop_assert_eq!(acks_behind_range(&stranger).contains(&row), stranger < place.client);
        prop_assert!(ack_range().contains(&row) && acks_from_range(&client_id).contains(&row));
        let age = ack_age_key(held.time, &place);
        prop_assert!(ack_age_range().contains(&age));
        let read = Row::decode(&age, Bytes::new()).unwrap();
        prop_assert_eq!(read, Row::AckAge { time: held.time, place: place.clone() });
        prop_assert_eq!(Row::decode(&row, held.encode()).unwrap(), Row::Ack { place, held });
    }

    /// List order is (sort key, key), bytewise, whatever bytes they hold.
    #[test]
    fn order_rows_are_in_list_order(
        a in (sort_key(), item_key()), b in (sort_key(), item_key()),
    ) {
        let id = CollectionId(7);
        let rows = (order_key(id, &a.0, &a.1), order_key(id, &b.0, &b.1));
        prop_assert_eq!(rows.0.cmp(&rows.1), a.cmp(&b));
    }

    #[test]
    fn log_rows_are_in_version_order(
        a in (version(), item_key()), b in (version(), item_key()),
    ) {
        let id = CollectionId(7);
        let rows = (log_key(id, a.0, &a.1), log_key(id, b.0, &b.1));
        prop_assert_eq!(rows.0.cmp(&rows.1), a.cmp(&b));
    }

    #[test]
    fn a_log_range_holds_exactly_its_versions(
        id: u64, at in version(), after in version(), to in version(), key in item_key(),
    ) {
        let row = log_key(CollectionId(id), at, &key);
        let inside = log_range(CollectionId(id), after, to).contains(&row);
        prop_assert_eq!(inside, at > after && at <= to);
        let foreign = log_key(CollectionId(id ^ 1), at, &key);
        prop_assert!(!log_range(CollectionId(id), Version::ZERO, Version::MAX).contains(&foreign));
    }

    #[test]
    fn a_group_holds_exactly_its_segments(id: u64, segment in 0u16..4096, group in 0u8..64) {
        let segment = Segment::new(segment).unwrap();
        let row = segment_key(CollectionId(id), segment);
        let group = Group::new(group).unwrap();
        prop_assert_eq!(group_range(CollectionId(id), group).contains(&row), segment.group() == group);
        prop_assert!(segments_range(CollectionId(id)).contains(&row));
    }

    /// Whatever bytes are found: an answer, never a panic.
    #[test]
    fn foreign_rows_are_refused_or_read(key: Vec<u8>, value: Vec<u8>) {
        let _either = Row::decode(&key, Bytes::from(value));
    }
}
