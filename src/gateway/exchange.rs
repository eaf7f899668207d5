//! One bounded exchange: a request out, at most one reply back, and what can be said for sure when there is none.

use std::net::SocketAddr;

use hyper_util::client::legacy::connect::HttpInfo;
use reqwest::header::{CONTENT_ENCODING, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Request, Response};
use tokio::time::{Instant, timeout_at};

use super::{retry_after, unfold};
use crate::domain::reply::RetryAfter;
use crate::web::failure::{self, Failure};

/// The most bytes of a reply's body that are kept, before and after decompression.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How one exchange ended.
#[derive(Debug)]
pub(super) enum Exchange {
    /// The request could not be built.
    NotBuilt,
    /// No HTTP status came back. How far the request came, the fault says.
    Failed(Failed),
    /// An HTTP status came back.
    Answered(Received),
}

/// No HTTP status came back.
#[derive(Debug)]
pub(super) struct Failed {
    /// Why.
    pub(super) failure: Failure,
    /// Our end of the connection, if there was one and it is known.
    pub(super) local: Option<SocketAddr>,
}

/// An HTTP reply.
#[derive(Debug)]
pub(super) struct Received {
    /// The HTTP status code.
    pub(super) http_status: u16,
    /// `Retry-After`.
    pub(super) retry_after: Option<RetryAfter>,
    /// The whole body, decompressed; or why there is none: cut off, late, not decodable, or more than
    /// [`BODY_BYTES_MAX`].
    pub(super) body: Result<Vec<u8>, Failure>,
    /// Our end of the connection, if it is known.
    pub(super) local: Option<SocketAddr>,
}

/// Sends the request once and takes what comes back until `deadline`.
///
/// The error texts of the client are dropped on purpose: they carry addresses.
pub(super) async fn exchange(client: &Client, request: Request, deadline: Instant) -> Exchange {
    let mut response = match timeout_at(deadline, client.execute(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let Some(failure) = failure::of_request(&error) else { return Exchange::NotBuilt };
            return Exchange::Failed(Failed { failure, local: failure::local_end(&error) });
        }
        // The deadline may pass while we still connect, but from here nobody can tell; so it counts as sent.
        Err(_elapsed) => return Exchange::Failed(Failed { failure: failure::LATE, local: None }),
    };
    let http_status = response.status().as_u16();
    let local = response.extensions().get::<HttpInfo>().map(HttpInfo::local_addr);
    let retry_after = retry_after::read(response.headers().get(RETRY_AFTER));
    let folded = match body(&mut response, deadline).await {
        Ok(folded) => folded,
        Err(failure) => {
            return Exchange::Answered(Received { http_status, retry_after, body: Err(failure), local });
        }
    };
    let body = unfold::unfold(folded, encoding(response.headers()), BODY_BYTES_MAX);
    Exchange::Answered(Received { http_status, retry_after, body, local })
}

async fn body(response: &mut Response, deadline: Instant) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    loop {
        match timeout_at(deadline, response.chunk()).await {
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() > BODY_BYTES_MAX => {
                return Err(unfold::TOO_LARGE);
            }
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            Ok(Ok(None)) => return Ok(body),
            Ok(Err(error)) => return Err(failure::of_body(&error)),
            Err(_elapsed) => return Err(failure::LATE),
        }
    }
}

/// `Content-Encoding`, in one text; `None` where the body is as it is.
fn encoding(headers: &HeaderMap) -> Option<String> {
    let all: Vec<String> = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase())
        .filter(|value| !value.is_empty() && value != "identity")
        .collect();
    (!all.is_empty()).then(|| all.join(","))
}
