//! The arithmetic that proves a copy equal to its collection. Pure.
//!
//! ```text
//! item digest       = first 16 bytes of SHA-256( field(key) field(version) field(sort key) field(value) )
//! field(bytes)      = length as 4 bytes big-endian, then the bytes;  version = 8 bytes big-endian
//! collection digest = sum of item digests modulo 2^128             (order does not matter)
//! segment           = first 12 bits of SHA-256(key)                (0..4095)
//! group             = segment / 64                                 (0..63)
//! ```
//!
//! A sum of hashes can be kept up to date by adding and subtracting, in any order, on both
//! sides (the idea: `AdHash`, Bellare and Micciancio 1997). It detects loss and damage; it is not
//! a defence against someone who may choose the items.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};

use sha2::{Digest as _, Sha256};

use crate::types::{Key, SortKey, Version};

/// Segments of a collection.
pub const SEGMENTS: usize = 4096;
/// Segments of one group.
pub const SEGMENTS_PER_GROUP: usize = 64;
/// Groups of a collection.
pub const GROUPS: usize = SEGMENTS / SEGMENTS_PER_GROUP;

/// A 128-bit order-independent checksum of items.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Digest(u128);

/// Which of the 4,096 parts of a collection a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(u16);

/// 64 segments that follow each other; a collection has 64 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(u8);

// === impl Digest ===

impl Digest {
    /// The digest of no items.
    pub const EMPTY: Self = Self(0);

    /// The digest of one item.
    #[must_use]
    pub fn of_item(key: &Key, version: Version, sort_key: &SortKey, value: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for field in [key.as_bytes(), &version.get().to_be_bytes(), sort_key.as_bytes(), value] {
            let len = u32::try_from(field.len()).expect("limits keep fields far below 4 GiB");
            hash.update(len.to_be_bytes());
            hash.update(field);
        }
        Self(first_16(&hash.finalize()))
    }

    /// The digest as it travels: 16 bytes, big-endian.
    #[must_use]
    pub fn to_be_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The digest that travelled as these bytes.
    #[must_use]
    pub fn from_be_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl Add for Digest {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Digest {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }
}

impl SubAssign for Digest {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

// === impl Segment ===

impl Segment {
    /// The segment that `key` belongs to.
    #[must_use]
    pub fn of_key(key: &Key) -> Self {
        let hash = Sha256::digest(key.as_bytes());
        Self(u16::from(hash[0]) << 4 | u16::from(hash[1]) >> 4)
    }

    /// The segment of this number, if there is one.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (usize::from(number) < SEGMENTS).then_some(Self(number))
    }

    /// Its number, 0..4095.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// The group that it belongs to.
    #[must_use]
    pub fn group(self) -> Group {
        Group(u8::try_from(usize::from(self.0) / SEGMENTS_PER_GROUP).expect("64 groups"))
    }
}

// === impl Group ===

impl Group {
    /// The group of this number, if there is one.
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        (usize::from(number) < GROUPS).then_some(Self(number))
    }

    /// Its number, 0..63.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }

    /// Its segments, in order.
    pub fn segments(self) -> impl Iterator<Item = Segment> {
        let per_group = u16::try_from(SEGMENTS_PER_GROUP).expect("64 segments");
        let first = u16::from(self.0) * per_group;
        (first..first + per_group).map(Segment)
    }
}

/// The first 16 bytes of SHA-256 of a value, as reconciliation compares it.
#[must_use]
pub fn value_hash(value: &[u8]) -> [u8; 16] {
    first_16(&Sha256::digest(value)).to_be_bytes()
}

fn first_16(hash: &[u8]) -> u128 {
    let first: [u8; 16] = hash[..16].try_into().expect("a SHA-256 has 32 bytes");
    u128::from_be_bytes(first)
}
