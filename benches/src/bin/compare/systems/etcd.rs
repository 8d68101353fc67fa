//! etcd: a collection is a prefix, a change is a put, a reader is a watch. etcd syncs its log before
//! it answers. Of its protocol only the messages and fields that are used here, by hand.

use std::path::Path;

use bytes::Bytes;
use futures::StreamExt as _;
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use crate::failure::{Failure, Outcome, io};
use crate::process::{Process, Program, find, free_address, until_it_answers};
use crate::system::{
    Away, Doing, Feed, Item, Line, Login, Mark, Start, System, Taken, Visitor, Writer, stamp_of,
};
use crate::systems::ours::{key, name};

const NAME: &str = "etcd";
const EXE: &str = "etcd";

/// Keys of one read.
const KEYS: i64 = 1_000;

/// Catch-ups come in large messages.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The server.
pub(crate) struct Etcd {
    program: Program,
    process: Option<Process>,
}

/// A connection.
pub(crate) struct EtcdLine(Channel);

struct EtcdWriter(Channel);

enum EtcdFeed {
    /// Reads the keys of a prefix, from here.
    Reading {
        channel: Channel,
        from: Vec<u8>,
        to: Vec<u8>,
    },
    Watching(Streaming<WatchResponse>),
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(int64, tag = "3")]
    mod_revision: i64,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    limit: i64,
    #[prost(int64, tag = "10")]
    min_mod_revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    more: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

/// One part of a transaction: one of the two is set.
#[derive(Clone, PartialEq, Message)]
struct RequestOp {
    #[prost(message, optional, tag = "1")]
    range: Option<RangeRequest>,
    #[prost(message, optional, tag = "2")]
    put: Option<PutRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseOp {
    #[prost(message, optional, tag = "1")]
    range: Option<RangeResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct TxnResponse {
    #[prost(message, repeated, tag = "3")]
    responses: Vec<ResponseOp>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    start_revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct WatchResponse {
    #[prost(bool, tag = "4")]
    canceled: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
}

/// The keys of a collection: first, and first behind the last.
fn range(collection: u32) -> (Vec<u8>, Vec<u8>) {
    let prefix = name(collection);
    // '0' follows '/'.
    (format!("{prefix}/").into_bytes(), format!("{prefix}0").into_bytes())
}

fn put(item: &Item) -> PutRequest {
    let key = format!("{}/{}", name(item.collection), key(item.key));
    PutRequest { key: key.into_bytes(), value: item.value.clone() }
}

async fn call<Q, A>(channel: &Channel, path: &'static str, request: Q) -> Outcome<A>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready().await?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let path = PathAndQuery::from_static(path);
    Ok(grpc.unary(Request::new(request), path, codec).await?.into_inner())
}

async fn read(channel: &Channel, request: RangeRequest) -> Outcome<RangeResponse> {
    call(channel, "/etcdserverpb.KV/Range", request).await
}

/// A watch of a collection from a revision on. Its request stream stays open, or etcd would end it.
async fn watch(channel: &Channel, collection: u32, from: i64) -> Outcome<Streaming<WatchResponse>> {
    let (key, range_end) = range(collection);
    let create = WatchCreateRequest { key, range_end, start_revision: from };
    let requests = futures::stream::iter([WatchRequest { create: Some(create) }]);
    let requests = requests.chain(futures::stream::pending());
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready().await?;
    let codec: ProstCodec<WatchRequest, WatchResponse> = ProstCodec::default();
    let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    let mut stream = grpc.streaming(Request::new(requests), path, codec).await?.into_inner();
    // The first message says that the watch is there.
    stream.message().await?;
    Ok(stream)
}

// === impl Etcd ===

impl Etcd {
    pub(crate) fn new(dir: &Path) -> Outcome<Self> {
        let exe = find(EXE).ok_or(Failure::NotHere(NAME, EXE))?;
        let (address, peers) = (free_address()?, free_address()?);
        let dir = dir.join("etcd");
        std::fs::create_dir_all(&dir).map_err(io("make a directory"))?;
        let arguments = [
            format!("--data-dir={}", dir.join("data").display()),
            format!("--listen-client-urls=http://{address}"),
            format!("--advertise-client-urls=http://{address}"),
            format!("--listen-peer-urls=http://{peers}"),
            format!("--initial-advertise-peer-urls=http://{peers}"),
            format!("--initial-cluster=default=http://{peers}"),
            "--max-txn-ops=2000".to_owned(),
            "--quota-backend-bytes=8589934592".to_owned(),
            "--log-level=error".to_owned(),
        ];
        let log = dir.join("log");
        let arguments = arguments.to_vec();
        let program = Program { exe, arguments, address, log, owner: None, stop_signal: "-TERM" };
        Ok(Self { program, process: None })
    }

    /// A connection of its own.
    async fn line(&self) -> Outcome<EtcdLine> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.program.address))?;
        Ok(EtcdLine(endpoint.connect().await?))
    }
}

impl System for Etcd {
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
            // It serves once it has elected itself.
            let us = &*self;
            until_it_answers("the start of etcd", || {
                Box::pin(async {
                    let request = RangeRequest { key: b"a".to_vec(), ..Default::default() };
                    read(&us.line().await?.0, request).await.map(drop)
                })
            })
            .await
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
}

// === impl EtcdLine ===

impl Visitor for EtcdLine {
    fn log_in<'a>(&'a mut self, away: &'a Away) -> Doing<'a, Login> {
        Box::pin(self.come_back(&away.held))
    }
}

impl EtcdLine {
    /// Who comes back asks for what of its collections changed after a revision; a transaction is
    /// the one way to ask for many at once.
    async fn come_back(&self, held: &[(u32, Mark)]) -> Outcome<Login> {
        let part = |(collection, mark): &(u32, Mark)| {
            let (key, range_end) = range(*collection);
            let min_mod_revision = i64::try_from(mark.at).unwrap_or(i64::MAX) + 1;
            let range = Some(RangeRequest { key, range_end, limit: KEYS, min_mod_revision });
            RequestOp { range, put: None }
        };
        let request = TxnRequest { success: held.iter().map(part).collect() };
        let sent = request.encoded_len();
        let reply: TxnResponse = call(&self.0, "/etcdserverpb.KV/Txn", request).await?;
        let moved =
            |part: &&ResponseOp| part.range.as_ref().is_some_and(|range| !range.kvs.is_empty());
        let changed = reply.responses.iter().filter(moved).count() as u64;
        Ok(Login { changed, bytes: (sent + reply.encoded_len()) as u64 })
    }
}

impl Line for EtcdLine {
    fn writer(&self) -> Doing<'_, Box<dyn Writer>> {
        Box::pin(async { Ok(Box::new(EtcdWriter(self.0.clone())) as Box<dyn Writer>) })
    }

    fn feed(&self, collection: u32, from: Start) -> Doing<'_, Box<dyn Feed>> {
        Box::pin(async move {
            let feed = match from {
                Start::Scratch => {
                    let (from, to) = range(collection);
                    EtcdFeed::Reading { channel: self.0.clone(), from, to }
                }
                Start::After(mark) => {
                    let from = i64::try_from(mark.at).unwrap_or(i64::MAX) + 1;
                    EtcdFeed::Watching(watch(&self.0, collection, from).await?)
                }
            };
            Ok(Box::new(feed) as Box<dyn Feed>)
        })
    }

    fn mark(&self, _collection: u32) -> Doing<'_, Mark> {
        Box::pin(async move {
            let reply =
                read(&self.0, RangeRequest { key: b"a".to_vec(), ..Default::default() }).await?;
            let revision = reply.header.unwrap_or_default().revision;
            Ok(Mark { life: 1, at: u64::try_from(revision).unwrap_or(0) })
        })
    }

    fn visitor(&self) -> Doing<'_, Option<Box<dyn Visitor>>> {
        Box::pin(async { Ok(Some(Box::new(Self(self.0.clone())) as Box<dyn Visitor>)) })
    }
}

// === impl EtcdWriter ===

impl Writer for EtcdWriter {
    fn write<'a>(&'a mut self, items: &'a [Item]) -> Doing<'a, ()> {
        Box::pin(async move {
            if let [item] = items {
                call::<_, PutResponse>(&self.0, "/etcdserverpb.KV/Put", put(item)).await?;
                return Ok(());
            }
            let part = |item| RequestOp { range: None, put: Some(put(item)) };
            let request = TxnRequest { success: items.iter().map(part).collect() };
            call::<_, TxnResponse>(&self.0, "/etcdserverpb.KV/Txn", request).await?;
            Ok(())
        })
    }
}

// === impl EtcdFeed ===

impl Feed for EtcdFeed {
    fn next<'a>(&'a mut self, taken: &'a mut Taken) -> Doing<'a, ()> {
        Box::pin(async move {
            match self {
                Self::Reading { channel, from, to } => {
                    let (key, range_end) = (from.clone(), to.clone());
                    let request = RangeRequest { key, range_end, limit: KEYS, min_mod_revision: 0 };
                    let reply = read(channel, request).await?;
                    reply.kvs.iter().for_each(|kv| take(kv, taken));
                    if let Some(last) = reply.kvs.last() {
                        *from = [&last.key[..], &[0]].concat();
                    }
                }
                Self::Watching(stream) => {
                    let message = stream.message().await?.filter(|message| !message.canceled);
                    let ended = || Failure::Peer { system: NAME, said: "a watch ended".to_owned() };
                    let message = message.ok_or_else(ended)?;
                    message
                        .events
                        .iter()
                        .flat_map(|event| &event.kv)
                        .for_each(|kv| take(kv, taken));
                }
            }
            Ok(())
        })
    }
}

fn take(kv: &KeyValue, taken: &mut Taken) {
    taken.take(kv.encoded_len(), || stamp_of(&kv.value));
}
