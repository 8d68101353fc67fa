//! The deltasync client: local copies of a server's collections, kept right by push and pull.
//!
//! ```no_run
//! # #[derive(Debug, serde::Serialize, serde::Deserialize)] struct Member { role: String }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sync_client::types::CollectionName;
//! use sync_client::{Collection, DiskStore, Json, Replica, SyncClient};
//!
//! let client = SyncClient::connect("http://127.0.0.1:7411")?;
//! let name = CollectionName::new("groups/42/members")?;
//! let store = DiskStore::open("members.redb")?;
//! let (replica, driver) = Replica::builder(client, store).collection(name.clone()).build()?;
//! let stop = tokio_util::sync::CancellationToken::new();
//! let task = tokio::spawn(driver.run(stop.clone()));
//!
//! let members: Collection<Json<Member>> = replica.collection(&name)?;
//! let mut changes = members.subscribe_with_all().await;
//! while let Some(change) = changes.next().await {
//!     println!("{:?}", change?);
//! }
//! # stop.cancel(); task.await??; Ok(())
//! # }
//! ```
//!
//! # What there is
//!
//! * [`SyncClient`]: the calls of the protocol in checked types, with deadlines and retries.
//! * [`Replica`]: copies of up to 1,024 collections in a [`ReplicaStore`]: [`MemoryStore`], or
//!   [`DiskStore`] in a redb file, which may be a file of the application. Its [`Driver`] is a
//!   future that the application owns; nothing runs behind its back.
//! * [`Collection`]: a typed view through a [`Codec`] ([`Json`], [`Protobuf`], [`Raw`]). Reads
//!   answer from the local store, before the network does and whatever it does. They are `async`
//!   because a disk may be slow; [`Reader`] is the same without.
//! * [`Account`]: everything that a subject follows, thousands of collections, by its inbox.
//! * [`Window`]: a list view of a collection that is too large to be synchronised; a [`Replica`] can
//!   follow a part of one, see [`ReplicaBuilder::part`].
//! * [`Differences`]: what changed, one net change per item, for a consumer that looks when it
//!   likes.
//! * [`Resumed`]: changes for a process that keeps no copy; the server holds its place.
//! * [`session`]: the conversation itself, pure, for those who want to drive it themselves.
//!
//! # What holds
//!
//! Rows, cursor and digest change in one local transaction. A first load is staged beside the
//! rows that readers see and takes their place at once; it goes on where it was interrupted. At
//! every caught-up point the copy's digest is compared with the server's; what differs is found
//! segment by segment, fetched, and put in its place at once. Lost, repeated and
//! reordered messages, cut connections, server restarts and a disk that is full are no errors: they
//! show in [`Status`], and pass. A damaged file is set aside and its copies are loaded again.

pub mod account;
pub mod backoff;
mod blocking;
pub mod client;
pub mod codec;
mod collection;
mod differences;
mod driver;
mod error;
mod items;
mod mending;
mod pace;
mod reader;
mod replica;
mod resume;
pub mod session;
pub mod store;
mod stream_life;
mod view;
mod views;
pub mod window;

pub use account::{Account, AccountBuilder};
pub use client::{BackupPiece, BackupStream, ClientBuilder, EventStream, SyncClient, TraceContext};
pub use codec::{Codec, Json, Protobuf, Raw};
pub use collection::{Collection, Entry, Undecodable};
pub use differences::{Difference, Differences};
pub use driver::Driver;
pub use error::{ClientError, ReadError, ReplicaError, Told, UsedUp, WaitError};
pub use items::Items;
pub use reader::{Iter, Reader};
pub use replica::{Replica, ReplicaBuilder};
pub use resume::{Arrival, Resumed};
pub use session::{RepairHow, RepairReason, Stats, Status};
pub use store::{DiskStore, MemoryStore, ReplicaStore};
pub use sync_proto::types;
pub use window::{
    Detail, Verdict, Window, WindowBuilder, WindowDifference, WindowDifferences, WindowDriver,
    WindowRow, WindowStart, WindowView,
};
