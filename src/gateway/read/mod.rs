//! What came back, as plain facts. Tolerant about spelling, strict about what decides: a body that contradicts
//! itself or has another type where a decision hangs on it is no envelope at all.

pub(super) mod payment;
pub(super) mod physical;
#[cfg(test)]
mod tests;
mod tolerant;

use crate::domain::intent::Api;
use crate::domain::reply::{Answer, Envelope, Read, ReadRefusal};

use super::exchange::Received;
use tolerant::{Fields, Unreadable};

/// The reply to a call of this API.
pub(super) fn answer(api: Api, received: &Received) -> Answer {
    let body = received.body.as_deref().unwrap_or_default();
    let envelope = match api {
        Api::Physical => physical::envelope(body).map(Envelope::Physical),
        Api::Private | Api::Payment => payment::envelope(body).map(Envelope::Payment),
    };
    Answer {
        http_status: received.http_status,
        retry_after: received.retry_after,
        envelope: envelope.unwrap_or(Envelope::Missing),
    }
}

/// What an envelope says about the inquiry that it answers.
enum Says<'a> {
    /// Success, and this is the object around the payload.
    Success(Fields<'a>),
    /// Failure, with these codes.
    Failure { error_code: Option<i64>, client_message: Option<String> },
    /// Neither, or both.
    Nothing,
}

/// The one rule for every inquiry: found needs 2xx, an envelope that says success, and the payload that was asked
/// for; a readable failure is a refusal whatever the HTTP status; anything else is no answer.
fn found<'a, T>(
    received: &'a Received,
    says: impl FnOnce(Fields<'a>) -> Result<Says<'a>, Unreadable>,
    payload: impl FnOnce(Fields<'a>) -> Result<Option<T>, Unreadable>,
) -> Read<T> {
    let http_status = received.http_status;
    let body = received.body.as_deref().unwrap_or_default();
    match Fields::parse(body).and_then(says) {
        Ok(Says::Success(fields)) if (200..300).contains(&http_status) => match payload(fields) {
            Ok(Some(found)) => Read::Found(found),
            Ok(None) | Err(Unreadable) => Read::Unanswered,
        },
        Ok(Says::Failure { error_code, client_message }) => {
            Read::Refused(ReadRefusal { http_status, error_code, client_message })
        }
        Ok(Says::Success(_) | Says::Nothing) | Err(Unreadable) => Read::Unanswered,
    }
}
