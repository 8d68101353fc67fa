//! What a driver does for an account besides its conversation: notes, comparisons of the list with
//! the copies, questions for more heads, acks, and what the application is shown.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sync_proto::limits::{PAGE_BYTES_MAX, PAGE_CHANGES_MAX};
use sync_proto::types::{Acked, CollectionName, Cursor, Outcome, Polled, Pull, Target};
use tokio::sync::watch;

use super::{Work, now};
use crate::account::board::Board;
use crate::account::desk::{AckFault, DeskConfig, Holdings, Input, PollId};
use crate::account::list::{Followed, Summary};
use crate::blocking::blocking;
use crate::client::SyncClient;
use crate::error::ClientError;
use crate::session::Fault;
use crate::store::{Notes, ReplicaStore, StoreError};
use crate::view::View;

/// What a driver of an account is given.
#[derive(Debug)]
pub(crate) struct Errands {
    pub(crate) config: DeskConfig,
    pub(crate) board: Arc<Board>,
    /// What somebody looks at.
    pub(crate) looks: watch::Receiver<Vec<CollectionName>>,
}

/// What was asked of the server.
#[derive(Debug)]
pub(super) enum Answer {
    PolledOn(PollId, Result<Polled, Fault>, u64),
    Acked(Result<(), AckFault>),
    CopiesAcked(Result<(), AckFault>),
}

/// Reads what the store holds of an account.
pub(crate) fn holdings(
    store: &dyn ReplicaStore,
    config: &DeskConfig,
) -> Result<Holdings, StoreError> {
    Holdings::read(store, &config.subject.inbox())
}

/// Waits until somebody looks at something else; for ever, if nobody can.
pub(super) async fn looked(errands: &mut Option<Errands>) -> Vec<CollectionName> {
    if let Some(errands) = errands
        && errands.looks.changed().await.is_ok()
    {
        return errands.looks.borrow_and_update().clone();
    }
    std::future::pending().await
}

// === impl Work ===

impl Work {
    pub(super) async fn make_notes(&mut self, notes: Notes) {
        let store = self.store.clone();
        let made = blocking("writing to the local store", move || store.note(&notes)).await;
        self.tell_outage(made.as_ref().err(), "notes could not be written to the local store");
        self.flush_soon();
        self.machine.tell(Input::Noted(made.is_ok()), now());
    }

    pub(super) async fn scan(&mut self) {
        let Some(errands) = &self.errands else { return };
        let (store, config) = (self.store.clone(), errands.config.clone());
        let read = move || holdings(&*store, &config);
        let held = blocking("reading the local store", read).await;
        self.tell_outage(held.as_ref().err(), "the list of what is followed could not be read");
        self.flush_soon();
        self.machine.tell(Input::Scanned(held.ok()), now());
    }

    pub(super) fn poll(&self, id: PollId, cursor: Option<Cursor>, after: Option<CollectionName>) {
        let Some(errands) = &self.errands else { return };
        let (client, inbox) = (self.client.clone(), errands.config.subject.inbox());
        let client_id = errands.config.session.client_id.clone();
        let target = Target { polled_after: after, ..Target::all(inbox, cursor) };
        let pull = Pull {
            targets: vec![Ok(target)],
            bytes_max: PAGE_BYTES_MAX,
            changes_max: PAGE_CHANGES_MAX,
            client_id,
        };
        let asking = async move {
            match client.pull_once(pull).await {
                // Only who has everything is told what the inbox does not say.
                Ok(answer) if !tells_heads(&answer.outcomes) => {
                    Answer::PolledOn(id, Err(Fault::Passing), answer.bytes as u64)
                }
                Ok(answer) => {
                    let first = answer.polled.into_iter().next();
                    let heads = first.map(|(_, heads)| heads).unwrap_or_default();
                    Answer::PolledOn(id, Ok(heads), answer.bytes as u64)
                }
                Err(failure) => {
                    tracing::debug!(%failure, "a question for heads failed");
                    Answer::PolledOn(id, Err(Fault::from(&failure)), 0)
                }
            }
        };
        self.answers.push(asking.boxed());
    }

    pub(super) fn ack(&self, cursor: Cursor) {
        let Some(errands) = &self.errands else { return };
        let (client, inbox) = (self.client.clone(), errands.config.subject.inbox());
        let client_id = self.client_id.clone();
        let acked = vec![Acked { collection: inbox, cursor }];
        let asking = async move { Answer::Acked(tell(&client, &client_id, acked).await) };
        self.answers.push(asking.boxed());
    }

    /// Where the copies of a replica stand, as they are written by now.
    pub(super) fn copies_written(&self) -> Vec<(CollectionName, Cursor)> {
        let kept = self.kept.iter().filter(|_| self.acks.is_some());
        let at = |(name, view): (&CollectionName, &Arc<View>)| {
            Some((name.clone(), view.place().borrow().standing.cursor?))
        };
        kept.flat_map(|kept| kept.iter().filter_map(at)).collect()
    }

    /// Tells how far the copies of a replica are, if it is time.
    pub(super) fn acknowledge(&mut self) {
        let Some(acked) = self.acks.as_mut().and_then(|acks| acks.next(now())) else { return };
        let (client, client_id) = (self.client.clone(), self.client_id.clone());
        let asking = async move { Answer::CopiesAcked(tell(&client, &client_id, acked).await) };
        self.answers.push(asking.boxed());
    }

    pub(super) fn publish_account_stats(&self) {
        if let (Some(errands), Some(stats)) = (&self.errands, self.machine.account_stats()) {
            errands.board.set_stats(stats);
        }
    }

    pub(super) fn answered(&mut self, answer: Answer) {
        let input = match answer {
            Answer::PolledOn(id, answer, bytes) => {
                self.bytes += bytes;
                Input::PolledOn(id, answer)
            }
            Answer::Acked(answer) => Input::Acked(answer),
            Answer::CopiesAcked(answer) => {
                if let Some(acks) = &mut self.acks {
                    acks.answered(answer, now(), &mut rand::rng());
                }
                return;
            }
        };
        self.machine.tell(input, now());
    }

    /// Shows what the list says now, also in the collections that somebody holds.
    pub(super) fn show(
        &mut self,
        shown: Vec<(CollectionName, Option<Followed>)>,
        summary: Summary,
    ) {
        let Some(errands) = &self.errands else { return };
        // Whoever hears of it finds counted what led to it.
        self.publish_stats();
        let moved = errands.board.summary().borrow().inbox != summary.inbox;
        let names: Vec<CollectionName> = shown.iter().map(|(name, _)| name.clone()).collect();
        errands.board.show(shown, summary);
        if moved {
            for view in self.views.held() {
                errands.board.show_in(&view, &errands.config.subject);
            }
        } else {
            for view in names.iter().filter_map(|name| self.views.find(name)) {
                errands.board.show_in(&view, &errands.config.subject);
            }
        }
    }
}

fn tells_heads(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| match outcome {
        Outcome::Aligned(_) => true,
        Outcome::Delta(delta) => !delta.has_more,
        Outcome::Reset(_)
        | Outcome::Denied
        | Outcome::NotFound
        | Outcome::Deferred(_)
        | Outcome::Failed(_) => false,
    })
}

async fn tell(client: &SyncClient, client_id: &str, acked: Vec<Acked>) -> Result<(), AckFault> {
    client.ack_as(client_id, acked).await.map_err(|failure| {
        tracing::debug!(%failure, "an ack was not taken");
        ack_fault(&failure)
    })
}

fn ack_fault(failure: &ClientError) -> AckFault {
    match failure {
        ClientError::Precondition(_) | ClientError::NotFound(_) | ClientError::Denied(_) => {
            AckFault::Refused
        }
        ClientError::Unimplemented(_) | ClientError::Invalid(_) => AckFault::Unknown,
        ClientError::Setting(_)
        | ClientError::Unavailable(_)
        | ClientError::Exhausted(_)
        | ClientError::Deadline
        | ClientError::Unauthenticated(_)
        | ClientError::Aborted(_)
        | ClientError::Internal(_)
        | ClientError::Malformed(_) => AckFault::Passing,
    }
}

/// What is asked of the server for an account.
pub(super) type Asking = BoxFuture<'static, Answer>;
