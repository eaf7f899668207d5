//! What a broker, or somebody in the way of a plain connection, can send: it costs that connection at most, and little
//! memory.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use url::Url;

use crate::process::cancellations::{Cancellation, Copies, Course};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::Process;
use crate::support::raw::{entry, frame, long};
use crate::support::stage::Stage;

/// The most that a worker may take, in KiB, whatever comes.
const RESIDENT_KIB_MAX: u64 = 150 * 1024;

const METHOD: u8 = 1;

/// Somebody in the way, who changes what the broker says.
struct InTheWay {
    url: String,
    _connections: JoinSet<()>,
}

impl InTheWay {
    /// On the way to the broker at this address; `change` makes of each method frame's payload what the worker gets.
    async fn of(broker: &str, change: fn(Vec<u8>) -> Vec<u8>) -> Result<InTheWay> {
        let mut url: Url = broker.parse()?;
        let behind = (url.host_str().context("no host")?.to_owned(), url.port().unwrap_or(5672));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        url.set_host(Some("127.0.0.1"))?;
        url.set_port(Some(listener.local_addr()?.port())).ok().context("no port")?;
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut traffic = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let behind = behind.clone();
                traffic.spawn(async move {
                    if let Ok(server) = TcpStream::connect(behind).await {
                        // However a connection ends, both sides are closed.
                        let _ = carry(client, server, change).await;
                    }
                });
            }
        });
        Ok(InTheWay { url: url.into(), _connections: connections })
    }
}

async fn carry(client: TcpStream, server: TcpStream, change: fn(Vec<u8>) -> Vec<u8>) -> Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let telling = async {
        loop {
            let mut head = [0; 7];
            from_server.read_exact(&mut head).await?;
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            let mut payload = vec![0; usize::try_from(size)? + 1];
            from_server.read_exact(&mut payload).await?;
            payload.pop();
            let payload = if head[0] == METHOD { change(payload) } else { payload };
            to_client.write_all(&frame(head[0], u16::from_be_bytes([head[1], head[2]]), &payload)).await?;
        }
    };
    tokio::select! {
        told = telling => told,
        copied = tokio::io::copy(&mut from_client, &mut to_server) => Ok(copied.map(drop)?),
    }
}

/// A worker by way of somebody who changes what the broker says does its work, and takes little memory.
async fn works_through(t: Context, change: fn(Vec<u8>) -> Vec<u8>) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let in_the_way = InTheWay::of(stage.url(), change).await?;
    let worker = Process::work_through(&stage, &in_the_way.url)?;
    worker.stderr.event("generation_started").await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.publish(&cancellation.intent).await?;
    cancellation.ended(&stage, 1).await?;
    cancellation.is_told_truly(&stage, Copies::One)?;
    is_small(&worker)?;
    ensure!(worker.stop_by("TERM").await?.code == Some(0), "it does not end with 0");
    Ok(())
}

fn is_small(worker: &Process) -> Result<()> {
    let resident = worker.resident_kib_max()?;
    ensure!(resident <= RESIDENT_KIB_MAX, "it has taken {resident} KiB");
    Ok(())
}

/// `Connection.Tune` with another frame size.
fn tuned(payload: Vec<u8>, frame_max: u32) -> Vec<u8> {
    match payload.split_at_checked(6) {
        Some((begin, rest)) if payload.starts_with(&[0, 10, 0, 30]) => {
            [begin, &frame_max.to_be_bytes(), &rest[4..]].concat()
        }
        Some(_) | None => payload,
    }
}

broker_test!(frames_without_a_bound_are_not_agreed_to);
async fn frames_without_a_bound_are_not_agreed_to(t: Context) -> Result<()> {
    works_through(t, |payload| tuned(payload, 0)).await
}

broker_test!(frames_of_128_mib_are_not_agreed_to);
async fn frames_of_128_mib_are_not_agreed_to(t: Context) -> Result<()> {
    works_through(t, |payload| tuned(payload, 128 * 1024 * 1024)).await
}

broker_test!(server_properties_of_any_depth_and_of_no_text_end_nothing);
async fn server_properties_of_any_depth_and_of_no_text_end_nothing(t: Context) -> Result<()> {
    works_through(t, |payload| {
        if !payload.starts_with(&[0, 10, 0, 10]) {
            return payload;
        }
        let deep = (0..3_000).fold(b"V".to_vec(), |inner, _| [&b"A"[..], &long(&inner)].concat());
        let properties = [entry(b"deep", &deep), entry(b"\xfc", b"V")].concat();
        [&[0, 10, 0, 10, 0, 9][..], &long(&properties), &long(b"PLAIN AMQPLAIN"), &long(b"en_US")].concat()
    })
    .await
}

broker_test!(letters_of_15_mib_and_many_of_1_mib_are_dead_and_take_little_memory);
async fn letters_of_15_mib_and_many_of_1_mib_are_dead_and_take_little_memory(t: Context) -> Result<()> {
    const LARGE: (usize, usize) = (4, 15 * 1024 * 1024);
    const MANY: (usize, usize) = (24, 1024 * 1024);
    let stage = Stage::new(&t, "").await?;
    let prefix = stage.topology().prefix().to_owned();
    let exchange = format!("{prefix}.intents");
    let channel = stage.connection().create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for (count, bytes) in [LARGE, MANY] {
        let body = vec![b' '; bytes];
        for _ in 0..count {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let properties = BasicProperties::default().with_delivery_mode(2);
            let key = "transaction_cancel".into();
            let publishing = channel.basic_publish(exchange.as_str().into(), key, options, &body, properties);
            ensure!(publishing.await?.await? == Confirmation::Ack(None), "the broker does not take it");
        }
    }
    let worker = Process::work(&stage, &[])?;
    let cancellation = Cancellation::new(&stage, Kind::AsyncCancel, Course::AtOnce)?;
    stage.publish(&cancellation.intent).await?;
    cancellation.ended(&stage, 1).await?;
    stage.until_depth(&format!("{prefix}.dead-letters"), u32::try_from(LARGE.0 + MANY.0)?).await?;
    is_small(&worker)?;
    let started = worker.stderr.events("generation_started").len();
    ensure!(started == 1, "{started} generations:\n{}", worker.stderr.text());
    ensure!(worker.stop_by("TERM").await?.code == Some(0), "it does not end with 0");

    let dead = stage.dead_letters().await?;
    for letter in &dead {
        let is_cut = letter.headers.get("cancel-unreadable");
        let expected = "the body has 15728640 bytes (SHA-256 ";
        match letter.body.len() {
            65_536 => assert!(is_cut.is_some_and(|words| words.starts_with(expected)), "{is_cut:?}"),
            _whole => assert_eq!(is_cut, None),
        }
    }
    let mut lengths: Vec<usize> = dead.iter().map(|letter| letter.body.len()).collect();
    lengths.sort_unstable();
    lengths.dedup();
    assert_eq!(lengths, [64 * 1024, 1024 * 1024]);
    Ok(())
}
