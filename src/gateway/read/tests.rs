//! Tolerant about spelling, strict about what decides.

use proptest::prelude::*;
use serde_json::json;

use super::payment::Asked;
use super::tolerant::FIELDS_LEN_MAX;
use super::*;
use crate::domain::intent::Code;
use crate::domain::paywall::{PhysicalStatus, PhysicalType};
use crate::domain::reply::{
    Amount, PaymentBody, PaymentEnvelope, PaymentResult, PhysicalEnvelope, PhysicalResult, Provider,
};
use uuid::Uuid;

const OURS: &str = "7cc7c8e8-9d92-41b6-9378-e9ecef5a7812";

fn physical(text: &str) -> Option<PhysicalEnvelope> {
    physical::envelope(text)
}

fn payment(text: &str) -> Option<PaymentEnvelope> {
    payment::envelope(text)
}

/// A physical reply with these fields and no more.
fn check_physical(text: &str, expected: PhysicalEnvelope) {
    assert_eq!(physical(text), Some(expected), "{text}");
}

fn check_payment(text: &str, expected: PaymentEnvelope) {
    assert_eq!(payment(text), Some(expected), "{text}");
}

fn result(payment_request_id: Option<Uuid>) -> PhysicalResult {
    PhysicalResult {
        payment_request_id,
        activity_id: None,
        activity_type: Some(PhysicalType::Cancel),
        status: Some(PhysicalStatus::Withdrawn),
    }
}

fn full() -> PhysicalEnvelope {
    PhysicalEnvelope {
        succeeded: Some(true),
        failed: Some(false),
        error_code: Some(0),
        client_message: Some("Payment.Async.AlreadyHasRefundOrCancel".to_owned()),
        result: Some(result(Some(OURS.parse().unwrap()))),
    }
}

#[test]
fn keys_are_read_in_any_casing_and_numbers_and_bools_as_text_too() {
    for text in [
        r#"{"Result":{"PaymentRequestId":"7cc7c8e8-9d92-41b6-9378-e9ecef5a7812","PaymentRequestActivityTypeId":2,
            "PaymentStatus":12},"Failed":false,"Succeeded":true,"ErrorCode":0,
            "ClientMessage":"Payment.Async.AlreadyHasRefundOrCancel","Message":"x"}"#,
        r#"{"result":{"paymentRequestId":"7CC7C8E8-9D92-41B6-9378-E9ECEF5A7812","paymentRequestActivityTypeId":"2",
            "paymentStatus":"12"},"failed":"False","succeeded":"TRUE","errorCode":"0",
            "clientMessage":"Payment.Async.AlreadyHasRefundOrCancel","new":{"a":[1,{"Succeeded":false}]}}"#,
        "\u{feff} {\"RESULT\":{\"PAYMENTREQUESTID\":\"7cc7c8e8-9d92-41b6-9378-e9ecef5a7812\",\
         \"PAYMENTREQUESTACTIVITYTYPEID\":2,\"PAYMENTSTATUS\":12,\"PaymentRequestActivityId\":null},\
         \"SUCCEEDED\":true,\"FAILED\":false,\"ERRORCODE\":0,\
         \"CLIENTMESSAGE\":\"Payment\\u002eAsync.AlreadyHasRefundOrCancel\"}\r\n",
    ] {
        check_physical(text, full());
    }
}

#[test]
fn a_guid_without_hyphens_or_in_braces_is_the_same_guid() {
    for id in ["7cc7c8e89d9241b69378e9ecef5a7812", "{7cc7c8e8-9d92-41b6-9378-e9ecef5a7812}"] {
        let text = format!(r#"{{"succeeded":true,"result":{{"paymentRequestId":"{id}"}}}}"#);
        let read = physical(&text).unwrap().result.unwrap();
        assert_eq!(read.payment_request_id, Some(OURS.parse().unwrap()));
    }
}

#[test]
fn a_text_that_is_no_guid_names_another_payment_and_never_ours_or_none() {
    for id in [r#""""#, r#""7cc7c8e8""#, r#""7cc7c8e8-9d92-41b6-9378-e9ecef5a7812x""#, "7", r#"" ""#] {
        let text = format!(r#"{{"succeeded":true,"result":{{"paymentRequestId":{id}}}}}"#);
        let read = physical(&text).unwrap().result.unwrap();
        assert_eq!(read.payment_request_id, Some(Uuid::nil()), "{id}");
    }
}

#[test]
fn absent_and_null_are_the_same() {
    let expected = PhysicalEnvelope { failed: Some(true), ..PhysicalEnvelope::default() };
    check_physical(r#"{"failed":true}"#, expected.clone());
    check_physical(
        r#"{"failed":true,"succeeded":null,"errorCode":null,"clientMessage":null,"result":null}"#,
        expected,
    );
    let expected = PaymentEnvelope { result: Some(false), ..PaymentEnvelope::default() };
    check_payment(r#"{"Result":false}"#, expected.clone());
    check_payment(r#"{"Result":false,"ErrorCode":null,"ErrorCodeType":null,"Body":null}"#, expected);
}

#[test]
fn numbers_that_no_page_lists_are_kept() {
    let text = r#"{"succeeded":true,"result":{"paymentRequestActivityTypeId":-7,"paymentStatus":99}}"#;
    let read = physical(text).unwrap().result.unwrap();
    assert_eq!(read.activity_type, Some(PhysicalType::Unlisted(-7)));
    assert_eq!(read.status, Some(PhysicalStatus::Unlisted(99)));
}

#[test]
fn an_envelope_is_what_says_how_the_call_went() {
    for text in [
        r#"{"succeeded":false}"#,
        r#"{"failed":true}"#,
        r#"{"errorCode":5}"#,
        r#"{"clientMessage":"System.AuthError"}"#,
    ] {
        assert!(physical(text).is_some(), "{text}");
    }
    for text in [
        "",
        " ",
        "null",
        "true",
        "1",
        "[]",
        "{}",
        r#"[{"succeeded":true}]"#,
        r#""{\"succeeded\":true}""#,
        r#"{"succeeded":null}"#,
        r#"{"result":{"paymentStatus":4}}"#,
        r#"{"clientMessage":"Something went wrong"}"#,
        r#"{"message":"Unauthorized"}"#,
        r#"{"type":"about:blank","title":"Not Found","status":404}"#,
        "<html><head><title>502 Bad Gateway</title></head></html>",
        r#"{"succeeded":true"#,
        r#"{"succeeded":true} {"succeeded":true}"#,
        r#"{"succeeded":true,}"#,
        r#"{'succeeded':true}"#,
    ] {
        assert_eq!(physical(text), None, "{text}");
    }
    for text in [r#"{"ErrorCode":-1}"#, r#"{"result":"true"}"#] {
        assert!(payment(text).is_some(), "{text}");
    }
    for text in
        ["", "[]", "{}", r#"{"Body":{"Result":true}}"#, r#"{"Message":"Success"}"#, "\u{feff}\u{feff}{}"]
    {
        assert_eq!(payment(text), None, "{text}");
    }
}

/// What is read of these bytes, as the reply to a call under 200.
fn read_bytes(api: Api, body: &[u8]) -> Envelope {
    let received = Received { http_status: 200, retry_after: None, body: Ok(body.to_vec()), local: None };
    answer(api, &received).read.envelope
}

#[test]
fn bytes_of_a_legacy_code_page_make_their_text_unreadable_and_nothing_else() {
    // Latin-5 in texts that decide nothing, in a key that nobody asks for, and in what is no fixed code.
    let body =
        b"{\"succeeded\":false,\"Message\":\"\xdd\xfelem ba\xfear\xfds\xfdz\",\"Not\xfc\":1,\"ErrorCode\":7,\
                 \"ClientMessage\":\"System.\xfcber\"}";
    let envelope =
        PhysicalEnvelope { succeeded: Some(false), error_code: Some(7), ..PhysicalEnvelope::default() };
    assert_eq!(read_bytes(Api::Physical, body), Envelope::Physical(envelope));
    let body = b"{\"ErrorCode\":0,\"Result\":true,\"Message\":\"\xc3\",\"Body\":\"\xff\"}";
    let envelope = PaymentEnvelope { error_code: Some(0), result: Some(true), ..PaymentEnvelope::default() };
    assert_eq!(read_bytes(Api::Payment, body), Envelope::Payment(envelope));
}

#[test]
fn an_id_with_such_a_byte_names_another_payment() {
    let body =
        b"{\"succeeded\":true,\"result\":{\"paymentRequestId\":\"7cc7c8e8-9d92-41b6-9378-e9ecef5a781\xb2\"}}";
    let Envelope::Physical(envelope) = read_bytes(Api::Physical, body) else { panic!("it is an envelope") };
    assert_eq!(envelope.result.unwrap().payment_request_id, Some(Uuid::nil()));
    let body = b"{\"ErrorCode\":0,\"Result\":true,\"Body\":{\"UniqueCode\":\"u-1\xb2\"}}";
    let Envelope::Payment(envelope) = read_bytes(Api::Payment, body) else { panic!("it is an envelope") };
    assert_eq!(envelope.body.unwrap().unique_code.as_deref(), Some("u-1\u{fffd}"));
}

#[test]
fn half_a_character_in_a_text_or_a_key_is_only_that() {
    for text in [
        r#"{"failed":true,"message":"\ud800"}"#,
        r#"{"failed":true,"clientMessage":"\udc00System.AuthError"}"#,
        r#"{"failed":true,"\ud800":1}"#,
    ] {
        let expected = PhysicalEnvelope { failed: Some(true), ..PhysicalEnvelope::default() };
        check_physical(text, expected);
    }
    let text = r#"{"succeeded":true,"result":{"paymentRequestId":"\ud800"}}"#;
    assert_eq!(physical(text).unwrap().result.unwrap().payment_request_id, Some(Uuid::nil()));
}

#[test]
fn bytes_that_are_no_json_are_no_envelope() {
    for body in
        [b"\xff\xfe{\0".as_slice(), b"\xfc", b"{\"failed\":\xfctrue}", b"{\xfc}", b"{\"failed\":true}\xfc"]
    {
        assert_eq!(read_bytes(Api::Physical, body), Envelope::Missing, "{body:?}");
        assert_eq!(read_bytes(Api::Private, body), Envelope::Missing, "{body:?}");
    }
}

#[test]
fn a_deciding_field_of_another_type_is_no_envelope() {
    for text in [
        r#"{"succeeded":"maybe"}"#,
        r#"{"succeeded":1}"#,
        r#"{"succeeded":"true ","failed":false}"#,
        r#"{"failed":true,"errorCode":{}}"#,
        r#"{"failed":true,"errorCode":"E5"}"#,
        r#"{"failed":true,"errorCode":"+5"}"#,
        r#"{"failed":true,"errorCode":""}"#,
        r#"{"failed":true,"errorCode":1.5}"#,
        r#"{"failed":true,"errorCode":1e2}"#,
        r#"{"failed":true,"errorCode":9223372036854775808}"#,
        r#"{"failed":true,"clientMessage":["System.AuthError"]}"#,
        r#"{"succeeded":true,"result":true}"#,
        r#"{"succeeded":true,"result":[]}"#,
        r#"{"succeeded":true,"result":{"paymentStatus":"Successful"}}"#,
        r#"{"succeeded":true,"result":{"paymentRequestActivityTypeId":false}}"#,
        r#"{"succeeded":true,"result":{"paymentRequestId":{}}}"#,
    ] {
        assert_eq!(physical(text), None, "{text}");
    }
    for text in [
        r#"{"ErrorCode":"AccessDenied","Result":false}"#,
        r#"{"ErrorCode":0,"Result":{}}"#,
        r#"{"ErrorCode":0,"Result":"yes"}"#,
        r#"{"ErrorCode":0,"Result":true,"Body":{"Result":0}}"#,
        r#"{"ErrorCode":0,"Result":true,"Body":{"UniqueCode":[]}}"#,
        r#"{"ErrorCode":0,"Result":true,"Body":{"MerchantUniqueCode":true}}"#,
        r#"{"ErrorCode":0,"Result":true,"Body":{"TotalPaymentCount":"four"}}"#,
        r#"{"ErrorCode":0,"Result":true,"Body":{"PaymentResults":{}}}"#,
        r#"{"ErrorCode":0,"Result":true,"Body":{"PaymentResults":[null]}}"#,
        r#"{"ErrorCode":0,"Result":true,"Body":{"PaymentResults":[{"Status":"added"}]}}"#,
        r#"{"ErrorCode":0,"Result":true,"Body":{"ProviderDummyResponse":"declined"}}"#,
        r#"{"ErrorCode":0,"Result":true,"Body":{"ProviderDummyResponse":{"HttpCode":"OK"}}}"#,
    ] {
        assert_eq!(payment(text), None, "{text}");
    }
}

#[test]
fn a_deciding_field_told_twice_is_read_only_if_both_say_the_same() {
    for text in [
        r#"{"succeeded":true,"succeeded":true}"#,
        r#"{"succeeded":true,"Succeeded":true}"#,
        r#"{"succeeded":true,"message":"a","message":"b"}"#,
    ] {
        assert_eq!(physical(text).unwrap().succeeded, Some(true), "{text}");
    }
    for text in [
        r#"{"succeeded":true,"succeeded":false}"#,
        r#"{"succeeded":true,"SUCCEEDED":null}"#,
        r#"{"succeeded":true,"failed":false,"Failed":true}"#,
        r#"{"failed":true,"errorCode":1,"ErrorCode":2}"#,
        r#"{"succeeded":true,"result":{"paymentStatus":4},"Result":{"paymentStatus":5}}"#,
        r#"{"succeeded":true,"result":{"paymentStatus":4,"PaymentStatus":12}}"#,
        r#"{"succeeded":true,"\u0053ucceeded":false}"#,
    ] {
        assert_eq!(physical(text), None, "{text}");
    }
    for text in [
        r#"{"ErrorCode":0,"errorCode":5,"Result":true}"#,
        r#"{"ErrorCode":0,"Result":true,"Body":null,"body":{"Result":false}}"#,
    ] {
        assert_eq!(payment(text), None, "{text}");
    }
}

#[test]
fn a_client_message_is_a_fixed_code_or_it_stays_here() {
    let read = |message: &str| {
        let text = json!({ "failed": true, "clientMessage": message }).to_string();
        physical(&text).unwrap().client_message
    };
    let longest = format!("System.{}", "a".repeat(93));
    for code in
        ["System.AuthError", "Payment.Async.NotConvenientStatusForThisOperation", "a_1.B2.c", &longest]
    {
        assert_eq!(read(code).as_deref(), Some(code));
    }
    let too_long = format!("System.{}", "a".repeat(94));
    for text in [
        "",
        "System",
        ".System",
        "System.",
        "System..AuthError",
        "Card 5555.4444 refused",
        "İşlem.Başarısız",
        "System.Auth-Error",
        "System.AuthError\n",
        "Card.5555444433331111",
        "Card.5555.4444.3333.1111",
        "Card_5555_4444.3333_1111",
        &too_long,
    ] {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn an_amount_keeps_the_digits_that_came() {
    let read = |amount: &str| {
        let text = format!(r#"{{"ErrorCode":0,"Body":{{"Amount":{amount}}}}}"#);
        payment(&text).unwrap().body.unwrap().amount.map(|amount| amount.value)
    };
    for (amount, value) in [
        ("8.00", "8.00"),
        ("8", "8"),
        ("-0.10", "-0.10"),
        ("123456789012345678901234567890.10", "123456789012345678901234567890.10"),
        ("1E+3", "1E+3"),
        (r#""8.00""#, "8.00"),
        (r#""0012.5""#, "0012.5"),
    ] {
        assert_eq!(read(amount).as_deref(), Some(value));
    }
    let too_long = "1".repeat(65);
    for amount in [
        "null",
        "true",
        "{}",
        r#""""#,
        r#""8,00""#,
        r#""8.""#,
        r#"".8""#,
        r#""8 TRY""#,
        r#""1e""#,
        r#""--1""#,
        &too_long,
    ] {
        assert_eq!(read(amount), None, "{amount}");
    }
}

#[test]
fn a_currency_is_three_letters_beside_the_amount() {
    let read = |currency: &str| {
        let text = format!(r#"{{"ErrorCode":0,"Body":{{"Amount":8.00,"Currency":{currency}}}}}"#);
        payment(&text).unwrap().body.unwrap().amount.unwrap()
    };
    let amount =
        |currency: Option<&str>| Amount { value: "8.00".to_owned(), currency: currency.map(str::to_owned) };
    assert_eq!(read(r#""TRY""#), amount(Some("TRY")));
    for currency in ["1", "null", r#""try""#, r#""Lira""#, r#""""#, "{}"] {
        assert_eq!(read(currency), amount(None), "{currency}");
    }
}

#[test]
fn an_object_of_more_fields_and_a_list_of_more_elements_than_were_asked_for_is_none() {
    let with_fields = |more: usize| format!(r#"{{{}"failed":true}}"#, r#""a":1,"#.repeat(more));
    assert!(physical(&with_fields(FIELDS_LEN_MAX - 1)).is_some());
    assert_eq!(physical(&with_fields(FIELDS_LEN_MAX)), None);

    let results = |len: usize| {
        let results = vec![r#"{"MerchantUniqueCode":"a","Status":1}"#; len].join(",");
        payment(&format!(r#"{{"ErrorCode":0,"Result":true,"Body":{{"PaymentResults":[{results}]}}}}"#))
    };
    assert_eq!(results(500).unwrap().body.unwrap().payment_results.unwrap().len(), 500);
    assert_eq!(results(501), None);

    let page = |len: usize| {
        let items = vec![r#"{"PaymentTypeId":1,"PaymentStatusId":4}"#; len].join(",");
        let body = format!(r#"{{"succeeded":true,"result":{{"Items":[{items}]}}}}"#).into_bytes();
        let received = Received { http_status: 200, retry_after: None, body: Ok(body), local: None };
        state(&physical::page(&received, OURS.parse().unwrap()).read)
    };
    assert_eq!((page(100), page(101), page(9_500)), ("found", "unanswered", "unanswered"));
}

#[test]
fn fields_that_decide_nothing_may_be_odd() {
    let text = r#"{"ErrorCode":0,"ErrorCodeType":"one","Result":true,"Body":{"ApmTransactionId":"x",
        "Amount":[],"ProviderDummyResponse":{"ErrorCode":"0","HttpCode":"200","Body":"<xml/>"},
        "TotalPaymentCount":"1","PaymentResults":[{"MerchantUniqueCode":7,"Status":"1","BulkPaymentId":{}}]}}"#;
    let body = PaymentBody {
        provider: Some(Provider { error_code: Some(0), http_code: Some(200) }),
        total_payment_count: Some(1),
        payment_results: Some(vec![PaymentResult {
            merchant_unique_code: Some("7".to_owned()),
            status: Some(1),
            bulk_payment_id: None,
        }]),
        ..PaymentBody::default()
    };
    check_payment(
        text,
        PaymentEnvelope { error_code: Some(0), error_code_type: None, result: Some(true), body: Some(body) },
    );
}

#[test]
fn a_body_that_is_no_object_is_none() {
    for body in ["null", r#""""#, r#""Success""#, "[]", "0", "true"] {
        let text = format!(r#"{{"ErrorCode":0,"Result":true,"Body":{body}}}"#);
        assert_eq!(payment(&text).unwrap().body, None, "{body}");
    }
}

#[test]
fn dates_are_read_in_several_spellings_and_their_offset_is_dropped() {
    let read = |date: &str| {
        let text = json!({ "Date": date }).to_string();
        Fields::parse(&text).unwrap().date_time("date")
    };
    for (date, expected) in [
        ("2025-01-31T10:20:30", "2025-01-31T10:20:30"),
        ("2025-01-31 10:20:30", "2025-01-31T10:20:30"),
        ("2025-01-31T10:20:30.1234567", "2025-01-31T10:20:30.1234567"),
        ("2025-01-31T10:20:30.5+03:00", "2025-01-31T10:20:30.5"),
        ("2025-01-31 10:20:30 ", "2025-01-31T10:20:30"),
        ("2025-01-31T10:20:30Z", "2025-01-31T10:20:30"),
        ("2025-01-31T10:20", "2025-01-31T10:20"),
        ("2025-01-31", "2025-01-31T00:00:00"),
    ] {
        assert_eq!(read(date), Some(expected.parse().unwrap()), "{date}");
    }
    for date in ["", "yesterday", "31.01.2025 10:20:30", "2025-02-31T10:20:30", "0001-01-01T00:00:00"] {
        assert_eq!(read(date), None, "{date}");
    }
}

/// All that can be read from one body.
fn readings(body: &[u8], http_status: u16) -> Readings {
    let received = Received { http_status, retry_after: None, body: Ok(body.to_vec()), local: None };
    let code = Code::parse("m-1").unwrap();
    let asked = OURS.parse().unwrap();
    Readings {
        envelopes: Api::ALL.map(|api| answer(api, &received).read.envelope),
        found: [
            state(&physical::inquiry(&received, asked).read),
            state(&physical::page(&received, asked).read),
            state(&payment::vpos(&received, Asked::UniqueCode(asked)).read),
            state(&payment::vpos(&received, Asked::MerchantCode(&code)).read),
            state(&payment::apm(&received, &code).read),
        ],
    }
}

#[derive(Debug, PartialEq)]
struct Readings {
    envelopes: [Envelope; 3],
    found: [&'static str; 5],
}

impl Readings {
    /// What must be read from a body that is no envelope.
    fn nothing() -> Readings {
        Readings {
            envelopes: [Envelope::Missing, Envelope::Missing, Envelope::Missing],
            found: ["unanswered"; 5],
        }
    }
}

fn state<T>(read: &Read<T>) -> &'static str {
    match read {
        Read::Unanswered => "unanswered",
        Read::Found(_) => "found",
        Read::Refused(_) => "refused",
    }
}

const ENVELOPES: [&str; 3] = [
    r#"{"Result":{"PaymentRequestId":"7cc7c8e8-9d92-41b6-9378-e9ecef5a7812","PaymentTypeId":2,"PaymentStatusId":4,
        "Items":[{"Id":"3a7deace-d437-4d3f-8ef8-1cba82f18e8f","PaymentTypeId":2,"PaymentStatusId":4,
        "Date":"2025-01-01T10:00:00"}],"Pagination":{"TotalCount":1}},"Failed":false,"Succeeded":true}"#,
    r#"{"ErrorCode":0,"Result":true,"Message":"Success","Body":{"Paywall":{"UniqueCode":
        "7cc7c8e8-9d92-41b6-9378-e9ecef5a7812","MerchantUniqueCode":"m-1","StatusId":4,"TypeId":3,
        "AnySuccessCancel":true},"MerchantUniqueCode":"m-1","StatusId":4,"TypeId":2}}"#,
    r#"{"ErrorCodeType":1,"ErrorCode":404,"Result":false,"Message":"x","Body":null}"#,
];

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_an_envelope_unless_they_are_json(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        http_status in 100..1000_u16,
    ) {
        let readings = readings(&body, http_status);
        let text = String::from_utf8_lossy(&body);
        let json = text.strip_prefix('\u{feff}').unwrap_or(&text);
        if serde_json::from_str::<serde::de::IgnoredAny>(json).is_err() {
            prop_assert_eq!(readings, Readings::nothing());
        }
    }

    #[test]
    fn odd_text_between_braces_never_panics_and_is_never_found(
        body in r#"\{("[A-Za-z]{0,12}"|[0-9eE+.-]{1,6}|[\[\]{}:,"\\]|true|null| ){0,30}\}"#,
    ) {
        prop_assert!(!readings(body.as_bytes(), 200).found.contains(&"found"));
    }

    #[test]
    fn an_envelope_that_is_cut_anywhere_is_none(which in 0..ENVELOPES.len(), cut in any::<prop::sample::Index>()) {
        let whole = ENVELOPES[which].as_bytes();
        prop_assert_eq!(readings(&whole[..cut.index(whole.len())], 200), Readings::nothing());
    }

    #[test]
    fn an_envelope_with_one_byte_changed_never_panics(
        which in 0..ENVELOPES.len(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut body = ENVELOPES[which].as_bytes().to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        readings(&body, 200);
    }

    #[test]
    fn casing_of_keys_never_changes_what_is_read(which in 0..ENVELOPES.len(), upper in any::<[bool; 64]>()) {
        let mut n = 0;
        let value: serde_json::Value = serde_json::from_str(ENVELOPES[which]).unwrap();
        let recased = recase(&value, &mut |letter| {
            n += 1;
            if upper[n % upper.len()] { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() }
        });
        let plain = readings(ENVELOPES[which].as_bytes(), 200);
        prop_assert_eq!(readings(recased.to_string().as_bytes(), 200), plain);
    }

    #[test]
    fn nothing_is_found_without_a_2xx(which in 0..ENVELOPES.len(), http_status in 300..1000_u16) {
        prop_assert!(!readings(ENVELOPES[which].as_bytes(), http_status).found.contains(&"found"));
    }
}

fn recase(value: &serde_json::Value, case: &mut impl FnMut(char) -> char) -> serde_json::Value {
    match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.chars().map(&mut *case).collect::<String>(), value))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(key, value)| (key, recase(value, case)))
            .collect(),
        serde_json::Value::Array(items) => items.iter().map(|item| recase(item, case)).collect(),
        other => other.clone(),
    }
}

#[test]
fn what_the_properties_change_is_read_when_it_is_not_changed() {
    let found = ENVELOPES.map(|text| readings(text.as_bytes(), 200).found);
    assert_eq!(found[0], ["found", "found", "unanswered", "unanswered", "unanswered"]);
    assert_eq!(found[1], ["unanswered", "unanswered", "found", "found", "found"]);
    assert_eq!(found[2], ["unanswered", "unanswered", "refused", "refused", "refused"]);
}
