//! Keys and values as people and programs see them. Pure.
//!
//! Names of fields say how bytes are written, so that nothing is guessed: `key` is text, `key_base64`
//! is bytes that are not UTF-8; likewise `sort_key`. A value has exactly one of `value` (a JSON
//! object, written as it is), `value_text` (other text) and `value_base64`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp as Moment;
use serde::Serialize;
use serde_json::value::RawValue;
use sync_client::types::Timestamp;

/// A key in JSON.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct KeyFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_base64: Option<String>,
}

/// A sort key in JSON; the empty one is left out.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct SortKeyFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sort_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sort_key_base64: Option<String>,
}

/// A value in JSON.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ValueFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value_base64: Option<String>,
}

/// The part of `--help` about fields.
pub(crate) const FIELDS: &str = "\
JSON output (--json) is one object per line. Bytes are written by what they are:
  key, sort_key                text; key_base64, sort_key_base64 when not UTF-8
  value                        a JSON object, as it was stored
  value_text, value_base64     other text; bytes that are not UTF-8";

// === impl KeyFields ===

impl<'a> KeyFields<'a> {
    pub(crate) fn new(key: &'a [u8]) -> Self {
        match std::str::from_utf8(key) {
            Ok(text) => Self { key: Some(text), key_base64: None },
            Err(_) => Self { key: None, key_base64: Some(to_base64(key)) },
        }
    }
}

// === impl SortKeyFields ===

impl<'a> SortKeyFields<'a> {
    pub(crate) fn new(sort_key: &'a [u8]) -> Self {
        match std::str::from_utf8(sort_key) {
            Ok("") => Self::default(),
            Ok(text) => Self { sort_key: Some(text), sort_key_base64: None },
            Err(_) => Self { sort_key: None, sort_key_base64: Some(to_base64(sort_key)) },
        }
    }
}

// === impl ValueFields ===

impl<'a> ValueFields<'a> {
    pub(crate) fn new(value: &'a [u8]) -> Self {
        if let Some(object) = object(value) {
            return Self { value: Some(object), ..Self::default() };
        }
        match std::str::from_utf8(value) {
            Ok(text) => Self { value_text: Some(text), ..Self::default() },
            Err(_) => Self { value_base64: Some(to_base64(value)), ..Self::default() },
        }
    }
}

/// The value as a JSON object, if writing it as such gives back the same bytes on one line.
fn object(value: &[u8]) -> Option<&RawValue> {
    if value.first() != Some(&b'{') || value.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return None;
    }
    let object: &RawValue = serde_json::from_slice(value).ok()?;
    (object.get().len() == value.len()).then_some(object)
}

/// Bytes in base64.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Bytes from base64.
pub(crate) fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))
}

/// Bytes for people, on one line and harmless to a terminal whatever somebody stored.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return format!("base64:{}", to_base64(bytes));
    };
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_direction(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The beginning of what [`shown`] gives.
pub(crate) fn shown_short(bytes: &[u8], length_max: usize) -> String {
    // A character takes at most four bytes, and what follows the cut would not be shown anyway.
    let seen = bytes.len().min(length_max * 4 + 4);
    let whole = (seen..=bytes.len())
        .take(4)
        .find_map(|end| std::str::from_utf8(&bytes[..end]).is_ok().then(|| &bytes[..end]));
    let text = shown(whole.unwrap_or(&bytes[..seen]));
    let cut = text.char_indices().nth(length_max).map(|(at, _)| at);
    match cut {
        Some(at) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// Characters that turn the direction of the text around them.
fn is_direction(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A digest as people compare it.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

/// A moment as RFC 3339.
pub(crate) fn moment(at: Timestamp) -> String {
    let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    Moment::from_millisecond(millis).map_or_else(|_| format!("{millis} ms"), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &[u8]) -> String {
        serde_json::to_string(&ValueFields::new(value)).unwrap()
    }

    #[test]
    fn a_json_object_is_written_as_it_was_stored() {
        assert_eq!(json(b"{\"b\":1.0,\"a\": 10e3}"), "{\"value\":{\"b\":1.0,\"a\": 10e3}}");
    }

    #[test]
    fn what_would_not_come_back_the_same_is_text() {
        assert_eq!(json(b"{\"a\":1}\n"), "{\"value_text\":\"{\\\"a\\\":1}\\n\"}");
        assert_eq!(json(b"{\"a\":1} "), "{\"value_text\":\"{\\\"a\\\":1} \"}");
        assert_eq!(json(b"{\"a\":\n1}"), "{\"value_text\":\"{\\\"a\\\":\\n1}\"}");
        assert_eq!(json(b"{broken"), "{\"value_text\":\"{broken\"}");
        assert_eq!(json(b"17"), "{\"value_text\":\"17\"}");
        assert_eq!(json(b""), "{\"value_text\":\"\"}");
    }

    #[test]
    fn bytes_that_are_not_text_are_marked() {
        assert_eq!(json(&[0xff, 0x00]), "{\"value_base64\":\"/wA=\"}");
        let key = serde_json::to_string(&KeyFields::new(&[0xff])).unwrap();
        assert_eq!(key, "{\"key_base64\":\"/w==\"}");
    }

    #[test]
    fn what_is_shown_cannot_command_the_terminal() {
        assert_eq!(shown(b"\x1b[2Jgone\n"), "\\u{1b}[2Jgone\\n");
        assert_eq!(shown("\u{202e}abc".as_bytes()), "\\u{202e}abc");
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(shown_short("äöüß".as_bytes(), 3), "äöü…");
        assert_eq!(shown_short("äöü".as_bytes(), 3), "äöü");
        assert_eq!(shown_short("𝄞".repeat(100).as_bytes(), 2), "𝄞𝄞…");
    }
}
