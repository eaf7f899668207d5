//! The envelope of the PaymentAPI and the PaymentPrivateAPI (`paywall.md` §4.2), and its payloads (§7.3, §7.4).

use uuid::Uuid;

use crate::domain::intent::{BatchPayments, Code};
use crate::domain::paywall::{ApmStatus, ApmType, VposStatus, VposType};
use crate::domain::reply::{
    ApmPayment, PaymentBody, PaymentEnvelope, PaymentResult, Provider, Read, VposPayment,
};
use crate::gateway::exchange::Received;

use super::tolerant::{Field, Fields, Unreadable};
use super::{Reading, Says, found};

/// The envelope of a call's reply; `None` if the body is none: nothing in it says how the call went.
pub(crate) fn envelope(body: &str) -> Option<PaymentEnvelope> {
    let fields = Fields::parse(body).ok()?;
    read_envelope(&fields).ok().filter(|envelope| envelope.error_code.is_some() || envelope.result.is_some())
}

fn read_envelope(fields: &Fields<'_>) -> Result<PaymentEnvelope, Unreadable> {
    Ok(PaymentEnvelope {
        error_code: fields.integer("ErrorCode")?,
        error_code_type: fields.integer("ErrorCodeType").ok().flatten(),
        result: fields.boolean("Result")?,
        body: fields.object_if_any("Body")?.map(|body| call_body(&body)).transpose()?,
    })
}

fn call_body(fields: &Fields<'_>) -> Result<PaymentBody, Unreadable> {
    let results = fields.objects("PaymentResults", BatchPayments::LEN_MAX)?;
    Ok(PaymentBody {
        result: fields.boolean("Result")?,
        unique_code: fields.text("UniqueCode")?,
        merchant_unique_code: fields.text("MerchantUniqueCode")?,
        apm_transaction_id: fields.integer("ApmTransactionId").ok().flatten(),
        amount: fields.amount("Amount"),
        provider: fields.object("ProviderDummyResponse")?.map(|fields| provider(&fields)).transpose()?,
        total_payment_count: fields.integer("TotalPaymentCount")?,
        payment_results: results.map(|results| results.iter().map(payment_result).collect()).transpose()?,
    })
}

fn provider(fields: &Fields<'_>) -> Result<Provider, Unreadable> {
    Ok(Provider { error_code: fields.integer("ErrorCode")?, http_code: fields.integer("HttpCode")? })
}

fn payment_result(fields: &Fields<'_>) -> Result<PaymentResult, Unreadable> {
    Ok(PaymentResult {
        merchant_unique_code: fields.text("MerchantUniqueCode")?,
        status: fields.integer("Status")?,
        bulk_payment_id: fields.integer("BulkPaymentId").ok().flatten(),
    })
}

fn says<'a>(fields: Fields<'a>) -> Result<Says<'a>, Unreadable> {
    let error_code = fields.integer("ErrorCode")?;
    Ok(match (error_code, fields.boolean("Result")?) {
        (Some(0), Some(true)) => Says::Success(fields),
        (Some(0), Some(false) | None) | (None, Some(true) | None) | (Some(_), Some(true)) => Says::Nothing,
        (Some(_), Some(false) | None) | (None, Some(false)) => {
            Says::Failure { error_code, client_message: None }
        }
    })
}

/// What a virtual-POS payment was asked for by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked<'a> {
    /// The gateway's code.
    UniqueCode(Uuid),
    /// The merchant's code.
    MerchantCode(&'a Code),
}

/// The reply to a private query: `Body.Paywall`, or `Body` itself where it carries the fields.
pub(crate) fn vpos(received: &Received, asked: Asked<'_>) -> Reading<Read<VposPayment>> {
    found(received, says, |fields| {
        let Some(body) = fields.object("Body")? else { return Ok(None) };
        match body.object("Paywall")? {
            Some(paywall) => vpos_payment(&paywall, asked),
            None => vpos_payment(&body, asked),
        }
    })
}

fn vpos_payment(fields: &Fields<'_>, asked: Asked<'_>) -> Field<VposPayment> {
    let payment = VposPayment {
        unique_code: fields.text("UniqueCode")?,
        merchant_unique_code: fields.text("MerchantUniqueCode")?,
        amount: fields.amount("PaymentAmount"),
        kind: fields.integer("TypeId")?.map(VposType::from_code),
        status: fields.integer("StatusId")?.map(VposStatus::from_code),
        any_success_payment: fields.boolean("AnySuccessPayment")?,
        any_success_refund: fields.boolean("AnySuccessRefund")?,
        any_success_partial_refund: fields.boolean("AnySuccessPartialRefund")?,
        any_success_cancel: fields.boolean("AnySuccessCancel")?,
    };
    let is_ours = match asked {
        // A text that is no uuid names another payment.
        Asked::UniqueCode(asked) => payment.unique_code.as_ref().is_none_or(|code| code.parse() == Ok(asked)),
        Asked::MerchantCode(asked) => is_this_code(&payment.merchant_unique_code, asked),
    };
    let tells = payment.kind.is_some()
        || payment.status.is_some()
        || payment.any_success_payment.is_some()
        || payment.any_success_refund.is_some()
        || payment.any_success_partial_refund.is_some()
        || payment.any_success_cancel.is_some();
    Ok((is_ours && tells).then_some(payment))
}

/// The reply to an APM query.
pub(crate) fn apm(received: &Received, asked: &Code) -> Reading<Read<ApmPayment>> {
    found(received, says, |fields| match fields.object("Body")? {
        Some(body) => apm_payment(&body, asked),
        None => Ok(None),
    })
}

fn apm_payment(fields: &Fields<'_>, asked: &Code) -> Field<ApmPayment> {
    let payment = ApmPayment {
        unique_code: fields.text("UniqueCode")?,
        merchant_unique_code: fields.text("MerchantUniqueCode")?,
        apm_transaction_id: fields.integer("ApmTransactionId").ok().flatten(),
        amount: fields.amount("Amount"),
        kind: fields.integer("TypeId")?.map(ApmType::from_code),
        status: fields.integer("StatusId")?.map(ApmStatus::from_code),
    };
    let is_ours = is_this_code(&payment.merchant_unique_code, asked);
    let tells = payment.kind.is_some() || payment.status.is_some();
    Ok((is_ours && tells).then_some(payment))
}

fn is_this_code(code: &Option<String>, asked: &Code) -> bool {
    code.as_ref().is_none_or(|code| code == asked.as_str())
}
