//! The bytes under sled's keys: the ledger row, rows whole and in chunks, stuffed keys. The file
//! that knows them is included as it is, so nothing of it has to be public.
#![no_main]
#![allow(dead_code, reason = "the included file also writes, and decides")]

use libfuzzer_sys::fuzz_target;

#[path = "../../sync-server/src/store"]
mod store {
    pub(crate) use sync_server::store::KEY_BYTES_MAX;

    #[path = "disk"]
    pub(crate) mod disk {
        mod high_water;
        mod layout;

        pub(crate) fn read(bytes: &[u8]) {
            use layout::{Ledger, Stored, chunk_of_key, row_key, user_key};
            if let Some(ledger) = Ledger::decode(bytes) {
                assert_eq!(ledger.encode(), bytes);
            }
            if let Some(Stored::Chunked { len, .. }) = Stored::decode(bytes) {
                let chunks = u64::from(layout::chunks(len));
                assert!(chunks * layout::CHUNK_BYTES as u64 >= u64::from(len));
            }
            if let Some(key) = user_key(bytes) {
                assert_eq!(row_key(&key), bytes, "a key has one stored form");
            }
            assert_eq!(user_key(&row_key(bytes)).as_deref(), Some(bytes));
            if let Some((blob, index)) = chunk_of_key(bytes) {
                assert_eq!(layout::chunk_key(blob, index), bytes);
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| store::disk::read(bytes));
