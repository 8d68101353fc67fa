//! The page that Prometheus reads: `GET /metrics` on a listener of its own. A reader that is slow,
//! silent or one of many costs no more than its bounds, and nothing of what the server is there for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Metrics;

/// Readers at once; what comes beyond them is closed.
const CONNECTIONS_MAX: usize = 8;
/// From the first byte to the last of the answer. One request a connection.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// A request must be there by then.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of a request; 8 KiB is the least that hyper takes.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// The pause after an accept that failed for a reason of ours.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);
/// How often histograms are folded when nobody asks.
const FOLD_EVERY: Duration = Duration::from_secs(5);

/// The text format of Prometheus.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Renders the page; may block.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves the page until `stop` is cancelled; then closes every connection.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    render: Render,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let readers = TaskTracker::new();
    let mut fold = tokio::time::interval(FOLD_EVERY);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = fold.tick() => metrics.fold(),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                        tracing::debug!("one reader of metrics too many");
                        continue;
                    };
                    let (render, stop) = (Arc::clone(&render), stop.clone());
                    readers.spawn(async move {
                        answer(stream, render, stop).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a reader of metrics was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    readers.close();
    readers.wait().await;
}

/// One connection, one request.
async fn answer(stream: TcpStream, render: Render, stop: CancellationToken) {
    let service = service_fn(|request| respond(request, Arc::clone(&render)));
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_BYTES_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        ended = tokio::time::timeout(CONNECTION_TIME_MAX, connection) => {
            if !matches!(ended, Ok(Ok(()))) {
                tracing::debug!("a reader of metrics did not take its page");
            }
        }
    }
}

async fn respond<B>(
    request: Request<B>,
    render: Render,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            match tokio::task::spawn_blocking(move || render()).await {
                Ok(text) => {
                    response.headers_mut().insert(CONTENT_TYPE, TEXT);
                    *response.body_mut() = Full::from(text);
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "no metrics");
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                }
            }
        }
        (_, "/metrics") => {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}
