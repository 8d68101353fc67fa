//! The bytes of a backup: the only file that knows them. Pure but for the reader that it is given.
//!
//! ```text
//! file    = header block* end
//! header  = "dsbackup" ‖ format:4 ‖ time:8 ‖ crc32:4                (crc of what is before it)
//! block   = length:4 ‖ number:8 ‖ kind:1 ‖ payload ‖ crc32:4        (length of the payload; crc of
//!                                                                    what is before it in the block)
//! kind 1  rows   id:8 ‖ generation:4 ‖ row*
//!         row    version:8 ‖ time:8 ‖ key length:2 ‖ key ‖ length:4 ‖ LogRow
//! kind 2  heads  head*
//!         head   id:8 ‖ generation:4 ‖ length:4 ‖ Meta ‖ length:4 ‖ Policy
//!                (format 1: the policy without its length, and without what is pinned)
//! kind 4  ended  (length:4 ‖ name ‖ epoch:8 ‖ version:8)*            (since format 2)
//! kind 3  end    blocks:8 ‖ rows:8 ‖ collections:8 ‖ sha256:32      (of all bytes before this block)
//! ```
//! Numbers are big-endian; blocks are numbered from 0. `LogRow`, `Meta` and `Policy` are those
//! of `store::keys`, so the row format of the store is part of this format. Of several rows of a key the
//! one with the highest version counts. Rows of another generation than their collection's head says
//! do not count, nor do rows of collections without a head. Who follows what is what inboxes say; of
//! names that are followed and were deleted, `ended` says where their last lives ended.

use std::io::{self, Read};

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use sync_proto::types::{CollectionName, Epoch, Key, Timestamp, Version};

use super::BackupError;
use crate::store::keys::CollectionId;
use crate::store::rows::{Fields, LogRow, Meta, encode_policy};

/// Format that is written, and the newest that is read.
pub const FORMAT: u32 = 2;

/// Bytes of a payload. Above a block of rows with the largest row at its end; what claims more is
/// damaged, and is not read into memory.
pub const PAYLOAD_BYTES_MAX: usize = 3 * 1024 * 1024;

const MAGIC: [u8; 8] = *b"dsbackup";
const HEADER_BYTES: usize = 8 + 4 + 8 + 4;
const BLOCK_HEADER_BYTES: usize = 4 + 8 + 1;
const CRC_BYTES: usize = 4;
const END_BYTES: usize = 3 * 8 + 32;

const ROWS: u8 = 1;
const HEADS: u8 = 2;
const END: u8 = 3;
const ENDED: u8 = 4;

/// A row of a collection's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRow {
    /// Its version.
    pub version: Version,
    /// When it was committed.
    pub time: Timestamp,
    /// Its key.
    pub key: Key,
    /// What the log says.
    pub log: LogRow,
}

/// A collection as it was at the moment of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHead {
    /// Its number in the rows of the backup.
    pub id: CollectionId,
    /// Which of its rows count.
    pub generation: u32,
    /// Its name, head and policy; the epoch is that of the store that was backed up.
    pub meta: Meta,
}

/// A part of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// Rows of one collection.
    Rows {
        /// Which collection.
        id: CollectionId,
        /// How often it has been begun anew.
        generation: u32,
        /// Its rows, in version order.
        rows: Vec<BackupRow>,
    },
    /// Collections.
    Heads(Vec<BackupHead>),
    /// Names that are followed and do not exist any more.
    Ended(Vec<BackupEnd>),
}

/// Where the last life of a collection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupEnd {
    /// Its name.
    pub name: CollectionName,
    /// The epoch that it had.
    pub epoch: Epoch,
    /// Its last version.
    pub version: Version,
}

/// Writes a backup, piece by piece.
#[derive(Debug, Default)]
pub struct Encoder {
    hash: Sha256,
    blocks: u64,
    rows: u64,
    collections: u64,
}

/// Reads a backup, and believes nothing.
#[derive(Debug)]
pub struct Decoder<R> {
    input: R,
    format: u32,
    hash: Sha256,
    at: u64,
    blocks: u64,
    rows: u64,
    collections: u64,
    ended: bool,
}

// === impl BackupRow ===

impl BackupRow {
    /// About how many bytes it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        64 + self.key.as_bytes().len() + self.log.change.len()
    }
}

// === impl Encoder ===

impl Encoder {
    /// The beginning of the file.
    pub fn header(&mut self, time: Timestamp) -> Bytes {
        let mut header = BytesMut::with_capacity(HEADER_BYTES);
        header.put_slice(&MAGIC);
        header.put_u32(FORMAT);
        header.put_u64(time.as_millis());
        header.put_u32(crc32fast::hash(&header));
        self.hash.update(&header);
        header.freeze()
    }

    /// A block.
    pub fn block(&mut self, block: &Block) -> Bytes {
        let mut payload = BytesMut::new();
        match block {
            Block::Rows { id, generation, rows } => {
                self.rows += rows.len() as u64;
                payload.put_u64(id.0);
                payload.put_u32(*generation);
                for row in rows {
                    payload.put_u64(row.version.get());
                    payload.put_u64(row.time.as_millis());
                    let key = row.key.as_bytes();
                    payload.put_u16(u16::try_from(key.len()).expect("a key is at most 1 KiB"));
                    payload.put_slice(key);
                    put_long(&mut payload, &row.log.encode());
                }
                self.seal(ROWS, &payload)
            }
            Block::Heads(heads) => {
                self.collections += heads.len() as u64;
                for head in heads {
                    payload.put_u64(head.id.0);
                    payload.put_u32(head.generation);
                    put_long(&mut payload, &head.meta.encode());
                    put_long(&mut payload, &encode_policy(&head.meta.policy));
                }
                self.seal(HEADS, &payload)
            }
            Block::Ended(ends) => {
                for end in ends {
                    put_long(&mut payload, end.name.as_str().as_bytes());
                    payload.put_u64(end.epoch.get());
                    payload.put_u64(end.version.get());
                }
                self.seal(ENDED, &payload)
            }
        }
    }

    /// The end of the file.
    #[must_use]
    pub fn end(mut self) -> Bytes {
        let mut payload = BytesMut::with_capacity(END_BYTES);
        payload.put_u64(self.blocks);
        payload.put_u64(self.rows);
        payload.put_u64(self.collections);
        payload.put_slice(&self.hash.clone().finalize());
        self.seal(END, &payload)
    }

    fn seal(&mut self, kind: u8, payload: &[u8]) -> Bytes {
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a payload of {} bytes", payload.len());
        let mut block = BytesMut::with_capacity(BLOCK_HEADER_BYTES + payload.len() + CRC_BYTES);
        block.put_u32(u32::try_from(payload.len()).expect("checked above"));
        block.put_u64(self.blocks);
        block.put_u8(kind);
        block.put_slice(payload);
        block.put_u32(crc32fast::hash(&block));
        self.blocks += 1;
        self.hash.update(&block);
        block.freeze()
    }
}

fn put_long(payload: &mut BytesMut, bytes: &[u8]) {
    payload.put_u32(u32::try_from(bytes.len()).expect("a row is at most some MiB"));
    payload.put_slice(bytes);
}

// === impl Decoder ===

impl<R: Read> Decoder<R> {
    /// Reads the beginning.
    pub fn open(input: R) -> Result<Self, BackupError> {
        let mut decoder = Self {
            input,
            format: FORMAT,
            hash: Sha256::new(),
            at: 0,
            blocks: 0,
            rows: 0,
            collections: 0,
            ended: false,
        };
        let mut header = [0; HEADER_BYTES];
        let there = decoder.fill(&mut header)?;
        if there < HEADER_BYTES {
            let begins = there > 0 && MAGIC.starts_with(&header[..there.min(MAGIC.len())]);
            return Err(if begins { decoder.truncated() } else { BackupError::NotABackup });
        }
        let (said, crc) = header.split_at(HEADER_BYTES - CRC_BYTES);
        if said[..MAGIC.len()] != MAGIC {
            return Err(BackupError::NotABackup);
        }
        if crc32fast::hash(said).to_be_bytes() != *crc {
            return Err(BackupError::Damaged { at: 0, reason: "the header's checksum".to_owned() });
        }
        let format = u32::from_be_bytes(said[8..12].try_into().expect("four bytes"));
        if format > FORMAT {
            return Err(BackupError::NewerFormat { found: format, known: FORMAT });
        }
        decoder.format = format;
        decoder.hash.update(header);
        Ok(decoder)
    }

    /// The next block; `None` = the backup is complete, and was so in every byte.
    pub fn next_block(&mut self) -> Result<Option<Block>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let at = self.at;
        let (kind, payload, whole) = self.sealed()?;
        let damaged = |reason: &str| BackupError::Damaged { at, reason: reason.to_owned() };
        let mut fields = Fields(payload);
        let block = match kind {
            ROWS => {
                let block = rows(&mut fields).ok_or_else(|| damaged("rows that cannot be read"))?;
                let Block::Rows { rows, .. } = &block else { return Err(damaged("no rows")) };
                self.rows += rows.len() as u64;
                block
            }
            HEADS => {
                let heads = heads(self.format, &mut fields);
                let heads = heads.ok_or_else(|| damaged("heads that cannot be read"))?;
                self.collections += heads.len() as u64;
                Block::Heads(heads)
            }
            ENDED => {
                Block::Ended(ends(&mut fields).ok_or_else(|| damaged("ends that cannot be read"))?)
            }
            END => {
                let said = end(&mut fields).ok_or_else(|| damaged("an end that cannot be read"))?;
                let hash: [u8; 32] = self.hash.clone().finalize().into();
                if said != ([self.blocks, self.rows, self.collections], hash) {
                    return Err(damaged("the parts are not those that were written"));
                }
                if self.fill(&mut [0])? > 0 {
                    return Err(damaged("something follows the end"));
                }
                self.ended = true;
                return Ok(None);
            }
            _ => return Err(damaged("a part of an unknown kind")),
        };
        self.blocks += 1;
        self.hash.update(whole);
        Ok(Some(block))
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.at
    }

    fn sealed(&mut self) -> Result<(u8, Bytes, Bytes), BackupError> {
        let at = self.at;
        let mut header = [0; BLOCK_HEADER_BYTES];
        if self.fill(&mut header)? < header.len() {
            return Err(self.truncated());
        }
        let damaged = |reason: &str| BackupError::Damaged { at, reason: reason.to_owned() };
        let length = u32::from_be_bytes(header[..4].try_into().expect("four bytes")) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(damaged("a part that is too long"));
        }
        let mut whole = BytesMut::zeroed(BLOCK_HEADER_BYTES + length + CRC_BYTES);
        whole[..BLOCK_HEADER_BYTES].copy_from_slice(&header);
        if self.fill(&mut whole[BLOCK_HEADER_BYTES..])? < length + CRC_BYTES {
            return Err(self.truncated());
        }
        let whole = whole.freeze();
        let (said, crc) = whole.split_at(BLOCK_HEADER_BYTES + length);
        if crc32fast::hash(said).to_be_bytes() != *crc {
            return Err(damaged("a checksum"));
        }
        if header[4..12] != self.blocks.to_be_bytes() {
            return Err(damaged("a part that is not the next one"));
        }
        Ok((header[12], whole.slice(BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + length), whole))
    }

    /// Fills the buffer, or as much of it as there is.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, BackupError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BackupError::Unreadable(error)),
            }
        }
        self.at += filled as u64;
        Ok(filled)
    }

    fn truncated(&self) -> BackupError {
        BackupError::Truncated { at: self.at }
    }
}

fn rows(fields: &mut Fields) -> Option<Block> {
    let (id, generation) = (fields.id()?, fields.u32()?);
    let mut rows = Vec::new();
    while !fields.0.is_empty() {
        let (version, time) = (fields.version()?, Timestamp::from_millis(fields.u64()?));
        let length = u16::from_be_bytes(fields.array()?);
        let key = Key::new(fields.take(length.into())?).ok()?;
        let log = long(fields, LogRow::parse)?;
        rows.push(BackupRow { version, time, key, log });
    }
    Some(Block::Rows { id, generation, rows })
}

fn heads(format: u32, fields: &mut Fields) -> Option<Vec<BackupHead>> {
    let mut heads = Vec::new();
    while !fields.0.is_empty() {
        let (id, generation) = (fields.id()?, fields.u32()?);
        let mut meta = long(fields, Meta::parse)?;
        meta.policy =
            if format == 1 { fields.numbers_of_policy()? } else { long(fields, Fields::policy)? };
        heads.push(BackupHead { id, generation, meta });
    }
    Some(heads)
}

fn ends(fields: &mut Fields) -> Option<Vec<BackupEnd>> {
    let mut ends = Vec::new();
    while !fields.0.is_empty() {
        let name = long(fields, Fields::name)?;
        ends.push(BackupEnd {
            name,
            epoch: Epoch::new(fields.u64()?)?,
            version: fields.version()?,
        });
    }
    Some(ends)
}

/// What `put_long` wrote, of which nothing may be left: what is not understood is damage, as it is in
/// a row of the store.
fn long<T>(fields: &mut Fields, read: impl FnOnce(&mut Fields) -> Option<T>) -> Option<T> {
    let length = usize::try_from(fields.u32()?).ok()?;
    let mut within = Fields(fields.take(length)?);
    let read = read(&mut within)?;
    within.0.is_empty().then_some(read)
}

fn end(fields: &mut Fields) -> Option<([u64; 3], [u8; 32])> {
    let counts = [fields.u64()?, fields.u64()?, fields.u64()?];
    let hash = fields.array()?;
    fields.0.is_empty().then_some((counts, hash))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
