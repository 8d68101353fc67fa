//! Backups: foreign bytes are refused, or are blocks, each of which has one form. Half of the time the
//! bytes are the payload of a block under right checksums: no fuzzer finds one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sync_proto::types::Timestamp;
use sync_server::backup::BackupError;
use sync_server::backup::format::{Decoder, Encoder};

/// What blocks are written as, whatever the header said; `None` = there are none.
fn read(file: &[u8]) -> Result<Vec<u8>, BackupError> {
    let mut decoder = Decoder::open(file)?;
    let mut encoder = Encoder::default();
    let mut again = encoder.header(Timestamp::from_millis(1)).to_vec();
    while let Some(block) = decoder.next_block()? {
        assert!(decoder.position() <= file.len() as u64);
        again.extend(encoder.block(&block));
    }
    assert_eq!(decoder.position(), file.len() as u64, "nothing is left over");
    again.extend(encoder.end());
    Ok(again)
}

/// A block as its writer seals it.
fn sealed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("inputs are small");
    let mut block = length.to_be_bytes().to_vec();
    block.extend(0_u64.to_be_bytes());
    block.push(kind);
    block.extend(payload);
    block.extend(crc32fast::hash(&block).to_be_bytes());
    block
}

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    if kind % 8 == 7 {
        if let Ok(again) = read(bytes) {
            // Also of an older format: what was understood is understood the same.
            assert_eq!(read(&again).expect("we wrote it"), again);
        }
        return;
    }
    let mut encoder = Encoder::default();
    let header = encoder.header(Timestamp::from_millis(1)).to_vec();
    let file = [&header[..], &sealed(kind % 8, bytes)].concat();
    let mut decoder = Decoder::open(&file[..]).expect("the header is right");
    match decoder.next_block() {
        Ok(Some(block)) => {
            let again = [&header[..], &encoder.block(&block)].concat();
            assert_eq!(again, file, "a block has one form");
            // There is no end.
            assert!(matches!(decoder.next_block(), Err(BackupError::Truncated { .. })));
        }
        Ok(None) => panic!("an end knows the hash of what is before it"),
        Err(BackupError::Damaged { at, reason }) => {
            assert_eq!(at, header.len() as u64);
            assert!(!reason.is_empty());
        }
        Err(other) => panic!("{other}"),
    }
});
