//! The PhysicalAPI's envelope (`paywall.md` §4.1), and its payloads (§7.1, §7.2).

use std::collections::HashSet;

use uuid::Uuid;

use crate::domain::paywall::{PhysicalStatus, PhysicalType};
use crate::domain::reply::{Activity, PhysicalEnvelope, PhysicalPayment, PhysicalResult, Read};
use crate::gateway::exchange::Received;
use crate::gateway::request::ACTIVITIES_PAGE_SIZE;

use super::tolerant::{Field, Fields, Unreadable, fixed_code};
use super::{Reading, Says, found};

/// The envelope of a call's reply; `None` if the body is none: nothing in it says how the call went.
pub(crate) fn envelope(body: &str) -> Option<PhysicalEnvelope> {
    let fields = Fields::parse(body).ok()?;
    let mut envelope = head(&fields).ok()?;
    envelope.result = fields.object("Result").and_then(|result| result.map(call_result).transpose()).ok()?;
    let PhysicalEnvelope { succeeded, failed, error_code, client_message, result: _ } = &envelope;
    let says_something =
        succeeded.is_some() || failed.is_some() || error_code.is_some() || client_message.is_some();
    says_something.then_some(envelope)
}

fn head(fields: &Fields<'_>) -> Result<PhysicalEnvelope, Unreadable> {
    Ok(PhysicalEnvelope {
        succeeded: fields.boolean("Succeeded")?,
        failed: fields.boolean("Failed")?,
        error_code: fields.integer("ErrorCode")?,
        client_message: fields.text("ClientMessage")?.and_then(fixed_code),
        result: None,
    })
}

fn call_result(fields: Fields<'_>) -> Result<PhysicalResult, Unreadable> {
    Ok(PhysicalResult {
        payment_request_id: fields.uuid("PaymentRequestId")?,
        activity_id: activity_id(&fields, "PaymentRequestActivityId"),
        activity_type: fields.integer("PaymentRequestActivityTypeId")?.map(PhysicalType::from_code),
        status: fields.integer("PaymentStatus")?.map(PhysicalStatus::from_code),
    })
}

/// An activity's id decides nothing; what is none is as good as absent.
fn activity_id(fields: &Fields<'_>, name: &str) -> Option<Uuid> {
    fields.uuid(name).ok().flatten().filter(|id| !id.is_nil())
}

fn says<'a>(fields: Fields<'a>) -> Result<Says<'a>, Unreadable> {
    // Another type of `Result` is another API's envelope: its codes are not this one's.
    fields.object("Result")?;
    let PhysicalEnvelope { succeeded, failed, error_code, client_message, result: _ } = head(&fields)?;
    let names_a_code = client_message.is_some() || error_code.is_some_and(|code| code != 0);
    Ok(match (succeeded, failed) {
        (Some(true), Some(false) | None) if error_code.is_none_or(|code| code == 0) => Says::Success(fields),
        (Some(false), Some(true) | None) | (None, Some(true)) => Says::Failure { error_code, client_message },
        (None, None) if names_a_code => Says::Failure { error_code, client_message },
        (Some(true), Some(_) | None) | (Some(false), Some(false)) | (None, Some(false) | None) => {
            Says::Nothing
        }
    })
}

/// The reply to a payment's inquiry.
pub(crate) fn inquiry(received: &Received, asked: Uuid) -> Reading<Read<PhysicalPayment>> {
    found(received, says, |fields| match fields.object("Result")? {
        Some(result) => payment(&result, asked),
        None => Ok(None),
    })
}

fn payment(fields: &Fields<'_>, asked: Uuid) -> Field<PhysicalPayment> {
    let payment = PhysicalPayment {
        payment_request_id: fields.uuid("PaymentRequestId")?,
        activity_id: activity_id(fields, "PaymentRequestActivityId"),
        merchant_unique_code: fields.text("MerchantUniqueCode").ok().flatten(),
        amount: fields.amount("Amount"),
        kind: fields.integer("PaymentTypeId")?.map(PhysicalType::from_code),
        status: fields.integer("PaymentStatusId")?.map(PhysicalStatus::from_code),
    };
    let is_ours = payment.payment_request_id.is_none_or(|id| id == asked);
    let tells = payment.kind.is_some() || payment.status.is_some();
    Ok((is_ours && tells).then_some(payment))
}

/// One page of a payment's activities.
#[derive(Debug, PartialEq)]
pub(crate) struct Page {
    activities: Vec<Activity>,
    /// `Pagination.TotalCount`: of all pages together.
    total_count: Option<usize>,
    /// `Pagination.PageCount`.
    page_count: Option<usize>,
}

/// The reply to a request for one page.
pub(crate) fn page(received: &Received, asked: Uuid) -> Reading<Read<Page>> {
    found(received, says, |fields| match fields.object("Result")? {
        Some(result) => activities(&result, asked),
        None => Ok(None),
    })
}

/// `Items` null is an empty history; `Items` absent is another payload than the one asked for, and so are more of them
/// than were asked for.
fn activities(fields: &Fields<'_>, asked: Uuid) -> Field<Page> {
    if !fields.has("Items") {
        return Ok(None);
    }
    let items = fields.objects("Items", ACTIVITIES_PAGE_SIZE)?.unwrap_or_default();
    // No page of the gateway names the payment here; one that does must mean ours.
    for named in std::iter::once(fields).chain(&items) {
        if named.uuid("PaymentRequestId")?.is_some_and(|id| id != asked) {
            return Ok(None);
        }
    }
    let (total_count, page_count) = match fields.object("Pagination")? {
        Some(pagination) => (pagination.count("TotalCount")?, pagination.count("PageCount")?),
        None => (None, None),
    };
    let activities = items.iter().map(activity).collect::<Result<_, _>>()?;
    Ok(Some(Page { activities, total_count, page_count }))
}

/// An activity without a type or a status tells nothing about what happened, and hides what did.
fn activity(fields: &Fields<'_>) -> Result<Activity, Unreadable> {
    Ok(Activity {
        id: activity_id(fields, "Id"),
        kind: PhysicalType::from_code(fields.integer("PaymentTypeId")?.ok_or(Unreadable)?),
        status: PhysicalStatus::from_code(fields.integer("PaymentStatusId")?.ok_or(Unreadable)?),
        date: fields.date_time("Date"),
    })
}

/// A payment's history, as far as its pages have been read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Gathered {
    activities: Vec<Activity>,
    /// Those of them that can be told from others.
    known: HashSet<Activity>,
    pages: usize,
}

/// Whether a history is whole.
#[derive(Debug, PartialEq)]
pub(crate) enum Progress {
    /// There is a next page.
    More(Gathered),
    /// All pages are read.
    Whole(Vec<Activity>),
    /// Activities are missing, and no page brings them.
    Stuck,
}

impl Gathered {
    /// Adds the next page. What the pages before it had already (new activities shift old ones to later pages) is
    /// not added twice.
    pub(crate) fn add(mut self, page: Page) -> Progress {
        let (before, on_page) = (self.activities.len(), page.activities.len());
        for activity in page.activities {
            if activity.id.is_none() || self.known.insert(activity.clone()) {
                self.activities.push(activity);
            }
        }
        self.pages += 1;
        let counted = page.total_count.map(|count| self.activities.len() >= count);
        let turned = page.page_count.map(|count| self.pages >= count);
        let is_whole = match (counted, turned) {
            (None, None) => on_page < ACTIVITIES_PAGE_SIZE,
            (counted, turned) => counted.unwrap_or(true) && turned.unwrap_or(true),
        };
        if is_whole {
            Progress::Whole(self.activities)
        } else if self.activities.len() > before {
            Progress::More(self)
        } else if counted == Some(true) {
            // The count is the promise; a page that brings nothing new is the end whatever the number of pages.
            Progress::Whole(self.activities)
        } else {
            Progress::Stuck
        }
    }
}
