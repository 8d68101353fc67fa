//! Calls about the server itself: health and reflection. They do not pass through the budgets of all
//! others, so that health is told when those are used up; so here are bounds of their own. Without
//! them a stranger, who may ask for health, could hold 4 MiB with each call and any number of calls.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use sync_proto::types::Reason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Response;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

use super::peers::{Peers, Seat};
use crate::auth::methods::Rule;
use crate::status;

/// Length of a request: the name of a service, or of a file that describes some.
pub(super) const REQUEST_BYTES_MAX: usize = 4 * 1024;

/// Calls of health at once, and how many of them from one address. Each takes some 20 KiB.
const HEALTH_MAX: usize = 2_048;
const HEALTH_OF_PEER_MAX: usize = 256;

/// Reflections at once, which are of callers who are known. An answer has tens of kilobytes.
const REFLECTIONS_MAX: usize = 64;

/// Who may ask about the server at once.
#[derive(Debug, Clone)]
pub(super) struct About {
    health: Arc<Semaphore>,
    peers: Peers,
    reflections: Arc<Semaphore>,
    /// A request must be complete by then.
    patience: Duration,
}

/// A place among those who ask, until its call has ended.
#[derive(Debug)]
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    _seat: Option<Seat>,
}

/// An answer that has a place.
struct Placed {
    body: Body,
    _place: Place,
}

/// Health, and whoever tells of it. It is asked in a few words.
pub(super) fn health() -> (HealthReporter, HealthServer<impl Health>) {
    let (reporter, service) = health_reporter();
    (reporter, service.max_decoding_message_size(REQUEST_BYTES_MAX))
}

// === impl About ===

impl About {
    /// For requests that are borne so long.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            health: Arc::new(Semaphore::new(HEALTH_MAX)),
            peers: Peers::new(HEALTH_OF_PEER_MAX),
            reflections: Arc::new(Semaphore::new(REFLECTIONS_MAX)),
            patience,
        }
    }

    /// A place for a call of this rule from `address`.
    pub(super) fn place(&self, rule: Rule, address: IpAddr) -> Result<Place, Status> {
        let taken = || {
            let text = "as many ask about the server as may at once";
            status::refused(Reason::StreamsTaken, text)
        };
        let is_health = rule == Rule::Open;
        let places = if is_health { &self.health } else { &self.reflections };
        let place = Arc::clone(places).try_acquire_owned().map_err(|_| taken())?;
        let seat = if is_health { Some(self.peers.seat(address).ok_or_else(taken)?) } else { None };
        Ok(Place { _place: place, _seat: seat })
    }

    /// Waits for the head of an answer for as long as a request is borne: it has that when the
    /// request is complete. The place is taken until the last of the answer.
    pub(super) async fn answer<E>(
        &self,
        place: Place,
        answering: impl Future<Output = Result<Response<Body>, E>>,
    ) -> Result<Response<Body>, E> {
        let Ok(answer) = tokio::time::timeout(self.patience, answering).await else {
            let text = "upload_timeout_s: the request was not complete within it";
            return Ok(status::refused(Reason::UploadTooSlow, text).into_http());
        };
        Ok(answer?.map(|body| Body::new(Placed { body, _place: place })))
    }
}

// === impl Placed ===

impl http_body::Body for Placed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// G11: one address does not take the places of all, and who has a right waits for nobody
    /// without one.
    #[test]
    fn one_peer_does_not_take_the_places_of_others() {
        let about = About::new(Duration::from_secs(1));
        let ask = |last| about.place(Rule::Open, address(last));
        let mut held: Vec<_> = (0..HEALTH_OF_PEER_MAX).map(|_| ask(1).unwrap()).collect();
        let refusal = ask(1).unwrap_err();
        assert_eq!(status::reason_of(&refusal), Some(Reason::StreamsTaken));
        held.push(ask(2).unwrap());
        assert!(about.place(Rule::Known, address(1)).is_ok());
        held.swap_remove(0);
        assert!(ask(1).is_ok(), "a place that is left is free");
    }

    #[test]
    fn there_are_so_many_places_in_all() {
        let about = About::new(Duration::from_secs(1));
        let count = |rule, of_each: usize| {
            let ask =
                |last| (0..of_each).map_while(|_| about.place(rule, address(last)).ok()).collect();
            (0..=u8::MAX).map(ask).collect::<Vec<Vec<_>>>()
        };
        let health = count(Rule::Open, HEALTH_OF_PEER_MAX);
        assert_eq!(health.iter().flatten().count(), HEALTH_MAX);
        assert_eq!(count(Rule::Known, 1).iter().flatten().count(), REFLECTIONS_MAX);
        drop(health);
        assert!(about.place(Rule::Open, address(1)).is_ok());
    }
}
