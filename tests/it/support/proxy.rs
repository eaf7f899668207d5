//! A proxy between worker and broker that knows where the frames of AMQP begin and end, and can stop what a client
//! says right before a frame of the test's choice.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

use super::stage::PATIENCE;

/// No frame is larger: both of our connections agree on less with the broker.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// What is kept of what a client says while it is held.
const KEPT_BYTES_MAX: usize = 4 << 20;
const METHOD: u8 = 1;
const FRAME_END: u8 = 0xCE;

/// The frame before which a connection is held.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    class: u16,
    method: u16,
    /// All of it must be in the frame.
    contains: Vec<Vec<u8>>,
    /// This, with an empty short text behind it, must not be in the frame.
    not_before_nothing: Option<Vec<u8>>,
}

impl Frame {
    /// A publish to this exchange of a message with a routing key: without one a worker only asks, before it takes work,
    /// whether it may publish there.
    pub(crate) fn publish_to(exchange: &str) -> Frame {
        let exchange = short_string(exchange);
        let contains = vec![exchange.clone()];
        Frame { class: 60, method: 40, contains, not_before_nothing: Some(exchange) }
    }

    /// The same, if it also holds this text: of a publish, the routing key.
    pub(crate) fn with(mut self, text: &str) -> Frame {
        self.contains.push(short_string(text));
        self
    }

    /// An ack.
    pub(crate) fn ack() -> Frame {
        Frame { class: 60, method: 80, contains: Vec::new(), not_before_nothing: None }
    }

    /// `frame` is all of it: type, channel, size, payload, end.
    fn is(&self, frame: &[u8]) -> bool {
        let Some((head, payload)) = frame.split_at_checked(7) else { return false };
        let method = [self.class.to_be_bytes(), self.method.to_be_bytes()].concat();
        let has = |part: &[u8]| payload.windows(part.len()).any(|window| window == part);
        head[0] == METHOD
            && payload.starts_with(&method)
            && self.contains.iter().all(|part| has(part))
            && !self.not_before_nothing.as_ref().is_some_and(|part| has(&[part, &[0][..]].concat()))
    }
}

/// As AMQP writes a short text: one byte for its length, then the text.
fn short_string(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("a short text");
    [&[length], text.as_bytes()].concat()
}

/// What a hold is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Armed,
    Holding,
    Released,
    Cut,
}

/// One frame to be held, once.
#[derive(Clone)]
pub(crate) struct Hold(Arc<watch::Sender<At>>);

impl Hold {
    /// Waits until a connection is held.
    pub(crate) async fn held(&self) -> Result<()> {
        let mut at = self.0.subscribe();
        let holding = at.wait_for(|at| *at != At::Armed);
        tokio::time::timeout(PATIENCE, holding).await.context("the frame to be held never came")??;
        Ok(())
    }

    /// Lets the connection go on, with everything that was said meanwhile.
    pub(crate) fn release(&self) {
        self.0.send_replace(At::Released);
    }

    /// Ends the connection: the broker never hears what was held.
    pub(crate) fn cut(&self) {
        self.0.send_replace(At::Cut);
    }

    async fn decided(&self) -> At {
        let mut at = self.0.subscribe();
        let decided = at.wait_for(|at| matches!(at, At::Released | At::Cut)).await;
        // The sender lives in `self`.
        decided.map_or(At::Cut, |at| *at)
    }
}

type Holds = Arc<Mutex<Vec<(Frame, Hold)>>>;

/// The proxy; gone with all its connections when it is dropped.
pub(crate) struct Proxy {
    url: String,
    holds: Holds,
    in_hand: InHand,
    _connections: JoinSet<()>,
}

/// Which deliveries are in hand, and how long they were.
#[derive(Clone, Default)]
struct InHand(Arc<Mutex<Times>>);

#[derive(Default)]
struct Times {
    /// Since when, by connection, channel and tag.
    since: HashMap<(usize, u16, u64), Instant>,
    /// The longest of those that are acked.
    longest: Duration,
}

impl InHand {
    fn delivered(&self, connection: usize, frame: &[u8]) {
        const DELIVER: [u8; 4] = [0, 60, 0, 60];
        let Some((channel, arguments)) = method(frame, DELIVER) else { return };
        // The consumer's tag comes first.
        let tag = arguments.first().and_then(|len| arguments.get(usize::from(*len) + 1..)).and_then(tag_of);
        if let Some(tag) = tag {
            self.lock().since.insert((connection, channel, tag), Instant::now());
        }
    }

    fn acked(&self, connection: usize, frame: &[u8]) {
        const ACK: [u8; 4] = [0, 60, 0, 80];
        let Some((channel, arguments)) = method(frame, ACK) else { return };
        let mut in_hand = self.lock();
        if let Some(since) =
            tag_of(arguments).and_then(|tag| in_hand.since.remove(&(connection, channel, tag)))
        {
            in_hand.longest = in_hand.longest.max(since.elapsed());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The channel and the arguments of a frame, if it is of this method.
fn method(frame: &[u8], class_and_method: [u8; 4]) -> Option<(u16, &[u8])> {
    let (head, payload) = frame.split_at_checked(7)?;
    let arguments = payload.strip_prefix(&class_and_method)?;
    (head[0] == METHOD).then_some((u16::from_be_bytes([head[1], head[2]]), arguments))
}

fn tag_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|tag| u64::from_be_bytes(*tag))
}

impl Proxy {
    /// A proxy before the broker at this address, without TLS.
    pub(crate) async fn start(broker: &str) -> Result<Proxy> {
        let mut url: Url = broker.parse()?;
        ensure!(url.scheme() == "amqp", "a proxy cannot read what is encrypted");
        let behind = (url.host_str().context("no host")?.to_owned(), url.port().unwrap_or(5672));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        url.set_host(Some("127.0.0.1"))?;
        url.set_port(Some(listener.local_addr()?.port())).ok().context("no port")?;
        let (holds, in_hand) = (Holds::default(), InHand::default());
        let mut connections = JoinSet::new();
        let ours = (Arc::clone(&holds), in_hand.clone());
        connections.spawn(async move {
            let mut pumps = JoinSet::new();
            for number in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                let (behind, (holds, in_hand)) = (behind.clone(), ours.clone());
                pumps.spawn(async move {
                    if let Ok(server) = TcpStream::connect(behind).await {
                        // However a connection ends, both sides are closed.
                        let _ = between(client, server, &holds, &in_hand, number).await;
                    }
                });
                while pumps.try_join_next().is_some() {}
            }
        });
        Ok(Proxy { url: url.into(), holds, in_hand, _connections: connections })
    }

    /// The broker's address, by way of this proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// How long the delivery was in hand that was so for the longest, from the frame that brought it to that of its ack.
    pub(crate) fn longest_in_hand(&self) -> Duration {
        let in_hand = self.in_hand.lock();
        in_hand.since.values().map(Instant::elapsed).chain([in_hand.longest]).max().unwrap_or_default()
    }

    /// Holds the first connection that comes to this frame, once: nothing from this frame on reaches the broker.
    pub(crate) fn hold(&self, frame: Frame) -> Hold {
        let hold = Hold(Arc::new(watch::Sender::new(At::Armed)));
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).push((frame, hold.clone()));
        hold
    }
}

/// Carries frames both ways until one side is gone.
async fn between(
    client: TcpStream,
    server: TcpStream,
    holds: &Holds,
    in_hand: &InHand,
    number: usize,
) -> Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    let hearing = async {
        loop {
            let frame = read_frame(&mut from_server).await?;
            in_hand.delivered(number, &frame);
            to_client.write_all(&frame).await?;
        }
    };
    tokio::select! {
        said = speak(from_client, to_server, holds, in_hand, number) => said,
        heard = hearing => heard,
    }
}

/// Carries frames from the client to the broker, but not past a hold.
async fn speak(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    holds: &Holds,
    in_hand: &InHand,
    number: usize,
) -> Result<()> {
    let mut greeting = [0; 8];
    client.read_exact(&mut greeting).await?;
    server.write_all(&greeting).await?;
    let (kept, mut frames) = tokio::sync::mpsc::unbounded_channel();
    let budget = Arc::new(Mutex::new(0_usize));
    let spent = Arc::clone(&budget);
    // Read on while the connection is held: only so is its end noticed. What is kept is bounded.
    let reading = async move {
        loop {
            let frame = read_frame(&mut client).await?;
            let mut bytes = spent.lock().unwrap_or_else(PoisonError::into_inner);
            *bytes += frame.len();
            ensure!(*bytes <= KEPT_BYTES_MAX, "the client says too much while it is held");
            if kept.send(frame).is_err() {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some(frame) = frames.recv().await {
            let found = take_fitting(holds, &frame);
            if let Some(hold) = found {
                hold.0.send_replace(At::Holding);
                if hold.decided().await == At::Cut {
                    return Ok(());
                }
            }
            in_hand.acked(number, &frame);
            server.write_all(&frame).await?;
            *budget.lock().unwrap_or_else(PoisonError::into_inner) -= frame.len();
        }
        Ok(())
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

fn take_fitting(holds: &Holds, frame: &[u8]) -> Option<Hold> {
    let mut holds = holds.lock().unwrap_or_else(PoisonError::into_inner);
    let at = holds.iter().position(|(wanted, _)| wanted.is(frame))?;
    Some(holds.remove(at).1)
}

async fn read_frame(client: &mut OwnedReadHalf) -> Result<Vec<u8>> {
    let mut frame = vec![0; 7];
    client.read_exact(&mut frame).await?;
    let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
    if size > FRAME_BYTES_MAX {
        bail!("a frame of {size} bytes");
    }
    frame.resize(7 + size + 1, 0);
    client.read_exact(&mut frame[7..]).await?;
    ensure!(frame.last() == Some(&FRAME_END), "a frame without its end");
    Ok(frame)
}
