//! The connection to a server: address, credentials, deadlines, retries. The calls themselves
//! are in `calls`, the stream in `stream`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use sync_proto::limits::{ID_LEN_MAX, MESSAGE_BYTES_MAX};
use sync_proto::v1::sync_service_client::SyncServiceClient;
use sync_proto::v1::write_service_client::WriteServiceClient;
use tokio::time::{Instant, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use self::credentials::Credentials;
use self::tls::Tls;
use self::trace_context::TraceSource;
use self::traffic::Traffic;
use crate::backoff::Backoff;
use crate::error::ClientError;
use crate::pace;

mod acks;
mod admin;
mod backup;
mod calls;
mod credentials;
#[cfg(feature = "cli")]
mod health;
mod inbox;
mod operating;
mod status;
mod stream;
mod tls;
mod trace_context;
mod traffic;

pub use backup::{BackupPiece, BackupStream};
pub use calls::{CollectionInfo, CommitReply, Found, GetItemsReply, ImportReply, Page};
pub(crate) use inbox::Pulled;
pub use operating::{Verification, Verified};
pub use stream::EventStream;
pub use trace_context::TraceContext;

/// How long one attempt of a call waits in vain when the builder does not say.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call is repeated after failures that may pass, when the builder does not say.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// A connection that cannot be made within this time is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a quiet connection is asked for a sign of life: a peer that vanished without a
/// word is noticed after this and [`KEEP_ALIVE_TIMEOUT`].
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the sign of life may take: on a slow line it waits behind what was sent before it.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest wait between the attempts of one call.
const RETRY_WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// Flow-control windows: a page of 1 MiB fits the stream's, several streams the connection's.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// A connection to a deltasync server. Cheap to clone; clones share the connection, which is
/// made when it is first needed and made again when it was lost.
#[derive(Clone)]
pub struct SyncClient {
    shared: Arc<Shared>,
}

/// What a [`SyncClient`] is made of.
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    uri: String,
    bearer_token: Option<String>,
    token_file: Option<PathBuf>,
    tls: Tls,
    client_id: String,
    call_timeout: Duration,
    retry_for: Duration,
    traces: Option<TraceSource>,
}

struct Shared {
    channel: Channel,
    traffic: Traffic,
    credentials: Arc<Credentials>,
    settings: ClientBuilder,
}

// === impl SyncClient ===

impl SyncClient {
    /// A client of the server at `uri`, e.g. `http://127.0.0.1:7411`, or `https://sync.example.com`
    /// with whom the system trusts, without credentials. Must
    /// be called within a tokio runtime. Does not wait for the connection.
    pub fn connect(uri: impl Into<String>) -> Result<Self, ClientError> {
        Self::builder(uri).build()
    }

    /// A client with settings.
    pub fn builder(uri: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            uri: uri.into(),
            bearer_token: None,
            token_file: None,
            tls: Tls::default(),
            client_id: String::new(),
            call_timeout: CALL_TIMEOUT,
            retry_for: RETRY_FOR,
            traces: None,
        }
    }

    /// Uses another bearer token from the next call on; `None` = none. A running replica takes
    /// it up when its stream is opened again.
    pub fn set_bearer_token(&self, token: Option<&str>) -> Result<(), ClientError> {
        self.shared.credentials.set(token)
    }

    /// The name of this device; empty = not said, see [`ClientBuilder::client_id`].
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.shared.settings.client_id
    }

    /// How long one attempt of a call waits while the connection brings nothing.
    #[must_use]
    pub fn call_timeout(&self) -> Duration {
        self.shared.settings.call_timeout
    }

    fn reader(&self) -> SyncServiceClient<Channel> {
        SyncServiceClient::new(self.shared.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn writer(&self) -> WriteServiceClient<Channel> {
        WriteServiceClient::new(self.shared.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(traces) = &self.shared.settings.traces {
            traces.tell(&mut request);
        }
        if let Some(bearer) = self.shared.credentials.current().await {
            request.metadata_mut().insert("authorization", bearer);
        }
        request
    }

    /// Bytes that the connection has brought so far, also of messages that are not whole yet.
    pub(crate) fn received(&self) -> u64 {
        self.shared.traffic.received()
    }

    /// One attempt. What the server is told is how long an answer may take on a slow line.
    async fn attempt<Q, R, F>(
        &self,
        message: Q,
        send: impl FnOnce(Request<Q>) -> F,
    ) -> Result<R, ClientError>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut request = self.request(message).await;
        request.set_timeout(pace::LONGEST.max(self.call_timeout()));
        match self.while_it_moves(send(request)).await? {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(ClientError::from_status(&status)),
        }
    }

    /// Waits for an answer, but not for longer than the timeout of a call while the connection
    /// brings nothing: on a slow line an answer takes as long as its bytes do.
    async fn while_it_moves<T>(&self, answer: impl Future<Output = T>) -> Result<T, ClientError> {
        let quiet = self.call_timeout();
        let give_up = Instant::now() + pace::LONGEST.max(quiet);
        let mut answer = std::pin::pin!(answer);
        loop {
            let (begun, before) = (Instant::now(), self.received());
            if let Ok(answer) = timeout_at((begun + quiet).min(give_up), &mut answer).await {
                return Ok(answer);
            }
            let moves = pace::moves(self.received() - before, begun.elapsed());
            if !moves || Instant::now() >= give_up {
                return Err(ClientError::Deadline);
            }
        }
    }

    /// Attempts until one succeeds, one fails for good, or the time for retries is over. Only
    /// for calls that do no harm when they are carried out twice.
    async fn repeat<Q, R, F>(
        &self,
        message: Q,
        send: impl Fn(Request<Q>) -> F,
    ) -> Result<R, ClientError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let give_up = Instant::now() + self.shared.settings.retry_for;
        let mut backoff = Backoff::new(RETRY_WAITS.0, RETRY_WAITS.1);
        loop {
            let failure = match self.attempt(message.clone(), &send).await {
                Ok(reply) => return Ok(reply),
                Err(failure) if failure.is_retryable() => failure,
                Err(failure) => return Err(failure),
            };
            // The random part on top: not all who were sent away come back together.
            let asked = failure.retry_after().unwrap_or_default();
            let wait = asked + backoff.next(&mut rand::rng());
            if Instant::now() + wait >= give_up {
                return Err(failure);
            }
            tracing::debug!(%failure, ?wait, "call is repeated");
            tokio::time::sleep(wait).await;
        }
    }
}

impl fmt::Debug for SyncClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncClient").field("uri", &self.shared.settings.uri).finish_non_exhaustive()
    }
}

// === impl ClientBuilder ===

impl ClientBuilder {
    /// Credentials: sent as `authorization: Bearer <token>` with every call.
    #[must_use]
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.bearer_token = Some(token.into());
        self
    }

    /// Credentials from a file, read again when calls are made, at most once a second: a new token
    /// counts from the next call on, and for a running replica when its stream is opened again. A
    /// file that cannot be read leaves what was in it.
    #[must_use]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Whom to trust to be the server of an `https` address (PEM); whom the system trusts when not
    /// said. Read for every connection, like the client's own certificate.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.ca_file = Some(path.into());
        self
    }

    /// The certificate that the client shows to the server, and its key (PEM).
    #[must_use]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.tls.own_files = Some((certificate.into(), key.into()));
        self
    }

    /// The name that the server's certificate must bear; that in the address when not said.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = Some(name.into());
        self
    }

    /// Names the device, for acknowledgements and for operators. At most 128 bytes. Replicas and
    /// accounts make a name at random when not said, and keep it in their store.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = client_id.into();
        self
    }

    /// How long one attempt of a call waits while the connection brings less than 1 KiB a second;
    /// 10 s when not said. On a line that is slow but moves it waits for up to 15 minutes.
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How long a call that does no harm when repeated is repeated after failures that may
    /// pass; 30 s when not said, zero = never.
    #[must_use]
    pub fn retry_for(mut self, time: Duration) -> Self {
        self.retry_for = time;
        self
    }

    /// Puts calls into the traces of the application: asked for each attempt of a call, by the task
    /// that makes it (of a replica or an account, its driver's). With the crates of OpenTelemetry,
    /// e.g.:
    ///
    /// ```ignore
    /// SyncClient::builder(uri).trace_context(|| {
    ///     let mut headers = HashMap::new();
    ///     let context = tracing::Span::current().context(); // tracing_opentelemetry
    ///     TraceContextPropagator::new().inject_context(&context, &mut headers); // opentelemetry_sdk
    ///     let traceparent = headers.remove("traceparent")?;
    ///     Some(TraceContext { traceparent, tracestate: headers.remove("tracestate").unwrap_or_default() })
    /// })
    /// ```
    #[must_use]
    pub fn trace_context(
        mut self,
        ask: impl Fn() -> Option<TraceContext> + Send + Sync + 'static,
    ) -> Self {
        self.traces = Some(TraceSource::new(ask));
        self
    }

    /// Makes the client. Must be called within a tokio runtime. Does not wait for the
    /// connection.
    pub fn build(self) -> Result<SyncClient, ClientError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ClientError::Setting("not within a tokio runtime".into()));
        }
        if self.client_id.len() > ID_LEN_MAX {
            let reason = format!("client_id is longer than {ID_LEN_MAX} bytes");
            return Err(ClientError::Setting(reason));
        }
        let tls = self.tls()?;
        let endpoint = Endpoint::from_shared(self.uri.clone())
            .map_err(|error| ClientError::Setting(format!("{:?}: {error}", self.uri)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let token = self.bearer_token.as_deref();
        let credentials = Arc::new(Credentials::new(token, self.token_file.as_deref())?);
        let traffic = Traffic::default();
        let shared = Shared {
            channel: traffic.channel(&endpoint, tls),
            traffic,
            credentials,
            settings: Self { bearer_token: None, ..self },
        };
        Ok(SyncClient { shared: Arc::new(shared) })
    }

    /// How to encrypt, if the address says so; the files must make sense now.
    fn tls(&self) -> Result<Option<Tls>, ClientError> {
        if self.uri.starts_with("https://") {
            self.tls.config().map_err(ClientError::Setting)?;
            return Ok(Some(self.tls.clone()));
        }
        if !self.uri.starts_with("http://") {
            let reason = format!("{:?} is not an address like http://host:port", self.uri);
            return Err(ClientError::Setting(reason));
        }
        if self.tls != Tls::default() {
            let reason =
                format!("{:?} is not encrypted: certificates are of no use there", self.uri);
            return Err(ClientError::Setting(reason));
        }
        Ok(None)
    }
}

/// A name that nobody else picks.
fn random_id() -> String {
    format!("{:032x}", rand::rng().random::<u128>())
}
