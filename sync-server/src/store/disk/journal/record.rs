//! The records of a journal file. Pure.
//!
//! ```text
//! record   crc32 ‖ length of the body 4 ‖ life 8 ‖ sequence 8 ‖ body
//! body     rows: 00 ‖ key length 2 ‖ key                                  removed
//!                01 ‖ key length 2 ‖ key ‖ value length 4 ‖ value         written
//! ```
//! Numbers are big-endian, keys are stored keys. The crc32 covers the id of the store and everything
//! behind itself. What a file still holds of earlier turns has lower sequences; what a killed
//! process wrote and nobody replayed has the life number of another opening. Either ends the records
//! of the file.

use bytes::Bytes;
use crc32fast::Hasher;

const HEADER_BYTES: usize = 4 + 4 + 8 + 8;
const REMOVED: u8 = 0;
const WRITTEN: u8 = 1;

/// The changes of one batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) life: u64,
    pub(super) sequence: u64,
    pub(super) rows: Vec<(Vec<u8>, Option<Bytes>)>,
}

/// Writes the record of a batch into `buffer`, which is empty.
pub(super) fn encode(
    buffer: &mut Vec<u8>,
    store: u128,
    life: u64,
    sequence: u64,
    rows: &[(Vec<u8>, Option<Bytes>)],
) {
    assert!(buffer.is_empty(), "a record has a buffer of its own");
    buffer.extend([0; HEADER_BYTES]);
    for (key, value) in rows {
        buffer.push(if value.is_some() { WRITTEN } else { REMOVED });
        let len = u16::try_from(key.len()).expect("keys are bounded by KEY_BYTES_MAX");
        buffer.extend(len.to_be_bytes());
        buffer.extend(key);
        if let Some(value) = value {
            let len = u32::try_from(value.len()).expect("values are bounded by VALUE_BYTES_MAX");
            buffer.extend(len.to_be_bytes());
            buffer.extend(value);
        }
    }
    let body = u32::try_from(buffer.len() - HEADER_BYTES).expect("a batch is far below 4 GiB");
    buffer[4..8].copy_from_slice(&body.to_be_bytes());
    buffer[8..16].copy_from_slice(&life.to_be_bytes());
    buffer[16..24].copy_from_slice(&sequence.to_be_bytes());
    let crc = checksum(store, &buffer[4..]);
    buffer[..4].copy_from_slice(&crc.to_be_bytes());
}

fn checksum(store: u128, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&store.to_be_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// The records of a file, up to the first one that does not follow.
pub(super) fn records(store: u128, bytes: &Bytes) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    let mut at = 0;
    while let Some((record, len)) = Record::decode(store, bytes, at) {
        let follows =
            |last: &Record| last.life == record.life && last.sequence + 1 == record.sequence;
        if !records.last().is_none_or(follows) {
            break;
        }
        records.push(record);
        at += len;
    }
    records
}

// === impl Record ===

impl Record {
    /// Reads the record at `at`, and says how long it is; `None` = there is none.
    fn decode(store: u128, bytes: &Bytes, at: usize) -> Option<(Self, usize)> {
        let header = bytes.get(at..at + HEADER_BYTES)?;
        let number = |at: usize| Some(u64::from_be_bytes(header[at..at + 8].try_into().ok()?));
        let crc = u32::from_be_bytes(header[..4].try_into().ok()?);
        let body = u32::from_be_bytes(header[4..8].try_into().ok()?) as usize;
        let len = HEADER_BYTES + body;
        let whole = bytes.get(at..at.checked_add(len)?)?;
        if checksum(store, &whole[4..]) != crc {
            return None;
        }
        let rows = rows(bytes.slice(at + HEADER_BYTES..at + len))?;
        Some((Self { life: number(8)?, sequence: number(16)?, rows }, len))
    }
}

fn rows(mut body: Bytes) -> Option<Vec<(Vec<u8>, Option<Bytes>)>> {
    let mut rows = Vec::new();
    while !body.is_empty() {
        let kind = split(&mut body, 1)?[0];
        let len = u16::from_be_bytes(split(&mut body, 2)?.as_ref().try_into().ok()?);
        let key = split(&mut body, usize::from(len))?.to_vec();
        let value = match kind {
            REMOVED => None,
            WRITTEN => {
                let len = u32::from_be_bytes(split(&mut body, 4)?.as_ref().try_into().ok()?);
                Some(split(&mut body, len as usize)?)
            }
            _ => return None,
        };
        rows.push((key, value));
    }
    Some(rows)
}

fn split(bytes: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= bytes.len()).then(|| bytes.split_to(len))
}
