//! A publisher that speaks AMQP 1.0, as far as it takes to publish one message: no client of AMQP 0-9-1 can give a
//! message a property that AMQP 0-9-1 has no type for.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lapin::uri::AMQPUri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SASL: u8 = 1;
const AMQP: u8 = 0;
/// No broker takes longer to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Publishes a durable message to an exchange, with one application property: a uuid. RabbitMQ 4.0 and later takes it, and
/// can deliver it to nobody who speaks AMQP 0-9-1.
pub(crate) async fn publish_with_a_uuid(url: &str, exchange: &str, key: &str, body: &[u8]) -> Result<()> {
    let AMQPUri { authority, vhost, .. } = url.parse().map_err(anyhow::Error::msg)?;
    let user = authority.userinfo;
    let mut socket = TcpStream::connect((authority.host, authority.port)).await?;

    greet(&mut socket, *b"AMQP\x03\x01\0\0").await?;
    let response = format!("\0{}\0{}", user.username, user.password).into_bytes();
    send(&mut socket, SASL, &performative(0x41, &[symbol("PLAIN"), binary(&response)])).await?;
    let outcome = answer(&mut socket, 0x44).await?;
    // The first field of its list is a code, and 0 is welcome.
    ensure!(outcome.windows(2).any(|code| code == [0x50, 0]), "not let in: {outcome:?}");

    greet(&mut socket, *b"AMQP\0\x01\0\0").await?;
    let host = format!("vhost:{vhost}");
    send(&mut socket, AMQP, &performative(0x10, &[string("a-publisher"), string(&host)])).await?;
    send(&mut socket, AMQP, &performative(0x11, &[NULL.to_vec(), uint(0), uint(100), uint(100)])).await?;
    let source = performative(0x28, &[]);
    let target = performative(0x29, &[string(&format!("/exchanges/{exchange}/{key}"))]);
    let attach = [
        string("a-link"),
        uint(0),
        FALSE.to_vec(),
        NULL.to_vec(),
        NULL.to_vec(),
        source,
        target,
        NULL.to_vec(),
        NULL.to_vec(),
        uint(0),
    ];
    send(&mut socket, AMQP, &performative(0x12, &attach)).await?;
    answer(&mut socket, 0x13).await?;

    let transfer = [uint(0), uint(0), binary(b"1"), uint(0), FALSE.to_vec(), FALSE.to_vec()];
    let message = [
        performative(0x14, &transfer),
        performative(0x70, &[TRUE.to_vec()]),
        [&[0, 0x53, 0x74][..], &map(&[string("trace"), uuid([7; 16])])].concat(),
        [&[0, 0x53, 0x75][..], &binary(body)].concat(),
    ];
    send(&mut socket, AMQP, &message.concat()).await?;
    let disposition = answer(&mut socket, 0x15).await?;
    const ACCEPTED: [u8; 3] = [0, 0x53, 0x24];
    ensure!(disposition.windows(3).any(|state| state == ACCEPTED), "not accepted: {disposition:?}");
    Ok(())
}

const NULL: [u8; 1] = [0x40];
const TRUE: [u8; 1] = [0x41];
const FALSE: [u8; 1] = [0x42];

fn uint(value: u32) -> Vec<u8> {
    [&[0x70][..], &value.to_be_bytes()].concat()
}

fn uuid(bytes: [u8; 16]) -> Vec<u8> {
    [&[0x98][..], &bytes].concat()
}

fn string(text: &str) -> Vec<u8> {
    variable(0xb1, text.as_bytes())
}

fn symbol(text: &str) -> Vec<u8> {
    variable(0xb3, text.as_bytes())
}

fn binary(bytes: &[u8]) -> Vec<u8> {
    variable(0xb0, bytes)
}

fn variable(constructor: u8, bytes: &[u8]) -> Vec<u8> {
    [&[constructor][..], &len(bytes.len()), bytes].concat()
}

fn map(items: &[Vec<u8>]) -> Vec<u8> {
    compound(0xd1, items)
}

/// A described list: a performative, a section or a terminus, by its code.
fn performative(code: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    [&[0, 0x53, code][..], &compound(0xd0, fields)].concat()
}

fn compound(constructor: u8, items: &[Vec<u8>]) -> Vec<u8> {
    let inner = items.concat();
    [&[constructor][..], &len(inner.len() + 4), &len(items.len()), &inner].concat()
}

fn len(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("small").to_be_bytes()
}

async fn greet(socket: &mut TcpStream, greeting: [u8; 8]) -> Result<()> {
    socket.write_all(&greeting).await?;
    let mut answer = [0; 8];
    tokio::time::timeout(PATIENCE, socket.read_exact(&mut answer)).await??;
    ensure!(answer == greeting, "the broker does not speak AMQP 1.0: {answer:?}");
    Ok(())
}

async fn send(socket: &mut TcpStream, frame_type: u8, body: &[u8]) -> Result<()> {
    let frame = [&len(body.len() + 8)[..], &[2, frame_type, 0, 0], body].concat();
    socket.write_all(&frame).await?;
    Ok(())
}

/// Reads frames until one of this performative comes, and gives its body.
async fn answer(socket: &mut TcpStream, code: u8) -> Result<Vec<u8>> {
    const END: u8 = 0x17;
    const CLOSE: u8 = 0x18;
    const DETACH: u8 = 0x16;
    let reading = async {
        loop {
            let mut size = [0; 4];
            socket.read_exact(&mut size).await?;
            let mut frame = vec![0; usize::try_from(u32::from_be_bytes(size))? - 4];
            socket.read_exact(&mut frame).await?;
            let body = frame.split_off(4);
            match body.get(2) {
                Some(found) if *found == code => return Ok(body),
                Some(&(DETACH | END | CLOSE)) => {
                    bail!("the broker refuses: {}", String::from_utf8_lossy(&body))
                }
                // An empty frame keeps the connection alive; others are not waited for.
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await?
}
