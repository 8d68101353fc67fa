//! What becomes of a stream when what its caller may do changes while it lasts.

use sync_proto::types::{Event, GoodbyeReason};

use super::end::End;
use super::{Halves, Stream};
use crate::auth::{Caller, RulesSeen};
use crate::metrics::Revoked;
use crate::rpc::withholding::withhold;
use crate::store::Store;

/// Waits until what a caller may do may have changed, since it was looked at.
pub(super) async fn rights_move(caller: Caller, mut seen: RulesSeen) {
    caller.moved(&mut seen).await;
}

// === impl Stream ===

impl<S: Store> Stream<S> {
    /// Judges the caller and all targets by the rules in force: ends what may not be read any more,
    /// and takes back what was about to be said of it.
    pub(super) fn judge(&mut self, halves: &mut Halves) -> Result<(), End> {
        if self.caller.rights().is_err() {
            self.context.metrics.revoked(Revoked::Stream);
            return Err(End::Goodbye(GoodbyeReason::CredentialsExpired));
        }
        let revoked = halves.revoke(|name| self.caller.may_read(name));
        if !revoked.is_empty() {
            // It may have been asked for what is not said any more.
            self.room = None;
            self.listener.leave(|name| revoked.contains(name));
        }
        self.first = withhold(std::mem::take(&mut self.first), |name| self.caller.may_read(name));
        self.first.extend(revoked.into_iter().map(Event::Revoked));
        Ok(())
    }
}
