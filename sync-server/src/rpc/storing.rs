//! Holds what is stored below a name to the quota that the policy says. What there is, is read off the
//! heads of the collections there, so a restart forgets nothing; `core::stored` says how, and
//! `engine::reserving` what is on its way.

use std::collections::BTreeMap;

use sync_proto::types::{CollectionName, Mutation, Op};
use tonic::Status;

use super::Context;
use crate::auth::Caller;
use crate::auth::stored::StoredQuota;
use crate::core::stored::{Adding, TooMuch};
use crate::engine::reserving::{Reserved, Reserves};
use crate::store::Store;

/// What is on its way to names with a quota.
#[derive(Debug, Clone, Default)]
pub struct Storing {
    reserves: Reserves,
}

// === impl Storing ===

impl Storing {
    /// Reserves room for a commit, below every name with a quota that it puts anything below.
    pub(super) async fn reserve<S: Store>(
        &self,
        context: &Context<S>,
        caller: &Caller,
        mutations: &[Mutation],
    ) -> Result<Result<Reserved, TooMuch>, Status> {
        let mut reserved = self.reserves.nothing();
        for adding in additions(&caller.stored_quotas(), mutations) {
            // Before the look at what is there: what is written meanwhile counts twice, never not.
            let writing = reserved.add(adding.clone());
            let there = if let Some(there) = context.ledger.bytes_below(&adding.root) {
                there
            } else {
                let root = adding.root.clone();
                context.read(move |ledger| ledger.count_below(&root)).await?
            };
            if let Err(too_much) = adding.fits(there, writing) {
                return Ok(Err(too_much));
            }
        }
        Ok(Ok(reserved))
    }
}

/// What a commit would add below each name; of two quotas of a name the smaller one counts.
fn additions(quotas: &[StoredQuota], mutations: &[Mutation]) -> Vec<Adding> {
    if quotas.is_empty() {
        return Vec::new();
    }
    let mut put: BTreeMap<&CollectionName, u64> = BTreeMap::new();
    for mutation in mutations {
        if let Some(bytes) = bytes_of(&mutation.op) {
            *put.entry(&mutation.collection).or_default() += bytes;
        }
    }
    let mut found: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (name, bytes) in put {
        let mut roots: BTreeMap<&str, u64> = BTreeMap::new();
        for quota in quotas {
            let Some(root) = quota.root(name) else { continue };
            let most = roots.entry(root).or_insert(quota.bytes_max);
            *most = quota.bytes_max.min(*most);
        }
        for (root, bytes_max) in roots {
            found.entry(root).or_insert((0, bytes_max)).0 += bytes;
        }
    }
    let adding = |(root, (bytes, bytes_max)): (&str, (u64, u64))| Adding {
        root: root.to_owned(),
        bytes,
        bytes_max,
    };
    found.into_iter().map(adding).collect()
}

/// Bytes of the item that is put.
fn bytes_of(op: &Op) -> Option<u64> {
    match op {
        Op::Put { key, value, sort_key } => {
            let sort_key = sort_key.as_ref().map_or(0, |sort_key| sort_key.as_bytes().len());
            Some((key.as_bytes().len() + value.as_bytes().len() + sort_key) as u64)
        }
        Op::Delete { .. } | Op::Reorder { .. } | Op::Follow { .. } | Op::Unfollow { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use sync_proto::types::{Key, Value};

    use super::*;
    use crate::auth::policy::Policy;

    /// G8: what is put counts once below every name with a quota, by the smallest of its quotas; what
    /// is deleted does not.
    #[test]
    fn a_commit_adds_what_it_puts() {
        let policy = Policy::parse(
            "[[stored]]\nbelow = \"a/*\"\nbytes_max = 90\n\
             [[stored]]\nbelow = \"a/b\"\nbytes_max = 50\n\
             [[stored]]\nbelow = \"a\"\nbytes_max = 200\n",
        )
        .unwrap();
        let key = || Key::new("key").unwrap();
        let mutation =
            |name: &str, op| Mutation { collection: CollectionName::new(name).unwrap(), op };
        let put = |name: &str, bytes| {
            let value = Value::new(vec![0; bytes]).unwrap();
            mutation(name, Op::Put { key: key(), value, sort_key: None })
        };
        let mutations = [
            put("a/b", 7),
            put("a/b/c", 17),
            put("a/d", 27),
            put("z", 99),
            mutation("a/e", Op::Delete { key: key() }),
        ];
        let found: Vec<_> = additions(&policy.stored, &mutations)
            .into_iter()
            .map(|Adding { root, bytes, bytes_max }| (root, bytes, bytes_max))
            .collect();
        let expected = [("a", 60, 200), ("a/b", 30, 50), ("a/d", 30, 90)];
        assert_eq!(found, expected.map(|(root, bytes, most)| (root.to_owned(), bytes, most)));
    }
}
