//! One bounded exchange: a request out, at most one reply back, and what can be said for sure when there is none.

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Request, Response};
use tokio::time::{Instant, timeout_at};

use crate::domain::reply::{NeverSent, RetryAfter, Unanswered};

/// At most so many bytes of a reply's body are kept, counted after decompression.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How one exchange ended.
#[derive(Debug)]
pub(super) enum Exchange {
    /// Nothing of the request reached the gateway.
    NeverSent(NeverSent),
    /// Something of it may have, and no HTTP status came back.
    Unanswered(Unanswered),
    /// An HTTP status came back.
    Answered(Received),
}

/// An HTTP reply.
#[derive(Debug)]
pub(super) struct Received {
    /// The HTTP status code.
    pub(super) http_status: u16,
    /// `Retry-After`, if it could be read.
    pub(super) retry_after: Option<RetryAfter>,
    /// The whole body, decompressed; `None` if it was cut off, late, not decodable or more than
    /// [`BODY_BYTES_MAX`].
    pub(super) body: Option<Vec<u8>>,
}

/// Sends the request once and takes what comes back until `deadline`.
///
/// The error texts of the client are dropped on purpose: they carry addresses.
pub(super) async fn exchange(client: &Client, request: Request, deadline: Instant) -> Exchange {
    let mut response = match timeout_at(deadline, client.execute(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return ended(&error),
        // The deadline may pass while we still connect, but from here nobody can tell; so it counts as sent.
        Err(_elapsed) => return Exchange::Unanswered(Unanswered::TimedOut),
    };
    let http_status = response.status().as_u16();
    let retry_after = retry_after(response.headers());
    let body = body(&mut response, deadline).await;
    Exchange::Answered(Received { http_status, retry_after, body })
}

/// What an error of the client proves.
///
/// `is_connect` is true only for what failed before the connection was handed to the request: name, socket, TLS,
/// and the connect timeout over all three. Whatever fails later may have been read by the gateway.
fn ended(error: &reqwest::Error) -> Exchange {
    if error.is_builder() {
        Exchange::NeverSent(NeverSent::NotBuilt)
    } else if error.is_connect() {
        Exchange::NeverSent(NeverSent::NotConnected)
    } else if error.is_timeout() {
        Exchange::Unanswered(Unanswered::TimedOut)
    } else {
        Exchange::Unanswered(Unanswered::Broken)
    }
}

async fn body(response: &mut Response, deadline: Instant) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = timeout_at(deadline, response.chunk()).await.ok()?.ok()? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

/// `Retry-After`: a number of seconds, or a date in one of the three forms of RFC 9110 §5.6.7.
fn retry_after(headers: &HeaderMap) -> Option<RetryAfter> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than fit are still a number of seconds.
        return Some(RetryAfter::Seconds(text.parse().unwrap_or(u64::MAX)));
    }
    http_date(text).map(RetryAfter::At)
}

fn http_date(text: &str) -> Option<Timestamp> {
    const FORMS: [&str; 3] =
        ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let civil = FORMS.iter().find_map(|form| strtime::parse(form, text).ok()?.to_datetime().ok())?;
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn check(value: &'static str, expected: Option<RetryAfter>) {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
        assert_eq!(retry_after(&headers), expected, "{value}");
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_in_every_form_of_an_http_date() {
        let at = Some(RetryAfter::At("1994-11-06T08:49:37Z".parse().unwrap()));
        check("0", Some(RetryAfter::Seconds(0)));
        check("120", Some(RetryAfter::Seconds(120)));
        check("99999999999999999999999", Some(RetryAfter::Seconds(u64::MAX)));
        check("Sun, 06 Nov 1994 08:49:37 GMT", at);
        check("Sunday, 06-Nov-94 08:49:37 GMT", at);
        check("Sun Nov  6 08:49:37 1994", at);
    }

    #[test]
    fn a_retry_after_that_cannot_be_read_is_none() {
        for value in ["", "soon", "-1", "1.5", "Sun, 31 Feb 1994 08:49:37 GMT", "1994-11-06T08:49:37Z"] {
            check(value, None);
        }
    }
}
