//! Callers, and what becomes of them when the rules change.

use sync_proto::types::Subject;

use super::*;

/// SHA-256 of "secret".
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn alice() -> TokenConfig {
    TokenConfig {
        sha256: SECRET.to_owned(),
        subject: "alice".to_owned(),
        read: vec!["groups".to_owned(), "teams/".to_owned()],
        write: vec!["groups/42".to_owned()],
        admin: false,
    }
}

fn access() -> (Access, AccessControl) {
    Access::new(Rules::of_tokens(&[alice()]).unwrap())
}

fn shows(header: &str) -> Credentials {
    Credentials::of_header(Some(header))
}

fn name(name: &str) -> CollectionName {
    CollectionName::new(name).unwrap()
}

/// G10: a sibling whose name merely begins alike is not covered.
#[test]
fn rights_end_at_segments() {
    let (access, _control) = access();
    let alice = access.identify(shows("Bearer secret")).unwrap();
    for (collection, read, write) in [
        ("groups", true, false),
        ("groups/42", true, true),
        ("groups/42/members", true, true),
        ("groups/421", true, false),
        ("groups2", false, false),
        ("teams/1", true, false),
        ("other", false, false),
    ] {
        assert_eq!(alice.may_read(&name(collection)), read, "read {collection}");
        assert_eq!(alice.may_write(&name(collection)), write, "write {collection}");
        assert!(!alice.may_administer(&name(collection)));
    }
}

#[test]
fn strangers_are_not_let_in() {
    let (access, _control) = access();
    for header in [None, Some("Bearer guess"), Some("Basic secret"), Some("secret"), Some("")] {
        let refused = access.identify(Credentials::of_header(header)).map(|_| ());
        assert_eq!(refused, Err(AccessError::Unauthenticated), "{header:?}");
    }
}

#[test]
fn without_tokens_everything_is_open() {
    let (access, _control) = Access::new(Rules::of_tokens(&[]).unwrap());
    let anybody = access.identify(Credentials::default()).unwrap();
    assert!(access.is_open() && anybody.may_read(&name("a")) && anybody.may_write(&name("a")));
    assert!(anybody.may_administer(&name("a")));
}

/// G10: to follow is to follow oneself; who follows at the word of others is decided by those who
/// may write.
#[test]
fn the_right_to_follow_is_for_oneself() {
    let (access, control) = access();
    let policy = "[[grants]]\nanyone = true\nfollow = [\"groups\"]";
    control.change(|rules| rules.policy = Policy::parse(policy).unwrap());
    let alice = access.identify(shows("Bearer secret")).unwrap();
    let follow = |collection: &str, who: &str| Mutation {
        collection: name(collection),
        op: Op::Follow { subject: Subject::new(who).unwrap() },
    };
    assert!(alice.may_change(&follow("groups/7", "alice")));
    assert!(!alice.may_change(&follow("groups/7", "bob")));
    assert!(alice.may_change(&follow("groups/42", "bob")), "who writes decides who follows");
    assert!(!alice.may_change(&follow("other", "alice")));
}

/// G10: whoever is being served is judged by the rules in force, and hears when they change.
#[tokio::test]
async fn a_caller_is_judged_by_the_rules_in_force() {
    let (access, control) = access();
    let alice = access.identify(shows("Bearer secret")).unwrap();
    let mut seen = alice.seen();
    assert!(alice.may_read(&name("groups/1")));
    let narrower = TokenConfig { read: vec!["teams".to_owned()], ..alice_of("alice") };
    control.change(|rules| rules.tokens = tokens::check(&[narrower]).unwrap());
    alice.moved(&mut seen).await;
    assert!(!alice.may_read(&name("groups/1")) && alice.may_read(&name("teams/1")));
    // The same token of somebody else is no proof of having been the first.
    control.change(|rules| rules.tokens = tokens::check(&[alice_of("bob")]).unwrap());
    assert_eq!(alice.ended().await, AccessError::Unauthenticated);
    control.change(|rules| rules.tokens = tokens::check(&[alice_of("alice")]).unwrap());
    assert!(alice.may_read(&name("groups/1")));
    let revoked = Policy::parse("[revoked]\nsubjects = [\"alice\"]").unwrap();
    control.change(|rules| rules.policy = revoked);
    assert_eq!(alice.ended().await, AccessError::Unauthenticated);
    assert!(access.identify(shows("Bearer secret")).is_err());
}

fn alice_of(subject: &str) -> TokenConfig {
    TokenConfig { subject: subject.to_owned(), ..alice() }
}

/// Credentials never show themselves.
#[test]
fn credentials_are_not_printed() {
    let (access, _control) = access();
    let credentials = shows("Bearer secret");
    let caller = access.identify(credentials.clone()).unwrap();
    let shown = format!("{credentials:?} {caller:?} {access:?}");
    assert!(!shown.contains("secret") && !shown.contains("alice"), "{shown}");
}
