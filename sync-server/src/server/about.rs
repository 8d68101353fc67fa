//! Calls about the server itself: health and reflection. They do not pass through the budgets of all
//! others, so that health is told when those are used up; so here are bounds of their own. Without
//! them a stranger, who may ask for health, could hold 4 MiB with each call and any number of calls.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
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

/// The call that lasts for as long as its caller likes.
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Questions for health at once, and how many of them from one address; and likewise those who watch
/// it, who take no place of those who ask once. Each takes some 20 KiB.
const HEALTH_MAX: usize = 1_024;
const HEALTH_OF_PEER_MAX: usize = 128;

/// Reflections at once, which are of callers who are known. An answer has tens of kilobytes.
const REFLECTIONS_MAX: usize = 64;
const REFLECTIONS_OF_PEER_MAX: usize = 16;

/// Who may ask about the server at once.
#[derive(Debug, Clone)]
pub(super) struct About {
    checks: Places,
    watches: Places,
    reflections: Places,
    /// A request must be complete by then.
    patience: Duration,
}

/// Places for one kind of question.
#[derive(Debug, Clone)]
struct Places {
    all: Arc<Semaphore>,
    peers: Peers,
}

/// A place among those who ask, until its call has ended.
#[derive(Debug)]
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    _seat: Seat,
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
            checks: Places::new(HEALTH_MAX, HEALTH_OF_PEER_MAX),
            watches: Places::new(HEALTH_MAX, HEALTH_OF_PEER_MAX),
            reflections: Places::new(REFLECTIONS_MAX, REFLECTIONS_OF_PEER_MAX),
            patience,
        }
    }

    /// A place for a call of this rule and path from `address`.
    pub(super) fn place(&self, rule: Rule, path: &str, address: IpAddr) -> Result<Place, Status> {
        let places = match (rule == Rule::Open, path) {
            (true, WATCH) => &self.watches,
            (true, _) => &self.checks,
            (false, _) => &self.reflections,
        };
        places.take(address).ok_or_else(|| {
            let text = "as many ask about the server as may at once";
            status::refused(Reason::StreamsTaken, text)
        })
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
        Ok(answer?.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _until_the_body_goes = &place;
                frame
            }))
        }))
    }
}

// === impl Places ===

impl Places {
    /// So many, and so many for one address.
    fn new(most: usize, of_peer: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(most)), peers: Peers::new(of_peer) }
    }

    fn take(&self, address: IpAddr) -> Option<Place> {
        let place = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _place: place, _seat: self.peers.seat(address)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    const CHECK: &str = "/grpc.health.v1.Health/Check";
    const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

    /// G11: one address does not take the places of all, those who watch not those of who asks once, and
    /// who has a right waits for nobody without one.
    #[test]
    fn one_peer_does_not_take_the_places_of_others() {
        let about = About::new(Duration::from_secs(1));
        let ask = |path, last| about.place(Rule::Open, path, address(last));
        let mut held: Vec<_> = (0..HEALTH_OF_PEER_MAX).map(|_| ask(WATCH, 1).unwrap()).collect();
        let refusal = ask(WATCH, 1).unwrap_err();
        assert_eq!(status::reason_of(&refusal), Some(Reason::StreamsTaken));
        held.push(ask(WATCH, 2).unwrap());
        held.push(ask(CHECK, 1).unwrap());
        assert!(about.place(Rule::Known, REFLECT, address(1)).is_ok());
        held.swap_remove(0);
        assert!(ask(WATCH, 1).is_ok(), "a place that is left is free");
    }

    #[test]
    fn there_are_so_many_places_in_all() {
        let about = About::new(Duration::from_secs(1));
        let count = |rule, path| {
            let ask = |last| {
                let of_one = || about.place(rule, path, address(last)).ok();
                std::iter::repeat_with(of_one).map_while(|place| place).collect::<Vec<_>>()
            };
            (0..=u8::MAX).map(ask).collect::<Vec<_>>()
        };
        let watches = count(Rule::Open, WATCH);
        let checks = count(Rule::Open, CHECK);
        let reflections = count(Rule::Known, REFLECT);
        for (places, most) in
            [(&watches, HEALTH_MAX), (&checks, HEALTH_MAX), (&reflections, REFLECTIONS_MAX)]
        {
            assert_eq!(places.iter().flatten().count(), most);
        }
        drop(watches);
        assert!(about.place(Rule::Open, WATCH, address(1)).is_ok());
    }
}
