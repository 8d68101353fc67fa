//! How much single principals may write, where the policy file says something else than the settings.
//! Pure.

use std::collections::HashMap;

use serde::Deserialize;
use toml::Spanned;

use super::policy::{BadPolicy, line_of};
use super::principal::{Principal, check_subject};
use crate::core::rates::Pace;

/// More a second than any server does.
pub const PER_S_MAX: u64 = 1_000_000_000;

/// What a policy says of somebody; `None` = the settings count. 0 = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Commits a second.
    pub commits_per_s: Option<u64>,
    /// Mutations a second.
    pub mutations_per_s: Option<u64>,
}

/// What a policy says of everybody.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quotas {
    by_subject: HashMap<String, Quota>,
    by_group: HashMap<String, Quota>,
}

/// An entry of the file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct QuotaWire {
    subjects: Vec<Spanned<String>>,
    groups: Vec<Spanned<String>>,
    commits_per_s: Option<u64>,
    mutations_per_s: Option<u64>,
}

// === impl Quota ===

impl Quota {
    /// What counts, with what the settings say.
    #[must_use]
    pub fn over(self, settings: Pace) -> Pace {
        Pace {
            commits_per_s: self.commits_per_s.unwrap_or(settings.commits_per_s),
            mutations_per_s: self.mutations_per_s.unwrap_or(settings.mutations_per_s),
        }
    }

    /// The more generous of both, in each of its parts.
    fn or_more(self, other: Self) -> Self {
        let more = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(0), _) | (_, Some(0)) => Some(0),
            (one, other) => one.max(other),
        };
        Self {
            commits_per_s: more(self.commits_per_s, other.commits_per_s),
            mutations_per_s: more(self.mutations_per_s, other.mutations_per_s),
        }
    }
}

// === impl Quotas ===

impl Quotas {
    /// What is said of a principal: by its name, or else the most that one of its groups has.
    pub(super) fn of(&self, principal: &Principal) -> Quota {
        if let Some(quota) = self.by_subject.get(&principal.subject) {
            return *quota;
        }
        let groups = principal.groups.iter().filter_map(|group| self.by_group.get(group));
        groups.copied().reduce(Quota::or_more).unwrap_or_default()
    }

    /// Takes up an entry of the file.
    pub(super) fn add(
        &mut self,
        text: &str,
        index: usize,
        spanned: Spanned<QuotaWire>,
    ) -> Result<(), BadPolicy> {
        let start = spanned.span().start;
        let bad = |offset, field: &str, reason: String| BadPolicy::Field {
            line: line_of(text, offset),
            field: format!("quotas[{index}]{field}"),
            reason,
        };
        let wire = spanned.into_inner();
        let quota =
            Quota { commits_per_s: wire.commits_per_s, mutations_per_s: wire.mutations_per_s };
        if wire.subjects.is_empty() && wire.groups.is_empty() {
            let reason = "is nobody's: set subjects or groups";
            return Err(bad(start, "", reason.to_owned()));
        }
        if quota == Quota::default() {
            let reason = "says nothing: set commits_per_s or mutations_per_s";
            return Err(bad(start, "", reason.to_owned()));
        }
        for (field, value) in
            [(".commits_per_s", quota.commits_per_s), (".mutations_per_s", quota.mutations_per_s)]
        {
            if let Some(value) = value.filter(|value| *value > PER_S_MAX) {
                return Err(bad(start, field, format!("{value}, must be 0 to {PER_S_MAX}")));
            }
        }
        for (element, subject) in wire.subjects.into_iter().enumerate() {
            let (offset, field) = (subject.span().start, format!(".subjects[{element}]"));
            check_subject(subject.get_ref()).map_err(|reason| bad(offset, &field, reason))?;
            if self.by_subject.insert(subject.into_inner(), quota).is_some() {
                return Err(bad(offset, &field, "has a quota already".to_owned()));
            }
        }
        for (element, group) in wire.groups.into_iter().enumerate() {
            let (offset, field) = (group.span().start, format!(".groups[{element}]"));
            if self.by_group.insert(group.into_inner(), quota).is_some() {
                return Err(bad(offset, &field, "has a quota already".to_owned()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::Policy;
    use super::super::principal::Via;
    use super::*;

    fn principal(subject: &str, groups: &[&str]) -> Principal {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        Principal { subject: subject.to_owned(), groups, via: Via::Jwt, until: None }
    }

    /// The name wins over groups, of which the most generous counts; what is not said follows the
    /// settings.
    #[test]
    fn the_nearest_quota_counts() {
        let policy = Policy::parse(
            "[[quotas]]\nsubjects = [\"loader\"]\nmutations_per_s = 0\n\
             [[quotas]]\ngroups = [\"devices\"]\ncommits_per_s = 2\n\
             [[quotas]]\ngroups = [\"services\"]\ncommits_per_s = 50\nmutations_per_s = 9\n",
        )
        .unwrap();
        let settings = Pace { commits_per_s: 5, mutations_per_s: 100 };
        for (subject, groups, commits_per_s, mutations_per_s) in [
            ("alice", &[][..], 5, 100),
            ("loader", &["devices"], 5, 0),
            ("phone", &["devices"], 2, 100),
            ("both", &["devices", "services", "others"], 50, 9),
        ] {
            let rights = policy.rights(&principal(subject, groups), None);
            let pace = rights.quota().over(settings);
            assert_eq!(pace, Pace { commits_per_s, mutations_per_s }, "{subject}");
        }
    }

    /// G11: a quota that makes no sense is refused with its line and field.
    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, expected) in [
            ("[[quotas]]\ncommits_per_s = 1\n", "line 1: quotas[0]: is nobody's"),
            ("[[quotas]]\nsubjects = [\"a\"]\n", "line 1: quotas[0]: says nothing"),
            ("[[quotas]]\nsubjects = [\"\"]\ncommits_per_s = 1\n", "line 2: quotas[0].subjects[0]"),
            (
                "[[quotas]]\nsubjects = [\"a\", \"a\"]\ncommits_per_s = 1\n",
                "line 2: quotas[0].subjects[1]: has a quota already",
            ),
            (
                "[[quotas]]\ngroups = [\"a\"]\nmutations_per_s = 1_000_000_001\n",
                "line 1: quotas[0].mutations_per_s: 1000000001, must be 0 to",
            ),
            ("[[quotas]]\ngroups = [\"a\"]\ncommits = 1\n", "line 3: unknown field"),
        ] {
            let error = Policy::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
