//! The network between a worker and its broker, ours to break: each of its connections, each way.
//!
//! The worker tells the broker the role of each connection when it opens it, so the proxy knows which is which. It
//! carries whole frames and counts the ones that matter, so that a scenario can break the network at a frame.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::broker::Broker;

/// Frames that wait in the proxy while a way is stalled; beyond them the sender's own buffers fill, as in a network.
const FRAMES_WAITING_MAX: usize = 4_096;
/// No frame is larger.
const FRAME_BYTES_MAX: usize = 1 << 20;
const METHOD: u8 = 1;

/// One of the worker's two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes deliveries and acks them.
    Consume,
    /// Publishes and hears the confirms.
    Publish,
}

/// One way of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToBroker,
    ToWorker,
}

/// A frame that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The broker hands out a letter.
    Delivery,
    /// The worker settles a letter.
    Ack,
    /// The worker publishes.
    Publish,
    /// The broker confirms.
    Confirm,
}

impl Sign {
    fn of(frame: &[u8], way: Way) -> Option<Sign> {
        let method = frame.get(7..11)?;
        if frame[0] != METHOD || method[..2] != [0, 60] {
            return None;
        }
        match (way, method[3]) {
            (Way::ToWorker, 60) => Some(Sign::Delivery),
            (Way::ToBroker, 80) => Some(Sign::Ack),
            (Way::ToBroker, 40) => Some(Sign::Publish),
            (Way::ToWorker, 80) => Some(Sign::Confirm),
            (_, _) => None,
        }
    }

    /// The connection and the way on which it travels.
    pub(crate) fn travels(self) -> (Role, Way) {
        match self {
            Sign::Delivery => (Role::Consume, Way::ToWorker),
            Sign::Ack => (Role::Consume, Way::ToBroker),
            Sign::Publish => (Role::Publish, Way::ToBroker),
            Sign::Confirm => (Role::Publish, Way::ToWorker),
        }
    }
}

/// What a connection is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Carry,
    /// Both ends are reset.
    Cut,
    /// One end is reset; the other hears nothing any more.
    Reset(Way),
    /// What goes this way ends in order (FIN); the other way goes on.
    HalfClose(Way),
}

#[derive(Default)]
struct Count {
    seen: AtomicU64,
    passed: AtomicU64,
}

/// What all connections of a proxy share.
struct Shared {
    broker: Arc<Broker>,
    /// Whether each way of each connection is stalled, the ones of the future too.
    stalled: [watch::Sender<bool>; 4],
    counts: [Count; 4],
    counted: Notify,
    links: Mutex<Vec<Link>>,
}

struct Link {
    role: Arc<Mutex<Option<Role>>>,
    order: watch::Sender<Order>,
    gone: CancellationToken,
}

/// The proxy; gone with all its connections when it is dropped.
pub(crate) struct Proxy {
    urls: Vec<String>,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// A proxy before this broker, wherever that is at the moment; with a door for each of its nodes.
    pub(crate) async fn start(broker: &Arc<Broker>) -> Result<Proxy> {
        let shared = Arc::new(Shared {
            broker: Arc::clone(broker),
            stalled: Default::default(),
            counts: Default::default(),
            counted: Notify::new(),
            links: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        let mut urls = Vec::new();
        for (node, url) in broker.urls().into_iter().enumerate() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let mut url: Url = url.parse()?;
            ensure!(url.scheme() == "amqp", "a proxy cannot read what is encrypted");
            url.set_host(Some("127.0.0.1"))?;
            url.set_port(Some(listener.local_addr()?.port())).ok().context("no port")?;
            urls.push(url.into());
            serving.spawn(serve(listener, node, Arc::clone(&shared)));
        }
        Ok(Proxy { urls, shared, _serving: serving })
    }

    /// The addresses of the broker's nodes, by way of this proxy.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Nothing comes through this way of this connection any more, and nobody is told.
    pub(crate) fn stall(&self, role: Role, way: Way) {
        self.shared.stalled[at(role, way)].send_replace(true);
    }

    /// Everything comes through again, what waited first.
    pub(crate) fn flow(&self) {
        for stalled in &self.shared.stalled {
            stalled.send_replace(false);
        }
    }

    /// Resets a connection at both ends. What waits in it is lost.
    pub(crate) fn cut(&self, role: Role) {
        self.order(Some(role), Order::Cut);
    }

    /// Resets both connections at both ends: of a worker that is dead, nothing that it had said comes through later.
    pub(crate) fn cut_all(&self) {
        self.order(None, Order::Cut);
    }

    /// Resets one end of a connection, where this way leads to; the other end is not told.
    pub(crate) fn reset(&self, role: Role, way: Way) {
        self.order(Some(role), Order::Reset(way));
    }

    /// Ends one way of a connection in order; the other way goes on.
    pub(crate) fn half_close(&self, role: Role, way: Way) {
        self.order(Some(role), Order::HalfClose(way));
    }

    /// Forgets what is left of connections that were reset or closed at one end, as a network does in the end.
    pub(crate) fn bury(&self) {
        for link in self.links().iter().filter(|link| *link.order.borrow() != Order::Carry) {
            link.gone.cancel();
        }
    }

    /// How many of these frames came to their end.
    pub(crate) fn passed(&self, sign: Sign) -> u64 {
        self.shared.counts[sign as usize].passed.load(Ordering::Relaxed)
    }

    /// Waits until so many of these frames came to their end, counted from the first one ever.
    pub(crate) async fn wait_passed(&self, sign: Sign, count: u64, within: Duration) -> Result<()> {
        self.wait(within, || self.passed(sign) >= count)
            .await
            .with_context(|| format!("only {} of {count} {sign:?} came through", self.passed(sign)))
    }

    /// Waits until so many of these frames wait in the proxy.
    pub(crate) async fn wait_held(&self, sign: Sign, count: u64, within: Duration) -> Result<()> {
        let counted = &self.shared.counts[sign as usize];
        let held = || {
            let passed = counted.passed.load(Ordering::Relaxed);
            counted.seen.load(Ordering::Relaxed).saturating_sub(passed)
        };
        self.wait(within, || held() >= count)
            .await
            .with_context(|| format!("only {} of {count} {sign:?} wait", held()))
    }

    /// How long it takes from now to the first delivery: whoever gets one works.
    pub(crate) async fn first_delivery(&self, within: Duration) -> Result<Duration> {
        let began = Instant::now();
        self.wait_passed(Sign::Delivery, self.passed(Sign::Delivery) + 1, within).await?;
        Ok(began.elapsed())
    }

    async fn wait(&self, within: Duration, is_true: impl Fn() -> bool) -> Result<()> {
        let waiting = async {
            loop {
                let counted = self.shared.counted.notified();
                tokio::pin!(counted);
                // Interest is registered before the look, so that no change is missed.
                counted.as_mut().enable();
                if is_true() {
                    return;
                }
                counted.await;
            }
        };
        timeout(within, waiting).await.with_context(|| format!("not within {within:?}"))
    }

    fn order(&self, role: Option<Role>, order: Order) {
        for link in self.links().iter() {
            let is = *link.role.lock().unwrap_or_else(PoisonError::into_inner);
            if role.is_none() || is == role {
                link.order.send_replace(order);
            }
        }
    }

    fn links(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.shared.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn at(role: Role, way: Way) -> usize {
    match (role, way) {
        (Role::Consume, Way::ToBroker) => 0,
        (Role::Consume, Way::ToWorker) => 1,
        (Role::Publish, Way::ToBroker) => 2,
        (Role::Publish, Way::ToWorker) => 3,
    }
}

async fn serve(listener: TcpListener, node: usize, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    while let Ok((worker, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        links.spawn(async move {
            let Ok(address) = behind(&shared.broker, node).await else { return };
            if let Ok(broker) = TcpStream::connect(address).await {
                // However a connection ends, it is over at both ends.
                let _ = carry(worker, broker, &shared).await;
            }
        });
        while links.try_join_next().is_some() {}
    }
}

async fn behind(broker: &Broker, node: usize) -> Result<SocketAddr> {
    let url: Url = broker.urls().get(node).context("a node that is gone")?.parse()?;
    let host = (url.host_str().context("no host")?.to_owned(), url.port().unwrap_or(5672));
    tokio::net::lookup_host(host).await?.next().context("no address")
}

/// One connection, from its first byte to its last.
async fn carry(worker: TcpStream, broker: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    worker.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let role = Arc::new(Mutex::new(None));
    let orders = watch::Sender::new(Order::Carry);
    let gone = CancellationToken::new();
    {
        let mut links = shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| !link.gone.is_cancelled());
        links.push(Link { role: Arc::clone(&role), order: orders.clone(), gone: gone.clone() });
    }
    let _gone_at_the_end = gone.clone().drop_guard();
    let (from_worker, to_worker) = worker.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let pump =
        |from, to, way| Pump { from, to, way, role: Arc::clone(&role), orders: orders.subscribe(), shared };
    let to_broker = pump(from_worker, to_broker, Way::ToBroker);
    let to_worker = pump(from_broker, to_worker, Way::ToWorker);
    let both = async {
        let ends = tokio::join!(to_broker.run(), to_worker.run());
        // An end that was not told of the other's reset stays open, and hears nothing.
        if matches!(ends, (End::Silent { .. }, _) | (_, End::Silent { .. })) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = gone.cancelled() => {}
        () = both => {}
    }
    Ok(())
}

/// One way of one connection.
struct Pump<'a> {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    way: Way,
    role: Arc<Mutex<Option<Role>>>,
    orders: watch::Receiver<Order>,
    shared: &'a Shared,
}

/// How one way came to its end, and what is kept open of it.
enum End {
    /// Whoever speaks has closed, or is gone: the other end has heard the same.
    Spoken,
    /// Both ends are reset.
    Cut,
    /// It was ended in order; the other way goes on.
    HalfClosed { _from: BufReader<OwnedReadHalf> },
    /// One end is reset, and the other one is not told.
    Silent { _from: Option<BufReader<OwnedReadHalf>>, _to: Option<OwnedWriteHalf> },
}

impl Pump<'_> {
    async fn run(self) -> End {
        let Pump { from, mut to, way, role, mut orders, shared } = self;
        let mut from = BufReader::new(from);
        if way == Way::ToBroker {
            let mut greeting = [0; 8];
            if from.read_exact(&mut greeting).await.is_err() || to.write_all(&greeting).await.is_err() {
                return End::Spoken;
            }
        }
        let (kept, mut frames) = mpsc::channel::<Vec<u8>>(FRAMES_WAITING_MAX);
        let reading = async {
            while let Ok(frame) = read_frame(&mut from).await {
                if way == Way::ToBroker {
                    note_role(&frame, &role);
                }
                if let Some(sign) = Sign::of(&frame, way) {
                    shared.counts[sign as usize].seen.fetch_add(1, Ordering::Relaxed);
                    shared.counted.notify_waiters();
                }
                if kept.send(frame).await.is_err() {
                    break;
                }
            }
            drop(kept);
            std::future::pending::<()>().await;
        };
        let writing = async {
            while let Some(frame) = frames.recv().await {
                let known = *role.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(role) = known {
                    let mut stalled = shared.stalled[at(role, way)].subscribe();
                    let _ = stalled.wait_for(|stalled| !stalled).await;
                }
                if to.write_all(&frame).await.is_err() {
                    return;
                }
                if let Some(sign) = Sign::of(&frame, way) {
                    shared.counts[sign as usize].passed.fetch_add(1, Ordering::Relaxed);
                    shared.counted.notify_waiters();
                }
            }
        };
        let order = tokio::select! {
            () = reading => Order::Carry,
            () = writing => Order::Carry,
            order = ordered(&mut orders, way) => order,
        };
        match order {
            Order::Carry => {
                let _ = to.shutdown().await;
                End::Spoken
            }
            Order::Cut => {
                reset(to.as_ref());
                End::Cut
            }
            Order::HalfClose(_) => {
                let _ = to.shutdown().await;
                End::HalfClosed { _from: from }
            }
            Order::Reset(which) if which == way => {
                reset(to.as_ref());
                End::Silent { _from: Some(from), _to: None }
            }
            Order::Reset(_) => End::Silent { _from: None, _to: Some(to) },
        }
    }
}

/// Waits for an order that concerns this way.
async fn ordered(orders: &mut watch::Receiver<Order>, way: Way) -> Order {
    let concerns = |order: &Order| match order {
        Order::Carry => false,
        Order::Cut | Order::Reset(_) => true,
        Order::HalfClose(which) => *which == way,
    };
    let order = orders.wait_for(concerns).await.map(|order| *order);
    match order {
        Ok(order) => order,
        Err(_) => std::future::pending().await,
    }
}

/// The connection will end with a RST, and not with a FIN.
fn reset(stream: &TcpStream) {
    // A connection that is gone already has nothing left to reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// The worker names the role of a connection among its client properties (StartOk, or later again).
fn note_role(frame: &[u8], role: &Mutex<Option<Role>>) {
    let mut role = role.lock().unwrap_or_else(PoisonError::into_inner);
    if role.is_some() || frame.get(7..11) != Some(&[0, 10, 0, 11]) {
        return;
    }
    let says = |value: &str| {
        let mut field = b"\x04roleS".to_vec();
        field.extend(u32::try_from(value.len()).unwrap_or_default().to_be_bytes());
        field.extend(value.as_bytes());
        frame.windows(field.len()).any(|window| window == field)
    };
    *role = match (says("consume"), says("publish")) {
        (true, _) => Some(Role::Consume),
        (false, true) => Some(Role::Publish),
        (false, false) => None,
    };
}

async fn read_frame(from: &mut BufReader<OwnedReadHalf>) -> Result<Vec<u8>> {
    let mut frame = vec![0; 7];
    from.read_exact(&mut frame).await?;
    let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
    ensure!(size <= FRAME_BYTES_MAX, "a frame of {size} bytes");
    frame.resize(7 + size + 1, 0);
    from.read_exact(&mut frame[7..]).await?;
    Ok(frame)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for link in self.links().iter() {
            link.gone.cancel();
        }
    }
}
