//! What came back, as plain facts. Tolerant about spelling, strict about what decides: a body that contradicts
//! itself or has another type where a decision hangs on it is no envelope at all.

pub(super) mod payment;
pub(super) mod physical;
#[cfg(test)]
mod tests;
mod tolerant;

use std::borrow::Cow;

use crate::domain::fault::Fault;
use crate::domain::http_status::HttpStatus;
use crate::domain::intent::Api;
use crate::domain::reply::{Answer, Envelope, Read, ReadRefusal};
use crate::web::failure::Failure;

use super::exchange::Received;
use tolerant::{Fields, Unreadable};

/// What stood where an envelope should: told where nothing else says what went wrong.
const NO_ENVELOPE: Failure = Failure::new(Fault::Unreadable, "the reply is no envelope of this API");

/// What was read of a reply.
#[derive(Debug, PartialEq)]
pub(super) struct Reading<T> {
    pub(super) read: T,
    /// Why it says nothing, where that is a fault of the exchange. A status that is no success speaks for itself.
    pub(super) failure: Option<Failure>,
}

/// The reply to a call of this API.
pub(super) fn answer(api: Api, received: &Received) -> Reading<Answer> {
    let http_status = received.http_status;
    let envelope = match &received.body {
        Ok(body) => {
            let text = text_of(body);
            let envelope = match api {
                Api::Physical => physical::envelope(&text).map(Envelope::Physical),
                Api::Private | Api::Payment => payment::envelope(&text).map(Envelope::Payment),
            };
            envelope.ok_or_else(|| HttpStatus::is_success(http_status).then_some(NO_ENVELOPE))
        }
        Err(failure) => Err(Some(*failure)),
    };
    let (envelope, failure) = match envelope {
        Ok(envelope) => (envelope, None),
        Err(failure) => (Envelope::Missing, failure),
    };
    let fault = failure.map(|failure| failure.fault);
    Reading { read: Answer { http_status, retry_after: received.retry_after, fault, envelope }, failure }
}

/// The body as text. What is no UTF-8 (a word in a legacy code page, mostly in `Message`) makes that word unreadable and
/// not the reply: all that JSON is made of, and all that decides, is ASCII, and is never a part of what is replaced.
fn text_of(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(body)
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
fn found<T>(
    received: &Received,
    says: impl for<'t> FnOnce(Fields<'t>) -> Result<Says<'t>, Unreadable>,
    payload: impl for<'t> FnOnce(Fields<'t>) -> Result<Option<T>, Unreadable>,
) -> Reading<Read<T>> {
    let http_status = received.http_status;
    let body = match &received.body {
        Ok(body) => body,
        Err(failure) => return Reading { read: Read::Unanswered, failure: Some(*failure) },
    };
    let text = text_of(body);
    let read = match Fields::parse(&text).and_then(says) {
        Ok(Says::Success(fields)) if HttpStatus::is_success(http_status) => match payload(fields) {
            Ok(Some(found)) => Read::Found(found),
            Ok(None) | Err(Unreadable) => Read::Unanswered,
        },
        Ok(Says::Failure { error_code, client_message }) => {
            Read::Refused(ReadRefusal { http_status, error_code, client_message })
        }
        Ok(Says::Success(_) | Says::Nothing) | Err(Unreadable) => Read::Unanswered,
    };
    let failure = match read {
        Read::Unanswered if HttpStatus::is_success(http_status) => Some(NO_ENVELOPE),
        Read::Unanswered | Read::Found(_) | Read::Refused(_) => None,
    };
    Reading { read, failure }
}
