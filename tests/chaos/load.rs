//! What is asked of a worker: intents of all kinds about payments of all fates, drawn from the seed alone, and
//! published as an order system publishes them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use cancel_worker::amqp::{PublishSession, Timeouts, Topology};
use cancel_worker::clock::Clock;
use cancel_worker::domain::intent::Kind;
use cancel_worker::wire::envelope::{Address, Headers, Message, Messages};
use lapin::types::{AMQPValue, FieldTable};
use paywall_simulator::{
    ApmState, BatchPlan, CancelPlan, Endpoint, Fault, Handle, Identity, PastActivity, PlannedStep, Seed,
    SeedApm, SeedPhysical, SeedVirtualPos,
};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use super::broker::Broker;

/// Intents that are published together.
const CHUNK: usize = 20;
/// So many of them, at most, come between the two copies of an intent.
const CHUNKS_BETWEEN_MAX: usize = 4;
/// How long an odd copy may take; a broker that is gone takes none.
const ODD_COPY_MAX: Duration = Duration::from_secs(2);
/// The pause before a lost publishing connection is opened again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// An intent that was published, and the payments that it names.
#[derive(Debug, Clone)]
pub(crate) struct Cancellation {
    pub(crate) id: Uuid,
    pub(crate) kind: Kind,
    pub(crate) order: String,
    pub(crate) body: Bytes,
    pub(crate) payments: Vec<Payment>,
    /// How many copies of it may have reached the broker.
    pub(crate) copies: u32,
    /// Whether the broker has confirmed one of them.
    pub(crate) confirmed: bool,
}

/// A payment of a cancellation: its id at the gateway, and the subject under which it is told.
#[derive(Debug, Clone)]
pub(crate) struct Payment {
    pub(crate) id: String,
    pub(crate) subject: String,
}

/// How often each intent is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    Once,
    /// The same bytes again, a while after the first.
    Twice,
}

/// What else is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Odd {
    Nothing,
    /// Of one intent in twenty a copy that goes to another kind's lane too, with headers that no library reads.
    Copies,
}

/// Faults of the gateway for one cancellation, drawn before it is published.
pub(crate) type FaultsOf = fn(&mut StdRng, &Cancellation) -> Vec<Fault>;

/// What is to be published.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) size: usize,
    pub(crate) kinds: &'static [Kind],
    pub(crate) published: Published,
    pub(crate) odd: Odd,
    /// Whose payments, each as likely as the next.
    pub(crate) merchants: &'static [&'static str],
    /// So many intents are open at once, at most.
    pub(crate) open_max: usize,
    pub(crate) faults: FaultsOf,
    /// It is spread over so long; else it goes as fast as the workers do.
    pub(crate) lasts: Option<Duration>,
}

/// Kinds as often as they are drawn.
pub(crate) const ALL_KINDS: &[Kind] = &[
    Kind::AsyncCancel,
    Kind::AsyncCancel,
    Kind::TransactionCancel,
    Kind::TransactionCancel,
    Kind::SyncCancelRollback,
    Kind::ApmProvisionCancel,
    Kind::ApmProvisionCancel,
    Kind::BatchCancel,
];

/// The calling endpoint of a kind.
pub(crate) fn endpoint_of(kind: Kind) -> Endpoint {
    match kind {
        Kind::AsyncCancel => Endpoint::AsyncCancel,
        Kind::SyncCancelRollback => Endpoint::CancelRollback,
        Kind::TransactionCancel => Endpoint::TransactionCancel,
        Kind::ApmProvisionCancel => Endpoint::ApmProvisionCancel,
        Kind::BatchCancel => Endpoint::BatchCancel,
    }
}

/// What goes on in the background until everything is published.
pub(crate) struct Load {
    cancellations: Arc<Mutex<Vec<Cancellation>>>,
    published: watch::Receiver<usize>,
    held: watch::Sender<bool>,
    size: usize,
    /// None once its end has been seen.
    publishing: Option<JoinHandle<Result<()>>>,
}

/// The settings for a broker at these addresses.
pub(crate) type AmqpAt = Box<dyn Fn(&[String]) -> Result<cancel_worker::config::Amqp> + Send + Sync>;

/// Everything that publishing needs.
pub(crate) struct Desk {
    pub(crate) broker: Arc<Broker>,
    pub(crate) topology: Topology,
    /// The configuration of the broker for this address.
    pub(crate) amqp: AmqpAt,
    pub(crate) simulator: Handle,
    pub(crate) odd: Odd,
    /// How many intents have ended.
    pub(crate) ended: watch::Receiver<usize>,
}

impl Load {
    /// Begins to publish.
    pub(crate) fn begin(desk: Desk, plan: Plan, rng: StdRng) -> Load {
        let cancellations = Arc::<Mutex<Vec<Cancellation>>>::default();
        let (count, published) = watch::channel(0);
        let size = plan.size;
        let held = watch::Sender::new(false);
        let publishing =
            tokio::spawn(publish_all(desk, plan, rng, Arc::clone(&cancellations), count, held.subscribe()));
        Load { cancellations, published, held, size, publishing: Some(publishing) }
    }

    /// Publishes nothing more, until it goes on. What is being published is still published.
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Goes on.
    pub(crate) fn go_on(&self) {
        self.held.send_replace(false);
    }

    /// How many it publishes in all.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Waits until this part of all intents is published, from 0 to 1.
    pub(crate) async fn reached(&self, part: f64) -> Result<()> {
        let wanted = (self.size as f64 * part) as usize;
        let mut published = self.published.clone();
        // That it has ended before is told by `finished`.
        let _ = published.wait_for(|count| *count >= wanted).await;
        Ok(())
    }

    /// Waits until everything is published.
    pub(crate) async fn finished(&mut self) -> Result<()> {
        let Some(publishing) = &mut self.publishing else { return Ok(()) };
        let published = publishing.await;
        self.publishing = None;
        published.context("publishing panicked")?
    }

    /// Everything that was published so far.
    pub(crate) fn cancellations(&self) -> Vec<Cancellation> {
        self.cancellations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(publishing) = &self.publishing {
            publishing.abort();
        }
    }
}

async fn publish_all(
    mut desk: Desk,
    plan: Plan,
    mut rng: StdRng,
    cancellations: Arc<Mutex<Vec<Cancellation>>>,
    count: watch::Sender<usize>,
    mut held: watch::Receiver<bool>,
) -> Result<()> {
    let began = Instant::now();
    let mut session = None;
    let mut again: VecDeque<(usize, Vec<Cancellation>)> = VecDeque::new();
    let mut number = 0;
    while number < plan.size {
        held.wait_for(|held| !held).await.context("the load is gone")?;
        if let Some(lasts) = plan.lasts {
            sleep_until(began + lasts.mul_f64(number as f64 / plan.size as f64)).await;
        }
        let room = |ended: &usize| number < ended + plan.open_max;
        desk.ended.wait_for(room).await.context("the ledger is gone")?;
        let mut chunk = Vec::new();
        for _ in 0..CHUNK.min(plan.size - number) {
            chunk.push(draw(&desk.simulator, &plan, number, &mut rng).await?);
            number += 1;
        }
        let first = {
            let mut all = cancellations.lock().unwrap_or_else(PoisonError::into_inner);
            let first = all.len();
            all.extend(chunk.iter().cloned());
            first
        };
        until_confirmed(&desk, &mut session, &chunk, &cancellations, first).await;
        match plan.published {
            Published::Once => {}
            Published::Twice => again.push_back((first, chunk)),
        }
        // Some second copies come at once, some when much else has come between.
        while again.len() > CHUNKS_BETWEEN_MAX || (!again.is_empty() && rng.random_bool(0.5)) {
            let Some((first, chunk)) = again.pop_front() else { break };
            until_confirmed(&desk, &mut session, &chunk, &cancellations, first).await;
        }
        count.send_replace(number);
    }
    for (first, chunk) in again {
        until_confirmed(&desk, &mut session, &chunk, &cancellations, first).await;
    }
    if let Some(session) = session {
        session.close().await;
    }
    Ok(())
}

/// Publishes the same bytes until the broker has confirmed them: without a confirm, nobody knows.
async fn until_confirmed(
    desk: &Desk,
    session: &mut Option<PublishSession>,
    chunk: &[Cancellation],
    cancellations: &Mutex<Vec<Cancellation>>,
    first: usize,
) {
    while publish(desk, session, chunk, cancellations, first).await.is_err() {
        *session = None;
        sleep(AGAIN_AFTER).await;
    }
}

async fn publish(
    desk: &Desk,
    session: &mut Option<PublishSession>,
    chunk: &[Cancellation],
    cancellations: &Mutex<Vec<Cancellation>>,
    first: usize,
) -> Result<()> {
    let session = match session {
        Some(session) => session,
        None => {
            let amqp = (desk.amqp)(&desk.broker.urls())?;
            let broker = cancel_worker::amqp::Broker::new(&amqp, "chaos", Timeouts::default())?;
            session.insert(PublishSession::open(&broker, &desk.topology).await?)
        }
    };
    let note = |note: fn(&mut Cancellation)| {
        let mut all = cancellations.lock().unwrap_or_else(PoisonError::into_inner);
        all[first..first + chunk.len()].iter_mut().for_each(note);
    };
    note(|cancellation| cancellation.copies += 1);
    let mut messages = chunk.iter().map(|cancellation| Message {
        address: Address::Intents,
        routing_key: cancellation.kind.as_str().to_owned(),
        headers: Headers::new(),
        content_type: "application/json",
        message_id: None,
        occasion: None,
        body: cancellation.body.clone(),
    });
    let messages = Messages::new(messages.next().context("an empty chunk")?, messages);
    match session.publisher().publish(messages).await {
        Ok(()) => note(|cancellation| cancellation.confirmed = true),
        Err(error) => return Err(error.into()),
    }
    if let (Odd::Copies, Some(cancellation)) = (desk.odd, chunk.first()) {
        {
            let mut all = cancellations.lock().unwrap_or_else(PoisonError::into_inner);
            all[first].copies += 1;
        }
        // It may fail with its connection, and then it was no copy, or an unconfirmed one.
        let _ = timeout(ODD_COPY_MAX, publish_oddly(desk, cancellation)).await;
    }
    Ok(())
}

/// One more copy of a cancellation as an odd order system publishes it: with copies of its own to another kind's lane, and headers
/// nested too deep.
async fn publish_oddly(desk: &Desk, cancellation: &Cancellation) -> Result<()> {
    let url = desk.broker.urls().into_iter().next().context("a broker has an address")?;
    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await?;
    let elsewhere =
        Kind::ALL.into_iter().find(|kind| *kind != cancellation.kind).context("there are five")?;
    let copy = AMQPValue::LongString(elsewhere.as_str().into());
    let deep = (0..20).fold(AMQPValue::Void, |inner, _| AMQPValue::FieldArray(vec![inner].into()));
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), AMQPValue::FieldArray(vec![copy].into()));
    headers.insert("deep".into(), deep);
    let properties = lapin::BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    let exchange = desk.topology.exchange_of(&Address::Intents);
    let (exchange, key) = (exchange.as_str().into(), cancellation.kind.as_str().into());
    let options = lapin::options::BasicPublishOptions::default();
    channel.basic_publish(exchange, key, options, &cancellation.body, properties).await?.await?;
    connection.close(200, "published".into()).await?;
    Ok(())
}

/// The next cancellation: what it is about is put into the gateway, and what goes wrong with it is planned.
async fn draw(simulator: &Handle, plan: &Plan, number: usize, rng: &mut StdRng) -> Result<Cancellation> {
    let kind = *plan.kinds.choose(rng).context("no kinds")?;
    let merchant = *plan.merchants.choose(rng).context("no merchants")?;
    let id = uuid(rng);
    let mut identities = Vec::new();
    for seed in seeds(kind, merchant, rng) {
        identities.push(simulator.seed(seed)?);
    }
    let order = format!("O-{number}");
    let intent = json!({
        "intentId": id,
        "kind": kind.as_str(),
        "requestedAt": Clock::system().now().to_string(),
        "merchant": merchant,
        "reference": { "order": order },
        "payment": payment(kind, &identities),
    });
    let payments = identities
        .iter()
        .map(|one| Payment {
            id: one.id.clone(),
            subject: match (kind, &one.merchant_unique_code) {
                (Kind::BatchCancel, Some(code)) => format!("{id}/{code}"),
                (_, _) => id.to_string(),
            },
        })
        .collect();
    let body = Bytes::from(serde_json::to_vec(&intent)?);
    let cancellation = Cancellation { id, kind, order, body, payments, copies: 0, confirmed: false };
    for fault in (plan.faults)(rng, &cancellation) {
        simulator.plan(fault).await?;
    }
    Ok(cancellation)
}

fn uuid(rng: &mut StdRng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}

fn payment(kind: Kind, identities: &[Identity]) -> Value {
    let first = &identities[0];
    match kind {
        Kind::AsyncCancel | Kind::SyncCancelRollback => json!({ "paymentRequestId": first.id }),
        Kind::TransactionCancel => json!({ "uniqueCode": first.unique_code, "date": first.date }),
        Kind::ApmProvisionCancel => {
            json!({ "uniqueCode": first.unique_code, "merchantUniqueCode": first.merchant_unique_code })
        }
        Kind::BatchCancel => {
            let payments: Vec<Value> = identities
                .iter()
                .map(|one| json!({ "merchantUniqueCode": one.merchant_unique_code, "date": one.date }))
                .collect();
            json!({ "payments": payments })
        }
    }
}

/// What the payments of a cancellation are, and what a cancel of them becomes. Two of three are as simple as can be.
///
/// Left out is what two copies of a letter, which every crash may make, cannot tell truly by design: an order that is
/// withdrawn, and one that never reaches its device (`tests/truth/matrix.rs`, `is_fair`).
fn seeds(kind: Kind, merchant: &str, rng: &mut StdRng) -> Vec<Seed> {
    let simple = rng.random_bool(0.66);
    let mut pick = |len: usize| if simple { 0 } else { rng.random_range(0..len) };
    let later = |end| vec![PlannedStep { after_ms: 700, status: end }];
    let chosen: Vec<Seed> = match kind {
        Kind::AsyncCancel => {
            let sold = SeedPhysical::default;
            let seeds = [
                sold(),
                sold().cancelling(CancelPlan::accepted(100, 300, 4)),
                sold().cancelling(CancelPlan { first: 2, then: later(5) }),
                sold().cancelling(CancelPlan { first: 10, then: later(4) }),
                sold().after(PastActivity::ended(2, 4)),
                sold().after(PastActivity::ended(3, 4)),
            ];
            vec![seeds[pick(seeds.len())].clone().into()]
        }
        Kind::SyncCancelRollback => {
            let statuses = [10, 1, 9, 11, 4, 12, 5];
            vec![SeedPhysical::default().after(PastActivity::ended(2, statuses[pick(statuses.len())])).into()]
        }
        Kind::TransactionCancel => {
            let sold = SeedVirtualPos::default;
            let seeds = [
                sold(),
                sold().after(PastActivity::ended(3, 4)),
                sold().after(PastActivity::ended(2, 4)),
                sold().after(PastActivity::ended(4, 4)),
                sold().after(PastActivity { kind: 3, status: 2, ago_ms: 0, then: later(4) }),
            ];
            vec![seeds[pick(seeds.len())].clone().into()]
        }
        Kind::ApmProvisionCancel => {
            let states = [ApmState::Provisioned, ApmState::Cancelled, ApmState::Refunded];
            vec![SeedApm { state: states[pick(states.len())], ..SeedApm::default() }.into()]
        }
        Kind::BatchCancel => {
            let plans = [
                BatchPlan::Cancelled { after_ms: 300 },
                BatchPlan::Cancelled { after_ms: 0 },
                BatchPlan::Failed { after_ms: 300, status: 5 },
                BatchPlan::LeftOutButCancelled { after_ms: 300 },
                BatchPlan::Twice { after_ms: 300, second_status: 1 },
            ];
            let mut items: Vec<Seed> = (0..2)
                .map(|_| SeedVirtualPos::default().in_batch(plans[pick(plans.len())].clone()).into())
                .collect();
            if !simple {
                items.push(SeedVirtualPos::default().after(PastActivity::ended(2, 4)).into());
            }
            items
        }
    };
    chosen.into_iter().map(|seed| named(seed, merchant, rng)).collect()
}

/// The same payment, of this merchant and with identifiers from the seed.
fn named(seed: Seed, merchant: &str, rng: &mut StdRng) -> Seed {
    let merchant = merchant.to_owned();
    let id = uuid(rng);
    let code = Some(format!("m-{}", id.simple()));
    match seed {
        Seed::Physical(seed) => {
            SeedPhysical { merchant, payment_request_id: Some(id), merchant_unique_code: code, ..seed }.into()
        }
        Seed::VirtualPos(seed) => {
            SeedVirtualPos { merchant, unique_code: Some(id), merchant_unique_code: code, ..seed }.into()
        }
        Seed::Apm(seed) => SeedApm {
            merchant,
            unique_code: Some(format!("A-{}", id.simple())),
            merchant_unique_code: code,
            ..seed
        }
        .into(),
    }
}
