//! Redis Streams: a collection is a stream, a change is an entry. `appendfsync always`; what is
//! written at once is a transaction.

use std::net::SocketAddr;
use std::path::Path;

use bytes::{Buf as _, Bytes};

use crate::failure::{Failure, Outcome, io};
use crate::process::{Process, Program, find, free_address, until_it_answers};
use crate::system::{
    Away, Doing, Feed, Item, Line, Login, Mark, Start, System, Taken, Visitor, Writer, stamp_of,
};
use crate::systems::ours::key;
use crate::systems::socket::Socket;

const NAME: &str = "Redis";
const EXE: &str = "redis-server";

/// Entries of one read.
const ENTRIES: &str = "1000";

/// The server.
pub(crate) struct Redis {
    program: Program,
    process: Option<Process>,
}

struct RedisLine(SocketAddr);

struct RedisWriter {
    socket: Socket,
    output: Vec<u8>,
}

struct RedisVisitor(Socket);

struct RedisFeed {
    socket: Socket,
    collection: u32,
    last: Mark,
}

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reply {
    /// A simple string, an error without its mark, or a number.
    Line(String),
    Error(String),
    Bulk(Bytes),
    Nothing,
    Many(Vec<Reply>),
}

fn stream(collection: u32) -> String {
    format!("c:{collection:05}")
}

// === impl Redis ===

impl Redis {
    pub(crate) fn new(dir: &Path) -> Outcome<Self> {
        let exe = find(EXE).ok_or(Failure::NotHere(NAME, EXE))?;
        let address = free_address()?;
        let dir = dir.join("redis");
        std::fs::create_dir_all(&dir).map_err(io("make a directory"))?;
        let dir = std::fs::canonicalize(&dir).map_err(io("make a directory"))?;
        let arguments = format!(
            "--bind 127.0.0.1 --port {} --appendonly yes --appendfsync always --maxclients 15000 --dir",
            address.port()
        );
        let mut arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        arguments.push(dir.display().to_string());
        arguments.extend(["--save".to_owned(), String::new()]);
        let log = dir.join("log");
        let program = Program { exe, arguments, address, log, owner: None, stop_signal: "-TERM" };
        Ok(Self { program, process: None })
    }
}

impl System for Redis {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        crate::process::version(&self.program.exe, "--version")
    }

    fn start(&mut self) -> Doing<'_, ()> {
        Box::pin(async {
            self.process = None;
            self.process = Some(self.program.start().await?);
            // Until it has read its file it refuses everything.
            let address = self.program.address;
            until_it_answers("the start of Redis", || {
                Box::pin(async move {
                    let mut socket = Socket::connect(NAME, address).await?;
                    ask(&mut socket, &[b"PING"]).await.map(drop)
                })
            })
            .await
        })
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::id)
    }

    fn connect(&self) -> Doing<'_, Box<dyn Line>> {
        Box::pin(async { Ok(Box::new(RedisLine(self.program.address)) as Box<dyn Line>) })
    }
}

// === impl RedisLine ===

impl Line for RedisLine {
    fn writer(&self) -> Doing<'_, Box<dyn Writer>> {
        Box::pin(async {
            let socket = Socket::connect(NAME, self.0).await?;
            Ok(Box::new(RedisWriter { socket, output: Vec::new() }) as Box<dyn Writer>)
        })
    }

    fn feed(&self, collection: u32, from: Start) -> Doing<'_, Box<dyn Feed>> {
        Box::pin(async move {
            let socket = Socket::connect(NAME, self.0).await?;
            let last = match from {
                Start::Scratch => Mark { life: 0, at: 0 },
                Start::After(mark) => mark,
            };
            Ok(Box::new(RedisFeed { socket, collection, last }) as Box<dyn Feed>)
        })
    }

    fn mark(&self, collection: u32) -> Doing<'_, Mark> {
        Box::pin(async move {
            let mut socket = Socket::connect(NAME, self.0).await?;
            let name = stream(collection);
            let words: [&[u8]; 6] = [b"XREVRANGE", name.as_bytes(), b"+", b"-", b"COUNT", b"1"];
            let reply = ask(&mut socket, &words).await?;
            let id = reply.part(0).and_then(|entry| entry.part(0)).and_then(Reply::id);
            id.ok_or_else(|| socket.wrong(format!("no last entry: {reply:?}")))
        })
    }

    fn visitor(&self) -> Doing<'_, Option<Box<dyn Visitor>>> {
        Box::pin(async {
            let socket = Socket::connect(NAME, self.0).await?;
            Ok(Some(Box::new(RedisVisitor(socket)) as Box<dyn Visitor>))
        })
    }
}

// === impl RedisWriter ===

impl Writer for RedisWriter {
    fn write<'a>(&'a mut self, items: &'a [Item]) -> Doing<'a, ()> {
        Box::pin(async move {
            self.output.clear();
            let atomic = items.len() > 1;
            if atomic {
                command(&mut self.output, &[b"MULTI"]);
            }
            for item in items {
                let (name, key) = (stream(item.collection), key(item.key));
                let words: [&[u8]; 7] =
                    [b"XADD", name.as_bytes(), b"*", b"k", key.as_bytes(), b"v", &item.value];
                command(&mut self.output, &words);
            }
            if atomic {
                command(&mut self.output, &[b"EXEC"]);
            }
            self.socket.send(&self.output).await?;
            let replies = if atomic { items.len() + 2 } else { 1 };
            for _ in 0..replies {
                reply(&mut self.socket).await?;
            }
            Ok(())
        })
    }
}

// === impl RedisFeed ===

impl Feed for RedisFeed {
    fn next<'a>(&'a mut self, taken: &'a mut Taken) -> Doing<'a, ()> {
        Box::pin(async move {
            let after = format!("{}-{}", self.last.life, self.last.at);
            let name = stream(self.collection);
            let words: [&[u8]; 8] = [
                b"XREAD",
                b"COUNT",
                ENTRIES.as_bytes(),
                b"BLOCK",
                b"0",
                b"STREAMS",
                name.as_bytes(),
                after.as_bytes(),
            ];
            let reply = ask(&mut self.socket, &words).await?;
            let entries = reply.part(0).and_then(|stream| stream.part(1));
            let Some(Reply::Many(entries)) = entries else {
                return Err(self.socket.wrong(format!("no entries: {reply:?}")));
            };
            take(entries, taken);
            self.last = entries.last().and_then(|entry| entry.part(0)?.id()).unwrap_or(self.last);
            Ok(())
        })
    }
}

/// Takes the entries of a stream.
fn take(entries: &[Reply], taken: &mut Taken) {
    for entry in entries {
        let fields = |index| match entry.part(1)?.part(index)? {
            Reply::Bulk(bytes) => Some(bytes),
            Reply::Line(_) | Reply::Error(_) | Reply::Nothing | Reply::Many(_) => None,
        };
        let (key, value) = (fields(1), fields(3));
        let bytes = key.map_or(0, Bytes::len) + value.map_or(0, Bytes::len);
        taken.take(bytes, || stamp_of(value?));
    }
}

impl Visitor for RedisVisitor {
    fn log_in<'a>(&'a mut self, away: &'a Away) -> Doing<'a, Login> {
        Box::pin(log_in(&mut self.0, &away.held))
    }
}

/// Who comes back asks where its streams have gone on, and takes what is new.
async fn log_in(socket: &mut Socket, held: &[(u32, Mark)]) -> Outcome<Login> {
    let names: Vec<String> = held.iter().map(|(collection, _)| stream(*collection)).collect();
    let marks: Vec<String> =
        held.iter().map(|(_, mark)| format!("{}-{}", mark.life, mark.at)).collect();
    let mut words: Vec<&[u8]> = vec![b"XREAD", b"STREAMS"];
    words.extend(names.iter().chain(&marks).map(String::as_bytes));
    let mut output = Vec::new();
    command(&mut output, &words);
    socket.send(&output).await?;
    let (reply, length) = reply(socket).await?;
    let Reply::Many(streams) = reply else { return Ok(Login::default()) };
    Ok(Login { changed: streams.len() as u64, bytes: (output.len() + length) as u64 })
}

async fn ask(socket: &mut Socket, words: &[&[u8]]) -> Outcome<Reply> {
    let mut output = Vec::new();
    command(&mut output, words);
    socket.send(&output).await?;
    Ok(reply(socket).await?.0)
}

fn command(output: &mut Vec<u8>, words: &[&[u8]]) {
    output.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        output.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        output.extend_from_slice(word);
        output.extend_from_slice(b"\r\n");
    }
}

/// The next reply, and its length.
async fn reply(socket: &mut Socket) -> Outcome<(Reply, usize)> {
    loop {
        let mut end = 0;
        if is_whole(&socket.input, &mut end).is_some() {
            let mut bytes = socket.input.split_to(end).freeze();
            let reply = Reply::read(&mut bytes).ok_or_else(|| socket.wrong("no reply"))?;
            return match reply {
                Reply::Error(said) => Err(socket.wrong(said)),
                Reply::Line(_) | Reply::Bulk(_) | Reply::Nothing | Reply::Many(_) => {
                    Ok((reply, end))
                }
            };
        }
        socket.more().await?;
    }
}

/// Whether a whole reply begins at `at`; then `at` is its end.
fn is_whole(input: &[u8], at: &mut usize) -> Option<()> {
    let rest = input.get(*at..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let (mark, line) = rest[..end].split_first()?;
    *at += end + 2;
    match mark {
        b'$' => {
            if let Some(length) = number(line) {
                *at += length + 2;
            }
        }
        b'*' => {
            for _ in 0..number(line).unwrap_or(0) {
                is_whole(input, at)?;
            }
        }
        _ => {}
    }
    (*at <= input.len()).then_some(())
}

/// A count; `None` = there is nothing (-1).
fn number(line: &[u8]) -> Option<usize> {
    std::str::from_utf8(line).ok()?.parse().ok()
}

// === impl Reply ===

impl Reply {
    fn read(bytes: &mut Bytes) -> Option<Self> {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let line = bytes.split_to(end);
        bytes.advance(2);
        let (mark, line) = line.split_first()?;
        let text = || String::from_utf8_lossy(line).into_owned();
        Some(match mark {
            b'-' => Self::Error(text()),
            b'$' => match number(line) {
                Some(length) => {
                    let bulk = bytes.split_to(length);
                    bytes.advance(2);
                    Self::Bulk(bulk)
                }
                None => Self::Nothing,
            },
            b'*' => match number(line) {
                Some(count) => Self::Many((0..count).map_while(|_| Self::read(bytes)).collect()),
                None => Self::Nothing,
            },
            _ => Self::Line(text()),
        })
    }

    fn part(&self, index: usize) -> Option<&Self> {
        match self {
            Self::Many(parts) => parts.get(index),
            Self::Line(_) | Self::Error(_) | Self::Bulk(_) | Self::Nothing => None,
        }
    }

    /// The id of an entry: milliseconds and a number.
    fn id(&self) -> Option<Mark> {
        let Self::Bulk(text) = self else { return None };
        let (life, at) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Mark { life: life.parse().ok()?, at: at.parse().ok()? })
    }
}
