//! A publisher that writes its own frames, so that it can publish what no client library would: properties that are no
//! text, headers of any depth, header frames as large as the connection allows.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lapin::uri::AMQPUri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;
/// The largest frame that it agrees on, as RabbitMQ proposes.
pub(crate) const FRAME_MAX: usize = 131_072;
/// What a frame has beside its payload.
pub(crate) const OVERHEAD: usize = 8;
/// No broker takes longer to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection with one channel in confirm mode.
pub(crate) struct RawPublisher {
    socket: TcpStream,
}

/// What the broker made of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It has confirmed it.
    Confirmed,
    /// It has closed the channel or the connection: such a letter reaches nobody.
    Refused,
}

impl RawPublisher {
    /// Connects to the broker at this address, without TLS.
    pub(crate) async fn connect(url: &str) -> Result<RawPublisher> {
        let AMQPUri { authority, vhost, .. } = url.parse().map_err(anyhow::Error::msg)?;
        let user = authority.userinfo;
        let socket = TcpStream::connect((authority.host, authority.port)).await?;
        let mut publisher = RawPublisher { socket };
        publisher.socket.write_all(b"AMQP\0\0\x09\x01").await?;
        publisher.answer((10, 10)).await?;
        let response = format!("\0{}\0{}", user.username, user.password).into_bytes();
        let start_ok = [&long(b"")[..], &short(b"PLAIN"), &long(&response), &short(b"en_US")].concat();
        publisher.method(0, (10, 11), &start_ok).await?;
        publisher.answer((10, 30)).await?;
        let frame_max = u32::try_from(FRAME_MAX)?.to_be_bytes();
        publisher.method(0, (10, 31), &[&[0, 16][..], &frame_max, &[0, 0]].concat()).await?;
        publisher.method(0, (10, 40), &[&short(vhost.as_bytes())[..], &short(b""), &[0]].concat()).await?;
        publisher.answer((10, 41)).await?;
        publisher.method(1, (20, 10), &short(b"")).await?;
        publisher.answer((20, 11)).await?;
        publisher.method(1, (85, 10), &[0]).await?;
        publisher.answer((85, 11)).await?;
        Ok(publisher)
    }

    /// Publishes a letter with these properties, as they stand: the flags, and what they announce.
    pub(crate) async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &[u8],
        properties: &[u8],
        body: &[u8],
    ) -> Result<Taken> {
        let arguments = [&[0, 0][..], &short(exchange.as_bytes()), &short(routing_key), &[0]].concat();
        let header = [&[0, 60, 0, 0][..], &(body.len() as u64).to_be_bytes(), properties].concat();
        let mut frames = frame(METHOD, 1, &[&[0, 60, 0, 40][..], &arguments].concat());
        frames.extend(frame(HEADER, 1, &header));
        for chunk in body.chunks(FRAME_MAX - OVERHEAD) {
            frames.extend(frame(BODY, 1, chunk));
        }
        // A broker that refuses a letter need not read all of it.
        if self.socket.write_all(&frames).await.is_err() {
            return Ok(Taken::Refused);
        }
        loop {
            let Ok((frame_type, payload)) = self.read().await else { return Ok(Taken::Refused) };
            match (frame_type, payload.get(..4)) {
                (METHOD, Some([0, 60, 0, 80])) => return Ok(Taken::Confirmed),
                (METHOD, Some([0, 10, 0, 50] | [0, 20, 0, 40] | [0, 60, 0, 120])) => {
                    return Ok(Taken::Refused);
                }
                (HEARTBEAT, _) => {}
                other => bail!("the broker answers a publish with {other:?}"),
            }
        }
    }

    async fn method(&mut self, channel: u16, (class, method): (u16, u16), arguments: &[u8]) -> Result<()> {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.socket.write_all(&frame(METHOD, channel, &payload)).await?;
        Ok(())
    }

    async fn answer(&mut self, (class, method): (u16, u16)) -> Result<()> {
        let (_, payload) = self.read().await?;
        let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
        ensure!(payload.starts_with(&expected), "{class}.{method} was expected, and came: {payload:?}");
        Ok(())
    }

    async fn read(&mut self) -> Result<(u8, Vec<u8>)> {
        let reading = async {
            let mut head = [0; 7];
            self.socket.read_exact(&mut head).await?;
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            let mut payload = vec![0; usize::try_from(size)? + 1];
            self.socket.read_exact(&mut payload).await?;
            ensure!(payload.pop() == Some(FRAME_END), "a frame without its end");
            Ok((head[0], payload))
        };
        tokio::time::timeout(PATIENCE, reading).await?
    }
}

/// A frame, all of it.
pub(crate) fn frame(frame_type: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("a frame of ours is small").to_be_bytes();
    [&[frame_type][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat()
}

/// A short string, or the name of a header: at most 255 bytes.
pub(crate) fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("at most 255 bytes")], text].concat()
}

/// A long string, or what is written like one: the entries of a table, the values of an array.
pub(crate) fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("less than 4 GiB").to_be_bytes()[..], bytes].concat()
}

/// An entry of a table: a name, and a value with its type before it.
pub(crate) fn entry(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&short(name)[..], value].concat()
}

/// Properties of a persistent letter with these headers.
pub(crate) fn headers(entries: &[u8]) -> Vec<u8> {
    const HEADERS_AND_DELIVERY_MODE: [u8; 2] = [0x30, 0];
    [&HEADERS_AND_DELIVERY_MODE[..], &long(entries), &[2]].concat()
}

/// Properties of a persistent letter with one more, which is a short string: the bit of its flag, and its bytes.
pub(crate) fn property(bit: u32, text: &[u8]) -> Vec<u8> {
    const DELIVERY_MODE: u16 = 1 << 12;
    let flags = (DELIVERY_MODE | 1 << bit).to_be_bytes();
    if bit > 12 {
        [&flags[..], &short(text), &[2]].concat()
    } else {
        [&flags[..], &[2], &short(text)].concat()
    }
}
