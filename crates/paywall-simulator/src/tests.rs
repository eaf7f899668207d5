//! The simulator over real sockets: its replies against the pages, its faults against what a client sees.

use std::{error::Error as _, io, time::Duration};

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use uuid::{Uuid, uuid};

use super::*;

const SALE: Uuid = uuid!("7cc7c8e8-9d92-41b6-9378-e9ecef5a7812");
const CODE: Uuid = uuid!("487f16f4-c678-40de-9b53-bd34855863e2");
const SOON: Duration = Duration::from_secs(10);
/// Noon in Istanbul.
const NOON: &str = "2026-03-01T09:00:00Z";

/// A simulator whose clock stands at noon, and a client.
struct Stage {
    simulator: Simulator,
    client: Client,
}

impl Stage {
    async fn set() -> Self {
        Self::set_with(SimulatorConfig::default()).await
    }

    async fn set_with(config: SimulatorConfig) -> Self {
        let clock = ClockStart::FrozenAt(NOON.parse().unwrap());
        let simulator = Simulator::start(SimulatorConfig { clock, ..config }).await.unwrap();
        Self { simulator, client: client() }
    }

    fn call(&self, endpoint: Endpoint) -> RequestBuilder {
        self.call_at(endpoint, endpoint.path())
    }

    fn call_at(&self, endpoint: Endpoint, path: &str) -> RequestBuilder {
        let urls = self.simulator.urls();
        let (base, what) = match endpoint.api() {
            Api::Physical => (&urls.physical, "private"),
            Api::Private => (&urls.private, "private"),
            Api::Payment => (&urls.payment, "public"),
        };
        let (key, client) = endpoint.api().key_headers();
        self.client
            .request(endpoint.method(), format!("{base}{path}"))
            .header(key, format!("default-{what}-key"))
            .header(client, format!("default-{what}-client"))
    }

    fn order(&self, endpoint: Endpoint) -> RequestBuilder {
        self.call(endpoint).json(&json!({ "PaymentRequestId": SALE }))
    }

    async fn cancel(&self) -> Value {
        body(self.order(Endpoint::AsyncCancel)).await
    }

    async fn roll_back(&self) -> Value {
        body(self.order(Endpoint::CancelRollback)).await
    }

    async fn inquire(&self) -> Value {
        body(self.call_at(Endpoint::PhysicalInquiry, &format!("/api/payment/inquiry/{SALE}"))).await
    }

    async fn activities(&self) -> Value {
        let body_sent = json!({ "pageIndex": 0, "pageSize": 100, "PaymentRequestId": SALE });
        body(self.call(Endpoint::PhysicalActivities).json(&body_sent)).await
    }

    async fn cancel_transaction(&self, date: &str) -> Value {
        body(self.call(Endpoint::TransactionCancel).json(&json!({ "UniqueCode": CODE, "Date": date }))).await
    }

    async fn query(&self, code: &str) -> Value {
        body(self.call(Endpoint::PrivateQuery).header("merchantuniquecode", code)).await
    }

    async fn cancel_provision(&self) -> Value {
        body(self.call(Endpoint::ApmProvisionCancel).json(&json!({ "UniqueCode": CODE }))).await
    }

    async fn cancel_batch(&self, codes: &[&str], date: &str) -> Value {
        let payments: Vec<_> =
            codes.iter().map(|code| json!({ "MerchantUniqueCode": code, "Date": date })).collect();
        let sent = json!({ "Payments": payments, "CallbackUrl": "https://shop.example/paywall/callback" });
        body(self.call(Endpoint::BatchCancel).json(&sent)).await
    }

    fn sold(&self) {
        self.simulator.seed(SeedPhysical::sold(SALE)).unwrap();
    }

    fn truth(&self) -> PaymentTruth {
        self.simulator.truth_of(SALE).unwrap()
    }

    async fn fault(&self, what: FaultKind) -> FaultId {
        self.plan(Fault::new(what)).await
    }

    async fn plan(&self, fault: Fault) -> FaultId {
        self.simulator.plan(fault).await.unwrap()
    }
}

fn client() -> Client {
    // Only the first test of the process installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .tls_certs_only([])
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .timeout(SOON)
        .build()
        .unwrap()
}

async fn body(request: RequestBuilder) -> Value {
    request.send().await.unwrap().json().await.unwrap()
}

/// The kind of the IO error at the bottom of a failed request.
fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        source = error.source();
    }
    None
}

/// The keys of two values are the same, in the same casing, and so are the types of what stands under them.
fn same_shape(page: &Value, ours: &Value) {
    match (page, ours) {
        (Value::Object(page), Value::Object(ours)) => {
            let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(page), keys(ours));
            for (key, value) in page {
                same_shape(value, &ours[key]);
            }
        }
        (Value::Array(page), Value::Array(ours)) => {
            for item in ours {
                same_shape(&page[0], item);
            }
        }
        (page, ours) => {
            assert_eq!(std::mem::discriminant(page), std::mem::discriminant(ours), "{page} {ours}");
        }
    }
}

// -- the replies of the pages --------------------------------------------------------------------------------------

fn order_sample() -> Value {
    json!({
        "result": {
            "paymentRequestId": "72ec8714-d116-4306-8881-38a43c485da9",
            "paymentRequestActivityId": "3a7deace-d437-4d3f-8ef8-1cba82f18e8f",
            "paymentRequestActivityTypeId": 2,
            "paymentStatus": 4
        },
        "failed": false,
        "message": null,
        "clientMessage": null,
        "succeeded": true
    })
}

#[tokio::test]
async fn a_cancel_at_a_terminal_is_answered_as_on_its_page() {
    let stage = Stage::set().await;
    stage.sold();
    let reply = stage.cancel().await;
    same_shape(&order_sample(), &reply);
    assert_eq!(reply["result"]["paymentRequestId"], json!(SALE));
    assert_eq!(reply["result"]["paymentRequestActivityTypeId"], 2);
    assert_eq!(reply["result"]["paymentStatus"], 4);
    let truth = stage.truth();
    assert_eq!(truth.state, PaymentState::Cancelled);
    assert_eq!(truth.effects, Effects { orders: 1, cancels: 1, rollbacks: 0 });
    assert_eq!(truth.log[0].replied, Some(200));
    assert_eq!(truth.log[0].effect, Some(EffectKind::Cancelled));
}

#[tokio::test]
async fn a_rollback_is_answered_as_on_its_page_with_the_status_of_a_withdrawal() {
    let stage = Stage::set().await;
    stage.simulator.seed(SeedPhysical::sold(SALE).cancelling(CancelPlan::waiting())).unwrap();
    assert_eq!(stage.cancel().await["result"]["paymentStatus"], 10);
    stage.simulator.advance(Duration::from_secs(6));
    let reply = stage.roll_back().await;
    same_shape(&order_sample(), &reply);
    assert_eq!(reply["result"]["paymentStatus"], 12);
    assert_eq!(stage.truth().state, PaymentState::RolledBack);
}

#[tokio::test]
async fn a_cancel_by_unique_code_is_answered_as_on_its_page() {
    let stage = Stage::set().await;
    stage.simulator.seed(SeedVirtualPos::sold(CODE)).unwrap();
    let reply = stage.cancel_transaction("2026-03-01").await;
    assert_eq!(reply, json!({ "ErrorCode": 0, "Result": true, "Message": "Success", "Body": null }));
    assert_eq!(stage.simulator.truth_of(CODE).unwrap().state, PaymentState::Cancelled);
}

#[tokio::test]
async fn a_provision_cancel_is_answered_as_on_its_page() {
    let stage = Stage::set().await;
    let seed = SeedApm { apm_transaction_id: Some(14_211), ..SeedApm::provisioned(CODE.to_string()) };
    stage.simulator.seed(seed).unwrap();
    let page = json!({
        "ErrorCodeType": 1,
        "ErrorMessage": null,
        "ErrorCode": 0,
        "Result": true,
        "Message": "",
        "Body": {
            "ApmKey": "Masterpass_IFrame",
            "ApmConnectionId": 2003,
            "ApmTransactionId": 14211,
            "UniqueCode": "487f16f4-c678-40de-9b53-bd34855863e2",
            "MerchantUniqueCode": "7250512c-cbb4-41a4-9fea-374d11081075",
            "Amount": 8.00,
            "ProviderDummyResponse": {
                "ErrorCode": 0,
                "Body": {
                    "acquirerRetrievalNumber": null,
                    "authCode": "24564913",
                    "orderId": "487f16f4c67840de9b53bd34855863e2",
                    "icaNumber": null,
                    "terminalGroupId": "78516638760698041272198",
                    "terminalGroupName": null,
                    "amount": null,
                    "currencyCode": "TRY",
                    "accountKey": "905437845114",
                    "transactionDate": null,
                    "retrievalReferenceNumber": "200007756435",
                    "paymentRetrievalReferenceNumber": "200007756433",
                    "pointRefundResponse": null,
                    "responseCode": "00",
                    "description": null,
                    "ResponseDescription": null,
                    "OrderStatus": null,
                    "OrderDate": null
                },
                "HttpCode": 200
            }
        }
    });
    let request = stage.call(Endpoint::ApmProvisionCancel).json(&json!({ "UniqueCode": CODE }));
    let text = request.send().await.unwrap().text().await.unwrap();
    same_shape(&page, &serde_json::from_str(&text).unwrap());
    assert!(text.contains(r#""Amount":8.00,"#), "the digits of an amount are kept: {text}");
    assert!(text.contains(r#""ApmTransactionId":14211,"#), "{text}");
}

#[tokio::test]
async fn a_batch_is_answered_as_on_its_page() {
    let stage = Stage::set().await;
    for code in ["A-1", "A-2"] {
        stage.simulator.seed(SeedVirtualPos::item(code)).unwrap();
    }
    let page = json!({
        "ErrorCodeType": 1,
        "ErrorMessage": null,
        "ErrorCode": 0,
        "Result": true,
        "Message": "Batch cancel created and enqueued",
        "Body": {
            "Result": true,
            "PaymentResults": [{
                "MerchantUniqueCode": "MCB1M36H3VLUO717FN7Y2ZE3EBN313DXG4OLXSLLDED7T",
                "Status": 1,
                "Message": "Added to normal bulk cancel process",
                "BulkPaymentId": 2683,
                "ErrorMessage": null,
                "BulkPaymentJobId": 0
            }]
        }
    });
    let reply = stage.cancel_batch(&["A-1", "A-2"], "2026-03-01").await;
    same_shape(&page, &reply);
    assert_eq!(reply["Message"], page["Message"]);
    assert_eq!(reply["Body"]["PaymentResults"][0]["Message"], "Added to normal bulk cancel process");
    assert_eq!(
        reply["Body"]["PaymentResults"][0]["BulkPaymentId"],
        reply["Body"]["PaymentResults"][1]["BulkPaymentId"]
    );
}

// -- the rules over the wire ---------------------------------------------------------------------------------------

#[tokio::test]
async fn a_withdrawal_is_refused_with_the_same_code_when_it_is_too_early_and_when_the_device_has_it() {
    let stage = Stage::set().await;
    let plan = CancelPlan::accepted(10_000, 20_000, 4);
    stage.simulator.seed(SeedPhysical::sold(SALE).cancelling(plan)).unwrap();
    stage.cancel().await;
    for seconds in [1, 10] {
        stage.simulator.advance(Duration::from_secs(seconds));
        let reply = stage.roll_back().await;
        assert_eq!(reply["clientMessage"], "Payment.Async.NotConvenientStatusForThisOperation");
        assert_eq!((&reply["failed"], &reply["succeeded"]), (&json!(true), &json!(false)));
        assert_eq!(reply["result"], Value::Null);
    }
    assert_eq!(stage.truth().calls_of(Endpoint::CancelRollback), 2);
}

#[tokio::test]
async fn the_codes_of_the_physical_api_tell_why_a_cancel_is_refused() {
    let stage = Stage::set().await;
    assert_eq!(stage.cancel().await["clientMessage"], "Payment.Request.RequestNotFound");
    stage.sold();
    stage.cancel().await;
    assert_eq!(stage.cancel().await["clientMessage"], "Payment.Async.AlreadyHasRefundOrCancel");
    let truth = stage.truth();
    assert_eq!(truth.calls_of(Endpoint::AsyncCancel), 3, "the one before it was seeded counts, too");
    assert_eq!(truth.calls_after_cancelled, 1);
    assert_eq!(truth.effects.cancels, 1);
}

#[tokio::test]
async fn an_inquiry_shows_the_latest_activity_in_pascal_case() {
    let stage = Stage::set().await;
    stage.simulator.seed(SeedPhysical::sold(SALE).cancelling(CancelPlan::waiting())).unwrap();
    let before = stage.inquire().await;
    assert_eq!(before["Succeeded"], true);
    assert_eq!(before["Result"]["PaymentTypeId"], 1);
    assert_eq!(before["Result"]["PaymentStatusId"], 4);
    assert_eq!(before["Result"]["ModifiedDate"], Value::Null);
    stage.cancel().await;
    let after = stage.inquire().await;
    assert_eq!(after["Result"]["PaymentTypeId"], 2);
    assert_eq!(after["Result"]["PaymentStatusId"], 10);
    assert_eq!(after["Result"]["PaymentStatus"], "SocketNotificationSent");
    assert_eq!(after["Result"]["ModifiedDate"], "2026-03-01T12:00:00.000");
}

#[tokio::test]
async fn the_activities_tell_the_whole_history_page_by_page() {
    let stage = Stage::set().await;
    let cancels = vec![CancelPlan::only(3), CancelPlan::at_once()];
    stage.simulator.seed(SeedPhysical { cancels, ..SeedPhysical::sold(SALE) }).unwrap();
    stage.cancel().await;
    stage.cancel().await;
    let all = stage.activities().await;
    let items = all["Result"]["Items"].as_array().unwrap();
    let told: Vec<_> = items.iter().map(|item| (&item["PaymentTypeId"], &item["PaymentStatusId"])).collect();
    assert_eq!(told, [(&json!(1), &json!(4)), (&json!(2), &json!(3)), (&json!(2), &json!(4))]);
    let sent = json!({ "pageIndex": 1, "pageSize": 2, "PaymentRequestId": SALE });
    let page = body(stage.call(Endpoint::PhysicalActivities).json(&sent)).await;
    assert_eq!(page["Result"]["Items"].as_array().unwrap().len(), 1);
    assert_eq!(
        page["Result"]["Pagination"],
        json!({ "CurrentPage": 1, "PageCount": 2, "PageSize": 2, "TotalCount": 3 })
    );
}

#[tokio::test]
async fn the_integers_of_a_refusal_follow_the_reading_that_is_set() {
    for (readings, cancelled, refunded) in [(Readings::Sdk, 94, 93), (Readings::Documented, 93, 92)] {
        let rules = Rules { readings, ..Rules::default() };
        let stage = Stage::set_with(SimulatorConfig { rules, ..SimulatorConfig::default() }).await;
        stage.simulator.seed(SeedVirtualPos::sold(CODE)).unwrap();
        stage.cancel_transaction("2026-03-01").await;
        assert_eq!(stage.cancel_transaction("2026-03-01").await["ErrorCode"], cancelled);
        let other = Uuid::from_u128(7);
        stage.simulator.seed(SeedVirtualPos::sold(other).after(PastActivity::ended(2, 4))).unwrap();
        let sent = json!({ "UniqueCode": other, "Date": "2026-03-01" });
        let reply = body(stage.call(Endpoint::TransactionCancel).json(&sent)).await;
        assert_eq!(reply["ErrorCode"], refunded);
    }
}

#[tokio::test]
async fn midnight_closes_the_window_of_a_transaction() {
    let stage = Stage::set().await;
    stage.simulator.seed(SeedVirtualPos::sold(CODE)).unwrap();
    assert_eq!(stage.cancel_transaction("2026-02-28").await["ErrorCode"], 404);
    stage.simulator.set_now("2026-03-01T21:00:00Z".parse().unwrap());
    let reply = stage.cancel_transaction("2026-03-01").await;
    assert_eq!(reply["ErrorCode"], 269);
    assert_eq!(reply["Result"], false);
}

#[tokio::test]
async fn marketplace_records_are_refused_unless_the_body_lets_them_go() {
    let stage = Stage::set().await;
    let seed = SeedVirtualPos { marketplace_records: true, ..SeedVirtualPos::sold(CODE) };
    stage.simulator.seed(seed).unwrap();
    assert_eq!(stage.cancel_transaction("2026-03-01").await["ErrorCode"], 353);
    let sent =
        json!({ "UniqueCode": CODE, "Date": "2026-03-01", "MarketPlace": { "DeleteExistingRecords": true } });
    assert_eq!(body(stage.call(Endpoint::TransactionCancel).json(&sent)).await["ErrorCode"], 0);
}

#[tokio::test]
async fn the_items_of_a_batch_end_later_and_the_private_query_shows_it() {
    let stage = Stage::set().await;
    let after_ms = 30_000;
    stage.simulator.seed(SeedVirtualPos::item("ok").in_batch(BatchPlan::Cancelled { after_ms })).unwrap();
    stage
        .simulator
        .seed(SeedVirtualPos::item("bad").in_batch(BatchPlan::Failed { after_ms, status: 5 }))
        .unwrap();
    let reply = stage.cancel_batch(&["ok", "bad", "nobody"], "2026-03-01").await;
    let results = reply["Body"]["PaymentResults"].as_array().unwrap();
    let statuses: Vec<_> = results.iter().map(|item| item["Status"].as_i64().unwrap()).collect();
    assert_eq!(statuses, [1, 1, 2]);
    let told = |reply: Value| {
        let paywall = &reply["Body"]["Paywall"];
        (paywall["TypeId"].clone(), paywall["StatusId"].clone(), paywall["AnySuccessCancel"].clone())
    };
    assert_eq!(told(stage.query("ok").await), (json!(3), json!(2), json!(false)));
    stage.simulator.advance(Duration::from_secs(30));
    assert_eq!(told(stage.query("ok").await), (json!(3), json!(4), json!(true)));
    assert_eq!(told(stage.query("bad").await), (json!(3), json!(5), json!(false)));
    assert_eq!(stage.query("nobody").await["ErrorCode"], 404);
}

#[tokio::test]
async fn a_payment_is_queried_by_its_unique_code_too() {
    let stage = Stage::set().await;
    stage.simulator.seed(SeedVirtualPos::sold(CODE)).unwrap();
    let request = stage.call(Endpoint::PrivateQueryByUniqueCode).header("uniquecode", CODE.to_string());
    let reply = body(request).await;
    assert_eq!(reply["Body"]["Paywall"]["AnySuccessPayment"], true);
    assert_eq!(reply["Body"]["Paywall"]["UniqueCode"], json!(CODE));
}

#[tokio::test]
async fn the_query_of_a_provision_never_shows_that_it_was_cancelled() {
    let stage = Stage::set().await;
    let seed =
        SeedApm { merchant_unique_code: Some("P-1".to_owned()), ..SeedApm::provisioned(CODE.to_string()) };
    stage.simulator.seed(seed).unwrap();
    let query = || body(stage.call(Endpoint::ApmQuery).header("merchantuniquecode", "P-1"));
    let before = query().await;
    assert_eq!(stage.cancel_provision().await["ErrorCode"], 0);
    assert_eq!(query().await, before);
    assert_eq!(stage.cancel_provision().await["ErrorCode"], 0, "a repeat succeeds in effect");
    assert_eq!(stage.simulator.truth_of(CODE).unwrap().effects.cancels, 1);
}

#[tokio::test]
async fn the_query_of_a_refunded_provision_shows_the_refund() {
    let stage = Stage::set().await;
    let seed = SeedApm {
        merchant_unique_code: Some("P-1".to_owned()),
        state: ApmState::Refunded,
        ..SeedApm::provisioned(CODE.to_string())
    };
    stage.simulator.seed(seed).unwrap();
    assert_eq!(stage.cancel_provision().await["ErrorCode"], 360);
    let reply = body(stage.call(Endpoint::ApmQuery).header("merchantuniquecode", "P-1")).await;
    assert_eq!((&reply["Body"]["TypeId"], &reply["Body"]["StatusId"]), (&json!(2), &json!(4)));
}

// -- keys, paths, bodies -------------------------------------------------------------------------------------------

#[tokio::test]
async fn wrong_keys_are_turned_away_by_every_endpoint_in_its_own_envelope() {
    let stage = Stage::set().await;
    for endpoint in Endpoint::ALL {
        let id = if endpoint == Endpoint::PhysicalInquiry { SALE.to_string() } else { String::new() };
        let path = format!("{}{id}", endpoint.path());
        // The other side's pair, and a wrong client beside a right key.
        let (right, wrong) = match endpoint.api() {
            Api::Physical | Api::Private => ("private", "public"),
            Api::Payment => ("public", "private"),
        };
        let urls = stage.simulator.urls();
        let base = match endpoint.api() {
            Api::Physical => &urls.physical,
            Api::Private => &urls.private,
            Api::Payment => &urls.payment,
        };
        for (key, client) in [(wrong, wrong), (right, wrong)] {
            let reply = stage
                .client
                .request(endpoint.method(), format!("{base}{path}"))
                .header(format!("apikey{right}"), format!("default-{key}-key"))
                .header(format!("apiclient{right}"), format!("default-{client}-client"))
                .json(&json!({ "PaymentRequestId": SALE, "UniqueCode": CODE, "Date": "2026-03-01" }))
                .send()
                .await
                .unwrap();
            assert_eq!(reply.status(), StatusCode::UNAUTHORIZED, "{endpoint:?}");
            let told: Value = reply.json().await.unwrap();
            match endpoint.api() {
                Api::Physical => {
                    let text = told.get("clientMessage").or_else(|| told.get("ClientMessage"));
                    assert_eq!(text, Some(&json!("System.AuthError")), "{endpoint:?}");
                }
                Api::Private | Api::Payment => {
                    assert_eq!((&told["ErrorCode"], &told["Result"]), (&json!(401), &json!(false)));
                }
            }
        }
    }
}

#[tokio::test]
async fn another_merchants_keys_do_not_find_the_payment() {
    let merchants = vec![Merchant::demo("default"), Merchant::demo("other")];
    let stage = Stage::set_with(SimulatorConfig { merchants, ..SimulatorConfig::default() }).await;
    stage.simulator.seed(SeedPhysical { merchant: "other".to_owned(), ..SeedPhysical::sold(SALE) }).unwrap();
    assert_eq!(stage.cancel().await["clientMessage"], "Payment.Request.RequestNotFound");
    let truth = stage.truth();
    assert_eq!((truth.calls_of(Endpoint::AsyncCancel), truth.effects.orders), (1, 0));
}

#[tokio::test]
async fn paths_are_found_in_any_case_and_wrong_methods_are_not_allowed() {
    let stage = Stage::set().await;
    stage.sold();
    let loud = stage.call_at(Endpoint::AsyncCancel, "/API/PAYMENT/ASYNC/CANCEL");
    let reply =
        loud.json(&json!({ "paymentrequestid": SALE.to_string().to_uppercase() })).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    let url = format!("{}/api/payment/async/cancel", stage.simulator.urls().physical);
    let reply = stage.client.request(Method::GET, url).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(reply.headers()["allow"], "POST");
    let url = format!("{}/api/payment/async/cancel", stage.simulator.urls().private);
    let reply = stage.client.post(url).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::NOT_FOUND, "each API has its own paths");
}

#[tokio::test]
async fn a_body_that_does_not_say_that_it_is_json_is_not_read() {
    let stage = Stage::set().await;
    let request = stage.call(Endpoint::AsyncCancel).body(json!({ "PaymentRequestId": SALE }).to_string());
    assert_eq!(request.send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn invalid_bodies_are_refused_with_the_code_of_their_api() {
    let stage = Stage::set().await;
    for sent in
        [json!({}), json!({ "PaymentRequestId": "0000" }), json!({ "PaymentRequestId": null }), json!([])]
    {
        let reply = body(stage.call(Endpoint::AsyncCancel).json(&sent)).await;
        assert_eq!(reply["clientMessage"], "System.ValidationError", "{sent}");
    }
    for sent in [
        json!({ "UniqueCode": "0000-0000-0000-0000-0000", "Date": "2026-03-01" }),
        json!({ "UniqueCode": CODE, "Date": "01.03.2026" }),
        json!({ "UniqueCode": CODE }),
        json!({ "UniqueCode": CODE, "Date": "2026-03-01", "MarketPlace": { "DeleteExistingRecords": "yes" } }),
    ] {
        let reply = body(stage.call(Endpoint::TransactionCancel).json(&sent)).await;
        assert_eq!(reply["ErrorCode"], 2, "{sent}");
    }
    let item = json!([{ "MerchantUniqueCode": "A-1", "Date": "2026-03-01" }]);
    for (sent, code) in [
        (json!({ "CallbackUrl": "https://shop.example/" }), 2),
        (json!({ "Payments": [], "CallbackUrl": "https://shop.example/" }), 2),
        (json!({ "Payments": [{ "Date": "2026-03-01" }], "CallbackUrl": "https://shop.example/" }), 2),
        (json!({ "Payments": item }), 163),
        (json!({ "Payments": item, "CallbackUrl": "shop.example" }), 166),
        (json!({ "Payments": item, "CallbackUrl": "ftp://shop.example/" }), 166),
    ] {
        let reply = body(stage.call(Endpoint::BatchCancel).json(&sent)).await;
        assert_eq!(reply["ErrorCode"], code, "{sent}");
    }
}

#[tokio::test]
async fn refusals_can_come_with_another_http_status() {
    let rules = Rules { refusal_http_status: 400, ..Rules::default() };
    let stage = Stage::set_with(SimulatorConfig { rules, ..SimulatorConfig::default() }).await;
    let reply = stage.order(Endpoint::AsyncCancel).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_simulator_that_seeds_by_itself_knows_every_payment() {
    let stage = Stage::set_with(SimulatorConfig { auto_seed: true, ..SimulatorConfig::default() }).await;
    assert_eq!(stage.roll_back().await["result"]["paymentStatus"], 12);
    let other =
        body(stage.call(Endpoint::AsyncCancel).json(&json!({ "PaymentRequestId": Uuid::from_u128(5) })));
    assert_eq!(other.await["succeeded"], true);
    assert_eq!(stage.cancel_transaction("2026-03-01").await["ErrorCode"], 0);
    assert_eq!(stage.cancel_batch(&["new"], "2026-03-01").await["Body"]["PaymentResults"][0]["Status"], 1);
    let apm = stage.call(Endpoint::ApmProvisionCancel).json(&json!({ "UniqueCode": "some" }));
    assert_eq!(body(apm).await["ErrorCode"], 0);
    let query = body(stage.call(Endpoint::ApmQuery).header("merchantuniquecode", "unseen"));
    assert_eq!(query.await["ErrorCode"], 0);
}

// -- faults --------------------------------------------------------------------------------------------------------

/// Whether the payment was cancelled by one call that a fault struck.
async fn cancelled_by(stage: &Stage, fault: Fault) -> (bool, reqwest::Result<reqwest::Response>) {
    stage.sold();
    stage.plan(fault).await;
    let reply = stage.order(Endpoint::AsyncCancel).send().await;
    (stage.truth().state == PaymentState::Cancelled, reply)
}

#[tokio::test]
async fn a_reset_is_a_reset_and_says_nothing_of_the_effect() {
    for (fault, happens) in
        [(Fault::new(FaultKind::Reset), false), (Fault::new(FaultKind::Reset).after_effect(), true)]
    {
        let stage = Stage::set().await;
        let (cancelled, reply) = cancelled_by(&stage, fault).await;
        assert_eq!(io_kind(&reply.unwrap_err()), Some(io::ErrorKind::ConnectionReset));
        assert_eq!(cancelled, happens);
        assert_eq!(stage.truth().log[0].replied, None);
        assert_eq!(stage.truth().log[0].fault, Some(1));
    }
}

#[tokio::test]
async fn a_close_ends_the_connection_in_order_with_no_reply() {
    let stage = Stage::set().await;
    let (cancelled, reply) = cancelled_by(&stage, Fault::new(FaultKind::Close).after_effect()).await;
    let error = reply.unwrap_err();
    assert_ne!(io_kind(&error), Some(io::ErrorKind::ConnectionReset));
    assert!(error.is_request(), "{error:?}");
    assert!(cancelled);
}

#[tokio::test]
async fn a_delay_makes_the_answer_late_and_the_effect_happens_even_if_the_caller_has_gone() {
    let stage = Stage::set().await;
    stage.sold();
    stage.fault(FaultKind::Delay { ms: 300 }).await;
    let request = stage.order(Endpoint::AsyncCancel).timeout(Duration::from_millis(50));
    assert!(request.send().await.unwrap_err().is_timeout());
    let cancelled = |handle: &Handle| handle.truth_of(SALE).unwrap().state == PaymentState::Cancelled;
    assert!(!cancelled(&stage.simulator), "the bank is slow");
    stage.simulator.wait_until(SOON, cancelled).await.unwrap();
}

#[tokio::test]
async fn a_hang_before_the_effect_ends_with_its_caller_and_nothing_happens() {
    let stage = Stage::set().await;
    stage.sold();
    stage.fault(FaultKind::Hang).await;
    let request = stage.order(Endpoint::AsyncCancel).timeout(Duration::from_millis(50));
    assert!(request.send().await.unwrap_err().is_timeout());
    // The story of the call holds a task as long as it hangs: only the four ports are left then.
    stage.simulator.wait_until(SOON, |handle| handle.inner.tasks.len() == 4).await.unwrap();
    stage.simulator.release();
    assert_eq!(stage.truth().state, PaymentState::Stands);
    assert_eq!(stage.truth().log[0].replied, None);
}

#[tokio::test]
async fn a_hang_after_the_effect_has_had_it() {
    let stage = Stage::set().await;
    stage.sold();
    stage.plan(Fault::new(FaultKind::Hang).after_effect()).await;
    let request = stage.order(Endpoint::AsyncCancel).timeout(Duration::from_millis(50));
    assert!(request.send().await.unwrap_err().is_timeout());
    assert_eq!(stage.truth().state, PaymentState::Cancelled);
}

#[tokio::test]
async fn a_call_that_hangs_goes_on_when_it_is_released() {
    let stage = Stage::set().await;
    stage.sold();
    let fault = stage.fault(FaultKind::Hang).await;
    let call = tokio::spawn(stage.order(Endpoint::AsyncCancel).send());
    let seen = stage.simulator.wait_for_calls(SALE, Endpoint::AsyncCancel, 1, SOON).await.unwrap();
    assert_eq!(seen.state, PaymentState::Stands);
    stage.simulator.clear_fault(fault).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(stage.truth().state, PaymentState::Cancelled);
}

#[tokio::test]
async fn an_http_status_comes_with_or_without_an_envelope_and_its_headers() {
    let stage = Stage::set().await;
    stage.sold();
    stage.fault(FaultKind::http_retry_after(503, "7")).await;
    let reply = stage.order(Endpoint::AsyncCancel).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.headers()["retry-after"], "7");
    assert_eq!(reply.bytes().await.unwrap().len(), 0);

    stage.fault(FaultKind::http(429)).await;
    let reply = stage.order(Endpoint::AsyncCancel).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(reply.headers().get("retry-after").is_none());
    assert!(reply.text().await.unwrap().starts_with("<html>"));

    stage.fault(FaultKind::http_with_envelope(500)).await;
    let reply = stage.order(Endpoint::AsyncCancel).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(reply.json::<Value>().await.unwrap()["clientMessage"], "System.ServerError");

    stage.fault(FaultKind::redirect(302, "https://elsewhere.example/")).await;
    let reply = stage.order(Endpoint::AsyncCancel).send().await.unwrap();
    assert_eq!(reply.headers()["location"], "https://elsewhere.example/");
    assert_eq!(stage.truth().state, PaymentState::Stands);
}

#[tokio::test]
async fn an_effect_can_happen_though_the_reply_says_failure() {
    let stage = Stage::set().await;
    let fault = Fault::new(FaultKind::http_with_envelope(500)).after_effect();
    let (cancelled, reply) = cancelled_by(&stage, fault).await;
    assert_eq!(reply.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(cancelled);
}

#[tokio::test]
async fn a_code_is_given_in_the_envelope_of_the_api() {
    let stage = Stage::set().await;
    stage.fault(FaultKind::client_message("Terminal.NotFound")).await;
    let reply = stage.cancel().await;
    assert_eq!(reply["clientMessage"], "Terminal.NotFound");
    assert_eq!(reply["failed"], true);
    stage.fault(FaultKind::error_code(88)).await;
    let reply = stage.cancel_transaction("2026-03-01").await;
    assert_eq!((&reply["ErrorCode"], &reply["Result"]), (&json!(88), &json!(false)));
}

#[tokio::test]
async fn contradictory_fields_contradict_each_other() {
    let stage = Stage::set().await;
    stage.sold();
    stage.simulator.seed(SeedVirtualPos::sold(CODE)).unwrap();
    stage.plan(Fault::new(FaultKind::Contradiction).times(2)).await;
    let reply = stage.cancel().await;
    assert_eq!((&reply["succeeded"], &reply["failed"]), (&json!(true), &json!(true)));
    let reply = stage.cancel_transaction("2026-03-01").await;
    assert_eq!((&reply["ErrorCode"], &reply["Result"]), (&json!(0), &json!(false)));
    assert_eq!(stage.truth().state, PaymentState::Stands, "before the effect: there is none");
}

#[tokio::test]
async fn bodies_can_be_garbage_or_empty_or_too_large() {
    let stage = Stage::set().await;
    stage.sold();
    stage.fault(FaultKind::Garbage).await;
    let reply = stage.order(Endpoint::AsyncCancel).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    assert!(serde_json::from_slice::<Value>(&reply.bytes().await.unwrap()).is_err());
    stage.fault(FaultKind::Empty).await;
    let reply = stage.order(Endpoint::AsyncCancel).send().await.unwrap();
    assert_eq!((reply.status(), reply.bytes().await.unwrap().len()), (StatusCode::OK, 0));
    stage.plan(Fault::new(FaultKind::Oversized).after_effect()).await;
    let reply = stage.order(Endpoint::AsyncCancel).send().await.unwrap();
    assert!(reply.bytes().await.unwrap().len() > 1024 * 1024);
    assert_eq!(stage.truth().state, PaymentState::Cancelled);
}

#[tokio::test]
async fn a_truncated_reply_breaks_off_in_its_body() {
    let stage = Stage::set().await;
    let (cancelled, reply) = cancelled_by(&stage, Fault::new(FaultKind::Truncated).after_effect()).await;
    let mut reply = reply.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    let promised = reply.content_length().unwrap();
    let half = reply.chunk().await.unwrap().unwrap();
    assert_eq!(half.len() as u64, promised / 2);
    assert!(reply.chunk().await.is_err());
    assert!(cancelled);
}

#[tokio::test]
async fn a_reply_can_name_another_payment() {
    let stage = Stage::set().await;
    stage.sold();
    stage.simulator.seed(SeedVirtualPos::item("A-1")).unwrap();
    stage.simulator.seed(SeedApm::provisioned(CODE.to_string())).unwrap();
    stage.plan(Fault::new(FaultKind::ForeignId).times(3).after_effect()).await;
    let reply = stage.cancel().await;
    assert_ne!(reply["result"]["paymentRequestId"], json!(SALE));
    assert_eq!(reply["succeeded"], true);
    let reply = stage.cancel_batch(&["A-1"], "2026-03-01").await;
    assert_ne!(reply["Body"]["PaymentResults"][0]["MerchantUniqueCode"], "A-1");
    let reply = stage.cancel_provision().await;
    assert_ne!(reply["Body"]["UniqueCode"], json!(CODE));
}

#[tokio::test]
async fn a_provider_can_fail_inside_a_success() {
    let stage = Stage::set().await;
    stage.simulator.seed(SeedApm::provisioned(CODE.to_string())).unwrap();
    stage.fault(FaultKind::ProviderFailure).await;
    let reply = stage.cancel_provision().await;
    assert_eq!((&reply["ErrorCode"], &reply["Result"]), (&json!(0), &json!(true)));
    assert_eq!(reply["Body"]["ProviderDummyResponse"]["HttpCode"], 500);
    assert_ne!(reply["Body"]["ProviderDummyResponse"]["ErrorCode"], 0);
    assert_eq!(stage.simulator.truth_of(CODE).unwrap().state, PaymentState::Stands);
}

#[tokio::test]
async fn any_reply_can_be_given_word_for_word() {
    let stage = Stage::set().await;
    let headers = vec![("content-type".to_owned(), "text/plain".to_owned())];
    stage.fault(FaultKind::Raw { status: 418, headers, body: "tea".to_owned() }).await;
    let reply = stage.order(Endpoint::AsyncCancel).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(reply.headers()["content-type"], "text/plain");
    assert_eq!(reply.text().await.unwrap(), "tea");
}

#[tokio::test]
async fn a_closed_port_refuses_and_the_same_port_is_open_again_afterwards() {
    let stage = Stage::set().await;
    stage.sold();
    stage.inquire().await;
    let refusal = FaultKind::RefuseConnection { for_ms: None };
    let fault = stage.plan(Fault::new(refusal).at(Api::Physical)).await;
    let error = stage.order(Endpoint::AsyncCancel).send().await.unwrap_err();
    assert!(error.is_connect(), "not even on the connection of before: {error:?}");
    assert_eq!(io_kind(&error), Some(io::ErrorKind::ConnectionRefused));
    assert_eq!(stage.query("x").await["ErrorCode"], 404, "the other ports are open");
    stage.simulator.clear_fault(fault).await.unwrap();
    assert_eq!(stage.cancel().await["succeeded"], true);
    assert_eq!(stage.truth().calls_of(Endpoint::AsyncCancel), 1, "a refused connection is no call");
}

#[tokio::test]
async fn a_port_closed_for_a_while_opens_by_itself() {
    let stage = Stage::set().await;
    stage.sold();
    let refusal = FaultKind::RefuseConnection { for_ms: Some(30) };
    stage.plan(Fault::new(refusal).at(Api::Physical)).await;
    assert!(stage.order(Endpoint::AsyncCancel).send().await.unwrap_err().is_connect());
    stage.simulator.wait_until(SOON, |handle| handle.faults().is_empty()).await.unwrap();
    stage.simulator.clear_faults().await.unwrap();
    assert_eq!(stage.cancel().await["succeeded"], true);
}

#[tokio::test]
async fn impossible_faults_are_refused_by_the_name_of_their_field() {
    let stage = Stage::set().await;
    for (fault, expected) in [
        (Fault::new(FaultKind::Reset).with_ratio(1.5), "ratio"),
        (Fault::new(FaultKind::RefuseConnection { for_ms: None }), "api"),
        (Fault::new(FaultKind::http(99)), "status"),
        (Fault::new(FaultKind::Reset).at(Api::Private).on(Endpoint::AsyncCancel), "endpoint"),
    ] {
        match stage.simulator.plan(fault).await {
            Err(PlanError::Invalid { field, .. }) => assert_eq!(field, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn many_cancels_of_one_payment_at_once_have_one_effect() {
    let stage = Stage::set().await;
    stage.sold();
    let calls: Vec<_> = (0..50).map(|_| tokio::spawn(stage.order(Endpoint::AsyncCancel).send())).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let truth = stage.truth();
    assert_eq!((truth.calls_of(Endpoint::AsyncCancel), truth.effects.cancels), (50, 1));
    assert_eq!(truth.calls_after_cancelled, 49);
}

// -- the books and the control API ---------------------------------------------------------------------------------

#[tokio::test]
async fn a_request_is_kept_as_it_came() {
    let stage = Stage::set().await;
    stage.cancel_transaction("2026-03-01").await;
    let [request] = &stage.simulator.requests_to(Endpoint::TransactionCancel)[..] else { panic!() };
    assert_eq!(request.method, "POST");
    assert_eq!(request.path, "/api/paywall/private/cancel/by/uniqueCode");
    assert_eq!(request.headers.get("ApiKeyPrivate"), Some("default-private-key"));
    let kept: Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(kept, json!({ "UniqueCode": CODE, "Date": "2026-03-01" }));
}

#[tokio::test]
async fn an_unknown_payment_has_its_calls_told_too() {
    let stage = Stage::set().await;
    assert_eq!(stage.simulator.truth_of(SALE), None);
    stage.cancel().await;
    let truth = stage.truth();
    assert_eq!((truth.state, truth.calls_total()), (PaymentState::Unknown, 1));
    assert_eq!(stage.simulator.truth().unknown.len(), 1);
}

#[tokio::test]
async fn a_wait_that_does_not_come_true_ends_in_time() {
    let stage = Stage::set().await;
    let within = Duration::from_millis(30);
    assert_eq!(stage.simulator.wait_until(within, |_| false).await, Err(Overdue { within }));
}

#[tokio::test]
async fn a_page_that_calls_itself_this_machine_is_not_let_in() {
    let stage = Stage::set().await;
    let urls = stage.simulator.urls();
    for url in [&urls.physical, &urls.private, &urls.payment, &urls.control] {
        let asked = |host: &str| stage.client.get(format!("{url}/control/health")).header("host", host);
        let status = |request: RequestBuilder| async { request.send().await.unwrap().status() };
        assert_eq!(status(asked("evil.example:18080")).await, StatusCode::MISDIRECTED_REQUEST, "{url}");
        assert_ne!(status(asked("localhost:18080")).await, StatusCode::MISDIRECTED_REQUEST, "{url}");
    }
}

#[tokio::test]
async fn the_control_api_does_what_the_library_does() {
    let stage = Stage::set().await;
    let at = |path: &str| format!("{}/control/{path}", stage.simulator.urls().control);
    let health = body(stage.client.get(at("health"))).await;
    assert_eq!(health["ok"], true);
    assert_eq!(health["urls"]["physical"], json!(stage.simulator.urls().physical));

    let seeds = json!([
        { "scheme": "physical", "payment_request_id": SALE },
        { "scheme": "virtual_pos", "merchant_unique_code": "A-1", "batch": { "result": "left_out" } },
        { "scheme": "apm", "unique_code": CODE, "provider": "no_but_did_it" }
    ]);
    let seeded = body(stage.client.post(at("payments")).json(&seeds)).await;
    assert_eq!(seeded["payments"].as_array().unwrap().len(), 3);

    let fault = json!({ "what": { "kind": "http", "status": 503 }, "endpoint": "async_cancel", "times": { "count": 1 } });
    assert_eq!(body(stage.client.post(at("faults")).json(&fault)).await, json!({ "ids": [1] }));
    assert_eq!(
        stage.order(Endpoint::AsyncCancel).send().await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(body(stage.client.get(at("faults"))).await[0]["struck"], 1);
    assert_eq!(body(stage.client.delete(at("faults/1"))).await, json!({ "cleared": 1 }));

    let moved = body(stage.client.post(at("clock")).json(&json!({ "advance_ms": 60_000 }))).await;
    assert_eq!(moved["now"], "2026-03-01T09:01:00Z");

    assert_eq!(stage.cancel().await["succeeded"], true);
    let truth: PaymentTruth =
        stage.client.get(at(&format!("truth/{SALE}"))).send().await.unwrap().json().await.unwrap();
    assert_eq!(truth, stage.truth());
    let all: Truth = stage.client.get(at("truth")).send().await.unwrap().json().await.unwrap();
    assert_eq!(all.payments.len(), 3);
    let requests = stage.client.get(at("requests")).send().await.unwrap().text().await.unwrap();
    assert!(requests.contains("/api/payment/async/cancel"), "{requests}");
    assert!(!requests.contains("default-private-key"), "{requests}");
}

#[tokio::test]
async fn the_control_api_names_what_is_wrong() {
    let stage = Stage::set().await;
    for (method, path, sent, status, named) in [
        (Method::POST, "payments", r#"{"scheme":"physical","amuont":"1"}"#, 400, "amuont"),
        (Method::POST, "payments", r#"{"scheme":"physical","amount":"x"}"#, 400, "amount"),
        (Method::POST, "payments", r#"{"scheme":"physical","merchant":"nobody"}"#, 400, "merchant"),
        (Method::POST, "faults", r#"{"what":{"kind":"explode"}}"#, 400, "explode"),
        (Method::POST, "faults", r#"{"what":{"kind":"reset"},"ratio":2}"#, 400, "ratio"),
        (Method::DELETE, "faults/9", "", 404, "no fault"),
        (Method::GET, "truth/nobody", "", 404, "identifier"),
        (Method::POST, "clock", r#"{"freeze":false}"#, 400, "freeze"),
        (Method::PUT, "clock", "", 405, "PUT"),
        (Method::GET, "elsewhere", "", 404, "elsewhere"),
    ] {
        let url = format!("{}/control/{path}", stage.simulator.urls().control);
        let reply = stage.client.request(method, url).body(sent).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), status, "{path} {sent}");
        let told: Value = reply.json().await.unwrap();
        assert!(told["error"].as_str().unwrap().contains(named), "{told}");
    }
}

#[tokio::test]
async fn a_simulator_that_is_shut_down_leaves_nothing_behind() {
    let stage = Stage::set().await;
    stage.sold();
    stage.fault(FaultKind::Hang).await;
    let call = tokio::spawn(stage.order(Endpoint::AsyncCancel).send());
    stage.simulator.wait_for_calls(SALE, Endpoint::AsyncCancel, 1, SOON).await.unwrap();
    let url = stage.simulator.urls().control.clone();
    stage.simulator.shutdown().await;
    assert!(call.await.unwrap().is_err(), "what hung is hung up on");
    let error = stage.client.get(format!("{url}/control/health")).send().await.unwrap_err();
    assert_eq!(io_kind(&error), Some(io::ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn the_examples_of_the_documentation_are_taken() {
    let stage = Stage::set().await;
    let docs = include_str!("lib.rs").lines().map(|line| line.trim_start_matches("//!")).collect::<String>();
    let examples: Vec<_> = docs.split("curl -d '").skip(1).collect();
    assert_eq!(examples.len(), 3);
    for example in examples {
        let (sent, rest) = example.split_once('\'').unwrap();
        let path = if rest.contains("/control/payments") { "payments" } else { "faults" };
        let url = format!("{}/control/{path}", stage.simulator.urls().control);
        let reply = stage.client.post(url).body(sent.to_owned()).send().await.unwrap();
        assert_eq!(reply.status(), StatusCode::OK, "{sent}: {}", reply.text().await.unwrap());
    }
}
