//! One connection, the screen under it, and the socket under that, so that it can be cut.
//!
//! The client library gives every connection a thread of its own, and lets go of thread and buffers only when the
//! socket says that it has ended. A host that accepts and never answers, a broker that says nothing to our *close*,
//! a connection that an alarm has blocked: none of them ever says so. So we keep a second handle of the socket:
//! dropping a [`Connection`], or the wait for one, shuts it down.

use std::net::{Shutdown, TcpStream};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::uri::AMQPUri;
use lapin::{ConnectionProperties, ErrorKind};

use super::dial::dial;
use super::screen::Limits;
use super::transport::{self, Held, Screened};

/// A connection that ends when it is dropped, whatever the other side does.
pub(super) struct Connection {
    // In this order: a connection that is still open is closed, then its socket ends.
    connection: lapin::Connection,
    _socket: Socket,
    held: Held,
}

impl Connection {
    /// Connects, TLS and handshake included. Dropping the wait leaves nothing behind.
    pub(super) async fn open(
        uri: AMQPUri,
        properties: ConnectionProperties,
        tls: Option<&RustlsConnector>,
        limits: Limits,
    ) -> lapin::Result<Connection> {
        // Not in the library's thread, which cannot be stopped, and leaves its helpers behind when it fails.
        let host = uri.authority.host.clone();
        let stream = AsyncTcpStream::Plain(dial(&host, uri.authority.port).await?);
        let stream = match tls {
            None => stream,
            Some(tls) => stream.into_rustls(tls, &host).await?,
        };
        let socket = match &stream {
            AsyncTcpStream::Plain(stream) => Socket::of(stream.get_ref().as_fd())?,
            AsyncTcpStream::Rustls(stream) => Socket::of(stream.get_ref().0.get_ref().as_fd())?,
            // The client library's enum; its other variants are not built here.
            _ => return Err(ErrorKind::NoDefaultRuntime.into()),
        };
        let (screened, held) = Screened::new(stream, limits);
        let once = Mutex::new(Some(AsyncTcpStream::Plain(screened)));
        let take = async move |_uri, _runtime| {
            let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into())
        };
        let connection = lapin::Connection::connector(uri, transport::runtime(), take, properties).await?;
        Ok(Connection { connection, _socket: socket, held })
    }

    /// Whether nothing is read from it now, whatever the broker sends.
    pub(super) fn held(&self) -> &Held {
        &self.held
    }
}

impl Deref for Connection {
    type Target = lapin::Connection;

    fn deref(&self) -> &lapin::Connection {
        &self.connection
    }
}

/// A second hold on a socket. Dropping it ends the traffic in both directions, and so the thread that waits for it.
struct Socket(TcpStream);

impl Socket {
    fn of(fd: BorrowedFd<'_>) -> std::io::Result<Socket> {
        Ok(Socket(TcpStream::from(fd.try_clone_to_owned()?)))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // That it has ended already is as good.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
