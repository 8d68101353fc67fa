//! What faults do to a delta. Pure.

use bytes::Bytes;
use prost::Message as _;
use sync_proto::v1;
use sync_proto::v1::change::Kind;

use crate::faults::Fault;

/// More than a message may have (R4).
const HUGE_BYTES: usize = 5 * 1024 * 1024;

/// Does to the delta what the fault says; `false`: it does not fit, nothing was changed.
pub fn distort(delta: &mut v1::Delta, fault: Fault) -> bool {
    match fault {
        Fault::DamageValue => edit(delta, damage),
        Fault::UnknownChange => edit(delta, |change| change.kind.take().is_some()),
        Fault::LoseDelete => lose_delete(delta),
        Fault::HugeMessage => {
            let Some(to) = delta.to else { return false };
            delta.changes.push(change(b"huge", to.version, Bytes::from(vec![0; HUGE_BYTES])));
            true
        }
        Fault::DropPush
        | Fault::RepeatPush
        | Fault::SwapPush
        | Fault::StalePush
        | Fault::StrayPush
        | Fault::BreakOff
        | Fault::Unavailable
        | Fault::LoseAnswer
        | Fault::Busy(_)
        | Fault::Unauthenticated
        | Fault::Spoil
        | Fault::LeaveOut
        | Fault::BreakImport
        | Fault::Reset(_)
        | Fault::Defer
        | Fault::Fail
        | Fault::Deny => false,
    }
}

/// A delta that fits behind this one but for its epoch.
#[must_use]
pub fn stray(delta: &v1::Delta) -> v1::Delta {
    let (epoch, version) = delta.to.map_or((1, 0), |to| (to.epoch ^ 1, to.version));
    let place = |version| Some(v1::Cursor { epoch, version, base: 0 });
    let head = delta.head.clone();
    v1::Delta {
        from: place(version),
        to: place(version + 1),
        changes: vec![change(b"stray", version + 1, Bytes::from_static(b"stray"))],
        head: head.map(|head| v1::Head { epoch, version: version + 1, ..head }),
        ..v1::Delta::default()
    }
}

/// Changes the first change that `edit` can change.
fn edit(delta: &mut v1::Delta, edit: impl Fn(&mut v1::Change) -> bool) -> bool {
    for encoded in &mut delta.changes {
        let Ok(mut change) = v1::Change::decode(encoded.clone()) else { continue };
        if edit(&mut change) {
            *encoded = Bytes::from(change.encode_to_vec());
            return true;
        }
    }
    false
}

fn damage(change: &mut v1::Change) -> bool {
    let Some(Kind::Put(put)) = &mut change.kind else { return false };
    let mut value = put.value.to_vec();
    let Some(first) = value.first_mut() else { return false };
    *first ^= 1;
    put.value = value.into();
    true
}

fn lose_delete(delta: &mut v1::Delta) -> bool {
    let is_delete = |encoded: &Bytes| {
        let change = v1::Change::decode(encoded.clone());
        change.is_ok_and(|change| matches!(change.kind, Some(Kind::Delete(_))))
    };
    let found = delta.changes.iter().position(is_delete);
    found.is_some_and(|index| {
        delta.changes.remove(index);
        true
    })
}

fn change(key: &'static [u8], version: u64, value: Bytes) -> Bytes {
    let put = v1::Put { value, value_version: version, ..v1::Put::default() };
    let change = v1::Change {
        key: Bytes::from_static(key),
        version,
        created_version: version,
        kind: Some(Kind::Put(put)),
    };
    Bytes::from(change.encode_to_vec())
}
