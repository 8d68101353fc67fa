//! What a client is told: any bytes become a message or an error, and what was understood is
//! understood the same when it is said again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use sync_proto::types::{Committed, Delta, Event, Head, Item, Outcome};
use sync_proto::v1;

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    match kind % 6 {
        0 => {
            let Ok(wire) = v1::SubscribeResponse::decode(bytes) else { return };
            drop(Event::try_from(wire));
        }
        1 => {
            let Ok(wire) = v1::Outcome::decode(bytes) else { return };
            drop(Outcome::try_from(wire));
        }
        2 => {
            let Ok(wire) = v1::Delta::decode(bytes) else { return };
            drop(Delta::try_from(wire));
        }
        3 => {
            let Ok(wire) = v1::CommittedCollection::decode(bytes) else { return };
            if let Ok(told) = Committed::try_from(wire) {
                let again = v1::CommittedCollection::from(told.clone());
                assert_eq!(Committed::try_from(again).unwrap(), told);
            }
        }
        4 => {
            let Ok(wire) = v1::Head::decode(bytes) else { return };
            if let Ok(head) = Head::try_from(wire) {
                assert_eq!(Head::try_from(v1::Head::from(head)).unwrap(), head);
            }
        }
        _ => {
            let Ok(wire) = v1::Item::decode(bytes) else { return };
            drop(Item::try_from(wire));
        }
    }
});
