//! Each kind against its page of the gateway's documentation: what we send, and how we read the reply's sample.

use serde_json::json;

use super::*;
use crate::domain::paywall::{PhysicalStatus, PhysicalType};
use crate::domain::reply::{
    Amount, Answer, Envelope, PaymentBody, PaymentEnvelope, PaymentResult, PhysicalEnvelope, PhysicalResult,
    Provider,
};

macro_rules! page {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pages/", $name))
    };
}

/// A page's sample as JSON, without the comment and the comma too many that two of them have.
fn sample(text: &str) -> Value {
    let plain: String = text
        .lines()
        .map(|line| line.split_once("// ").map_or(line, |(code, _comment)| code))
        .collect::<Vec<_>>()
        .join("\n");
    let plain = plain.replace("},\n    ],", "}\n    ],");
    serde_json::from_str(&plain).unwrap()
}

/// Makes the call, with the page's sample as the reply.
async fn exchange(order: Order, page_reply: &'static str) -> (Seen, Reply) {
    let mut server = Server::saying(ok(page_reply)).await;
    let reply = gateway(&server).call(&call_of(order), None).await;
    (server.only_one(), reply)
}

/// Method, path, keys and body are the page's; and there is no other header that could mean something.
fn check_sent(seen: &Seen, endpoint: &str, key_headers: &str, body: &Value) {
    assert_eq!(format!("{} {}", seen.method, seen.path), endpoint.trim_end());
    let side = if key_headers.contains("private") { "priv" } else { "pub" };
    let mut expected: BTreeMap<&str, String> = BTreeMap::new();
    for name in key_headers.lines() {
        let part = if name.starts_with("apikey") { "key" } else { "client" };
        expected.insert(name, format!("{side}-{part}"));
    }
    let keys: BTreeMap<&str, String> = seen
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("api"))
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    assert_eq!(keys, expected);
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("accept"), Some("application/json"));
    assert_eq!(seen.header("accept-encoding"), Some("gzip"));
    assert_eq!(seen.header("traceparent"), None);
    assert_eq!(&seen.json(), body);
}

fn answered(envelope: Envelope) -> Reply {
    Reply::Answered(Answer { http_status: 200, retry_after: None, fault: None, envelope })
}

/// The sample of the cancel page, and of the rollback page, which is a copy of it.
fn physical_sample() -> Reply {
    answered(Envelope::Physical(PhysicalEnvelope {
        succeeded: Some(true),
        failed: Some(false),
        error_code: None,
        client_message: None,
        result: Some(PhysicalResult {
            payment_request_id: Some("72ec8714-d116-4306-8881-38a43c485da9".parse().unwrap()),
            activity_id: Some("3a7deace-d437-4d3f-8ef8-1cba82f18e8f".parse().unwrap()),
            activity_type: Some(PhysicalType::Cancel),
            status: Some(PhysicalStatus::Successful),
        }),
    }))
}

#[tokio::test]
async fn async_cancel_is_sent_and_read_as_its_page_says() {
    let order =
        Order::AsyncCancel { payment_request_id: "7CC7C8E8-9D92-41B6-9378-E9ECEF5A7812".parse().unwrap() };
    let (seen, reply) = exchange(order, page!("async_cancel.response.json")).await;
    check_sent(
        &seen,
        page!("async_cancel.endpoint.txt"),
        page!("async_cancel.headers.txt"),
        &sample(page!("async_cancel.request.json")),
    );
    assert_eq!(reply, physical_sample());
}

#[tokio::test]
async fn sync_cancel_rollback_is_sent_and_read_as_its_page_says() {
    let order = Order::SyncCancelRollback {
        payment_request_id: "cc67bd38-ed83-4031-8be7-3ed4b80b7042".parse().unwrap(),
    };
    let (seen, reply) = exchange(order, page!("sync_cancel_rollback.response.json")).await;
    check_sent(
        &seen,
        page!("sync_cancel_rollback.endpoint.txt"),
        page!("sync_cancel_rollback.headers.txt"),
        &sample(page!("sync_cancel_rollback.request.json")),
    );
    assert_eq!(reply, physical_sample());
}

/// The page's sample code is no Guid, as its own table wants it; ours stands in its place.
fn transaction_sample() -> Value {
    let mut body = sample(page!("transaction_cancel.request.json5"));
    body["UniqueCode"] = json!("7cc7c8e8-9d92-41b6-9378-e9ecef5a7812");
    body
}

fn transaction_order(delete_marketplace_records: Option<bool>) -> Order {
    Order::TransactionCancel {
        unique_code: OURS,
        date: "2023-01-23".parse().unwrap(),
        delete_marketplace_records,
    }
}

async fn check_transaction(delete_marketplace_records: Option<bool>, body: &Value) {
    let (seen, reply) =
        exchange(transaction_order(delete_marketplace_records), page!("transaction_cancel.response.json"))
            .await;
    check_sent(
        &seen,
        page!("transaction_cancel.endpoint.txt"),
        page!("transaction_cancel.headers.txt"),
        body,
    );
    let expected =
        PaymentEnvelope { error_code: Some(0), error_code_type: None, result: Some(true), body: None };
    assert_eq!(reply, answered(Envelope::Payment(expected)));
}

#[tokio::test]
async fn transaction_cancel_is_sent_and_read_as_its_page_says() {
    check_transaction(Some(false), &transaction_sample()).await;
}

#[tokio::test]
async fn transaction_cancel_deletes_marketplace_records_only_when_told_to() {
    let mut body = transaction_sample();
    body["MarketPlace"]["DeleteExistingRecords"] = json!(true);
    check_transaction(Some(true), &body).await;
}

#[tokio::test]
async fn transaction_cancel_sends_no_market_place_when_none_is_given() {
    let mut body = transaction_sample();
    body.as_object_mut().unwrap().remove("MarketPlace");
    check_transaction(None, &body).await;
}

#[tokio::test]
async fn apm_provision_cancel_is_sent_and_read_as_its_page_says() {
    // The page has no sample of the body, only the table of its one parameter.
    assert_eq!(page!("apm_provision_cancel.request.params.txt"), "UniqueCode string Yes\n");
    let order = Order::ApmProvisionCancel { unique_code: code("487f16f4-c678-40de-9b53-bd34855863e2") };
    let (seen, reply) = exchange(order, page!("apm_provision_cancel.response.json")).await;
    check_sent(
        &seen,
        page!("apm_provision_cancel.endpoint.txt"),
        page!("apm_provision_cancel.headers.txt"),
        &json!({ "UniqueCode": "487f16f4-c678-40de-9b53-bd34855863e2" }),
    );
    let body = PaymentBody {
        unique_code: Some("487f16f4-c678-40de-9b53-bd34855863e2".to_owned()),
        merchant_unique_code: Some("7250512c-cbb4-41a4-9fea-374d11081075".to_owned()),
        apm_transaction_id: Some(14211),
        amount: Some(Amount { value: "8.00".to_owned(), currency: None }),
        provider: Some(Provider { error_code: Some(0), http_code: Some(200) }),
        ..PaymentBody::default()
    };
    let expected = PaymentEnvelope {
        error_code: Some(0),
        error_code_type: Some(1),
        result: Some(true),
        body: Some(body),
    };
    assert_eq!(reply, answered(Envelope::Payment(expected)));
}

#[tokio::test]
async fn batch_cancel_is_sent_and_read_as_its_page_says() {
    let date = "2025-01-01".parse().unwrap();
    let payments = (1..=19).map(|n| (n, code(&format!("PWL-0101010101{n:02}")), date)).collect();
    let (seen, reply) = exchange(Order::BatchCancel { payments }, page!("batch_cancel.response.json")).await;
    check_sent(
        &seen,
        page!("batch_cancel.endpoint.txt"),
        page!("batch_cancel.headers.txt"),
        &sample(page!("batch_cancel.request.json5")),
    );
    let taken = |code: &str| PaymentResult {
        merchant_unique_code: Some(code.to_owned()),
        status: Some(1),
        bulk_payment_id: Some(2683),
    };
    let body = PaymentBody {
        result: Some(true),
        payment_results: Some(vec![
            taken("MCB1M36H3VLUO717FN7Y2ZE3EBN313DXG4OLXSLLDED7T"),
            taken("MCB1M36H3VLUO717FN7Y2ZE3E2O5EFKX7L2ZG5WA52HB7"),
            taken("MCB1M36H3VLUO717FN7Y2ZE3ETRUS2O6UQ9F5YPU2BDSA"),
            taken("MCB1M36H3VLUO717FN7Y2ZE3E32PUM7BB2FCTH1B13C3G"),
        ]),
        ..PaymentBody::default()
    };
    let expected = PaymentEnvelope {
        error_code: Some(0),
        error_code_type: Some(1),
        result: Some(true),
        body: Some(body),
    };
    assert_eq!(reply, answered(Envelope::Payment(expected)));
}

#[tokio::test]
async fn the_gateway_sees_our_trace_only_where_it_is_allowed_to() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut server = Server::saying(ok("{}")).await;
    let mut settings = settings(&server.url(), LONG);
    settings.trace_headers = TraceHeaders::Sent;
    let allowed = gateway_with(&settings);
    allowed.call(&transaction_call(), Some(TRACE)).await;
    assert_eq!(server.only_one().header("traceparent"), Some(TRACE));
    allowed.call(&transaction_call(), Some("no\nheader")).await;
    assert_eq!(server.only_one().header("traceparent"), None, "and the call is made all the same");
    gateway(&server).call(&transaction_call(), Some(TRACE)).await;
    assert_eq!(server.only_one().header("traceparent"), None);
}

#[tokio::test]
async fn endpoints_follow_the_path_of_the_base_address() {
    let mut server = Server::saying(ok("{}")).await;
    for base in ["/paywall/v2", "/paywall/v2/"] {
        let url = server.url().join(base).unwrap();
        gateway_with(&settings(&url, LONG)).call(&transaction_call(), None).await;
        assert_eq!(server.only_one().path, "/paywall/v2/api/paywall/private/cancel/by/uniqueCode");
    }
}

#[test]
fn every_kind_names_the_path_of_its_page() {
    let pages = [
        (Kind::AsyncCancel, page!("async_cancel.endpoint.txt")),
        (Kind::SyncCancelRollback, page!("sync_cancel_rollback.endpoint.txt")),
        (Kind::TransactionCancel, page!("transaction_cancel.endpoint.txt")),
        (Kind::ApmProvisionCancel, page!("apm_provision_cancel.endpoint.txt")),
        (Kind::BatchCancel, page!("batch_cancel.endpoint.txt")),
    ];
    for (kind, endpoint) in pages {
        assert_eq!(format!("POST {}\n", call_path(kind)), endpoint);
    }
}
