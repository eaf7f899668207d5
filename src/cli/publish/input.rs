//! What `publish` was given: bytes become intents, or mistakes, all of them at once.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::domain::intent::{CancelIntent, IntentId, Kind};
use crate::wire::envelope::{Address, Headers, Message};
use crate::wire::intent::{PartialIntent, decode_or_all_faults, read_known};
use crate::wire::outcome::LETTER_CONTENT_TYPE;
use crate::wire::split_values;

/// One intent, as it is published.
#[derive(Debug)]
pub(super) struct Given {
    /// The line in which it begins, from 1.
    pub(super) line: usize,
    /// Its id, where one can be read.
    pub(super) id: Option<IntentId>,
    pub(super) message: Message,
}

/// The intents in this text; or every mistake, each with its line.
pub(super) fn intents(text: &[u8], unchecked: bool) -> Result<Vec<Given>, Vec<String>> {
    let mut given = Vec::new();
    let mut mistakes = Vec::new();
    let mut first_of: BTreeMap<IntentId, (usize, CancelIntent)> = BTreeMap::new();
    for (line, body) in split_values(text) {
        let PartialIntent { id, kind, .. } = read_known(body);
        // Without a kind it is a mistake in every lane; the lane here only says in which words.
        match decode_or_all_faults(body) {
            Err(faults) if !unchecked => {
                mistakes.extend(faults.iter().map(|fault| format!("line {line}: {fault}")));
                continue;
            }
            Err(_) => {}
            Ok(received) => {
                let intent = received.intent;
                match first_of.get(&intent.id) {
                    Some((first, known)) if *known != intent && !unchecked => {
                        mistakes.push(format!(
                            "line {line}: intentId {} is that of another intent in line {first}: a changed intent needs a \
                             new one.",
                            intent.id
                        ));
                        continue;
                    }
                    Some(_) => {}
                    None => drop(first_of.insert(intent.id, (line, intent))),
                }
            }
        }
        match kind {
            Some(kind) => given.push(Given { line, id, message: message(kind, body) }),
            None => mistakes.push(format!(
                "line {line}: no kind can be read, so there is no routing key to publish it with"
            )),
        }
    }
    if mistakes.is_empty() { Ok(given) } else { Err(mistakes) }
}

fn message(kind: Kind, body: &[u8]) -> Message {
    Message {
        address: Address::Intents,
        routing_key: kind.as_str().to_owned(),
        headers: Headers::new(),
        content_type: LETTER_CONTENT_TYPE,
        message_id: None,
        occasion: None,
        body: Bytes::copy_from_slice(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "2d9f1c1e-53f5-4a35-a2cf-6a1f3a3c8a11";
    const B: &str = "2d9f1c1e-53f5-4a35-a2cf-6a1f3a3c8a12";

    fn intent(id: &str, payment: &str, more: &str) -> String {
        format!(
            r#"{{"intentId":"{id}","kind":"async_cancel","requestedAt":"2026-10-14T12:00:00Z","payment":{{"paymentRequestId":"{payment}"}}{more}}}"#
        )
    }

    fn pretty(json: &str) -> String {
        let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
        serde_json::to_string_pretty(&value).expect("JSON")
    }

    #[test]
    fn values_may_stand_in_a_line_or_span_lines_and_keep_their_bytes() {
        let (one, two) = (intent(A, B, ""), pretty(&intent(B, A, "")));
        let text = format!("\n{one}\n\n{two}\n{one}");
        let given = intents(text.as_bytes(), false).expect("right");
        let told: Vec<(usize, &[u8])> = given.iter().map(|it| (it.line, &it.message.body[..])).collect();
        assert_eq!(told, [(2, one.as_bytes()), (4, two.as_bytes()), (12, one.as_bytes())]);
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_one_hides_no_other() {
        let right = intent(A, B, "");
        let text = [
            right.as_str(),
            r#"{"intentId": "#,
            &right.replace("async_cancel", "no_kind"),
            &format!("{right} trailing"),
            "no JSON at all",
            &pretty(&right).replace("requestedAt", "requested"),
            &pretty(&right).replace("\"async_cancel\",", "\"async_cancel\""),
            &right,
        ]
        .join("\n");
        let mistakes = intents(text.as_bytes(), false).expect_err("mistakes");
        let mut lines: Vec<&str> = mistakes.iter().filter_map(|it| it.split(':').next()).collect();
        // A field that is missing, and one that is unknown.
        lines.dedup();
        assert_eq!(lines, ["line 2", "line 3", "line 4", "line 5", "line 6", "line 14"], "{mistakes:#?}");
    }

    #[test]
    fn every_mistake_of_one_intent_is_told() {
        let text = r#"{"intentId":"x","kind":"batch_cancel","requestedAt":"y","more":1,"payment":{"payments":[
            {"merchantUniqueCode":"a","date":"z"},{"date":"2026-10-14","other":1}]},"even":2}"#;
        let mistakes = intents(text.as_bytes(), false).expect_err("mistakes");
        let fields: Vec<&str> = mistakes.iter().filter_map(|it| it.split(' ').nth(2)).collect();
        assert_eq!(
            fields,
            [
                "intentId",
                "requestedAt",
                "payment.payments[0].date",
                "payment.payments[1].merchantUniqueCode",
                "payment.payments[1].other",
                "more",
                "even",
            ],
            "{mistakes:#?}"
        );
    }

    #[test]
    fn one_id_with_two_bodies_is_a_mistake_and_the_same_wish_written_otherwise_is_none() {
        let first = intent(A, B, "");
        let same = [
            first.clone(),
            pretty(&first),
            intent(&A.to_uppercase(), B, r#","reference":{"a":1}"#),
            first.replace("12:00:00Z", "14:00:00+02:00"),
            intent(A, B, r#","merchant":"default""#),
        ];
        assert_eq!(intents(same.join("\n").as_bytes(), false).expect("one intent").len(), same.len());
        let others = [
            intent(A, A, ""),
            intent(A, B, r#","merchant":"other""#),
            first.replace("12:00:00Z", "12:00:01Z"),
            first.replace("async_cancel", "sync_cancel_rollback"),
        ];
        for other in others {
            let mistakes = intents(format!("{first}\n{other}").as_bytes(), false).expect_err("two intents");
            assert_eq!(mistakes.len(), 1, "{mistakes:?}");
            assert!(
                mistakes[0].starts_with(&format!("line 2: intentId {A} is that of another")),
                "{mistakes:?}"
            );
        }
    }

    #[test]
    fn unchecked_needs_nothing_but_a_kind() {
        let text = r#"{"kind":"async_cancel"}
{"kind":"async_cancel"} trailing
{"kind":"nothing"}"#;
        let mistakes = intents(text.as_bytes(), true).expect_err("one has no kind");
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        let text = text.lines().take(2).collect::<Vec<_>>().join("\n");
        let given = intents(text.as_bytes(), true).expect("kinds");
        assert_eq!(&given[1].message.body[..], br#"{"kind":"async_cancel"} trailing"#);
    }
}
