//! A truthful stand-in of the three Paywall APIs, for the demo, for tests, and as a process of its own.
//!
//! It keeps to the gateway's pages: methods, paths, key headers, envelopes, the states of a payment over time, the rules
//! that refuse. It knows nothing of the worker. Payments are seeded, faults are planned, time is moved, and afterwards
//! it tells the truth: which calls came, and what really happened.
//!
//! What it does not do: it sends no callbacks (a batch is followed through the query services), it serves no sale, no
//! refund and no terminal administration, and it speaks no TLS.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use paywall_simulator::*;
//!
//! let simulator = Simulator::start(SimulatorConfig::default()).await?;
//! let sale = simulator.seed(SeedPhysical::default())?;
//! // The first cancel takes place, and its reply is lost.
//! simulator.plan(Fault::new(FaultKind::Reset).on(Endpoint::AsyncCancel).of(&sale.id).after_effect()).await?;
//! // … call simulator.urls().physical …
//! let truth = simulator.truth_of(&sale.id).expect("it was seeded");
//! assert_eq!(truth.state, PaymentState::Cancelled);
//! simulator.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # The control API
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /control/health` | | `{"ok": true, "now", "urls"}` |
//! | `POST /control/payments` | a [`Seed`], or a list of them | `{"payments": [identity …]}` |
//! | `POST /control/faults` | a [`Fault`], or a list of them | `{"ids": [1 …]}` |
//! | `GET /control/faults` | | what is planned, seen and struck |
//! | `DELETE /control/faults`, `/control/faults/{id}` | | `{"cleared": n}` |
//! | `POST /control/release` | | calls that hang go on |
//! | `GET /control/truth`, `/control/truth/{id}` | | [`Truth`], [`PaymentTruth`] |
//! | `GET /control/requests` | | the last requests, keys hidden |
//! | `GET /control/clock`, `POST /control/clock` | `{"set": "<time>"}`, `{"advance_ms": n}`, `{"freeze": true}`, `{"run": true}` | `{"now"}` |
//!
//! Whatever is wrong is answered with 400, 404, 405 or 409 and `{"error": "<what is wrong>"}`.
//!
//! ```sh
//! curl -d '{"scheme": "physical", "payment_request_id": "7cc7c8e8-9d92-41b6-9378-e9ecef5a7812",
//!           "cancels": [{"first": 10, "then": [{"after_ms": 8000, "status": 11}, {"after_ms": 12000, "status": 4}]}]}' \
//!      $CONTROL/control/payments
//! curl -d '{"what": {"kind": "http", "status": 503, "body": "empty", "retry_after": "2"},
//!           "endpoint": "async_cancel", "times": {"count": 2}}' $CONTROL/control/faults
//! curl -d '{"what": {"kind": "hang"}, "point": "after_effect", "api": "private", "times": "until_cleared"}' \
//!      $CONTROL/control/faults
//! curl $CONTROL/control/truth/7cc7c8e8-9d92-41b6-9378-e9ecef5a7812
//! ```
#![warn(clippy::too_many_lines)]

mod answer;
mod api;
mod calls;
mod clock;
mod control;
mod faults;
mod hosts;
mod payment;
mod physical;
mod private;
mod request;
mod rules;
mod seed;
mod serve;
mod truth;
mod world;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fmt::{self, Display},
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::{HeaderMap, StatusCode, header::HeaderValue};
use jiff::{SignedDuration, Timestamp};
use rand::{SeedableRng, rngs::StdRng};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use api::{Api, Endpoint, Purpose};
pub use clock::ClockStart;
pub use faults::{Fault, FaultId, FaultKind, FaultPoint, FaultReport, HttpBody, Times};
pub use rules::{ActivityOrder, ApmRepeat, BatchTotal, Readings, Rules};
pub use seed::{
    ApmState, BatchPlan, CancelPlan, Identity, PastActivity, PlannedStep, ProviderSays, Seed, SeedApm,
    SeedPhysical, SeedVirtualPos,
};
pub use truth::{
    ActivityTruth, CallRecord, EffectKind, EffectRecord, Effects, Origin, PaymentState, PaymentTruth,
    RequestHeaders, RequestRecord, Scheme, Truth,
};
pub use world::SeedError;

use clock::SimClock;
use faults::FaultTable;
use hosts::Hosts;
use serve::{Door, DoorOrder, Role};
use world::World;

/// Faults that one simulator holds.
const FAULTS_MAX: usize = 10_000;
/// How often a wait looks again though nothing was called: a status may have changed with the time alone.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a simulator is started.
#[derive(Debug, Clone)]
pub struct SimulatorConfig {
    /// The address of all ports; loopback by default.
    pub bind: IpAddr,
    /// The ports; 0 takes a free one.
    pub ports: Ports,
    /// The key sets that are let in.
    pub merchants: Vec<Merchant>,
    /// The rules that nobody has written down, or that can be set.
    pub rules: Rules,
    /// Whether an unknown payment is answered as if it had always been there, a normal one that can be cancelled
    /// (for a rollback: with a cancel order that waits). Handy with a publisher of one's own; off by default.
    pub auto_seed: bool,
    /// How the clock goes.
    pub clock: ClockStart,
    /// The seed of its rng: ratios of faults, made-up identifiers.
    pub seed: u64,
    /// How many requests are kept word for word.
    pub requests_kept_max: usize,
    /// Whether a connection carries more than one request. Where it does, a request can be the victim of a fault that
    /// struck the one before it on its connection.
    pub keep_alive: bool,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: Ports::default(),
            merchants: vec![Merchant::demo("default")],
            rules: Rules::default(),
            auto_seed: false,
            clock: ClockStart::Real,
            seed: 1,
            requests_kept_max: 1_000,
            keep_alive: true,
        }
    }
}

/// The ports of a simulator; 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ports {
    /// The Physical API.
    pub physical: u16,
    /// The Private API.
    pub private: u16,
    /// The Payment API.
    pub payment: u16,
    /// The control API.
    pub control: u16,
}

/// A key set that is let in.
#[derive(Debug, Clone)]
pub struct Merchant {
    /// Its name, by which payments are seeded.
    pub name: String,
    /// `apikeyprivate`: Physical and Private API.
    pub private_key: SecretString,
    /// `apiclientprivate`: Physical and Private API.
    pub private_client: SecretString,
    /// `apikeypublic`: Payment API.
    pub public_key: SecretString,
    /// `apiclientpublic`: Payment API.
    pub public_client: SecretString,
}

impl Merchant {
    /// A key set for trying things out: its values are `<name>-private-key`, `<name>-private-client`, `<name>-public-key`
    /// and `<name>-public-client`.
    pub fn demo(name: impl Into<String>) -> Self {
        let name = name.into();
        let value = |what: &str| SecretString::from(format!("{name}-{what}"));
        Self {
            private_key: value("private-key"),
            private_client: value("private-client"),
            public_key: value("public-key"),
            public_client: value("public-client"),
            name,
        }
    }

    fn carries(&self, api: Api, headers: &HeaderMap) -> bool {
        let (key, client) = match api {
            Api::Physical | Api::Private => (&self.private_key, &self.private_client),
            Api::Payment => (&self.public_key, &self.public_client),
        };
        let (key_header, client_header) = api.key_headers();
        let is = |header: &str, secret: &SecretString| {
            headers.get(header).map(HeaderValue::as_bytes) == Some(secret.expose_secret().as_bytes())
        };
        is(key_header, key) && is(client_header, client)
    }
}

/// The base addresses of a simulator, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Urls {
    /// The Physical API.
    pub physical: String,
    /// The Private API.
    pub private: String,
    /// The Payment API.
    pub payment: String,
    /// The control API; its paths begin with `/control/`.
    pub control: String,
}

/// Why a fault cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A value that no fault can have.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The table of faults is full.
    #[error("{FAULTS_MAX} faults are planned already")]
    Full,
    /// A port could not be closed or opened.
    #[error("the port could not be closed or opened")]
    Door {
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// A wait whose condition did not come true in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the condition did not come true within {within:?}")]
pub struct Overdue {
    /// How long it was waited for.
    pub within: Duration,
}

/// A running simulator. It stops when this is dropped; everything else is done through its [`Handle`].
#[derive(Debug)]
pub struct Simulator {
    handle: Handle,
}

impl Simulator {
    /// Takes its four ports and serves them.
    ///
    /// # Errors
    ///
    /// If a port cannot be had.
    pub async fn start(config: SimulatorConfig) -> io::Result<Self> {
        let SimulatorConfig {
            bind,
            ports,
            merchants,
            rules,
            auto_seed,
            clock,
            seed,
            requests_kept_max,
            keep_alive,
        } = config;
        let listen = |port| serve::listen(SocketAddr::new(bind, port));
        let listeners = [listen(ports.physical)?, listen(ports.private)?, listen(ports.payment)?];
        let control = listen(ports.control)?;
        let url = |listener: &tokio::net::TcpListener| -> io::Result<String> {
            let address = listener.local_addr()?;
            // Nothing can call 0.0.0.0: a port bound to every address is told as this machine's.
            let ip =
                if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
            Ok(format!("http://{}", SocketAddr::new(ip, address.port())))
        };
        let [physical, private, payment] = &listeners;
        let urls = Urls {
            physical: url(physical)?,
            private: url(private)?,
            payment: url(payment)?,
            control: url(&control)?,
        };
        let mut orders = Vec::new();
        let doors = Api::ALL.map(|_| {
            let (door, ordered) = mpsc::channel(1);
            orders.push(ordered);
            door
        });
        let state = State {
            clock: SimClock::start(clock),
            world: World::new(rules, seed),
            faults: FaultTable::default(),
            rng: StdRng::seed_from_u64(seed.wrapping_add(1)),
            requests: VecDeque::new(),
            requests_seen: 0,
            calls_seen: 0,
        };
        let inner = Inner {
            urls,
            merchants,
            auto_seed,
            requests_kept_max: requests_kept_max.max(1),
            keep_alive,
            hosts: Hosts::of(bind),
            state: Mutex::new(state),
            version: watch::Sender::new(0),
            doors,
            door_turn: tokio::sync::Mutex::new(()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let handle = Handle { inner: Arc::new(inner) };
        let stop = &handle.inner.stop;
        for ((api, listener), ordered) in Api::ALL.into_iter().zip(listeners).zip(orders) {
            let port = serve::serve(handle.clone(), Role::Api(api), listener, ordered, stop.clone());
            handle.inner.tasks.spawn(port);
        }
        // Nobody closes the door of the control API: its orders never come.
        let (_, never) = mpsc::channel(1);
        handle.inner.tasks.spawn(serve::serve(handle.clone(), Role::Control, control, never, stop.clone()));
        Ok(Self { handle })
    }

    /// A handle that can be given away; it does not keep the simulator running.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops, and waits until every port is closed and every connection gone.
    pub async fn shutdown(self) {
        self.handle.inner.stop.cancel();
        self.handle.inner.tasks.close();
        self.handle.inner.tasks.wait().await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.handle.inner.stop.cancel();
    }
}

impl Deref for Simulator {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

/// Everything that can be done with a running simulator: what the control API does over HTTP, in process.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Handle").field("urls", &self.inner.urls).finish_non_exhaustive()
    }
}

struct Inner {
    urls: Urls,
    merchants: Vec<Merchant>,
    auto_seed: bool,
    requests_kept_max: usize,
    keep_alive: bool,
    hosts: Hosts,
    /// Never held over an await.
    state: Mutex<State>,
    /// Grows with everything that happens, to wake the tasks that wait.
    version: watch::Sender<u64>,
    doors: [mpsc::Sender<DoorOrder>; 3],
    /// One at a time, so that the last order to a door follows the last plan.
    door_turn: tokio::sync::Mutex<()>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What changes.
struct State {
    clock: SimClock,
    world: World,
    faults: FaultTable,
    rng: StdRng,
    requests: VecDeque<RequestRecord>,
    requests_seen: u64,
    calls_seen: u64,
}

impl Handle {
    /// The addresses.
    pub fn urls(&self) -> &Urls {
        &self.inner.urls
    }

    /// Puts a payment into the gateway, and says by which identifiers it is known.
    ///
    /// # Errors
    ///
    /// If a value is impossible, an identifier taken, or the merchant unknown.
    pub fn seed(&self, seed: impl Into<Seed>) -> Result<Identity, SeedError> {
        let seed = seed.into();
        let merchant = match &seed {
            Seed::Physical(seed) => &seed.merchant,
            Seed::VirtualPos(seed) => &seed.merchant,
            Seed::Apm(seed) => &seed.merchant,
        };
        if !self.inner.merchants.iter().any(|known| known.name == *merchant) {
            return Err(SeedError::UnknownMerchant);
        }
        let identity = self.with(|state| state.world.seed(state.clock.now(), seed));
        self.changed();
        identity
    }

    /// Plans a fault. When this returns, it strikes; a port that shall refuse connections is closed.
    ///
    /// # Errors
    ///
    /// If a value is impossible, too many faults are planned, or a port cannot be closed.
    pub async fn plan(&self, fault: Fault) -> Result<FaultId, PlanError> {
        check(&fault)?;
        let refused = if let (FaultKind::RefuseConnection { for_ms }, Some(api)) = (&fault.what, fault.api) {
            Some((api, *for_ms))
        } else {
            None
        };
        let id = self.with(|state| {
            if state.faults.len() >= FAULTS_MAX {
                return Err(PlanError::Full);
            }
            Ok(state.faults.plan(fault))
        })?;
        if let Some((api, for_ms)) = refused {
            self.set_door(api).await?;
            if let Some(ms) = for_ms {
                let handle = self.clone();
                self.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    // It may have been cleared before; a port that cannot be opened is told by who clears it next.
                    let _ = handle.clear_fault(id).await;
                });
            }
        }
        Ok(id)
    }

    /// Forgets one fault; what hangs on it goes on, a port that it kept closed is opened.
    ///
    /// # Errors
    ///
    /// If a port cannot be opened again.
    pub async fn clear_fault(&self, id: FaultId) -> Result<Option<Fault>, PlanError> {
        let fault = self.with(|state| state.faults.clear(id));
        if let Some(Fault { what: FaultKind::RefuseConnection { .. }, api: Some(api), .. }) = &fault {
            self.set_door(*api).await?;
        }
        Ok(fault)
    }

    /// Forgets all faults.
    ///
    /// # Errors
    ///
    /// If a port cannot be opened again.
    pub async fn clear_faults(&self) -> Result<(), PlanError> {
        self.with(|state| state.faults.clear_all());
        for api in Api::ALL {
            self.set_door(api).await?;
        }
        Ok(())
    }

    /// What is planned, and how often it has struck.
    pub fn faults(&self) -> Vec<FaultReport> {
        self.with(|state| state.faults.reports())
    }

    /// Lets every call go on that hangs now; the faults stay for later calls.
    pub fn release(&self) {
        self.with(|state| state.faults.release());
    }

    /// Everything that happened.
    pub fn truth(&self) -> Truth {
        self.with(|state| state.world.truth(state.clock.now()))
    }

    /// What happened to one payment, by any of its identifiers. None if nobody seeded it and nobody called for it.
    pub fn truth_of(&self, id: impl Display) -> Option<PaymentTruth> {
        let id = id.to_string();
        self.with(|state| state.world.truth_of(state.clock.now(), &id))
    }

    /// The last requests to the three APIs, the oldest first.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.with(|state| state.requests.iter().cloned().collect())
    }

    /// The last requests to one endpoint, the oldest first.
    pub fn requests_to(&self, endpoint: Endpoint) -> Vec<RequestRecord> {
        let is = |request: &&RequestRecord| request.endpoint == Some(endpoint);
        self.with(|state| state.requests.iter().filter(is).cloned().collect())
    }

    /// The simulator's time.
    pub fn now(&self) -> Timestamp {
        self.with(|state| state.clock.now())
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.shift(SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX));
    }

    /// Sets the clock. It goes on from there, or stands there, as before.
    pub fn set_now(&self, now: Timestamp) {
        self.with(|state| state.clock.set_now(now));
        self.changed();
    }

    /// Stops the clock.
    pub fn freeze(&self) {
        self.with(|state| state.clock.freeze());
    }

    /// Lets the clock go on from where it is.
    pub fn run(&self) {
        self.with(|state| state.clock.run());
    }

    /// Waits until something is true of the simulator. It is asked after every call and every move of the clock.
    ///
    /// # Errors
    ///
    /// If it is not true in time (real time).
    pub async fn wait_until(
        &self,
        within: Duration,
        mut is_true: impl FnMut(&Self) -> bool,
    ) -> Result<(), Overdue> {
        let mut version = self.inner.version.subscribe();
        let waiting = async {
            loop {
                version.mark_unchanged();
                if is_true(self) {
                    return;
                }
                // Either way it is asked again: something has happened, or time has gone by.
                let _ = tokio::time::timeout(LOOK_AGAIN, version.changed()).await;
            }
        };
        tokio::time::timeout(within, waiting).await.map_err(|_| Overdue { within })
    }

    /// Waits until this many calls of one endpoint have come for a payment, and returns the truth about it.
    ///
    /// # Errors
    ///
    /// If they do not come in time (real time).
    pub async fn wait_for_calls(
        &self,
        id: impl Display,
        endpoint: Endpoint,
        count: u64,
        within: Duration,
    ) -> Result<PaymentTruth, Overdue> {
        let id = id.to_string();
        let mut found = None;
        self.wait_until(within, |handle| {
            found = handle.truth_of(&id).filter(|truth| truth.calls_of(endpoint) >= count);
            found.is_some()
        })
        .await?;
        found.ok_or(Overdue { within })
    }

    fn shift(&self, by: SignedDuration) {
        self.with(|state| state.clock.advance(by));
        self.changed();
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.inner.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn changed(&self) {
        self.inner.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn auto_seed(&self) -> bool {
        self.inner.auto_seed
    }

    fn requests_kept_max(&self) -> usize {
        self.inner.requests_kept_max
    }

    fn merchant_of(&self, api: Api, headers: &HeaderMap) -> Option<String> {
        let known = self.inner.merchants.iter().find(|merchant| merchant.carries(api, headers));
        known.map(|merchant| merchant.name.clone())
    }

    /// Runs a task that ends with the simulator at the latest.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.inner.stop.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Opens or closes a port, as the faults that are planned now want it.
    async fn set_door(&self, api: Api) -> Result<(), PlanError> {
        let _turn = self.inner.door_turn.lock().await;
        let door = match self.with(|state| state.faults.refuses(api)) {
            true => Door::Closed,
            false => Door::Open,
        };
        let gone = || PlanError::Door { source: io::Error::other("the simulator has stopped") };
        let (done, ended) = oneshot::channel();
        let orders = self.inner.doors.get(api.index()).ok_or_else(gone)?;
        orders.send(DoorOrder { door, done }).await.map_err(|_| gone())?;
        ended.await.map_err(|_| gone())?.map_err(|source| PlanError::Door { source })
    }
}

/// Whether a fault can be planned.
fn check(fault: &Fault) -> Result<(), PlanError> {
    let wrong = |field, problem| Err(PlanError::Invalid { field, problem });
    if fault.ratio.is_some_and(|ratio| !(0.0..=1.0).contains(&ratio)) {
        return wrong("ratio", "must be from 0 to 1");
    }
    if let (Some(api), Some(endpoint)) = (fault.api, fault.endpoint)
        && endpoint.api() != api
    {
        return wrong("endpoint", "is not served by this api");
    }
    let header = |text: &Option<String>| text.as_ref().is_none_or(|text| HeaderValue::from_str(text).is_ok());
    let final_status = |status: u16| (200..=599).contains(&status) && StatusCode::from_u16(status).is_ok();
    match &fault.what {
        FaultKind::RefuseConnection { .. } if fault.api.is_none() => {
            wrong("api", "must be named: its port is closed")
        }
        FaultKind::Http { status, .. } | FaultKind::Code { status, .. } | FaultKind::Raw { status, .. }
            if !final_status(*status) =>
        {
            wrong("status", "must be from 200 to 599")
        }
        FaultKind::Http { retry_after, location, .. } if !header(retry_after) || !header(location) => {
            wrong("retry_after, location", "must be texts that a header can carry")
        }
        FaultKind::Delay { .. }
        | FaultKind::Reset
        | FaultKind::Close
        | FaultKind::Hang
        | FaultKind::Http { .. }
        | FaultKind::Code { .. }
        | FaultKind::Contradiction
        | FaultKind::Garbage
        | FaultKind::Empty
        | FaultKind::Oversized
        | FaultKind::Truncated
        | FaultKind::ForeignId
        | FaultKind::ProviderFailure
        | FaultKind::RefuseConnection { .. }
        | FaultKind::Raw { .. } => Ok(()),
    }
}
