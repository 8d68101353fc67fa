//! A subject's device, as simple as it can be: what it knows of what it follows, from pulls of its
//! inbox or from a stream of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use sync_proto::convert::{decode_inbox_entry, polled};
use sync_proto::types::{
    ChangeKind, CollectionName, Cursor, Delta, Event, InboxEntry, Outcome, Polled, Subject, Target,
};
use sync_proto::v1;
use sync_tests::stream::Events;
use sync_tests::wait::within;
use sync_tests::wire::Wire;

/// A subject's device.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) subject: Subject,
    pub(crate) cursor: Option<Cursor>,
    /// What the entries say.
    pub(crate) entries: BTreeMap<CollectionName, InboxEntry>,
    /// What was said besides, of collections that moved on since their entries were written.
    pub(crate) besides: BTreeMap<CollectionName, InboxEntry>,
    pub(crate) notices: u64,
    pub(crate) changes: u64,
}

impl Inbox {
    pub(crate) fn of(subject: &str) -> Self {
        Self {
            subject: Subject::new(subject).unwrap(),
            cursor: None,
            entries: BTreeMap::new(),
            besides: BTreeMap::new(),
            notices: 0,
            changes: 0,
        }
    }

    pub(crate) fn target(&self) -> Target {
        Target::all(self.subject.inbox(), self.cursor)
    }

    /// What it believes of a collection.
    pub(crate) fn knows(&self, name: &CollectionName) -> Option<InboxEntry> {
        self.besides.get(name).or_else(|| self.entries.get(name)).copied()
    }

    /// Pulls until there is nothing more; all that was polled.
    pub(crate) async fn pull(&mut self, wire: &Wire) -> Vec<Polled> {
        let mut all = Vec::new();
        loop {
            let (outcome, polled) = pull_inbox(wire, self.target(), 0).await;
            let done = match outcome {
                Outcome::Aligned(head) => {
                    self.cursor = Some(head.cursor());
                    true
                }
                Outcome::Delta(delta) => {
                    let done = !delta.has_more;
                    self.apply(delta);
                    done
                }
                Outcome::NotFound => true,
                Outcome::Reset(_) => {
                    (self.cursor, self.entries) = (None, BTreeMap::new());
                    false
                }
                Outcome::Denied | Outcome::Deferred(_) | Outcome::Failed(_) => {
                    panic!("{outcome:?}")
                }
            };
            // What is said besides is newer than the delta.
            for head in &polled.heads {
                self.besides.insert(head.collection.clone(), head.entry);
            }
            all.push(polled);
            if done {
                return all;
            }
        }
    }

    pub(crate) fn apply(&mut self, delta: Delta) {
        for change in delta.changes {
            let name = std::str::from_utf8(change.key.as_bytes()).unwrap();
            let name = CollectionName::new(name).unwrap();
            self.changes += 1;
            // An entry that changes is newer than what was said besides.
            self.besides.remove(&name);
            match change.kind {
                ChangeKind::Put { value: Some(value), .. } => {
                    self.entries.insert(name, decode_inbox_entry(&value).unwrap());
                }
                ChangeKind::Delete => drop(self.entries.remove(&name)),
                other @ (ChangeKind::Put { value: None, .. } | ChangeKind::LeftScope) => {
                    panic!("{other:?}")
                }
            }
        }
        self.cursor = Some(delta.to);
    }

    /// Takes in a message of a stream of the inbox.
    pub(crate) fn hear(&mut self, event: Event) {
        match event {
            Event::Changes(name, delta) => {
                assert_eq!(name, self.subject.inbox());
                self.apply(delta);
            }
            Event::InboxNotice(notice) => {
                assert_eq!(notice.inbox, self.subject.inbox());
                self.notices += 1;
                let entry = notice.head.map_or(InboxEntry::Absent, |head| {
                    InboxEntry::Exists(head.epoch, head.version)
                });
                self.besides.insert(notice.collection, entry);
            }
            Event::CaughtUp(..) | Event::Lagging(..) | Event::Bookmark(..) => {}
            Event::Accepted(..)
            | Event::Notice(..)
            | Event::Reset(..)
            | Event::Absent(_)
            | Event::Revoked(_)
            | Event::Failed(..)
            | Event::Goodbye(_) => panic!("{event:?}"),
        }
    }

    /// Follows a stream until it knows this of a collection.
    pub(crate) async fn hears_of(
        &mut self,
        events: &mut Events,
        name: &CollectionName,
        wanted: impl Fn(Option<InboxEntry>) -> bool,
    ) {
        while !wanted(self.knows(name)) {
            let event = events.next().await;
            self.hear(event);
        }
    }
}

/// Pulls an inbox once.
pub(crate) async fn pull_inbox(wire: &Wire, target: Target, max_bytes: u64) -> (Outcome, Polled) {
    let request = v1::PullRequest { targets: vec![target.into()], max_bytes, ..Default::default() };
    let mut client = wire.sync();
    let reply = within("an inbox to be pulled", client.pull(request)).await.unwrap();
    let outcome = reply.into_inner().outcomes.remove(0);
    let besides = polled(&outcome).unwrap();
    (Outcome::try_from(outcome).unwrap(), besides)
}

/// Everything that an operator is told, page by page of this size.
pub(crate) async fn audience(wire: &Wire, collection: &str, page_size: u32) -> Vec<String> {
    let (mut all, mut page_token) = (Vec::new(), Bytes::new());
    loop {
        let collection = collection.to_owned();
        let request = v1::ListAudienceRequest { collection, page_size, page_token };
        let mut client = wire.admin();
        let page = within("an audience", client.list_audience(request)).await.unwrap().into_inner();
        assert!(page.subjects.len() <= page_size as usize);
        all.extend(page.subjects);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// Likewise, what a subject follows.
pub(crate) async fn follows(wire: &Wire, subject: &str, page_size: u32) -> Vec<String> {
    let (mut all, mut page_token) = (Vec::new(), Bytes::new());
    loop {
        let subject = subject.to_owned();
        let request = v1::ListFollowsRequest { subject, page_size, page_token };
        let mut client = wire.admin();
        let page = within("follows", client.list_follows(request)).await.unwrap().into_inner();
        all.extend(page.collections);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}
