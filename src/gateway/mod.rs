//! The gateway over HTTP: one try of a call, or one look, into plain facts.
//!
//! Nothing is tried again here, nothing is judged, and nothing is logged: what came back is told as it came, and
//! what did not come back is told apart by what it proves. Keys, addresses and bodies leave this room only
//! towards the gateway.

mod authorities;
mod endpoints;
mod exchange;
mod read;
mod request;
mod retry_after;
mod setup;
#[cfg(test)]
mod tests;
mod unfold;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Client;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use crate::config::{self, TraceHeaders};
use crate::domain::fault::{self, Reach};
use crate::domain::intent::{Api, Code, Kind, MerchantName};
use crate::domain::reply::{
    Activity, Answer, ApmPayment, Envelope, InquiryReply, NeverSent, PhysicalPayment, Read, Reply,
    VposPayment,
};
use crate::domain::step::{Call, Inquiry, Question};

use crate::web::failure::{self, Failure};

use endpoints::{Endpoints, FailurePoint};
use exchange::{Exchange, Failed, Received};
use read::Reading;
use read::payment::Asked;
use read::physical::{Gathered, Progress};
use request::{Outgoing, Pair};
use setup::{MerchantKeys, POOL_IDLE_TIMEOUT};

pub use authorities::Error as CaFileError;
pub use endpoints::{News, What};
pub use setup::{Error, InvalidSetting, InvalidSettings};

/// The most pages of one payment's activities that are read; a longer history is no answer.
const ACTIVITIES_PAGES_MAX: usize = 20;

/// A body of more bytes is read on a thread of its own: in the worst case it takes some milliseconds.
const READ_AT_ONCE_BYTES_MAX: usize = 64 * 1024;

/// So many payments of a batch are asked for at the same time.
const BATCH_LOOK_CONCURRENCY: usize = 4;

/// The gateway. Cheap to clone: the clones share one HTTP client and its connections.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    client: Client,
    call_timeout: Duration,
    urls: BTreeMap<Api, Url>,
    /// Replaced as a whole, so that a request has one pair.
    keys: RwLock<BTreeMap<MerchantName, MerchantKeys>>,
    trace_headers: TraceHeaders,
    batch_callback_url: Option<Url>,
    endpoints: Endpoints,
}

/// Says nothing about addresses and keys.
impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// The path of the endpoint that takes the calls of this kind: one of five, good for a span or a metric.
pub fn call_path(kind: Kind) -> &'static str {
    request::call_path(kind)
}

impl Gateway {
    /// The gateway at these addresses, with the keys of these merchants. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// Every mistake in the addresses and keys at once, or that this machine cannot speak TLS: see [`Error`].
    pub fn new(
        settings: &config::Gateway,
        merchants: &BTreeMap<MerchantName, config::Merchant>,
    ) -> Result<Gateway, Error> {
        let keys = setup::check(settings, merchants)?;
        Ok(Gateway(Arc::new(Inner {
            client: setup::client(settings)?,
            call_timeout: settings.call_timeout,
            urls: settings.urls.clone(),
            keys: RwLock::new(keys),
            trace_headers: settings.trace_headers,
            batch_callback_url: settings.batch_callback_url.clone(),
            endpoints: Endpoints::new(),
        })))
    }

    /// From now on requests carry these keys. Those under way keep the pair that they have.
    ///
    /// # Errors
    ///
    /// Keys that HTTP cannot carry: then all stays as it is.
    pub fn use_keys(
        &self,
        merchants: &BTreeMap<MerchantName, config::Merchant>,
    ) -> Result<(), InvalidSettings> {
        let keys = setup::keys(merchants)?;
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// The host that answers for this API; empty where none is configured.
    pub fn host(&self, api: Api) -> &str {
        self.0.urls.get(&api).and_then(Url::host_str).unwrap_or_default()
    }

    /// Says when a host or an endpoint of the gateway begins to fail, once a minute while it lasts, and when it answers
    /// again. Ends never; what happened before it is polled first is told then.
    pub async fn watch(&self, tell: impl Fn(News<'_>)) -> Infallible {
        let tell = |place, what| {
            let (api, endpoint) = match place {
                FailurePoint::Host(api) => (api, None),
                FailurePoint::Endpoint(api, endpoint) => (api, Some(endpoint)),
            };
            let port = self.0.urls.get(&api).and_then(Url::port_or_known_default);
            tell(News { api, host: self.host(api), port, endpoint, what });
        };
        self.0.endpoints.watch(tell).await
    }

    /// How many requests to this API died with a pooled connection that the other side had just closed: sent on a
    /// connection that had carried others before, and ended with it before a reply.
    pub fn stale_requests(&self, api: Api) -> u64 {
        self.0.endpoints.stale(api)
    }

    /// Makes the call, once, and tells what came back within one `call_timeout`. Never an error: a failure is data.
    ///
    /// `traceparent` travels only where `gateway.trace_headers` says so. An unknown merchant, a missing pair of
    /// keys, address or callback address give [`NeverSent::NotBuilt`].
    pub async fn call(&self, call: &Call, traceparent: Option<&str>) -> Reply {
        let outgoing = request::call(&call.order, self.0.batch_callback_url.as_ref());
        let Some(outgoing) = outgoing else { return Reply::NeverSent(NeverSent::NotBuilt) };
        let (api, endpoint) = (outgoing.api, outgoing.endpoint);
        let (sender, deadline) = (Sender::new(&self.0, &call.merchant, traceparent), self.deadline());
        let (reply, failure) = match sender.send(outgoing, deadline).await {
            Exchange::NotBuilt => return Reply::NeverSent(NeverSent::NotBuilt),
            Exchange::Failed(Failed { failure, .. }) => {
                let reply = match failure.fault.reach() {
                    Reach::NotConnected => Reply::NeverSent(NeverSent::NotConnected(failure.fault)),
                    Reach::Connected => Reply::Unanswered(failure.fault),
                };
                (reply, Some(failure))
            }
            Exchange::Answered(received) => {
                let late = Answer {
                    http_status: received.http_status,
                    retry_after: received.retry_after,
                    fault: Some(failure::LATE.fault),
                    envelope: Envelope::Missing,
                };
                let read = move |received: &Received| read::answer(api, received);
                let Reading { read, failure } = read_by(deadline, received, read, late).await;
                (Reply::Answered(read), failure)
            }
        };
        self.0.endpoints.hear(api, endpoint, failure);
        reply
    }

    /// Asks all that the question's kind has to ask. Never an error: what was not answered is
    /// [`Read::Unanswered`], and beside the reply stands how the last request failed that did.
    ///
    /// Each read of a look ends after one `call_timeout`, all pages of a history being one read, and all payments
    /// of a batch together too. Of a batch, payments whose turn did not come are left out.
    pub async fn inquire(
        &self,
        inquiry: &Inquiry,
        traceparent: Option<&str>,
    ) -> (InquiryReply, Option<fault::Fault>) {
        let sender = Sender::new(&self.0, &inquiry.merchant, traceparent);
        let reply = match &inquiry.question {
            Question::Physical { payment_request_id } => InquiryReply::Physical {
                activities: sender.activities(*payment_request_id, self.deadline()).await,
                inquiry: sender.physical(*payment_request_id, self.deadline()).await,
            },
            Question::Transaction { unique_code } => {
                InquiryReply::Transaction(sender.transaction(*unique_code, self.deadline()).await)
            }
            Question::Batch { payments } => {
                InquiryReply::Batch(sender.batch(payments, self.deadline()).await)
            }
            Question::Apm { merchant_unique_code } => {
                InquiryReply::Apm(sender.apm(merchant_unique_code, self.deadline()).await)
            }
        };
        (reply, sender.last_fault())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.call_timeout
    }
}

/// Sends for one merchant, under one trace.
struct Sender<'a> {
    inner: &'a Inner,
    merchant: &'a MerchantName,
    traceparent: Option<&'a str>,
    /// How the last request failed that did.
    last_fault: Mutex<Option<fault::Fault>>,
}

impl<'a> Sender<'a> {
    fn new(inner: &'a Inner, merchant: &'a MerchantName, traceparent: Option<&'a str>) -> Sender<'a> {
        Sender { inner, merchant, traceparent, last_fault: Mutex::default() }
    }

    fn last_fault(&self) -> Option<fault::Fault> {
        *self.last_fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn activities(&self, payment_request_id: Uuid, deadline: Instant) -> Read<Vec<Activity>> {
        let mut gathered = Gathered::default();
        for page_index in 0..ACTIVITIES_PAGES_MAX {
            let outgoing = request::activities(payment_request_id, page_index);
            let read = move |received: &Received| read::physical::page(received, payment_request_id);
            let page = match self.ask(outgoing, deadline, read).await {
                Read::Found(page) => page,
                Read::Refused(refusal) if page_index == 0 => return Read::Refused(refusal),
                // A history with a page missing may miss the very cancel that was looked for.
                Read::Refused(_) | Read::Unanswered => return Read::Unanswered,
            };
            match gathered.add(page) {
                Progress::More(so_far) => gathered = so_far,
                Progress::Whole(activities) => return Read::Found(activities),
                Progress::Stuck => return Read::Unanswered,
            }
        }
        Read::Unanswered
    }

    async fn physical(&self, payment_request_id: Uuid, deadline: Instant) -> Read<PhysicalPayment> {
        let read = move |received: &Received| read::physical::inquiry(received, payment_request_id);
        self.ask(request::physical_inquiry(payment_request_id), deadline, read).await
    }

    async fn transaction(&self, unique_code: Uuid, deadline: Instant) -> Read<VposPayment> {
        let read = move |received: &Received| read::payment::vpos(received, Asked::UniqueCode(unique_code));
        self.ask(request::query_by_unique_code(unique_code), deadline, read).await
    }

    async fn batch(&self, payments: &[(usize, Code)], deadline: Instant) -> Vec<(usize, Read<VposPayment>)> {
        // Nothing runs before it is polled, so the list is only the order of the turns.
        let turns: Vec<_> =
            payments.iter().map(|(index, code)| self.batch_item(*index, code, deadline)).collect();
        let reads = futures_util::stream::iter(turns).buffered(BATCH_LOOK_CONCURRENCY);
        reads.filter_map(std::future::ready).collect().await
    }

    /// `None` if the look has ended before this payment's turn came.
    async fn batch_item(
        &self,
        index: usize,
        code: &Code,
        deadline: Instant,
    ) -> Option<(usize, Read<VposPayment>)> {
        if Instant::now() >= deadline {
            return None;
        }
        let asked = code.clone();
        let read = move |received: &Received| read::payment::vpos(received, Asked::MerchantCode(&asked));
        Some((index, self.ask(request::query_by_merchant_code(code), deadline, read).await))
    }

    async fn apm(&self, code: &Code, deadline: Instant) -> Read<ApmPayment> {
        let asked = code.clone();
        let read = move |received: &Received| read::payment::apm(received, &asked);
        self.ask(request::apm_query(code), deadline, read).await
    }

    /// Sends the request, reads what came back, and takes note of how that ended.
    async fn ask<T: Send + 'static>(
        &self,
        outgoing: Outgoing,
        deadline: Instant,
        read: impl FnOnce(&Received) -> Reading<Read<T>> + Send + 'static,
    ) -> Read<T> {
        let (api, endpoint) = (outgoing.api, outgoing.endpoint);
        let Reading { read, failure } = match self.send(outgoing, deadline).await {
            Exchange::NotBuilt => return Read::Unanswered,
            Exchange::Failed(Failed { failure, .. }) => {
                Reading { read: Read::Unanswered, failure: Some(failure) }
            }
            Exchange::Answered(received) => read_by(deadline, received, read, Read::Unanswered).await,
        };
        self.inner.endpoints.hear(api, endpoint, failure);
        if let Some(Failure { fault, .. }) = failure {
            *self.last_fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        }
        read
    }

    async fn send(&self, outgoing: Outgoing, deadline: Instant) -> Exchange {
        let api = outgoing.api;
        let Some(request) = self.build(outgoing) else { return Exchange::NotBuilt };
        let exchange = exchange::exchange(&self.inner.client, request, deadline).await;
        match &exchange {
            Exchange::NotBuilt => {}
            Exchange::Failed(Failed { failure, local }) => {
                let used_within = POOL_IDLE_TIMEOUT.saturating_add(self.inner.call_timeout);
                self.inner.endpoints.failed_on(api, *local, failure.fault, used_within);
            }
            Exchange::Answered(received) => self.inner.endpoints.answered_on(received.local),
        }
        exchange
    }

    fn build(&self, outgoing: Outgoing) -> Option<reqwest::Request> {
        let pair = Pair::of(outgoing.api);
        let keys = self.inner.keys.read().unwrap_or_else(PoisonError::into_inner);
        let keys = keys.get(self.merchant)?;
        let values = match pair {
            Pair::Private => keys.private.as_ref(),
            Pair::Public => keys.public.as_ref(),
        };
        let url = address(self.inner.urls.get(&outgoing.api)?, &outgoing.path);
        let mut request = reqwest::Request::new(outgoing.method, url);
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(unfold::GZIP));
        for (name, value) in pair.header_names().into_iter().zip(values?) {
            headers.insert(HeaderName::from_static(name), value.clone());
        }
        if let Some((name, value)) = outgoing.header {
            headers.insert(HeaderName::from_static(name), HeaderValue::try_from(value).ok()?);
        }
        if let Some(traceparent) = self.traceparent() {
            headers.insert(HeaderName::from_static("traceparent"), traceparent);
        }
        if let Some(body) = outgoing.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(body.into());
        }
        Some(request)
    }

    /// A trace that HTTP cannot carry is left out: it must never stop a call.
    fn traceparent(&self) -> Option<HeaderValue> {
        match self.inner.trace_headers {
            TraceHeaders::Sent => HeaderValue::from_str(self.traceparent?).ok(),
            TraceHeaders::Kept => None,
        }
    }
}

/// Reads what came back, or gives `late` where that takes until after the deadline. What may take long does not hold up
/// everybody else's exchanges meanwhile.
async fn read_by<T: Send + 'static>(
    deadline: Instant,
    received: Received,
    read: impl FnOnce(&Received) -> Reading<T> + Send + 'static,
    late: T,
) -> Reading<T> {
    let is_long = received.body.as_ref().is_ok_and(|body| body.len() > READ_AT_ONCE_BYTES_MAX);
    if !is_long {
        return read(&received);
    }
    let reading = tokio::task::spawn_blocking(move || read(&received));
    match tokio::time::timeout_at(deadline, reading).await {
        Ok(Ok(reading)) => reading,
        // A panic is the step's, which knows what to make of it.
        Ok(Err(broken)) => match broken.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_the_runtime_stops) => Reading { read: late, failure: Some(failure::LATE) },
        },
        Err(_elapsed) => Reading { read: late, failure: Some(failure::LATE) },
    }
}

/// The base address with the endpoint's path after its own.
fn address(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}
