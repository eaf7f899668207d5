//! Answers in the gateway's own envelopes, and how a fault bends them.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    api::{Api, Endpoint},
    payment::{ApmBody, ApmQueryBody, BatchBody},
    physical::{ActivitiesResult, InquiryResult, OrderResult},
    private::QueryBody,
};

/// More than a client should be willing to read.
pub(super) const OVERSIZED_BYTES: usize = 1024 * 1024 + 64 * 1024;

/// An HTTP status and an envelope.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) envelope: Envelope,
}

#[derive(Debug)]
pub(super) enum Envelope {
    Physical(PhysicalEnvelope),
    Payment(PaymentEnvelope),
}

/// Which letters the Physical API begins its keys with: cancels are camelCase, queries PascalCase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Casing {
    Camel,
    Pascal,
}

/// `paywall.md` §4.1.
#[derive(Debug)]
pub(super) struct PhysicalEnvelope {
    pub(super) casing: Casing,
    pub(super) result: Option<PhysicalResult>,
    pub(super) failed: bool,
    pub(super) message: Option<String>,
    /// In the page's table, but in none of its samples: only a fault prints it.
    pub(super) error_code: Option<i64>,
    pub(super) client_message: Option<String>,
    pub(super) succeeded: bool,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum PhysicalResult {
    Order(OrderResult),
    Inquiry(Box<InquiryResult>),
    Activities(ActivitiesResult),
}

/// `paywall.md` §4.2, in the order of the samples.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PaymentEnvelope {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error_code_type: Option<i64>,
    /// The outer one says whether the key is there, the inner one whether it is null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error_message: Option<Option<String>>,
    pub(super) error_code: i64,
    pub(super) result: bool,
    pub(super) message: String,
    pub(super) body: PaymentBody,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum PaymentBody {
    Null,
    Query(Box<QueryBody>),
    Apm(Box<ApmBody>),
    ApmQuery(Box<ApmQueryBody>),
    Batch(BatchBody),
}

/// The casing of an endpoint of the Physical API.
pub(super) fn casing(endpoint: Endpoint) -> Casing {
    match endpoint {
        Endpoint::PhysicalInquiry | Endpoint::PhysicalActivities => Casing::Pascal,
        Endpoint::AsyncCancel
        | Endpoint::SyncCancel
        | Endpoint::CancelRollback
        | Endpoint::TransactionCancel
        | Endpoint::PrivateQuery
        | Endpoint::PrivateQueryByUniqueCode
        | Endpoint::ApmProvisionCancel
        | Endpoint::ApmQuery
        | Endpoint::BatchCancel => Casing::Camel,
    }
}

impl Answer {
    pub(super) fn physical(endpoint: Endpoint, result: PhysicalResult) -> Self {
        let envelope = PhysicalEnvelope {
            casing: casing(endpoint),
            result: Some(result),
            failed: false,
            message: None,
            error_code: None,
            client_message: None,
            succeeded: true,
        };
        Self { status: 200, envelope: Envelope::Physical(envelope) }
    }

    pub(super) fn payment(endpoint: Endpoint, message: &str, body: PaymentBody) -> Self {
        let mut envelope = PaymentEnvelope::empty(endpoint);
        envelope.result = true;
        message.clone_into(&mut envelope.message);
        envelope.body = body;
        Self { status: 200, envelope: Envelope::Payment(envelope) }
    }

    /// A refusal in the words of the endpoint's API.
    pub(super) fn refused(endpoint: Endpoint, status: u16, code: i64, text: &str, message: &str) -> Self {
        let envelope = match endpoint.api() {
            Api::Physical => Envelope::Physical(PhysicalEnvelope {
                casing: casing(endpoint),
                result: None,
                failed: true,
                message: Some(message.to_owned()),
                error_code: None,
                client_message: Some(text.to_owned()),
                succeeded: false,
            }),
            Api::Private | Api::Payment => {
                let mut envelope = PaymentEnvelope::empty(endpoint);
                envelope.error_code = code;
                message.clone_into(&mut envelope.message);
                Envelope::Payment(envelope)
            }
        };
        Self { status, envelope }
    }

    /// 401 in the API's own envelope.
    pub(super) fn unauthorised(endpoint: Endpoint) -> Self {
        Self::refused(endpoint, 401, 401, "System.AuthError", "Unauthorized")
    }

    /// The body as it goes over the wire.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let written = match &self.envelope {
            Envelope::Physical(envelope) => envelope.bytes(),
            Envelope::Payment(envelope) => serde_json::to_vec(envelope),
        };
        written.expect("an envelope has text keys only, and writing to memory does not fail")
    }

    /// Two fields that cannot both be true.
    pub(super) fn contradict(&mut self) {
        match &mut self.envelope {
            Envelope::Physical(envelope) => {
                envelope.failed = true;
                envelope.succeeded = true;
            }
            Envelope::Payment(envelope) => {
                envelope.error_code = 0;
                envelope.result = false;
            }
        }
    }

    /// More text than anybody should read.
    pub(super) fn inflate(&mut self) {
        let text = "x".repeat(OVERSIZED_BYTES);
        match &mut self.envelope {
            Envelope::Physical(envelope) => envelope.message = Some(text),
            Envelope::Payment(envelope) => envelope.message = text,
        }
    }

    /// Another payment's identifiers.
    pub(super) fn misname(&mut self, foreign: &Foreign) {
        match &mut self.envelope {
            Envelope::Physical(PhysicalEnvelope { result, .. }) => match result {
                Some(PhysicalResult::Order(order)) => order.payment_request_id = foreign.uuid,
                Some(PhysicalResult::Inquiry(inquiry)) => inquiry.payment_request_id = foreign.uuid,
                // A list of activities names no payment.
                Some(PhysicalResult::Activities(_)) | None => {}
            },
            Envelope::Payment(PaymentEnvelope { body, .. }) => match body {
                PaymentBody::Null => {}
                PaymentBody::Query(query) => {
                    query.paywall.unique_code = foreign.uuid.to_string();
                    query.paywall.merchant_unique_code.clone_from(&foreign.code);
                }
                PaymentBody::Apm(apm) => {
                    apm.unique_code = foreign.uuid.to_string();
                    apm.merchant_unique_code.clone_from(&foreign.code);
                }
                PaymentBody::ApmQuery(apm) => {
                    apm.unique_code = foreign.uuid.to_string();
                    apm.merchant_unique_code.clone_from(&foreign.code);
                }
                PaymentBody::Batch(batch) => {
                    if let Some(first) = batch.payment_results.first_mut() {
                        first.merchant_unique_code.clone_from(&foreign.code);
                    }
                }
            },
        }
    }

    /// A provider that failed, inside what stays a success outside.
    pub(super) fn fail_inside(&mut self) {
        if let Envelope::Payment(PaymentEnvelope { body: PaymentBody::Apm(apm), .. }) = &mut self.envelope {
            apm.provider_dummy_response.fail();
        }
    }

    /// What a fault of the kind `Code` answers with.
    pub(super) fn coded(
        endpoint: Endpoint,
        error_code: Option<i64>,
        text: Option<&str>,
        status: u16,
    ) -> Self {
        let mut answer = Self::refused(
            endpoint,
            status,
            error_code.unwrap_or(1),
            text.unwrap_or_default(),
            text.unwrap_or("Unsuccessful"),
        );
        if let Envelope::Physical(envelope) = &mut answer.envelope {
            envelope.error_code = error_code;
            envelope.client_message = text.map(str::to_owned);
        }
        answer
    }

    /// The envelope that comes with a bare HTTP status.
    pub(super) fn of_status(endpoint: Endpoint, status: u16) -> Self {
        let text = match status {
            401 | 403 => "System.AuthError",
            400..=499 => "System.ValidationError",
            _ => "System.ServerError",
        };
        Self::refused(endpoint, status, i64::from(status), text, "The request could not be processed")
    }
}

/// Another payment's identifiers.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) uuid: uuid::Uuid,
    pub(super) code: String,
}

impl PhysicalEnvelope {
    fn bytes(&self) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Camel<'a> {
            result: &'a Option<PhysicalResult>,
            failed: bool,
            message: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error_code: Option<i64>,
            client_message: &'a Option<String>,
            succeeded: bool,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Pascal<'a> {
            result: &'a Option<PhysicalResult>,
            failed: bool,
            message: &'a Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error_code: Option<i64>,
            client_message: &'a Option<String>,
            succeeded: bool,
        }
        let Self { casing, result, failed, message, error_code, client_message, succeeded } = self;
        let (failed, error_code, succeeded) = (*failed, *error_code, *succeeded);
        match casing {
            Casing::Camel => {
                serde_json::to_vec(&Camel { result, failed, message, error_code, client_message, succeeded })
            }
            Casing::Pascal => {
                serde_json::to_vec(&Pascal { result, failed, message, error_code, client_message, succeeded })
            }
        }
    }
}

impl PaymentEnvelope {
    /// A failure without words. The cancel by unique code has no `ErrorCodeType` and no `ErrorMessage` in its sample.
    fn empty(endpoint: Endpoint) -> Self {
        let newer = endpoint != Endpoint::TransactionCancel;
        Self {
            error_code_type: newer.then_some(1),
            error_message: newer.then_some(None),
            error_code: 0,
            result: false,
            message: String::new(),
            body: PaymentBody::Null,
        }
    }
}

/// Decimal text as a JSON number with all its digits.
pub(super) fn number(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned())
        .expect("an amount was checked to be a plain decimal when it was seeded")
}
