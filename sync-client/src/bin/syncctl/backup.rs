//! Takes a backup of the whole server into a file: everything at one moment, while commits go on.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::HumanBytes;
use serde_json::json;
use sync_client::BackupStream;

use crate::Context;
use crate::args;
use crate::exit::{Exit, Failure};
use crate::progress;

/// A file under way. It gets its name when it is complete, and goes when it is given up.
struct Partial {
    file: File,
    unfinished: PathBuf,
    path: PathBuf,
    complete: bool,
}

pub(crate) async fn backup(context: &mut Context, asked: args::Backup) -> Result<Exit, Failure> {
    let args::Backup { out, force } = asked;
    if out.exists() && !force {
        let text = format!("{} exists: choose another name, or --force", out.display());
        return Err(Failure::Usage(text));
    }
    let began = Instant::now();
    let stream = context.client.backup().await?;
    let mut file = Partial::create(&out)?;
    let bar = progress::of_rows(&context.output);
    let (bytes, rows) = receive(stream, &mut file, &bar).await?;
    bar.finish_and_clear();
    file.complete()?;
    let took = began.elapsed();
    if context.output.json() {
        let file = out.display().to_string();
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let told = json!({ "file": file, "bytes": bytes, "rows": rows, "took_ms": took_ms });
        context.output.object(&told)?;
    } else {
        let (path, bytes) = (out.display(), HumanBytes(bytes));
        let line = format!("backed up {rows} rows to {path}: {bytes} in {took:.1?}");
        context.output.line(&line)?;
    }
    Ok(Exit::Done)
}

/// Writes what comes; bytes and rows of it.
async fn receive(
    mut stream: BackupStream,
    file: &mut Partial,
    bar: &indicatif::ProgressBar,
) -> Result<(u64, u64), Failure> {
    let (mut bytes, mut rows) = (0, 0);
    while let Some(piece) = stream.next().await? {
        file.write(&piece.chunk)?;
        bytes += piece.chunk.len() as u64;
        rows = piece.rows;
        bar.set_length(piece.estimated_rows);
        bar.set_position(rows);
        bar.set_message(HumanBytes(bytes).to_string());
    }
    Ok((bytes, rows))
}

// === impl Partial ===

impl Partial {
    fn create(path: &Path) -> Result<Self, Failure> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".partial");
        let unfinished = PathBuf::from(unfinished);
        let file = File::create(&unfinished)
            .map_err(Failure::io(format!("creating {}", unfinished.display())))?;
        Ok(Self { file, unfinished, path: path.to_owned(), complete: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(bytes);
        written.map_err(Failure::io(format!("writing {}", self.unfinished.display())))
    }

    /// A file of this name is complete, also after a power cut.
    fn complete(mut self) -> Result<(), Failure> {
        let named = self
            .file
            .sync_all()
            .and_then(|()| fs::rename(&self.unfinished, &self.path))
            .and_then(|()| sync_parent(&self.path));
        named.map_err(Failure::io(format!("writing {}", self.path.display())))?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.complete {
            // It may be gone already; the failure that led here is told.
            drop(fs::remove_file(&self.unfinished));
        }
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
