//! The deltasync client: local copies of a server's collections, kept right by push and pull.
//!
//! ```no_run
//! # #[derive(Debug, serde::Serialize, serde::Deserialize)] struct Member { role: String }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sync_client::{Collection, DiskStore, Json, Replica, SyncClient};
//! use sync_client::types::CollectionName;
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

pub mod backoff;
pub mod client;
pub mod codec;
mod collection;
mod differences;
mod driver;
mod error;
mod replica;
pub mod session;
pub mod store;
mod view;

pub use client::{ClientBuilder, EventStream, SyncClient};
pub use codec::{Codec, Json, Protobuf, Raw};
pub use collection::{Collection, Entry, Iter, Undecodable};
pub use differences::{Difference, Differences};
pub use driver::Driver;
pub use error::{ClientError, ReadError, ReplicaError, WaitError};
pub use replica::{Replica, ReplicaBuilder};
pub use session::{RepairReason, Stats, Status};
pub use store::{DiskStore, MemoryStore, ReplicaStore};
pub use sync_proto::types;
