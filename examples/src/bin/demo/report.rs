//! What came out: a table and a picture for people, one object for programs, and the verdict.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value as Json, json};

use crate::download::Cost;

/// Width of the longest bar.
const BAR_CELLS: u64 = 46;

/// Everything that came out.
pub(crate) struct Report {
    pub(crate) transactions: usize,
    pub(crate) first_day: String,
    pub(crate) away_since: String,
    /// Commits while it was away.
    pub(crate) missed: usize,
    pub(crate) last_day: String,
    pub(crate) replay_seconds: f64,
    pub(crate) full_downloads: usize,
    /// Bytes of a full download after every commit, reckoned from those that were made.
    pub(crate) download_each_commit: u64,
    pub(crate) checkpoints_proven: usize,
    pub(crate) checkpoints: usize,
    /// Of the data set.
    pub(crate) state_sha256: String,
    pub(crate) collections_expected: usize,
    pub(crate) rows: Vec<Row>,
    pub(crate) seconds: f64,
}

/// How a follower did.
pub(crate) struct Row {
    pub(crate) replica: &'static str,
    pub(crate) followed: usize,
    pub(crate) items: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) catch_up: Duration,
    /// What downloading everything cost instead.
    pub(crate) full: Cost,
    pub(crate) repairs: u64,
    pub(crate) digest_checks: u64,
    /// Collections of the server that it has exactly.
    pub(crate) equal: usize,
    /// Collections of the server.
    pub(crate) collections: usize,
    /// Of what it holds.
    pub(crate) state_sha256: String,
}

// === impl Report ===

impl Report {
    /// Whether every proof holds.
    pub(crate) fn is_proven(&self) -> bool {
        let proven = |row: &Row| {
            row.equal == row.collections
                && row.collections == self.collections_expected
                && row.state_sha256 == self.state_sha256
        };
        self.checkpoints_proven == self.checkpoints && self.rows.iter().all(proven)
    }

    /// For programs.
    pub(crate) fn json(&self) -> Json {
        let rows: Vec<_> = self.rows.iter().map(|row| row.json(&self.state_sha256)).collect();
        json!({
            "transactions": self.transactions,
            "first_day": self.first_day,
            "away_since": self.away_since,
            "commits_missed": self.missed,
            "last_day": self.last_day,
            "replay_seconds": self.replay_seconds,
            "full_downloads": self.full_downloads,
            "full_download_after_each_commit_bytes_reckoned": self.download_each_commit,
            "checkpoints_proven": self.checkpoints_proven,
            "checkpoints": self.checkpoints,
            "final_state_sha256": self.state_sha256,
            "replicas": rows,
            "proven": self.is_proven(),
            "seconds": self.seconds,
        })
    }

    /// For people.
    pub(crate) fn print(&self, to: &mut impl Write) -> io::Result<()> {
        writeln!(to, "\n{}\n", self.table().trim_fmt())?;
        self.notes(to)?;
        self.picture(to)?;
        self.verdict(to)
    }

    fn notes(&self, to: &mut impl Write) -> io::Result<()> {
        let Self { full_downloads, away_since, last_day, .. } = self;
        writeln!(
            to,
            "  always  was online all the time. Downloading: {full_downloads} times in these years; \
             after every commit it would\n          have been about {}.",
            HumanBytes(self.download_each_commit)
        )?;
        writeln!(
            to,
            "  away    missed {} commits, from {away_since} to {last_day}; the numbers are those \
             of its return.",
            self.missed
        )?;
        writeln!(
            to,
            "  new     had nothing. It downloads everything too; the rest is what it takes to \
             begin following.\n"
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "replica",
            "items",
            "received",
            "in",
            "full\ndownload",
            "in",
            "saved",
            "repairs",
            "equals server\nby digest",
            "equals\ndata set",
        ]);
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        for row in &self.rows {
            let equal = format!(
                "{} of {}",
                HumanCount(row.equal as u64),
                HumanCount(row.collections as u64)
            );
            let same = row.state_sha256 == self.state_sha256;
            table.add_row([
                Cell::new(row.replica),
                right(HumanCount(row.items).to_string()),
                right(HumanBytes(row.received).to_string()),
                right(seconds(row.catch_up)),
                right(HumanBytes(row.full.bytes).to_string()),
                right(seconds(row.full.time)),
                right(format!("{:.1} %", row.saved_percent())),
                right(row.repairs.to_string()),
                right(equal),
                right(if same { "yes" } else { "NO" }.to_owned()),
            ]);
        }
        table
    }

    fn picture(&self, to: &mut impl Write) -> io::Result<()> {
        let bytes = self.rows.iter().flat_map(|row| [row.received, row.full.bytes]);
        let longest = bytes.max().unwrap_or(1).max(1);
        let bar = |bytes: u64| {
            let cells = (bytes * BAR_CELLS).div_ceil(longest);
            "█".repeat(usize::try_from(cells).unwrap_or_default())
        };
        for row in &self.rows {
            let (received, full) = (HumanBytes(row.received), HumanBytes(row.full.bytes));
            writeln!(to, "  {:<7} deltasync  {} {received}", row.replica, bar(row.received))?;
            let pale = bar(row.full.bytes).replace('█', "░");
            writeln!(to, "          download   {pale} {full}")?;
        }
        writeln!(to)
    }

    fn verdict(&self, to: &mut impl Write) -> io::Result<()> {
        writeln!(
            to,
            "  {} commits from {} to {} in {:.1} s, each on disk before the next; {:.1} s in all.",
            HumanCount(self.transactions as u64),
            self.first_day,
            self.last_day,
            self.replay_seconds,
            self.seconds
        )?;
        let (proven, of) = (self.checkpoints_proven, self.checkpoints);
        if self.is_proven() {
            writeln!(
                to,
                "  PROVEN: all replicas equal the server in all {} collections, \"always\" was \
                 right at {proven} of {of} checkpoints,\n  and what they hold is the data set's \
                 final_state_sha256 {}",
                HumanCount(self.collections_expected as u64),
                self.state_sha256
            )
        } else {
            writeln!(
                to,
                "  NOT PROVEN: a replica differs, see the table; \"always\" was right at \
                 {proven} of {of} checkpoints"
            )
        }
    }
}

// === impl Row ===

impl Row {
    /// Bytes that following saved, in percent of downloading everything.
    #[allow(clippy::cast_precision_loss, reason = "a percentage for people")]
    fn saved_percent(&self) -> f64 {
        100.0 - 100.0 * self.received as f64 / self.full.bytes.max(1) as f64
    }

    fn json(&self, expected: &str) -> Json {
        json!({
            "replica": self.replica,
            "collections_followed": self.followed,
            "items": self.items,
            "bytes_received": self.received,
            "bytes_sent": self.sent,
            "catch_up_seconds": self.catch_up.as_secs_f64(),
            "full_download_bytes": self.full.bytes,
            "full_download_seconds": self.full.time.as_secs_f64(),
            "full_download_items": self.full.items,
            "saved_percent": self.saved_percent(),
            "repairs": self.repairs,
            "digest_checks": self.digest_checks,
            "collections_equal": self.equal,
            "collections": self.collections,
            "state_sha256": self.state_sha256,
            "state_equal": self.state_sha256 == expected,
        })
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
