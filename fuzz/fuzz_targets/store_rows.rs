//! Rows of the server's store: any key with any value becomes a row or an error, and a row that
//! was understood lies where its own key says.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sync_server::store::keys::{self, Row};
use sync_server::store::rows::{KeyRow, LogRow, Receipt, encode_policy};

fuzz_target!(|input: (&[u8], &[u8])| {
    let (key, value) = (input.0, Bytes::copy_from_slice(input.1));
    drop(LogRow::decode(value.clone()).map(|row| assert_eq!(row.encode(), value)));
    drop(KeyRow::decode(value.clone()).map(|row| assert_eq!(row.encode(), value)));
    if let Ok(receipt) = Receipt::decode(value.clone()) {
        assert_eq!(receipt.encode(), value);
        drop(receipt.import_sequence());
    }
    let Ok(row) = Row::decode(key, value.clone()) else { return };
    let (wanted, content) = match row {
        Row::Meta { id, meta } => (keys::meta_key(id), meta.encode()),
        Row::Log { id, version, key, row } => (keys::log_key(id, version, &key), row.encode()),
        Row::Key { id, key, row } => (keys::key_key(id, &key), row.encode()),
        Row::Order { id, sort_key, key } => (keys::order_key(id, &sort_key, &key), Bytes::new()),
        Row::Segment { id, segment, .. } => (keys::segment_key(id, segment), value.clone()),
        Row::Tombstone { id, time, version, key } => {
            (keys::tombstone_key(id, time, version, &key), Bytes::new())
        }
        Row::Doomed { id } => (keys::doomed_key(id), Bytes::new()),
        Row::Receipt { kind, name, receipt } => (keys::receipt_key(kind, &name), receipt.encode()),
        Row::ReceiptAge { time, kind, name } => {
            (keys::receipt_age_key(time, kind, &name), Bytes::new())
        }
        // Its key is text of a peer, checked when the name is looked up.
        Row::Name { .. } => return,
        Row::NextId { id } => (keys::next_id_key(), Bytes::copy_from_slice(&id.0.to_be_bytes())),
        Row::Format { format } => {
            (keys::format_key(), Bytes::copy_from_slice(&format.to_be_bytes()))
        }
        Row::Upgrading => (keys::upgrading_key(), Bytes::new()),
        Row::Member { id, segment, key } => (keys::member_key(id, segment, &key), Bytes::new()),
        Row::Policy { id, policy } => (keys::policy_key(id), encode_policy(&policy)),
        Row::Audience { name, subject } => (keys::audience_key(&name, &subject), Bytes::new()),
        Row::AudienceState { name, audience } => {
            (keys::audience_state_key(&name), audience.encode())
        }
        Row::Sweep { name, sweep } => (keys::sweep_key(&name), sweep.encode()),
        Row::Ack { place, held } => (keys::ack_key(&place), held.encode()),
        Row::AckAge { time, place } => (keys::ack_age_key(time, &place), Bytes::new()),
    };
    assert_eq!(wanted, key);
    assert_eq!(content, value);
});
