//! A backup is what was written, or it is refused.

use sync_proto::digest::Digest;
use sync_proto::types::{Diffusion, Epoch, Head, Policy};

use super::*;
use crate::store::rows::RowKind;

fn version(version: u64) -> Version {
    Version::new(version).unwrap()
}

fn blocks() -> Vec<Block> {
    let row = |number: u64| BackupRow {
        version: version(number),
        time: Timestamp::from_millis(number * 1_000),
        key: Key::new(format!("key {number}")).unwrap(),
        log: LogRow {
            kind: if number == 2 { RowKind::Tombstone } else { RowKind::Live },
            created: version(number),
            value_version: version(number),
            change: Bytes::from(vec![7; 20]),
        },
    };
    let head = |id: u64| BackupHead {
        id: CollectionId(id),
        generation: 1,
        meta: Meta {
            policy: Policy {
                tombstones_max: (id == 3).then_some(8),
                diffusion: (id == 3).then_some(Diffusion::Read),
                ..Policy::default()
            },
            name: CollectionName::new(&format!("c/{id}")).unwrap(),
            head: Head {
                epoch: Epoch::new(9).unwrap(),
                version: version(8),
                floor: version(2),
                items: 1,
                tombstones: 2,
                bytes: 3,
                digest: Digest::EMPTY,
                commit_time: Timestamp::from_millis(5),
            },
        },
    };
    vec![
        Block::Rows { id: CollectionId(1), generation: 0, rows: vec![row(1), row(2)] },
        Block::Rows { id: CollectionId(3), generation: 1, rows: vec![row(3)] },
        Block::Heads(vec![head(1), head(3)]),
        Block::Ended(vec![BackupEnd {
            name: CollectionName::new("gone").unwrap(),
            epoch: Epoch::new(4).unwrap(),
            version: version(44),
        }]),
    ]
}

/// A backup of these blocks.
pub(super) fn file(blocks: &[Block]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    let mut file = encoder.header(Timestamp::from_millis(1)).to_vec();
    for block in blocks {
        file.extend(encoder.block(block));
    }
    file.extend(encoder.end());
    file
}

/// What a backup holds.
pub(super) fn read(file: &[u8]) -> Result<Vec<Block>, BackupError> {
    let mut decoder = Decoder::open(file)?;
    let mut blocks = Vec::new();
    while let Some(block) = decoder.next_block()? {
        blocks.push(block);
    }
    assert_eq!(decoder.position(), file.len() as u64);
    assert!(decoder.next_block()?.is_none());
    Ok(blocks)
}

#[test]
fn a_backup_comes_back_as_it_went() {
    assert_eq!(read(&file(&blocks())).unwrap(), blocks());
    let empty = [Encoder::default().header(Timestamp::from_millis(1))].concat();
    assert!(matches!(read(&empty), Err(BackupError::Truncated { .. })));
}

/// A backup of the first format: its policies have no length, and pin nothing.
#[test]
fn a_backup_of_format_1_is_read() {
    let mut encoder = Encoder::default();
    let mut header = [&MAGIC[..], &1u32.to_be_bytes(), &9u64.to_be_bytes()].concat();
    header.extend(crc32fast::hash(&header).to_be_bytes());
    encoder.hash.update(&header);
    let mut expected = blocks();
    expected.truncate(3);
    let Block::Heads(heads) = expected.last_mut().unwrap() else { panic!("heads come last") };
    let mut payload = BytesMut::new();
    for head in heads {
        head.meta.policy.diffusion = None;
        payload.put_u64(head.id.0);
        payload.put_u32(head.generation);
        put_long(&mut payload, &head.meta.encode());
        payload.put_slice(&encode_policy(&head.meta.policy));
    }
    let mut file = header;
    for block in &expected[..2] {
        file.extend(encoder.block(block));
    }
    encoder.collections = 2;
    file.extend(encoder.seal(HEADS, &payload));
    file.extend(encoder.end());
    assert_eq!(read(&file).unwrap(), expected);
}

/// G5: a part that says more than is understood is refused, as it is in the store.
#[test]
fn bytes_behind_a_policy_are_refused() {
    let Some(Block::Heads(heads)) = blocks().into_iter().nth(2) else { panic!("heads come third") };
    let head = heads.last().unwrap();
    let policy = encode_policy(&head.meta.policy);
    for (behind, refused) in [(&b""[..], false), (b"x", true)] {
        let mut payload = BytesMut::new();
        payload.put_u64(head.id.0);
        payload.put_u32(head.generation);
        put_long(&mut payload, &head.meta.encode());
        put_long(&mut payload, &[&policy[..], behind].concat());
        let mut encoder = Encoder::default();
        let mut file = encoder.header(Timestamp::from_millis(1)).to_vec();
        encoder.collections = 1;
        file.extend(encoder.seal(HEADS, &payload));
        file.extend(encoder.end());
        let found = read(&file);
        assert_eq!(matches!(found, Err(BackupError::Damaged { .. })), refused, "{found:?}");
    }
}

/// G5, G11: wherever it ends too early, it is refused as such.
#[test]
fn every_truncation_is_refused() {
    let file = file(&blocks());
    for end in 0..file.len() {
        let error = read(&file[..end]).unwrap_err();
        let expected = if end == 0 {
            matches!(error, BackupError::NotABackup)
        } else {
            matches!(error, BackupError::Truncated { at } if at == end as u64)
        };
        assert!(expected, "cut at {end}: {error}");
    }
    let longer = [&file[..], b"x"].concat();
    assert!(matches!(read(&longer), Err(BackupError::Damaged { .. })));
}

/// G5, G11: whichever bit is another one.
#[test]
fn every_flipped_bit_is_refused() {
    let file = file(&blocks());
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        read(&flipped).expect_err("a flipped bit");
    }
}

/// G11: parts that are whole, but not all of them or not in their order.
#[test]
fn parts_that_were_moved_or_lost_are_refused() {
    let mut encoder = Encoder::default();
    let header = encoder.header(Timestamp::from_millis(1));
    let parts: Vec<_> = blocks().iter().map(|block| encoder.block(block)).collect();
    let end = encoder.end();
    let join = |parts: &[&Bytes]| {
        let all = [&header].into_iter().chain(parts.iter().copied()).chain([&end]);
        all.flat_map(|part| part.to_vec()).collect::<Vec<_>>()
    };
    read(&join(&[&parts[0], &parts[1], &parts[2], &parts[3]])).unwrap();
    for wrong in [
        join(&[&parts[0], &parts[1], &parts[2]]),
        join(&[&parts[0], &parts[2], &parts[3]]),
        join(&[&parts[1], &parts[0], &parts[2], &parts[3]]),
        join(&[&parts[0], &parts[0], &parts[1], &parts[2], &parts[3]]),
    ] {
        assert!(matches!(read(&wrong), Err(BackupError::Damaged { .. })));
    }
}

#[test]
fn what_is_no_backup_or_a_newer_one_is_told_apart() {
    assert!(matches!(read(b"{\"a\": \"json file of some length\"}"), Err(BackupError::NotABackup)));
    let mut newer = file(&blocks());
    newer[8..12].copy_from_slice(&(FORMAT + 1).to_be_bytes());
    let crc = crc32fast::hash(&newer[..HEADER_BYTES - CRC_BYTES]).to_be_bytes();
    newer[HEADER_BYTES - CRC_BYTES..HEADER_BYTES].copy_from_slice(&crc);
    let refused = read(&newer).unwrap_err();
    let BackupError::NewerFormat { found, known } = refused else { panic!("{refused}") };
    assert_eq!((found, known), (FORMAT + 1, FORMAT));
    // A part that claims to be endless is not read into memory.
    let mut endless = file(&blocks());
    endless[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(read(&endless), Err(BackupError::Damaged { .. })));
}
