//! What must hold of a device: after every action, before every ack, and in the end.

use std::collections::{BTreeMap, BTreeSet};

use sync_client::account::desk::{Desk, Holdings};
use sync_client::account::{FollowState, Followed, Note, NoteStage};
use sync_client::store::{ReplicaStore as _, Row, Standing};
use sync_client::types::{CollectionName, Cursor, InboxEntry, Value, Version};
use sync_proto::convert::decode_inbox_entry;

use super::{Device, Log, config};
use crate::{NAMES, World};

// === impl Device ===

impl Device {
    fn rows(&self) -> BTreeMap<CollectionName, (Option<InboxEntry>, Version)> {
        let rows = self.store.snapshot(&self.inbox).unwrap().rows(None, 1_000).unwrap();
        let read = |row: Row| {
            let name = CollectionName::new(std::str::from_utf8(row.key.as_bytes()).unwrap());
            let entry = decode_inbox_entry(&Value::new(row.value).unwrap()).ok();
            (name.unwrap(), (entry, row.version))
        };
        rows.into_iter().map(read).collect()
    }

    fn notes(&self) -> BTreeMap<CollectionName, Note> {
        let notes = self.store.notes(&self.inbox).unwrap();
        let read = |(key, note): &(bytes::Bytes, bytes::Bytes)| {
            Some((Note::name(key)?, Note::decode(note).unwrap()))
        };
        notes.iter().filter_map(read).collect()
    }

    fn standing(&self, name: &CollectionName) -> Standing {
        self.store.standing(name).unwrap()
    }

    /// Whether what an entry of the inbox says is here, or known to be all there is.
    fn is_done_with(
        &self,
        name: &CollectionName,
        remote: Option<InboxEntry>,
        note: Option<&Note>,
    ) -> bool {
        let standing = self.standing(name);
        let covered = match remote {
            Some(InboxEntry::Exists(epoch, version)) => standing.has(Cursor::at(epoch, version)),
            Some(InboxEntry::Deleted(..) | InboxEntry::Absent) => standing.cursor.is_none(),
            None => false,
        };
        let asked = |stage| note.is_some_and(|note| note.stage == stage);
        covered
            || asked(NoteStage::Denied)
            || asked(NoteStage::Settled) && note.is_some_and(|note| note.remote.is_some())
    }

    /// If the process were killed now, nothing would be forgotten (G4): whatever the copy of the
    /// inbox says is here, or the next life asks for it; what is pending now is pending then; and
    /// every copy is known, so that it can be dropped.
    pub(super) fn assert_books_hold(&mut self) {
        if self.doubtful {
            self.written = true;
            return;
        }
        if self.desk.processed().is_none() {
            self.written = true;
            return;
        }
        let held = Holdings::read(&self.store, &self.inbox).unwrap();
        let next = Desk::new(config(self.now - self.began), held, 1, self.now);
        let next: BTreeMap<_, _> = next.followed().map(|one| (one.name.clone(), one)).collect();
        let (rows, notes) = (self.rows(), self.notes());
        for (name, (remote, _)) in &rows {
            let done = self.is_done_with(name, *remote, notes.get(name));
            if done && !self.done.contains(&(name.clone(), *remote)) {
                self.done.push((name.clone(), *remote));
            }
            let asked = next.get(name).is_some_and(|one| !one.is_settled());
            assert!(asked || done, "{name} is forgotten: {remote:?}\n{}", self.tell());
        }
        for one in self.desk.followed() {
            assert!(rows.contains_key(&one.name), "{} is shown\n{}", one.name, self.tell());
            let asked = next.get(&one.name).is_some_and(|next| !next.is_settled());
            // What a note that failed was about is told again; and a write that failed may be done.
            let note = notes.get(&one.name);
            let here = self.is_done_with(&one.name, one.remote, note);
            let kept = asked || self.now <= self.unnoted_until || here;
            assert!(kept || one.is_settled(), "{one:?} is lost: {note:?}\n{}", self.tell());
        }
        for name in Self::names() {
            let known = notes.contains_key(&name) || self.standing(&name) == Standing::default();
            let known = known || self.now <= self.unnoted_until;
            assert!(known, "nobody will drop {name}\n{}", self.tell());
        }
    }

    /// What the device calls done it has: not by its own word, by the server's. A life of a
    /// collection that has come so far has not been anywhere else since, so a copy that is settled
    /// at some version of it has that version.
    pub(super) fn assert_nothing_is_claimed(&self, world: &World) {
        let lacks = |name: &CollectionName, remote: Option<InboxEntry>| {
            let Some(InboxEntry::Exists(epoch, version)) = remote else { return false };
            let log = world.server.server.collections.get(name);
            let head = log.map(Log::head);
            let there = head.is_some_and(|at| at.epoch == epoch && at.version >= version);
            let copy = self.standing(name).cursor;
            there && copy.is_none_or(|at| at.epoch != epoch || at.version < version)
        };
        for (name, note) in self.notes() {
            let claims = note.stage == NoteStage::Settled && lacks(&name, note.remote);
            assert!(!claims, "{name} is noted as settled: {note:?}\n{}", self.tell());
        }
        for one in self.desk.followed() {
            let claims = one.is_settled() && one.state != FollowState::Denied;
            let claims = claims && lacks(&one.name, one.remote);
            assert!(!claims, "{one:?} is not done\n{}", self.tell());
        }
    }

    /// Remembers what is done and perhaps not noted, because notes fail: a life that begins now
    /// asks for it once more.
    pub(super) fn see_done(&mut self) {
        let rows = self.rows();
        // What a write brought that is perhaps not done, the device does not know yet.
        if !self.doubtful {
            self.told = rows.iter().map(|(name, (remote, _))| (name.clone(), *remote)).collect();
        }
        let settled: Vec<_> = self.desk.followed().filter(Followed::is_settled).collect();
        for one in settled {
            let said = self.told.get(&one.name).map(|remote| (one.name.clone(), *remote));
            let new = said.filter(|said| !self.done.contains(said));
            self.done.extend(new);
        }
        // Also what a process that was killed had noted and not shown any more. The next one asks
        // for it once more, which takes back nothing.
        let notes = self.notes();
        let denied = rows.into_iter().map(|(name, (remote, _))| (name, remote));
        let denied = denied.filter(|(name, remote)| {
            let note = notes.get(name);
            note.is_some_and(|note| note.stage == NoteStage::Denied && note.remote == *remote)
        });
        let new: Vec<_> = denied.filter(|said| !self.done.contains(said)).collect();
        self.done.extend(new);
    }

    /// Every collection there can be.
    fn names() -> impl Iterator<Item = CollectionName> {
        let name = |number| CollectionName::new(&format!("c/{number:02}")).unwrap();
        (0..NAMES).map(name)
    }

    /// An ack covers nothing that is not done (contiguous prefix).
    pub(super) fn assert_processed(&self, cursor: Cursor) {
        let at = self.standing(&self.inbox).cursor.unwrap();
        let held = at.epoch == cursor.epoch && cursor.version <= at.version;
        assert!(held || self.doubtful, "{cursor} at {at}");
        if !held {
            return;
        }
        let notes = self.notes();
        for (name, (remote, version)) in self.rows() {
            let done = self.is_done_with(&name, remote, notes.get(&name))
                // What a polled head asked for since then is not the inbox's.
                || self.done.contains(&(name.clone(), remote));
            let acked = version <= cursor.version;
            assert!(done || !acked, "{name} at {version} acked by {cursor}\n{}", self.tell());
        }
    }

    /// Whether a collection is as it should be.
    fn is_right(&self, name: &CollectionName, world: &World) -> bool {
        let standing = self.standing(name);
        let followed = world.server.audiences.get(name).is_some_and(|a| a.contains(&self.inbox));
        match world.server.server.collections.get(name) {
            Some(log) if followed => {
                standing.cursor == Some(log.head().cursor())
                    && standing.tally.digest == log.head().digest
            }
            Some(_) | None => standing == Standing::default(),
        }
    }

    pub(crate) fn is_done(&self, world: &World) -> bool {
        let last = world.server.server.collections.get(&self.inbox).map(|log| log.head().cursor());
        let poisoned = |name: &CollectionName| world.poison.contains(name);
        let tried = |name| {
            let state = self.list.get(name).map(|one| &one.state);
            !world.server.follows(&self.inbox).contains(name)
                || matches!(state, Some(FollowState::Failed { attempts: 3.., .. }))
        };
        let right = world.names.iter().all(|name| poisoned(name) || self.is_right(name, world));
        let listed: BTreeSet<_> = self.list.keys().cloned().collect();
        let acked = !world.poison.is_empty() || self.acked == last;
        right
            && world.poison.iter().all(tried)
            && listed == world.server.follows(&self.inbox)
            && acked
            && (!world.poison.is_empty() || self.summary.is_settled())
    }

    pub(crate) fn assert_right(&self, world: &World, seed: u64) {
        for name in world.names.iter().filter(|name| !world.poison.contains(*name)) {
            let (ours, theirs) = (self.standing(name), world.server.truth(name));
            let right = self.is_right(name, world);
            let shown = self.list.get(name);
            assert!(right, "seed {seed}: {name} {ours:?} {theirs:?} {shown:?}\n{}", self.tell());
        }
        assert!(
            self.is_done(world),
            "seed {seed}: {:?} {:?} acked {:?}\n{}",
            self.summary,
            self.list,
            self.acked,
            self.tell()
        );
        let exchanged = Holdings::read(&self.store, &self.inbox).unwrap().exchanged;
        assert!(!exchanged, "seed {seed}: the rows of the inbox were not compared");
        let pulls = self.desk.session_stats().pulls;
        assert!(pulls < 2_000, "seed {seed}: {pulls} pulls");
    }

    pub(super) fn tell(&self) -> String {
        let last = self.history.len().saturating_sub(60);
        self.history[last..].join("\n")
    }
}
