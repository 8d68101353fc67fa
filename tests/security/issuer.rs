//! Issuers of signed tokens that live for one test, and addresses that show their keys.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::TaskTracker;

use crate::authority::Pair as Certificate;

/// A key that signs, under an id.
pub(crate) struct Signer {
    id: String,
    pair: Pair,
}

enum Pair {
    Elliptic(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
}

/// An address that shows keys.
pub(crate) struct Shown {
    pub(crate) address: SocketAddr,
    /// What is answered next; `None` = nothing, ever.
    pub(crate) answer: Arc<Mutex<Option<String>>>,
    /// How often it was asked.
    pub(crate) asked: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

/// What is asked and answered over.
trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// Seconds since 1970, so many from now.
pub(crate) fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

/// Good claims of a subject.
pub(crate) fn claims(subject: &str) -> Value {
    json!({"sub": subject, "aud": "deltasync", "exp": in_seconds(600)})
}

/// A set of the keys of these signers.
pub(crate) fn set(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

// === impl Signer ===

impl Signer {
    /// One that signs with ES256.
    pub(crate) fn elliptic(id: &str) -> Self {
        let (random, how) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let der = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(how, der.as_ref(), &random).unwrap();
        Self { id: id.to_owned(), pair: Pair::Elliptic(pair) }
    }

    /// One that signs with `EdDSA`.
    pub(crate) fn edwards(id: &str) -> Self {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
        Self { id: id.to_owned(), pair: Pair::Edwards(pair) }
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let alg = match self.pair {
            Pair::Elliptic(_) => "ES256",
            Pair::Edwards(_) => "EdDSA",
        };
        let header = json!({"alg": alg, "typ": "JWT", "kid": self.id});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signed = match &self.pair {
            Pair::Elliptic(pair) => {
                pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
            Pair::Edwards(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed))
    }

    fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Elliptic(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at(32);
                let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
                json!({"kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": x, "y": y})
            }
            Pair::Edwards(pair) => {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "alg": "EdDSA", "x": x})
            }
        }
    }
}

// === impl Shown ===

impl Shown {
    /// Shows this to everybody who asks, over HTTP.
    pub(crate) async fn start(answer: Option<String>) -> Self {
        Self::start_with(answer, None).await
    }

    /// The same over HTTPS, with this certificate.
    pub(crate) async fn start_over_tls(answer: Option<String>, pair: &Certificate) -> Self {
        Self::start_with(answer, Some(pair.acceptor())).await
    }

    async fn start_with(answer: Option<String>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (answers, asks) = (Arc::clone(&answer), Arc::clone(&asked));
        let serving = async move {
            let mut open = Vec::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                asks.fetch_add(1, Ordering::Relaxed);
                let mut stream: Box<dyn Line> = match &tls {
                    None => Box::new(stream),
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => Box::new(stream),
                        Err(_) => continue,
                    },
                };
                let mut request = [0; 1_024];
                if stream.read(&mut request).await.is_err() {
                    continue;
                }
                let Some(body) = answers.lock().clone() else {
                    // Says nothing, and stays.
                    open.push(stream);
                    continue;
                };
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
                let reply = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
                // Whoever does not read it has lost nothing.
                drop(stream.write_all(reply.as_bytes()).await);
                drop(stream.shutdown().await);
            }
        };
        let serving = AbortOnDropHandle::new(TaskTracker::new().spawn(serving));
        Self { address, answer, asked, _serving: serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    pub(crate) fn url_over_tls(&self) -> String {
        format!("https://localhost:{}/keys", self.address.port())
    }

    pub(crate) fn shows(&self, answer: Option<String>) {
        *self.answer.lock() = answer;
    }
}
