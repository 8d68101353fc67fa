//! The command line, as users see it in `--help`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use sync_client::types::{CollectionName, Key, ListOrder, SortKey, Version};
use sync_proto::limits::ID_LEN_MAX;

use crate::admin::{Inspect, Purge, RotateEpoch};
use crate::clients::{Ack, Clients};
use crate::exit::EXIT_CODES;
use crate::explain::Explain;
use crate::followers::{Audience, Followers, Follows};
use crate::operating::{Drain, Verify};
use crate::text::{FIELDS, from_base64};
use crate::top::Top;

#[cfg(test)]
mod tests;

/// Reads, writes and follows the collections of a deltasync server.
#[derive(Debug, Parser)]
#[command(name = "syncctl", version, after_help = format!("{EXIT_CODES}\n\n{FIELDS}"))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print JSON, one object per line, and no progress bars. Errors are JSON too, on stderr.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which server, and how patiently.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// The server.
    #[arg(
        long, global = true, value_name = "URL", env = "SYNCCTL_SERVER",
        default_value = "http://127.0.0.1:7411", value_hint = ValueHint::Url
    )]
    pub(crate) server: String,
    /// Bearer token. Prefer the variable: arguments are visible to other users of the machine.
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "SYNCCTL_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    /// File of a bearer token; read again, so that a new one counts.
    #[arg(
        long, global = true, value_name = "FILE", env = "SYNCCTL_TOKEN_FILE",
        value_hint = ValueHint::FilePath
    )]
    pub(crate) token_file: Option<PathBuf>,
    /// Whom to trust to be an https server (PEM). Default: whom the system trusts.
    #[arg(
        long, global = true, value_name = "FILE", env = "SYNCCTL_CA_FILE",
        value_hint = ValueHint::FilePath
    )]
    pub(crate) ca_file: Option<PathBuf>,
    /// Certificate to show to an https server (PEM), with --key-file.
    #[arg(
        long, global = true, value_name = "FILE", env = "SYNCCTL_CERT_FILE",
        requires = "key_file", value_hint = ValueHint::FilePath
    )]
    pub(crate) cert_file: Option<PathBuf>,
    /// The private key of that certificate (PEM).
    #[arg(
        long, global = true, value_name = "FILE", env = "SYNCCTL_KEY_FILE",
        requires = "cert_file", value_hint = ValueHint::FilePath
    )]
    pub(crate) key_file: Option<PathBuf>,
    /// The name that the server's certificate must bear. Default: that in the address.
    #[arg(long, global = true, value_name = "NAME", env = "SYNCCTL_SERVER_NAME")]
    pub(crate) server_name: Option<String>,
    /// What the server calls this client in "clients" and "explain"; at most 128 bytes. Give each one
    /// that follows its own. Default: made at random for whoever follows, by "replica" kept in the
    /// file of the copy; for other commands none.
    #[arg(long, global = true, value_name = "ID", env = "SYNCCTL_CLIENT_ID", value_parser = client_id)]
    pub(crate) client_id: Option<String>,
    /// Longest wait for one answer, e.g. 10, 500ms, 2m. "replica --once": for the whole catch-up.
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Repeat a call that failed for a passing reason for so long. Default: not at all; "import":
    /// 30s.
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub(crate) retry: Option<Duration>,
    /// Log what happens on the connection, to stderr.
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create or replace an item.
    Put(Put),
    /// Show items by key.
    Get(Get),
    /// Delete items, all in one commit.
    Delete(Delete),
    /// List the items of a collection, or the collections.
    List(List),
    /// Show where a collection stands: version, epoch, items, digest.
    Head(Head),
    /// Show what is there and follow what changes, until Ctrl-C.
    Watch(Watch),
    /// Show the first rows of a collection in list order, without the others, and follow them.
    Window(Window),
    /// Replay a file of transactions: each becomes one commit.
    Import(Import),
    /// Write collections to a file that "import" reads.
    Export(Export),
    /// Back up the whole server while it serves: everything at one moment. "sync-server restore"
    /// builds a store from the file. Needs a token with the right to administer.
    Backup(Backup),
    /// Keep a local copy of collections in a file, until Ctrl-C.
    Replica(Replica),
    /// Delete a whole collection.
    DeleteCollection(DeleteCollection),
    /// Show what a collection holds and how it is kept. For operators, like the next three.
    Inspect(Inspect),
    /// Set how a collection is kept; without an option, show it.
    Policy(PolicyChange),
    /// Forget deletes now. Readers that have not heard of them must start over.
    Purge(Purge),
    /// Give a collection a new epoch: all of its readers start over.
    RotateEpoch(RotateEpoch),
    /// Let subjects follow a collection, which need not exist yet.
    Follow(Followers),
    /// Let subjects follow a collection no longer.
    Unfollow(Followers),
    /// Show who follows a collection. For operators, like the next.
    Audience(Audience),
    /// Show what a subject follows.
    Follows(Follows),
    /// Show the clients that were served lately or have acknowledged something. For operators.
    Clients(Clients),
    /// Show what a client showed lately, what was decided and why, and what to do about it.
    Explain(Explain),
    /// Show what the server is busy with, again and again, until Ctrl-C.
    Top(Top),
    /// Check every row of the collections while the server serves.
    Verify(Verify),
    /// End the server in good order, as SIGTERM does.
    Drain(Drain),
    /// Acknowledge for a client that it has applied a collection.
    Ack(Ack),
    /// Ask whether the server serves.
    Health,
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: Shell,
    },
}

/// How keys are written on the command line.
#[derive(Debug, Args)]
pub(crate) struct KeyForm {
    /// Keys are given in base64.
    #[arg(long)]
    pub(crate) keys_base64: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("content").required(true))]
pub(crate) struct Put {
    /// Name of the collection; it is created if it does not exist.
    #[arg(value_parser = collection)]
    pub(crate) collection: CollectionName,
    /// Key of the item.
    pub(crate) key: String,
    /// Its content. One that begins with a hyphen and is not a number comes behind "--".
    #[arg(group = "content", allow_negative_numbers = true)]
    pub(crate) value: Option<String>,
    /// Take the content from this file.
    #[arg(long, group = "content", value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
    /// Take the content from standard input.
    #[arg(long, group = "content")]
    pub(crate) stdin: bool,
    /// Place in list order. Not given: an existing item keeps its place.
    #[arg(long, value_parser = sort_key)]
    pub(crate) sort_key: Option<SortKey>,
    /// Only if the item has exactly this version.
    #[arg(long, value_name = "N", value_parser = version, conflicts_with = "if_absent")]
    pub(crate) if_version: Option<Version>,
    /// Only if there is no such item.
    #[arg(long)]
    pub(crate) if_absent: bool,
    #[command(flatten)]
    pub(crate) form: KeyForm,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    pub(crate) collection: CollectionName,
    /// Keys of the items.
    #[arg(required = true)]
    pub(crate) keys: Vec<String>,
    /// Write the content of one item as it is, and nothing else.
    #[arg(long, conflicts_with = "json")]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) form: KeyForm,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    pub(crate) collection: CollectionName,
    /// Keys of the items.
    #[arg(required = true)]
    pub(crate) keys: Vec<String>,
    #[command(flatten)]
    pub(crate) form: KeyForm,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Name of the collection. Not given: list the collections.
    #[arg(value_parser = collection)]
    pub(crate) collection: Option<CollectionName>,
    /// Order of the items.
    #[arg(long, value_enum, default_value_t = Order::Key, requires = "collection")]
    pub(crate) order: Order,
    /// Last first.
    #[arg(long, requires = "collection")]
    pub(crate) desc: bool,
    /// Only keys, or names of collections, that begin with this.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// At most so many. Not given: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Leave the values out; of collections, everything but the names.
    #[arg(long)]
    pub(crate) keys_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// By key.
    Key,
    /// By sort key, then key.
    Sort,
}

#[derive(Debug, Args)]
pub(crate) struct Head {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    pub(crate) collection: CollectionName,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Names of the collections; they need not exist yet.
    #[arg(required = true, value_parser = collection)]
    pub(crate) collections: Vec<CollectionName>,
    /// End after so many changes; what was there at the beginning does not count.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Leave out what was there at the beginning.
    #[arg(long)]
    pub(crate) changes_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Window {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    pub(crate) collection: CollectionName,
    /// How many rows.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) first: usize,
    /// Last first.
    #[arg(long)]
    pub(crate) desc: bool,
    /// Begin with the row of this rank; 0 is the first.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) rank: u64,
    /// Begin with the first row that has this sort key or stands behind it.
    #[arg(long, value_name = "PLACE", value_parser = sort_key, conflicts_with = "rank")]
    pub(crate) from_sort_key: Option<SortKey>,
    /// Among the rows of that sort key, begin with this key.
    #[arg(long, value_name = "KEY", requires = "from_sort_key")]
    pub(crate) from_key: Option<String>,
    /// Leave the values out.
    #[arg(long)]
    pub(crate) keys_only: bool,
    /// Show what changes, until Ctrl-C.
    #[arg(long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) form: KeyForm,
}

#[derive(Debug, Args)]
#[command(after_help = crate::record::FORMAT_HELP)]
pub(crate) struct Import {
    /// JSON Lines, plain or compressed with zstd; "-" = standard input.
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: String,
    /// Put this before every name of a collection, e.g. "staging/".
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Name under which the server remembers how far the import came. Not given: made from the
    /// content of the file, so that the same command goes on where it was interrupted.
    #[arg(long = "import-id", value_name = "ID")]
    pub(crate) id: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = crate::record::FORMAT_HELP)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Write to this file; it appears when it is complete. Not given: standard output.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// Write to this file; it appears when it is complete.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Which collections. Neither names nor prefix: all.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// Names of the collections.
    #[arg(value_parser = collection)]
    pub(crate) collections: Vec<CollectionName>,
    /// All collections whose names begin with this.
    #[arg(long, conflicts_with = "collections")]
    pub(crate) prefix: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Replica {
    /// The file of the local copy; created if it does not exist.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) store: PathBuf,
    /// Names of the collections.
    #[arg(required_unless_present = "prefix", value_parser = collection)]
    pub(crate) collections: Vec<CollectionName>,
    /// All collections whose names begin with this when the command starts.
    #[arg(long, conflicts_with = "collections")]
    pub(crate) prefix: Option<String>,
    /// Catch up, report, and end.
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteCollection {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    pub(crate) collection: CollectionName,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyChange {
    /// Name of the collection.
    #[arg(value_parser = collection)]
    pub(crate) collection: CollectionName,
    /// Keep tombstones for so long, e.g. 3600, 12h, 30d; 0 = not at all.
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub(crate) tombstone_age: Option<Duration>,
    /// Keep so many tombstones at most, whatever their age.
    #[arg(long, value_name = "N")]
    pub(crate) tombstones: Option<u64>,
    /// Take no commit that would make the live items larger than this; 0 = no limit.
    #[arg(long, value_name = "BYTES")]
    pub(crate) bytes: Option<u64>,
    /// How followers are told: write to each of their inboxes, or let them read. An audience that is
    /// too large to be written to is read all the same.
    #[arg(long, value_name = "HOW")]
    pub(crate) diffusion: Option<HowTold>,
    /// Follow the server's default again. May be given more than once.
    #[arg(long, value_name = "FIELD")]
    pub(crate) default: Vec<PolicyPart>,
}

/// How followers are told.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum HowTold {
    Write,
    Read,
}

/// A part of a policy.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PolicyPart {
    TombstoneAge,
    Tombstones,
    Bytes,
    Diffusion,
}

// === impl KeyForm ===

impl KeyForm {
    pub(crate) fn key(&self, text: &str) -> Result<Key, String> {
        let bytes = if self.keys_base64 { from_base64(text)? } else { text.as_bytes().to_vec() };
        Key::new(bytes).map_err(|error| error.to_string())
    }
}

// === impl Order ===

impl From<Order> for ListOrder {
    fn from(order: Order) -> Self {
        match order {
            Order::Key => Self::Key,
            Order::Sort => Self::SortKey,
        }
    }
}

pub(crate) fn collection(text: &str) -> Result<CollectionName, String> {
    CollectionName::new(text).map_err(|error| error.reason)
}

pub(crate) fn client_id(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("client_id must not be empty".to_owned()),
        len if len > ID_LEN_MAX => {
            Err(format!("client_id has {len} bytes, the limit is {ID_LEN_MAX}"))
        }
        _ => Ok(text.to_owned()),
    }
}

fn sort_key(text: &str) -> Result<SortKey, String> {
    SortKey::new(text.as_bytes().to_vec()).map_err(|error| error.reason)
}

pub(crate) fn version(text: &str) -> Result<Version, String> {
    let number = text.parse::<u64>().map_err(|error| error.to_string())?;
    Version::new(number).map_err(|error| error.reason)
}

/// `10`, `10s`, `500ms`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "must be like 10, 500ms or 2m".to_owned())?;
    let duration = match unit {
        "" | "s" => Some(Duration::from_secs(number)),
        "ms" => Some(Duration::from_millis(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    };
    let duration = duration.ok_or_else(|| "must be like 10, 500ms or 2m".to_owned())?;
    // More than anybody waits; far below what clocks can add.
    if duration > DURATION_MAX {
        return Err("must be at most 7 days".to_owned());
    }
    Ok(duration)
}

/// Like [`duration`], and `12h`, `30d`; how long is the server's to judge.
fn age(text: &str) -> Result<Duration, String> {
    let of = |unit, seconds| text.strip_suffix(unit).map(|number| (number, seconds));
    let Some((number, seconds)) = of('d', DAY_S).or_else(|| of('h', HOUR_S)) else {
        return text.parse().map(Duration::from_secs).or_else(|_| duration(text));
    };
    let number: u64 = number.parse().map_err(|_| "must be like 3600, 12h or 30d".to_owned())?;
    let seconds = number.checked_mul(seconds).ok_or_else(|| "is too long".to_owned())?;
    Ok(Duration::from_secs(seconds))
}

const HOUR_S: u64 = 60 * 60;
const DAY_S: u64 = 24 * HOUR_S;

const DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
