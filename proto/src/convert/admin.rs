//! What operators set, between wire and checked types.

use std::time::Duration;

use super::{required, required_head, timestamp};
use crate::limits::{GRACE_S_MAX, TOMBSTONE_AGE_S_MAX};
use crate::types::{Diffusion, Inspection, Malformed, Policy, PolicyChange, PolicyField};
use crate::v1;

// === Policy ===

impl From<Policy> for v1::Policy {
    fn from(policy: Policy) -> Self {
        Self {
            tombstone_age_max: policy.tombstone_age_max.map(duration_to_wire),
            tombstones_max: policy.tombstones_max,
            bytes_max: policy.bytes_max,
            diffusion: diffusion_to_wire(policy.diffusion),
        }
    }
}

impl TryFrom<v1::Policy> for Policy {
    type Error = Malformed;

    fn try_from(policy: v1::Policy) -> Result<Self, Malformed> {
        let age = policy.tombstone_age_max.map(age).transpose();
        Ok(Self {
            tombstone_age_max: age.map_err(|e| e.within("tombstone_age_max"))?,
            tombstones_max: policy.tombstones_max,
            bytes_max: policy.bytes_max,
            diffusion: diffusion(policy.diffusion)?,
        })
    }
}

fn diffusion_to_wire(diffusion: Option<Diffusion>) -> i32 {
    match diffusion {
        None => v1::Diffusion::Unspecified,
        Some(Diffusion::Write) => v1::Diffusion::Write,
        Some(Diffusion::Read) => v1::Diffusion::Read,
    }
    .into()
}

fn diffusion(wire: i32) -> Result<Option<Diffusion>, Malformed> {
    match v1::Diffusion::try_from(wire) {
        Ok(v1::Diffusion::Unspecified) => Ok(None),
        Ok(v1::Diffusion::Write) => Ok(Some(Diffusion::Write)),
        Ok(v1::Diffusion::Read) => Ok(Some(Diffusion::Read)),
        Err(_) => Err(undefined("diffusion")),
    }
}

fn undefined(field: &str) -> Malformed {
    Malformed::new(field, "must be one of those that are defined")
}

// === PolicyChange ===

/// What is to change of a policy: no field is both set and cleared.
pub fn policy_change(policy: Option<v1::Policy>, clear: &[i32]) -> Result<PolicyChange, Malformed> {
    let set = match policy {
        Some(policy) => Policy::try_from(policy).map_err(|error| error.within("policy"))?,
        None if clear.is_empty() => return Err(Malformed::new("policy", "must be set")),
        None => Policy::default(),
    };
    let mut cleared = Vec::new();
    for (index, wire) in clear.iter().enumerate() {
        let place = format!("clear[{index}]");
        let field = match v1::PolicyField::try_from(*wire) {
            Ok(v1::PolicyField::TombstoneAgeMax) => PolicyField::TombstoneAgeMax,
            Ok(v1::PolicyField::TombstonesMax) => PolicyField::TombstonesMax,
            Ok(v1::PolicyField::BytesMax) => PolicyField::BytesMax,
            Ok(v1::PolicyField::Diffusion) => PolicyField::Diffusion,
            Ok(v1::PolicyField::Unspecified) | Err(_) => return Err(undefined(&place)),
        };
        if set.without(field) != set {
            return Err(Malformed::new(place, "is set in the same change"));
        }
        cleared.push(field);
    }
    Ok(PolicyChange { set, clear: cleared })
}

/// Fields of a policy as they are sent.
#[must_use]
pub fn policy_fields(fields: &[PolicyField]) -> Vec<i32> {
    let wire = |field: &PolicyField| match field {
        PolicyField::TombstoneAgeMax => v1::PolicyField::TombstoneAgeMax,
        PolicyField::TombstonesMax => v1::PolicyField::TombstonesMax,
        PolicyField::BytesMax => v1::PolicyField::BytesMax,
        PolicyField::Diffusion => v1::PolicyField::Diffusion,
    };
    fields.iter().map(|field| wire(field).into()).collect()
}

// === Inspection ===

impl From<Inspection> for v1::InspectCollectionResponse {
    fn from(seen: Inspection) -> Self {
        Self {
            head: Some(seen.head.into()),
            policy: Some(seen.policy.into()),
            effective_policy: Some(seen.effective.into()),
            subscribers: seen.subscribers,
            audience: seen.audience,
            diffusion: diffusion_to_wire(seen.diffusion),
            oldest_tombstone_time: seen.oldest_tombstone.map(Into::into),
            moves_per_s: seen.moves_per_s,
        }
    }
}

impl TryFrom<v1::InspectCollectionResponse> for Inspection {
    type Error = Malformed;

    fn try_from(seen: v1::InspectCollectionResponse) -> Result<Self, Malformed> {
        let policy = |policy: Option<v1::Policy>, field: &str| {
            Policy::try_from(required(policy, field)?).map_err(|error| error.within(field))
        };
        Ok(Self {
            head: required_head(seen.head)?,
            policy: policy(seen.policy, "policy")?,
            effective: policy(seen.effective_policy, "effective_policy")?,
            subscribers: seen.subscribers,
            audience: seen.audience,
            diffusion: diffusion(seen.diffusion)?,
            moves_per_s: seen.moves_per_s,
            oldest_tombstone: seen.oldest_tombstone_time.map(|time| timestamp(Some(time))),
        })
    }
}

fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).expect("below 10^9"),
    }
}

fn age(wire: prost_types::Duration) -> Result<Duration, Malformed> {
    duration(wire, 0, TOMBSTONE_AGE_S_MAX)
}

/// How long a server that drains leaves to open calls, if the request says so.
pub fn grace(wire: Option<prost_types::Duration>) -> Result<Option<Duration>, Malformed> {
    let checked = wire.map(|wire| duration(wire, 1, GRACE_S_MAX)).transpose();
    checked.map_err(|error| error.within("grace"))
}

/// Asks a server to end.
#[must_use]
pub fn drain_request(grace: Option<Duration>) -> v1::DrainRequest {
    v1::DrainRequest { grace: grace.map(duration_to_wire) }
}

fn duration(wire: prost_types::Duration, least: u64, most: u64) -> Result<Duration, Malformed> {
    let seconds = u64::try_from(wire.seconds).ok().filter(|s| (least..=most).contains(s));
    let seconds = seconds.ok_or_else(|| {
        let reason = format!("{}, {least} to {most} is allowed", wire.seconds);
        Malformed::new("seconds", reason)
    })?;
    let nanos = u32::try_from(wire.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let nanos = nanos.ok_or_else(|| {
        Malformed::new("nanos", format!("{}, 0 to 999999999 is allowed", wire.nanos))
    })?;
    Ok(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G11: an age that makes no sense is refused by name; any other arrives as it was sent.
    #[test]
    fn an_age_is_checked() {
        let of = |seconds, nanos| v1::Policy {
            tombstone_age_max: Some(prost_types::Duration { seconds, nanos }),
            ..v1::Policy::default()
        };
        let most = i64::try_from(TOMBSTONE_AGE_S_MAX).unwrap();
        for (seconds, nanos) in [(0, 0), (most, 999_999_999)] {
            let policy = Policy::try_from(of(seconds, nanos)).unwrap();
            assert_eq!(v1::Policy::from(policy), of(seconds, nanos));
        }
        for (seconds, nanos, field) in [
            (-1, 0, "tombstone_age_max.seconds: "),
            (most + 1, 0, "tombstone_age_max.seconds: "),
            (0, -1, "tombstone_age_max.nanos: "),
            (0, 1_000_000_000, "tombstone_age_max.nanos: "),
        ] {
            let refused = Policy::try_from(of(seconds, nanos)).unwrap_err().to_string();
            assert!(refused.starts_with(field), "{refused}");
        }
    }

    /// G11: a change that contradicts itself, or says nothing, is refused by name; any other is
    /// applied field by field.
    #[test]
    fn a_change_of_a_policy_is_checked() {
        let most = |most| Policy { tombstones_max: Some(most), ..Policy::default() };
        let field = |field: PolicyField| policy_fields(&[field])[0];
        let age = field(PolicyField::TombstoneAgeMax);
        let refused = |policy: Option<Policy>, clear: &[i32]| {
            policy_change(policy.map(Into::into), clear).unwrap_err().to_string()
        };
        assert!(refused(None, &[]).starts_with("policy: "));
        assert!(refused(None, &[age, 0]).starts_with("clear[1]: "));
        assert!(refused(None, &[99]).starts_with("clear[0]: "));
        let same = field(PolicyField::TombstonesMax);
        assert!(refused(Some(most(1)), &[age, same]).starts_with("clear[1]: "));
        let unheard = v1::Policy { diffusion: 9, ..v1::Policy::default() };
        let refused = policy_change(Some(unheard), &[]).unwrap_err().to_string();
        assert!(refused.starts_with("policy.diffusion: "), "{refused}");

        let all = [
            PolicyField::TombstoneAgeMax,
            PolicyField::TombstonesMax,
            PolicyField::BytesMax,
            PolicyField::Diffusion,
        ];
        let full = Policy {
            tombstone_age_max: Some(Duration::from_secs(1)),
            tombstones_max: Some(2),
            bytes_max: Some(3),
            diffusion: Some(Diffusion::Read),
        };
        let cleared = policy_change(None, &policy_fields(&all)).unwrap();
        assert_eq!(cleared.applied_to(full), Policy::default());
        let one = policy_change(Some(most(9).into()), &[age]).unwrap();
        let wanted = Policy { tombstone_age_max: None, tombstones_max: Some(9), ..full };
        assert_eq!(one.applied_to(full), wanted);
    }
}
