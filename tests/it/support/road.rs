//! A TCP proxy before the broker that knows each connection's role: it can cut it, silence one direction, or send the
//! client a frame that the broker never sent.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::stage::PATIENCE;

/// No frame is larger: both of our connections agree on less with the broker.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// A client has said who it is within so many bytes.
const INTRODUCTION_BYTES_MAX: usize = 16 << 10;
const METHOD: u8 = 1;
const FRAME_END: u8 = 0xCE;

/// Which connections of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The one that takes deliveries.
    Consume,
    /// The one that publishes.
    Publish,
    /// All, whoever's.
    All,
}

impl Which {
    /// What a client of ours says about itself: the property `role`.
    fn introduction(self) -> Option<Vec<u8>> {
        let role: &[u8] = match self {
            Which::Consume => b"\0\0\0\x07consume",
            Which::Publish => b"\0\0\0\x07publish",
            Which::All => return None,
        };
        Some([b"\x04roleS", role].concat())
    }
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// What the client says.
    ToBroker,
    /// What the broker says.
    ToClient,
    /// Both.
    Both,
}

/// Whether anything passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    Silent,
}

/// One connection.
struct Lane {
    role: Mutex<Option<Which>>,
    to_broker: watch::Sender<Flow>,
    to_client: watch::Sender<Flow>,
    /// Frames that the broker has not sent.
    forged: mpsc::UnboundedSender<Vec<u8>>,
    cut: CancellationToken,
}

/// What all connections have in common.
struct Shared {
    lanes: Mutex<Vec<Arc<Lane>>>,
    /// What every new connection begins with, once its client has said who it is.
    useless: bool,
    deliveries: watch::Sender<usize>,
    connections: watch::Sender<usize>,
}

/// The road; gone with all its connections when it is dropped.
pub(crate) struct Road {
    url: String,
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

impl Road {
    /// A road to the broker at this address, without TLS.
    pub(crate) async fn to(broker: &str) -> Result<Road> {
        Road::start(broker, false).await
    }

    /// A road to a node that lets us in, and then answers nothing that is asked of it.
    pub(crate) async fn to_useless(broker: &str) -> Result<Road> {
        Road::start(broker, true).await
    }

    async fn start(broker: &str, useless: bool) -> Result<Road> {
        let mut url: Url = broker.parse()?;
        let behind = (url.host_str().context("no host")?.to_owned(), url.port().unwrap_or(5672));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        url.set_host(Some("127.0.0.1"))?;
        url.set_port(Some(listener.local_addr()?.port())).ok().context("no port")?;
        let shared = Arc::new(Shared {
            lanes: Mutex::default(),
            useless,
            deliveries: watch::Sender::new(0),
            connections: watch::Sender::new(0),
        });
        let mut connections = JoinSet::new();
        let ours = Arc::clone(&shared);
        connections.spawn(async move {
            let mut traffic = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (behind, shared) = (behind.clone(), Arc::clone(&ours));
                traffic.spawn(async move {
                    if let Ok(server) = TcpStream::connect(behind).await {
                        // However a connection ends, both sides are closed.
                        let _ = carry(client, server, &shared).await;
                    }
                });
                while traffic.try_join_next().is_some() {}
            }
        });
        Ok(Road { url: url.into(), shared, _connections: connections })
    }

    /// The broker's address, by way of this road.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The same, with this heartbeat in seconds.
    pub(crate) fn url_with_heartbeat(&self, seconds: u16) -> String {
        format!("{}?heartbeat={seconds}", self.url)
    }

    /// Cuts the connections that are open now. New ones are let through. Gives how many there were.
    pub(crate) fn cut(&self, which: Which) -> usize {
        self.each(which, |lane| lane.cut.cancel())
    }

    /// From now on nothing passes this way on the connections that are open now, and nobody is told. Gives how many
    /// there were.
    pub(crate) fn silence(&self, which: Which, way: Way) -> usize {
        self.each(which, |lane| lane.set(way, Flow::Silent))
    }

    /// Everything passes again, also what was said meanwhile.
    pub(crate) fn speak_again(&self, which: Which) -> usize {
        self.each(which, |lane| lane.set(Way::Both, Flow::Open))
    }

    /// Tells the publishing connections that an alarm blocks them, and takes nothing from them, as a broker does.
    pub(crate) fn block(&self) -> usize {
        self.silence(Which::Publish, Way::ToBroker);
        let reason = b"low on memory";
        let length = u8::try_from(reason.len()).expect("a short reason");
        self.forge(Which::Publish, &[&[0, 10, 0, 60, length], reason.as_slice()].concat(), 0)
    }

    /// Tells them that the alarm is over.
    pub(crate) fn unblock(&self) -> usize {
        self.speak_again(Which::Publish);
        self.forge(Which::Publish, &[0, 10, 0, 61], 0)
    }

    /// Closes one channel of these connections, as a broker does that has found fault with it.
    pub(crate) fn close_channel(&self, which: Which, channel: u16) -> usize {
        const PRECONDITION_FAILED: u16 = 406;
        let text = b"PRECONDITION_FAILED - for a test";
        let length = u8::try_from(text.len()).expect("a short text");
        let code = PRECONDITION_FAILED.to_be_bytes();
        let method = [&[0, 20, 0, 40], code.as_slice(), &[length], text, &[0, 0, 0, 0]].concat();
        self.forge(which, &method, channel)
    }

    /// Waits until so many deliveries have passed in all.
    pub(crate) async fn delivered(&self, count: usize) -> Result<()> {
        reached(&self.shared.deliveries, count).await.with_context(|| format!("no {count} deliveries"))
    }

    /// Waits until so many connections have introduced themselves in all.
    pub(crate) async fn connected(&self, count: usize) -> Result<()> {
        reached(&self.shared.connections, count).await.with_context(|| format!("no {count} connections"))
    }

    fn forge(&self, which: Which, method: &[u8], channel: u16) -> usize {
        let size = u32::try_from(method.len()).expect("a small frame").to_be_bytes();
        let frame = [&[METHOD], channel.to_be_bytes().as_slice(), &size, method, &[FRAME_END]].concat();
        self.each(which, |lane| {
            let _ = lane.forged.send(frame.clone());
        })
    }

    fn each(&self, which: Which, act: impl Fn(&Lane)) -> usize {
        let mut lanes = self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are closed hear nothing.
        lanes.retain(|lane| !lane.forged.is_closed() && !lane.cut.is_cancelled());
        let meant = lanes.iter().filter(|lane| which == Which::All || lane.role() == Some(which));
        meant.map(|lane| act(lane)).count()
    }
}

impl Lane {
    fn role(&self) -> Option<Which> {
        *self.role.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, way: Way, flow: Flow) {
        if way != Way::ToClient {
            self.to_broker.send_replace(flow);
        }
        if way != Way::ToBroker {
            self.to_client.send_replace(flow);
        }
    }
}

async fn reached(counted: &watch::Sender<usize>, count: usize) -> Result<()> {
    let mut counted = counted.subscribe();
    tokio::time::timeout(PATIENCE, counted.wait_for(|so_far| *so_far >= count)).await??;
    Ok(())
}

/// Carries bytes both ways until one side is gone, or somebody cuts it.
async fn carry(client: TcpStream, server: TcpStream, shared: &Shared) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (forged, to_tell) = mpsc::unbounded_channel();
    let lane = Arc::new(Lane {
        role: Mutex::default(),
        to_broker: watch::Sender::new(Flow::Open),
        to_client: watch::Sender::new(Flow::Open),
        forged,
        cut: CancellationToken::new(),
    });
    shared.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&lane));
    tokio::select! {
        () = lane.cut.cancelled() => Ok(()),
        ended = say(from_client, to_server, &lane, shared) => ended,
        ended = tell(from_server, to_client, &lane, to_tell, shared) => ended,
    }
}

/// Carries what the client says.
async fn say(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    lane: &Lane,
    shared: &Shared,
) -> Result<()> {
    let mut flow = lane.to_broker.subscribe();
    let mut introduction = Vec::new();
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = client.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        if lane.role().is_none() && introduction.len() < INTRODUCTION_BYTES_MAX {
            introduction.extend_from_slice(&bytes[..read]);
            let is = |which: &Which| {
                let words = which.introduction().unwrap_or_default();
                introduction.windows(words.len()).any(|window| window == words)
            };
            if let Some(role) = [Which::Consume, Which::Publish].into_iter().find(is) {
                *lane.role.lock().unwrap_or_else(PoisonError::into_inner) = Some(role);
                shared.connections.send_modify(|count| *count += 1);
            }
        }
        // The first thing that is asked is a channel: class 20, method 10.
        if shared.useless && bytes[..read].windows(4).any(|window| window == [0, 20, 0, 10]) {
            lane.set(Way::ToBroker, Flow::Silent);
        }
        flow.wait_for(|flow| *flow == Flow::Open).await?;
        server.write_all(&bytes[..read]).await?;
    }
}

/// Carries what the broker says, frame by frame, and between them what it never said.
async fn tell(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    lane: &Lane,
    mut to_tell: mpsc::UnboundedReceiver<Vec<u8>>,
    shared: &Shared,
) -> Result<()> {
    const DELIVER: [u8; 4] = [0, 60, 0, 60];
    let mut flow = lane.to_client.subscribe();
    let (read, mut frames) = mpsc::channel(1);
    let reading = async move {
        loop {
            let frame = read_frame(&mut server).await?;
            if read.send(frame).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async move {
        loop {
            let frame = tokio::select! {
                frame = frames.recv() => frame,
                frame = to_tell.recv() => frame,
            };
            let Some(frame) = frame else { return Ok(()) };
            flow.wait_for(|flow| *flow == Flow::Open).await?;
            client.write_all(&frame).await?;
            if frame[0] == METHOD && frame[7..].starts_with(&DELIVER) {
                shared.deliveries.send_modify(|count| *count += 1);
            }
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

async fn read_frame(server: &mut OwnedReadHalf) -> Result<Vec<u8>> {
    let mut frame = vec![0; 7];
    server.read_exact(&mut frame).await?;
    let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
    anyhow::ensure!(size <= FRAME_BYTES_MAX, "a frame of {size} bytes");
    frame.resize(7 + size + 1, 0);
    server.read_exact(&mut frame[7..]).await?;
    anyhow::ensure!(frame.last() == Some(&FRAME_END), "a frame without its end");
    Ok(frame)
}
