//! Bodies of gRPC-Web are read as they were meant, however they are cut, or are refused.

use futures::FutureExt as _;
use proptest::prelude::*;

use super::*;

/// What a body in base64 holds that arrives in these parts. None of them is waited for.
fn read(parts: &[&[u8]]) -> Result<Bytes, Status> {
    let frames: Vec<Result<_, Status>> =
        parts.iter().map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect();
    let body = Body::new(http_body_util::StreamBody::new(futures::stream::iter(frames)));
    let whole = Request::new(body, Coding::Base64, Unread::default()).collect();
    Ok(whole.now_or_never().expect("all parts are there")?.to_bytes())
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

proptest! {
    /// However its sender cut and padded it, and however it arrives.
    #[test]
    fn what_was_encoded_comes_back(messages in prop::collection::vec(bytes(30), 0..6), step in 1..40_usize) {
        let text: Vec<u8> = messages.iter().flat_map(|one| STANDARD.encode(one).into_bytes()).collect();
        let parts: Vec<&[u8]> = text.chunks(step).collect();
        prop_assert_eq!(read(&parts).unwrap(), messages.concat());
    }

    /// What an answer is sent as is read as the answer.
    #[test]
    fn an_answer_is_read_as_it_was_sent(message in bytes(200)) {
        let sent = Coding::Base64.encode(Bytes::from(message.clone()));
        prop_assert_eq!(read(&[&sent]).unwrap(), message);
    }

    /// A body that ends within a quad is refused; at the end of one it is a shorter body.
    #[test]
    fn a_body_cut_short_is_refused_or_shorter(message in bytes(60), cut in any::<prop::sample::Index>()) {
        let text = STANDARD.encode(&message);
        let cut = cut.index(text.len() + 1);
        match read(&[&text.as_bytes()[..cut]]) {
            Ok(short) => {
                prop_assert_eq!(cut % QUAD, 0);
                prop_assert!(message.starts_with(&short));
            }
            Err(refused) => {
                prop_assert_ne!(cut % QUAD, 0);
                prop_assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            }
        }
    }

    /// A flipped bit is never overlooked: the body is refused, or is another one.
    #[test]
    fn a_flipped_bit_is_refused_or_seen(message in bytes(60), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut text = STANDARD.encode(&message).into_bytes();
        prop_assume!(!text.is_empty());
        let at = at.index(text.len());
        text[at] ^= 1_u8 << bit;
        if let Ok(other) = read(&[&text]) {
            prop_assert_ne!(other, message);
        }
    }

    /// Foreign bytes mean the same, or are refused, however they arrive.
    #[test]
    fn cutting_changes_nothing(text in prop::collection::vec(prop_oneof![4 => Just(b'A'), 1 => Just(b'='), 1 => any::<u8>()], 0..40), step in 1..9_usize) {
        let parts: Vec<&[u8]> = text.chunks(step).collect();
        prop_assert_eq!(read(&parts).ok(), read(&[&text]).ok());
    }

    /// The frame of the trailers says how long it is, and has a line for each.
    #[test]
    fn trailers_are_framed(values in prop::collection::vec("[ -~]{0,30}", 0..6)) {
        let mut trailers = HeaderMap::new();
        for value in &values {
            trailers.append("grpc-message", HeaderValue::from_str(value).unwrap());
        }
        let frame = trailers_frame(&trailers);
        prop_assert_eq!(frame[0], TRAILERS);
        let length = u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize;
        prop_assert_eq!(length, frame.len() - 5);
        let line = |value: &String| ["grpc-message: ", value, "\r\n"].concat();
        let lines = values.iter().map(line).collect::<Vec<_>>().concat();
        prop_assert_eq!(&frame[5..], lines.as_bytes());
    }
}
