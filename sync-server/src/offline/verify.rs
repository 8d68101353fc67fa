//! `sync-server verify`: what is wrong with a store, row by row.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::progress::Rows;
use crate::config::Config;
use crate::program::{Ended, Exit, Unsound, worked};
use crate::store::disk::aside::Aside;
use crate::verify::{Verified, verify as check};

/// What was found, and how long it took to read the rows.
pub(super) struct Told {
    verified: Verified,
    took: Duration,
    reading: Duration,
}

pub(super) fn verify(config: &Config, scratch: Option<&Path>, shown: bool) -> Result<Told, Ended> {
    let began = Instant::now();
    let failed = |error| worked(&config.data_dir, error);
    let bar = Rows::new(shown, "copying", None);
    let (store, before) =
        Aside::open(&config.data_dir, scratch, &config.store()).map_err(failed)?;
    drop(bar);
    let bar = Rows::new(shown, "verifying", Some(store.rows()));
    let opened = Instant::now();
    let verified = check(&store, before, &|rows| bar.add(rows)).map_err(failed)?;
    Ok(Told { verified, reading: opened.elapsed(), took: began.elapsed() })
}

// === impl Told ===

impl Told {
    pub(super) fn sound(&self) -> Result<(), Ended> {
        match self.verified.findings_count {
            0 => Ok(()),
            count => Err((Exit::Findings, Unsound { count }.into())),
        }
    }

    pub(super) fn json(&self) -> Value {
        let Verified { rows, collections, findings, findings_count } = &self.verified;
        let finding = |(place, what): &(String, String)| json!({ "place": place, "what": what });
        let findings: Vec<_> = findings.iter().map(finding).collect();
        json!({ "rows": rows, "collections": collections, "findings_count": findings_count,
                "findings": findings, "took_ms": self.took.as_millis(),
                "reading_ms": self.reading.as_millis(), "rows_per_s": self.rows_per_s() })
    }

    pub(super) fn text(&self) -> String {
        let Verified { rows, collections, findings, findings_count } = &self.verified;
        let mut text = String::new();
        for (place, what) in findings {
            writeln!(text, "{place}: {what}").expect("a string takes everything");
        }
        let untold = findings_count - findings.len() as u64;
        if untold > 0 {
            writeln!(text, "and {untold} more").expect("a string takes everything");
        }
        let (took, speed) = (self.took, self.rows_per_s());
        let copying = took.saturating_sub(self.reading);
        write!(
            text,
            "verified {rows} rows of {collections} sound collections in {took:.1?} ({copying:.1?} to \
             copy them aside, then {speed} rows/s): {findings_count} finding(s)"
        )
        .expect("a string takes everything");
        text
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "for people"
    )]
    fn rows_per_s(&self) -> u64 {
        (self.verified.rows as f64 / self.reading.as_secs_f64()) as u64
    }
}
