//! What came of it: a table for people, and JSON for programs.

use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::audit::Audit;

const COLUMNS: [&str; 12] = [
    "scenario",
    "intents",
    "lost",
    "contradictions",
    "false",
    "doubled effects",
    "calls after effect",
    "stuck",
    "recovery p99 ms",
    "given up",
    "unresolved",
    "s",
];

/// The table, and the sentence below it.
pub(crate) fn table(audit: &[Audit]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(COLUMNS);
    for one in audit {
        let counts = [
            one.intents,
            one.lost,
            one.contradictions,
            one.false_outcomes,
            one.doubled_effects,
            one.calls_after_effect,
            one.stuck,
        ];
        let mut row = vec![one.name.to_owned()];
        row.extend(counts.iter().map(ToString::to_string));
        row.push(one.recovery_p99_ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string()));
        row.push(one.given_up.to_string());
        row.push(one.unresolved.to_string());
        row.push(format!("{:.0}", one.seconds));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let intents: usize = audit.iter().map(|one| one.intents).sum();
    let doubled: usize = audit.iter().map(|one| one.doubled_effects).sum();
    let events: usize = audit.iter().map(|one| one.events).sum();
    format!(
        "{table}\n{intents} intents in {} scenarios, {events} outcome events. Effects beyond the first per intent: \
         {doubled}",
        audit.len()
    )
}

/// Writes the same as JSON.
pub(crate) fn write(path: &Path, seed: u64, audit: &[Audit]) -> Result<()> {
    let scenarios: Vec<Value> = audit
        .iter()
        .map(|one| {
            json!({
                "name": one.name,
                "intents": one.intents,
                "lost": one.lost,
                "contradictions": one.contradictions,
                "false_outcomes": one.false_outcomes,
                "doubled_effects": one.doubled_effects,
                "calls_after_effect": one.calls_after_effect,
                "stuck": one.stuck,
                "recovery_p99_ms": one.recovery_p99_ms,
                "given_up": one.given_up,
                "unresolved": one.unresolved,
                "events": one.events,
                "seconds": one.seconds,
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&json!({ "seed": seed, "scenarios": scenarios }))?;
    std::fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))
}
