//! Commands that work on a store while no server has it: what they do is the store's, what people
//! see of it is here. Each runs to its end in the calling thread.

use std::io::Write as _;
use std::time::Instant;

use serde::Serialize;

use crate::cli::Command;
use crate::config::Config;
use crate::program::{Ended, Exit};

mod compact;
mod progress;
mod restore;
mod verify;

/// Carries out a command.
pub(crate) fn carry_out(command: &Command, config: &Config) -> Result<(), Ended> {
    let began = Instant::now();
    match command {
        Command::Compact(how) => {
            let result = compact::compact(config, !how.json)?;
            tell(how.json, &result.json(began.elapsed()), &result.text(began.elapsed()))
        }
        Command::Verify(how) => {
            let json = how.offline.json;
            let result = verify::verify(config, how.scratch.as_deref(), !json)?;
            tell(json, &result.json(), &result.text())?;
            result.sound()
        }
        Command::Restore(how) => {
            let json = how.offline.json;
            let result = restore::restore(config, &how.from, !json)?;
            tell(json, &result.json(began.elapsed()), &result.text(began.elapsed()))
        }
    }
}

/// Prints a result, for programs or for people.
fn tell(json: bool, object: &impl Serialize, text: &str) -> Result<(), Ended> {
    let failed = |error: std::io::Error| (Exit::CouldNotStart, error.into());
    let line = if json {
        serde_json::to_string(object).map_err(|error| failed(error.into()))?
    } else {
        text.to_owned()
    };
    writeln!(std::io::stdout(), "{line}").map_err(failed)
}
