//! Where an import reads from: a file or standard input, plain or compressed with zstd.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::PathBuf;

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use sha2::{Digest as _, Sha256};

/// The first bytes of a zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The longest line: far above what any sensible transaction needs, so that a file which is not
/// what it seems does not fill the memory.
const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;

/// Where an import reads from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    File(PathBuf),
    Stdin,
}

/// The lines of a source.
pub(crate) struct Lines {
    reader: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    number: u64,
}

/// All frames of a compressed source, one after the other.
enum Frames<R: BufRead> {
    Between(R),
    Within(Box<StreamingDecoder<R, FrameDecoder>>),
    /// A frame was broken, or is just being exchanged for the next one.
    Broken,
}

// === impl Source ===

impl Source {
    /// "-" is standard input.
    pub(crate) fn new(name: &str) -> Self {
        if name == "-" { Self::Stdin } else { Self::File(name.into()) }
    }

    /// As people call it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "standard input".to_owned(),
        }
    }

    /// Whether it can be read from its beginning again.
    pub(crate) fn is_repeatable(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// How many lines it has that are not empty; `None` = it can be read only once. A file that is
    /// broken somewhere is found out here, before anything of it is used.
    pub(crate) fn count(&self) -> io::Result<Option<u64>> {
        if !self.is_repeatable() {
            return Ok(None);
        }
        let (mut lines, mut count) = (self.lines()?, 0);
        while let Some((_, line)) = lines.next()? {
            count += u64::from(!line.is_empty());
        }
        Ok(Some(count))
    }

    /// SHA-256 of its content after `salt`; `None` = it can be read only once.
    pub(crate) fn fingerprint(&self, salt: &str) -> io::Result<Option<[u8; 32]>> {
        let Self::File(path) = self else { return Ok(None) };
        let mut hash = Sha256::new();
        hash.update(salt.as_bytes());
        hash.update([0]);
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
        loop {
            let read = reader.fill_buf()?;
            if read.is_empty() {
                return Ok(Some(hash.finalize().into()));
            }
            hash.update(read);
            let length = read.len();
            reader.consume(length);
        }
    }

    /// Its lines, from the beginning.
    pub(crate) fn lines(&self) -> io::Result<Lines> {
        match self {
            Self::File(path) => Lines::new(File::open(path)?),
            Self::Stdin => Lines::new(io::stdin()),
        }
    }
}

// === impl Lines ===

impl Lines {
    fn new(mut raw: impl Read + Send + 'static) -> io::Result<Self> {
        let mut begin = Vec::new();
        raw.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut begin)?;
        let compressed = begin == ZSTD_MAGIC;
        let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(begin).chain(raw));
        let reader: Box<dyn BufRead + Send> = if compressed {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, Frames::Between(whole)))
        } else {
            Box::new(whole)
        };
        Ok(Self { reader, line: Vec::new(), number: 0 })
    }

    /// The next line with its number, which begins at 1; `None` = there is none.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        self.line.clear();
        let mut bounded = self.reader.by_ref().take(LINE_BYTES_MAX);
        let length = bounded.read_until(b'\n', &mut self.line)?;
        if length as u64 == LINE_BYTES_MAX {
            let reason = format!("a line is longer than {LINE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        if length == 0 {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some((self.number, self.line.trim_ascii())))
    }
}

// === impl Frames ===

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            *self = match std::mem::replace(self, Self::Broken) {
                Self::Between(mut source) => {
                    if source.fill_buf()?.is_empty() {
                        *self = Self::Between(source);
                        return Ok(0);
                    }
                    let decoder = StreamingDecoder::new(source).map_err(broken)?;
                    Self::Within(Box::new(decoder))
                }
                Self::Within(mut decoder) => {
                    let length = decoder.read(buffer).map_err(broken)?;
                    if length > 0 {
                        *self = Self::Within(decoder);
                        return Ok(length);
                    }
                    Self::Between(decoder.into_inner())
                }
                Self::Broken => return Err(broken("the frame before this one is broken")),
            };
        }
    }
}

fn broken(error: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {error}"))
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn read_all(content: Vec<u8>) -> io::Result<Vec<(u64, String)>> {
        let mut lines = Lines::new(Cursor::new(content))?;
        let mut found = Vec::new();
        while let Some((number, line)) = lines.next()? {
            found.push((number, String::from_utf8_lossy(line).into_owned()));
        }
        Ok(found)
    }

    fn expected() -> Vec<(u64, String)> {
        vec![(1, "one".into()), (2, "two".into()), (3, String::new()), (4, "four".into())]
    }

    #[test]
    fn plain_lines_are_numbered() {
        assert_eq!(read_all(b"one\r\ntwo\n\nfour".to_vec()).unwrap(), expected());
        assert_eq!(read_all(Vec::new()).unwrap(), []);
        assert_eq!(read_all(b"x".to_vec()).unwrap(), [(1, "x".to_owned())]);
    }

    #[test]
    fn frames_of_zstd_are_read_as_one_file() {
        let frame = |text: &[u8]| compress_to_vec(text, CompressionLevel::Fastest);
        let content = [frame(b"one\ntw"), frame(b"o\n\nfour")].concat();
        assert_eq!(read_all(content).unwrap(), expected());
    }

    #[test]
    fn a_cut_file_is_an_error_and_not_an_end() {
        let mut content = compress_to_vec(&b"one\ntwo\n"[..], CompressionLevel::Fastest);
        content.truncate(content.len() - 3);
        assert!(read_all(content).is_err());
    }

    #[test]
    fn transactions_are_counted_and_empty_lines_are_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"one\ntwo\n\nfour").unwrap();
        let source = Source::File(file.path().to_owned());
        assert_eq!(source.count().unwrap(), Some(3));
        assert_ne!(source.fingerprint("").unwrap(), source.fingerprint("a/").unwrap());
        assert_eq!(Source::new("-").fingerprint("").unwrap(), None);
    }
}
