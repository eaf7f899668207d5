//! What goes out, by kind: the method, path, key pair, headers and body of each page. Pure; nothing is sent here.

use jiff::civil::Date;
use reqwest::Method;
use serde::Serialize;
use url::Url;
use uuid::Uuid;

use crate::domain::intent::{Api, Code, Kind};
use crate::domain::step::Order;

/// How many activities one page of a physical payment's history is asked to hold.
pub(super) const ACTIVITIES_PAGE_SIZE: usize = 100;

/// Which of a merchant's two pairs of keys opens an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pair {
    /// `apikeyprivate` and `apiclientprivate`.
    Private,
    /// `apikeypublic` and `apiclientpublic`.
    Public,
}

impl Pair {
    /// The pair that the pages of this API ask for.
    pub(super) fn of(api: Api) -> Pair {
        match api {
            Api::Physical | Api::Private => Pair::Private,
            Api::Payment => Pair::Public,
        }
    }

    /// The names of the two headers: the key's and the client's.
    pub(super) fn header_names(self) -> [&'static str; 2] {
        match self {
            Pair::Private => ["apikeyprivate", "apiclientprivate"],
            Pair::Public => ["apikeypublic", "apiclientpublic"],
        }
    }
}

/// One request, but for what the configuration adds: the address and the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// Whose address and keys.
    pub(super) api: Api,
    /// The HTTP method.
    pub(super) method: Method,
    /// The path, from its first slash.
    pub(super) path: String,
    /// The path without what differs from request to request: good for a log.
    pub(super) endpoint: &'static str,
    /// The header that carries what is asked for, where the page wants it in one.
    pub(super) header: Option<(&'static str, String)>,
    /// The JSON body.
    pub(super) body: Option<Vec<u8>>,
}

/// The path of the endpoint that takes the calls of this kind.
pub(super) fn call_path(kind: Kind) -> &'static str {
    match kind {
        Kind::AsyncCancel => "/api/payment/async/cancel",
        Kind::SyncCancelRollback => "/api/payment/sync/cancel/rollback",
        Kind::TransactionCancel => "/api/paywall/private/cancel/by/uniqueCode",
        Kind::ApmProvisionCancel => "/api/paywall/apm/provision/cancel",
        Kind::BatchCancel => "/api/paywall/payment/bulk/batch/cancel",
    }
}

/// The call that gives this order; `None` if it cannot be given: a batch without payments, or without a callback
/// address (its page makes it compulsory).
pub(super) fn call(order: &Order, batch_callback_url: Option<&Url>) -> Option<Outgoing> {
    let body = match order {
        Order::AsyncCancel { payment_request_id } | Order::SyncCancelRollback { payment_request_id } => {
            json(&PhysicalBody { payment_request_id: *payment_request_id })
        }
        Order::TransactionCancel { unique_code, date, delete_marketplace_records } => {
            json(&TransactionBody {
                date: *date,
                unique_code: *unique_code,
                market_place: delete_marketplace_records
                    .map(|delete_existing_records| MarketPlace { delete_existing_records }),
            })
        }
        Order::ApmProvisionCancel { unique_code } => json(&ApmBody { unique_code: unique_code.as_str() }),
        Order::BatchCancel { payments } if payments.is_empty() => return None,
        Order::BatchCancel { payments } => json(&BatchBody {
            payments: payments
                .iter()
                .map(|(_, code, date)| BatchItem { merchant_unique_code: code.as_str(), date: *date })
                .collect(),
            callback_url: batch_callback_url?.as_str(),
        }),
    };
    let kind = order.kind();
    Some(Outgoing {
        api: kind.api(),
        method: Method::POST,
        path: call_path(kind).to_owned(),
        endpoint: call_path(kind),
        header: None,
        body: Some(body),
    })
}

/// One page of a physical payment's activities, counted from 0 (`paywall.md` §7.2).
pub(super) fn activities(payment_request_id: Uuid, page_index: usize) -> Outgoing {
    let endpoint = "/api/payment/activities";
    Outgoing {
        api: Api::Physical,
        method: Method::POST,
        path: endpoint.to_owned(),
        endpoint,
        header: None,
        body: Some(json(&ActivitiesBody { page_index, page_size: ACTIVITIES_PAGE_SIZE, payment_request_id })),
    }
}

/// A physical payment's inquiry (`paywall.md` §7.1).
pub(super) fn physical_inquiry(payment_request_id: Uuid) -> Outgoing {
    let path = format!("/api/payment/inquiry/{}", payment_request_id.as_hyphenated());
    Outgoing { path, ..get(Api::Physical, "/api/payment/inquiry/{paymentRequestId}", None) }
}

/// A virtual-POS payment by the gateway's code (`paywall.md` §7.3).
pub(super) fn query_by_unique_code(unique_code: Uuid) -> Outgoing {
    let header = ("uniquecode", unique_code.as_hyphenated().to_string());
    get(Api::Private, "/api/paywall/private/query/by/uniquecode", Some(header))
}

/// A virtual-POS payment by the merchant's code (`paywall.md` §7.3).
pub(super) fn query_by_merchant_code(code: &Code) -> Outgoing {
    let header = ("merchantuniquecode", code.as_str().to_owned());
    get(Api::Private, "/api/paywall/private/query", Some(header))
}

/// A payment by an alternative method, by the merchant's code (`paywall.md` §7.4).
pub(super) fn apm_query(code: &Code) -> Outgoing {
    let header = ("merchantuniquecode", code.as_str().to_owned());
    get(Api::Payment, "/api/paywall/apm/query", Some(header))
}

fn get(api: Api, endpoint: &'static str, header: Option<(&'static str, String)>) -> Outgoing {
    Outgoing { api, method: Method::GET, path: endpoint.to_owned(), endpoint, header, body: None }
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("structs of text, numbers and dates always encode")
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PhysicalBody {
    payment_request_id: Uuid,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TransactionBody {
    date: Date,
    unique_code: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    market_place: Option<MarketPlace>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MarketPlace {
    delete_existing_records: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ApmBody<'a> {
    unique_code: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BatchBody<'a> {
    payments: Vec<BatchItem<'a>>,
    callback_url: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BatchItem<'a> {
    merchant_unique_code: &'a str,
    date: Date,
}

/// The page's own mixture of casings.
#[derive(Serialize)]
struct ActivitiesBody {
    #[serde(rename = "pageIndex")]
    page_index: usize,
    #[serde(rename = "pageSize")]
    page_size: usize,
    #[serde(rename = "PaymentRequestId")]
    payment_request_id: Uuid,
}
