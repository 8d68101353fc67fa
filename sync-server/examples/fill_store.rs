//! Fills a new store with items, for measuring what takes long on a large one:
//! `cargo run --release -p sync-server --example fill_store -- DIR ITEMS [VALUE_BYTES]`.

use std::error::Error;
use std::path::Path;

use sync_proto::limits::COMMIT_MUTATIONS_MAX;
use sync_proto::types::{
    CollectionName, Commit, Epoch, Key, Mutation, Op, SortKey, Timestamp, Value,
};
use sync_server::core::request::Request;
use sync_server::engine::ledger::{Ledger, Settings};
use sync_server::store::disk::{DiskOptions, DiskStore};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of a value when the command line does not say.
const VALUE_BYTES: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: fill_store DIR ITEMS [VALUE_BYTES]";
    let (dir, items) = (args.next().ok_or(usage)?, args.next().ok_or(usage)?.parse::<u64>()?);
    let value_bytes = args.next().map_or(Ok(VALUE_BYTES), |text| text.parse())?;
    let store = DiskStore::open(Path::new(&dir), &DiskOptions::default())?;
    let ledger = Ledger::open(store, Settings::default(), &mut |_| {})?;
    let collection = CollectionName::new("large")?;
    let mut mint = || Epoch::new(rand::random::<u64>() | 1).expect("it is odd");
    for first in (0..items).step_by(COMMIT_MUTATIONS_MAX) {
        let last = items.min(first + COMMIT_MUTATIONS_MAX as u64);
        let put = |item: u64| {
            let mut value = vec![0; value_bytes];
            rand::fill(&mut value[..]);
            let op = Op::Put {
                // Neither in the order of commits nor in that of the list.
                key: Key::new(format!("{:016x}", item.wrapping_mul(0x9E37_79B9_7F4A_7C15)))?,
                value: Value::new(value)?,
                sort_key: Some(SortKey::new(item.to_be_bytes().to_vec())?),
            };
            Ok(Mutation { collection: collection.clone(), op })
        };
        let mutations = (first..last).map(put).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        let commit = Commit { mutations, ..Commit::default() };
        let request = Request::Commit { commit, fingerprint: [0; 16] };
        for answer in ledger.commit(&[request], Timestamp::now(), &mut mint)?.answers {
            answer?;
        }
    }
    Ok(ledger.into_store().close()?)
}
