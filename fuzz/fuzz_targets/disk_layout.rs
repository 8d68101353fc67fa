//! The bytes under sled's keys: the ledger row, rows whole and in chunks, stuffed keys; and the mark
//! of how far a store was. The files that know them are included as they are, so nothing of them has
//! to be public. Checksums are also put right: no fuzzer finds one.
#![no_main]
#![allow(dead_code, reason = "the included files also write, and decide")]

use libfuzzer_sys::fuzz_target;

#[path = "../../sync-server/src/store"]
mod store {
    pub(crate) use sync_server::store::KEY_BYTES_MAX;

    #[path = "disk"]
    pub(crate) mod disk {
        mod high_water;
        mod layout;

        /// The store's number and the sequence.
        const MARK_BODY_BYTES: usize = 16 + 8;

        pub(crate) fn read(bytes: &[u8]) {
            use high_water::Mark;
            use layout::{Ledger, Stored, chunk_of_key, row_key, user_key};
            if let Some(ledger) = Ledger::decode(bytes) {
                assert_eq!(ledger.encode(), bytes);
            }
            if let Some(body) = bytes.get(4..Ledger::BYTES) {
                let sealed = [&crc32fast::hash(body).to_be_bytes()[..], body].concat();
                let ledger = Ledger::decode(&sealed).expect("it has its length and checksum");
                assert_eq!(ledger.encode(), sealed);
            }
            if let Some(body) = bytes.get(..MARK_BODY_BYTES) {
                let crc = crc32fast::hash(body).to_be_bytes();
                let sealed = [&b"dshw"[..], &crc, body].concat();
                let mark = Mark::decode(&sealed).expect("it has its length and checksum");
                assert_eq!(mark.encode()[..], sealed);
            }
            if let Some(mark) = Mark::decode(bytes) {
                assert!(bytes.starts_with(&mark.encode()), "a mark has one form");
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
