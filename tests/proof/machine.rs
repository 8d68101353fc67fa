//! What the proof needs of the machine: programs, mounts, and an ext4 file system that can lose
//! its power. Whatever is missing is said aloud, never passed over.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sync_tests::report::report;
use sync_tests::wait::pass;
use tempfile::TempDir;

/// How long a file system may be busy with processes that were just killed.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(20);
const UNMOUNT_EVERY: Duration = Duration::from_millis(20);

/// `EXT4_IOC_SHUTDOWN`, and where a cut leaves the journal: flushed before, or lost as well.
const EXT4_IOC_SHUTDOWN: &str = "0x8004587d";

/// The ioctl needs a program: unsafe code has one place in this workspace, and it is not here.
/// Every Debian has perl.
const SHUT_DOWN: &str = "open(my $dir, '<', $ARGV[0]) or die qq(open: $!); \
                         my $how = pack('L', $ARGV[2]); \
                         ioctl($dir, hex($ARGV[1]), $how) or die qq(ioctl: $!);";

/// How the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The journal gets to the disk before; the data does not.
    JournalFlushed = 1,
    /// Nothing that was not synced gets to the disk.
    NothingFlushed = 2,
}

/// A mounted file system of our own. Dropping it unmounts it.
#[derive(Debug)]
pub(crate) struct Mount {
    at: PathBuf,
    mounted: bool,
}

/// An ext4 file system in a file.
#[derive(Debug)]
pub(crate) struct Image {
    file: PathBuf,
    mount: Mount,
    _dir: TempDir,
}

/// Where a store lies: on a disk whose power can fail, or, where the machine cannot do that, in a
/// directory.
#[derive(Debug)]
pub(crate) enum Disk {
    Image(Image),
    Dir(TempDir),
}

/// Why this machine cannot do it: we are not root, or a program is missing.
pub(crate) fn lacks(root: bool, programs: &[&str]) -> Option<String> {
    if root && run("id", &["-u"]).as_deref() != Ok("0") {
        return Some("needs root".to_owned());
    }
    let missing = |program: &&&str| run("sh", &["-c", &format!("command -v {program}")]).is_err();
    let missing: Vec<&&str> = programs.iter().filter(missing).collect();
    (!missing.is_empty()).then(|| format!("needs the programs {missing:?}"))
}

/// Why this machine cannot cut the power of a file system.
pub(crate) fn lacks_power_cuts() -> Option<String> {
    static LACKS: OnceLock<Option<String>> = OnceLock::new();
    LACKS.get_or_init(try_power_cut).clone()
}

fn try_power_cut() -> Option<String> {
    lacks(true, &["mkfs.ext4", "mount", "perl"]).or_else(|| {
        let image = Image::new().map_err(|error| format!("no ext4 image: {error}"));
        let cut = image.and_then(|mut image| {
            image.mount("data=ordered").and_then(|()| image.cut(Cut::NothingFlushed))
        });
        cut.err()
    })
}

/// Runs a program; what it printed, or why it failed.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let said = |output: &[u8]| String::from_utf8_lossy(output).trim().to_owned();
    match Command::new(program).args(args).output() {
        Ok(Output { status, stdout, .. }) if status.success() => Ok(said(&stdout)),
        Ok(Output { status, stderr, .. }) => Err(format!("{program}: {status}: {}", said(&stderr))),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

// === impl Mount ===

impl Mount {
    /// A tmpfs of so many MiB.
    pub(crate) fn tmpfs(at: &Path, mib: u64) -> Result<Self, String> {
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", text(at)])?;
        Ok(Self { at: at.to_owned(), mounted: true })
    }

    /// Gives it another size.
    pub(crate) fn resize(&self, mib: u64) -> Result<(), String> {
        run("mount", &["-o", &format!("remount,size={mib}m"), text(&self.at)]).map(drop)
    }

    /// Forbids to write to it, or allows it again.
    pub(crate) fn make_read_only(&self, read_only: bool) -> Result<(), String> {
        let how = if read_only { "remount,ro" } else { "remount,rw" };
        run("mount", &["-o", how, text(&self.at)]).map(drop)
    }

    /// Unmounts it, as soon as nobody uses it any more.
    pub(crate) async fn unmount(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while self.mounted {
            match run("umount", &[text(&self.at)]) {
                Ok(_) => self.mounted = false,
                Err(error) if begun.elapsed() > UNMOUNT_PATIENCE => return Err(error),
                Err(_) => pass(UNMOUNT_EVERY).await,
            }
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = run("umount", &["-l", text(&self.at)])
        {
            report(&format!("a test leaves {} mounted: {error}", self.at.display()));
        }
    }
}

// === impl Disk ===

impl Disk {
    /// The best that this machine has.
    pub(crate) fn new() -> Self {
        if lacks_power_cuts().is_some() {
            return Self::Dir(tempfile::tempdir().unwrap());
        }
        let mut image = Image::new().unwrap();
        image.mount("data=ordered").unwrap();
        Self::Image(image)
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Image(image) => image.path(),
            Self::Dir(dir) => dir.path(),
        }
    }

    /// After a process was killed: cuts the power as well, if that is wanted and can be done.
    pub(crate) async fn crash(&mut self, cut: Option<Cut>) {
        if let (Self::Image(image), Some(how)) = (self, cut) {
            image.cut(how).unwrap();
            image.unmount().await.unwrap();
            image.mount("data=ordered").unwrap();
        }
    }

    /// Ends it.
    pub(crate) async fn unmount(&mut self) {
        if let Self::Image(image) = self {
            image.unmount().await.unwrap();
        }
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image(_) => "ext4, half of them with a power cut",
            Self::Dir(_) => "a directory, without power cuts",
        })
    }
}

// === impl Image ===

impl Image {
    /// A fresh one, not mounted. The file is sparse: it takes what is written.
    pub(crate) fn new() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (file, at) = (dir.path().join("image"), dir.path().join("mount"));
        std::fs::create_dir(&at).map_err(|error| error.to_string())?;
        run("truncate", &["-s", "4G", text(&file)])?;
        run("mkfs.ext4", &["-q", "-F", text(&file)])?;
        Ok(Self { file, mount: Mount { at, mounted: false }, _dir: dir })
    }

    /// Mounts it, replaying what its journal holds.
    pub(crate) fn mount(&mut self, options: &str) -> Result<(), String> {
        let options = format!("loop,{options}");
        run("mount", &["-o", &options, text(&self.file), text(&self.mount.at)])?;
        self.mount.mounted = true;
        Ok(())
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount.at
    }

    /// Cuts its power: from now on nothing gets to the disk.
    pub(crate) fn cut(&self, how: Cut) -> Result<(), String> {
        let how = (how as u32).to_string();
        run("perl", &["-e", SHUT_DOWN, text(&self.mount.at), EXT4_IOC_SHUTDOWN, &how]).map(drop)
    }

    /// Unmounts it; what was in memory only is lost after a cut.
    pub(crate) async fn unmount(&mut self) -> Result<(), String> {
        self.mount.unmount().await
    }
}
