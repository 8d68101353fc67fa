//! What principals may do: grants of rights, deny by default. Pure: the text of a policy file in,
//! checked rules or an error with a line and a field out; a principal in, its rights out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use sync_proto::types::CollectionName;
use toml::Spanned;

use super::pattern::Pattern;
use super::principal::{Principal, Via, check_subject};
use super::quotas::{Quota, QuotaWire, Quotas};
use super::stored::{StoredQuota, StoredWire};
use super::tokens::{self, Token, TokenConfig, TokenHash};

#[cfg(test)]
mod tests;

/// Entries of one list of a policy file: far more than anybody writes by hand.
const ENTRIES_MAX: usize = 100_000;

/// What somebody may do with a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// See it and what it holds.
    Read,
    /// Change it, and say who follows it.
    Write,
    /// Follow it oneself.
    Follow,
    /// Inspect it and how it is kept.
    Admin,
}

/// Rights, given together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the verbs are documented")]
pub struct Grant {
    pub read: Vec<Pattern>,
    pub write: Vec<Pattern>,
    pub follow: Vec<Pattern>,
    pub admin: Vec<Pattern>,
}

/// Everything that one principal may do.
#[derive(Debug, Clone)]
pub enum Rights {
    /// Everything: nobody is asked who it is.
    Everything,
    /// What these grants cover.
    Granted {
        /// Stands for `{subject}`.
        subject: String,
        /// All that apply.
        grants: Vec<Arc<Grant>>,
        /// How much may be written in a second, where that is not left to the settings.
        quota: Quota,
    },
}

/// A checked policy file.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    grants: Vec<(Option<Vec<Via>>, Arc<Grant>)>,
    by_subject: HashMap<String, Vec<usize>>,
    by_group: HashMap<String, Vec<usize>>,
    of_anyone: Vec<usize>,
    revoked_subjects: HashSet<String>,
    revoked_ids: HashSet<String>,
    /// Names of certificates, and who they are.
    identities: HashMap<String, Identity>,
    quotas: Quotas,
    /// How much may be stored where.
    pub(crate) stored: Arc<[StoredQuota]>,
    pub(crate) tokens: HashMap<TokenHash, Token>,
}

/// Who the owner of a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) subject: String,
    pub(crate) groups: Vec<String>,
}

/// A policy file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPolicy {
    /// It is no TOML, or holds what a policy does not have. Quotes nothing of the file.
    #[error("line {line}: {reason}")]
    Unreadable {
        /// Where.
        line: usize,
        /// What the matter is.
        reason: String,
    },
    /// A part of it makes no sense.
    #[error("line {line}: {field}: {reason}")]
    Field {
        /// Where.
        line: usize,
        /// Which.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A token of it makes no sense.
    #[error(transparent)]
    Token(#[from] tokens::BadToken),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct FileWire {
    grants: Vec<Spanned<GrantWire>>,
    tokens: Vec<TokenConfig>,
    identities: Vec<IdentityWire>,
    quotas: Vec<Spanned<QuotaWire>>,
    stored: Vec<Spanned<StoredWire>>,
    revoked: RevokedWire,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GrantWire {
    anyone: bool,
    subjects: Vec<Spanned<String>>,
    groups: Vec<Spanned<String>>,
    via: Option<Vec<Via>>,
    read: Vec<Spanned<String>>,
    write: Vec<Spanned<String>>,
    follow: Vec<Spanned<String>>,
    admin: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityWire {
    name: Spanned<String>,
    subject: Spanned<String>,
    #[serde(default)]
    groups: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RevokedWire {
    subjects: Vec<String>,
    token_ids: Vec<String>,
}

// === impl Policy ===

impl Policy {
    /// Checks the text of a policy file.
    pub fn parse(text: &str) -> Result<Self, BadPolicy> {
        let wire: FileWire = toml::from_str(text).map_err(|error| BadPolicy::Unreadable {
            line: error.span().map_or(1, |span| line_of(text, span.start)),
            reason: unquoted(error.message()),
        })?;
        let mut policy = Self { tokens: tokens::check(&wire.tokens)?, ..Self::default() };
        policy.stored = StoredQuota::check(text, wire.stored)?.into();
        policy.revoked_subjects = wire.revoked.subjects.into_iter().collect();
        policy.revoked_ids = wire.revoked.token_ids.into_iter().collect();
        for (index, grant) in wire.grants.into_iter().enumerate() {
            policy.grant(text, index, grant)?;
        }
        for (index, identity) in wire.identities.into_iter().enumerate() {
            policy.identify(text, index, identity)?;
        }
        for (index, quota) in wire.quotas.into_iter().enumerate() {
            policy.quotas.add(text, index, quota)?;
        }
        Ok(policy)
    }

    /// What a principal may do; `own`: what its token gives by itself.
    #[must_use]
    pub fn rights(&self, principal: &Principal, own: Option<&Arc<Grant>>) -> Rights {
        let none = Vec::new();
        let by_subject = self.by_subject.get(&principal.subject).unwrap_or(&none);
        let by_group = principal.groups.iter().filter_map(|group| self.by_group.get(group));
        let indices = by_subject.iter().chain(by_group.flatten()).chain(&self.of_anyone);
        let mut found: Vec<usize> = indices.copied().collect();
        found.sort_unstable();
        found.dedup();
        let applies = |index: usize| {
            let (via, grant) = &self.grants[index];
            let fits = via.as_ref().is_none_or(|allowed| allowed.contains(&principal.via));
            fits.then(|| Arc::clone(grant))
        };
        let grants = found.into_iter().filter_map(applies).chain(own.cloned()).collect();
        let quota = self.quotas.of(principal);
        Rights::Granted { subject: principal.subject.clone(), grants, quota }
    }

    /// Whether nobody of this name, or with a token of this id, is let in.
    #[must_use]
    pub fn is_revoked(&self, subject: &str, token_id: Option<&str>) -> bool {
        self.revoked_subjects.contains(subject)
            || token_id.is_some_and(|id| self.revoked_ids.contains(id))
    }

    /// Who the owner of a certificate with this name is, if the policy says so.
    pub(crate) fn identity(&self, name: &str) -> Option<&Identity> {
        self.identities.get(name)
    }

    fn grant(
        &mut self,
        text: &str,
        index: usize,
        spanned: Spanned<GrantWire>,
    ) -> Result<(), BadPolicy> {
        let line = line_of(text, spanned.span().start);
        let wire = spanned.into_inner();
        let bad = |line, field: &str, reason: &str| {
            Err(BadPolicy::Field {
                line,
                field: format!("grants[{index}]{field}"),
                reason: reason.to_owned(),
            })
        };
        if index >= ENTRIES_MAX {
            return bad(line, "", &format!("{ENTRIES_MAX} of them are allowed"));
        }
        if !wire.anyone && wire.subjects.is_empty() && wire.groups.is_empty() {
            return bad(line, "", "is given to nobody: set anyone, subjects or groups");
        }
        if wire.via.as_ref().is_some_and(Vec::is_empty) {
            return bad(line, ".via", "names no way to prove anything");
        }
        for (element, subject) in wire.subjects.iter().enumerate() {
            if let Err(reason) = check_subject(subject.get_ref()) {
                let line = line_of(text, subject.span().start);
                return bad(line, &format!(".subjects[{element}]"), &reason);
            }
        }
        let grant = Grant {
            read: patterns(text, index, "read", &wire.read)?,
            write: patterns(text, index, "write", &wire.write)?,
            follow: patterns(text, index, "follow", &wire.follow)?,
            admin: patterns(text, index, "admin", &wire.admin)?,
        };
        if grant == Grant::default() {
            return bad(line, "", "gives nothing: set read, write, follow or admin");
        }
        let place = self.grants.len();
        self.grants.push((wire.via, Arc::new(grant)));
        for subject in wire.subjects {
            self.by_subject.entry(subject.into_inner()).or_default().push(place);
        }
        for group in wire.groups {
            self.by_group.entry(group.into_inner()).or_default().push(place);
        }
        if wire.anyone {
            self.of_anyone.push(place);
        }
        Ok(())
    }

    fn identify(&mut self, text: &str, index: usize, wire: IdentityWire) -> Result<(), BadPolicy> {
        let bad = |place: &Spanned<String>, field: &str, reason: String| BadPolicy::Field {
            line: line_of(text, place.span().start),
            field: format!("identities[{index}].{field}"),
            reason,
        };
        check_subject(wire.subject.get_ref())
            .map_err(|reason| bad(&wire.subject, "subject", reason))?;
        if wire.name.get_ref().is_empty() {
            return Err(bad(&wire.name, "name", "must not be empty".to_owned()));
        }
        let identity = Identity { subject: wire.subject.into_inner(), groups: wire.groups };
        let name = wire.name.get_ref().clone();
        if self.identities.insert(name, identity).is_some() {
            return Err(bad(&wire.name, "name", "stands in an earlier entry too".to_owned()));
        }
        Ok(())
    }
}

fn patterns(
    text: &str,
    index: usize,
    right: &str,
    wire: &[Spanned<String>],
) -> Result<Vec<Pattern>, BadPolicy> {
    let parse = |(element, pattern): (usize, &Spanned<String>)| {
        Pattern::parse(pattern.get_ref()).map_err(|reason| BadPolicy::Field {
            line: line_of(text, pattern.span().start),
            field: format!("grants[{index}].{right}[{element}]"),
            reason,
        })
    };
    wire.iter().enumerate().map(parse).collect()
}

pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.get(..offset).unwrap_or(text).matches('\n').count()
}

/// What a message of the parser says, without what it quotes of the file: that may be a name, or a
/// secret in the wrong place. What it would rather have read is ours.
fn unquoted(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let (said, expected) = line.split_at(line.find(", expected").unwrap_or(line.len()));
    let first = said.find(['`', '"']).unwrap_or(said.len());
    format!("{}{expected}", said[..first].trim_end())
}

// === impl Rights ===

impl Rights {
    /// Whether the collection is covered.
    #[must_use]
    pub fn allows(&self, verb: Verb, name: &CollectionName) -> bool {
        match self {
            Self::Everything => true,
            Self::Granted { subject, grants, .. } => grants
                .iter()
                .flat_map(|grant| grant.of(verb))
                .any(|pattern| pattern.covers(subject, name)),
        }
    }

    /// Beginnings of names: whatever is covered begins with one of them. Sorted, none begins with
    /// another.
    #[must_use]
    pub fn stems(&self, verb: Verb) -> Vec<String> {
        let Self::Granted { subject, grants, .. } = self else { return vec![String::new()] };
        let patterns = grants.iter().flat_map(|grant| grant.of(verb));
        let mut stems: Vec<String> = patterns.filter_map(|one| one.stem(subject)).collect();
        stems.sort_unstable();
        // Whatever begins with one comes right behind it.
        stems.dedup_by(|later, first| later.starts_with(first.as_str()));
        stems
    }

    /// Whether every collection is covered, also those that do not exist: what concerns the server
    /// as a whole needs that.
    #[must_use]
    pub fn allows_all(&self, verb: Verb) -> bool {
        match self {
            Self::Everything => true,
            Self::Granted { grants, .. } => {
                let mut patterns = grants.iter().flat_map(|grant| grant.of(verb));
                patterns.any(|pattern| *pattern == Pattern::Everything)
            }
        }
    }

    /// Whether anything at all is covered.
    #[must_use]
    pub fn allows_any(&self, verb: Verb) -> bool {
        match self {
            Self::Everything => true,
            Self::Granted { grants, .. } => grants.iter().any(|grant| !grant.of(verb).is_empty()),
        }
    }
}

// === impl Rights, quotas ===

impl Rights {
    /// What the policy says of how much may be written in a second.
    #[must_use]
    pub fn quota(&self) -> Quota {
        match self {
            Self::Everything => Quota::default(),
            Self::Granted { quota, .. } => *quota,
        }
    }
}

// === impl Grant ===

impl Grant {
    fn of(&self, verb: Verb) -> &[Pattern] {
        match verb {
            Verb::Read => &self.read,
            Verb::Write => &self.write,
            Verb::Follow => &self.follow,
            Verb::Admin => &self.admin,
        }
    }
}
