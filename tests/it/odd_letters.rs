//! Letters that the client library could not read: each costs itself at most, and stops nobody.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use lapin::options::QueuePurgeOptions;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use crate::process::cancellations::{Cancellation, Copies, Course, nothing_is_left};
use crate::support::Context;
use crate::support::amqp10::publish_with_a_uuid;
use crate::support::broker_test;
use crate::support::process::Process;
use crate::support::raw::{FRAME_MAX, OVERHEAD, RawPublisher, Taken, entry, headers, long, property, short};
use crate::support::stage::Stage;

/// How long a neighbour of an odd letter may take to its end.
const NEIGHBOURS_MAX: Duration = Duration::from_secs(5);

/// The bits of the properties that are short strings, but for the user's id, which the broker itself judges.
const SHORT_STRINGS: [u32; 9] = [15, 14, 10, 9, 8, 7, 5, 3, 2];
const EXPIRATION: u32 = 8;

/// A letter's properties, as they stand on the wire, and what is odd about them.
struct Odd {
    what: String,
    properties: Vec<u8>,
    routing_key: Option<Vec<u8>>,
}

fn odd(what: impl Into<String>, properties: Vec<u8>) -> Odd {
    Odd { what: what.into(), properties, routing_key: None }
}

/// Arrays in each other, so many.
fn arrays(depth: usize) -> Vec<u8> {
    (0..depth).fold(b"V".to_vec(), |inner, _| [&b"A"[..], &long(&inner)].concat())
}

/// Tables in each other, so many.
fn tables(depth: usize) -> Vec<u8> {
    (0..depth).fold(b"V".to_vec(), |inner, _| [&b"F"[..], &long(&entry(b"a", &inner))].concat())
}

/// Headers that make a header frame of exactly this size.
fn headers_of_frame(size: usize) -> Vec<u8> {
    let rest = headers(&entry(b"large", &[&b"S"[..], &long(b"")].concat())).len() + 12 + OVERHEAD;
    headers(&entry(b"large", &[&b"S"[..], &long(&vec![b'x'; size - rest])].concat()))
}

/// A publisher of odd letters, a worker in a process of its own, and neighbours.
struct Lanes {
    stage: Stage,
    publisher: RawPublisher,
    worker: Process,
}

impl Lanes {
    async fn new(t: &Context) -> Result<Lanes> {
        let stage = Stage::new(t, "").await?;
        let publisher = RawPublisher::connect(stage.url()).await?;
        let worker = Process::work(&stage, &[])?;
        worker.stderr.event("generation_started").await?;
        Ok(Lanes { stage, publisher, worker })
    }

    /// Publishes an odd letter and six neighbours of two kinds: all of them end, the neighbours soon.
    async fn all_end(&mut self, odd: &Odd) -> Result<()> {
        let letter = Cancellation::new(&self.stage, Kind::TransactionCancel, Course::AtOnce)?;
        let exchange = format!("{}.intents", self.stage.topology().prefix());
        let body = serde_json::to_vec(&letter.intent)?;
        let key = odd.routing_key.as_deref().unwrap_or(letter.kind.as_str().as_bytes());
        let taken = self.publisher.publish(&exchange, key, &odd.properties, &body).await?;
        if taken == Taken::Refused {
            // It has never been in a lane.
            self.publisher = RawPublisher::connect(self.stage.url()).await?;
        }
        let mut neighbours = Vec::new();
        for kind in [Kind::TransactionCancel, Kind::ApmProvisionCancel].repeat(3) {
            let neighbour = Cancellation::new(&self.stage, kind, Course::AtOnce)?;
            self.stage.publish(&neighbour.intent).await?;
            neighbours.push(neighbour);
        }
        let is_end = |event: &Value, cancellation: &Cancellation| {
            event["subject"] == cancellation.subject() && event["data"]["terminal"] == true
        };
        self.stage
            .ledger
            .wait_within(NEIGHBOURS_MAX, "end of the neighbours", |events| {
                neighbours.iter().all(|cancellation| events.iter().any(|event| is_end(event, cancellation)))
            })
            .await?;
        if taken == Taken::Confirmed {
            self.stage.ledger.end_of(letter.subject()).await?;
            if odd.routing_key.is_none() {
                letter.is_told_truly(&self.stage, Copies::One)?;
            }
        }
        for neighbour in neighbours {
            neighbour.is_told_truly(&self.stage, Copies::One)?;
        }
        Ok(())
    }

    /// The one generation of the one process has taken all of it, and nothing is left anywhere.
    async fn have_lived(self) -> Result<()> {
        let started = self.worker.stderr.events("generation_started").len();
        ensure!(started == 1, "{started} generations:\n{}", self.worker.stderr.text());
        let isolated = self.worker.stderr.events("isolated").len();
        ensure!(isolated == 0, "{isolated} letters were isolated");
        let ended = self.worker.stop_by("TERM").await?;
        ensure!(ended.code == Some(0), "it ended with {:?}", ended.code);
        nothing_is_left(&self.stage).await
    }
}

broker_test!(properties_that_are_no_text_cost_their_own_letter_nothing_but_them);
async fn properties_that_are_no_text_cost_their_own_letter_nothing_but_them(t: Context) -> Result<()> {
    let mut lanes = Lanes::new(&t).await?;
    let latin = b"M\xfcller & S\xf6hne";
    for odd in [
        odd("the 16 bytes of a uuid as correlation_id", property(10, &[0xfc; 16])),
        odd("Latin-1 as app_id", property(3, latin)),
        odd("Latin-1 as content_type", property(15, latin)),
        odd("a header's name in Latin-1", headers(&entry(b"M\xfcller", b"V"))),
        odd(
            "the same in a table",
            headers(&entry(b"a", &[&b"F"[..], &long(&entry(b"\xfc", b"V"))].concat())),
        ),
    ] {
        lanes.all_end(&odd).await.with_context(|| odd.what.clone())?;
    }
    lanes.have_lived().await
}

broker_test!(a_routing_key_that_is_no_text_costs_its_own_letter_alone);
async fn a_routing_key_that_is_no_text_costs_its_own_letter_alone(t: Context) -> Result<()> {
    let mut lanes = Lanes::new(&t).await?;
    let copy = [&b"S"[..], &long(b"transaction_cancel")].concat();
    let odd = Odd {
        routing_key: Some(b"\xff".to_vec()),
        ..odd(
            "a routing key of one byte that is no text",
            headers(&entry(b"CC", &[&b"A"[..], &long(&copy)].concat())),
        )
    };
    lanes.all_end(&odd).await?;
    let dead = lanes.stage.dead_letters().await?;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].headers["cancel-reason"], "invalid_intent");
    assert_eq!(dead[0].headers["cancel-unreadable"], "the routing key is not UTF-8");
    lanes.have_lived().await
}

broker_test!(headers_of_any_depth_cost_their_own_letter_nothing_but_them);
async fn headers_of_any_depth_cost_their_own_letter_nothing_but_them(t: Context) -> Result<()> {
    let mut lanes = Lanes::new(&t).await?;
    for depth in [8, 9, 100, 2_400, 4_500, 10_000] {
        for (what, nested) in [("arrays", arrays(depth)), ("tables", tables(depth))] {
            let odd = odd(format!("{depth} {what} in each other"), headers(&entry(b"a", &nested)));
            lanes.all_end(&odd).await.with_context(|| odd.what.clone())?;
        }
    }
    lanes.have_lived().await
}

broker_test!(a_header_frame_as_large_as_the_connection_allows_ends_like_any_other);
async fn a_header_frame_as_large_as_the_connection_allows_ends_like_any_other(t: Context) -> Result<()> {
    let mut lanes = Lanes::new(&t).await?;
    for size in [FRAME_MAX, FRAME_MAX - 1, FRAME_MAX - 34, FRAME_MAX - 600] {
        let odd = odd(format!("a header frame of {size} bytes"), headers_of_frame(size));
        lanes.all_end(&odd).await.with_context(|| odd.what.clone())?;
    }
    lanes.have_lived().await
}

broker_test!(what_the_broker_itself_has_made_too_large_ends_too);
async fn what_the_broker_itself_has_made_too_large_ends_too(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let exchange = format!("{}.intents", stage.topology().prefix());
    let mut publisher = RawPublisher::connect(stage.url()).await?;
    // Expired before anybody takes it, so the broker adds the way that it took to its headers.
    let expiring = |size: usize| {
        const HEADERS_MODE_AND_EXPIRATION: [u8; 2] = [0x31, 0];
        let entries = entry(b"large", &[&b"S"[..], &long(&vec![b'x'; size])].concat());
        [&HEADERS_MODE_AND_EXPIRATION[..], &long(&entries), &[2], &short(b"1")].concat()
    };
    let rest = expiring(0).len() + 12 + OVERHEAD;
    let letters = (0..3)
        .map(|_| Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce))
        .collect::<Result<Vec<_>>>()?;
    for (letter, less) in letters.iter().zip([0, 100, 599]) {
        let properties = expiring(FRAME_MAX - rest - less);
        let body = serde_json::to_vec(&letter.intent)?;
        let taken = publisher.publish(&exchange, b"transaction_cancel", &properties, &body).await?;
        ensure!(taken == Taken::Confirmed, "the broker takes a header frame of {} bytes", FRAME_MAX - less);
    }
    let rescue = format!("{}.rescue", stage.topology().prefix());
    stage.until_depth(&rescue, 3).await?;

    let worker = Process::work(&stage, &[])?;
    for letter in &letters {
        let end = stage.ledger.end_of(letter.subject()).await?;
        assert_eq!(end["data"]["reason"]["code"], "expired");
    }
    ensure!(worker.stderr.events("generation_started").len() == 1, "{}", worker.stderr.text());
    ensure!(worker.stop_by("TERM").await?.code == Some(0), "it does not end with 0");
    stage.dead_letters().await?;
    Ok(())
}

/// How long it may take until it is known which queue the broker closes connections for.
const BLAMED_MAX: Duration = Duration::from_secs(30);

broker_test!(a_message_that_the_broker_cannot_deliver_stops_its_own_lane_and_no_other);
async fn a_message_that_the_broker_cannot_deliver_stops_its_own_lane_and_no_other(t: Context) -> Result<()> {
    if t.broker().version().starts_with("3.") {
        println!("not tried: RabbitMQ {} speaks no AMQP 1.0 by itself", t.broker().version());
        return Ok(());
    }
    let stage = Stage::new(&t, "").await?;
    let prefix = stage.topology().prefix().to_owned();
    let worker = Process::work(&stage, &[])?;
    worker.stderr.event("generation_started").await?;
    publish_with_a_uuid(stage.url(), &format!("{prefix}.intents"), "transaction_cancel", b"{}").await?;

    let alarm = tokio::time::timeout(BLAMED_MAX, worker.stderr.event("lane_stopped")).await??;
    let queue = format!("{prefix}.intents.transaction_cancel");
    assert_eq!(
        (&alarm["level"], &alarm["messaging.destination.name"]),
        (&"error".into(), &queue.as_str().into())
    );
    ensure!(alarm["why"].as_str().is_some_and(|why| why.contains("INTERNAL")), "{alarm}");

    // Another lane goes on, and so does the one connection.
    let started = worker.stderr.events("generation_started").len();
    let mut neighbours = Vec::new();
    for kind in [Kind::AsyncCancel, Kind::ApmProvisionCancel, Kind::BatchCancel].repeat(10) {
        let neighbour = Cancellation::new(&stage, kind, Course::AtOnce)?;
        stage.publish(&neighbour.intent).await?;
        neighbours.push(neighbour);
    }
    for neighbour in &neighbours {
        neighbour.ended(&stage, 1).await?;
    }
    for neighbour in neighbours {
        neighbour.is_told_truly(&stage, Copies::One)?;
    }
    let more = worker.stderr.events("generation_started").len() - started;
    ensure!(more <= 1, "{more} generations since the alarm:\n{}", worker.stderr.text());

    // The message is taken out; the lane is tried again by itself, and is whole again.
    let channel = stage.connection().create_channel().await?;
    channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default()).await?;
    worker.stderr.event("lane_consumed_again").await?;
    let healthy = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.publish(&healthy.intent).await?;
    healthy.ended(&stage, 1).await?;
    healthy.is_told_truly(&stage, Copies::One)?;
    ensure!(worker.stop_by("TERM").await?.code == Some(0), "it does not end with 0");
    nothing_is_left(&stage).await
}

/// A value of a header, of any type, more or less right.
fn any_value(rng: &mut StdRng, depth: usize) -> Vec<u8> {
    let bytes = |rng: &mut StdRng, len: usize| (0..len).map(|_| rng.random()).collect::<Vec<u8>>();
    let text = |rng: &mut StdRng| {
        let len = rng.random_range(0..30);
        bytes(rng, len)
    };
    match rng.random_range(0..22) {
        0 => b"V".to_vec(),
        1 => [&b"t"[..], &bytes(rng, 1)].concat(),
        2 => [&b"b"[..], &bytes(rng, 1)].concat(),
        3 => [&b"B"[..], &bytes(rng, 1)].concat(),
        4 => [&b"s"[..], &bytes(rng, 2)].concat(),
        5 => [&b"u"[..], &bytes(rng, 2)].concat(),
        6 => [&b"I"[..], &bytes(rng, 4)].concat(),
        7 => [&b"i"[..], &bytes(rng, 4)].concat(),
        8 => [&b"l"[..], &bytes(rng, 8)].concat(),
        9 => [&b"L"[..], &bytes(rng, 8)].concat(),
        10 => [&b"f"[..], &bytes(rng, 4)].concat(),
        11 => [&b"d"[..], &bytes(rng, 8)].concat(),
        12 => [&b"D"[..], &bytes(rng, 5)].concat(),
        13 => [&b"T"[..], &bytes(rng, 8)].concat(),
        14 => [&b"x"[..], &long(&text(rng))].concat(),
        15 => [&b"S"[..], &long(&text(rng))].concat(),
        16 => {
            let depth = rng.random_range(1..6_000);
            arrays(depth)
        }
        17 => {
            let depth = rng.random_range(1..3_000);
            tables(depth)
        }
        // A type that nobody knows.
        18 => vec![rng.random()],
        // A length that is not there.
        19 => [&b"S"[..], &bytes(rng, 4), b"abc"].concat(),
        _ if depth == 0 => b"V".to_vec(),
        20 => {
            let values: Vec<u8> =
                (0..rng.random_range(0..4)).flat_map(|_| any_value(rng, depth - 1)).collect();
            [&b"A"[..], &long(&values)].concat()
        }
        _ => [&b"F"[..], &long(&any_entries(rng, depth - 1))].concat(),
    }
}

fn any_entries(rng: &mut StdRng, depth: usize) -> Vec<u8> {
    (0..rng.random_range(0..5))
        .flat_map(|_| {
            let len = rng.random_range(0..12);
            let mut name: Vec<u8> = (0..len).map(|_| rng.random_range(b'a'..=b'z')).collect();
            if rng.random_bool(0.3) {
                name.push(rng.random());
            }
            let value = any_value(rng, depth);
            entry(&name, &value)
        })
        .collect()
}

/// A letter with anything for properties, by this number.
fn any_odd(number: u64) -> Odd {
    let mut rng = StdRng::seed_from_u64(number);
    let what = format!("generated letter {number}");
    let properties = match rng.random_range(0..4) {
        0 => {
            let bit = SHORT_STRINGS[rng.random_range(0..SHORT_STRINGS.len())];
            let len = rng.random_range(0..=255);
            let text: Vec<u8> = (0..len).map(|_| rng.random()).collect();
            // What expires is another story.
            if bit == EXPIRATION { property(7, &text) } else { property(bit, &text) }
        }
        1 => {
            let less = rng.random_range(0..700);
            headers_of_frame(FRAME_MAX - less)
        }
        _ => {
            let entries = any_entries(&mut rng, 4);
            headers(&entries)
        }
    };
    odd(what, properties)
}

async fn generated_letters_stop_nobody(t: Context, numbers: Range<u64>) -> Result<()> {
    let mut lanes = Lanes::new(&t).await?;
    for number in numbers {
        lanes.all_end(&any_odd(number)).await.with_context(|| format!("generated letter {number}"))?;
    }
    lanes.have_lived().await
}

broker_test!(fifty_generated_letters_stop_nobody);
async fn fifty_generated_letters_stop_nobody(t: Context) -> Result<()> {
    generated_letters_stop_nobody(t, 0..50).await
}

broker_test!(fifty_more_generated_letters_stop_nobody);
async fn fifty_more_generated_letters_stop_nobody(t: Context) -> Result<()> {
    generated_letters_stop_nobody(t, 50..100).await
}

broker_test!(fifty_other_generated_letters_stop_nobody);
async fn fifty_other_generated_letters_stop_nobody(t: Context) -> Result<()> {
    generated_letters_stop_nobody(t, 100..150).await
}

broker_test!(the_last_fifty_generated_letters_stop_nobody);
async fn the_last_fifty_generated_letters_stop_nobody(t: Context) -> Result<()> {
    generated_letters_stop_nobody(t, 150..200).await
}
