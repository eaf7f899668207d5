//! The topology and what a look at it has found, as text: tables for people, definitions for the management API.

use serde_json::{Map, Value, json};

use crate::amqp::Topology;
use crate::amqp::preflight::Report;
use crate::amqp::topology::{Argument, Publishers};
use crate::cli::terminal::shown;

/// The topology in the form of RabbitMQ's definitions, for one virtual host: `POST /api/definitions/<vhost>` takes it.
pub(super) fn definitions(topology: &Topology) -> Value {
    let exchanges = topology.exchanges().iter().map(|exchange| {
        let alternate = exchange.alternate.iter().map(|name| ("alternate-exchange".to_owned(), json!(name)));
        json!({
            "name": exchange.name,
            "type": exchange.kind.as_str(),
            "durable": true,
            "auto_delete": false,
            "internal": exchange.publishers == Publishers::Broker,
            "arguments": alternate.collect::<Map<String, Value>>(),
        })
    });
    let queues = topology.queues().iter().map(|queue| {
        let mut arguments = Map::from_iter([("x-queue-type".to_owned(), json!(queue.kind.as_str()))]);
        arguments.extend(queue.arguments.iter().map(|(name, value)| {
            let value = match value {
                Argument::Int(value) => json!(value),
                Argument::Text(value) => json!(value),
            };
            ((*name).to_owned(), value)
        }));
        json!({ "name": queue.name, "durable": true, "auto_delete": false, "arguments": arguments })
    });
    let bindings = topology.bindings().iter().map(|binding| {
        let (kind, destination) = binding.destination.named();
        json!({
            "source": binding.source,
            "destination": destination,
            "destination_type": kind,
            "routing_key": binding.key,
            "arguments": {},
        })
    });
    json!({
        "exchanges": exchanges.collect::<Value>(),
        "queues": queues.collect::<Value>(),
        "bindings": bindings.collect::<Value>(),
    })
}

/// Tables for people: exchanges, queues, bindings.
pub(super) fn tables(topology: &Topology) -> String {
    let exchanges = topology.exchanges().iter().map(|exchange| {
        let internal = (exchange.publishers == Publishers::Broker).then(|| "internal".to_owned());
        let alternate = exchange.alternate.iter().map(|name| format!("alternate-exchange={name}"));
        let notes: Vec<String> = internal.into_iter().chain(alternate).collect();
        [exchange.name.clone(), exchange.kind.as_str().to_owned(), notes.join(" ")]
    });
    let queues = topology.queues().iter().map(|queue| {
        let arguments: Vec<String> =
            queue.arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
        [queue.name.clone(), queue.kind.as_str().to_owned(), arguments.join(" ")]
    });
    let bindings = topology.bindings().iter().map(|binding| {
        let (kind, destination) = binding.destination.named();
        [binding.source.clone(), binding.key.clone(), format!("{kind} {destination}")]
    });
    let exchanges = table(["EXCHANGE", "TYPE", "NOTES"], exchanges);
    let queues = table(["QUEUE", "TYPE", "ARGUMENTS"], queues);
    format!("{exchanges}\n\n{queues}\n\n{}", table(["FROM", "KEY", "TO"], bindings))
}

/// The findings as a table, one a row, the widest column last; and what could not be seen.
pub(super) fn differences(report: &Report) -> String {
    let rows = report.findings.iter().map(|finding| {
        [
            finding.object.to_string(),
            finding.argument(),
            finding.expected().to_owned(),
            finding.found().to_owned(),
            finding.fix.clone(),
        ]
        .map(|cell| shown(&cell))
    });
    let findings = if report.findings.is_empty() {
        "Nothing differs.".to_owned()
    } else {
        table(["NAME", "ARGUMENT", "EXPECTED", "FOUND", "FIX"], rows)
    };
    let unseen = report.unseen.iter().map(ToString::to_string);
    let notes = report.notes.iter().map(ToString::to_string);
    std::iter::once(findings).chain(unseen).chain(notes).collect::<Vec<_>>().join("\n")
}

/// Every column as wide as its widest cell.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::retry::Tier;

    #[test]
    fn the_definitions_are_json_that_names_everything() {
        let tier = |s: u64| Tier { length: Duration::from_secs(s), name: format!("{s}s") };
        let topology = Topology::new("cancel", &[tier(1), tier(5)]);
        let json: Value = serde_json::from_str(&format!("{:#}", definitions(&topology))).expect("JSON");
        assert_eq!(json["exchanges"].as_array().map(Vec::len), Some(topology.exchanges().len()));
        assert_eq!(json["queues"].as_array().map(Vec::len), Some(topology.queues().len()));
        assert_eq!(json["bindings"].as_array().map(Vec::len), Some(topology.bindings().len()));
        assert_eq!(json["queues"][0]["arguments"]["x-queue-type"], "quorum");
    }
}
