//! Where the messages of a request begin and end. Pure: bytes in, counts out. gRPC puts five
//! bytes before each message, a flag and its length, so its size is known before it has arrived.

/// Bytes before a message.
const PREFIX_LEN: usize = 5;

/// How far a request has been read.
#[derive(Debug, Default)]
pub(super) struct Framing {
    prefix: [u8; PREFIX_LEN],
    /// Bytes of the prefix that have arrived.
    prefixed: usize,
    /// Bytes of the message that have not arrived.
    missing: usize,
    /// Length of the message that is arriving.
    length: usize,
    /// Whether a message has begun, and whether one said that it is compressed, or what nobody knows.
    begun: bool,
    flagged: bool,
}

// === impl Framing ===

impl Framing {
    /// Takes the next bytes; the lengths of the messages that begin in them, together.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> usize {
        let mut begun = 0;
        while !bytes.is_empty() {
            if self.missing > 0 {
                let part = self.missing.min(bytes.len());
                self.missing -= part;
                bytes = &bytes[part..];
                continue;
            }
            self.prefix[self.prefixed] = bytes[0];
            self.prefixed += 1;
            bytes = &bytes[1..];
            if self.prefixed == PREFIX_LEN {
                let [flag, length @ ..] = self.prefix;
                self.begun = true;
                self.flagged |= flag != 0;
                self.length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.missing = self.length;
                self.prefixed = 0;
                begun += self.length;
            }
        }
        begun
    }

    /// The length of the message of which a part is missing; `None` = between two messages.
    pub(super) fn open(&self) -> Option<usize> {
        (self.missing > 0 || self.prefixed > 0).then_some(self.length)
    }

    /// Whether a message has begun, if only an empty one.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether the first byte of a message was not the one of messages as they are.
    pub(super) fn is_flagged(&self) -> bool {
        self.flagged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.resize(PREFIX_LEN + usize::try_from(length).unwrap(), b'x');
        bytes
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let bytes = [message(3), message(0), message(70_000), message(1)].concat();
        for step in [1, 2, 4, 5, 6, 7, 1_000, 200_000] {
            let mut framing = Framing::default();
            let begun: usize = bytes.chunks(step).map(|part| framing.take(part)).sum();
            assert_eq!((begun, framing.open()), (70_004, None), "steps of {step}");
        }
    }

    #[test]
    fn a_part_of_a_message_is_open() {
        let mut framing = Framing::default();
        assert_eq!(framing.open(), None);
        assert_eq!(framing.take(&message(9)[..3]), 0);
        assert!(framing.open().is_some(), "inside of the prefix");
        assert_eq!(framing.take(&message(9)[3..13]), 9);
        assert_eq!(framing.open(), Some(9));
        assert_eq!(framing.take(&message(9)[13..]), 0);
        assert_eq!(framing.open(), None);
    }

    #[test]
    fn a_message_that_is_empty_has_begun_and_a_flag_is_seen_wherever_it_is() {
        let mut framing = Framing::default();
        framing.take(&message(0)[..4]);
        assert!(!framing.has_begun());
        framing.take(&message(0)[4..]);
        assert!(framing.has_begun() && !framing.is_flagged() && framing.open().is_none());
        let mut flagged = message(2);
        flagged[0] = 1;
        framing.take(&[message(5), flagged].concat());
        assert!(framing.is_flagged());
    }
}
