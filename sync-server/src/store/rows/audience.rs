//! What is known of an audience as a whole, between bytes and types. Pure.

use bytes::{BufMut, Bytes, BytesMut};
use sync_proto::types::{Diffusion, Epoch, Subject, Timestamp, Version};

use super::Fields;

/// Those who follow a collection, as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audience {
    /// How many; never none.
    pub count: u64,
    /// How they are told.
    pub mode: Diffusion,
    /// Since when.
    pub since: Timestamp,
    /// Where the collection's last life ended, if it was deleted since it is followed and does not
    /// exist.
    pub last_life: Option<(Epoch, Version)>,
}

/// Entries of followers that are brought up to date behind a deletion: from this subject on, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep(pub Option<Subject>);

pub(super) fn tag(diffusion: Diffusion) -> u8 {
    match diffusion {
        Diffusion::Write => 1,
        Diffusion::Read => 2,
    }
}

pub(super) fn from_tag(tag: u8) -> Option<Diffusion> {
    match tag {
        1 => Some(Diffusion::Write),
        2 => Some(Diffusion::Read),
        _ => None,
    }
}

// === impl Audience ===

impl Audience {
    /// The row's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut row = BytesMut::with_capacity(33);
        row.put_u64(self.count);
        row.put_u8(tag(self.mode));
        row.put_u64(self.since.as_millis());
        if let Some((epoch, version)) = self.last_life {
            row.put_u64(epoch.get());
            row.put_u64(version.get());
        }
        row.freeze()
    }

    pub(crate) fn parse(fields: &mut Fields) -> Option<Self> {
        let count = fields.u64().filter(|count| *count > 0)?;
        let mode = from_tag(fields.u8()?)?;
        let since = Timestamp::from_millis(fields.u64()?);
        let last_life = if fields.0.is_empty() {
            None
        } else {
            Some((Epoch::new(fields.u64()?)?, fields.version()?))
        };
        Some(Self { count, mode, since, last_life })
    }
}

// === impl Sweep ===

impl Sweep {
    /// The row's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let next = self.0.as_ref().map_or("", Subject::as_str);
        Bytes::copy_from_slice(next.as_bytes())
    }
}
