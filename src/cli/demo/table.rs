//! The tables that the demo ends with.

use std::time::Duration;

use comfy_table::presets::{NOTHING, UTF8_FULL_CONDENSED};
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, TableStyle};

use super::judge::{Report, Row};
use crate::domain::outcome::StatusName;

/// What became of each intent.
pub(super) fn outcomes(report: &Report) -> Table {
    let mut table = new(UTF8_FULL_CONDENSED.with_rounded_corners());
    let names = ["", "kind", "story", "status", "PaymentStatus", "reason", "attempts", "time"];
    table.set_header(names.map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    for row in &report.rows {
        table.add_row(vec![
            name(row),
            Cell::new(row.kind.map_or("  · in the batch", |kind| kind.as_str())),
            Cell::new(row.story),
            status(row),
            Cell::new(row.payment_status.as_deref().unwrap_or("-")),
            Cell::new(row.reason.as_deref().unwrap_or("-")),
            number(row.attempts.map(|attempts| attempts.to_string())),
            number(row.after.map(seconds)),
        ]);
    }
    table
}

/// What was expected of each intent, and what really happened.
pub(super) fn checks(report: &Report) -> Table {
    let mut table = new(NOTHING);
    let names = ["", "", "must be told", "and is true at the gateway"];
    table.set_header(names.map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    for row in &report.rows {
        let mark = if row.differences.is_empty() {
            Cell::new("✓").fg(Color::Green)
        } else {
            Cell::new("✗").fg(Color::Red).add_attribute(Attribute::Bold)
        };
        table.add_row(vec![mark, name(row), Cell::new(&row.expected), Cell::new(&row.truth)]);
    }
    table
}

fn new(style: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_style(style).set_content_arrangement(ContentArrangement::Dynamic);
    // https://no-color.org
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        table.force_no_tty();
    }
    table
}

fn name(row: &Row) -> Cell {
    Cell::new(&row.name).set_alignment(CellAlignment::Right)
}

fn number(text: Option<String>) -> Cell {
    Cell::new(text.unwrap_or_else(|| "-".to_owned())).set_alignment(CellAlignment::Right)
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f32())
}

fn status(row: &Row) -> Cell {
    if row.statuses.is_empty() {
        return Cell::new("(nothing told)").fg(Color::Red);
    }
    let cell = Cell::new(row.statuses.join(" → "));
    let last = row.statuses.last().and_then(|status| StatusName::parse(status));
    match last {
        Some(StatusName::Cancelled) => cell.fg(Color::Green),
        Some(StatusName::RolledBack) => cell.fg(Color::Cyan),
        Some(StatusName::Rejected) => cell.fg(Color::Yellow),
        Some(StatusName::GivenUp | StatusName::Unresolved) => cell.fg(Color::Red),
        Some(StatusName::Accepted | StatusName::Closed | StatusName::Abandoned) | None => cell,
    }
}
