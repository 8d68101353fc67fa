//! Policies, decided and refused.

use super::*;

const POLICY: &str = r#"
[[grants]]
anyone = true
read = ["public", "inbox/{subject}"]

[[grants]]
subjects = ["alice"]
read = ["groups"]
write = ["groups/42"]
follow = ["groups"]

[[grants]]
groups = ["operators"]
via = ["certificate"]
admin = ["*"]

[[grants]]
groups = ["keepers"]
admin = ["groups"]

[[identities]]
name = "spiffe://prod/edge"
subject = "edge"
groups = ["operators"]

[revoked]
subjects = ["mallory"]
token_ids = ["7"]
"#;

fn principal(subject: &str, groups: &[&str], via: Via) -> Principal {
    let groups = groups.iter().map(|&group| group.to_owned()).collect();
    Principal { subject: subject.to_owned(), groups, via, until: None }
}

fn allows(rights: &Rights, verb: Verb, name: &str) -> bool {
    rights.allows(verb, &CollectionName::new(name).unwrap())
}

/// G10: what is not granted is denied; grants to everybody, to a subject and to groups add up.
#[test]
fn rights_are_the_sum_of_grants_and_nothing_else() {
    let policy = Policy::parse(POLICY).unwrap();
    let alice = policy.rights(&principal("alice", &[], Via::Jwt), None);
    for (verb, name, allowed) in [
        (Verb::Read, "public/news", true),
        (Verb::Read, "inbox/alice", true),
        (Verb::Read, "inbox/bob", false),
        (Verb::Read, "groups/7", true),
        (Verb::Write, "groups/42", true),
        (Verb::Write, "groups/7", false),
        (Verb::Follow, "groups/7", true),
        (Verb::Follow, "public/news", false),
        (Verb::Admin, "groups/42", false),
        (Verb::Read, "groups2", false),
    ] {
        assert_eq!(allows(&alice, verb, name), allowed, "{verb:?} {name}");
    }
    let bob = policy.rights(&principal("bob", &[], Via::Token), None);
    assert!(allows(&bob, Verb::Read, "inbox/bob") && !allows(&bob, Verb::Read, "groups/7"));
    assert!(!bob.allows_any(Verb::Write) && !bob.allows_all(Verb::Read));
}

/// G10: a grant can ask for a certain proof; to administer a part is not to administer the whole.
#[test]
fn a_grant_counts_only_for_the_proof_that_it_names() {
    let policy = Policy::parse(POLICY).unwrap();
    let rights = |group, via| policy.rights(&principal("edge", &[group], via), None);
    assert!(rights("operators", Via::Certificate).allows_all(Verb::Admin));
    assert!(!rights("operators", Via::Jwt).allows_any(Verb::Admin));
    let keeper = rights("keepers", Via::Jwt);
    assert!(allows(&keeper, Verb::Admin, "groups/1") && !keeper.allows_all(Verb::Admin));
    assert!(policy.identity("spiffe://prod/edge").is_some());
    assert!(policy.identity("spiffe://prod/edge2").is_none());
}

#[test]
fn revoked_is_who_is_named() {
    let policy = Policy::parse(POLICY).unwrap();
    assert!(policy.is_revoked("mallory", None) && policy.is_revoked("alice", Some("7")));
    assert!(!policy.is_revoked("alice", Some("8")) && !policy.is_revoked("alice", None));
}

/// G11: whatever is wrong is named with line and field, and nothing of the file is quoted.
#[test]
fn what_makes_no_sense_is_named_with_its_line() {
    for (text, expected) in [
        ("grants = 1", "line 1: "),
        ("\n[[grants]]\nanyone = true\nreed = [\"a\"]", "line 4: unknown field"),
        ("[[grants]]\nread = [\"a\"]", "line 1: grants[0]: is given to nobody"),
        ("[[grants]]\nanyone = true", "line 1: grants[0]: gives nothing"),
        (
            "[[grants]]\nanyone = true\nread = [\n\"ok\",\n\"se//cret\"]",
            "line 5: grants[0].read[1]: ",
        ),
        ("[[grants]]\nsubjects = [\"\"]\nread = [\"a\"]", "line 2: grants[0].subjects[0]: 0 bytes"),
        ("[[grants]]\nanyone = true\nvia = []\nread = [\"a\"]", "line 1: grants[0].via: names no"),
        ("[[grants]]\nanyone = true\nvia = [\"guess\"]\nread = [\"a\"]", "line 3: unknown variant"),
        ("[[identities]]\nname = \"\"\nsubject = \"a\"", "line 2: identities[0].name: must not"),
        ("[[identities]]\nname = \"a\"", "line 1: missing field"),
        ("[[tokens]]\nsha256 = \"zz\"\nsubject = \"a\"", "tokens[0].sha256: must be 64"),
        ("[revoked]\nsubject = [\"a\"]", "line 2: unknown field"),
        ("secret", "line 1: "),
        ("[revoked]\nsubjects = \"secret\"", "line 2: invalid type: string, expected a sequence"),
        (
            "[[grants]]\nanyone = true\nvia = [\"secret\"]",
            "line 3: unknown variant, expected one of",
        ),
        ("[[grants]]\nsecret = 1", "line 2: unknown field, expected one of"),
    ] {
        let error = Policy::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
        assert!(!error.contains("secret") && !error.contains("se//cret"), "{error}");
    }
    Policy::parse("").unwrap();
}
