//! The gateway over HTTP: one try of a call, or one look, into plain facts.
//!
//! Nothing is tried again here, nothing is judged, and nothing is logged: what came back is told as it came, and
//! what did not come back is told apart by what it proves. Keys, addresses and bodies leave this room only
//! towards the gateway.

mod exchange;
mod read;
mod request;
mod setup;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Client;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use crate::config::{self, TraceHeaders};
use crate::domain::intent::{Api, Code, Kind, MerchantName};
use crate::domain::reply::{
    Activity, ApmPayment, InquiryReply, NeverSent, PhysicalPayment, Read, Reply, VposPayment,
};
use crate::domain::step::{Call, Inquiry, Question};

use exchange::{Exchange, Received};
use read::payment::Asked;
use read::physical::{Gathered, Progress};
use request::{Outgoing, Pair};
use setup::MerchantKeys;

pub use setup::{Error, Fault, Mistake, Mistakes};

/// At most so many pages of one payment's activities are read; a longer history is no answer.
const ACTIVITIES_PAGES_MAX: usize = 20;

/// So many payments of a batch are asked for at the same time.
const BATCH_LOOK_CONCURRENCY: usize = 4;

/// The gateway. Cheap to clone: the clones share one HTTP client and its connections.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    client: Client,
    call_timeout: Duration,
    urls: BTreeMap<Api, Url>,
    keys: BTreeMap<MerchantName, MerchantKeys>,
    trace_headers: TraceHeaders,
    batch_callback_url: Option<Url>,
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
            keys,
            trace_headers: settings.trace_headers,
            batch_callback_url: settings.batch_callback_url.clone(),
        })))
    }

    /// The host that answers for this API; empty where none is configured.
    pub fn host(&self, api: Api) -> &str {
        self.0.urls.get(&api).and_then(Url::host_str).unwrap_or_default()
    }

    /// Makes the call, once, and tells what came back within one `call_timeout`. Never an error: a failure is data.
    ///
    /// `traceparent` travels only where `gateway.trace_headers` says so. An unknown merchant, a missing pair of
    /// keys, address or callback address give [`NeverSent::NotBuilt`].
    pub async fn call(&self, call: &Call, traceparent: Option<&str>) -> Reply {
        let outgoing = request::call(&call.order, self.0.batch_callback_url.as_ref());
        let Some(outgoing) = outgoing else { return Reply::NeverSent(NeverSent::NotBuilt) };
        let api = outgoing.api;
        let sender = Sender { inner: &self.0, merchant: &call.merchant, traceparent };
        match sender.send(outgoing, self.deadline()).await {
            Exchange::NeverSent(why) => Reply::NeverSent(why),
            Exchange::Unanswered(how) => Reply::Unanswered(how),
            Exchange::Answered(received) => Reply::Answered(read::answer(api, &received)),
        }
    }

    /// Asks all that the question's kind has to ask. Never an error: what was not answered is
    /// [`Read::Unanswered`].
    ///
    /// Each read of a look ends after one `call_timeout`, all pages of a history being one read, and all payments
    /// of a batch together too. Of a batch, payments whose turn did not come are left out.
    pub async fn inquire(&self, inquiry: &Inquiry, traceparent: Option<&str>) -> InquiryReply {
        let sender = Sender { inner: &self.0, merchant: &inquiry.merchant, traceparent };
        match &inquiry.question {
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
        }
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
}

impl Sender<'_> {
    async fn activities(&self, payment_request_id: Uuid, deadline: Instant) -> Read<Vec<Activity>> {
        let mut gathered = Gathered::default();
        for page_index in 0..ACTIVITIES_PAGES_MAX {
            let outgoing = request::activities(payment_request_id, page_index);
            let received = self.ask(outgoing, deadline).await;
            let page = match received.map(|received| read::physical::page(&received, payment_request_id)) {
                Some(Read::Found(page)) => page,
                Some(Read::Refused(refusal)) if page_index == 0 => return Read::Refused(refusal),
                // A history with a page missing may miss the very cancel that was looked for.
                Some(Read::Refused(_) | Read::Unanswered) | None => return Read::Unanswered,
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
        match self.ask(request::physical_inquiry(payment_request_id), deadline).await {
            Some(received) => read::physical::inquiry(&received, payment_request_id),
            None => Read::Unanswered,
        }
    }

    async fn transaction(&self, unique_code: Uuid, deadline: Instant) -> Read<VposPayment> {
        match self.ask(request::query_by_unique_code(unique_code), deadline).await {
            Some(received) => read::payment::vpos(&received, Asked::UniqueCode(unique_code)),
            None => Read::Unanswered,
        }
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
        let read = match self.ask(request::query_by_merchant_code(code), deadline).await {
            Some(received) => read::payment::vpos(&received, Asked::MerchantCode(code)),
            None => Read::Unanswered,
        };
        Some((index, read))
    }

    async fn apm(&self, code: &Code, deadline: Instant) -> Read<ApmPayment> {
        match self.ask(request::apm_query(code), deadline).await {
            Some(received) => read::payment::apm(&received, code),
            None => Read::Unanswered,
        }
    }

    async fn ask(&self, outgoing: Outgoing, deadline: Instant) -> Option<Received> {
        match self.send(outgoing, deadline).await {
            Exchange::Answered(received) => Some(received),
            Exchange::NeverSent(_) | Exchange::Unanswered(_) => None,
        }
    }

    async fn send(&self, outgoing: Outgoing, deadline: Instant) -> Exchange {
        match self.build(outgoing) {
            Some(request) => exchange::exchange(&self.inner.client, request, deadline).await,
            None => Exchange::NeverSent(NeverSent::NotBuilt),
        }
    }

    fn build(&self, outgoing: Outgoing) -> Option<reqwest::Request> {
        let pair = Pair::of(outgoing.api);
        let keys = self.inner.keys.get(self.merchant)?;
        let values = match pair {
            Pair::Private => keys.private.as_ref(),
            Pair::Public => keys.public.as_ref(),
        };
        let url = address(self.inner.urls.get(&outgoing.api)?, &outgoing.path);
        let mut request = reqwest::Request::new(outgoing.method, url);
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
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

/// The base address with the endpoint's path after its own.
fn address(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}
