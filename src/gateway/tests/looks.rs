//! The inquiries: what is asked, what counts as found, and where a look ends.

use serde_json::json;

use super::*;
use crate::domain::paywall::{ApmStatus, ApmType, PhysicalStatus, PhysicalType, VposStatus, VposType};
use crate::domain::reply::{Amount, ReadRefusal};

const THEIRS: &str = "72ec8714-d116-4306-8881-38a43c485da9";

/// The server's answers by path; what is not in the list is a bare 500.
async fn answering(answers: impl Fn(&Seen) -> Option<Value> + Send + Sync + 'static) -> Server {
    Server::start(move |seen| match answers(seen) {
        Some(body) => Act::Say(ok(body.to_string())),
        None => Act::Say(reply("500 Internal Server Error", &[], "")),
    })
    .await
}

async fn look(server: &Server, question: Question) -> InquiryReply {
    gateway(server).inquire(&inquiry_of(question), None).await.0
}

fn amount(value: &str, currency: Option<&str>) -> Option<Amount> {
    Some(Amount { value: value.to_owned(), currency: currency.map(str::to_owned) })
}

// PhysicalAPI.

async fn physical_look(server: &Server) -> (Read<Vec<Activity>>, Read<PhysicalPayment>) {
    match look(server, Question::Physical { payment_request_id: OURS }).await {
        InquiryReply::Physical { activities, inquiry } => (activities, inquiry),
        other => panic!("{other:?}"),
    }
}

fn succeeded(result: &Value) -> Value {
    json!({ "Result": result, "Failed": false, "Succeeded": true, "Message": null, "ClientMessage": null })
}

fn payment_result(id: &str) -> Value {
    json!({
        "PaymentRequestId": id,
        "PaymentRequestActivityId": "3a7deace-d437-4d3f-8ef8-1cba82f18e8f",
        "TerminalId": "3a7deace-d437-4d3f-8ef8-1cba82f18e8f",
        "MerchantUniqueCode": "order-1",
        "Amount": 12,
        "CurrencyId": 1,
        "Currency": "TRY",
        "PaymentTypeId": 2,
        "PaymentType": "Cancel",
        "PaymentStatusId": 4,
        "PaymentStatus": "Successful",
        "CreatedDate": "2025-01-01T10:00:00",
        "ModifiedDate": null
    })
}

fn item(n: u128, kind: i64, status: i64) -> Value {
    json!({
        "Id": Uuid::from_u128(n),
        "PaymentTypeId": kind,
        "PaymentTypeName": "?",
        "PaymentStatusId": status,
        "PaymentStatusName": "?",
        "Date": "2025-01-01T10:00:00"
    })
}

fn activity(n: u128, kind: PhysicalType, status: PhysicalStatus) -> Activity {
    let date = Some("2025-01-01T10:00:00".parse().unwrap());
    Activity { id: Some(Uuid::from_u128(n)), kind, status, date }
}

/// What the activities are when each page, counted from 0, is this `Result`; and how many were asked for.
async fn activities(
    page: impl Fn(u64) -> Option<Value> + Send + Sync + 'static,
) -> (Read<Vec<Activity>>, usize) {
    let mut server = answering(move |seen| {
        let index = seen.path.ends_with("/activities").then(|| seen.json()["pageIndex"].as_u64().unwrap())?;
        page(index).map(|result| succeeded(&result))
    })
    .await;
    let (activities, _) = physical_look(&server).await;
    let asked: Vec<_> = server.seen().into_iter().filter(|seen| seen.method == "POST").collect();
    for (index, seen) in asked.iter().enumerate() {
        let body = json!({ "pageIndex": index, "pageSize": 100, "PaymentRequestId": OURS });
        assert_eq!(seen.json(), body);
    }
    (activities, asked.len())
}

#[tokio::test]
async fn a_physical_look_asks_activities_and_inquiry_with_the_private_pair() {
    let mut server = answering(|seen| match seen.path.as_str() {
        "/api/payment/activities" => {
            let pagination = json!({ "CurrentPage": 0, "PageCount": 1, "PageSize": 100, "TotalCount": 2 });
            Some(succeeded(&json!({ "Items": [item(1, 1, 4), item(2, 2, 11)], "Pagination": pagination })))
        }
        "/api/payment/inquiry/7cc7c8e8-9d92-41b6-9378-e9ecef5a7812" => {
            Some(succeeded(&payment_result("7CC7C8E8-9D92-41B6-9378-E9ECEF5A7812")))
        }
        _ => None,
    })
    .await;
    let (activities, inquiry) = physical_look(&server).await;
    let expected = vec![
        activity(1, PhysicalType::Sale, PhysicalStatus::Successful),
        activity(2, PhysicalType::Cancel, PhysicalStatus::ReceivedByDevice),
    ];
    assert_eq!(activities, Read::Found(expected));
    let expected = PhysicalPayment {
        payment_request_id: Some(OURS),
        activity_id: Some("3a7deace-d437-4d3f-8ef8-1cba82f18e8f".parse().unwrap()),
        merchant_unique_code: Some("order-1".to_owned()),
        amount: amount("12", Some("TRY")),
        kind: Some(PhysicalType::Cancel),
        status: Some(PhysicalStatus::Successful),
    };
    assert_eq!(inquiry, Read::Found(expected));

    let seen = server.seen();
    let methods: Vec<_> = seen.iter().map(|seen| seen.method.as_str()).collect();
    assert_eq!(methods, ["POST", "GET"]);
    assert!(seen[1].body.is_empty());
    for seen in seen {
        assert_eq!(seen.header("apikeyprivate"), Some("priv-key"));
        assert_eq!(seen.header("apiclientprivate"), Some("priv-client"));
        assert_eq!(seen.header("apikeypublic"), None);
        assert_eq!(seen.header("accept"), Some("application/json"));
    }
}

#[tokio::test]
async fn a_history_is_read_to_its_last_page() {
    let page = |index: u64| {
        let items: Vec<_> = (0..100).map(|n| item(u128::from(index * 100 + n + 1), 1, 4)).collect();
        let items = if index == 2 { &items[..5] } else { &items };
        Some(json!({ "Items": items, "Pagination": { "PageCount": 3, "TotalCount": 205 } }))
    };
    let (read, asked) = activities(page).await;
    assert_eq!(asked, 3);
    let Read::Found(found) = read else { panic!("{read:?}") };
    let ids: Vec<_> = found.iter().map(|activity| activity.id.unwrap().as_u128()).collect();
    assert_eq!(ids, (1..=205).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_history_without_page_counts_ends_with_a_page_that_is_not_full() {
    let page = |index: u64| {
        let items: Vec<_> = (0..100).map(|n| item(u128::from(index * 100 + n + 1), 1, 4)).collect();
        Some(json!({ "Items": if index == 1 { &items[..99] } else { &items }, "Pagination": null }))
    };
    let (read, asked) = activities(page).await;
    assert!(matches!(&read, Read::Found(found) if found.len() == 199), "{read:?}");
    assert_eq!(asked, 2);
}

#[tokio::test]
async fn a_history_with_a_page_missing_is_unanswered() {
    let page = |index: u64| {
        (index == 0).then(|| json!({ "Items": [item(1, 1, 4)], "Pagination": { "TotalCount": 2 } }))
    };
    assert_eq!(activities(page).await, (Read::Unanswered, 2));
}

#[tokio::test]
async fn a_history_whose_next_page_is_refused_is_unanswered() {
    let mut server = answering(|seen| {
        let first = json!({ "Items": [item(1, 1, 4)], "Pagination": { "TotalCount": 2 } });
        if seen.body.is_empty() {
            return None;
        }
        match seen.json()["pageIndex"].as_u64() {
            Some(0) => Some(succeeded(&first)),
            _ => Some(json!({ "Succeeded": false, "Failed": true })),
        }
    })
    .await;
    assert_eq!(physical_look(&server).await.0, Read::Unanswered);
    assert_eq!(server.seen().len(), 3, "two pages and the inquiry");
}

#[tokio::test]
async fn a_history_that_repeats_its_first_page_is_unanswered() {
    let page = |_| Some(json!({ "Items": [item(1, 1, 4)], "Pagination": { "TotalCount": 2 } }));
    assert_eq!(activities(page).await, (Read::Unanswered, 2));
}

#[tokio::test]
async fn a_history_without_end_is_unanswered_after_twenty_pages() {
    let page = |index: u64| {
        Some(json!({ "Items": [item(u128::from(index), 1, 4)], "Pagination": { "PageCount": 99 } }))
    };
    assert_eq!(activities(page).await, (Read::Unanswered, 20));
}

#[tokio::test]
async fn an_empty_history_is_found_empty() {
    for items in [json!([]), json!(null)] {
        let page =
            move |_| Some(json!({ "Items": items, "Pagination": { "PageCount": 0, "TotalCount": 0 } }));
        assert_eq!(activities(page).await, (Read::Found(vec![]), 1));
    }
}

#[tokio::test]
async fn a_history_that_cannot_be_read_whole_is_unanswered() {
    for result in [
        json!(null),
        json!({}),
        json!({ "Items": {} }),
        json!({ "Items": [item(1, 1, 4)], "PaymentRequestId": THEIRS }),
        json!({ "Items": [{ "PaymentTypeId": 2, "PaymentStatusId": 4, "PaymentRequestId": THEIRS }] }),
        json!({ "Items": [null] }),
        json!({ "Items": null, "Pagination": { "TotalCount": 1 } }),
        json!({ "Items": [], "Pagination": { "TotalCount": "many" } }),
        json!({ "Items": [item(1, 1, 4), { "Id": OURS, "PaymentTypeId": 2 }] }),
        json!({ "Items": [item(1, 1, 4), { "PaymentTypeId": "cancel", "PaymentStatusId": 4 }] }),
        json!({ "Items": [{ "PaymentTypeId": 2, "paymentTypeId": 3, "PaymentStatusId": 4 }] }),
    ] {
        let shown = result.to_string();
        let (read, asked) = activities(move |_| Some(result.clone())).await;
        assert_eq!((read, asked), (Read::Unanswered, 1), "{shown}");
    }
}

#[tokio::test]
async fn a_readable_failure_refuses_whatever_the_status() {
    for status in ["200 OK", "404 Not Found", "500 Internal Server Error"] {
        let body = json!({
            "result": null, "failed": true, "succeeded": "false", "message": "Ödeme bulunamadı",
            "clientMessage": "Payment.Request.RequestNotFound", "ErrorCode": "56"
        });
        let server = Server::saying(reply(status, &[], body.to_string())).await;
        let refusal = ReadRefusal {
            http_status: status[..3].parse().unwrap(),
            error_code: Some(56),
            client_message: Some("Payment.Request.RequestNotFound".to_owned()),
        };
        let (activities, inquiry) = physical_look(&server).await;
        assert_eq!(activities, Read::Refused(refusal.clone()));
        assert_eq!(inquiry, Read::Refused(refusal));
    }
}

async fn inquiry_when(status: &'static str, body: Value) -> Read<PhysicalPayment> {
    let server = Server::saying(reply(status, &[], body.to_string())).await;
    physical_look(&server).await.1
}

#[tokio::test]
async fn an_inquiry_that_is_no_clear_success_about_our_payment_is_unanswered() {
    let result = payment_result(&OURS.to_string());
    assert!(matches!(inquiry_when("200 OK", succeeded(&result)).await, Read::Found(_)));
    let with = |change: Value| {
        let mut body = succeeded(&result);
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    for (status, body) in [
        ("500 Internal Server Error", succeeded(&result)),
        ("302 Found", succeeded(&result)),
        ("200 OK", with(json!({ "Failed": true }))),
        ("200 OK", with(json!({ "Succeeded": null }))),
        ("200 OK", with(json!({ "Succeeded": false }))),
        ("200 OK", with(json!({ "ErrorCode": 57 }))),
        ("200 OK", with(json!({ "succeeded": false }))),
        ("200 OK", with(json!({ "Result": null }))),
        ("200 OK", succeeded(&payment_result(THEIRS))),
        ("200 OK", succeeded(&payment_result("7cc7c8e8"))),
        ("200 OK", succeeded(&json!({ "PaymentRequestId": OURS }))),
        ("200 OK", succeeded(&json!({ "PaymentRequestId": OURS, "PaymentStatusId": "?" }))),
        ("200 OK", json!(["Succeeded"])),
        ("404 Not Found", json!({ "title": "Not Found", "status": 404 })),
    ] {
        let shown = body.to_string();
        assert_eq!(inquiry_when(status, body).await, Read::Unanswered, "{status} {shown}");
    }
}

/// A page of the length that is asked for is read; a longer one costs its own letter a look, and nobody any time.
#[tokio::test]
async fn a_page_longer_than_was_asked_for_is_unreadable_however_small_it_comes() {
    use std::io::Write as _;
    for (len, is_read) in [(100, true), (101, false), (9_500, false)] {
        let items: Vec<Value> = (0..len).map(|n| item(n, 1, 4)).collect();
        let body = succeeded(&json!({ "Items": items, "Pagination": { "TotalCount": len } })).to_string();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(body.as_bytes()).unwrap();
        let folded = gzip.finish().unwrap();
        let server = Server::start(move |seen| match seen.path.as_str() {
            "/api/payment/activities" => Act::Say(reply("200 OK", &["content-encoding: gzip"], &folded)),
            _inquiry => Act::Say(ok(succeeded(&payment_result(&OURS.to_string())).to_string())),
        })
        .await;
        let (activities, inquiry) = physical_look(&server).await;
        assert!(matches!(inquiry, Read::Found(_)));
        match activities {
            Read::Found(found) => assert!(is_read && found.len() == 100, "{len}"),
            Read::Unanswered => assert!(!is_read, "{len}"),
            Read::Refused(refusal) => panic!("{refusal:?}"),
        }
    }
}

// PaymentPrivateAPI.

fn paywall(unique_code: &str, merchant_unique_code: &str) -> Value {
    json!({
        "PaymentId": 1,
        "UniqueCode": unique_code,
        "MerchantUniqueCode": merchant_unique_code,
        "AnySuccessPayment": true,
        "AnySuccessRefund": false,
        "AnySuccessPartialRefund": false,
        "AnySuccessCancel": true,
        "Error": { "AnyError": false, "ErrorType": null, "ErrorMessage": null },
        "Status": true,
        "StatusName": "Successful",
        "StatusId": 4,
        "TypeName": "Cancel",
        "TypeId": 3,
        "CurrencyId": 1,
        "PaymentAmount": "8.50",
        "ActivityAmount": 8.50
    })
}

fn vpos_payment(unique_code: &str, merchant_unique_code: &str) -> VposPayment {
    VposPayment {
        unique_code: Some(unique_code.to_owned()),
        merchant_unique_code: Some(merchant_unique_code.to_owned()),
        amount: amount("8.50", None),
        kind: Some(VposType::Cancel),
        status: Some(VposStatus::Successful),
        any_success_payment: Some(true),
        any_success_refund: Some(false),
        any_success_partial_refund: Some(false),
        any_success_cancel: Some(true),
    }
}

fn success(body: &Value) -> Value {
    json!({ "ErrorCode": 0, "Result": true, "Message": "Success", "Body": body })
}

async fn transaction_when(body: Value) -> (Read<VposPayment>, Seen) {
    let mut server = answering(move |_| Some(body.clone())).await;
    match look(&server, Question::Transaction { unique_code: OURS }).await {
        InquiryReply::Transaction(read) => (read, server.only_one()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_transaction_is_asked_by_its_code_in_a_header_with_the_private_pair() {
    let upper = OURS.to_string().to_uppercase();
    let (read, seen) = transaction_when(success(&json!({ "Paywall": paywall(&upper, "m-1") }))).await;
    assert_eq!(read, Read::Found(vpos_payment(&upper, "m-1")));
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str()),
        ("GET", "/api/paywall/private/query/by/uniquecode")
    );
    assert_eq!(seen.header("uniquecode"), Some("7cc7c8e8-9d92-41b6-9378-e9ecef5a7812"));
    assert_eq!(seen.header("merchantuniquecode"), None);
    assert_eq!(seen.header("apikeyprivate"), Some("priv-key"));
    assert_eq!(seen.header("apiclientprivate"), Some("priv-client"));
    assert_eq!(seen.header("apikeypublic"), None);
    assert!(seen.body.is_empty());
}

#[tokio::test]
async fn a_payment_directly_in_the_body_is_found_too() {
    let ours = OURS.to_string();
    let (read, _) = transaction_when(success(&paywall(&ours, "m-1"))).await;
    assert_eq!(read, Read::Found(vpos_payment(&ours, "m-1")));
}

#[tokio::test]
async fn a_payment_that_names_no_code_is_taken_for_the_one_that_was_asked_for() {
    let (read, _) = transaction_when(success(&json!({ "paywall": { "anySuccessPayment": "True" } }))).await;
    assert_eq!(read, Read::Found(VposPayment { any_success_payment: Some(true), ..VposPayment::default() }));
}

#[tokio::test]
async fn a_query_that_is_no_clear_success_about_our_payment_is_unanswered() {
    let ours = json!({ "Paywall": paywall(&OURS.to_string(), "m-1") });
    for body in [
        success(&json!({ "Paywall": paywall(THEIRS, "m-1") })),
        success(&json!({ "Paywall": paywall("no uuid", "m-1") })),
        success(&json!({ "Paywall": { "AnySuccessCancel": "maybe" } })),
        success(&json!({ "Paywall": { "AnySuccessCancel": true, "anysuccesscancel": false } })),
        success(&json!({ "Paywall": {} })),
        success(&json!({ "Paywall": [] })),
        success(&json!({})),
        success(&json!(null)),
        success(&json!("")),
        json!({ "ErrorCode": 0, "Result": false, "Body": ours }),
        json!({ "ErrorCode": 5, "Result": true, "Body": ours }),
        json!({ "ErrorCode": 0, "Body": ours }),
        json!({ "Result": true, "Body": ours }),
        json!({ "Body": ours }),
    ] {
        let shown = body.to_string();
        assert_eq!(transaction_when(body).await.0, Read::Unanswered, "{shown}");
    }
}

#[tokio::test]
async fn a_query_that_is_refused_tells_its_code() {
    for (body, error_code) in [
        (json!({ "ErrorCode": 56, "Result": false, "Message": "?", "Body": null }), Some(56)),
        (json!({ "errorCode": "-1" }), Some(-1)),
        (json!({ "Result": false }), None),
    ] {
        let refusal = ReadRefusal { http_status: 200, error_code, client_message: None };
        assert_eq!(transaction_when(body).await.0, Read::Refused(refusal));
    }
}

fn batch(codes: &[&str]) -> Question {
    // Indexes of the intent, not of the look.
    Question::Batch { payments: codes.iter().enumerate().map(|(n, text)| (n + 100, code(text))).collect() }
}

async fn batch_look(gateway: &Gateway, codes: &[&str]) -> Vec<(usize, Read<VposPayment>)> {
    match gateway.inquire(&inquiry_of(batch(codes)), None).await.0 {
        InquiryReply::Batch(reads) => reads,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_batch_is_asked_payment_by_payment_at_the_private_api_and_told_in_order() {
    let mut server = answering(|seen| match seen.header("merchantuniquecode")? {
        "refused" => Some(json!({ "ErrorCode": 56, "Result": false })),
        "foreign" => Some(success(&json!({ "Paywall": paywall(THEIRS, "Foreign") }))),
        "silent" => None,
        other => Some(success(&json!({ "Paywall": paywall(THEIRS, other) }))),
    })
    .await;
    let codes = ["a", "refused", "foreign", "silent", "b c#%", "e", "f"];
    let reads = batch_look(&gateway(&server), &codes).await;
    let refusal = ReadRefusal { http_status: 200, error_code: Some(56), client_message: None };
    let found = |code| Read::Found(vpos_payment(THEIRS, code));
    let expected = [
        found("a"),
        Read::Refused(refusal),
        Read::Unanswered,
        Read::Unanswered,
        found("b c#%"),
        found("e"),
        found("f"),
    ];
    assert_eq!(reads, (100..).zip(expected).collect::<Vec<_>>());
    let seen = server.seen();
    assert_eq!(seen.len(), codes.len());
    for seen in seen {
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/api/paywall/private/query"));
        assert_eq!(seen.header("apikeyprivate"), Some("priv-key"));
        assert_eq!(seen.header("uniquecode"), None);
        assert!(seen.body.is_empty());
    }
}

#[tokio::test]
async fn a_look_at_a_batch_ends_after_one_call_timeout_and_leaves_out_whose_turn_did_not_come() {
    let mut server = Server::start(|_| Act::Hang(vec![])).await;
    let gateway = gateway_with(&settings(&server.url(), SHORT));
    let reads = batch_look(&gateway, &["a", "b", "c", "d", "e", "f"]).await;
    let expected: Vec<_> = (100..104).map(|index| (index, Read::Unanswered)).collect();
    assert_eq!(reads, expected, "four at a time");
    assert_eq!(server.seen().len(), 4);
}

// PaymentAPI.

async fn apm_when(body: Value) -> (Read<ApmPayment>, Seen) {
    let mut server = answering(move |_| Some(body.clone())).await;
    match look(&server, Question::Apm { merchant_unique_code: code("apm-1") }).await {
        InquiryReply::Apm(read) => (read, server.only_one()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_apm_payment_is_asked_by_the_merchants_code_with_the_public_pair() {
    let body = json!({
        "ApmConnectionId": 2003, "ApmProviderKey": "Papara", "ApmTransactionId": 14211, "CurrencyId": 1,
        "MerchantUniqueCode": "apm-1", "UniqueCode": "u-1", "Amount": 8, "Description": null, "ChannelType": 1,
        "StatusId": 4, "Status": "Successful", "TypeId": 2, "Type": "Refund", "DateTime": "2025-01-01T10:00:00"
    });
    let (read, seen) = apm_when(success(&body)).await;
    let expected = ApmPayment {
        unique_code: Some("u-1".to_owned()),
        merchant_unique_code: Some("apm-1".to_owned()),
        apm_transaction_id: Some(14211),
        amount: amount("8", None),
        kind: Some(ApmType::Refund),
        status: Some(ApmStatus::Successful),
    };
    assert_eq!(read, Read::Found(expected));
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/api/paywall/apm/query"));
    assert_eq!(seen.header("merchantuniquecode"), Some("apm-1"));
    assert_eq!(seen.header("apikeypublic"), Some("pub-key"));
    assert_eq!(seen.header("apiclientpublic"), Some("pub-client"));
    assert_eq!(seen.header("apikeyprivate"), None);
    assert!(seen.body.is_empty());
}

#[tokio::test]
async fn an_apm_query_about_another_payment_or_without_a_status_is_unanswered() {
    for body in [
        json!({ "MerchantUniqueCode": "APM-1", "StatusId": 4, "TypeId": 1 }),
        json!({ "MerchantUniqueCode": "", "StatusId": 4, "TypeId": 1 }),
        json!({ "MerchantUniqueCode": "apm-1", "Status": "Successful" }),
        json!({ "MerchantUniqueCode": "apm-1", "StatusId": [4] }),
    ] {
        let shown = body.to_string();
        assert_eq!(apm_when(success(&body)).await.0, Read::Unanswered, "{shown}");
    }
}

// All of them.

#[tokio::test]
async fn a_look_that_cannot_be_sent_is_unanswered() {
    let mut server = Server::saying(ok("{}")).await;
    let gateway = gateway(&server);
    let merchant = MerchantName::parse("nobody").unwrap();
    let ask = async |question| {
        let inquiry = Inquiry { merchant: merchant.clone(), question };
        gateway.inquire(&inquiry, None).await.0
    };
    let physical = ask(Question::Physical { payment_request_id: OURS }).await;
    let nothing = InquiryReply::Physical { activities: Read::Unanswered, inquiry: Read::Unanswered };
    assert_eq!(physical, nothing);
    let transaction = ask(Question::Transaction { unique_code: OURS }).await;
    assert_eq!(transaction, InquiryReply::Transaction(Read::Unanswered));
    assert_eq!(ask(batch(&["a"])).await, InquiryReply::Batch(vec![(100, Read::Unanswered)]));
    let apm = ask(Question::Apm { merchant_unique_code: code("a") }).await;
    assert_eq!(apm, InquiryReply::Apm(Read::Unanswered));
    assert!(server.seen().is_empty());
}
