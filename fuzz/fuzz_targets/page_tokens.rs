//! Page tokens: what is accepted is exactly what was made.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sync_proto::types::Epoch;
use sync_server::core::window::{position, token};

fuzz_target!(|input: (u64, u32, bool, &[u8])| {
    let (epoch, question, seal, bytes) = input;
    let Some(epoch) = Epoch::new(epoch) else { return };
    // Half of the inputs get a right checksum, or nothing would ever come past it.
    let mut foreign = bytes.to_vec();
    if seal {
        foreign.extend(crc32fast::hash(bytes).to_be_bytes());
    }
    if let Ok(Some(place)) = position(&foreign, epoch, question) {
        assert_eq!(token(epoch, question, place), foreign);
    }
    assert_eq!(position(&token(epoch, question, bytes), epoch, question), Ok(Some(bytes)));
});
