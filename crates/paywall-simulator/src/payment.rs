//! The Payment API on the wire: provisions of alternative payment methods, and batches.

use std::collections::HashSet;

use jiff::{Timestamp, civil};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    answer::{Answer, PaymentBody, number},
    api::Endpoint,
    clock::local_text,
    request::{Fields, Invalid},
    rules::{BatchTotal, Readings},
    seed::ApmState,
    world::{
        Identifier, Named, World,
        pos::{BatchLine, BatchResult},
        provision::{Apm, ApmRefusal, Cancelled, Provider},
    },
};

/// The method and the connection that every simulated provision belongs to, as in the page's sample.
const APM_KEY: &str = "Masterpass_IFrame";
const APM_CONNECTION_ID: u32 = 2_003;

/// What the Payment API is asked.
#[derive(Debug, Clone)]
pub(super) enum Request {
    CancelProvision { unique_code: String },
    QueryProvision { merchant_code: String },
    CancelBatch { items: Vec<(String, civil::Date)> },
}

/// Reads the body of a provision cancel.
pub(super) fn read_provision_cancel(body: &[u8]) -> Result<Request, Invalid> {
    Ok(Request::CancelProvision { unique_code: Fields::read(body)?.text("UniqueCode")? })
}

/// Reads the header of a provision query.
pub(super) fn read_provision_query(merchant_unique_code: Option<&str>) -> Result<Request, Invalid> {
    let code = merchant_unique_code.filter(|code| !code.is_empty());
    let code = code.ok_or(Invalid::Header("merchantuniquecode"))?;
    Ok(Request::QueryProvision { merchant_code: code.to_owned() })
}

/// Reads the body of a batch cancel.
pub(super) fn read_batch(body: &[u8]) -> Result<Request, Invalid> {
    let fields = Fields::read(body)?;
    let items: Vec<_> = fields
        .list("Payments")?
        .iter()
        .map(|item| Ok((item.text("MerchantUniqueCode")?, item.date("Date")?)))
        .collect::<Result<_, Invalid>>()?;
    if items.is_empty() {
        return Err(Invalid::Field("Payments"));
    }
    let callback = fields.text("CallbackUrl").map_err(|_| Invalid::CallbackMissing)?;
    let callback = url::Url::parse(&callback).map_err(|_| Invalid::CallbackMalformed)?;
    if !matches!(callback.scheme(), "http" | "https") || callback.host().is_none() {
        return Err(Invalid::CallbackMalformed);
    }
    Ok(Request::CancelBatch { items })
}

impl Request {
    pub(super) fn named(&self) -> Vec<Named> {
        match self {
            Self::CancelProvision { unique_code } => {
                vec![Named { identifier: Identifier::Apm(unique_code.clone()), date: None }]
            }
            Self::QueryProvision { merchant_code } => {
                vec![Named { identifier: Identifier::ApmMerchantCode(merchant_code.clone()), date: None }]
            }
            Self::CancelBatch { items } => {
                // A code that stands twice in the list is one payment, called once.
                let mut seen = HashSet::new();
                let first = items.iter().filter(|(code, _)| seen.insert(code.as_str()));
                first
                    .map(|(code, date)| Named {
                        identifier: Identifier::MerchantCode(code.clone()),
                        date: Some(*date),
                    })
                    .collect()
            }
        }
    }

    pub(super) fn answer(
        &self,
        endpoint: Endpoint,
        world: &mut World,
        now: Timestamp,
        merchant: &str,
    ) -> Answer {
        let (status, readings) = (world.rules.refusal_http_status, world.rules.readings);
        match self {
            Self::CancelProvision { unique_code } => {
                match world.cancel_provision(now, merchant, unique_code) {
                    Ok(cancelled) => {
                        Answer::payment(endpoint, "", PaymentBody::Apm(Box::new(apm_body(&cancelled))))
                    }
                    Err(refusal) => refused(endpoint, status, readings, refusal),
                }
            }
            Self::QueryProvision { merchant_code } => match world.apm(merchant, merchant_code) {
                Some(apm) => {
                    let body = apm_query_body(world, apm);
                    Answer::payment(endpoint, "", PaymentBody::ApmQuery(Box::new(body)))
                }
                None => refused(endpoint, status, readings, ApmRefusal::NotFound),
            },
            Self::CancelBatch { items } => {
                let total = match world.rules.batch_total {
                    BatchTotal::Absent => None,
                    BatchTotal::Present => Some(items.len()),
                };
                let (bulk_id, lines) = world.cancel_batch(now, merchant, items);
                let body = BatchBody {
                    result: true,
                    total_payment_count: total,
                    payment_results: lines.into_iter().map(|line| batch_item(bulk_id, line)).collect(),
                };
                Answer::payment(endpoint, "Batch cancel created and enqueued", PaymentBody::Batch(body))
            }
        }
    }
}

/// A refusal in the integers of `paywall.md` §3.2, in the reading that the rules say.
fn refused(endpoint: Endpoint, status: u16, readings: Readings, refusal: ApmRefusal) -> Answer {
    let (code, message) = match (refusal, readings) {
        (ApmRefusal::NotFound, Readings::Sdk) => (296, "APM transaction not found"),
        (ApmRefusal::NotFound, Readings::Documented) => (297, "APM transaction not found"),
        (ApmRefusal::NotSuitable, _) => {
            (359, "The APM transaction status is not suitable for this operation")
        }
        (ApmRefusal::AlreadyRefunded, _) => (360, "The APM transaction has a refund activity"),
    };
    Answer::refused(endpoint, status, code, "", message)
}

/// The body of a provision cancel, in the order of the page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ApmBody {
    apm_key: &'static str,
    apm_connection_id: u32,
    apm_transaction_id: u64,
    pub(super) unique_code: String,
    pub(super) merchant_unique_code: String,
    amount: Box<RawValue>,
    pub(super) provider_dummy_response: ProviderResponse,
}

/// What the provider said, inside the gateway's reply.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ProviderResponse {
    error_code: i64,
    body: ProviderBody,
    http_code: u16,
}

impl ProviderResponse {
    /// The provider refuses, whatever the gateway says outside.
    pub(super) fn fail(&mut self) {
        self.error_code = 1;
        self.http_code = 500;
        "99".clone_into(&mut self.body.response_code);
        self.body.description = Some("Provider error".to_owned());
    }
}

/// The provider's own letters: the last three keys are written differently, as in the page's sample.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProviderBody {
    acquirer_retrieval_number: Option<String>,
    auth_code: String,
    order_id: String,
    ica_number: Option<String>,
    terminal_group_id: String,
    terminal_group_name: Option<String>,
    amount: Option<String>,
    currency_code: &'static str,
    account_key: &'static str,
    transaction_date: Option<String>,
    retrieval_reference_number: String,
    payment_retrieval_reference_number: String,
    point_refund_response: Option<String>,
    response_code: String,
    description: Option<String>,
    #[serde(rename = "ResponseDescription")]
    response_description: Option<String>,
    #[serde(rename = "OrderStatus")]
    order_status: Option<String>,
    #[serde(rename = "OrderDate")]
    order_date: Option<String>,
}

fn apm_body(cancelled: &Cancelled<'_>) -> ApmBody {
    let apm = cancelled.apm;
    let number_text = format!("{:012}", apm.transaction_id);
    let mut provider = ProviderResponse {
        error_code: 0,
        body: ProviderBody {
            acquirer_retrieval_number: None,
            auth_code: format!("{:08}", apm.transaction_id),
            order_id: apm.unique_code.replace('-', ""),
            ica_number: None,
            terminal_group_id: format!("{number_text}00"),
            terminal_group_name: None,
            amount: None,
            currency_code: "TRY",
            account_key: "900000000000",
            transaction_date: None,
            retrieval_reference_number: number_text.clone(),
            payment_retrieval_reference_number: number_text,
            point_refund_response: None,
            response_code: "00".to_owned(),
            description: None,
            response_description: None,
            order_status: None,
            order_date: None,
        },
        http_code: 200,
    };
    match cancelled.provider {
        Provider::Agrees => {}
        Provider::Fails => provider.fail(),
    }
    ApmBody {
        apm_key: APM_KEY,
        apm_connection_id: APM_CONNECTION_ID,
        apm_transaction_id: apm.transaction_id,
        unique_code: apm.unique_code.clone(),
        merchant_unique_code: apm.merchant_code.clone(),
        amount: number(&apm.amount),
        provider_dummy_response: provider,
    }
}

/// The body of a provision query (`paywall.md` §7.4).
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ApmQueryBody {
    apm_connection_id: u32,
    apm_provider_key: &'static str,
    apm_transaction_id: u64,
    currency_id: u8,
    pub(super) merchant_unique_code: String,
    pub(super) unique_code: String,
    merchant_success_back_url: Option<String>,
    merchant_fail_back_url: Option<String>,
    amount: Box<RawValue>,
    description: Option<String>,
    channel_type: u8,
    status_id: u8,
    status: &'static str,
    type_id: u8,
    #[serde(rename = "Type")]
    kind: &'static str,
    ip: &'static str,
    date_time: String,
}

fn apm_query_body(world: &World, apm: &Apm) -> ApmQueryBody {
    // No documented status says that a provision was cancelled: it looks like an open one.
    let (type_id, kind, status_id, status) = match apm.state {
        ApmState::Provisioned | ApmState::Cancelled => (1, "Sale", 4, "Successful"),
        ApmState::Refunded => (2, "Refund", 4, "Successful"),
        ApmState::NotSuitable => (1, "Sale", 5, "Failed"),
    };
    ApmQueryBody {
        apm_connection_id: APM_CONNECTION_ID,
        apm_provider_key: APM_KEY,
        apm_transaction_id: apm.transaction_id,
        currency_id: 1,
        merchant_unique_code: apm.merchant_code.clone(),
        unique_code: apm.unique_code.clone(),
        merchant_success_back_url: None,
        merchant_fail_back_url: None,
        amount: number(&apm.amount),
        description: None,
        channel_type: 1,
        status_id,
        status,
        type_id,
        kind,
        ip: "127.0.0.1",
        date_time: local_text(apm.created, &world.rules.zone),
    }
}

/// The body of a batch cancel, in the order of the page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchBody {
    result: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_payment_count: Option<usize>,
    pub(super) payment_results: Vec<BatchItem>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchItem {
    pub(super) merchant_unique_code: String,
    status: i64,
    message: String,
    bulk_payment_id: u64,
    error_message: Option<String>,
    bulk_payment_job_id: u64,
}

fn batch_item(bulk_payment_id: u64, line: BatchLine) -> BatchItem {
    let (status, message, bulk_payment_id, error_message) = match line.result {
        BatchResult::Taken => (1, "Added to normal bulk cancel process".to_owned(), bulk_payment_id, None),
        BatchResult::Other { status, message } => (status, message.clone(), 0, Some(message)),
    };
    BatchItem {
        merchant_unique_code: line.merchant_code,
        status,
        message,
        bulk_payment_id,
        error_message,
        bulk_payment_job_id: 0,
    }
}
