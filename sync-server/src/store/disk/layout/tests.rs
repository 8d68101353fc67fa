//! What lies in sled is read as it was written, in the order it was written in, or not at all.

use proptest::prelude::*;

use super::*;

/// Keys with many bytes of the kind that is stuffed, and of those beside it.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![3 => Just(u8::MAX), 1 => Just(0), 2 => any::<u8>()], 0..40)
}

fn ledger() -> impl Strategy<Value = Ledger> {
    let number = any::<u64>;
    (any::<u128>(), number(), number(), number(), number()).prop_map(
        |(store, sequence, next_blob, rows, sum)| Ledger { store, sequence, next_blob, rows, sum },
    )
}

proptest! {
    /// A key comes back, and what is stored never has a run that sled stumbles over.
    #[test]
    fn a_key_comes_back(key in key()) {
        let stored = row_key(&key);
        prop_assert_eq!(user_key(&stored), Some(key));
        let longest = stored.split(|byte| *byte != u8::MAX).map(<[u8]>::len).max();
        prop_assert!(longest.unwrap_or(0) <= RUN_MAX, "{stored:?}");
        let (first, behind) = row_area();
        prop_assert!(first <= stored && stored < behind);
    }

    /// Listings are in key order because the stored keys are; prefixes stay prefixes.
    #[test]
    fn keys_keep_their_order(one in key(), other in key(), cut in any::<prop::sample::Index>()) {
        prop_assert_eq!(row_key(&one).cmp(&row_key(&other)), one.cmp(&other));
        let prefix = &one[..cut.index(one.len() + 1)];
        prop_assert!(row_key(&one).starts_with(&row_key(prefix)));
    }

    /// Foreign bytes are a key in its one stored form, or none.
    #[test]
    fn a_key_has_one_form(stored in key()) {
        let stored = [&[ROW_AREA][..], &stored].concat();
        if let Some(key) = user_key(&stored) {
            prop_assert_eq!(row_key(&key), stored);
        }
    }

    #[test]
    fn a_chunk_key_comes_back_and_keeps_its_order(one in any::<(u64, u32)>(), other in any::<(u64, u32)>()) {
        let key = |(blob, index)| chunk_key(blob, index);
        prop_assert_eq!(chunk_of_key(&key(one)), Some(one));
        prop_assert_eq!(key(one).cmp(&key(other)), one.cmp(&other));
        prop_assert_eq!(chunk_of_key(&key(one)[..CHUNK_KEY_BYTES - 1]), None);
        prop_assert_eq!(user_key(&key(one)), None);
    }

    /// A ledger is what was written; wherever it is cut or a bit is another one, it is none.
    #[test]
    fn a_ledger_comes_back_or_is_none(ledger in ledger()) {
        let bytes = ledger.encode();
        prop_assert_eq!(bytes.len(), Ledger::BYTES);
        prop_assert_eq!(Ledger::decode(&bytes), Some(ledger));
        for end in 0..bytes.len() {
            prop_assert_eq!(Ledger::decode(&bytes[..end]), None);
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Ledger::decode(&flipped), None);
        }
    }

    /// A row is what was written. Cut or with a flipped bit it is none, or one whose checksum, kind,
    /// value or place is another: reading compares the checksum with the value.
    #[test]
    fn a_row_comes_back_or_is_seen_to_be_another(
        key in key(),
        value in prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..60),
            1 => (ROW_BYTES_MAX - 60..ROW_BYTES_MAX + 60).prop_map(|len| vec![7; len]),
        ],
        ledger in ledger(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let stored_key = row_key(&key);
        let mut after = Ledger { next_blob: ledger.next_blob / 2, ..ledger };
        let next = after.next_blob;
        let row = NewRow::encode(&stored_key, &value, &mut after);
        let read = Stored::decode(&row.bytes).unwrap();
        let mut hasher = key_hasher(&stored_key);
        hasher.update(&value);
        let whole = hasher.finalize();
        match read {
            Stored::Whole { crc, value: found } => {
                prop_assert_eq!((crc, found), (whole, &value[..]));
                prop_assert_eq!((row.blob, after.next_blob), (None, next));
                prop_assert!(stored_key.len() + row.bytes.len() <= ROW_BYTES_MAX);
            }
            Stored::Chunked { crc, blob, len } => {
                prop_assert_eq!((crc, blob, len as usize), (whole, next, value.len()));
                prop_assert_eq!((row.blob, after.next_blob), (Some(next), next + 1));
                prop_assert_eq!(chunks(len) as usize, value.len().div_ceil(CHUNK_BYTES));
            }
        }
        prop_assert_eq!(read.weight(&stored_key), row.weight);

        let at = at.index(row.bytes.len());
        prop_assert_ne!(Stored::decode(&row.bytes[..at]), Some(read));
        let mut flipped = row.bytes.clone();
        flipped[at] ^= 1_u8 << bit;
        prop_assert_ne!(Stored::decode(&flipped), Some(read));
    }
}
