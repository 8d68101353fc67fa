//! The one place that writes to standard output: JSON lines for programs, tables and coloured
//! lines for people. A reader that goes away ends the command quietly.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde::Serialize;

use crate::exit::Failure;

/// Standard output.
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    coloured: bool,
}

/// Colours of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Plain,
    Green,
    Yellow,
    Red,
    Dim,
}

// === impl Output ===

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let out = io::stdout();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let coloured = out.is_terminal() && !no_colour;
        Self { out: BufWriter::new(out.lock()), json, coloured }
    }

    /// Whether programs read this.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// One object on one line.
    pub(crate) fn object(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_vec(object)
            .map_err(|error| Failure::Internal(format!("writing JSON: {error}")))?;
        self.bytes(&text)?;
        self.bytes(b"\n")
    }

    /// One line for people.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.coloured_line(Colour::Plain, line)
    }

    /// One coloured line for people; plain when nobody sees colours.
    pub(crate) fn coloured_line(&mut self, colour: Colour, line: &str) -> Result<(), Failure> {
        match (self.coloured, colour.code()) {
            (true, Some(code)) => writeln!(self.out, "\x1b[{code}m{line}\x1b[0m"),
            _ => writeln!(self.out, "{line}"),
        }
        .map_err(written)
    }

    /// A table for people.
    pub(crate) fn table(&mut self, mut table: Table) -> Result<(), Failure> {
        // Columns stand apart; the first one begins where every other line does.
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
        writeln!(self.out, "{}", table.trim_fmt()).map_err(written)
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(written)
    }

    /// Makes everything so far visible.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(written)
    }
}

// === impl Colour ===

impl Colour {
    /// The terminal's code; `None` = as it is.
    fn code(self) -> Option<u8> {
        match self {
            Self::Plain => None,
            Self::Green => Some(32),
            Self::Yellow => Some(33),
            Self::Red => Some(31),
            Self::Dim => Some(2),
        }
    }
}

/// An empty table with these column titles.
pub(crate) fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    if !titles.is_empty() {
        table.set_header(titles.iter().map(|title| title.to_uppercase()));
    }
    table
}

/// A cell that holds a number.
pub(crate) fn number(number: impl ToString) -> Cell {
    Cell::new(number).set_alignment(CellAlignment::Right)
}

fn written(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::ClosedPipe;
    }
    Failure::io("writing the output")(error)
}
