//! Raw peers of a server: a test says what they send and when, and how much they take.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use prost::Message;
use sync_proto::v1;
use sync_server::config::Config;
use sync_server::engine::ledger::Ledger;
use sync_server::server::{ServeError, serve};
use sync_server::store::Store;
use sync_server::store::memory::MemoryStore;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::http::{Request, Response};

pub(crate) const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A server that is slow or hangs fails the test.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server in the test's own process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ServeError>>,
}

/// A peer that speaks HTTP/2.
pub(crate) struct Peer {
    requests: SendRequest<Bytes>,
    /// Shown with each call.
    pub(crate) token: Option<&'static str>,
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

// === impl Server ===

impl Server {
    pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::over(MemoryStore::new(), change).await
    }

    pub(crate) async fn over<S: Store>(store: S, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let ledger = Ledger::open(store, config.ledger(), &mut |_| {}).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let running = TaskTracker::new()
            .spawn(async move { serve(listener, ledger, &config, stopping).await });
        Self { address, stop, running }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub(crate) async fn peer(&self) -> Peer {
        Peer::over(self.connect().await, Builder::new()).await.unwrap()
    }

    pub(crate) async fn stop(self) -> Result<(), ServeError> {
        self.stop.cancel();
        within(self.running).await.unwrap()
    }
}

// === impl Peer ===

impl Peer {
    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        builder: Builder,
    ) -> Result<Self, h2::Error> {
        let (requests, connection) = builder.handshake(stream).await?;
        let connection = TaskTracker::new().spawn(connection);
        Ok(Self { requests, token: None, connection })
    }

    /// Sends the head of a call.
    pub(crate) async fn call(&mut self, path: &str) -> Result<Call, h2::Error> {
        self.requests = self.requests.clone().ready().await?;
        let mut request = Request::post(format!("http://server{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(()).unwrap();
        let (response, body) = self.requests.send_request(request, false)?;
        Ok(Call { response, body })
    }

    /// Whether the server answers on this connection.
    pub(crate) async fn is_served(&mut self) -> bool {
        let Ok(mut call) = self.call(CHECK).await else { return false };
        call.send(&v1::GetImportRequest::default(), true);
        within(call.response).await.is_ok_and(|response| response.status() == 200)
    }
}

/// A call that has begun.
pub(crate) struct Call {
    pub(crate) response: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

// === impl Call ===

impl Call {
    pub(crate) fn send(&mut self, message: &impl Message, complete: bool) {
        self.body.send_data(framed(message), complete).unwrap();
    }
}

/// The message as gRPC sends it.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

/// Waits until something is so.
pub(crate) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(waiting).await;
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

pub(crate) fn grpc_status(response: &Response<RecvStream>) -> &str {
    response.headers()["grpc-status"].to_str().unwrap()
}

/// A peer that takes a little of each answer.
pub(crate) fn tight() -> Builder {
    let mut builder = Builder::new();
    builder.initial_window_size(20_000).initial_connection_window_size(1 << 24);
    builder
}

/// Makes a call and reads its whole answer; the bytes and the status.
pub(crate) async fn ask(peer: &mut Peer, path: &str, message: &impl Message) -> (usize, String) {
    let mut call = peer.call(path).await.unwrap();
    call.send(message, true);
    take(within(call.response).await.unwrap()).await
}

/// Reads an answer to its end.
pub(crate) async fn take(response: Response<RecvStream>) -> (usize, String) {
    if response.headers().contains_key("grpc-status") {
        return (0, grpc_status(&response).to_owned());
    }
    let mut body = response.into_body();
    let bytes = read(&mut body, usize::MAX).await;
    let trailers = within(body.trailers()).await.unwrap().unwrap();
    (bytes, trailers["grpc-status"].to_str().unwrap().to_owned())
}

/// Reads until there are so many bytes, or to the end.
pub(crate) async fn read(body: &mut RecvStream, most: usize) -> usize {
    let mut bytes = 0;
    while bytes < most
        && let Some(data) = within(body.data()).await
    {
        let len = data.unwrap().len();
        body.flow_control().release_capacity(len).unwrap();
        bytes += len;
    }
    bytes
}

/// Makes a call; its answer.
pub(crate) async fn told<T: Message + Default>(
    peer: &mut Peer,
    path: &str,
    message: &impl Message,
) -> T {
    let mut call = peer.call(path).await.unwrap();
    call.send(message, true);
    let mut body = within(call.response).await.unwrap().into_body();
    let mut bytes = BytesMut::new();
    while let Some(data) = within(body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    T::decode(bytes.freeze().slice(5..)).unwrap()
}
