//! Runs a window's machine over the network. Decides nothing itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use rand::RngExt as _;
use sync_proto::types::{CollectionName, Event, Subscribe};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::machine::{Action, AskId, Config, Fault, Input, Machine, Wish};
use super::view::WindowView;
use crate::client::{EventStream, SyncClient};
use crate::error::ClientError;

/// Keeps a [`Window`](super::Window) up to date, as long as it runs. Not cloneable: a window has
/// one.
pub struct WindowDriver {
    pub(super) client: SyncClient,
    pub(super) config: Config,
    pub(super) wish: watch::Receiver<Wish>,
    pub(super) view: watch::Sender<Arc<WindowView>>,
    pub(super) received: Arc<AtomicU64>,
}

enum Stream {
    Closed,
    Opening(AskId, BoxFuture<'static, Result<EventStream, ClientError>>),
    Open(AskId, Box<EventStream>),
}

/// What woke the driver.
enum Wake {
    Stop,
    Elapsed,
    Input(Box<Input>),
    Opened(AskId, Box<EventStream>),
}

type Answers = FuturesUnordered<BoxFuture<'static, (Input, u64)>>;

/// How long the driver sleeps when nothing is due.
const LONG: Duration = Duration::from_secs(60 * 60);

// === impl WindowDriver ===

impl WindowDriver {
    /// Keeps the window up to date until `stop` is cancelled or nobody holds the window any more.
    /// The last view stays readable.
    pub async fn run(mut self, stop: CancellationToken) {
        let wish = self.wish.borrow_and_update().clone();
        let seed = rand::rng().random();
        let mut machine = Machine::new(self.config.clone(), wish, seed, Instant::now());
        let mut answers: Answers = FuturesUnordered::new();
        let mut stream = Stream::Closed;
        loop {
            while let Some(action) = machine.poll_action() {
                self.carry_out(action, &answers, &mut stream);
            }
            self.show(machine.view());
            match self.wake(&stop, &machine, &mut answers, &mut stream).await {
                Wake::Stop => return,
                Wake::Elapsed => {
                    let received = self.client.received();
                    machine.handle(Input::Received(received), Instant::now());
                    machine.handle(Input::Elapsed, Instant::now());
                }
                Wake::Input(input) => machine.handle(*input, Instant::now()),
                Wake::Opened(id, opened) => stream = Stream::Open(id, opened),
            }
        }
    }

    fn show(&self, view: WindowView) {
        self.view.send_if_modified(|shown| {
            let differs = **shown != view;
            if differs {
                *shown = Arc::new(view);
            }
            differs
        });
    }

    fn carry_out(&self, action: Action, answers: &Answers, stream: &mut Stream) {
        let client = self.client.clone();
        match action {
            Action::List(id, list) => answers.push(
                async move {
                    match client.list_items_once(list).await {
                        Ok((page, bytes)) => (Input::Listed(id, Ok(page)), bytes),
                        Err(failure) => (Input::Listed(id, Err(fault(&failure))), 0),
                    }
                }
                .boxed(),
            ),
            Action::Fetch(id, keys) => {
                let name: CollectionName = self.config.collection.clone();
                let asking = async move {
                    match client.get_items_once(&name, &keys).await {
                        Ok((reply, bytes)) => (Input::Fetched(id, Ok(reply)), bytes as u64),
                        Err(failure) => (Input::Fetched(id, Err(fault(&failure))), 0),
                    }
                };
                answers.push(asking.boxed());
            }
            Action::Open(id, subscribe) => *stream = open(client, id, subscribe),
            Action::Close => *stream = Stream::Closed,
        }
    }

    async fn wake(
        &mut self,
        stop: &CancellationToken,
        machine: &Machine,
        answers: &mut Answers,
        stream: &mut Stream,
    ) -> Wake {
        let now = Instant::now();
        let deadline = machine.deadline().map_or(now + LONG, |at| at.min(now + LONG));
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            wish = self.wish.changed() => match wish {
                Ok(()) => Wake::input(Input::Wish(self.wish.borrow_and_update().clone())),
                Err(_) => Wake::Stop,
            },
            Some((input, bytes)) = answers.next() => {
                self.received.fetch_add(bytes, Ordering::Relaxed);
                Wake::input(input)
            }
            wake = stream.next(&self.received) => wake,
            () = tokio::time::sleep_until(deadline.into()) => Wake::Elapsed,
        }
    }
}

impl fmt::Debug for WindowDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowDriver")
            .field("collection", &self.config.collection)
            .finish_non_exhaustive()
    }
}

// === impl Wake ===

impl Wake {
    fn input(input: Input) -> Self {
        Self::Input(Box::new(input))
    }
}

// === impl Stream ===

impl Stream {
    /// What it says next; for ever if there is none.
    async fn next(&mut self, received: &AtomicU64) -> Wake {
        let (id, ended) = match self {
            Self::Closed => std::future::pending().await,
            Self::Opening(id, opening) => match opening.await {
                Ok(opened) => return Wake::Opened(*id, Box::new(opened)),
                Err(failure) => (*id, Some(failure)),
            },
            Self::Open(id, open) => {
                let before = open.bytes();
                let message: Option<Result<Event, ClientError>> = open.next().await;
                received.fetch_add(open.bytes() - before, Ordering::Relaxed);
                match message {
                    Some(Ok(event)) => return Wake::input(Input::Event(*id, event)),
                    Some(Err(failure)) => (*id, Some(failure)),
                    None => (*id, None),
                }
            }
        };
        *self = Self::Closed;
        if let Some(failure) = &ended {
            tracing::debug!(%failure, "the stream of a window ended");
        }
        Wake::input(Input::StreamEnded(id, ended.as_ref().map_or(Fault::Passing, fault)))
    }
}

fn open(client: SyncClient, id: AskId, subscribe: Subscribe) -> Stream {
    Stream::Opening(id, async move { client.subscribe(subscribe).await }.boxed())
}

fn fault(failure: &ClientError) -> Fault {
    match failure {
        ClientError::NotFound(_) => Fault::Absent,
        ClientError::Denied(_) => Fault::Denied,
        ClientError::Unauthenticated(_) => Fault::Unauthenticated,
        ClientError::Aborted(_) => Fault::BeginAgain,
        ClientError::Setting(_)
        | ClientError::Unavailable(_)
        | ClientError::Exhausted(_)
        | ClientError::Deadline
        | ClientError::Precondition(_)
        | ClientError::Invalid(_)
        | ClientError::Unimplemented(_)
        | ClientError::Internal(_)
        | ClientError::Malformed(_) => Fault::Passing,
    }
}
