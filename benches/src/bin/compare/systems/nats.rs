//! NATS `JetStream`: all collections are one stream on disk that keeps the last message of each
//! subject; a reader is a push consumer without acknowledgements. Servers before 2.10 have no
//! setting that syncs before a publish is acknowledged: then the name says so.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::{Buf as _, Bytes};
use serde_json::{Value as Json, json};

use crate::failure::{Failure, Outcome, io};
use crate::process::{Process, Program, find, free_address, until_it_answers, version};
use crate::system::{Doing, Feed, Item, Line, Mark, Start, System, Taken, Writer, stamp_of};
use crate::systems::ours::key;
use crate::systems::socket::Socket;

const NAME: &str = "JetStream";
const NAME_UNSYNCED: &str = "JetStream, NOT synced";
const EXE: &str = "nats-server";
const STREAM: &str = "bench";

/// The server.
pub(crate) struct Nats {
    program: Program,
    process: Option<Process>,
    synced: bool,
}

struct NatsLine(SocketAddr);

struct NatsWriter {
    socket: Socket,
    output: Vec<u8>,
}

struct NatsFeed {
    socket: Socket,
    /// What came before the answer that the consumer is there; the first comes last.
    early: Vec<Message>,
}

/// One message.
#[derive(Debug)]
struct Message {
    subject: String,
    payload: Bytes,
}

fn subject(collection: u32) -> String {
    format!("c.{collection:05}")
}

/// Whether a server of this version can sync before it acknowledges.
fn can_sync(version: &str) -> bool {
    let number = version.rsplit('v').next().unwrap_or_default();
    let mut parts = number.split('.').map_while(|part| part.parse::<u32>().ok());
    (parts.next(), parts.next()) >= (Some(2), Some(10))
}

// === impl Nats ===

impl Nats {
    pub(crate) fn new(dir: &Path) -> Outcome<Self> {
        let exe = find(EXE).ok_or(Failure::NotHere(NAME, EXE))?;
        let address = free_address()?;
        let dir = dir.join("nats");
        std::fs::create_dir_all(&dir).map_err(io("make a directory"))?;
        let synced = can_sync(&version(&exe, "--version"));
        let config = config(&dir, address, synced)?;
        let arguments = vec!["-c".to_owned(), config.display().to_string()];
        let log = dir.join("log");
        let program = Program { exe, arguments, address, log, owner: None, stop_signal: "-TERM" };
        Ok(Self { program, process: None, synced })
    }
}

fn config(dir: &Path, address: SocketAddr, synced: bool) -> Outcome<PathBuf> {
    let mut text = format!("listen: \"{address}\"\nmax_connections: 15000\njetstream {{\n");
    let sync = if synced { "  sync_interval: always\n" } else { "" };
    // Writing to a string cannot fail.
    let _written = writeln!(
        text,
        "  store_dir: \"{}\"\n  max_file: 20G\n{sync}}}",
        dir.join("data").display()
    );
    let file = dir.join("config");
    std::fs::write(&file, text).map_err(io("write a configuration"))?;
    Ok(file)
}

impl System for Nats {
    fn name(&self) -> &'static str {
        if self.synced { NAME } else { NAME_UNSYNCED }
    }

    fn version(&self) -> String {
        version(&self.program.exe, "--version")
    }

    fn start(&mut self) -> Doing<'_, ()> {
        Box::pin(async {
            self.process = None;
            self.process = Some(self.program.start().await?);
            // Making it again, as it is, is no error.
            let stream = json!({
                "name": STREAM, "subjects": ["c.>"], "storage": "file", "retention": "limits",
                "max_msgs_per_subject": 1, "discard": "old", "num_replicas": 1,
            });
            let (address, stream) = (self.program.address, &stream);
            until_it_answers("the start of NATS", || {
                Box::pin(async move {
                    let mut socket = open(address).await?;
                    let subject = format!("$JS.API.STREAM.CREATE.{STREAM}");
                    request(&mut socket, &subject, stream).await.map(drop)
                })
            })
            .await
        })
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::id)
    }

    fn connect(&self) -> Doing<'_, Box<dyn Line>> {
        Box::pin(async { Ok(Box::new(NatsLine(self.program.address)) as Box<dyn Line>) })
    }

    fn coalesces(&self) -> bool {
        true
    }
}

/// A connection that has said who it is, and listens on its inbox.
async fn open(address: SocketAddr) -> Outcome<Socket> {
    let mut socket = Socket::connect(NAME, address).await?;
    socket.name = format!("_INBOX.{:016x}", rand::random::<u64>());
    let hello = format!(
        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}}\r\n\
         SUB {name}.api 1\r\nSUB {name}.ack 3\r\nPING\r\n",
        name = socket.name,
    );
    socket.send(hello.as_bytes()).await?;
    while !socket.input.windows(6).any(|some| some == b"PONG\r\n") {
        socket.more().await?;
    }
    socket.input.clear();
    Ok(socket)
}

/// Asks the server for something about streams.
async fn request(socket: &mut Socket, subject: &str, body: &Json) -> Outcome<Json> {
    request_beside(socket, (subject, body), &mut Vec::new()).await
}

/// The same; what comes meanwhile goes into `others`.
async fn request_beside(
    socket: &mut Socket,
    (subject, body): (&str, &Json),
    others: &mut Vec<Message>,
) -> Outcome<Json> {
    let reply = format!("{}.api", socket.name);
    let body = body.to_string();
    let text = format!("PUB {subject} {reply} {}\r\n{body}\r\n", body.len());
    socket.send(text.as_bytes()).await?;
    loop {
        let message = message(socket).await?;
        if message.subject == reply {
            let answer: Json = serde_json::from_slice(&message.payload).unwrap_or_default();
            if answer["error"].is_object() {
                return Err(socket.wrong(answer["error"].to_string()));
            }
            return Ok(answer);
        }
        others.push(message);
    }
}

// === impl NatsLine ===

impl Line for NatsLine {
    fn writer(&self) -> Doing<'_, Box<dyn Writer>> {
        Box::pin(async {
            let socket = open(self.0).await?;
            Ok(Box::new(NatsWriter { socket, output: Vec::new() }) as Box<dyn Writer>)
        })
    }

    fn feed(&self, collection: u32, from: Start) -> Doing<'_, Box<dyn Feed>> {
        Box::pin(async move {
            let mut socket = open(self.0).await?;
            // A consumer delivers to a subscription of exactly its subject, not to one that covers it.
            let deliver_to = format!("{}.feed", socket.name);
            socket.send(format!("SUB {deliver_to} 2\r\n").as_bytes()).await?;
            let mut config = json!({
                "deliver_subject": deliver_to, "ack_policy": "none",
                "replay_policy": "instant", "filter_subject": format!("{}.>", subject(collection)),
                "deliver_policy": "all", "mem_storage": true, "num_replicas": 1,
            });
            if let Start::After(mark) = from {
                config["deliver_policy"] = "by_start_sequence".into();
                config["opt_start_seq"] = (mark.at + 1).into();
            }
            let body = json!({ "stream_name": STREAM, "config": config });
            let subject = format!("$JS.API.CONSUMER.CREATE.{STREAM}");
            let mut early = Vec::new();
            request_beside(&mut socket, (&subject, &body), &mut early).await?;
            early.reverse();
            Ok(Box::new(NatsFeed { socket, early }) as Box<dyn Feed>)
        })
    }

    fn mark(&self, _collection: u32) -> Doing<'_, Mark> {
        Box::pin(async move {
            let mut socket = open(self.0).await?;
            let subject = format!("$JS.API.STREAM.INFO.{STREAM}");
            let info = request(&mut socket, &subject, &json!({})).await?;
            Ok(Mark { life: 1, at: info["state"]["last_seq"].as_u64().unwrap_or(0) })
        })
    }
}

// === impl NatsWriter ===

impl Writer for NatsWriter {
    fn write<'a>(&'a mut self, items: &'a [Item]) -> Doing<'a, ()> {
        Box::pin(async move {
            self.output.clear();
            for item in items {
                let (subject, key) = (subject(item.collection), key(item.key));
                let head = format!(
                    "PUB {subject}.{key} {}.ack {}\r\n",
                    self.socket.name,
                    item.value.len()
                );
                self.output.extend_from_slice(head.as_bytes());
                self.output.extend_from_slice(&item.value);
                self.output.extend_from_slice(b"\r\n");
            }
            self.socket.send(&self.output).await?;
            for _ in items {
                let message = message(&mut self.socket).await?;
                let said = String::from_utf8_lossy(&message.payload);
                if said.contains("\"error\"") || !said.contains("\"seq\"") {
                    return Err(self.socket.wrong(said.into_owned()));
                }
            }
            Ok(())
        })
    }
}

// === impl NatsFeed ===

impl Feed for NatsFeed {
    fn next<'a>(&'a mut self, taken: &'a mut Taken) -> Doing<'a, ()> {
        Box::pin(async move {
            let message = match self.early.pop() {
                Some(message) => message,
                None => message(&mut self.socket).await?,
            };
            let bytes = message.subject.len() + message.payload.len();
            taken.take(bytes, || stamp_of(&message.payload));
            Ok(())
        })
    }
}

/// The next message; signs of life are answered.
async fn message(socket: &mut Socket) -> Outcome<Message> {
    loop {
        let Some(end) = socket.input.windows(2).position(|pair| pair == b"\r\n") else {
            socket.more().await?;
            continue;
        };
        let line = String::from_utf8_lossy(&socket.input[..end]).into_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["MSG", subject, _, .., length] => {
                let length = length.parse::<usize>().unwrap_or(0);
                while socket.input.len() < end + 2 + length + 2 {
                    socket.more().await?;
                }
                let mut whole = socket.input.split_to(end + 2 + length + 2).freeze();
                whole.advance(end + 2);
                whole.truncate(length);
                return Ok(Message { subject: subject.to_owned(), payload: whole });
            }
            ["PING"] => socket.send(b"PONG\r\n").await?,
            ["PONG" | "+OK"] | ["INFO", ..] => {}
            _ => return Err(socket.wrong(line)),
        }
        socket.input.advance(end + 2);
    }
}
