//! A page's side of gRPC-Web, down to the bytes: HTTP/1.1 by hand, over any line.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wait::within;

/// Where the pages of these tests come from.
pub const ORIGIN: &str = "https://app.example";

/// Bytes before a message: a flag and its length.
const PREFIX_LEN: usize = 5;

/// Bytes in both directions.
pub trait Line: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Line for T {}

/// A connection that speaks HTTP/1.1.
pub struct WebLine {
    line: Box<dyn Line>,
    /// What has come and was not looked at.
    came: VecDeque<u8>,
    left: Left,
}

/// What is to come of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Chunks,
    Bytes(usize),
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// Of HTTP.
    pub status: u16,
    headers: Vec<(String, String)>,
}

/// How a page writes bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As they are.
    Binary,
    /// In base64.
    Text,
}

/// How a call was answered.
#[derive(Debug)]
pub struct WebAnswer {
    /// What came before the body.
    pub head: Head,
    /// The messages.
    pub messages: Vec<Vec<u8>>,
    /// `grpc-status`, wherever it stood.
    pub code: i32,
    /// The trailers of the body, as they are.
    pub trailers: String,
}

/// What a body holds, frame by frame.
#[derive(Debug)]
pub struct Frames {
    coding: Coding,
    text: Vec<u8>,
    bytes: Vec<u8>,
}

/// A frame.
#[derive(Debug, PartialEq, Eq)]
pub enum WebFrame {
    /// A message.
    Message(Vec<u8>),
    /// The last one.
    Trailers(String),
}

// === impl Coding ===

impl Coding {
    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Binary => "application/grpc-web+proto",
            Self::Text => "application/grpc-web-text+proto",
        }
    }

    /// The body of a request with this message.
    pub fn body(self, message: &impl Message) -> Vec<u8> {
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        framed.extend(message.encode_to_vec());
        match self {
            Self::Binary => framed,
            Self::Text => STANDARD.encode(framed).into_bytes(),
        }
    }
}

// === impl WebLine ===

impl std::fmt::Debug for WebLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebLine").field("left", &self.left).finish_non_exhaustive()
    }
}

impl WebLine {
    /// A connection in plain text.
    pub async fn to(address: SocketAddr) -> Self {
        Self::over(within("a connection", TcpStream::connect(address)).await.unwrap())
    }

    /// One over this line.
    #[must_use]
    pub fn over(line: impl Line + 'static) -> Self {
        Self { line: Box::new(line), came: VecDeque::new(), left: Left::Bytes(0) }
    }

    /// Sends bytes as they are; false if nobody takes them.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        within("bytes to be taken", self.line.write_all(bytes)).await.is_ok()
    }

    /// Sends the head of a request, for a body of so many bytes.
    pub async fn begin(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: usize,
    ) -> bool {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        write!(head, "content-length: {length}\r\n\r\n").unwrap();
        self.send(head.as_bytes()).await
    }

    /// Sends a request; the head of its answer.
    pub async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Head {
        assert!(self.begin(method, path, headers, body.len()).await && self.send(body).await);
        self.head().await.expect("an answer")
    }

    /// The head of the next answer; `None` = the line has ended.
    pub async fn head(&mut self) -> Option<Head> {
        assert_eq!(self.left, Left::Bytes(0), "a body is not at its end");
        let mut lines = Vec::new();
        loop {
            match self.line().await?.as_str() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let status = lines.remove(0);
        let status = status.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1")[..3].parse().unwrap();
        let headers = lines.iter().map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        let head = Head { status, headers: headers.collect() };
        self.left = match head.header("content-length") {
            Some(length) => Left::Bytes(length.parse().unwrap()),
            None if head.header("transfer-encoding") == Some("chunked") => Left::Chunks,
            None => Left::Bytes(0),
        };
        Some(head)
    }

    /// The next part of a body; `None` = it has ended, or the line has.
    pub async fn part(&mut self) -> Option<Vec<u8>> {
        let length = match self.left {
            Left::Bytes(length) => length,
            Left::Chunks => usize::from_str_radix(&self.line().await?, 16).unwrap(),
        };
        let bytes = self.bytes(length).await?;
        if self.left == Left::Chunks {
            self.line().await?;
        }
        if self.left != Left::Chunks || bytes.is_empty() {
            self.left = Left::Bytes(0);
        }
        Some(bytes).filter(|bytes| !bytes.is_empty())
    }

    /// Everything that still comes until the line ends.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.read().await {}
        self.came.drain(..).collect()
    }

    /// Makes a call with one message, and takes all of its answer.
    pub async fn call(
        &mut self,
        path: &str,
        coding: Coding,
        headers: &[(&str, &str)],
        message: &impl Message,
    ) -> WebAnswer {
        let head = self.begin_call(path, coding, headers, message).await;
        let (mut frames, mut messages) = (Frames::new(coding), Vec::new());
        let mut trailers = String::new();
        while let Some(part) = self.part().await {
            for frame in frames.take(&part) {
                match frame {
                    WebFrame::Message(message) => messages.push(message),
                    WebFrame::Trailers(last) => trailers = last,
                }
            }
        }
        let in_body = trailers.lines().find_map(|line| line.strip_prefix("grpc-status: "));
        let code = in_body.or_else(|| head.header("grpc-status")).unwrap_or("-1").parse().unwrap();
        WebAnswer { head, messages, code, trailers }
    }

    /// Makes a call with one message; the head of its answer.
    pub async fn begin_call(
        &mut self,
        path: &str,
        coding: Coding,
        headers: &[(&str, &str)],
        message: &impl Message,
    ) -> Head {
        let mut all = vec![("content-type", coding.media_type()), ("x-grpc-web", "1")];
        all.extend(headers);
        self.ask("POST", path, &all, &coding.body(message)).await
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.came.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.came.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            if !self.read().await {
                return None;
            }
        }
    }

    async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.came.len() < count {
            if !self.read().await {
                return None;
            }
        }
        Some(self.came.drain(..count).collect())
    }

    /// False: nothing comes any more.
    async fn read(&mut self) -> bool {
        let mut bytes = vec![0; 64 * 1024];
        let read = within("an answer over HTTP/1.1", self.line.read(&mut bytes)).await;
        let count = read.unwrap_or(0);
        self.came.extend(&bytes[..count]);
        count > 0
    }
}

// === impl Head ===

impl Head {
    /// The value of a header, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

// === impl Frames ===

impl Frames {
    /// Of an empty body.
    #[must_use]
    pub fn new(coding: Coding) -> Self {
        Self { coding, text: Vec::new(), bytes: Vec::new() }
    }

    /// The frames that are whole with these bytes.
    pub fn take(&mut self, part: &[u8]) -> Vec<WebFrame> {
        match self.coding {
            Coding::Binary => self.bytes.extend(part),
            Coding::Text => {
                self.text.extend(part);
                let whole = self.text.len() / 4 * 4;
                for quad in self.text.drain(..whole).collect::<Vec<_>>().chunks(4) {
                    self.bytes.extend(STANDARD.decode(quad).unwrap());
                }
            }
        }
        std::iter::from_fn(|| self.next()).collect()
    }

    fn next(&mut self) -> Option<WebFrame> {
        let [flag, length @ ..] = *self.bytes.first_chunk::<PREFIX_LEN>()?;
        let end = PREFIX_LEN + u32::from_be_bytes(length) as usize;
        if self.bytes.len() < end {
            return None;
        }
        let frame: Vec<u8> = self.bytes.drain(..end).skip(PREFIX_LEN).collect();
        Some(match flag {
            0 => WebFrame::Message(frame),
            0x80 => WebFrame::Trailers(String::from_utf8(frame).unwrap()),
            flag => panic!("a frame with flag {flag}"),
        })
    }
}
