//! Inboxes of the reference server: who follows what, entries that are written with each commit,
//! and heads that are polled instead.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use rand::rngs::StdRng;
use sync_proto::convert::encode_inbox_entry;
use sync_proto::types::{CollectionName, Epoch, InboxEntry, Key, Polled, PolledHead, Version};

use super::{Log, Server};

/// A server with inboxes.
#[derive(Debug, Default)]
pub(crate) struct Inboxes {
    pub(crate) server: Server,
    /// The inboxes of the audience of each name.
    pub(crate) audiences: BTreeMap<CollectionName, BTreeSet<CollectionName>>,
    /// Names that inboxes do not announce.
    pub(crate) hot: BTreeSet<CollectionName>,
    last_lives: BTreeMap<CollectionName, (Epoch, Version)>,
}

/// All of it at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Backup {
    collections: BTreeMap<CollectionName, Log>,
    audiences: BTreeMap<CollectionName, BTreeSet<CollectionName>>,
    last_lives: BTreeMap<CollectionName, (Epoch, Version)>,
}

impl Deref for Inboxes {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Inboxes {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

// === impl Inboxes ===

impl Inboxes {
    /// What is true of a name.
    pub(crate) fn truth(&self, name: &CollectionName) -> InboxEntry {
        match (self.server.collections.get(name), self.last_lives.get(name)) {
            (Some(log), _) => InboxEntry::Exists(log.epoch, log.head),
            (None, Some((epoch, version))) => InboxEntry::Deleted(*epoch, *version),
            (None, None) => InboxEntry::Absent,
        }
    }

    pub(crate) fn follow(&mut self, inbox: &CollectionName, name: &CollectionName) {
        if self.audiences.entry(name.clone()).or_default().insert(inbox.clone()) {
            self.write(inbox, name);
        }
    }

    pub(crate) fn unfollow(&mut self, inbox: &CollectionName, name: &CollectionName) {
        let audience = self.audiences.entry(name.clone()).or_default();
        if audience.remove(inbox) {
            self.server.delete(inbox, key(name));
        }
    }

    pub(crate) fn follows(&self, inbox: &CollectionName) -> BTreeSet<CollectionName> {
        let audiences = self.audiences.iter().filter(|(_, audience)| audience.contains(inbox));
        audiences.map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn commit_to(&mut self, name: &CollectionName, dice: &mut StdRng) {
        self.server.commit(name, dice);
        self.announce(name);
    }

    pub(crate) fn put_in(&mut self, name: &CollectionName, item: &str, value: &str) {
        let (item, value) = (item.to_owned(), value.to_owned());
        self.server.put(name, Key::new(item).unwrap(), Bytes::from(value));
        self.announce(name);
    }

    pub(crate) fn delete_collection(&mut self, name: &CollectionName) {
        if let Some(log) = self.server.collections.remove(name) {
            self.last_lives.insert(name.clone(), (log.epoch, log.head));
            self.announce(name);
        }
    }

    pub(crate) fn new_life(&mut self, name: &CollectionName) {
        self.server.rotate(name);
        self.announce(name);
    }

    /// A collection that cools down is announced to everybody at once.
    pub(crate) fn set_hot(&mut self, name: &CollectionName, hot: bool) {
        if hot {
            self.hot.insert(name.clone());
        } else if self.hot.remove(name) {
            self.announce(name);
        }
    }

    /// What an inbox does not say of those that its subject follows.
    pub(crate) fn polled(
        &self,
        inbox: &CollectionName,
        after: Option<&CollectionName>,
        limit: usize,
    ) -> Polled {
        let hot = self.hot.iter().filter(|name| after.is_none_or(|after| *name > after));
        let mine = hot.filter(|name| self.audiences.get(*name).is_some_and(|a| a.contains(inbox)));
        let news = mine.filter_map(|name| {
            let entry = self.truth(name);
            let said = self.said(inbox, name);
            (said != Some(encode_inbox_entry(entry).to_bytes()))
                .then(|| PolledHead { collection: name.clone(), entry })
        });
        let mut heads: Vec<PolledHead> = news.take(limit + 1).collect();
        let more = heads.len() > limit;
        heads.truncate(limit);
        Polled { heads, more }
    }

    pub(crate) fn back_up(&self) -> Backup {
        Backup {
            collections: self.server.collections.clone(),
            audiences: self.audiences.clone(),
            last_lives: self.last_lives.clone(),
        }
    }

    /// Everything is as it was, under new epochs, and nothing is announced.
    pub(crate) fn restore(&mut self, backup: Backup) {
        let Backup { collections, audiences, last_lives } = backup;
        self.server.collections.clear();
        (self.audiences, self.last_lives) = (audiences, last_lives);
        self.hot = self.audiences.keys().cloned().collect();
        for (name, log) in collections {
            self.server.restore(&name, log, true);
        }
    }

    fn said(&self, inbox: &CollectionName, name: &CollectionName) -> Option<Bytes> {
        let row = self.server.collections.get(inbox)?.rows.get(&key(name))?;
        row.content.as_ref().map(|(value, _)| value.clone())
    }

    fn announce(&mut self, name: &CollectionName) {
        if self.hot.contains(name) {
            return;
        }
        let audience = self.audiences.get(name).cloned().unwrap_or_default();
        for inbox in &audience {
            self.write(inbox, name);
        }
    }

    fn write(&mut self, inbox: &CollectionName, name: &CollectionName) {
        let value = encode_inbox_entry(self.truth(name)).to_bytes();
        if self.said(inbox, name).as_ref() != Some(&value) {
            self.server.put(inbox, key(name), value);
        }
    }
}

fn key(name: &CollectionName) -> Key {
    Key::new(name.as_str().to_owned()).unwrap()
}
