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
