//! The contract holds together: schemas, examples, the AsyncAPI document and the page for ledger authors.
//!
//! The examples are the judge. Each file in `schemas/examples/` says by its name what must be said of it:
//!
//! - `intents/valid.<kind>.<what>.json`
//! - `intents/invalid.<field>.<what>.json`: the schema refuses it, and so does the reader, naming the field
//! - `intents/invalid-beyond-schema.<field>.<what>.json`: only the reader can refuse it
//! - `outcomes/valid.<kind>.<status>[.<reason>][.<what>].json`
//! - `outcomes/invalid.<field>.<what>.json`
//!
//! A field is a path (`payment.payments.1.date`); `body` is the message as a whole. What is too large to be
//! kept in a file is made by [`generated_intents`] under a name of the same form.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use serde_json::{Value, json};
use uuid::Uuid;

const KINDS: [&str; 5] =
    ["async_cancel", "sync_cancel_rollback", "transaction_cancel", "apm_provision_cancel", "batch_cancel"];

/// Contract §2.
const BODY_BYTES_MAX: usize = 262_144;
const REFERENCE_BYTES_MAX: usize = 4_096;
const BATCH_PAYMENTS_MAX: usize = 500;

// ---------------------------------------------------------------------------------------------------------
// The examples, with their names read.

/// One intent as it would lie in a lane.
struct IntentExample {
    /// The file's name, for messages of failed tests.
    name: String,
    /// The routing key to read it under: the body's own kind where that is one of the five.
    lane: &'static str,
    judgement: IntentJudgement,
    bytes: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum IntentJudgement {
    Valid {
        kind: String,
    },
    Invalid {
        /// The field that the reader's error must name, as `payment.payments[1].date`; `body` for all of it.
        field: String,
        seen_by: SeenBy,
    },
}

#[derive(Debug, PartialEq)]
enum SeenBy {
    SchemaAndReader,
    ReaderOnly,
}

/// One outcome as it would leave the worker.
struct OutcomeExample {
    name: String,
    judgement: OutcomeJudgement,
    value: Value,
}

enum OutcomeJudgement {
    Valid {
        kind: String,
        status: String,
        reason: Option<String>,
        /// How often the letter was replayed, which the event itself does not say but its id does.
        replays: u32,
    },
    Invalid {
        field: String,
    },
}

fn intent_examples() -> Vec<IntentExample> {
    let mut examples: Vec<IntentExample> = stored("intents")
        .into_iter()
        .chain(generated_intents())
        .map(|(name, bytes)| IntentExample {
            lane: lane_of(&bytes),
            judgement: intent_judgement(&name),
            name,
            bytes,
        })
        .collect();
    examples.sort_by(|a, b| a.name.cmp(&b.name));
    examples
}

fn outcome_examples() -> Vec<OutcomeExample> {
    stored("outcomes")
        .into_iter()
        .map(|(name, bytes)| OutcomeExample {
            judgement: outcome_judgement(&name),
            value: serde_json::from_slice(&bytes)
                .unwrap_or_else(|error| panic!("{name} is not JSON: {error}")),
            name,
        })
        .collect()
}

/// The limits: exactly at them and one beyond.
fn generated_intents() -> Vec<(String, Vec<u8>)> {
    let padded_to = |bytes_wanted: usize| {
        let mut bytes = intent("async_cancel", json!({ "paymentRequestId": Uuid::from_u128(7) }), None);
        bytes.resize(bytes_wanted, b' ');
        bytes
    };
    let with_reference_of = |bytes_wanted: usize| {
        let filler = "x".repeat(bytes_wanted - r#"{"f":""}"#.len());
        let reference = format!(r#"{{"f":"{filler}"}}"#);
        assert_eq!(reference.len(), bytes_wanted);
        intent("async_cancel", json!({ "paymentRequestId": Uuid::from_u128(7) }), Some(&reference))
    };
    let with_payments = |count: usize| {
        let payments: Vec<Value> = (0..count)
            .map(|n| json!({ "merchantUniqueCode": format!("PWL-{n}"), "date": "2025-11-20" }))
            .collect();
        intent("batch_cancel", json!({ "payments": payments }), None)
    };
    [
        ("valid.async_cancel.body-of-262144-bytes", padded_to(BODY_BYTES_MAX)),
        ("invalid-beyond-schema.body.of-262145-bytes", padded_to(BODY_BYTES_MAX + 1)),
        ("valid.async_cancel.reference-of-4096-bytes", with_reference_of(REFERENCE_BYTES_MAX)),
        ("invalid-beyond-schema.reference.of-4097-bytes", with_reference_of(REFERENCE_BYTES_MAX + 1)),
        ("valid.batch_cancel.500-payments", with_payments(BATCH_PAYMENTS_MAX)),
        ("invalid.payment.payments.of-501-payments", with_payments(BATCH_PAYMENTS_MAX + 1)),
    ]
    .map(|(name, bytes)| (format!("{name}.json"), bytes))
    .to_vec()
}

fn intent(kind: &str, payment: Value, reference: Option<&str>) -> Vec<u8> {
    let reference = reference.map(|text| format!(r#""reference":{text},"#)).unwrap_or_default();
    let id = Uuid::from_u128(0x7cc7_c8e8_9d92_41b6_9378_e9ec_ef5a_7812);
    format!(
        r#"{{"intentId":"{id}","kind":"{kind}","requestedAt":"2025-11-20T12:15:00+03:00",{reference}"payment":{payment}}}"#
    )
    .into_bytes()
}

fn stored(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = schemas().join("examples").join(folder);
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()))
        .map(|entry| entry.expect("the folder was listed a moment ago").path())
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("names are ASCII").to_owned();
            (name, read(&path))
        })
        .collect();
    files.sort();
    files
}

fn intent_judgement(name: &str) -> IntentJudgement {
    let stem = name.strip_suffix(".json").unwrap_or_else(|| panic!("{name} does not end in .json"));
    let (judgement, rest) = stem.split_once('.').unwrap_or_else(|| panic!("{name} has no dot"));
    // The last part says what is special; no field or kind has it.
    let (subject, _what) = rest.rsplit_once('.').unwrap_or_else(|| panic!("{name} has too few parts"));
    match judgement {
        "valid" => IntentJudgement::Valid { kind: subject.to_owned() },
        "invalid" => {
            IntentJudgement::Invalid { field: field_path(subject), seen_by: SeenBy::SchemaAndReader }
        }
        "invalid-beyond-schema" => {
            IntentJudgement::Invalid { field: field_path(subject), seen_by: SeenBy::ReaderOnly }
        }
        other => panic!("{name} starts with {other}"),
    }
}

fn outcome_judgement(name: &str) -> OutcomeJudgement {
    let stem = name.strip_suffix(".json").unwrap_or_else(|| panic!("{name} does not end in .json"));
    let parts: Vec<&str> = stem.split('.').collect();
    match parts.as_slice() {
        ["valid", kind, status, rest @ ..] => {
            let (reason, what) = match (needs_reason(status), rest) {
                (true, [reason, what @ ..]) => (Some((*reason).to_owned()), what),
                (true, []) => panic!("{name} names no reason"),
                (false, what) => (None, what),
            };
            assert!(what.len() <= 1, "{name} has too many parts");
            let replays = what
                .first()
                .and_then(|what| what.split_once("replay-"))
                .map_or(0, |(_, n)| n.parse().unwrap_or_else(|_| panic!("{name}: {n} is no number")));
            OutcomeJudgement::Valid {
                kind: (*kind).to_owned(),
                status: (*status).to_owned(),
                reason,
                replays,
            }
        }
        ["invalid", field @ .., _what] if !field.is_empty() => {
            OutcomeJudgement::Invalid { field: field_path(&field.join(".")) }
        }
        _ => panic!("{name} does not say how it is to be judged"),
    }
}

/// `payment.payments.1.date` in a file's name is `payment.payments[1].date` to a person.
fn field_path(dotted: &str) -> String {
    let mut path = String::new();
    for part in dotted.split('.') {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            path.push_str(&format!("[{part}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(part);
        }
    }
    path
}

/// `payment.payments[1].date` as the JSON pointer `/payment/payments/1/date`; empty for `body`.
fn pointer(field: &str) -> String {
    if field == "body" {
        return String::new();
    }
    format!("/{}", field.replace('[', ".").replace(']', "").replace('.', "/"))
}

fn lane_of(bytes: &[u8]) -> &'static str {
    let kind = serde_json::from_slice::<Value>(bytes)
        .ok()
        .and_then(|value| value.get("kind").and_then(Value::as_str).map(str::to_owned));
    KINDS.into_iter().find(|known| kind.as_deref() == Some(known)).unwrap_or("async_cancel")
}

fn needs_reason(status: &str) -> bool {
    ["rejected", "given_up", "unresolved", "abandoned"].contains(&status)
}

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn json_of(file: &str) -> Value {
    serde_json::from_slice(&read(&schemas().join(file)))
        .unwrap_or_else(|error| panic!("{file} is not JSON: {error}"))
}

/// The schema of `schemas/<file>`, ready to judge.
fn schema(file: &str) -> Validator {
    jsonschema::draft202012::new(&json_of(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Fails with every complaint at once, so that one run shows all that is to be fixed.
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

// ---------------------------------------------------------------------------------------------------------
// Schemas and examples.

#[test]
fn both_schemas_are_json_schema_2020_12() {
    for file in ["cancel-intent.v1.json", "cancel-outcome.v1.json"] {
        let schema = json_of(file);
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{file}");
        if let Err(error) = jsonschema::draft202012::meta::validate(&schema) {
            panic!("{file} at {}: {error}", error.instance_path());
        }
    }
}

#[test]
fn every_object_that_a_schema_describes_is_closed() {
    fn open_objects(node: &Value, path: &str, complaints: &mut Vec<String>) {
        if let Value::Object(map) = node {
            let describes_fields =
                map.get("type") == Some(&json!("object")) && map.contains_key("properties");
            // Inside a condition or a refinement the closing is done where the object is described.
            let refines = path.contains("/dependentSchemas/");
            if describes_fields && !refines && map.get("additionalProperties") != Some(&json!(false)) {
                complaints.push(path.to_owned());
            }
        }
        for (key, child) in children(node) {
            open_objects(child, &format!("{path}/{key}"), complaints);
        }
    }
    let mut complaints = Vec::new();
    for file in ["cancel-intent.v1.json", "cancel-outcome.v1.json"] {
        open_objects(&json_of(file), file, &mut complaints);
    }
    none(complaints);
}

#[test]
fn the_schema_judges_every_intent_as_its_name_says() {
    let schema = schema("cancel-intent.v1.json");
    let mut complaints = Vec::new();
    for example in intent_examples() {
        let parsed = serde_json::from_slice::<Value>(&example.bytes);
        let accepted = parsed.as_ref().is_ok_and(|value| schema.is_valid(value));
        let as_named = match &example.judgement {
            IntentJudgement::Valid { kind } => accepted && kind == example.lane,
            IntentJudgement::Invalid { seen_by: SeenBy::SchemaAndReader, .. } => parsed.is_ok() && !accepted,
            // Either no JSON value to be judged, or one that the schema cannot fault.
            IntentJudgement::Invalid { seen_by: SeenBy::ReaderOnly, .. } => parsed.is_err() || accepted,
        };
        if !as_named {
            complaints.push(example.name);
        }
    }
    none(complaints);
}

#[test]
fn what_the_schema_of_its_kind_says_of_an_invalid_intent_names_the_field() {
    let by_kind: BTreeMap<String, Validator> = intents_by_kind()
        .into_iter()
        .map(|(kind, name)| (kind, part("cancel-intent.v1.json", &name)))
        .collect();
    let of_all = schema("cancel-intent.v1.json");
    let mut complaints = Vec::new();
    for example in intent_examples() {
        let IntentJudgement::Invalid { field, seen_by: SeenBy::SchemaAndReader } = example.judgement else {
            continue;
        };
        let value: Value = serde_json::from_slice(&example.bytes).expect("the schema saw it, so it is JSON");
        let field = pointer(&field);
        let named = match value["kind"].as_str().and_then(|kind| by_kind.get(kind)) {
            Some(schema) => schema.iter_errors(&value).all(|error| names(&error, &field)),
            // Of a kind that there is not, each of the five says so.
            None => of_all.iter_errors(&value).all(|error| match error.kind() {
                ValidationErrorKind::OneOfNotValid { context } => {
                    context.iter().all(|errors| errors.iter().any(|error| names(error, &field)))
                }
                _ => names(&error, &field),
            }),
        };
        if !named {
            let errors: Vec<String> = of_all
                .iter_errors(&value)
                .map(|error| format!("at '{}': {error}", error.instance_path()))
                .collect();
            complaints.push(format!("{}: {}", example.name, errors.join("; ")));
        }
    }
    none(complaints);
}

/// Each kind, with the name of its intent in the schema.
fn intents_by_kind() -> Vec<(String, String)> {
    let schema = json_of("cancel-intent.v1.json");
    let branches = schema["oneOf"].as_array().expect("an intent is one of several");
    branches
        .iter()
        .map(|branch| {
            let reference = branch["$ref"].as_str().expect("each has a name");
            let name = reference.trim_start_matches("#/$defs/").to_owned();
            let kind = &schema["$defs"][&name]["properties"]["kind"]["const"];
            (kind.as_str().expect("it says its kind").to_owned(), name)
        })
        .collect()
}

/// One of the definitions of `schemas/<file>`, ready to judge.
fn part(file: &str, name: &str) -> Validator {
    let defs = &json_of(file)["$defs"];
    let schema = json!({ "$ref": format!("#/$defs/{name}"), "$defs": defs });
    jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{file}, {name}: {error}"))
}

#[test]
fn an_intent_is_one_of_five_objects_that_differ_in_kind_and_payment_alone() {
    let schema = json_of("cancel-intent.v1.json");
    let intents = intents_by_kind();
    assert_eq!(intents.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(), KINDS);
    assert_eq!(schema["discriminator"], json!({ "propertyName": "kind" }));
    let shared = |name: &str| {
        let mut intent = schema["$defs"][name].clone();
        for (what, theirs) in
            [("title", ""), ("description", ""), ("kind", "/properties"), ("payment", "/properties")]
        {
            intent.pointer_mut(theirs).and_then(Value::as_object_mut).and_then(|object| object.remove(what));
        }
        intent
    };
    for (kind, name) in &intents {
        assert_eq!(shared(name), shared("asyncCancelIntent"), "{kind}");
    }
}

/// In Python and Java `$` also matches before a line break at the end of a text. So beside each pattern that ends with
/// it there is a bound that refuses the line break in every language; `tests/types` tries that in Python.
#[test]
fn a_pattern_that_ends_with_the_end_of_the_text_has_a_bound_that_refuses_a_line_break_there() {
    fn is_of_one_length(pattern: &str) -> bool {
        !pattern.contains(['*', '+', '?', ','])
    }
    fn refuses_a_line_break(bound: &Value) -> bool {
        jsonschema::draft202012::new(bound).is_ok_and(|bound| bound.is_valid(&json!("\n")))
    }
    fn walk(node: &Value, path: &str, seen: &mut usize, complaints: &mut Vec<String>) {
        if let Some(pattern) = node.get("pattern").and_then(Value::as_str).filter(|text| text.ends_with('$'))
        {
            *seen += 1;
            let bounded = node.get("maxLength").is_some() && is_of_one_length(pattern)
                || node.get("not").is_some_and(refuses_a_line_break);
            if !bounded {
                complaints.push(format!("{path}: {pattern}"));
            }
        }
        for (key, child) in children(node) {
            walk(child, &format!("{path}/{key}"), seen, complaints);
        }
    }
    let mut complaints = Vec::new();
    let mut seen = 0;
    for file in ["cancel-intent.v1.json", "cancel-outcome.v1.json", "asyncapi.json"] {
        walk(&json_of(file), file, &mut seen, &mut complaints);
    }
    none(complaints);
    assert!(seen > 20, "only {seen} patterns were found");
}

/// Whether an error speaks of the field: at its place, or at its parent's with its name in the text.
fn names(error: &jsonschema::ValidationError<'_>, field: &str) -> bool {
    let at = error.instance_path().as_str();
    if at == field {
        return true;
    }
    let Some((parent, last)) = field.rsplit_once('/') else { return false };
    let named = at == parent && error.to_string().contains(last);
    // Of two equal entries a schema cannot say which one is too many.
    named || (error.to_string().contains("non-unique") && parent.starts_with(at))
}

#[test]
fn every_field_of_every_kind_is_tried_absent_and_null_and_otherwise_wrong() {
    let mut tried: BTreeSet<(String, String)> = BTreeSet::new();
    for example in intent_examples() {
        let (IntentJudgement::Invalid { field, .. }, Ok(value)) =
            (&example.judgement, serde_json::from_slice::<Value>(&example.bytes))
        else {
            continue;
        };
        let how = match value.pointer(&pointer(field)) {
            None => "absent",
            Some(Value::Null) => "null",
            Some(_) => "wrong",
        };
        tried.insert((format!("{} {}", example.lane, generic(field)), how.to_owned()));
    }

    let schema = json_of("cancel-intent.v1.json");
    let mut complaints = Vec::new();
    let mut expect = |kind: &str, prefix: &str, object: &Value| {
        for field in object["properties"].as_object().expect("it has properties").keys() {
            let required = object["required"].as_array().is_some_and(|names| names.contains(&json!(field)));
            for how in ["absent", "null", "wrong"] {
                let key = (format!("{kind} {prefix}{field}"), how.to_owned());
                if (how != "absent" || required) && !tried.contains(&key) {
                    complaints.push(format!("{} {}", key.0, key.1));
                }
            }
        }
    };
    expect("async_cancel", "", &schema["$defs"]["asyncCancelIntent"]);
    for (kind, name) in [
        ("async_cancel", "asyncCancelPayment"),
        ("sync_cancel_rollback", "syncCancelRollbackPayment"),
        ("transaction_cancel", "transactionCancelPayment"),
        ("apm_provision_cancel", "apmProvisionCancelPayment"),
        ("batch_cancel", "batchCancelPayment"),
    ] {
        expect(kind, "payment.", &schema["$defs"][name]);
    }
    expect("batch_cancel", "payment.payments[].", &schema["$defs"]["batchItem"]);
    none(complaints);
}

/// `payment.payments[1].date` without its number.
fn generic(field: &str) -> String {
    field.chars().filter(|char| !char.is_ascii_digit()).collect()
}

#[test]
fn the_schema_judges_every_outcome_as_its_name_says() {
    let schema = schema("cancel-outcome.v1.json");
    let mut complaints = Vec::new();
    for example in outcome_examples() {
        let errors: Vec<String> = schema
            .iter_errors(&example.value)
            .map(|error| format!("at '{}': {error}", error.instance_path()))
            .collect();
        match example.judgement {
            OutcomeJudgement::Valid { .. } if !errors.is_empty() => {
                complaints.push(format!("{}: {}", example.name, errors.join("; ")));
            }
            OutcomeJudgement::Invalid { field } if errors.is_empty() => {
                complaints.push(format!("{}: {field} passes", example.name));
            }
            OutcomeJudgement::Valid { .. } | OutcomeJudgement::Invalid { .. } => {}
        }
    }
    none(complaints);
}

#[test]
fn a_valid_outcome_says_what_its_name_says_and_carries_the_id_of_the_contract() {
    let mut complaints = Vec::new();
    for example in outcome_examples() {
        let OutcomeJudgement::Valid { kind, status, reason, replays } = example.judgement else { continue };
        let event = &example.value;
        let data = &event["data"];
        let mut same = |what: &str, found: &Value, expected: Value| {
            if *found != expected {
                complaints.push(format!("{}: {what} is {found}, not {expected}", example.name));
            }
        };
        same("kind", &data["kind"], json!(kind));
        same("status", &data["status"], json!(status));
        same("reason", data.pointer("/reason/code").unwrap_or(&Value::Null), json!(reason));
        same("time", &event["time"], data["decidedAt"].clone());

        let intent_id = data["intentId"].as_str().expect("the schema wants a text");
        let item = data.pointer("/item/merchantUniqueCode").and_then(Value::as_str);
        let replayed = match status.as_str() {
            "given_up" | "unresolved" if replays > 0 => format!("#{replays}"),
            _ => String::new(),
        };
        let suffix = item.map(|code| format!("/{code}")).unwrap_or_default();
        let namespace = Uuid::parse_str(intent_id).expect("the schema wants a uuid");
        let id = Uuid::new_v5(&namespace, format!("{status}{replayed}{suffix}").as_bytes());
        same("subject", &event["subject"], json!(format!("{intent_id}{suffix}")));
        same("id", &event["id"], json!(id.to_string()));
        if let Some(item) = data["item"].as_object() {
            same(
                "the item's code in payment",
                &data["payment"]["merchantUniqueCode"],
                item["merchantUniqueCode"].clone(),
            );
            same("the item's date in payment", &data["payment"]["date"], item["date"].clone());
        }
    }
    none(complaints);
}

#[test]
fn every_status_and_reason_of_every_kind_that_can_occur_has_an_example_and_no_other() {
    let found: BTreeSet<String> = outcome_examples()
        .into_iter()
        .filter_map(|example| match example.judgement {
            OutcomeJudgement::Valid { kind, status, reason, .. } => {
                let scope = match (kind.as_str(), example.value["data"]["item"].is_null()) {
                    ("batch_cancel", true) => "batch_cancel (whole)".to_owned(),
                    ("batch_cancel", false) => "batch_cancel (item)".to_owned(),
                    _ => kind,
                };
                Some(format!("{scope} {status} {}", reason.unwrap_or_default()))
            }
            OutcomeJudgement::Invalid { .. } => None,
        })
        .collect();
    let can_occur: BTreeSet<String> = CAN_OCCUR
        .iter()
        .flat_map(|Possible { scope, without_reason, rejected, stopped }| {
            let plain = without_reason.iter().map(move |status| format!("{scope} {status} "));
            let rejected = rejected.iter().map(move |reason| format!("{scope} rejected {reason}"));
            let stopped = stopped.iter().map(move |(status, reason)| format!("{scope} {status} {reason}"));
            plain.chain(rejected).chain(stopped).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(can_occur.difference(&found).collect::<Vec<_>>(), Vec::<&String>::new(), "without an example");
    assert_eq!(found.difference(&can_occur).collect::<Vec<_>>(), Vec::<&String>::new(), "cannot occur");
}

/// The outcomes that can occur for one kind, or for one of the two sorts of events of a batch.
struct Possible {
    scope: &'static str,
    without_reason: &'static [&'static str],
    /// The reasons of `rejected` that the worker's own tables lead to; a classification rule may add others.
    rejected: &'static [&'static str],
    /// All other statuses that have a reason, with it.
    stopped: &'static [(&'static str, &'static str)],
}

#[rustfmt::skip]
const CAN_OCCUR: [Possible; 6] = [
    Possible {
        scope: "async_cancel",
        without_reason: &["cancelled", "rolled_back", "accepted"],
        rejected: &["cancel_failed", "already_refunded", "not_suitable", "not_found", "invalid_request",
            "invalid_intent"],
        stopped: STOPPED_OR_DISCARDED,
    },
    Possible {
        scope: "sync_cancel_rollback",
        without_reason: &["rolled_back"],
        rejected: &["rollback_window", "device_received", "rollback_refused", "nothing_to_withdraw",
            "cancel_completed", "not_found", "invalid_request", "invalid_intent"],
        stopped: STOPPED_OR_DISCARDED,
    },
    Possible {
        scope: "transaction_cancel",
        without_reason: &["cancelled", "accepted"],
        rejected: &["cancel_failed", "same_day_window_closed", "already_refunded", "partially_refunded",
            "not_found", "not_suitable", "unsupported", "marketplace_records_exist", "invalid_request", "invalid_intent"],
        stopped: STOPPED_OR_DISCARDED,
    },
    Possible {
        scope: "apm_provision_cancel",
        without_reason: &["cancelled"],
        rejected: &["already_refunded", "unsupported", "invalid_request", "invalid_intent"],
        stopped: STOPPED_OR_DISCARDED,
    },
    Possible {
        scope: "batch_cancel (item)",
        without_reason: &["cancelled"],
        rejected: &["cancel_failed", "same_day_window_closed", "already_refunded", "partially_refunded",
            "not_found", "not_suitable", "unsupported", "marketplace_records_exist", "invalid_request"],
        stopped: STOPPED_OR_DISCARDED,
    },
    Possible {
        scope: "batch_cancel (whole)",
        without_reason: &["accepted", "closed"],
        rejected: &["invalid_intent"],
        stopped: STOPPED,
    },
];

const STOPPED_OR_DISCARDED: &[(&str, &str)] = &[
    ("given_up", "attempts_exhausted"),
    ("given_up", "deadline_passed"),
    ("given_up", "locked_out"),
    ("given_up", "not_configured"),
    ("given_up", "unknown_merchant"),
    ("given_up", "requested_in_future"),
    ("unresolved", "no_evidence"),
    ("unresolved", "contradicting_evidence"),
    ("unresolved", "deadline_passed"),
    ("unresolved", "poison"),
    ("unresolved", "expired"),
    ("abandoned", "discarded"),
];

/// The batch as a whole is not abandoned: its open items are, and then it is closed.
const STOPPED: &[(&str, &str)] = STOPPED_OR_DISCARDED.split_at(11).0;

#[test]
fn every_number_of_the_gateway_has_one_name_and_a_number_not_listed_is_unknown() {
    let schema = schema("cancel-outcome.v1.json");
    let mut complaints = Vec::new();
    for Numbering { scheme, tried_in, types, statuses } in NUMBERINGS {
        let mut event: Value = outcome_examples()
            .into_iter()
            .find(|example| example.name == tried_in)
            .unwrap_or_else(|| panic!("there is no {tried_in}"))
            .value;
        let mut judge = |type_code: usize, type_name: &str, code: usize, name: &str, expected: bool| {
            event["data"]["paymentStatus"] = json!({
                "scheme": scheme, "type": { "code": type_code, "name": type_name }, "code": code, "name": name,
            });
            if schema.is_valid(&event) != expected {
                complaints.push(format!("{scheme}: type {type_code} {type_name}, status {code} {name}"));
            }
        };
        let named = |names: &[&'static str], code: usize| -> &'static str {
            code.checked_sub(1).and_then(|at| names.get(at).copied()).unwrap_or("unknown")
        };
        let all: BTreeSet<&str> =
            types.iter().chain(statuses).copied().chain(["unknown", "", "Sale"]).collect();
        for code in 0..=20 {
            for name in &all {
                judge(code, name, 1, "created", *name == named(types, code));
                judge(1, "sale", code, name, *name == named(statuses, code));
            }
        }
    }
    none(complaints);
}

/// One of the gateway's numberings, with our names.
struct Numbering {
    scheme: &'static str,
    /// An example that can carry it.
    tried_in: &'static str,
    /// From number 1 on.
    types: &'static [&'static str],
    /// From number 1 on.
    statuses: &'static [&'static str],
}

#[rustfmt::skip]
const NUMBERINGS: [Numbering; 3] = [
    Numbering {
        scheme: "physical",
        tried_in: "valid.async_cancel.cancelled.json",
        types: &["sale", "cancel", "refund", "unknown"],
        statuses: &["created", "sent_to_device", "not_sent_to_device", "successful", "failed", "unknown",
            "firebase_notification_not_sent", "socket_notification_not_sent", "firebase_notification_sent",
            "socket_notification_sent", "received_by_device", "withdrawn"],
    },
    Numbering {
        scheme: "virtual_pos",
        tried_in: "valid.transaction_cancel.cancelled.json",
        types: &["sale", "refund", "cancel", "partial_refund"],
        statuses: &["created", "started", "awaiting_capture", "successful", "failed", "in_recovery",
            "failed_by_query", "intermediate_step", "provider_query_started", "provider_query_ended",
            "provider_callback_received", "preauthorisation_cancelled", "marked_as_fraud", "on_hold"],
    },
    Numbering {
        scheme: "apm",
        tried_in: "valid.apm_provision_cancel.cancelled.json",
        types: &["sale", "refund"],
        statuses: &["created", "paywall_link_started", "provider_link_started", "successful", "failed",
            "failed_by_query", "otp_request_started", "otp_request_successful", "otp_request_failed",
            "otp_confirm_started", "otp_confirm_failed", "refund_started", "qr_created", "payment_started"],
    },
];

#[test]
fn every_fault_in_the_schema_has_an_example() {
    let found: BTreeSet<String> = outcome_examples()
        .into_iter()
        .filter(|example| matches!(example.judgement, OutcomeJudgement::Valid { .. }))
        .filter_map(|example| Some(example.value.pointer("/data/reason/gateway/fault")?.as_str()?.to_owned()))
        .collect();
    assert_eq!(closed_list("fault").into_iter().collect::<BTreeSet<_>>(), found);
}

#[test]
fn every_reason_in_the_schema_has_an_example() {
    let reasons = reasons_by_status();
    let found: BTreeSet<(String, String)> = outcome_examples()
        .into_iter()
        .filter_map(|example| match example.judgement {
            OutcomeJudgement::Valid { status, reason, .. } => reason.map(|reason| (status, reason)),
            OutcomeJudgement::Invalid { .. } => None,
        })
        .collect();
    let listed: BTreeSet<(String, String)> = reasons
        .into_iter()
        .flat_map(|(status, codes)| codes.into_iter().map(move |code| (status.to_owned(), code)))
        .collect();
    assert_eq!(listed, found);
}

fn reasons_by_status() -> BTreeMap<&'static str, Vec<String>> {
    let schema = json_of("cancel-outcome.v1.json");
    let rules = &schema["$defs"]["outcomeData"]["dependentSchemas"]["status"]["allOf"];
    ["rejected", "given_up", "unresolved", "abandoned"]
        .map(|status| {
            let rule = rules.as_array().expect("a list of rules").iter().find(|rule| {
                rule.pointer("/if/properties/status/const") == Some(&json!(status))
                    && rule.pointer("/then/properties/reason").is_some()
            });
            let codes = rule.and_then(|rule| rule.pointer("/then/properties/reason/properties/code/enum"));
            (status, list_of_texts(codes.unwrap_or_else(|| panic!("{status} has no reasons"))))
        })
        .into()
}

fn statuses() -> Vec<String> {
    closed_list("status")
}

/// The values of a closed list of the outcome's schema.
fn closed_list(name: &str) -> Vec<String> {
    list_of_texts(&json_of("cancel-outcome.v1.json")["$defs"][name]["enum"])
}

fn list_of_texts(list: &Value) -> Vec<String> {
    let entries = list.as_array().expect("a closed list is an enum");
    entries.iter().map(|entry| entry.as_str().expect("of texts").to_owned()).collect()
}

#[test]
fn each_closed_list_of_the_outcome_is_one_list_with_a_sentence_for_each_value() {
    let schema = json_of("cancel-outcome.v1.json");
    for name in ["status", "reasonCode", "fault"] {
        let text = schema["$defs"][name]["description"].as_str().expect("it is described");
        for value in closed_list(name) {
            assert!(text.contains(&format!("\n- `{value}`: ")), "{name}: {value} is not explained");
        }
        assert_eq!(text.matches("\n- `").count(), closed_list(name).len(), "{name}");
    }
    let of_all_statuses: BTreeSet<String> = reasons_by_status().into_values().flatten().collect();
    assert_eq!(closed_list("reasonCode").into_iter().collect::<BTreeSet<_>>(), of_all_statuses);
    // The contract's §3.
    assert_eq!(
        closed_list("fault"),
        [
            "dns",
            "connect_refused",
            "connect_timeout",
            "unreachable",
            "tls",
            "timeout",
            "reset",
            "closed",
            "truncated",
            "too_large",
            "unreadable",
        ]
    );
}

fn children(node: &Value) -> Vec<(String, &Value)> {
    match node {
        Value::Object(map) => map.iter().map(|(key, child)| (key.clone(), child)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(n, child)| (n.to_string(), child)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

// ---------------------------------------------------------------------------------------------------------
// The page for ledger authors.

#[test]
fn the_page_for_ledger_authors_explains_every_status_reason_and_name() {
    let page = String::from_utf8(read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/outcomes.md")))
        .expect("the page is UTF-8");
    let mut complaints = Vec::new();
    let mut expect_row = |cells: String| {
        if !page.contains(&cells) {
            complaints.push(format!("no row starts with {cells}"));
        }
    };
    for status in statuses() {
        expect_row(format!("\n| `{status}` |"));
    }
    for (status, reasons) in reasons_by_status() {
        for reason in reasons {
            expect_row(format!("\n| `{status}` | `{reason}` |"));
        }
    }
    for fault in closed_list("fault") {
        expect_row(format!("\n| `{fault}` |"));
    }
    let schema = json_of("cancel-outcome.v1.json");
    for (name, scheme) in [("physical", "physical"), ("virtualPos", "virtual_pos"), ("apm", "apm")] {
        for (what, object) in [("type", format!("{name}Type")), ("status", format!("{name}Status"))] {
            let mut names = BTreeSet::new();
            let pairs = &schema["$defs"][&object]["dependentSchemas"]["code"]["oneOf"];
            for entry in pairs.as_array().expect("names are listed") {
                names.insert(entry["properties"]["name"]["const"].as_str().expect("a name").to_owned());
                if let (Some(code), Some(name)) = (
                    entry.pointer("/properties/code/const").and_then(Value::as_i64),
                    entry.pointer("/properties/name/const").and_then(Value::as_str),
                ) {
                    expect_row(format!("\n| `{scheme}` | {what} | {code} | `{name}` |"));
                }
            }
            assert_eq!(names, texts(&schema["$defs"][format!("{object}Name")]["enum"]), "{object}");
        }
    }
    none(complaints);
}

// ---------------------------------------------------------------------------------------------------------
// The AsyncAPI document.

#[test]
fn every_reference_in_the_asyncapi_document_resolves() {
    fn walk(root: &Value, node: &Value, complaints: &mut Vec<String>) {
        if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
            let resolves = match reference.split_once('#') {
                Some(("", pointer)) => root.pointer(pointer).is_some(),
                Some((file, pointer)) => json_of(file).pointer(pointer).is_some(),
                None => json_of(reference).is_object(),
            };
            if !resolves {
                complaints.push(reference.to_owned());
            }
        }
        for (_, child) in children(node) {
            walk(root, child, complaints);
        }
    }
    let document = json_of("asyncapi.json");
    assert_eq!(document["asyncapi"], "3.0.0");
    let mut complaints = Vec::new();
    walk(&document, &document, &mut complaints);
    none(complaints);
}

#[test]
fn every_kind_has_a_channel_whose_routing_key_is_the_kind_and_whose_payload_is_that_kind_only() {
    let document = json_of("asyncapi.json");
    let channels = document["channels"].as_object().expect("channels is an object");
    for kind in KINDS {
        let (name, channel) = channels
            .iter()
            .find(|(_, channel)| channel["address"] == *kind)
            .unwrap_or_else(|| panic!("no channel has the address {kind}"));
        assert_eq!(exchange_of(channel), Some("cancel.intents"), "{name}");
        let received =
            document["operations"].as_object().expect("operations is an object").values().any(|operation| {
                operation["action"] == "receive"
                    && operation["channel"]["$ref"] == format!("#/channels/{name}").as_str()
            });
        assert!(received, "no operation receives from {name}");

        let message = channel["messages"].as_object().and_then(|all| all.values().next());
        let reference = message.and_then(|message| message["$ref"].as_str()).expect("it refers to a message");
        let message = document.pointer(reference.trim_start_matches('#')).expect("it resolves");
        assert_eq!(message["payload"]["schemaFormat"], "application/schema+json;version=draft-2020-12");
        let payload = payload_of(message);
        for example in intent_examples() {
            if let IntentJudgement::Valid { kind: of } = example.judgement {
                let value = serde_json::from_slice(&example.bytes).expect("valid intents are JSON");
                assert_eq!(payload.is_valid(&value), of == kind, "{} in {name}", example.name);
            }
        }
    }
}

/// The schema of a message's payload: one of our files, or a definition in one.
fn payload_of(message: &Value) -> Validator {
    let reference = message["payload"]["schema"]["$ref"].as_str().expect("it refers to a schema of ours");
    let file = reference.trim_start_matches("./");
    match file.split_once("#/$defs/") {
        Some((file, name)) => part(file, name),
        None => schema(file),
    }
}

#[test]
fn every_message_has_examples_that_its_own_schemas_accept() {
    let document = json_of("asyncapi.json");
    let stored: Vec<Value> = intent_examples()
        .into_iter()
        .filter_map(|example| serde_json::from_slice(&example.bytes).ok())
        .chain(outcome_examples().into_iter().map(|example| example.value))
        .collect();
    let mut complaints = Vec::new();
    let mut statuses_shown = BTreeSet::new();
    for (name, message) in document["components"]["messages"].as_object().expect("messages are listed") {
        let examples = message["examples"].as_array().unwrap_or_else(|| panic!("{name} has no examples"));
        assert!(!examples.is_empty(), "{name} has no examples");
        let headers = message["headers"]["$ref"].as_str().expect("headers have a schema");
        let headers = document.pointer(headers.trim_start_matches('#')).expect("it resolves");
        let headers = jsonschema::draft202012::new(headers).expect("it is a schema");
        let payload = message.get("payload").map(|_| payload_of(message));
        for example in examples {
            let what = &example["name"];
            if !headers.is_valid(&example["headers"]) {
                complaints.push(format!("{name} {what}: its headers"));
            }
            if payload.as_ref().is_some_and(|schema| !schema.is_valid(&example["payload"])) {
                complaints.push(format!("{name} {what}: its payload"));
            }
            // Of a message with a schema: the very example that is judged elsewhere.
            if payload.is_some() && !stored.contains(&example["payload"]) {
                complaints.push(format!("{name} {what}: no stored example"));
            }
            statuses_shown
                .extend(example.pointer("/payload/data/status").and_then(Value::as_str).map(str::to_owned));
        }
    }
    none(complaints);
    assert_eq!(statuses_shown, statuses().into_iter().collect::<BTreeSet<_>>());
}

#[test]
fn every_server_says_who_is_let_in() {
    let document = json_of("asyncapi.json");
    for (name, server) in document["servers"].as_object().expect("servers are listed") {
        let ways = server["security"].as_array().unwrap_or_else(|| panic!("{name} has no security"));
        let types: Vec<&Value> = ways
            .iter()
            .map(|way| {
                let reference = way["$ref"].as_str().expect("each refers to a scheme");
                &document.pointer(reference.trim_start_matches('#')).expect("it resolves")["type"]
            })
            .collect();
        let expected = match server["protocol"].as_str() {
            Some("amqp") => vec!["userPassword"],
            Some("amqps") => vec!["userPassword", "X509"],
            other => panic!("{name} speaks {other:?}"),
        };
        assert_eq!(types, expected, "{name}");
    }
}

#[test]
fn outcomes_and_taps_carry_the_same_event_under_every_kind_and_status() {
    let document = json_of("asyncapi.json");
    for (name, exchange) in [("outcomes", "cancel.outcomes"), ("taps", "cancel.taps")] {
        let channel = &document["channels"][name];
        assert_eq!(channel["address"], "{kind}.{status}");
        assert_eq!(exchange_of(channel), Some(exchange));
        assert_eq!(channel["parameters"]["kind"]["enum"], json!(KINDS));
        assert_eq!(channel["parameters"]["status"]["enum"], json!(statuses()));
        assert_eq!(channel["messages"]["cancelOutcome"]["$ref"], "#/components/messages/cancelOutcome");
    }
    let message = &document["components"]["messages"]["cancelOutcome"];
    assert_eq!(message["contentType"], "application/cloudevents+json");
    assert_eq!(message["payload"]["schema"]["$ref"], "./cancel-outcome.v1.json");
}

#[test]
fn dead_letters_carry_the_headers_of_the_contract_and_every_reason_that_can_lead_there() {
    let document = json_of("asyncapi.json");
    let channel = &document["channels"]["deadLetters"];
    assert_eq!(channel["address"], "{kind}.{reason}");
    assert_eq!(exchange_of(channel), Some("cancel.dead-letters"));
    let kinds: Vec<&str> = KINDS.into_iter().chain(["unknown"]).collect();
    assert_eq!(channel["parameters"]["kind"]["enum"], json!(kinds));

    let mut by_status = reasons_by_status();
    let mut expected: BTreeSet<String> =
        ["invalid_intent", "intent_id_reused", "wrong_lane"].map(str::to_owned).into();
    expected.extend(by_status.remove("given_up").unwrap_or_default());
    expected.extend(by_status.remove("unresolved").unwrap_or_default());
    let headers = &document["components"]["schemas"]["deadLetterHeaders"];
    for list in [&channel["parameters"]["reason"]["enum"], &headers["properties"]["cancel-reason"]["enum"]] {
        assert_eq!(texts(list), expected);
    }

    // The table of the contract's §4.
    let table = BTreeSet::from(
        [
            "cancel-reason",
            "cancel-detail",
            "cancel-intent-id",
            "cancel-kind",
            "cancel-dead-at",
            "cancel-first-seen",
            "cancel-worker",
            "cancel-rule",
            "cancel-replay-of",
            "cancel-routing-key",
            "cancel-message-id",
            "cancel-app-id",
            "cancel-user-id",
            "cancel-unreadable",
            "cancel-attempt",
            "cancel-phase",
            "cancel-doubt",
            "cancel-items",
            "cancel-http-status",
            "cancel-error-code",
            "cancel-client-message",
            "cancel-fault",
            "cancel-evidence",
            "traceparent",
        ]
        .map(str::to_owned),
    );
    let listed = headers["properties"].as_object().expect("headers are listed").keys().cloned().collect();
    assert_eq!(table, listed);
    assert_eq!(headers["properties"]["cancel-fault"]["enum"], json!(closed_list("fault")));
}

#[test]
fn an_outside_program_meets_durable_topic_exchanges_and_shared_durable_queues_only() {
    let document = json_of("asyncapi.json");
    for (name, channel) in document["channels"].as_object().expect("channels is an object") {
        let binding = &channel["bindings"]["amqp"];
        assert_eq!(binding["bindingVersion"], "0.3.0", "{name}");
        match binding["is"].as_str() {
            Some("routingKey") => {
                assert_eq!(binding["exchange"]["type"], "topic", "{name}");
                assert_eq!(binding["exchange"]["durable"], true, "{name}");
                assert_eq!(binding["exchange"]["autoDelete"], false, "{name}");
            }
            Some("queue") => {
                assert_eq!(binding["queue"]["name"], channel["address"], "{name}");
                assert_eq!(binding["queue"]["durable"], true, "{name}");
                assert_eq!(binding["queue"]["exclusive"], false, "{name}");
            }
            other => panic!("{name} is a {other:?}"),
        }
    }
}

fn exchange_of(channel: &Value) -> Option<&str> {
    channel.pointer("/bindings/amqp/exchange/name").and_then(Value::as_str)
}

fn texts(list: &Value) -> BTreeSet<String> {
    let list = list.as_array().expect("it is a list");
    list.iter().map(|text| text.as_str().expect("of texts").to_owned()).collect()
}
