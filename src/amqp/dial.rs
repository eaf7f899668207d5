//! A socket to whichever address of a host answers first.
//!
//! A name may have addresses that cannot be reached from here: the other family, a node that is gone behind a firewall
//! that swallows packets. So no address is waited for alone (RFC 8305): the next is tried a moment after the one
//! before, or at once when that has failed, and all go on until the first is connected.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_rs::Tokio;
use async_rs::traits::Reactor;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::lookup_host;
use tokio::time::sleep;

/// How long after one address the next is tried: what RFC 8305 recommends.
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// A socket as the client library takes it.
type Stream = <Tokio as Reactor>::TcpStream;

/// Connects to this host. It has no deadline of its own.
pub(super) async fn dial(host: &str, port: u16) -> io::Result<Stream> {
    race(in_turns(lookup_host((host, port)).await?)).await
}

/// The families take turns, beginning with the one that the system prefers.
fn in_turns(addresses: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let addresses: Vec<SocketAddr> = addresses.collect();
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, others): (VecDeque<SocketAddr>, VecDeque<SocketAddr>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_ipv6);
    let mut turns = VecDeque::new();
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    loop {
        let turn = [preferred.next(), others.next()];
        if turn == [None, None] {
            return turns;
        }
        turns.extend(turn.into_iter().flatten());
    }
}

async fn race(mut addresses: VecDeque<SocketAddr>) -> io::Result<Stream> {
    let runtime = Tokio::current();
    let mut trying = FuturesUnordered::new();
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        trying.extend(addresses.pop_front().map(|address| runtime.tcp_connect_addr(address)));
        tokio::select! {
            biased;
            connected = trying.next() => match connected {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => failed = error,
                None => return Err(failed),
            },
            () = sleep(NEXT_AFTER), if !addresses.is_empty() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// An address that lets nobody in and says nothing: its queue is full.
    struct Swallowing {
        listener: socket2::Socket,
        _queued: Vec<socket2::Socket>,
    }

    impl Swallowing {
        fn new() -> Swallowing {
            let new = || {
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket")
            };
            let listener = new();
            listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
            listener.listen(0).expect("it listens");
            let address = listener.local_addr().expect("it has one");
            // More than the queue takes: from then on what comes is dropped.
            let queued = [(); 4].map(|()| {
                let socket = new();
                socket.set_nonblocking(true).expect("a socket");
                let _ = socket.connect(&address);
                socket
            });
            Swallowing { listener, _queued: queued.into() }
        }

        fn address(&self) -> SocketAddr {
            self.listener.local_addr().ok().and_then(|address| address.as_socket()).expect("an address")
        }
    }

    #[tokio::test]
    async fn an_address_that_swallows_packets_keeps_nobody_from_the_next() {
        let swallowing = [Swallowing::new(), Swallowing::new()];
        let answering = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let answering = (answering.local_addr().expect("it has one"), answering);
        let addresses = swallowing.iter().map(Swallowing::address).chain([answering.0]).collect();
        let stream =
            tokio::time::timeout(Duration::from_secs(20), race(addresses)).await.expect("it connects");
        assert_eq!(stream.and_then(|stream| stream.get_ref().peer_addr()).ok(), Some(answering.0));
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_by_the_next_and_the_last_says_why() {
        let closed =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr()).expect("a port");
        let answering = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let open = answering.local_addr().expect("it has one");
        assert!(race([closed, closed, open].into()).await.is_ok());
        let refused = race([closed, closed].into()).await.map(|_| ()).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn the_families_take_turns() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let given = ["[::1]:1", "[::1]:2", "[::1]:3", "127.0.0.1:1"].map(address);
        let turns = ["[::1]:1", "127.0.0.1:1", "[::1]:2", "[::1]:3"].map(address);
        assert_eq!(in_turns(given.into_iter()), turns);
    }
}
