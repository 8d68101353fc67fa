//! `PostgreSQL`: a table of items with a version from a sequence and an index over it; readers
//! select what is above their version, and `NOTIFY` carries changes to who listens. `fsync` and
//! `synchronous_commit` are on, as by default.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::{Buf as _, Bytes};

use crate::failure::{Failure, Outcome, io};
use crate::process::{Process, Program, find, free_address, give, until_it_answers, version};
use crate::system::{
    Away, Doing, Feed, Item, Line, Login, Mark, Start, System, Taken, Visitor, Writer, stamp_of,
};
use crate::systems::ours::key;
use crate::systems::socket::Socket;

const NAME: &str = "PostgreSQL";
const EXE: &str = "postgres";

/// Version 3.0 of its protocol.
const PROTOCOL: i32 = 196_608;

/// Each connection is a process, so it is not asked for thousands.
const LISTENERS_MAX: usize = 100;

const SETTINGS: &str = "-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=on \
    -c synchronous_commit=on -c max_connections=400 -c shared_buffers=256MB -c log_min_messages=fatal";

const TABLE: &str = "CREATE SEQUENCE IF NOT EXISTS versions; \
    CREATE TABLE IF NOT EXISTS items (collection int, key text, value bytea, version bigint, \
    PRIMARY KEY (collection, key)); \
    CREATE INDEX IF NOT EXISTS by_version ON items (collection, version)";

const PUT: &str = "INSERT INTO items VALUES ($1::int, $2, $3, nextval('versions')) \
    ON CONFLICT (collection, key) DO UPDATE SET value = excluded.value, version = excluded.version";

/// Changes travel with the notification: who is told need not ask.
const TRIGGER: &str = "CREATE OR REPLACE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS \
    'BEGIN PERFORM pg_notify(''c'' || NEW.collection, NEW.key || encode(NEW.value, ''hex'')); \
    RETURN NULL; END'; \
    CREATE OR REPLACE TRIGGER tell AFTER INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION told()";

/// The server.
pub(crate) struct Postgres {
    program: Program,
    process: Option<Process>,
}

struct PostgresLine(Program);

struct PostgresWriter {
    socket: Socket,
    output: Vec<u8>,
}

struct PostgresVisitor(Socket);

struct PostgresFeed {
    socket: Socket,
    listens: bool,
}

/// One message of the server.
struct Message {
    kind: u8,
    body: Bytes,
}

// === impl Postgres ===

impl Postgres {
    pub(crate) fn new(dir: &Path) -> Outcome<Self> {
        let (exe, initdb) = programs()?;
        let address = free_address()?;
        let dir = dir.join("postgres");
        fs::create_dir_all(&dir).map_err(io("make a directory"))?;
        let dir = fs::canonicalize(&dir).map_err(io("make a directory"))?;
        let owner = owner();
        let data = dir.join("data");
        let mut command = Command::new(initdb);
        command.args(["-A", "trust", "-U", "bench", "--no-sync", "-D"]).arg(&data);
        if let Some(owner) = owner {
            give(&dir, owner)?;
            crate::process::run_as(&mut command, owner);
        }
        let made = command.current_dir(&dir).output().map_err(io("run initdb"))?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr).into_owned();
            return Err(Failure::Peer { system: NAME, said });
        }
        let mut arguments = vec!["-D".to_owned(), data.display().to_string()];
        arguments.extend(["-p".to_owned(), address.port().to_string()]);
        arguments.extend(SETTINGS.split_whitespace().map(str::to_owned));
        let log = dir.join("log");
        let program = Program { exe, arguments, address, log, owner, stop_signal: "-INT" };
        Ok(Self { program, process: None })
    }
}

/// The server and what makes its directory. Debian keeps them out of the path.
fn programs() -> Outcome<(PathBuf, PathBuf)> {
    let beside = |exe: &Path| exe.canonicalize().ok().map(|exe| exe.with_file_name("initdb"));
    let of_debian = || {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok);
        versions
            .map(|version| version.path().join("bin/postgres"))
            .filter(|exe| exe.is_file())
            .max()
    };
    let exe = find(EXE).or_else(of_debian).ok_or(Failure::NotHere(NAME, EXE))?;
    let initdb = beside(&exe).filter(|file| file.is_file());
    Ok((exe, initdb.ok_or(Failure::NotHere(NAME, "initdb"))?))
}

/// It refuses to run as root: who runs it then, the user that its package makes.
fn owner() -> Option<(u32, u32)> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    if line.split_whitespace().next() != Some("0") {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields: Vec<&str> =
        users.lines().find(|line| line.starts_with("postgres:"))?.split(':').collect();
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

impl System for Postgres {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        version(&self.program.exe, "--version")
    }

    fn start(&mut self) -> Doing<'_, ()> {
        Box::pin(async {
            self.process = None;
            self.process = Some(self.program.start().await?);
            let program = &self.program;
            until_it_answers("the start of PostgreSQL", || {
                Box::pin(async { query(program, TABLE).await.map(drop) })
            })
            .await
        })
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::id)
    }

    fn connect(&self) -> Doing<'_, Box<dyn Line>> {
        Box::pin(async { Ok(Box::new(PostgresLine(self.program.clone())) as Box<dyn Line>) })
    }

    fn prepare_fan_out(&self) -> Doing<'_, ()> {
        Box::pin(async { query(&self.program, TRIGGER).await.map(drop) })
    }

    fn coalesces(&self) -> bool {
        true
    }

    fn subscribers_max(&self) -> Option<(usize, &'static str)> {
        Some((LISTENERS_MAX, "each of its connections is a process"))
    }
}

/// A connection that may be asked.
async fn open(program: &Program) -> Outcome<Socket> {
    let mut socket = Socket::connect(NAME, program.address).await?;
    let words = b"user\0bench\0database\0postgres\0\0";
    let mut hello = Vec::new();
    put_i32(&mut hello, 8 + words.len());
    hello.extend_from_slice(&PROTOCOL.to_be_bytes());
    hello.extend_from_slice(words);
    socket.send(&hello).await?;
    until_ready(&mut socket, |_| {}).await?;
    Ok(socket)
}

/// Asks on a connection of its own; the rows as they came.
async fn query(program: &Program, text: &str) -> Outcome<Vec<Bytes>> {
    let mut socket = open(program).await?;
    let mut rows = Vec::new();
    ask(&mut socket, text, |message| {
        if message.kind == b'D' {
            rows.push(message.body.clone());
        }
    })
    .await?;
    Ok(rows)
}

async fn ask(socket: &mut Socket, text: &str, taking: impl FnMut(&Message)) -> Outcome<()> {
    let mut output = Vec::new();
    message_of(&mut output, b'Q', |body| {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    });
    socket.send(&output).await?;
    until_ready(socket, taking).await
}

/// Takes messages until the server is ready for the next question.
async fn until_ready(socket: &mut Socket, mut taking: impl FnMut(&Message)) -> Outcome<()> {
    loop {
        let message = message(socket).await?;
        match message.kind {
            b'Z' => return Ok(()),
            b'E' => return Err(socket.wrong(String::from_utf8_lossy(&message.body))),
            _ => taking(&message),
        }
    }
}

async fn message(socket: &mut Socket) -> Outcome<Message> {
    loop {
        if let Some([kind, length @ ..]) = socket.input.first_chunk::<5>() {
            let whole = 1 + u32::from_be_bytes(*length) as usize;
            if socket.input.len() >= whole {
                let kind = *kind;
                let mut body = socket.input.split_to(whole).freeze();
                body.advance(5);
                return Ok(Message { kind, body });
            }
        }
        socket.more().await?;
    }
}

fn put_i32(output: &mut Vec<u8>, number: usize) {
    let number = i32::try_from(number).expect("messages here are small");
    output.extend_from_slice(&number.to_be_bytes());
}

/// A message: its kind, its length, its body.
fn message_of(output: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    output.push(kind);
    let at = output.len();
    output.extend_from_slice(&[0; 4]);
    body(output);
    let length = u32::try_from(output.len() - at).expect("messages here are small");
    output[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// The columns of a row.
fn columns(mut row: Bytes) -> Vec<Bytes> {
    let count = row.try_get_u16().unwrap_or(0);
    let mut column = || {
        let length = usize::try_from(row.try_get_i32().ok()?).ok()?;
        (row.len() >= length).then(|| row.split_to(length))
    };
    (0..count).map(|_| column().unwrap_or_default()).collect()
}

fn number(text: Option<&Bytes>) -> Option<u64> {
    std::str::from_utf8(text?).ok()?.parse().ok()
}

/// The first eight bytes of hexadecimal text.
fn stamp_of_hex(text: &[u8]) -> Option<[u8; 8]> {
    let digits = std::str::from_utf8(text.get(..16)?).ok()?;
    u64::from_str_radix(digits, 16).ok().map(u64::to_be_bytes)
}

impl Visitor for PostgresVisitor {
    fn log_in<'a>(&'a mut self, away: &'a Away) -> Doing<'a, Login> {
        Box::pin(log_in(&mut self.0, &away.held))
    }
}

/// Who comes back asks for what of its collections is above its versions.
async fn log_in(socket: &mut Socket, held: &[(u32, Mark)]) -> Outcome<Login> {
    let pairs: Vec<String> =
        held.iter().map(|(collection, mark)| format!("({collection},{})", mark.at)).collect();
    let text = format!(
        "SELECT i.collection, i.key, i.value, i.version FROM (VALUES {}) AS held(collection, version) \
         JOIN items i ON i.collection = held.collection AND i.version > held.version",
        pairs.join(",")
    );
    let mut login = Login { changed: 0, bytes: text.len() as u64 };
    ask(socket, &text, |message| {
        login.changed += u64::from(message.kind == b'D');
        login.bytes += message.body.len() as u64 + 5;
    })
    .await?;
    Ok(login)
}

// === impl PostgresLine ===

impl Line for PostgresLine {
    fn writer(&self) -> Doing<'_, Box<dyn Writer>> {
        Box::pin(async {
            let mut socket = open(&self.0).await?;
            let mut output = Vec::new();
            message_of(&mut output, b'P', |body| {
                body.extend_from_slice(b"put\0");
                body.extend_from_slice(PUT.as_bytes());
                body.extend_from_slice(&[0, 0, 0]);
            });
            message_of(&mut output, b'S', |_| {});
            socket.send(&output).await?;
            until_ready(&mut socket, |_| {}).await?;
            Ok(Box::new(PostgresWriter { socket, output }) as Box<dyn Writer>)
        })
    }

    fn feed(&self, collection: u32, from: Start) -> Doing<'_, Box<dyn Feed>> {
        Box::pin(async move {
            let mut socket = open(&self.0).await?;
            let after = match from {
                Start::Scratch => 0,
                Start::After(mark) => mark.at,
            };
            ask(&mut socket, &format!("LISTEN c{collection}"), |_| {}).await?;
            let mut output = Vec::new();
            let text = format!(
                "SELECT key, value, version FROM items WHERE collection = {collection} AND version > {after} \
                 ORDER BY version"
            );
            select_binary(&mut output, &text);
            socket.send(&output).await?;
            Ok(Box::new(PostgresFeed { socket, listens: false }) as Box<dyn Feed>)
        })
    }

    fn mark(&self, collection: u32) -> Doing<'_, Mark> {
        Box::pin(async move {
            let text = format!(
                "SELECT coalesce(max(version), 0) FROM items WHERE collection = {collection}"
            );
            let rows = query(&self.0, &text).await?;
            let version = rows.first().and_then(|row| number(columns(row.clone()).first()));
            Ok(Mark { life: 1, at: version.unwrap_or(0) })
        })
    }

    fn visitor(&self) -> Doing<'_, Option<Box<dyn Visitor>>> {
        Box::pin(async {
            let socket = open(&self.0).await?;
            Ok(Some(Box::new(PostgresVisitor(socket)) as Box<dyn Visitor>))
        })
    }
}

/// A question whose answer comes as stored, not as text.
fn select_binary(output: &mut Vec<u8>, text: &str) {
    message_of(output, b'P', |body| {
        body.push(0);
        body.extend_from_slice(text.as_bytes());
        body.extend_from_slice(&[0, 0, 0]);
    });
    // No name, no parameters; all results binary.
    message_of(output, b'B', |body| body.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 1]));
    message_of(output, b'E', |body| body.extend_from_slice(&[0; 5]));
    message_of(output, b'S', |_| {});
}

// === impl PostgresWriter ===

impl Writer for PostgresWriter {
    fn write<'a>(&'a mut self, items: &'a [Item]) -> Doing<'a, ()> {
        Box::pin(async move {
            self.output.clear();
            for item in items {
                let (collection, key) = (item.collection.to_string(), key(item.key));
                message_of(&mut self.output, b'B', |body| {
                    // Numbers and keys as text, the value as it is.
                    body.extend_from_slice(b"\0put\0\0\x03\0\0\0\0\0\x01\0\x03");
                    for part in [collection.as_bytes(), key.as_bytes(), &item.value] {
                        put_i32(body, part.len());
                        body.extend_from_slice(part);
                    }
                    body.extend_from_slice(&[0, 0]);
                });
                message_of(&mut self.output, b'E', |body| body.extend_from_slice(&[0; 5]));
            }
            // What comes before a Sync is one transaction.
            message_of(&mut self.output, b'S', |_| {});
            self.socket.send(&self.output).await?;
            until_ready(&mut self.socket, |_| {}).await
        })
    }
}

// === impl PostgresFeed ===

impl Feed for PostgresFeed {
    fn next<'a>(&'a mut self, taken: &'a mut Taken) -> Doing<'a, ()> {
        Box::pin(async move {
            let message = message(&mut self.socket).await?;
            match message.kind {
                b'D' => {
                    let row = columns(message.body);
                    let bytes = row.iter().map(Bytes::len).sum();
                    taken.take(bytes, || stamp_of(row.get(1)?));
                }
                b'A' if self.listens => {
                    // Process, channel, payload: the key and the value in hexadecimal.
                    let mut parts =
                        message.body.get(4..).unwrap_or_default().split(|byte| *byte == 0);
                    let payload = parts.nth(1).unwrap_or_default();
                    taken.take(payload.len(), || stamp_of_hex(payload.get(9..)?));
                }
                b'Z' => {
                    self.listens = true;
                    taken.caught_up = true;
                }
                b'E' => return Err(self.socket.wrong(String::from_utf8_lossy(&message.body))),
                _ => {}
            }
            Ok(())
        })
    }
}
