//! Sockets: ports that can be closed and opened again, connections that can be reset.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::header::{HOST, HeaderValue};
use hyper::{Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Handle,
    api::Api,
    calls::{self, Incoming, Reply, ReplyBody, bare},
    control,
};

/// Connections that one port serves at once; more wait in the backlog.
const CONNECTIONS_MAX: usize = 4_096;
const BACKLOG: u32 = 1_024;
/// What a request to one of the APIs may weigh.
const API_BODY_BYTES_MAX: usize = 1024 * 1024;
/// What a request to the control API may weigh: a seed of many payments.
const CONTROL_BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How often, and how long apart, a port is tried that the system still holds.
const BIND_TRIES_MAX: u32 = 100;
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// Who is served at a port.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Api(Api),
    Control,
}

/// Whether a port takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    Closed,
}

/// Asks for a door to be opened or closed, and is told when it is.
pub(super) struct DoorOrder {
    pub(super) door: Door,
    pub(super) done: oneshot::Sender<io::Result<()>>,
}

/// A port: one that listens, or one that is only held, so that nobody else takes it while connections are refused.
enum Port {
    Listening(TcpListener),
    Held(TcpSocket),
    Lost,
}

/// The connections of one opening of a door.
#[derive(Default)]
struct Generation {
    end: CancellationToken,
    tasks: TaskTracker,
}

/// Takes a port and listens.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    hold(address)?.listen(BACKLOG)
}

fn hold(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of before linger in TIME_WAIT; they must not keep us from our own port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn hold_patiently(address: SocketAddr) -> io::Result<TcpSocket> {
    let mut tries = 0;
    loop {
        match hold(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < BIND_TRIES_MAX => {
                tries += 1;
                tokio::time::sleep(BIND_PAUSE).await;
            }
            held => return held,
        }
    }
}

/// Serves one port until the simulator stops.
pub(super) async fn serve(
    handle: Handle,
    role: Role,
    listener: TcpListener,
    mut orders: mpsc::Receiver<DoorOrder>,
    stop: CancellationToken,
) {
    let Ok(address) = listener.local_addr() else { return };
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut port = Port::Listening(listener);
    // All connections since the door was opened: they end with it.
    let mut generation = Generation::default();
    loop {
        let order = tokio::select! {
            () = stop.cancelled() => break,
            Some(order) = orders.recv() => order,
            accepted = accept(&port, &permits) => {
                if let Some((stream, permit)) = accepted {
                    let Generation { end, tasks } = &generation;
                    let talk = converse(handle.clone(), role, stream, end.clone());
                    tasks.spawn(async move {
                        talk.await;
                        drop(permit);
                    });
                }
                continue;
            }
        };
        let DoorOrder { door, done } = order;
        let moved = match (door, port) {
            (Door::Open, Port::Listening(listener)) => Ok(Port::Listening(listener)),
            (Door::Closed, Port::Held(socket)) => Ok(Port::Held(socket)),
            (Door::Closed, Port::Lost) => Ok(Port::Lost),
            (Door::Closed, Port::Listening(listener)) => {
                drop(listener);
                end_of(std::mem::take(&mut generation)).await;
                hold_patiently(address).await.map(Port::Held)
            }
            (Door::Open, Port::Held(socket)) => socket.listen(BACKLOG).map(Port::Listening),
            (Door::Open, Port::Lost) => {
                hold_patiently(address).await.and_then(|socket| socket.listen(BACKLOG)).map(Port::Listening)
            }
        };
        let result;
        (port, result) = match moved {
            Ok(port) => (port, Ok(())),
            Err(error) => (Port::Lost, Err(error)),
        };
        let _ = done.send(result);
    }
    drop(port);
    end_of(generation).await;
}

async fn accept(
    port: &Port,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    match port {
        Port::Listening(listener) => {
            let permit = Arc::clone(permits).acquire_owned().await.ok()?;
            match listener.accept().await {
                Ok((stream, _)) => Some((stream, permit)),
                Err(_) => {
                    // Out of file handles, most likely: accepting again at once would only spin.
                    tokio::time::sleep(BIND_PAUSE).await;
                    None
                }
            }
        }
        Port::Held(_) | Port::Lost => std::future::pending().await,
    }
}

/// Hangs up on every connection and waits until the last one is gone.
async fn end_of(Generation { end, tasks }: Generation) {
    end.cancel();
    tasks.close();
    tasks.wait().await;
}

/// Serves one connection until its client leaves, its door closes, or a fault breaks it.
async fn converse(handle: Handle, role: Role, stream: TcpStream, end: CancellationToken) {
    let _ = stream.set_nodelay(true);
    // The twin keeps the socket open until we have said how it shall be closed.
    let twin = SockRef::from(&stream).try_clone();
    let reset = Arc::new(AtomicBool::new(false));
    let wish = Arc::clone(&reset);
    let keep_alive = handle.inner.keep_alive;
    let service = service_fn(move |request| {
        let (handle, wish) = (handle.clone(), Arc::clone(&wish));
        async move {
            let reply = respond(handle, role, request).await;
            if matches!(reply, Err(Broken::Reset)) {
                wish.store(true, Ordering::Relaxed);
            }
            reply
        }
    });
    let connection =
        http1::Builder::new().keep_alive(keep_alive).serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // An error is a client that left, or a fault that was planned: nobody needs to hear of it.
        _ = connection => {}
        () = end.cancelled() => {}
    }
    if let (true, Ok(twin)) = (reset.load(Ordering::Relaxed), &twin) {
        // Closed without lingering, a socket sends RST in place of FIN.
        let _ = twin.set_linger(Some(Duration::ZERO));
    }
}

/// Why a connection ends without a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Close,
    Reset,
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Close => "closed as planned",
            Self::Reset => "reset as planned",
        })
    }
}

impl std::error::Error for Broken {}

async fn respond(
    handle: Handle,
    role: Role,
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<Response<ReplyBody>, Broken> {
    let (parts, body) = request.into_parts();
    let host = parts.headers.get(HOST).map(HeaderValue::as_bytes);
    if !handle.inner.hosts.lock_out_ended(host) {
        return Ok(bare(StatusCode::MISDIRECTED_REQUEST));
    }
    let body_bytes_max = match role {
        Role::Api(_) => API_BODY_BYTES_MAX,
        Role::Control => CONTROL_BODY_BYTES_MAX,
    };
    let body = match Limited::new(body, body_bytes_max).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Ok(bare(StatusCode::PAYLOAD_TOO_LARGE)),
        Err(_) => return Err(Broken::Close),
    };
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let api = match role {
        Role::Api(api) => api,
        Role::Control => return Ok(control::handle(handle, &parts.method, &path, &body).await),
    };
    let incoming = Incoming { api, method: parts.method, path, headers: parts.headers, body };
    let (told, hear) = oneshot::channel();
    // A task of its own: the gateway goes on with what it has begun when the caller hangs up.
    handle.spawn(calls::handle(handle.clone(), incoming, told));
    match hear.await {
        Ok(Reply::Http(reply)) => Ok(reply),
        Ok(Reply::Reset) => Err(Broken::Reset),
        Ok(Reply::Close) | Err(_) => Err(Broken::Close),
    }
}
