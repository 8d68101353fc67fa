//! Keys that are fetched from their issuer: bounded in time and size, in the background, again and
//! again. What was fetched last stays in force while fetching fails. No call ever waits for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rand::RngExt as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::certificates::{self, BadCertificates};

#[cfg(test)]
mod tests;

/// All of one attempt, from the first packet to the last.
const ATTEMPT_MAX: Duration = Duration::from_secs(10);
/// Bytes of a set of keys.
const KEYS_BYTES_MAX: usize = 1024 * 1024;
/// The first wait after a failure; each of the next is twice as long.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// At least this long between two attempts, however many tokens name a key that is not known.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(5);

/// Where keys are fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    secure: bool,
    host: String,
    port: u16,
    path: String,
    /// Whom to trust; `None` = whom the system trusts.
    ca_file: Option<PathBuf>,
}

/// Why nothing was fetched. Quotes nothing of what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FetchError {
    #[error("no answer within {ATTEMPT_MAX:?}")]
    Late,
    #[error("cannot be reached")]
    Unreachable(#[source] std::io::Error),
    #[error("is not trusted")]
    Untrusted(#[source] BadCertificates),
    #[error("speaks no HTTP")]
    Http(#[source] hyper::Error),
    #[error("answers {0}")]
    Status(StatusCode),
    #[error("answers more than {KEYS_BYTES_MAX} bytes, or breaks off")]
    Body,
}

// === impl Source ===

impl Source {
    /// The source that an address is; the error says what is wrong with it.
    pub(crate) fn parse(url: &str, ca_file: Option<PathBuf>) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "is no address")?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err("must begin with https://"),
        };
        let authority = uri.authority().ok_or("names no host")?;
        if authority.as_str().contains('@') {
            return Err("must not hold credentials");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let here = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if !secure && !here {
            return Err("must begin with https://, except on this machine");
        }
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { secure, host, port, path, ca_file })
    }

    /// One attempt.
    pub(crate) async fn fetch(&self) -> Result<Vec<u8>, FetchError> {
        timeout(ATTEMPT_MAX, self.attempt()).await.map_err(|_| FetchError::Late)?
    }

    async fn attempt(&self) -> Result<Vec<u8>, FetchError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(FetchError::Unreachable)?;
        if !self.secure {
            return self.ask(stream).await;
        }
        // Read anew each time: whom to trust changes too.
        let ca_file = self.ca_file.clone();
        let config = tokio::task::spawn_blocking(move || certificates::client(ca_file.as_deref()));
        let config = config.await.map_err(|error| FetchError::Unreachable(error.into()))?;
        let config = Arc::new(config.map_err(FetchError::Untrusted)?);
        let name = ServerName::try_from(self.host.clone());
        let name = name.map_err(|error| FetchError::Unreachable(std::io::Error::other(error)))?;
        let secured = TlsConnector::from(config).connect(name, stream).await;
        self.ask(secured.map_err(FetchError::Unreachable)?).await
    }

    async fn ask<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: T,
    ) -> Result<Vec<u8>, FetchError> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(FetchError::Http)?;
        let host = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let request =
            Request::get(&self.path).header(HOST, host).header(ACCEPT, "application/json");
        let request = request.body(Empty::<Bytes>::new()).expect("its parts were checked");
        let answer = async {
            let answer = sender.send_request(request).await.map_err(FetchError::Http)?;
            if answer.status() != StatusCode::OK {
                return Err(FetchError::Status(answer.status()));
            }
            let body = Limited::new(answer.into_body(), KEYS_BYTES_MAX).collect().await;
            Ok(body.map_err(|_| FetchError::Body)?.to_bytes().to_vec())
        };
        // The connection works for as long as somebody waits for the answer.
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(FetchError::Http(error)),
            },
        }
    }
}

/// When to fetch next. Pure, but for the dice that it is given.
#[derive(Debug)]
pub(crate) struct Schedule {
    interval: Duration,
    failures: u32,
}

// === impl Schedule ===

impl Schedule {
    /// Once in `interval` when all is well.
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, failures: 0 }
    }

    /// Whether nothing has gone wrong since it last went well.
    pub(crate) fn is_well(&self) -> bool {
        self.failures == 0
    }

    /// How long to wait after an attempt; `dice` is from 0 to 1.
    pub(crate) fn next(&mut self, well: bool, dice: f64) -> Duration {
        if well {
            self.failures = 0;
            return self.interval.mul_f64(0.9 + 0.2 * dice);
        }
        self.failures = self.failures.saturating_add(1);
        let most = RETRY_MIN.saturating_mul(1 << (self.failures - 1).min(20)).min(self.interval);
        most.mul_f64(0.5 + 0.5 * dice)
    }
}

/// Waits until the time has come, or until somebody `asks`, which is heard seldom.
pub(crate) async fn wait(schedule: &mut Schedule, well: bool, asks: &tokio::sync::Notify) {
    let began = Instant::now();
    let wait = schedule.next(well, rand::rng().random_range(0.0..1.0));
    if timeout(wait, asks.notified()).await.is_ok() {
        tokio::time::sleep_until((began + UNKNOWN_PAUSE).min(began + wait)).await;
    }
}
