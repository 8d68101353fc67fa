//! The table of a run.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use crate::run::Played;

/// Characters of an objection that the table shows.
const OBJECTION_CHARS_MAX: usize = 600;

/// Cases, how they went, and what was wrong.
#[must_use]
pub fn table(played: &[Played]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["case", "result", "s", "calls"]);
    for one in played {
        let result = if one.objections.is_empty() { "passed" } else { "FAILED" };
        let took = format!("{:.1}", one.took.as_secs_f64());
        table.add_row([one.id.as_str(), result, took.as_str(), &one.calls.to_string()]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let objections = played.iter().flat_map(|one| {
        one.objections.iter().map(|objection| {
            let shown: String = objection.chars().take(OBJECTION_CHARS_MAX).collect();
            format!("\n{}: {shown}", one.id)
        })
    });
    std::iter::once(table.to_string()).chain(objections).collect()
}

/// How many there were, and how many failed.
#[must_use]
pub fn summary(played: &[Played]) -> String {
    let failed = played.iter().filter(|one| !one.objections.is_empty()).count();
    format!("{} cases, {} passed, {failed} failed", played.len(), played.len() - failed)
}
