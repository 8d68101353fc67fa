//! What a server is asked: any bytes become a request or an error, and what was understood is
//! understood the same when it is said again.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use sync_proto::types::{Commit, ListItems, Pull, Reconcile, Subscribe};
use sync_proto::{convert, v1};

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    match kind % 7 {
        0 => {
            let Ok(wire) = v1::PullRequest::decode(bytes) else { return };
            if let Ok(pull) = Pull::try_from(wire)
                && let Ok(wire) = v1::PullRequest::try_from(pull.clone())
            {
                assert_eq!(Pull::try_from(wire).unwrap(), pull);
            }
        }
        1 => {
            let Ok(wire) = v1::SubscribeRequest::decode(bytes) else { return };
            if let Ok(asked) = Subscribe::try_from(wire) {
                let again = v1::SubscribeRequest::from(asked.clone());
                assert_eq!(Subscribe::try_from(again).unwrap(), asked);
            }
        }
        2 => {
            let Ok(wire) = v1::CommitRequest::decode(bytes) else { return };
            if let Ok(commit) = Commit::try_from(wire) {
                let again = v1::CommitRequest::from(commit.clone());
                assert_eq!(Commit::try_from(again).unwrap(), commit);
            }
        }
        3 => {
            let Ok(wire) = v1::ListItemsRequest::decode(bytes) else { return };
            if let Ok(list) = ListItems::try_from(wire) {
                let again = v1::ListItemsRequest::from(list.clone());
                assert_eq!(ListItems::try_from(again).unwrap(), list);
            }
        }
        4 => {
            let Ok(wire) = v1::ReconcileRequest::decode(bytes) else { return };
            if let Ok(asked) = Reconcile::try_from(wire) {
                let again = v1::ReconcileRequest::from(asked.clone());
                assert_eq!(Reconcile::try_from(again).unwrap(), asked);
            }
        }
        5 => {
            let Ok(wire) = v1::ImportRequest::decode(bytes) else { return };
            drop(convert::mutations(wire.mutations));
        }
        _ => {
            // Stored by an earlier server, read by this one.
            if let Ok(change) = convert::decode_change(Bytes::copy_from_slice(bytes)) {
                let again = convert::encode_change(&change);
                assert_eq!(convert::decode_change(again).unwrap(), change);
            }
            drop(convert::decode_committed(Bytes::copy_from_slice(bytes)));
        }
    }
});
