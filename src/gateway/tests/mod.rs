//! The gateway's promises, over real sockets: a plain TCP server stands where the gateway would, and says byte by
//! byte what the test wants said.

mod faults;
mod looks;
mod pages;
mod settings;
mod unreachable;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use url::Url;
use uuid::Uuid;

use super::*;
use crate::config::{KeyPair, PlainHttp};
use crate::domain::step::Order;

/// A payment of ours.
const OURS: Uuid = Uuid::from_u128(0x7cc7c8e8_9d92_41b6_9378_e9ecef5a7812);

/// Long enough for a loaded machine: what is expected to come comes long before.
const LONG: Duration = Duration::from_secs(20);

/// For what is expected never to come.
const SHORT: Duration = Duration::from_millis(1_500);

/// A request, as the server saw it.
#[derive(Debug, Clone)]
struct Seen {
    /// The other end of the connection: one for each connection.
    peer: SocketAddr,
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What the server does with a request that it has read.
enum Act {
    /// Says this, and listens for the next request on the same connection.
    Say(Vec<u8>),
    /// Says this, then nothing more, and keeps the connection.
    Hang(Vec<u8>),
    /// Says this, and closes.
    Close(Vec<u8>),
    /// Says this, and resets.
    Reset(Vec<u8>),
}

/// A server on a free port of the loopback, for as long as the test's runtime lives.
struct Server {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Server {
    async fn start(act: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::unbounded_channel();
        let act = Arc::new(act);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&act), sender.clone()));
            }
        });
        Server { address, seen }
    }

    /// Answers every request with this.
    async fn saying(reply: Vec<u8>) -> Server {
        Server::start(move |_| Act::Say(reply.clone())).await
    }

    fn url(&self) -> Url {
        format!("http://{}", self.address).parse().unwrap()
    }

    /// All that was asked so far.
    fn seen(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).collect()
    }

    fn only_one(&mut self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

async fn serve(
    mut stream: TcpStream,
    act: Arc<impl Fn(&Seen) -> Act + Send + Sync>,
    seen: mpsc::UnboundedSender<Seen>,
) -> Option<()> {
    loop {
        let request = read_request(&mut stream).await?;
        let act = act(&request);
        seen.send(request).ok()?;
        match act {
            Act::Say(bytes) => stream.write_all(&bytes).await.ok()?,
            Act::Hang(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                std::future::pending::<()>().await;
            }
            Act::Close(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                return Some(());
            }
            Act::Reset(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                reset(stream);
                return Some(());
            }
        }
    }
}

/// Closes with RST instead of FIN.
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ').map(str::to_owned);
    let (method, path) = (first.next()?, first.next()?);
    let headers: BTreeMap<String, String> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        (stream.read_buf(&mut body).await.ok()? > 0).then_some(())?;
    }
    let peer = stream.peer_addr().ok()?;
    Some(Seen { peer, method, path, headers, body })
}

/// An HTTP reply: `200 OK`, more header lines, the body.
fn reply(status: &str, header_lines: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for line in header_lines {
        bytes.extend_from_slice(format!("{line}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    reply("200 OK", &["content-type: application/json"], body)
}

fn settings(url: &Url, call_timeout: Duration) -> config::Gateway {
    config::Gateway {
        urls: Api::ALL.into_iter().map(|api| (api, url.clone())).collect(),
        connect_timeout: call_timeout,
        call_timeout,
        plain_http: PlainHttp::Loopback,
        trace_headers: TraceHeaders::Kept,
        limits: BTreeMap::new(),
        ca_file: None,
        batch_callback_url: Some("https://yourwebsite.com/paywall/callback".parse().unwrap()),
    }
}

fn pair(key: &str, client: &str) -> Option<KeyPair> {
    Some(KeyPair { key: SecretString::from(key), client: SecretString::from(client) })
}

/// The default merchant, with all of its keys.
fn merchants() -> BTreeMap<MerchantName, config::Merchant> {
    let merchant =
        config::Merchant { private: pair("priv-key", "priv-client"), public: pair("pub-key", "pub-client") };
    BTreeMap::from([(MerchantName::default(), merchant)])
}

/// As `main` does first; each test may be the process's first.
fn install_tls() {
    let _already_there = rustls::crypto::ring::default_provider().install_default();
}

fn gateway_with(settings: &config::Gateway) -> Gateway {
    install_tls();
    Gateway::new(settings, &merchants()).unwrap()
}

fn gateway(server: &Server) -> Gateway {
    gateway_with(&settings(&server.url(), LONG))
}

fn call_of(order: Order) -> Call {
    Call { merchant: MerchantName::default(), order }
}

/// A call whose body and reply are small: the private cancel.
fn transaction_call() -> Call {
    call_of(Order::TransactionCancel {
        unique_code: OURS,
        date: "2023-01-23".parse().unwrap(),
        delete_marketplace_records: None,
    })
}

fn inquiry_of(question: Question) -> Inquiry {
    Inquiry { merchant: MerchantName::default(), question }
}

fn code(text: &str) -> Code {
    Code::parse(text).unwrap()
}

/// Steps run in tasks of their own, so both futures must be able to move between threads.
#[test]
fn call_and_inquire_can_run_in_a_task_of_their_own() {
    fn can_be_spawned(_: impl Future + Send + 'static) {}
    let gateway = gateway_with(&settings(&"http://127.0.0.1:1".parse().unwrap(), SHORT));
    let (caller, asker) = (gateway.clone(), gateway);
    can_be_spawned(async move { caller.call(&transaction_call(), None).await });
    let inquiry = inquiry_of(Question::Batch { payments: vec![(0, code("a"))] });
    can_be_spawned(async move { asker.inquire(&inquiry, None).await });
}
