//! deltasync: the released program over gRPC on loopback, everything on as by default.

use std::path::{Path, PathBuf};

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use sync_proto::v1;
use sync_proto::v1::mutation::Op;
use sync_proto::v1::outcome::Result;
use sync_proto::v1::subscribe_response::Message;
use sync_proto::v1::sync_service_client::SyncServiceClient;
use sync_proto::v1::write_service_client::WriteServiceClient;
use tonic::Streaming;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::failure::{Failure, Outcome, io};
use crate::process::{Process, Program, free_address};
use crate::system::{
    Away, Doing, Feed, Item, Line, Login, Mark, Start, System, Taken, Visitor, Writer, stamp_of,
};

const NAME: &str = sync_benches::goals::OURS;
const NAME_WITH_TOKENS: &str = "deltasync, tokens";
const TOKEN: &str = "benchmark";

/// Room of a reader that is to be stalled soon.
const NARROW_BYTES: u32 = 1_024;

/// Limits that the largest workloads need, and no other setting.
const SETTINGS: [&str; 8] = [
    "--connections-max=20000",
    "--connections-per-peer-max=20000",
    "--streams-max=20000",
    "--streams-per-subject-max=20000",
    "--targets-max=200000",
    "--targets-per-subject-max=200000",
    // Only the size of an audience decides: the rate of filling is not that of a service.
    "--fan-out-per-s-max=1000000",
    "--log=warn",
];

/// The server.
pub(crate) struct Ours {
    program: Program,
    process: Option<Process>,
    token: Option<&'static str>,
}

/// Shows a token with each call, if there is one.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

/// A connection that shows a token.
pub(crate) type Shown = InterceptedService<Channel, Bearer>;

/// A connection.
pub(crate) struct OurLine {
    channel: Channel,
    bearer: Bearer,
}

struct OurWriter(WriteServiceClient<Shown>);

struct OurVisitor(SyncServiceClient<Shown>);

struct OurFeed(Streaming<v1::SubscribeResponse>);

/// What a collection of this number is called.
pub(crate) fn name(collection: u32) -> String {
    format!("bench/{collection:05}")
}

/// Who a user is.
fn subject(user: u32) -> String {
    format!("users/{user:05}")
}

fn inbox(user: u32) -> String {
    format!("inbox/{}", subject(user))
}

/// The bytes of a key.
pub(crate) fn key(number: u32) -> String {
    format!("k{number:08}")
}

/// A put as the wire has it.
pub(crate) fn put(item: &Item) -> v1::Mutation {
    let put = v1::PutItem { key: key(item.key).into(), value: item.value.clone(), sort_key: None };
    v1::Mutation { collection: name(item.collection), op: Some(Op::Put(put)) }
}

/// A target for the whole of a collection.
pub(crate) fn target(collection: String, from: Start) -> v1::Target {
    let cursor = match from {
        Start::Scratch => None,
        Start::After(Mark { life, at }) => Some(v1::Cursor { epoch: life, version: at, base: 0 }),
    };
    v1::Target { collection, cursor, ..Default::default() }
}

// === impl Ours ===

impl Ours {
    /// The program `exe` over a store below `dir`.
    pub(crate) fn new(exe: &Path, dir: &Path, tokens: bool) -> Outcome<Self> {
        let address = free_address()?;
        let dir = dir.join(if tokens { "ours-tokens" } else { "ours" });
        std::fs::create_dir_all(&dir).map_err(io("make a directory"))?;
        let mut arguments = vec![
            format!("--data-dir={}", dir.join("data").display()),
            format!("--listen={address}"),
        ];
        arguments.extend(SETTINGS.map(str::to_owned));
        if tokens {
            arguments.push(format!("--config={}", config(&dir)?.display()));
        }
        let program = Program {
            exe: exe.to_owned(),
            arguments,
            address,
            log: dir.join("log"),
            owner: None,
            stop_signal: "-TERM",
        };
        Ok(Self { program, process: None, token: tokens.then_some(TOKEN) })
    }

    /// Where it is, as clients write it.
    pub(crate) fn uri(&self) -> String {
        format!("http://{}", self.program.address)
    }

    /// A connection of its own.
    async fn line(&self) -> Outcome<OurLine> {
        self.line_by(Endpoint::from_shared(self.uri())?).await
    }

    /// A connection whose streams have room for a few changes only.
    pub(crate) async fn narrow_line(&self) -> Outcome<OurLine> {
        let endpoint = Endpoint::from_shared(self.uri())?;
        self.line_by(endpoint.initial_stream_window_size(NARROW_BYTES)).await
    }

    async fn line_by(&self, endpoint: Endpoint) -> Outcome<OurLine> {
        let channel = endpoint.connect().await?;
        let token = self.token.map(|token| format!("Bearer {token}"));
        let token = token.map(|token| token.parse().expect("the token is plain text"));
        Ok(OurLine { channel, bearer: Bearer(token) })
    }
}

/// A configuration with one token that may do everything.
fn config(dir: &Path) -> Outcome<PathBuf> {
    let digest = Sha256::digest(TOKEN);
    let hash = format!("{:032x}{:032x}", half(&digest, 0), half(&digest, 16));
    let file = dir.join("config.toml");
    let text = format!(
        "[[tokens]]\nsha256 = \"{hash}\"\nsubject = \"bench\"\nread = [\"*\"]\nwrite = [\"*\"]\nadmin = true\n"
    );
    std::fs::write(&file, text).map_err(io("write a configuration"))?;
    Ok(file)
}

/// Half of a digest as a number.
fn half(digest: &[u8], at: usize) -> u128 {
    digest[at..].first_chunk().map_or(0, |half| u128::from_be_bytes(*half))
}

impl System for Ours {
    fn name(&self) -> &'static str {
        if self.token.is_some() { NAME_WITH_TOKENS } else { NAME }
    }

    fn version(&self) -> String {
        crate::process::version(&self.program.exe, "--version")
    }

    fn start(&mut self) -> Doing<'_, ()> {
        Box::pin(async {
            self.process = None;
            self.process = Some(self.program.start().await?);
            Ok(())
        })
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::id)
    }

    fn connect(&self) -> Doing<'_, Box<dyn Line>> {
        Box::pin(async { Ok(Box::new(self.line().await?) as Box<dyn Line>) })
    }

    fn multiplexes(&self) -> bool {
        true
    }

    fn coalesces(&self) -> bool {
        true
    }
}

// === impl Bearer ===

impl tonic::service::Interceptor for Bearer {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> std::result::Result<tonic::Request<()>, tonic::Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

// === impl OurLine ===

impl OurLine {
    /// The reader's calls.
    pub(crate) fn sync(&self) -> SyncServiceClient<Shown> {
        SyncServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// The writer's calls.
    pub(crate) fn write(&self) -> WriteServiceClient<Shown> {
        WriteServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }
}

impl Line for OurLine {
    fn writer(&self) -> Doing<'_, Box<dyn Writer>> {
        Box::pin(async { Ok(Box::new(OurWriter(self.write())) as Box<dyn Writer>) })
    }

    fn feed(&self, collection: u32, from: Start) -> Doing<'_, Box<dyn Feed>> {
        Box::pin(async move {
            let targets = vec![target(name(collection), from)];
            let request = v1::SubscribeRequest { targets, ..Default::default() };
            let stream = self.sync().subscribe(request).await?.into_inner();
            Ok(Box::new(OurFeed(stream)) as Box<dyn Feed>)
        })
    }

    fn mark(&self, collection: u32) -> Doing<'_, Mark> {
        Box::pin(async move {
            let request = v1::GetCollectionRequest { collection: name(collection) };
            let reply = self.sync().get_collection(request).await?.into_inner();
            let head = reply.collection.and_then(|info| info.head).unwrap_or_default();
            Ok(Mark { life: head.epoch, at: head.version })
        })
    }

    fn follow<'a>(&'a self, away: &'a Away) -> Doing<'a, Option<Mark>> {
        Box::pin(async move {
            let follow = |(collection, _): &(u32, Mark)| {
                let follow = v1::Follow { subject: subject(away.user) };
                v1::Mutation { collection: name(*collection), op: Some(Op::Follow(follow)) }
            };
            let mutations = away.held.iter().map(follow).collect();
            self.write().commit(v1::CommitRequest { mutations, ..Default::default() }).await?;
            let request = v1::GetCollectionRequest { collection: inbox(away.user) };
            let reply = self.sync().get_collection(request).await?.into_inner();
            let head = reply.collection.and_then(|info| info.head).unwrap_or_default();
            Ok(Some(Mark { life: head.epoch, at: head.version }))
        })
    }

    fn visitor(&self) -> Doing<'_, Option<Box<dyn Visitor>>> {
        Box::pin(async { Ok(Some(Box::new(OurVisitor(self.sync())) as Box<dyn Visitor>)) })
    }
}

// === impl OurVisitor ===

impl OurVisitor {
    /// One pull: its deltas, by target.
    async fn pull(
        &mut self,
        targets: Vec<v1::Target>,
        login: &mut Login,
    ) -> Outcome<Vec<v1::Delta>> {
        let request = v1::PullRequest { targets, ..Default::default() };
        login.bytes += request.encoded_len() as u64;
        let reply = self.0.pull(request).await?.into_inner();
        login.bytes += reply.encoded_len() as u64;
        let deltas = reply.outcomes.into_iter().filter_map(|outcome| match outcome.result? {
            Result::Delta(delta) => Some(delta),
            Result::Aligned(_)
            | Result::Reset(_)
            | Result::Denied(_)
            | Result::NotFound(_)
            | Result::Deferred(_)
            | Result::Failed(_) => None,
        });
        Ok(deltas.collect())
    }
}

impl Visitor for OurVisitor {
    fn log_in<'a>(&'a mut self, away: &'a Away) -> Doing<'a, Login> {
        Box::pin(async move {
            let mut login = Login::default();
            let Some(mark) = away.inbox else { return Ok(login) };
            let targets = vec![target(inbox(away.user), Start::After(mark))];
            let told = self.pull(targets, &mut login).await?;
            let moved = told.iter().flat_map(|delta| &delta.changes).filter_map(|bytes| {
                let change = v1::Change::decode(bytes.clone()).ok()?;
                let name = std::str::from_utf8(&change.key).ok()?.to_owned();
                let number = name.rsplit('/').next()?.parse().ok()?;
                let held = away.held.binary_search_by_key(&number, |(held, _)| *held).ok()?;
                Some(target(name, Start::After(away.held[held].1)))
            });
            let targets: Vec<_> = moved.collect();
            if !targets.is_empty() {
                login.changed = self.pull(targets, &mut login).await?.len() as u64;
            }
            Ok(login)
        })
    }
}

// === impl OurWriter ===

impl Writer for OurWriter {
    fn write<'a>(&'a mut self, items: &'a [Item]) -> Doing<'a, ()> {
        Box::pin(async move {
            let mutations = items.iter().map(put).collect();
            self.0.commit(v1::CommitRequest { mutations, ..Default::default() }).await?;
            Ok(())
        })
    }
}

// === impl OurFeed ===

impl Feed for OurFeed {
    fn next<'a>(&'a mut self, taken: &'a mut Taken) -> Doing<'a, ()> {
        Box::pin(async move {
            let wrong = |said: String| Failure::Peer { system: NAME, said };
            let message = self.0.message().await?;
            let message = message.and_then(|message| message.message);
            match message.ok_or_else(|| wrong("the stream ended".to_owned()))? {
                Message::Changes(changes) => take(&changes.delta.unwrap_or_default(), taken),
                Message::Accepted(accepted) => {
                    let live = |target: &v1::AcceptedTarget| target.plan() == v1::Plan::Live;
                    taken.caught_up |= accepted.targets.iter().all(live);
                }
                Message::CaughtUp(_) => taken.caught_up = true,
                Message::Bookmark(_) | Message::Lagging(_) | Message::Notice(_) => {}
                other @ (Message::Reset(_)
                | Message::Revoked(_)
                | Message::Goodbye(_)
                | Message::Absent(_)
                | Message::Failed(_)) => return Err(wrong(format!("{other:?}"))),
            }
            Ok(())
        })
    }
}

fn take(delta: &v1::Delta, taken: &mut Taken) {
    taken.caught_up |= !delta.has_more;
    for bytes in &delta.changes {
        taken.take(bytes.len(), || {
            let change = v1::Change::decode(bytes.clone()).ok()?;
            let v1::change::Kind::Put(put) = change.kind? else { return None };
            stamp_of(&put.value)
        });
    }
}
