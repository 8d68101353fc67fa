//! What operators set, between wire and checked types.

use std::time::Duration;

use super::{required, required_head, timestamp};
use crate::limits::TOMBSTONE_AGE_S_MAX;
use crate::types::{Inspection, Malformed, Policy};
use crate::v1;

// === Policy ===

impl From<Policy> for v1::Policy {
    fn from(policy: Policy) -> Self {
        Self {
            tombstone_age_max: policy.tombstone_age_max.map(duration_to_wire),
            tombstones_max: policy.tombstones_max,
            bytes_max: policy.bytes_max,
            diffusion: v1::Diffusion::Unspecified.into(),
        }
    }
}

impl TryFrom<v1::Policy> for Policy {
    type Error = Malformed;

    /// Leaves `diffusion` to whoever offers it.
    fn try_from(policy: v1::Policy) -> Result<Self, Malformed> {
        let age = policy.tombstone_age_max.map(age).transpose();
        Ok(Self {
            tombstone_age_max: age.map_err(|e| e.within("tombstone_age_max"))?,
            tombstones_max: policy.tombstones_max,
            bytes_max: policy.bytes_max,
        })
    }
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
            diffusion: v1::Diffusion::Unspecified.into(),
            oldest_tombstone_time: seen.oldest_tombstone.map(Into::into),
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
    let seconds = u64::try_from(wire.seconds).ok().filter(|s| *s <= TOMBSTONE_AGE_S_MAX);
    let seconds = seconds.ok_or_else(|| {
        let reason = format!("{}, 0 to {TOMBSTONE_AGE_S_MAX} is allowed", wire.seconds);
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
}
