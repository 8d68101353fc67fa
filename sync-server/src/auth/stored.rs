//! How many bytes may be stored below a name, as the policy file says. Whose bytes they are follows
//! from where they are, not from who wrote them: what is below `users/alice` is alice's. Pure.

use serde::Deserialize;
use sync_proto::types::CollectionName;
use toml::Spanned;

use super::policy::{BadPolicy, line_of};

/// Stands for any one segment: each value of it has the quota for itself.
const ANY: &str = "*";

/// Entries of a policy file: each is looked at by every commit.
const ENTRIES_MAX: usize = 100;

/// How many bytes of live items there may be below each name that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredQuota {
    /// `None` = any one segment.
    segments: Vec<Option<String>>,
    /// Keys, sort keys and values of all collections there together.
    pub bytes_max: u64,
}

/// An entry of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredWire {
    below: String,
    bytes_max: u64,
}

// === impl StoredQuota ===

impl StoredQuota {
    /// The name that the quota is of, if the collection is that or below it.
    #[must_use]
    pub fn root<'n>(&self, name: &'n CollectionName) -> Option<&'n str> {
        let name = name.as_str();
        let (mut end, mut rest) = (0, Some(name));
        for segment in &self.segments {
            let text = rest?;
            let (first, behind) = match text.split_once('/') {
                Some((first, behind)) => (first, Some(behind)),
                None => (text, None),
            };
            if segment.as_ref().is_some_and(|literal| literal != first) {
                return None;
            }
            end += first.len() + usize::from(end > 0);
            rest = behind;
        }
        Some(&name[..end])
    }

    /// Takes up the entries of a file.
    pub(super) fn check(
        text: &str,
        entries: Vec<Spanned<StoredWire>>,
    ) -> Result<Vec<Self>, BadPolicy> {
        let check = |(index, entry): (usize, Spanned<StoredWire>)| {
            let line = line_of(text, entry.span().start);
            let bad = |field: &str, reason: String| BadPolicy::Field {
                line,
                field: format!("stored[{index}]{field}"),
                reason,
            };
            if index >= ENTRIES_MAX {
                return Err(bad("", format!("{ENTRIES_MAX} of them are allowed")));
            }
            let StoredWire { below, bytes_max } = entry.into_inner();
            CollectionName::new(&below).map_err(|error| bad(".below", error.reason))?;
            let segment = |part: &str| (part != ANY).then(|| part.to_owned());
            let segments: Vec<_> = below.split('/').map(segment).collect();
            if segments.iter().flatten().any(|part| part.contains(['*', '{', '}'])) {
                let reason = "\"*\" stands only for a whole segment, and there are no others";
                return Err(bad(".below", reason.to_owned()));
            }
            Ok(Self { segments, bytes_max })
        };
        entries.into_iter().enumerate().map(check).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::Policy;
    use super::*;

    fn quotas(below: &str) -> Result<Vec<StoredQuota>, BadPolicy> {
        let text = format!("[[stored]]\nbelow = \"{below}\"\nbytes_max = 9\n");
        Policy::parse(&text).map(|policy| policy.stored.to_vec())
    }

    /// Bytes belong to the name that they are below, and to no name that merely begins alike.
    #[test]
    fn bytes_belong_where_they_are() {
        for (below, name, root) in [
            ("users/*", "users/alice/lists/1", Some("users/alice")),
            ("users/*", "users/alice", Some("users/alice")),
            ("users/*", "users", None),
            ("users/*", "users2/alice", None),
            ("tenants/acme", "tenants/acme/a", Some("tenants/acme")),
            ("tenants/acme", "tenants/acme2", None),
            ("*/private", "a/private/b", Some("a/private")),
            ("*/private", "a/b/private", None),
            ("*", "any/thing", Some("any")),
        ] {
            let quota = quotas(below).unwrap().remove(0);
            assert_eq!(quota.root(&CollectionName::new(name).unwrap()), root, "{below} {name}");
        }
    }

    /// G11: a quota that could be of nothing is refused with its line and field.
    #[test]
    fn what_makes_no_sense_is_refused() {
        for below in ["", "/users", "a//b", "users/a*", "users/{subject}"] {
            let error = quotas(below).unwrap_err().to_string();
            assert!(error.starts_with("line 1: stored[0].below: "), "{error}");
        }
    }
}
