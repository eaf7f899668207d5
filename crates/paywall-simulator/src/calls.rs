//! The story of one call: from the request as it came to the reply, or to what happens in its place.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    body::{Body, Bytes, Frame},
    header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER},
};
use rand::Rng;
use tokio::sync::oneshot;

use super::{
    Handle, State,
    answer::{Answer, Foreign},
    api::{self, Api, Endpoint},
    faults::{FaultKind, FaultPoint, HttpBody, Strike, Target},
    request::{Invalid, Request},
    truth::{CallRecord, RequestHeaders, RequestRecord},
    world::Named,
};

const JSON: &str = "application/json; charset=utf-8";
/// How much of a body is kept in the books.
const BODY_KEPT_BYTES_MAX: usize = 128 * 1024;

/// The body of a reply.
pub(super) type ReplyBody = UnsyncBoxBody<Bytes, io::Error>;

/// What becomes of a request.
pub(super) enum Reply {
    Http(Response<ReplyBody>),
    Close,
    Reset,
}

/// A request, read whole.
pub(super) struct Incoming {
    pub(super) api: Api,
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A call of an endpoint, as far as it can be understood.
struct Call {
    endpoint: Endpoint,
    number: u64,
    merchant: Option<String>,
    request: Result<Request, Invalid>,
    named: Vec<Named>,
}

/// Handles one request. It goes on when the caller hangs up, unless a fault says otherwise: a gateway does, too.
pub(super) async fn handle(handle: Handle, incoming: Incoming, told: oneshot::Sender<Reply>) {
    let body: Arc<str> = kept(&incoming.body).into();
    let path = incoming.path.split('?').next().unwrap_or_default();
    let routed = api::route(incoming.api, path);
    handle.note_request(&incoming, routed.as_ref().map(|(endpoint, _)| *endpoint), &body);
    let Some((endpoint, path_id)) = routed else {
        let _ = told.send(Reply::Http(bare(StatusCode::NOT_FOUND)));
        return;
    };
    if incoming.method != endpoint.method() {
        let mut reply = bare(StatusCode::METHOD_NOT_ALLOWED);
        let allowed = HeaderValue::from_static(if endpoint.method() == Method::GET { "GET" } else { "POST" });
        reply.headers_mut().insert(ALLOW, allowed);
        let _ = told.send(Reply::Http(reply));
        return;
    }
    if incoming.method == Method::POST && !says_json(&incoming.headers) {
        let _ = told.send(Reply::Http(bare(StatusCode::UNSUPPORTED_MEDIA_TYPE)));
        return;
    }
    let merchant = handle.merchant_of(incoming.api, &incoming.headers);
    let request = Request::read(endpoint, path_id.as_deref(), &incoming.headers, &incoming.body);
    let named = request.as_ref().map_or_else(|_| Vec::new(), Request::named);
    let asked = match endpoint.method() == Method::GET {
        true => named.first().map_or_else(|| body, |named| named.identifier.name().into()),
        false => body,
    };
    let mut call = Call { endpoint, number: 0, merchant, request, named };
    let strike = handle.arrive(&mut call, asked);
    let Some(strike) = strike else {
        let answer = handle.perform(&call);
        handle.tell(&call, told, plain(&answer));
        return;
    };
    struck(handle, call, strike, told).await;
}

/// What happens to a call that a fault strikes.
async fn struck(handle: Handle, call: Call, strike: Strike, mut told: oneshot::Sender<Reply>) {
    let Strike { what, point, released, .. } = strike;
    // The answer that the call would have got, with its effect or without.
    let answer = || match point {
        FaultPoint::AfterEffect => handle.perform(&call),
        FaultPoint::BeforeEffect => handle.pretend(&call),
    };
    let effect_only = || match point {
        FaultPoint::AfterEffect => drop(handle.perform(&call)),
        FaultPoint::BeforeEffect => {}
    };
    let reply = match what {
        FaultKind::Delay { ms } => {
            let early = match point {
                FaultPoint::AfterEffect => Some(handle.perform(&call)),
                FaultPoint::BeforeEffect => None,
            };
            tokio::time::sleep(Duration::from_millis(ms)).await;
            plain(&early.unwrap_or_else(|| handle.perform(&call)))
        }
        FaultKind::Hang => {
            let early = match point {
                FaultPoint::AfterEffect => Some(handle.perform(&call)),
                FaultPoint::BeforeEffect => None,
            };
            tokio::select! {
                () = released.cancelled() => {}
                () = told.closed() => return,
            }
            plain(&early.unwrap_or_else(|| handle.perform(&call)))
        }
        FaultKind::Reset => {
            effect_only();
            Reply::Reset
        }
        FaultKind::Close => {
            effect_only();
            Reply::Close
        }
        FaultKind::Http { status, body, retry_after, location } => {
            effect_only();
            Reply::Http(status_reply(call.endpoint, status, body, retry_after, location))
        }
        FaultKind::Code { error_code, client_message, status } => {
            effect_only();
            plain(&Answer::coded(call.endpoint, error_code, client_message.as_deref(), status))
        }
        FaultKind::Contradiction => twisted(answer(), Answer::contradict),
        FaultKind::Oversized => twisted(answer(), Answer::inflate),
        FaultKind::ProviderFailure => twisted(answer(), Answer::fail_inside),
        FaultKind::ForeignId => {
            let foreign = handle.foreign();
            twisted(answer(), |answer| answer.misname(&foreign))
        }
        FaultKind::Garbage => {
            effect_only();
            Reply::Http(full(StatusCode::OK, JSON, b"\x00{\"Result\": tru".to_vec()))
        }
        FaultKind::Empty => {
            effect_only();
            Reply::Http(full(StatusCode::OK, JSON, Vec::new()))
        }
        FaultKind::Truncated => Reply::Http(truncated(&answer())),
        FaultKind::Raw { status, headers, body } => {
            effect_only();
            Reply::Http(raw(status, &headers, body))
        }
        // It closes a port and strikes no calls.
        FaultKind::RefuseConnection { .. } => plain(&handle.perform(&call)),
    };
    handle.tell(&call, told, reply);
}

impl Handle {
    fn note_request(&self, incoming: &Incoming, endpoint: Option<Endpoint>, body: &Arc<str>) {
        let headers = incoming
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        self.with(|state| {
            state.requests_seen += 1;
            let record = RequestRecord {
                number: state.requests_seen,
                at: state.clock.now(),
                api: incoming.api,
                endpoint,
                method: incoming.method.to_string(),
                path: incoming.path.clone(),
                headers: RequestHeaders(headers),
                body: Arc::clone(body),
            };
            if state.requests.len() >= self.requests_kept_max() {
                state.requests.pop_front();
            }
            state.requests.push_back(record);
        });
    }

    /// Writes a call into the books, and says which fault strikes it.
    fn arrive(&self, call: &mut Call, asked: Arc<str>) -> Option<Strike> {
        let auto_seed = self.auto_seed();
        let strike = self.with(|state| {
            let now = state.clock.now();
            let State { world, faults, rng, .. } = state;
            let merchant = call.merchant.as_deref();
            if let (true, Some(merchant)) = (auto_seed, merchant) {
                world.meet(now, merchant, call.endpoint, &call.named);
            }
            let names = world.names(merchant, &call.named);
            let strike = faults.strike(&Target { endpoint: call.endpoint, merchant, names: &names }, rng);
            state.calls_seen += 1;
            call.number = state.calls_seen;
            let record = CallRecord {
                number: call.number,
                at: now,
                endpoint: call.endpoint,
                merchant: call.merchant.clone(),
                body: asked,
                effect: None,
                fault: strike.as_ref().map(|strike| strike.id),
                replied: None,
            };
            state.world.note_call(now, merchant, &call.named, &record);
            strike
        });
        self.changed();
        strike
    }

    /// Does what a call asks.
    fn perform(&self, call: &Call) -> Answer {
        let answer = self.with(|state| {
            let (now, world) = (state.clock.now(), &mut state.world);
            let status = world.rules.refusal_http_status;
            let Some(merchant) = call.merchant.as_deref() else {
                return Answer::unauthorised(call.endpoint);
            };
            let request = match &call.request {
                Ok(request) => request,
                Err(invalid) => return invalid.answer(call.endpoint, status),
            };
            let mut touched = world.watch(now, merchant, &call.named);
            let answer = request.answer(call.endpoint, world, now, merchant);
            world.compare(now, &mut touched);
            let amend = |record: &mut CallRecord, touched: Option<&super::world::Touched>| {
                record.effect = touched.and_then(|touched| touched.what);
            };
            world.amend_call(Some(merchant), &call.named, call.number, amend, &touched);
            answer
        });
        self.changed();
        answer
    }

    /// What a call would be answered, without doing it.
    fn pretend(&self, call: &Call) -> Answer {
        self.with(|state| {
            let (now, world) = (state.clock.now(), &mut state.world);
            let status = world.rules.refusal_http_status;
            match (call.merchant.as_deref(), &call.request) {
                (None, _) => Answer::unauthorised(call.endpoint),
                (Some(_), Err(invalid)) => invalid.answer(call.endpoint, status),
                (Some(merchant), Ok(request)) => world.pretend(merchant, &call.named, |world| {
                    request.answer(call.endpoint, world, now, merchant)
                }),
            }
        })
    }

    /// Sends a reply. The books say so first, so that a caller that has the reply finds it there.
    fn tell(&self, call: &Call, told: oneshot::Sender<Reply>, reply: Reply) {
        let status = match &reply {
            Reply::Http(response) => Some(response.status().as_u16()),
            Reply::Close | Reply::Reset => None,
        };
        self.note_reply(call, status);
        if told.send(reply).is_err() {
            self.note_reply(call, None);
        }
        self.changed();
    }

    fn note_reply(&self, call: &Call, replied: Option<u16>) {
        self.with(|state| {
            let amend = |record: &mut CallRecord, _: Option<&super::world::Touched>| record.replied = replied;
            state.world.amend_call(call.merchant.as_deref(), &call.named, call.number, amend, &[]);
        });
    }

    fn foreign(&self) -> Foreign {
        self.with(|state| {
            let uuid = uuid::Builder::from_random_bytes(state.rng.random()).into_uuid();
            Foreign { uuid, code: format!("FOREIGN-{}", uuid.simple()) }
        })
    }
}

/// The text of a body, as much of it as is kept.
fn kept(body: &[u8]) -> String {
    let end = body.len().min(BODY_KEPT_BYTES_MAX);
    String::from_utf8_lossy(body.get(..end).unwrap_or_default()).into_owned()
}

/// The gateway's framework reads no body that does not say that it is JSON.
fn says_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        let media = value.split(';').next().unwrap_or_default().trim();
        media.eq_ignore_ascii_case("application/json") || media.to_ascii_lowercase().ends_with("+json")
    })
}

fn plain(answer: &Answer) -> Reply {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    Reply::Http(full(status, JSON, answer.bytes()))
}

fn twisted(mut answer: Answer, twist: impl FnOnce(&mut Answer)) -> Reply {
    twist(&mut answer);
    plain(&answer)
}

/// A reply with a body.
pub(super) fn full(status: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Response<ReplyBody> {
    let never = |never: Infallible| match never {};
    let mut reply = Response::new(Full::new(body.into()).map_err(never).boxed_unsync());
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    reply
}

/// A reply without a body, as the gateway's framework gives before any of the gateway's own code runs.
pub(super) fn bare(status: StatusCode) -> Response<ReplyBody> {
    let mut reply = full(status, JSON, Bytes::new());
    reply.headers_mut().remove(CONTENT_TYPE);
    reply
}

fn status_reply(
    endpoint: Endpoint,
    status: u16,
    body: HttpBody,
    retry_after: Option<String>,
    location: Option<String>,
) -> Response<ReplyBody> {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = match body {
        HttpBody::Empty => bare(code),
        HttpBody::Html => full(code, "text/html", format!("<html><h1>{code}</h1></html>")),
        HttpBody::Envelope => full(code, JSON, Answer::of_status(endpoint, status).bytes()),
    };
    for (name, value) in [(RETRY_AFTER, retry_after), (LOCATION, location)] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            reply.headers_mut().insert(name, value);
        }
    }
    reply
}

fn raw(status: u16, headers: &[(String, String)], body: String) -> Response<ReplyBody> {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = full(code, JSON, body);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            reply.headers_mut().insert(name, value);
        }
    }
    reply
}

/// Promises the whole of an answer and gives the half of it.
fn truncated(answer: &Answer) -> Response<ReplyBody> {
    let bytes = Bytes::from(answer.bytes());
    let half = bytes.slice(..bytes.len() / 2);
    let mut reply = Response::new(CutShort { half: Some(half), flushed: false }.boxed_unsync());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    reply
}

/// A body that ends too early: one half, then an error that makes the server close the connection.
struct CutShort {
    half: Option<Bytes>,
    flushed: bool,
}

impl Body for CutShort {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(half) = self.half.take() {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        if !self.flushed {
            // The server writes out what it has when a body makes it wait; an error at once would swallow the half.
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::Error::other("cut short as planned"))))
    }
}
