//! Which collections a right is about. Pure.
//!
//! ```text
//!   *                 every collection
//!   groups            groups and everything below groups/, not groups2
//!   groups/*/members  one segment, whichever it is, in the middle of a name
//!   inbox/{subject}   the caller's own, and exactly that: what is below it is somebody else's
//! ```

use sync_proto::types::{CollectionName, Subject};

/// Covers every collection, when it stands alone; any one segment within a name.
const ANY: &str = "*";
/// The subject of whoever calls.
const CALLER: &str = "{subject}";
/// The first segment of every inbox.
const INBOX: &str = "inbox";

/// A checked pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// Everything.
    Everything,
    /// The names that fit, and what is below them.
    Names(Vec<Segment>),
}

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// This segment.
    Literal(String),
    /// Whatever segment.
    Any,
    /// The caller's subject.
    Caller,
}

// === impl Pattern ===

impl Pattern {
    /// Checks a pattern; the error says what is wrong without repeating it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == ANY {
            return Ok(Self::Everything);
        }
        // `teams/` is another way to write `teams`.
        let names = text.strip_suffix('/').unwrap_or(text);
        let segment = |part: &str| match part {
            ANY => Ok(Segment::Any),
            CALLER => Ok(Segment::Caller),
            _ if part.contains('*') => Err("\"*\" stands only for a whole segment".to_owned()),
            _ if part.contains(['{', '}']) => {
                Err("of braces there is only the segment {subject}".to_owned())
            }
            _ => Ok(Segment::Literal(part.to_owned())),
        };
        // What a name may not be, a pattern that could only fit such names may not be either.
        CollectionName::new(names).map_err(|error| error.reason)?;
        let segments = names.split('/').map(segment).collect::<Result<Vec<_>, _>>()?;
        if segments.last() == Some(&Segment::Any) {
            return Err("\"*\" at the end: a name covers what is below it by itself".to_owned());
        }
        Ok(Self::Names(segments))
    }

    /// What all names begin with that are covered for a caller with this subject; `None` = none is.
    #[must_use]
    pub fn stem(&self, subject: &str) -> Option<String> {
        let Self::Names(segments) = self else { return Some(String::new()) };
        let exact = is_own_inbox(segments);
        let mut stem = String::new();
        for (index, segment) in segments.iter().enumerate() {
            if index > 0 {
                stem.push('/');
            }
            match segment {
                Segment::Literal(literal) => stem.push_str(literal),
                Segment::Any => break,
                Segment::Caller if names_one(subject, exact) => stem.push_str(subject),
                Segment::Caller => return None,
            }
        }
        Some(stem)
    }

    /// Whether a collection is covered, for a caller with this subject.
    #[must_use]
    pub fn covers(&self, subject: &str, name: &CollectionName) -> bool {
        match self {
            Self::Everything => true,
            Self::Names(segments) => {
                let exact = is_own_inbox(segments);
                fits(segments, exact, subject, name.as_str()).unwrap_or(false)
            }
        }
    }
}

/// `inbox/a/b` is the inbox of the subject `a/b` and no part of that of `a`.
fn is_own_inbox(segments: &[Segment]) -> bool {
    let inbox = matches!(segments.first(), Some(Segment::Literal(first)) if first == INBOX);
    inbox && segments.last() == Some(&Segment::Caller)
}

fn fits(segments: &[Segment], exact: bool, subject: &str, name: &str) -> Option<bool> {
    let mut rest = name;
    for (index, segment) in segments.iter().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix('/')?;
        }
        rest = match segment {
            Segment::Literal(literal) => rest.strip_prefix(literal.as_str())?,
            Segment::Any => &rest[rest.find('/').unwrap_or(rest.len())..],
            Segment::Caller if names_one(subject, exact) => rest.strip_prefix(subject)?,
            Segment::Caller => return None,
        };
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
    }
    Some(rest.is_empty() || !exact)
}

/// Whether a subject can stand in a name without standing for anybody else: `a/b` below `users/`
/// would be a part of what `a` has there.
fn names_one(subject: &str, exact: bool) -> bool {
    Subject::new(subject).is_ok() && (exact || !subject.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, subject: &str, name: &str) -> bool {
        Pattern::parse(pattern).unwrap().covers(subject, &CollectionName::new(name).unwrap())
    }

    /// G10: a name covers itself and what is below it, and no name that merely begins alike.
    #[test]
    fn rights_end_at_segments() {
        for (pattern, name, covered) in [
            ("*", "anything/at/all", true),
            ("groups", "groups", true),
            ("groups", "groups/42/members", true),
            ("groups", "groups2", false),
            ("groups/", "groups/42", true),
            ("groups/42", "groups/421", false),
            ("groups/42", "groups", false),
            ("groups/*/members", "groups/42/members", true),
            ("groups/*/members", "groups/42/members/x", true),
            ("groups/*/members", "groups/42/members2", false),
            ("groups/*/members", "groups/4/2/members", false),
            ("groups/*/members", "groups/42", false),
            ("*/members", "groups/members", true),
        ] {
            assert_eq!(covers(pattern, "alice", name), covered, "{pattern} {name}");
        }
    }

    /// G10: whatever is covered begins with the stem.
    #[test]
    fn stems_are_what_covered_names_begin_with() {
        for (pattern, subject, stem) in [
            ("*", "alice", Some("")),
            ("groups", "alice", Some("groups")),
            ("groups/*/members", "alice", Some("groups/")),
            ("*/members", "alice", Some("")),
            ("inbox/{subject}", "alice/phone", Some("inbox/alice/phone")),
            ("users/{subject}/x", "alice", Some("users/alice/x")),
            ("users/{subject}", "alice/phone", None),
        ] {
            let found = Pattern::parse(pattern).unwrap().stem(subject);
            assert_eq!(found.as_deref(), stem, "{pattern} of {subject}");
        }
    }

    /// G10: a user reaches what is the user's own, and nobody else's, whatever subjects are called.
    #[test]
    fn a_subject_stands_for_itself_only() {
        for (pattern, subject, name, covered) in [
            ("inbox/{subject}", "alice", "inbox/alice", true),
            ("inbox/{subject}", "alice", "inbox/alice2", false),
            ("inbox/{subject}", "alice", "inbox/bob", false),
            ("inbox/{subject}", "alice", "inbox", false),
            // The inbox of the subject "alice/phone".
            ("inbox/{subject}", "alice", "inbox/alice/phone", false),
            ("inbox/{subject}", "alice/phone", "inbox/alice/phone", true),
            ("inbox/{subject}", "alice/phone", "inbox/alice", false),
            ("users/{subject}", "alice", "users/alice/lists", true),
            ("users/{subject}", "alice/lists", "users/alice/lists", false),
            ("users/{subject}/lists", "alice", "users/alice/lists/1", true),
            ("users/{subject}/lists", "alice", "users/alice/notes", false),
            // Subjects that would mean more than themselves in a pattern.
            ("users/{subject}", "*", "users/alice", false),
            ("users/{subject}", "{subject}", "users/alice", false),
            ("users/{subject}", "", "users", false),
            ("users/{subject}", "", "users/alice", false),
            ("users/{subject}", "a/", "users/a", false),
            ("users/{subject}", "../bob", "users/bob", false),
            ("users/{subject}", "spiffe://a/b", "users/spiffe:", false),
        ] {
            assert_eq!(covers(pattern, subject, name), covered, "{pattern} {subject} {name}");
        }
    }

    /// G11: what could cover nothing, or something else than was meant, is no pattern.
    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "/",
            "/groups",
            "groups//",
            "a//b",
            "**",
            "groups/*",
            "a*",
            "groups/4*",
            "user-{subject}",
            "{subjects}",
            "{",
            "a\u{7}b",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text:?}");
        }
        for text in ["*", "groups", "teams/", "{subject}", "a/{subject}/b", "a/*/b", "*/b"] {
            Pattern::parse(text).unwrap_or_else(|reason| panic!("{text:?}: {reason}"));
        }
    }
}
