//! Any backup comes back as it went; cut or changed, it is refused.

use std::time::Duration;

use proptest::prelude::*;
use sync_proto::digest::Digest;
use sync_proto::types::{Diffusion, Head, Policy};

use super::tests::{file, read};
use super::*;
use crate::store::rows::RowKind;

fn version() -> impl Strategy<Value = Version> {
    (0..1_u64 << 40).prop_map(|number| Version::new(number).unwrap())
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0..1_u64 << 40).prop_map(Timestamp::from_millis)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    (1..u64::MAX).prop_map(|number| Epoch::new(number).unwrap())
}

fn name() -> impl Strategy<Value = CollectionName> {
    "[a-z]{1,8}(/[a-z0-9]{1,8}){0,2}".prop_map(|name| CollectionName::new(&name).unwrap())
}

fn id() -> impl Strategy<Value = CollectionId> {
    any::<u64>().prop_map(CollectionId)
}

fn row() -> impl Strategy<Value = BackupRow> {
    let bytes = |least, most| prop::collection::vec(any::<u8>(), least..most);
    let log = (any::<bool>(), version(), version(), bytes(0, 60)).prop_map(
        |(live, created, value_version, change)| LogRow {
            kind: if live { RowKind::Live } else { RowKind::Tombstone },
            created,
            value_version,
            change: change.into(),
        },
    );
    (version(), time(), bytes(1, 40), log).prop_map(|(version, time, key, log)| BackupRow {
        version,
        time,
        key: Key::new(key).unwrap(),
        log,
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let diffusion = prop::option::of(any::<bool>());
    let number = || prop::option::of(any::<u64>());
    (prop::option::of(0..1_u32 << 20), number(), number(), diffusion).prop_map(
        |(age, tombstones_max, bytes_max, diffusion)| Policy {
            tombstone_age_max: age.map(|seconds| Duration::from_secs(seconds.into())),
            tombstones_max,
            bytes_max,
            diffusion: diffusion
                .map(|write| if write { Diffusion::Write } else { Diffusion::Read }),
        },
    )
}

fn head() -> impl Strategy<Value = BackupHead> {
    let head = (epoch(), version(), version(), any::<[u64; 3]>(), any::<[u8; 16]>(), time());
    let head = head.prop_map(|(epoch, version, floor, counts, digest, commit_time)| Head {
        epoch,
        version,
        // As far as is forgotten is behind the head.
        floor: floor.min(version),
        items: counts[0],
        tombstones: counts[1],
        bytes: counts[2],
        digest: Digest::from_be_bytes(digest),
        commit_time,
    });
    (id(), any::<u32>(), name(), head, policy()).prop_map(|(id, generation, name, head, policy)| {
        BackupHead { id, generation, meta: Meta { name, head, policy } }
    })
}

fn block() -> impl Strategy<Value = Block> {
    let end = (name(), epoch(), version()).prop_map(|(name, epoch, version)| BackupEnd {
        name,
        epoch,
        version,
    });
    prop_oneof![
        (id(), any::<u32>(), prop::collection::vec(row(), 0..5))
            .prop_map(|(id, generation, rows)| Block::Rows { id, generation, rows }),
        prop::collection::vec(head(), 0..4).prop_map(Block::Heads),
        prop::collection::vec(end, 0..4).prop_map(Block::Ended),
    ]
}

proptest! {
    #[test]
    fn any_backup_comes_back_as_it_went(blocks in prop::collection::vec(block(), 0..6)) {
        prop_assert_eq!(read(&file(&blocks)).unwrap(), blocks);
    }

    /// G5, G11: wherever it is cut, and whichever bit is another one.
    #[test]
    fn a_backup_that_is_cut_or_changed_is_refused(
        blocks in prop::collection::vec(block(), 0..6),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let file = file(&blocks);
        let at = at.index(file.len());
        prop_assert!(read(&file[..at]).is_err(), "cut at {at}");
        let mut flipped = file;
        flipped[at] ^= 1_u8 << bit;
        prop_assert!(read(&flipped).is_err(), "flipped at {at}");
    }

    /// G11: a payload under right checksums that says anything is refused, or is in its one form.
    #[test]
    fn a_payload_has_one_form(kind in 0..6_u8, payload in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut encoder = Encoder::default();
        let mut file = encoder.header(Timestamp::from_millis(1)).to_vec();
        file.extend(encoder.seal(kind, &payload));
        let mut decoder = Decoder::open(&file[..]).unwrap();
        if let Ok(Some(block)) = decoder.next_block() {
            let mut again = Encoder::default();
            let mut said = again.header(Timestamp::from_millis(1)).to_vec();
            said.extend(again.block(&block));
            prop_assert_eq!(said, file);
        }
    }
}
