//! The gateway over HTTP: one try of a call, or one look, into plain facts. The only home of reqwest.
//!
//! Nothing is tried again here, nothing is judged, and nothing is logged: what came back is told as it came, and
//! what did not come back is told apart by what it proves. Keys, addresses and bodies leave this room only
//! towards the gateway.

mod exchange;
mod read;
mod request;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::Client;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use rustls::crypto::CryptoProvider;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use url::{Host, Url};
use uuid::Uuid;

use crate::config::{self, KeyPair, PlainHttp, TraceHeaders};
use crate::domain::intent::{Api, Code, Kind, MerchantName};
use crate::domain::reply::{
    Activity, ApmPayment, InquiryReply, NeverSent, PhysicalPayment, Read, Reply, VposPayment,
};
use crate::domain::step::{Call, Inquiry, Question};

use exchange::{Exchange, Received};
use read::payment::Asked;
use read::physical::{Gathered, Progress};
use request::{Outgoing, Pair};

/// At most so many pages of one payment's activities are read; a longer history is no answer.
const ACTIVITIES_PAGES_MAX: usize = 20;

/// So many payments of a batch are asked for at the same time.
const BATCH_LOOK_CONCURRENCY: usize = 4;

/// An idle connection is kept so long: shorter than servers usually keep theirs, since a request on a connection
/// that the server is just closing ends in doubt.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// At most so many idle connections are kept for each address.
const POOL_IDLE_PER_HOST_MAX: usize = 32;

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

/// A merchant's keys as header values, each marked as sensitive.
#[derive(Default)]
struct MerchantKeys {
    private: Option<[HeaderValue; 2]>,
    public: Option<[HeaderValue; 2]>,
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
        let mut mistakes = Vec::new();
        for (api, url) in &settings.urls {
            if let Some(fault) = address_fault(url, settings.plain_http) {
                mistakes.push(Mistake { key: url_key(*api), fault });
            }
        }
        let mut keys = BTreeMap::new();
        for (name, merchant) in merchants {
            let private = header_values(merchant.private.as_ref(), name, "private", &mut mistakes);
            let public = header_values(merchant.public.as_ref(), name, "public", &mut mistakes);
            keys.insert(name.clone(), MerchantKeys { private, public });
        }
        if !mistakes.is_empty() {
            return Err(Error::Settings(Mistakes(mistakes)));
        }
        Ok(Gateway(Arc::new(Inner {
            client: client(settings)?,
            call_timeout: settings.call_timeout,
            urls: settings.urls.clone(),
            keys,
            trace_headers: settings.trace_headers,
            batch_callback_url: settings.batch_callback_url.clone(),
        })))
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
            let page =
                match self.ask(outgoing, deadline).await.map(|received| read::physical::page(&received)) {
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

/// HTTP/1.1 only: a connection carries one exchange at a time, so that one that breaks leaves one call in doubt,
/// not all that run.
fn client(settings: &config::Gateway) -> Result<Client, Error> {
    if CryptoProvider::get_default().is_none() {
        return Err(Error::NoTlsProvider);
    }
    let builder = || {
        Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(concat!("cancel-worker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_IDLE_PER_HOST_MAX)
    };
    if let Ok(client) = builder().build() {
        return Ok(client);
    }
    // What fails without the machine's certificates and works without any is a machine that has none.
    let client = builder().tls_certs_only([]).build().map_err(|_| Error::Client)?;
    let https = |(_, url): &(&Api, &Url)| url.scheme() == "https";
    match settings.urls.iter().find(https) {
        Some((api, _)) => Err(Error::NoCertificates { key: url_key(*api) }),
        None => Ok(client),
    }
}

fn address_fault(url: &Url, plain_http: PlainHttp) -> Option<Fault> {
    match (url.scheme(), plain_http) {
        ("https", PlainHttp::Loopback | PlainHttp::Anywhere) | ("http", PlainHttp::Anywhere) => {}
        ("http", PlainHttp::Loopback) if is_loopback(url) => {}
        ("http", PlainHttp::Loopback) => return Some(Fault::PlainHttp),
        (_, PlainHttp::Loopback | PlainHttp::Anywhere) => return Some(Fault::NotHttp),
    }
    let has_credentials = !url.username().is_empty() || url.password().is_some();
    let has_more = url.query().is_some() || url.fragment().is_some();
    (has_credentials || has_more).then_some(Fault::NotBase)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn header_values(
    pair: Option<&KeyPair>,
    merchant: &MerchantName,
    name: &str,
    mistakes: &mut Vec<Mistake>,
) -> Option<[HeaderValue; 2]> {
    let KeyPair { key, client } = pair?;
    let mut value = |secret: &SecretString, part: &str| {
        let value = HeaderValue::from_str(secret.expose_secret()).ok();
        if value.is_none() {
            mistakes.push(Mistake {
                key: format!("merchants.{merchant}.{name}_{part}"),
                fault: Fault::NotHeader,
            });
        }
        value.map(|mut value| {
            value.set_sensitive(true);
            value
        })
    };
    let (key, client) = (value(key, "key"), value(client, "client"));
    Some([key?, client?])
}

fn url_key(api: Api) -> String {
    format!("gateway.{api}_url")
}

/// Why there is no gateway to talk to. Names keys of the configuration, never their values.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration's addresses or keys cannot be used.
    #[error("{0}")]
    Settings(Mistakes),
    /// The process has not chosen its TLS implementation: a fault of our own.
    #[error("no TLS provider is installed; install rustls's ring provider first thing in main")]
    NoTlsProvider,
    /// An https address, on a machine that trusts nobody.
    #[error(
        "{key} is https, but this machine has no CA certificates; install its ca-certificates package, or name a \
         PEM file in the environment variable SSL_CERT_FILE"
    )]
    NoCertificates {
        /// The address's key.
        key: String,
    },
    /// The HTTP client cannot be built for another reason.
    #[error("the HTTP client cannot be built")]
    Client,
}

/// All mistakes of the configuration that the gateway found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let parting = if index == 0 { "" } else { "; " };
            write!(f, "{parting}{mistake}")?;
        }
        Ok(())
    }
}

/// One mistake of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {fault}")]
pub struct Mistake {
    /// The key's full name.
    pub key: String,
    /// What is wrong with its value.
    pub fault: Fault,
}

/// What is wrong with a value of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Neither http nor https.
    #[error("must be an https address")]
    NotHttp,
    /// Plain HTTP to another machine.
    #[error("must be https: plain http goes to this machine only, unless gateway.allow_http is true")]
    PlainHttp,
    /// A user name, password, query or fragment: the endpoints' paths follow the address.
    #[error("must be a base address, without user name, password, query and fragment")]
    NotBase,
    /// Characters that no HTTP header can carry.
    #[error("holds characters that an HTTP header cannot carry")]
    NotHeader,
}
