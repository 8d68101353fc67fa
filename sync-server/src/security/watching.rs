//! A file that may change while the server runs. It is read and compared as a whole: file times are
//! too coarse for a file that is written twice at once, and mounted secrets are exchanged by
//! renaming directories. What is seen once may be half written; what is seen twice is taken.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Bytes of a file: far more than anything of ours needs.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What is in a file.
pub(crate) type Contents = Vec<u8>;

/// What was seen: the hash of the contents, or why there are none.
type Seen = Result<[u8; 32], FileError>;

/// A file that is watched.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    settling: Settling,
}

/// Which contents are to be taken up. Pure.
#[derive(Debug)]
struct Settling {
    /// Those that were taken up, or refused, last.
    judged: Seen,
    /// Others, seen once.
    candidate: Option<Seen>,
}

/// Why a file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is not there, or may not be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::ErrorKind),
    /// It is a directory, or worse.
    #[error("is no file")]
    NoFile,
    /// Nobody writes so much.
    #[error("is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// It is binary.
    #[error("is no UTF-8 text")]
    NoText,
}

// === impl Watched ===

impl Watched {
    /// Reads a file for the first time.
    pub(crate) fn open(path: &Path) -> Result<(Self, Contents), FileError> {
        let contents = read(path)?;
        let judged = Ok(hash(&contents));
        let settling = Settling { judged, candidate: None };
        Ok((Self { path: path.to_owned(), settling }, contents))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at it: `None` = there is nothing new to judge.
    pub(crate) async fn changed(&mut self) -> Option<Result<Contents, FileError>> {
        let path = self.path.clone();
        // A disk that hangs holds up this look and nothing else.
        let found = tokio::task::spawn_blocking(move || read(&path)).await.ok()?;
        let seen = match &found {
            Ok(contents) => Ok(hash(contents)),
            Err(error) => Err(*error),
        };
        self.settling.take(seen).then_some(found)
    }
}

// === impl Settling ===

impl Settling {
    /// Whether what is seen now is to be judged.
    fn take(&mut self, seen: Seen) -> bool {
        if seen == self.judged {
            self.candidate = None;
            return false;
        }
        if self.candidate.as_ref() != Some(&seen) {
            self.candidate = Some(seen);
            return false;
        }
        self.candidate = None;
        self.judged = seen;
        true
    }
}

fn read(path: &Path) -> Result<Contents, FileError> {
    let unreadable = |error: io::Error| FileError::Unreadable(error.kind());
    // Before it is opened: a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(FileError::NoFile);
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut contents = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut contents).map_err(unreadable)?;
    if contents.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLarge);
    }
    Ok(contents)
}

fn hash(contents: &[u8]) -> [u8; 32] {
    Sha256::digest(contents).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is half written is not taken up, and what was refused is refused once.
    #[test]
    fn a_change_is_taken_when_it_was_seen_twice() {
        let (old, half, new) = (Ok([1; 32]), Ok([2; 32]), Ok([3; 32]));
        let gone = Err(FileError::Unreadable(io::ErrorKind::NotFound));
        let mut settling = Settling { judged: old, candidate: None };
        let mut takes = |seen: Seen| settling.take(seen);
        assert!(!takes(old) && !takes(half) && !takes(new), "seen once");
        assert!(takes(new), "seen twice");
        assert!(!takes(new) && !takes(new), "taken already");
        assert!(!takes(gone) && takes(gone) && !takes(gone), "its absence is told once");
        assert!(!takes(half) && !takes(gone) && !takes(half), "interrupted");
        assert!(takes(half));
    }

    #[test]
    fn only_files_of_a_sensible_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let missing = Watched::open(&path).map(|_| ()).unwrap_err();
        assert_eq!(missing, FileError::Unreadable(io::ErrorKind::NotFound));
        assert_eq!(Watched::open(dir.path()).map(|_| ()).unwrap_err(), FileError::NoFile);
        let large = std::fs::File::create(&path).unwrap();
        large.set_len(FILE_BYTES_MAX + 1).unwrap();
        assert_eq!(Watched::open(&path).map(|_| ()).unwrap_err(), FileError::TooLarge);
        large.set_len(3).unwrap();
        assert_eq!(Watched::open(&path).unwrap().1, [0, 0, 0]);
    }
}
