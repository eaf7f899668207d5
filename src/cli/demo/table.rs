//! The tables that the demo ends with.

use comfy_table::presets::{NOTHING, UTF8_FULL_CONDENSED};
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, TableStyle, Width,
};

use super::judge::{Report, Row};
use crate::domain::outcome::StatusName;

/// What became of each intent.
pub(super) fn outcomes(report: &Report) -> Table {
    let table = new(UTF8_FULL_CONDENSED.with_rounded_corners());
    match table.width() {
        Some(width) if width < WIDE_MIN => narrow(table, report),
        Some(_) | None => wide(table, report),
    }
}

/// From this many characters on a row needs but one line, or nearly so.
const WIDE_MIN: u16 = 140;

/// A column for everything.
fn wide(mut table: Table, report: &Report) -> Table {
    head(&mut table, &["", "kind", "story", "status", "PaymentStatus", "reason", "attempts", "time"]);
    for row in &report.rows {
        table.add_row(vec![
            name(row),
            Cell::new(kind(row)),
            Cell::new(row.story),
            coloured(row, statuses(row)),
            Cell::new(payment_status(row)),
            Cell::new(reason(row)),
            number(attempts(row)),
            number(time(row)),
        ]);
    }
    let constraint = Some(ColumnConstraint::ContentWidth);
    constrain(&mut table, [constraint, constraint, None, None, None, constraint, constraint, constraint]);
    table
}

/// The story below the kind, the reason below the status.
fn narrow(mut table: Table, report: &Report) -> Table {
    head(&mut table, &["", "kind, story", "status, reason", "Payment Status", "att.", "time"]);
    for row in &report.rows {
        let status = match &row.reason {
            None => statuses(row),
            Some(reason) => format!("{}\n{reason}", statuses(row)),
        };
        table.add_row(vec![
            name(row),
            Cell::new(format!("{}\n{}", kind(row), row.story)),
            coloured(row, status),
            Cell::new(payment_status(row)),
            number(attempts(row)),
            number(time(row)),
        ]);
    }
    let (content, fixed) =
        (Some(ColumnConstraint::ContentWidth), |width| Some(ColumnConstraint::Absolute(Width::Fixed(width))));
    constrain(&mut table, [content, None, fixed(19), fixed(14), content, content]);
    table
}

fn head(table: &mut Table, names: &[&str]) {
    table.set_header(names.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
}

fn constrain<const N: usize>(table: &mut Table, constraints: [Option<ColumnConstraint>; N]) {
    for (column, constraint) in table.column_iter_mut().zip(constraints) {
        if let Some(constraint) = constraint {
            column.set_constraint(constraint);
        }
    }
}

/// What was expected of each intent, and what really happened.
pub(super) fn checks(report: &Report) -> Table {
    let mut table = new(NOTHING);
    head(&mut table, &["", "", "must be told", "and is true at the gateway"]);
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

fn number(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn kind(row: &Row) -> &'static str {
    row.kind.map_or("  · in the batch", |kind| kind.as_str())
}

fn statuses(row: &Row) -> String {
    if row.statuses.is_empty() { "(nothing told)".to_owned() } else { row.statuses.join(" → ") }
}

/// Where there is no room for it, it is broken between its words.
fn payment_status(row: &Row) -> String {
    row.payment_status.as_deref().unwrap_or(NOTHING_TO_SHOW).replace('_', " ")
}

fn reason(row: &Row) -> &str {
    row.reason.as_deref().unwrap_or(NOTHING_TO_SHOW)
}

fn attempts(row: &Row) -> String {
    row.attempts.map_or_else(|| NOTHING_TO_SHOW.to_owned(), |attempts| attempts.to_string())
}

fn time(row: &Row) -> String {
    row.after.map_or_else(|| NOTHING_TO_SHOW.to_owned(), |after| format!("{:.1} s", after.as_secs_f32()))
}

const NOTHING_TO_SHOW: &str = "-";

/// In the colour of the last status.
fn coloured(row: &Row, text: String) -> Cell {
    let cell = Cell::new(text);
    match row.statuses.last().and_then(|status| StatusName::parse(status)) {
        Some(StatusName::Cancelled) => cell.fg(Color::Green),
        Some(StatusName::RolledBack) => cell.fg(Color::Cyan),
        Some(StatusName::Rejected) => cell.fg(Color::Yellow),
        Some(StatusName::GivenUp | StatusName::Unresolved) | None => cell.fg(Color::Red),
        Some(StatusName::Accepted | StatusName::Closed | StatusName::Abandoned) => cell,
    }
}
