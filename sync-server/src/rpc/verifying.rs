//! The shell of a verification: looks off the async workers and tells how far it is. What is looked
//! at is decided in `engine::verifying`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sync_proto::types::{CollectionName, Reason};
use sync_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use super::Context;
use super::long_calls::{self, Message, Operator, Outbox};
use crate::engine::verifying::Verification;
use crate::status;
use crate::store::Store;

/// How long the writer may be held for a collection that does not come to rest.
const HELD_MAX: Duration = Duration::from_millis(100);

/// How often it is told how far it is, when there is nothing else to tell.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// A verification that takes longer is given up.
const TIME_MAX: Duration = Duration::from_secs(60 * 60);

/// Findings that are told; a store that is broken everywhere need not be listed whole.
const FINDINGS_MAX: usize = 1_000;

/// Starts the task of a verification and returns what it tells.
pub(super) fn start<S: Store>(
    context: &Arc<Context<S>>,
    operator: Operator,
    prefix: String,
) -> Result<mpsc::Receiver<Message<v1::VerifyResponse>>, Status> {
    let busy = "another verification is under way";
    long_calls::start(
        context,
        operator,
        &context.verifications,
        busy,
        |context, outbox| async move {
            let verified = tokio::time::timeout(TIME_MAX, verify(&context, &outbox, &prefix)).await;
            let late = "not done within an hour; verify a part, by prefix";
            verified.unwrap_or_else(|_| Err(status::refused(Reason::TookTooLong, late)))
        },
    )
}

async fn verify<S: Store>(
    context: &Context<S>,
    outbox: &Outbox<v1::VerifyResponse>,
    prefix: &str,
) -> Result<(), Status> {
    let (began, mut told_at) = (Instant::now(), Instant::now());
    let mut verification = Verification::new(&context.ledger, prefix);
    let mut told = v1::VerifyResponse::default();
    let mut findings = 0;
    loop {
        let step = context.read(move |ledger| {
            let began = Instant::now();
            let found = verification.step(ledger, &mut || began.elapsed() < HELD_MAX);
            (verification, found)
        });
        let found;
        (verification, found) = step.await?;
        let found = found.map_err(|error| status::storage(&error))?;
        let done = found.is_none();
        let found = found.unwrap_or_default();
        let room = FINDINGS_MAX.saturating_sub(findings);
        findings += found.findings.len();
        told.findings.extend(found.findings.into_iter().take(room));
        told.unsettled.extend(found.unsettled.iter().map(CollectionName::to_string));
        if done || told_at.elapsed() >= TELL_EVERY || !told.findings.is_empty() {
            let message = v1::VerifyResponse {
                rows: verification.rows(),
                estimated_rows: verification.estimated_rows(),
                collections: verification.collections(),
                findings_count: findings as u64,
                ..std::mem::take(&mut told)
            };
            outbox.send(message).await?;
            told_at = Instant::now();
        }
        if done {
            break;
        }
    }
    let rows = verification.rows();
    tracing::info!(rows, findings, took = ?began.elapsed(), "the store was verified");
    if findings > 0 {
        tracing::error!(findings, "rows of the store do not fit together");
    }
    Ok(())
}
