//! Puts the screen between the socket and the client library: a stream for the library's runtime, which reads ours.

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::tcp::AsyncTcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::screen::{FrameError, Limits, Screen};

/// What is read from the socket at once, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// The number of swallowed bytes after which the library's thread gets a turn.
const SWALLOWED_AT_ONCE: u64 = 256 * 1024;

/// How often a library hears a heartbeat while what comes is swallowed, or not read. It ends a connection from which it
/// hears nothing for as long as the heartbeat that was agreed on.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// The stream of a socket, TLS inside it.
type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// The runtime that the client library is given: tokio, but for the streams.
pub(super) type ScreenedRuntime = Runtime<RuntimeParts<Tokio, Sockets>>;

/// The runtime of this thread, as the client library is to see it.
pub(super) fn runtime() -> ScreenedRuntime {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), Sockets(tokio)))
}

/// Says whether the screen has stopped reading, because too much lies in letters that are larger than an intent.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<AtomicBool>);

impl Held {
    /// Whether nothing is read now. The broker cannot be heard then, however well it is.
    pub(super) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A socket, seen through the screen.
pub(super) struct Screened {
    socket: Socket,
    screen: Screen,
    /// What was read from the socket last, and which part of it the screen has not taken.
    read: Box<[u8]>,
    not_taken: Range<usize>,
    /// What the library is to read, from `at` on.
    out: Vec<u8>,
    at: usize,
    /// When the library has heard something last.
    heard: Instant,
    swallowed_bytes: u64,
    /// Wakes the library while nothing is read; so do the acks that make room.
    tick: Interval,
    reader: Option<Waker>,
    held: Held,
}

impl Screened {
    pub(super) fn new(socket: Socket, limits: Limits) -> (Screened, Held) {
        let mut tick = interval(HEARTBEAT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let held = Held::default();
        let screened = Screened {
            socket,
            screen: Screen::new(limits),
            read: vec![0; READ_BYTES].into(),
            not_taken: 0..0,
            out: Vec::new(),
            at: 0,
            heard: Instant::now(),
            swallowed_bytes: 0,
            tick,
            reader: None,
            held: held.clone(),
        };
        (screened, held)
    }

    /// What lies ready for the library; nothing at the end of the stream.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        while self.at == self.out.len() {
            self.out.clear();
            self.at = 0;
            let is_full = self.screen.is_full();
            self.held.0.store(is_full, Ordering::Relaxed);
            if is_full {
                self.reader = Some(cx.waker().clone());
                ready!(self.tick.poll_tick(cx));
                self.out.extend(self.screen.heartbeat().unwrap_or_default());
                continue;
            }
            if self.not_taken.is_empty() {
                let len = ready!(Pin::new(&mut self.socket).poll_read(cx, &mut self.read))?;
                if len == 0 {
                    return Poll::Ready(Ok(&[]));
                }
                self.not_taken = 0..len;
            }
            let taken =
                self.screen.read(&self.read[self.not_taken.clone()], &mut self.out).map_err(broken)?;
            self.not_taken.start += taken;
            if self.out.is_empty() && self.is_to_pause() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.heard = Instant::now();
        Poll::Ready(Ok(&self.out[self.at..]))
    }

    /// Nothing came out. If that is because a body is being cut, the library is handed a heartbeat now and then, and its
    /// thread gets a turn now and then: is that now?
    fn is_to_pause(&mut self) -> bool {
        let swallowed_bytes = self.screen.swallowed_bytes();
        if swallowed_bytes == self.swallowed_bytes {
            return false;
        }
        if self.heard.elapsed() >= HEARTBEAT_EVERY {
            self.out.extend(self.screen.heartbeat().unwrap_or_default());
            return false;
        }
        let is_to_pause = swallowed_bytes - self.swallowed_bytes >= SWALLOWED_AT_ONCE;
        if is_to_pause {
            self.swallowed_bytes = swallowed_bytes;
        }
        is_to_pause
    }

    fn wrote(&mut self, bytes: &[u8]) {
        self.screen.wrote(bytes);
        if !self.screen.is_full()
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
    }
}

fn broken(fault: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

impl AsyncRead for Screened {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read_vectored(cx, &mut [IoSliceMut::new(buffer)])
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut ready = ready!(self.poll_ready(cx))?;
        let before = ready.len();
        for buffer in buffers {
            let (taken, rest) = ready.split_at(ready.len().min(buffer.len()));
            buffer[..taken.len()].copy_from_slice(taken);
            ready = rest;
        }
        let taken = before - ready.len();
        self.at += taken;
        Poll::Ready(Ok(taken))
    }
}

impl AsyncWrite for Screened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        self.wrote(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, buffers))?;
        let mut left = taken;
        for buffer in buffers {
            let written = left.min(buffer.len());
            self.wrote(&buffer[..written]);
            left -= written;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

/// The reactor that the client library is given. It makes no streams: it is handed them.
#[derive(Debug, Clone)]
pub(super) struct Sockets(Tokio);

impl Reactor for Sockets {
    type TcpStream = Screened;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = std::time::Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        _address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::Error::from(io::ErrorKind::Unsupported)))
    }
}
