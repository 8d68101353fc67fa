//! What is written: values of random bytes, which begin with when they were written, if that is
//! wanted.

use std::time::Instant;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::system::{Item, VALUE_BYTES};

/// Makes items for one writer.
#[derive(Debug)]
pub(crate) struct Values {
    dice: SmallRng,
    /// When values say when they were written: where their clock begins.
    origin: Option<Instant>,
}

// === impl Values ===

impl Values {
    /// The same seed makes the same items.
    pub(crate) fn new(seed: u64) -> Self {
        Self { dice: SmallRng::seed_from_u64(seed), origin: None }
    }

    /// Values say when they were written, on a clock that begins here. They are others each time:
    /// a server may take a value that an item has already for no change.
    pub(crate) fn stamped(origin: Instant) -> Self {
        Self { origin: Some(origin), ..Self::new(rand::random()) }
    }

    /// An item with a value that no other has.
    pub(crate) fn item(&mut self, collection: u32, key: u32) -> Item {
        let mut value = [0_u8; VALUE_BYTES];
        self.dice.fill(&mut value[..]);
        let micros = self.origin.map_or(0, |origin| origin.elapsed().as_micros());
        let stamp = u64::try_from(micros).unwrap_or(0);
        value[..8].copy_from_slice(&stamp.to_be_bytes());
        Item { collection, key, value: Bytes::copy_from_slice(&value) }
    }

    /// So many different numbers below `below`.
    pub(crate) fn different(&mut self, count: usize, below: u32) -> Vec<u32> {
        let (count, below) = (count, below as usize);
        let picked = rand::seq::index::sample(&mut self.dice, below, count);
        picked.into_iter().map(|index| u32::try_from(index).unwrap_or(0)).collect()
    }
}
