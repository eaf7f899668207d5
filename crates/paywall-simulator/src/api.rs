//! The three APIs and the endpoints that stand behind them.

use hyper::Method;
use serde::{Deserialize, Serialize};

/// One of the gateway's three APIs, each with an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// Physical terminals. Private key pair.
    Physical,
    /// Virtual POS, the side with the private key pair.
    Private,
    /// Virtual POS lists and alternative payment methods. Public key pair.
    Payment,
}

impl Api {
    /// All three, in the order of their ports.
    pub const ALL: [Self; 3] = [Self::Physical, Self::Private, Self::Payment];

    pub(super) fn index(self) -> usize {
        match self {
            Self::Physical => 0,
            Self::Private => 1,
            Self::Payment => 2,
        }
    }

    /// The names of the two headers that carry the key and the client.
    pub fn key_headers(self) -> (&'static str, &'static str) {
        match self {
            Self::Physical | Self::Private => ("apikeyprivate", "apiclientprivate"),
            Self::Payment => ("apikeypublic", "apiclientpublic"),
        }
    }
}

/// One service of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// POST `/api/payment/async/cancel`.
    AsyncCancel,
    /// POST `/api/payment/sync/cancel`.
    SyncCancel,
    /// POST `/api/payment/sync/cancel/rollback`.
    CancelRollback,
    /// GET `/api/payment/inquiry/{paymentRequestId}`.
    PhysicalInquiry,
    /// POST `/api/payment/activities`.
    PhysicalActivities,
    /// POST `/api/paywall/private/cancel/by/uniqueCode`.
    TransactionCancel,
    /// GET `/api/paywall/private/query`, header `merchantuniquecode`.
    PrivateQuery,
    /// GET `/api/paywall/private/query/by/uniquecode`, header `uniquecode`.
    PrivateQueryByUniqueCode,
    /// POST `/api/paywall/apm/provision/cancel`.
    ApmProvisionCancel,
    /// GET `/api/paywall/apm/query`, header `merchantuniquecode`.
    ApmQuery,
    /// POST `/api/paywall/payment/bulk/batch/cancel`.
    BatchCancel,
}

impl Endpoint {
    /// All endpoints.
    pub const ALL: [Self; 11] = [
        Self::AsyncCancel,
        Self::SyncCancel,
        Self::CancelRollback,
        Self::PhysicalInquiry,
        Self::PhysicalActivities,
        Self::TransactionCancel,
        Self::PrivateQuery,
        Self::PrivateQueryByUniqueCode,
        Self::ApmProvisionCancel,
        Self::ApmQuery,
        Self::BatchCancel,
    ];

    /// The API that serves it.
    pub fn api(self) -> Api {
        match self {
            Self::AsyncCancel
            | Self::SyncCancel
            | Self::CancelRollback
            | Self::PhysicalInquiry
            | Self::PhysicalActivities => Api::Physical,
            Self::TransactionCancel | Self::PrivateQuery | Self::PrivateQueryByUniqueCode => Api::Private,
            Self::ApmProvisionCancel | Self::ApmQuery | Self::BatchCancel => Api::Payment,
        }
    }

    /// Its path as the page prints it; of the inquiry, the part before the id.
    pub fn path(self) -> &'static str {
        match self {
            Self::AsyncCancel => "/api/payment/async/cancel",
            Self::SyncCancel => "/api/payment/sync/cancel",
            Self::CancelRollback => "/api/payment/sync/cancel/rollback",
            Self::PhysicalInquiry => "/api/payment/inquiry/",
            Self::PhysicalActivities => "/api/payment/activities",
            Self::TransactionCancel => "/api/paywall/private/cancel/by/uniqueCode",
            Self::PrivateQuery => "/api/paywall/private/query",
            Self::PrivateQueryByUniqueCode => "/api/paywall/private/query/by/uniquecode",
            Self::ApmProvisionCancel => "/api/paywall/apm/provision/cancel",
            Self::ApmQuery => "/api/paywall/apm/query",
            Self::BatchCancel => "/api/paywall/payment/bulk/batch/cancel",
        }
    }

    /// Whether it only asks, or may change a payment.
    pub fn purpose(self) -> Purpose {
        match self {
            Self::AsyncCancel
            | Self::SyncCancel
            | Self::CancelRollback
            | Self::TransactionCancel
            | Self::ApmProvisionCancel
            | Self::BatchCancel => Purpose::Call,
            Self::PhysicalInquiry
            | Self::PhysicalActivities
            | Self::PrivateQuery
            | Self::PrivateQueryByUniqueCode
            | Self::ApmQuery => Purpose::Inquiry,
        }
    }

    pub(super) fn method(self) -> Method {
        match self {
            Self::PhysicalInquiry | Self::PrivateQuery | Self::PrivateQueryByUniqueCode | Self::ApmQuery => {
                Method::GET
            }
            Self::AsyncCancel
            | Self::SyncCancel
            | Self::CancelRollback
            | Self::PhysicalActivities
            | Self::TransactionCancel
            | Self::ApmProvisionCancel
            | Self::BatchCancel => Method::POST,
        }
    }
}

/// What an endpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It may change a payment.
    Call,
    /// It only tells of one.
    Inquiry,
}

/// Where a path leads at one API. The id is the rest of an inquiry's path, in the letters of the request.
pub(super) fn route(api: Api, path: &str) -> Option<(Endpoint, Option<String>)> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let lower = path.to_ascii_lowercase();
    Endpoint::ALL.into_iter().filter(|endpoint| endpoint.api() == api).find_map(|endpoint| {
        let own = endpoint.path().to_ascii_lowercase();
        match endpoint {
            Endpoint::PhysicalInquiry => {
                let id = path.get(own.len()..)?;
                (lower.starts_with(&own) && !id.is_empty() && !id.contains('/'))
                    .then(|| (endpoint, Some(id.to_owned())))
            }
            Endpoint::AsyncCancel
            | Endpoint::SyncCancel
            | Endpoint::CancelRollback
            | Endpoint::PhysicalActivities
            | Endpoint::TransactionCancel
            | Endpoint::PrivateQuery
            | Endpoint::PrivateQueryByUniqueCode
            | Endpoint::ApmProvisionCancel
            | Endpoint::ApmQuery
            | Endpoint::BatchCancel => (lower == own).then_some((endpoint, None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_in_any_case_and_only_at_its_own_api() {
        let path = "/API/paywall/private/cancel/by/UNIQUECODE";
        assert_eq!(route(Api::Private, path), Some((Endpoint::TransactionCancel, None)));
        assert_eq!(route(Api::Physical, path), None);
    }

    #[test]
    fn the_id_of_an_inquiry_is_the_rest_of_its_path() {
        assert_eq!(
            route(Api::Physical, "/api/Payment/inquiry/AbC"),
            Some((Endpoint::PhysicalInquiry, Some("AbC".to_owned())))
        );
        assert_eq!(route(Api::Physical, "/api/payment/inquiry/"), None);
        assert_eq!(route(Api::Physical, "/api/payment/inquiry/a/b"), None);
    }
}
