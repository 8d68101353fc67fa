//! The records of a journal file. The file that knows them is included as it is, so nothing of it has
//! to be public. Half of the time the bytes are a body under a right checksum: no fuzzer finds one.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../sync-server/src/store/disk/journal"]
mod journal {
    use bytes::Bytes;

    mod record;

    const STORE: u128 = 7;

    pub(crate) fn read(bytes: &[u8]) {
        let Some((kind, bytes)) = bytes.split_first() else { return };
        let mut file = bytes.to_vec();
        if kind % 2 == 0 && bytes.len() >= 20 {
            // Length, life, sequence and body; the checksum and the length are put right.
            let len = u32::try_from(bytes.len() - 20).expect("inputs are small");
            file[..4].copy_from_slice(&len.to_be_bytes());
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&STORE.to_be_bytes());
            hasher.update(&file);
            file = [&hasher.finalize().to_be_bytes()[..], &file].concat();
        }
        let file = Bytes::from(file);
        let mut written = Vec::new();
        for one in record::records(STORE, &file) {
            let mut again = Vec::new();
            record::encode(&mut again, STORE, one.life, one.sequence, &one.rows);
            written.extend(again);
        }
        assert_eq!(written, file[..written.len()], "a record has one form");
    }
}

fuzz_target!(|bytes: &[u8]| journal::read(bytes));
