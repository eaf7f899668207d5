//! The Rust side of the contract against its machine-readable twin: every example is judged by the reader as its
//! name says, and everything that we encode satisfies its schema.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use cancel_worker::domain::decide::{DeadReason, Decision, Then};
use cancel_worker::domain::evidence::Shown;
use cancel_worker::domain::fault::{Fault, Reach};
use cancel_worker::domain::history::{Doubt, History, Item, LastReply, Phase, Why};
use cancel_worker::domain::intent::{
    BatchPayment, BatchPayments, CancelIntent, Code, IntentId, Kind, MerchantName, Target,
};
use cancel_worker::domain::outcome::{
    AbandonedReason, GivenUpReason, Learnt, Outcome, PaymentStatus, RejectedReason, Status, StatusName,
    Subject, UnresolvedReason,
};
use cancel_worker::domain::paywall::{
    ApmStatus, ApmType, PhysicalStatus, PhysicalType, VposStatus, VposType,
};
use cancel_worker::domain::reply::Amount;
use cancel_worker::domain::retry::{Tier, Tiers};
use cancel_worker::domain::waiting::Waiting;
use cancel_worker::wire::envelope::{Address, HeaderValue, Headers, Letter, Message, Redelivered, Source};
use cancel_worker::wire::history;
use cancel_worker::wire::intent::{
    BODY_BYTES_MAX, Judgement, PartialIntent, REFERENCE_BYTES_MAX, REFERENCE_DEPTH_MAX, Received, decode,
    judge,
};
use cancel_worker::wire::origin;
use cancel_worker::wire::outcome::{
    Stamp, Unannounced, encode, encode_malformed, encode_unannounced, event_id, isolate, put_off,
};
use jiff::Timestamp;
use jiff::civil::Date;
use jsonschema::Validator;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn schema(file: &str) -> Validator {
    let text = fs::read_to_string(schemas().join(file)).expect("the schema is in the repository");
    let schema: Value = serde_json::from_str(&text).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is one")
}

static INTENT: LazyLock<Validator> = LazyLock::new(|| schema("cancel-intent.v1.json"));
static OUTCOME: LazyLock<Validator> = LazyLock::new(|| schema("cancel-outcome.v1.json"));

/// The stored intents: name without its ending, and bytes.
fn examples() -> Vec<(String, Vec<u8>)> {
    let mut examples: Vec<_> = fs::read_dir(schemas().join("examples/intents"))
        .expect("the examples are in the repository")
        .map(|entry| entry.expect("a readable folder").path())
        .map(|path| {
            let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            (name, fs::read(&path).expect("a readable file"))
        })
        .collect();
    examples.sort();
    assert!(examples.len() > 100, "only {} examples were found", examples.len());
    examples
}

/// `payment.payments.2.date` in a file's name is `payment.payments[2].date` in an error.
fn field_of(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    parts.pop();
    let mut field = String::new();
    for part in &parts[1..] {
        match part.parse::<usize>() {
            Ok(index) => field.push_str(&format!("[{index}]")),
            Err(_) if field.is_empty() => field.push_str(part),
            Err(_) => field.push_str(&format!(".{part}")),
        }
    }
    field
}

#[test]
fn the_faults_are_those_of_the_schema_the_headers_and_the_page_in_this_order() {
    let read = |file: &str| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("it is there")
    };
    let words: Vec<&str> = Fault::ALL.map(Fault::as_str).into();
    let schema: Value = serde_json::from_str(&read("schemas/cancel-outcome.v1.json")).expect("JSON");
    assert_eq!(schema["$defs"]["fault"]["enum"], json!(words));
    let asyncapi = read("schemas/asyncapi.json");
    assert!(asyncapi.contains(&format!("\"enum\": [\"{}\"]", words.join("\", \""))));
    let page = read("docs/outcomes.md");
    let rows: Vec<(&str, bool)> = page
        .lines()
        .skip_while(|line| !line.starts_with("| fault |"))
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(word, rest)| (word, rest.ends_with(" No. |")))
        .collect();
    let expected: Vec<(&str, bool)> =
        Fault::ALL.map(|fault| (fault.as_str(), fault.reach() == Reach::NotConnected)).into();
    assert_eq!(rows, expected);
}

#[test]
fn the_reader_judges_every_intent_as_its_name_says() {
    let mut wrong = Vec::new();
    for (name, bytes) in examples() {
        let judgement = decode(&bytes);
        match (name.starts_with("valid."), judgement) {
            (true, Ok(received)) => {
                let kind = name.split('.').nth(1).unwrap_or_default();
                if received.intent.kind().as_str() != kind {
                    wrong.push(format!("{name}: read as {}", received.intent.kind()));
                }
            }
            (true, Err(malformed)) => wrong.push(format!("{name}: refused: {}", malformed.fault)),
            (false, Ok(_)) => wrong.push(format!("{name}: accepted")),
            (false, Err(malformed)) => {
                if malformed.fault.field != field_of(&name) {
                    wrong.push(format!("{name}: refused for another field: {}", malformed.fault));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_largest_body_and_the_largest_reference_are_read_and_one_byte_more_is_not() {
    let body = |reference_bytes: usize, body_bytes: usize| {
        let filler = "x".repeat(reference_bytes - r#"{"f":""}"#.len());
        let mut text = format!(
            r#"{{"intentId":"{}","kind":"async_cancel","requestedAt":"2026-01-01T00:00:00Z","reference":{{"f":"{filler}"}},"payment":{{"paymentRequestId":"{}"}}}}"#,
            Uuid::from_u128(1),
            Uuid::from_u128(2),
        );
        text.push_str(&" ".repeat(body_bytes - text.len()));
        decode(text.as_bytes()).map_err(|malformed| malformed.fault.field)
    };
    assert!(body(REFERENCE_BYTES_MAX, BODY_BYTES_MAX).is_ok());
    assert_eq!(body(REFERENCE_BYTES_MAX + 1, BODY_BYTES_MAX), Err("reference".to_owned()));
    assert_eq!(body(REFERENCE_BYTES_MAX, BODY_BYTES_MAX + 1), Err("body".to_owned()));
}

fn with_reference(reference: &str) -> Vec<u8> {
    format!(
        r#"{{"intentId":"{}","kind":"async_cancel","requestedAt":"2026-01-01T00:00:00Z","reference":{reference},"payment":{{"paymentRequestId":"{}"}}}}"#,
        Uuid::from_u128(1),
        Uuid::from_u128(2),
    )
    .into_bytes()
}

#[test]
fn a_reference_that_is_nested_too_deep_is_not_read_and_not_announced() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert!(decode(&with_reference(&nested(REFERENCE_DEPTH_MAX))).is_ok());
    // One more, and as deep as 4,096 bytes can be: beyond what a parser that recurses survives.
    for depth in [REFERENCE_DEPTH_MAX + 1, 2_000] {
        let malformed = decode(&with_reference(&nested(depth))).expect_err("too deep");
        assert_eq!(malformed.fault.to_string(), "reference is nested more than 32 deep.");
        assert_eq!(malformed.known.reference, None);
        assert_eq!(malformed.known.kind, Some(Kind::AsyncCancel));
    }
}

#[test]
fn the_publishers_key_alone_judges_and_a_copy_in_another_lane_is_no_intent() {
    let (_, body) = examples()
        .into_iter()
        .find(|(name, _)| name.starts_with("valid.transaction_cancel."))
        .expect("there is an example of each kind");
    let (own, other) = (Kind::TransactionCancel, Kind::AsyncCancel);
    let word = |source: Source, routing_key: Kind, publishers_key: Option<&str>| {
        let given = |key: &str| (origin::ROUTING_KEY.to_owned(), HeaderValue::Text(key.to_owned()));
        let headers = publishers_key.map(given).into_iter().collect();
        let routing_key = routing_key.as_str().to_owned();
        match judge(&Letter { source, routing_key, headers, ..letter(body.clone()) }) {
            Judgement::Intent(received) => received.intent.kind().as_str().to_owned(),
            Judgement::Malformed(malformed) => {
                assert_eq!(malformed.known.kind, Some(own), "it is told under its own kind");
                format!("malformed {}", malformed.fault.field)
            }
            Judgement::WrongLane(_) => "wrong lane".to_owned(),
        }
    };
    let (own_key, other_key) = (Some(own.as_str()), Some(other.as_str()));
    let rows = [
        (Source::Lane(own), own, own_key, own.as_str()),
        (Source::Lane(own), own, other_key, "malformed kind"),
        (Source::Lane(own), own, Some("some.key"), "malformed kind"),
        (Source::Lane(other), other, other_key, "malformed kind"),
        (Source::Lane(other), other, own_key, "wrong lane"),
        (Source::Returns(own), own, own_key, own.as_str()),
        (Source::Returns(other), other, own_key, "wrong lane"),
        (Source::Returns(own), own, Some("some.key"), "malformed kind"),
        (Source::Isolation, other, own_key, "wrong lane"),
        (Source::Isolation, own, other_key, "malformed kind"),
        // A letter with a history of which its key is not known is never malformed by its routing.
        (Source::Returns(other), other, None, own.as_str()),
        (Source::Isolation, other, None, own.as_str()),
        // Of what the broker took the body alone speaks.
        (Source::Rescue, other, Some("some.key"), own.as_str()),
    ];
    for (source, routing_key, publishers_key, expected) in rows {
        assert_eq!(word(source, routing_key, publishers_key), expected, "{source:?} {publishers_key:?}");
    }
}

#[test]
fn what_the_publisher_gave_goes_with_the_letter_wherever_it_goes() {
    let given =
        [origin::ROUTING_KEY, origin::MESSAGE_ID, origin::APP_ID, origin::USER_ID, origin::UNREADABLE];
    let headers = given.map(|name| (name.to_owned(), HeaderValue::Text(format!("{name} as given")))).into();
    let letter = Letter { headers, ..letter(b"{}".to_vec()) };
    let history = History::fresh(Timestamp::UNIX_EPOCH, 0);
    let trace = Headers::new();
    let tiers = tiers();
    let stamp = stamp(&tiers, &trace);
    let known = PartialIntent::default();
    for moved in [
        put_off(&letter, Kind::AsyncCancel, &history, &stamp),
        isolate(&letter, Kind::AsyncCancel, &history, &trace),
        encode_unannounced(&letter, &known, Unannounced::WrongLane, &stamp),
    ] {
        for message in moved.as_slice() {
            for name in given {
                assert_eq!(message.headers.get(name), letter.headers.get(name), "{:?}", message.address);
            }
        }
    }
}

#[test]
fn a_body_that_was_cut_is_too_large_whatever_its_beginning_says() {
    let (_, body) =
        examples().into_iter().find(|(name, _)| name.starts_with("valid.")).expect("there are some");
    let words = format!("{}5000000 bytes (SHA-256 00), of which the first 65536 are kept", origin::BODY_CUT);
    for source in [Source::Lane(Kind::AsyncCancel), Source::Isolation, Source::Rescue] {
        let headers = [(origin::UNREADABLE.to_owned(), HeaderValue::Text(words.clone()))].into();
        match judge(&Letter { source, headers, ..letter(body.clone()) }) {
            Judgement::Malformed(malformed) => {
                assert_eq!(malformed.fault.to_string(), "body is larger than 256 KiB.");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_reference_comes_back_byte_for_byte() {
    // What few parsers read alike, as `docs/outcomes.md` says: numbers beyond a double, a zero character, half of a
    // surrogate pair, a key that comes twice.
    let reference =
        r#"{ "a" : 1.50, "a":  "\u0041\/", "odd": "\u0000 \ud800", "nested":{"deep":[1e400 , 1e999, null]}}"#;
    let received = decode(&with_reference(reference)).expect("valid");
    assert_eq!(received.reference.as_deref(), Some(reference));
    let outcome = Outcome {
        subject: Subject::Whole,
        status: Status::Cancelled,
        payment_status: None,
        learnt: Learnt::default(),
        counts: Vec::new(),
    };
    let history = History::fresh(Timestamp::UNIX_EPOCH, 0);
    let decision = Decision { outcomes: vec![outcome], history, then: Then::Done };
    let messages = encoded(&received, &decision);
    let body = String::from_utf8(messages[0].body.to_vec()).expect("UTF-8");
    assert!(body.contains(&format!(r#""reference":{reference}"#)), "{body}");
}

#[test]
fn what_of_a_malformed_letter_can_be_addressed_is_announced_and_the_rest_only_dead_lettered() {
    let id = Uuid::from_u128(7);
    let check = |body: String, announced: bool| {
        let letter = letter(body.into_bytes());
        let malformed = decode(&letter.body).expect_err("malformed");
        let messages = encode_malformed(&letter, &malformed, &stamp(&tiers(), &Headers::new())).into_vec();
        let events: Vec<&Message> =
            messages.iter().filter(|message| message.address == Address::Announce).collect();
        assert_eq!(events.len(), usize::from(announced), "{:?}", malformed.fault);
        for event in events {
            assert_valid(event);
        }
        let dead = messages.last().expect("a dead letter");
        assert_eq!(dead.address, Address::DeadLetters);
        assert_eq!(dead.body, letter.body);
    };
    check(format!(r#"{{"intentId":"{id}","kind":"async_cancel"}}"#), true);
    check(
        format!(r#"{{"intentId":"{id}","kind":"batch_cancel","payment":3,"merchant":"x"}} trailing"#),
        true,
    );
    check(format!(r#"{{"intentId":"{id}","kind":"async_cancel","merchant":"NO","reference":7}}"#), true);
    check(format!(r#"{{"intentId":"{id}","kind":"sale"}}"#), false);
    check(format!(r#"{{"intentId":"{id}","intentId":"{id}","kind":"async_cancel"}}"#), false);
    check(r#"{"kind":"async_cancel"}"#.to_owned(), false);
    check("nonsense".to_owned(), false);
}

#[test]
fn an_event_id_is_the_uuidv5_of_status_replay_and_item_in_the_intents_namespace() {
    let intent = IntentId::try_new(Uuid::from_u128(9)).expect("not nil");
    let code = Code::parse("PWL-1").expect("a code");
    let v5 = |name: &str| Uuid::new_v5(&Uuid::from_u128(9), name.as_bytes());
    assert_eq!(event_id(intent, StatusName::Cancelled, None, 3), v5("cancelled"));
    assert_eq!(event_id(intent, StatusName::Unresolved, None, 0), v5("unresolved"));
    assert_eq!(event_id(intent, StatusName::Unresolved, None, 2), v5("unresolved#2"));
    assert_eq!(event_id(intent, StatusName::GivenUp, Some(&code), 1), v5("given_up#1/PWL-1"));
    assert_eq!(event_id(intent, StatusName::Rejected, Some(&code), 1), v5("rejected/PWL-1"));
}

// ---------------------------------------------------------------------------------------------------------
// Whatever we encode satisfies its schema.

fn tiers() -> Tiers {
    let tier = |seconds: u64| Tier { length: Duration::from_secs(seconds), name: format!("{seconds}s") };
    Tiers::try_new(vec![tier(1), tier(5)]).expect("tiers")
}

fn stamp<'a>(tiers: &'a Tiers, trace: &'a Headers) -> Stamp<'a> {
    Stamp {
        source: "/cancel-worker",
        worker: "test",
        now: Timestamp::UNIX_EPOCH,
        trace,
        fresh_id: Uuid::from_u128(5),
        tiers,
    }
}

fn letter(body: Vec<u8>) -> Letter {
    Letter {
        source: Source::Lane(Kind::AsyncCancel),
        routing_key: "async_cancel".to_owned(),
        redelivered: Redelivered::No,
        headers: Headers::new(),
        body: Bytes::from(body),
    }
}

fn encoded(received: &Received, decision: &Decision) -> Vec<Message> {
    let trace = Headers::from([("traceparent".to_owned(), HeaderValue::Text("00-1-2-01".to_owned()))]);
    encode(&letter(b"{}".to_vec()), received, decision, &stamp(&tiers(), &trace)).into_vec()
}

fn assert_valid(message: &Message) {
    let value: Value = serde_json::from_slice(&message.body).expect("JSON");
    let complaints: Vec<String> =
        OUTCOME.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(complaints.is_empty(), "{}\n{value:#}", complaints.join("\n"));
    assert_eq!(message.message_id.as_deref(), value["id"].as_str());
    assert_eq!(
        message.routing_key,
        format!(
            "{}.{}",
            value["data"]["kind"].as_str().unwrap_or_default(),
            value["data"]["status"].as_str().unwrap_or_default()
        )
    );
}

fn codes() -> impl Strategy<Value = Code> {
    "[!-~]([ -~]{0,20}[!-~])?".prop_filter_map("a code", |text| Code::parse(&text))
}

fn times() -> impl Strategy<Value = Timestamp> {
    (0i64..4_000_000_000).prop_map(|s| Timestamp::from_second(s).expect("in range"))
}

fn dates() -> impl Strategy<Value = Date> {
    (2000i16..2100, 1i8..=12, 1i8..=28).prop_map(|(y, m, d)| Date::new(y, m, d).expect("a day"))
}

fn uuids() -> impl Strategy<Value = Uuid> {
    (1u128..).prop_map(Uuid::from_u128)
}

fn targets() -> impl Strategy<Value = Target> {
    prop_oneof![
        uuids().prop_map(|payment_request_id| Target::AsyncCancel { payment_request_id }),
        (uuids(), proptest::option::of(times())).prop_map(|(payment_request_id, cancel_requested_at)| {
            Target::SyncCancelRollback { payment_request_id, cancel_requested_at }
        }),
        (uuids(), dates(), any::<Option<bool>>()).prop_map(
            |(unique_code, date, delete_marketplace_records)| Target::TransactionCancel {
                unique_code,
                date,
                delete_marketplace_records
            }
        ),
        (codes(), proptest::option::of(codes())).prop_map(|(unique_code, merchant_unique_code)| {
            Target::ApmProvisionCancel { unique_code, merchant_unique_code }
        }),
        vec((codes(), dates()), 1..6).prop_filter_map("no code twice", |items| {
            let payments = items
                .into_iter()
                .map(|(merchant_unique_code, date)| BatchPayment { merchant_unique_code, date })
                .collect();
            Some(Target::BatchCancel { payments: BatchPayments::try_new(payments).ok()? })
        }),
    ]
}

fn intents() -> impl Strategy<Value = CancelIntent> {
    (uuids(), times(), "[a-z0-9_-]{1,64}", targets()).prop_map(|(id, requested_at, merchant, target)| {
        CancelIntent {
            id: IntentId::try_new(id).expect("not nil"),
            requested_at,
            merchant: MerchantName::parse(&merchant).expect("a merchant"),
            target,
        }
    })
}

fn any_of<T: Clone + std::fmt::Debug + 'static>(all: &[T]) -> impl Strategy<Value = T> + use<T> {
    proptest::sample::select(all.to_vec())
}

/// Statuses that are ever said of a payment of this kind, or of one payment of a batch.
fn statuses(kind: Kind) -> BoxedStrategy<Status> {
    let reasons: Vec<RejectedReason> = RejectedReason::ALL
        .iter()
        .copied()
        .filter(|reason| *reason != RejectedReason::InvalidIntent)
        .collect();
    let common = prop_oneof![
        any_of(&reasons).prop_map(Status::Rejected),
        any_of(GivenUpReason::ALL).prop_map(Status::GivenUp),
        any_of(UnresolvedReason::ALL).prop_map(Status::Unresolved),
        any_of(AbandonedReason::ALL).prop_map(Status::Abandoned),
    ];
    match kind {
        Kind::AsyncCancel => {
            prop_oneof![common, any_of(&[Status::Cancelled, Status::RolledBack, Status::Accepted])].boxed()
        }
        Kind::SyncCancelRollback => prop_oneof![common, Just(Status::RolledBack)].boxed(),
        Kind::TransactionCancel => {
            prop_oneof![common, any_of(&[Status::Cancelled, Status::Accepted])].boxed()
        }
        Kind::ApmProvisionCancel | Kind::BatchCancel => prop_oneof![common, Just(Status::Cancelled)].boxed(),
    }
}

fn payment_statuses(kind: Kind) -> BoxedStrategy<Option<PaymentStatus>> {
    let numbers = || (0i64..20, 0i64..20);
    let some = match kind {
        Kind::AsyncCancel | Kind::SyncCancelRollback => numbers()
            .prop_map(|(t, s)| {
                PaymentStatus::Physical(PhysicalType::from_code(t), PhysicalStatus::from_code(s))
            })
            .boxed(),
        Kind::TransactionCancel | Kind::BatchCancel => numbers()
            .prop_map(|(t, s)| PaymentStatus::VirtualPos(VposType::from_code(t), VposStatus::from_code(s)))
            .boxed(),
        Kind::ApmProvisionCancel => numbers()
            .prop_map(|(t, s)| PaymentStatus::Apm(ApmType::from_code(t), ApmStatus::from_code(s)))
            .boxed(),
    };
    proptest::option::of(some).boxed()
}

fn learnt() -> impl Strategy<Value = Learnt> {
    (
        proptest::option::of(uuids()),
        proptest::option::of("[ -~]{0,40}"),
        proptest::option::of("\\PC{0,120}"),
        any::<Option<i64>>(),
        any::<Option<i64>>(),
        proptest::option::of(("[0-9]{1,9}(\\.[0-9]{1,4})?|.{0,80}", proptest::option::of("[A-Z]{3}|.{0,5}"))),
    )
        .prop_map(|(activity, unique_code, merchant_unique_code, apm, bulk, amount)| Learnt {
            payment_request_activity_id: activity,
            unique_code,
            merchant_unique_code,
            apm_transaction_id: apm,
            bulk_payment_id: bulk,
            amount: amount.map(|(value, currency)| Amount { value, currency }),
        })
}

const ITEMS: [Item; 8] = [
    Item::ToCall,
    Item::Doubt,
    Item::Ordered,
    Item::Named,
    Item::Cancelled,
    Item::Rejected,
    Item::GivenUp,
    Item::Unresolved,
];

fn histories(items_len: usize) -> impl Strategy<Value = History> {
    let whys: Vec<Why> = RejectedReason::ALL
        .iter()
        .map(|reason| Why::RefusedByState(*reason))
        .chain([Why::NotConfigured])
        .collect();
    (
        (any::<bool>(), any::<u16>(), proptest::option::of(times()), any::<u16>()),
        (proptest::option::of(times()), times(), proptest::option::of(times()), any::<bool>()),
        (proptest::option::of(any_of(&whys)), proptest::option::of(100u16..600), any::<Option<i64>>()),
        (proptest::option::of("[A-Za-z]{1,20}\\.[A-Za-z]{1,20}"), any::<bool>(), 0u32..4, 0u32..4, 0u8..20),
        (vec(any_of(&StatusName::ALL), 0..4), vec(any_of(&ITEMS), items_len)),
    )
        .prop_map(|(a, b, c, d, e)| History {
            phase: if a.0 { Phase::Call } else { Phase::Settle },
            attempts: a.1.into(),
            called_at: a.2,
            asked: a.3.into(),
            settling_since: b.0,
            first_seen: b.1,
            due: b.2,
            doubt: if b.3 { Doubt::MayHaveHappened } else { Doubt::None },
            why: c.0,
            last: LastReply {
                http_status: c.1,
                error_code: c.1.and(c.2),
                error_code_type: None,
                client_message: c.1.and(d.0),
                fault: Fault::ALL.get(usize::from(d.4)).copied(),
                rule: c.1.map(|status| format!("http:{status}")),
            },
            shown: d.1.then_some(Shown::SaleStands),
            announced: e.0,
            replays: d.2,
            strikes: d.3,
            items: e.1,
        })
}

/// Any decision that could be made about any intent.
fn decisions() -> impl Strategy<Value = (CancelIntent, Decision)> {
    intents().prop_flat_map(|intent| {
        let kind = intent.kind();
        let len = intent.items().len();
        let subject = match len {
            0 => Just(Subject::Whole).boxed(),
            len => (0..len).prop_map(Subject::Item).boxed(),
        };
        let outcome = (subject, statuses(kind), payment_statuses(kind), learnt()).prop_map(
            |(subject, status, payment_status, learnt)| Outcome {
                subject,
                status,
                payment_status,
                learnt,
                counts: Vec::new(),
            },
        );
        let then = prop_oneof![
            Just(Then::Wait(Waiting::ToAsk)),
            any_of(GivenUpReason::ALL).prop_map(|reason| Then::DeadLetter(DeadReason::GivenUp(reason))),
            any_of(UnresolvedReason::ALL).prop_map(|reason| Then::DeadLetter(DeadReason::Unresolved(reason))),
        ];
        (Just(intent), vec(outcome, 0..4), histories(len), then)
            .prop_map(|(intent, outcomes, history, then)| (intent, Decision { outcomes, history, then }))
    })
}

/// The intent as an order system would write it.
fn body_of(intent: &CancelIntent) -> Vec<u8> {
    let mut payment = serde_json::Map::new();
    let mut put = |name: &str, value: Value| payment.insert(name.to_owned(), value);
    match &intent.target {
        Target::AsyncCancel { payment_request_id } => {
            put("paymentRequestId", payment_request_id.to_string().into());
        }
        Target::SyncCancelRollback { payment_request_id, cancel_requested_at } => {
            put("paymentRequestId", payment_request_id.to_string().to_uppercase().into());
            if let Some(at) = cancel_requested_at.filter(|at| *at <= intent.requested_at) {
                put("cancelRequestedAt", at.to_string().into());
            }
        }
        Target::TransactionCancel { unique_code, date, delete_marketplace_records } => {
            put("uniqueCode", unique_code.to_string().into());
            put("date", date.to_string().into());
            if let Some(delete) = delete_marketplace_records {
                put("deleteMarketplaceRecords", (*delete).into());
            }
        }
        Target::ApmProvisionCancel { unique_code, merchant_unique_code } => {
            put("uniqueCode", unique_code.as_str().into());
            if let Some(code) = merchant_unique_code {
                put("merchantUniqueCode", code.as_str().into());
            }
        }
        Target::BatchCancel { payments } => {
            let items: Vec<Value> = payments
                .as_slice()
                .iter()
                .map(|item| {
                    serde_json::json!({
                        "merchantUniqueCode": item.merchant_unique_code.as_str(),
                        "date": item.date.to_string(),
                    })
                })
                .collect();
            put("payments", items.into());
        }
    }
    serde_json::to_vec(&serde_json::json!({
        "intentId": intent.id.to_string(),
        "kind": intent.kind().as_str(),
        "requestedAt": intent.requested_at.to_string(),
        "merchant": intent.merchant.as_str(),
        "payment": payment,
    }))
    .expect("JSON")
}

/// An object, and how deep it is. Its texts and keys are full of what opens and closes where it is no text.
fn references() -> impl Strategy<Value = (usize, String)> {
    let text = || r#"([\[\]{}:, a-z]|\\\\|\\"|\\u00e9|\\n){0,8}"#;
    let leaf = prop_oneof![
        text().prop_map(|text| (0, format!("\"{text}\""))),
        Just((0, "-1.5e3".to_owned())),
        Just((0, " null ".to_owned())),
        Just((1, "[]".to_owned())),
        Just((1, "{ }".to_owned())),
    ];
    let value = leaf.clone().prop_recursive(40, 60, 3, move |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(|items| {
                let depth = items.iter().map(|(depth, _)| depth + 1).max().unwrap_or(1);
                let items: Vec<String> = items.into_iter().map(|(_, text)| text).collect();
                (depth, format!("[{}]", items.join(" , ")))
            }),
            vec((text(), inner), 1..3).prop_map(object),
        ]
    });
    // A tree alone is seldom deep: so it hangs on a chain.
    (vec(any::<bool>(), 0..40), vec((text(), value), 0..3)).prop_map(|(chain, members)| {
        chain.into_iter().fold(object(members), |(depth, inner), in_array| {
            let inner = if in_array { format!("[{inner}]") } else { inner };
            (depth + 1 + usize::from(in_array), format!("{{\"]\":{inner}}}"))
        })
    })
}

fn object(members: Vec<(String, (usize, String))>) -> (usize, String) {
    let depth = members.iter().map(|(_, (depth, _))| depth + 1).max().unwrap_or(1);
    let members: Vec<String> =
        members.into_iter().map(|(name, (_, value))| format!("\"{name}\":{value}")).collect();
    (depth, format!("{{{}}}", members.join(",")))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_event_that_we_encode_satisfies_its_schema((intent, decision) in decisions()) {
        let received = Received { intent, reference: None };
        for message in encoded(&received, &decision) {
            if message.address == Address::Announce {
                assert_valid(&message);
            }
        }
    }

    #[test]
    fn a_letter_that_we_publish_again_has_our_headers_and_the_trace_and_nothing_else((intent, decision) in decisions()) {
        let received = Received { intent, reference: None };
        for message in encoded(&received, &decision) {
            for name in message.headers.keys() {
                prop_assert!(name.starts_with("cancel-") || name == "traceparent", "{name}");
            }
        }
    }

    #[test]
    fn a_history_survives_its_headers(history in (0usize..5).prop_flat_map(histories)) {
        let headers = history::encode(&history);
        prop_assert_eq!(history::decode(&headers, history.items.len()), Some(history));
    }

    #[test]
    fn every_intent_that_satisfies_the_schema_is_read_as_it_was_written(intent in intents()) {
        let body = body_of(&intent);
        let value: Value = serde_json::from_slice(&body).expect("JSON");
        prop_assert!(INTENT.is_valid(&value), "{value:#}");
        let read = decode(&body).expect("valid").intent;
        prop_assert_eq!(read.id, intent.id);
        prop_assert_eq!(read.requested_at, intent.requested_at);
        prop_assert_eq!(read.target.kind(), intent.kind());
        prop_assert_eq!(body_of(&read), body);
    }

    #[test]
    fn a_reference_is_read_byte_for_byte_up_to_its_depth_and_not_beyond((depth, reference) in references()) {
        prop_assume!(reference.len() <= REFERENCE_BYTES_MAX);
        match decode(&with_reference(&reference)) {
            Ok(received) => {
                prop_assert!(depth <= REFERENCE_DEPTH_MAX, "{depth}");
                prop_assert_eq!(received.reference, Some(reference));
            }
            Err(malformed) => {
                prop_assert!(depth > REFERENCE_DEPTH_MAX, "{depth}: {}", malformed.fault);
                prop_assert_eq!(malformed.fault.field, "reference");
            }
        }
    }

    #[test]
    fn odd_bytes_are_refused_without_a_panic(body in vec(any::<u8>(), 0..300)) {
        let _ = decode(&body);
    }

    #[test]
    fn a_valid_intent_with_one_byte_changed_is_read_or_refused_without_a_panic(
        intent in intents(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut body = body_of(&intent);
        let at = at.index(body.len());
        body[at] = byte;
        let _ = decode(&body);
    }
}
