//! Commands of operators: inspect, policy, purge, rotate-epoch.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use sync_client::types::{
    self, CollectionName, Diffusion, Inspection, Policy, PolicyField, Version,
};

use crate::Context;
use crate::args::{HowTold, PolicyChange, PolicyPart, collection, version};
use crate::exit::{Exit, Failure};
use crate::output::table;
use crate::read::{HeadFields, facts};
use crate::text::moment;
use crate::write::agreed;

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    pub(crate) collection: CollectionName,
}

#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    pub(crate) collection: CollectionName,
    /// Only deletes up to this version. Default: all.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub(crate) up_to: Option<Version>,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RotateEpoch {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    pub(crate) collection: CollectionName,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// A policy in JSON; what is not said is left out.
#[derive(Serialize)]
struct PolicyFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    tombstone_age_max_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tombstones_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diffusion: Option<&'static str>,
}

/// A collection as an operator sees it, in JSON.
#[derive(Serialize)]
struct InspectionFields<'a> {
    #[serde(flatten)]
    head: HeadFields<'a>,
    policy: PolicyFields,
    effective_policy: PolicyFields,
    subscribers: u64,
    audience: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    diffusion: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moves_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_tombstone_time: Option<String>,
}

/// A policy that was set, in JSON.
#[derive(Serialize)]
struct PolicyInForce<'a> {
    collection: &'a str,
    effective_policy: PolicyFields,
}

/// A purge in JSON.
#[derive(Serialize)]
struct PurgedFields<'a> {
    purged: u64,
    #[serde(flatten)]
    head: HeadFields<'a>,
}

// === impl PolicyFields ===

impl From<Policy> for PolicyFields {
    fn from(policy: Policy) -> Self {
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Self {
            tombstone_age_max_ms: policy.tombstone_age_max.map(millis),
            tombstones_max: policy.tombstones_max,
            bytes_max: policy.bytes_max,
            diffusion: policy.diffusion.map(how_told),
        }
    }
}

pub(crate) async fn inspect(context: &mut Context, inspect: &Inspect) -> Result<Exit, Failure> {
    let name = &inspect.collection;
    let seen = context.client.inspect_collection(name).await?;
    if context.output.json() {
        context.output.object(&InspectionFields {
            head: HeadFields::new(name, &seen.head),
            policy: seen.policy.into(),
            effective_policy: seen.effective.into(),
            subscribers: seen.subscribers,
            audience: seen.audience,
            diffusion: seen.diffusion.map(how_told),
            moves_per_s: seen.diffusion.map(|_| seen.moves_per_s),
            oldest_tombstone_time: seen.oldest_tombstone.map(moment),
        })?;
    } else {
        show_inspection(context, name, &seen)?;
    }
    Ok(Exit::Done)
}

fn show_inspection(
    context: &mut Context,
    name: &CollectionName,
    seen: &Inspection,
) -> Result<(), Failure> {
    let mut rows = facts(HeadFields::new(name, &seen.head));
    let oldest = seen.oldest_tombstone.map_or_else(|| "none".to_owned(), moment);
    rows.add_row(["oldest tombstone".to_owned(), oldest]);
    rows.add_row(["subscribers".to_owned(), seen.subscribers.to_string()]);
    rows.add_row(["followers".to_owned(), seen.audience.to_string()]);
    if let Some(diffusion) = seen.diffusion {
        let told = format!("{}, {:.2} moves a second", how_told(diffusion), seen.moves_per_s);
        rows.add_row(["diffusion in force".to_owned(), told]);
    }
    context.output.table(rows)?;
    context.output.line("")?;
    show_policy(context, Some(&seen.policy), &seen.effective)
}

/// What is in force, and where it comes from.
fn show_policy(
    context: &mut Context,
    own: Option<&Policy>,
    effective: &Policy,
) -> Result<(), Failure> {
    let mut rows = table(&["policy", "in force", "from"]);
    let said = |by_policy: fn(&Policy) -> bool| match own {
        Some(own) if by_policy(own) => "policy",
        Some(_) => "server",
        None => "",
    };
    let age = effective.tombstone_age_max.map(|age| format!("{} s", age.as_secs_f64()));
    let most = effective.tombstones_max.map(|most| most.to_string());
    let bytes = effective.bytes_max.filter(|most| *most > 0).map(|most| most.to_string());
    for (what, is, from) in [
        ("tombstones are kept for", age, said(|own| own.tombstone_age_max.is_some())),
        ("tombstones at most", most, said(|own| own.tombstones_max.is_some())),
        ("live bytes at most", bytes, said(|own| own.bytes_max.is_some())),
    ] {
        rows.add_row(vec![what.to_owned(), is.unwrap_or("no limit".to_owned()), from.to_owned()]);
    }
    let told = effective.diffusion.map_or("chosen by the server", how_told);
    let from = said(|own| own.diffusion.is_some());
    rows.add_row(vec!["diffusion".to_owned(), told.to_owned(), from.to_owned()]);
    context.output.table(rows)
}

pub(crate) async fn policy(context: &mut Context, change: &PolicyChange) -> Result<Exit, Failure> {
    let name = &change.collection;
    let asked = Policy {
        tombstone_age_max: change.tombstone_age,
        tombstones_max: change.tombstones,
        bytes_max: change.bytes,
        diffusion: change.diffusion.map(|how| match how {
            HowTold::Write => Diffusion::Write,
            HowTold::Read => Diffusion::Read,
        }),
    };
    let clear: Vec<PolicyField> = change.default.iter().copied().map(field).collect();
    let (own, effective) = if asked == Policy::default() && clear.is_empty() {
        let seen = context.client.inspect_collection(name).await?;
        (Some(seen.policy), seen.effective)
    } else {
        (None, context.client.set_policy(name, types::PolicyChange { set: asked, clear }).await?)
    };
    if context.output.json() {
        let effective_policy = effective.into();
        context.output.object(&PolicyInForce { collection: name.as_str(), effective_policy })?;
    } else {
        show_policy(context, own.as_ref(), &effective)?;
    }
    Ok(Exit::Done)
}

fn field(part: PolicyPart) -> PolicyField {
    match part {
        PolicyPart::TombstoneAge => PolicyField::TombstoneAgeMax,
        PolicyPart::Tombstones => PolicyField::TombstonesMax,
        PolicyPart::Bytes => PolicyField::BytesMax,
        PolicyPart::Diffusion => PolicyField::Diffusion,
    }
}

fn how_told(diffusion: Diffusion) -> &'static str {
    match diffusion {
        Diffusion::Write => "write",
        Diffusion::Read => "read",
    }
}

pub(crate) async fn purge(context: &mut Context, purge: &Purge) -> Result<Exit, Failure> {
    let name = &purge.collection;
    let head = context.client.get_collection(name).await?;
    let up_to = purge.up_to.unwrap_or(head.version);
    let question = format!(
        "Forget the deletes of {name} up to version {up_to}? Readers that stand below must start \
         over."
    );
    if !purge.yes && !agreed(context, question).await? {
        return Err(Failure::Interrupted { next_step: Some("nothing was purged".into()) });
    }
    let (purged, head) = context.client.purge(name, up_to).await?;
    if context.output.json() {
        context.output.object(&PurgedFields { purged, head: HeadFields::new(name, &head) })?;
    } else {
        let line = format!(
            "purged {purged} tombstones of {name}: {} are left, the floor is {}",
            head.tombstones, head.floor
        );
        context.output.line(&line)?;
    }
    Ok(Exit::Done)
}

pub(crate) async fn rotate_epoch(
    context: &mut Context,
    rotate: &RotateEpoch,
) -> Result<Exit, Failure> {
    let name = &rotate.collection;
    let question = format!("Give {name} a new epoch? All of its readers must start over.");
    if !rotate.yes && !agreed(context, question).await? {
        return Err(Failure::Interrupted { next_step: Some("nothing was changed".into()) });
    }
    let head = context.client.rotate_epoch(name).await?;
    if context.output.json() {
        context.output.object(&HeadFields::new(name, &head))?;
    } else {
        context.output.line(&format!("{name} has epoch {} now", head.epoch))?;
    }
    Ok(Exit::Done)
}
