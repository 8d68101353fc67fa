//! Followers: what the inboxes of a server must say, whatever happened to it. Only what a client may
//! know counts: entries of the inbox, and what a pull says besides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use sync_proto::convert::{decode_change, decode_inbox_entry};
use sync_proto::types::{
    ChangeKind, CollectionName, Diffusion, InboxEntry, Outcome, Pull, Subject, Target, Timestamp,
};

use crate::server::Server;

/// Subjects that follow something now and then.
pub(crate) const SUBJECTS: usize = 4;

/// One of them.
pub(crate) fn subject(number: usize) -> Subject {
    Subject::new(&format!("s/{number}")).expect("well-formed")
}

impl Server {
    /// Who follows what, as operators see it.
    pub(crate) fn follows(&self) -> BTreeSet<(Subject, CollectionName)> {
        let mut follows = BTreeSet::new();
        for number in 0..SUBJECTS {
            let subject = subject(number);
            let mut token = Bytes::new();
            loop {
                let (names, next) =
                    self.ledger.list_follows(&subject, 2, token).expect("reads never fail");
                follows.extend(names.into_iter().map(|name| (subject.clone(), name)));
                token = next;
                if token.is_empty() {
                    break;
                }
            }
        }
        follows
    }

    /// What a subject learns by one pull of its inbox: entries, and what is said besides.
    fn learn(&self, subject: &Subject) -> [BTreeMap<CollectionName, InboxEntry>; 2] {
        let targets = vec![Ok(Target::all(subject.inbox(), None))];
        let client_id = String::new();
        let pull = Pull { targets, bytes_max: 1 << 20, changes_max: 1_000, client_id };
        let answer = self.ledger.pull(&pull, 0, |_| true, &AtomicBool::new(false)).remove(0);
        assert!(!answer.polled.more, "few names are followed");
        let polled = answer.polled.heads.into_iter().map(|head| (head.collection, head.entry));
        let mut entries = BTreeMap::new();
        let outcome = answer.outcome.expect("reads never fail");
        if let Outcome::Delta(delta) = outcome {
            for change in delta.changes {
                let change = decode_change(change).expect("the server's own bytes");
                let ChangeKind::Put { value: Some(value), .. } = change.kind else { continue };
                let name = std::str::from_utf8(change.key.as_bytes()).expect("a name");
                let name = CollectionName::new(name).expect("a name");
                entries.insert(name, decode_inbox_entry(&value).expect("an entry"));
            }
        } else {
            assert!(matches!(outcome, Outcome::NotFound), "{outcome:?}");
        }
        [entries, polled.collect()]
    }

    /// G1, G4: each subject has an entry for what it follows and for nothing else; entries and what
    /// is said besides say where everything stands; and of what is written to followers the entry
    /// alone does.
    pub(crate) fn check_inboxes(&self, follows: &BTreeSet<(Subject, CollectionName)>) {
        let heads = self.heads();
        for number in 0..SUBJECTS {
            let subject = subject(number);
            let [entries, polled] = self.learn(&subject);
            let followed: BTreeSet<_> = entries.keys().cloned().collect();
            let wanted = follows.iter().filter(|(who, _)| *who == subject);
            assert_eq!(followed, wanted.map(|(_, name)| name.clone()).collect(), "{subject}");
            assert!(polled.keys().all(|name| followed.contains(name)), "{subject}: {polled:?}");
            for (name, entry) in entries {
                let head = heads.get(&name).map(|head| (head.epoch, head.version));
                let told = polled.get(&name).copied().unwrap_or(entry);
                assert_eq!(told.stands_at(), head, "{subject} at {name}");
                let seen = self.ledger.inspect(&name, Timestamp::default());
                let seen = seen.expect("reads never fail").and_then(|seen| seen.diffusion);
                if seen == Some(Diffusion::Write) {
                    assert_eq!(entry.stands_at(), head, "{subject} at {name}, which is written");
                }
            }
        }
    }
}
