//! A payment at the simulator, and the cancellation that it be cancelled.

use anyhow::{Context as _, Result, ensure};
use cancel_worker::amqp::Topology;
use cancel_worker::domain::intent::Kind;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use paywall_simulator::{
    BatchPlan, CancelPlan, Endpoint, PaymentState, SeedApm, SeedPhysical, SeedVirtualPos,
};
use serde_json::{Value, json};

use crate::support::Context;
use crate::support::stage::{Stage, intent, said};

/// An intent, and the payments that it names.
pub(crate) struct Cancellation {
    pub(crate) kind: Kind,
    pub(crate) intent: Value,
    /// The endpoint that cancels.
    pub(crate) endpoint: Endpoint,
    /// The subject of a payment's outcome, and the payment's id at the simulator.
    pub(crate) payments: Vec<(String, String)>,
}

/// Which course the cancels of a cancellation take at the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// Done with the reply, as far as the kind has that; a batch soon after.
    AtOnce,
    /// Ordered, and done soon after.
    Later,
}

impl Cancellation {
    /// A cancellation of this kind about fresh payments that can be cancelled.
    pub(crate) fn new(stage: &Stage, kind: Kind, course: Course) -> Result<Cancellation> {
        let simulator = &stage.simulator;
        let (payment, ids, endpoint) = match kind {
            Kind::AsyncCancel => {
                let plan = match course {
                    Course::AtOnce => CancelPlan::at_once(),
                    Course::Later => CancelPlan::accepted(100, 300, 4),
                };
                let payment = simulator.seed(SeedPhysical::default().cancelling(plan))?;
                (json!({ "paymentRequestId": payment.id }), vec![payment], Endpoint::AsyncCancel)
            }
            Kind::TransactionCancel => {
                let payment = simulator.seed(SeedVirtualPos::default())?;
                let cancellation = json!({ "uniqueCode": payment.unique_code, "date": payment.date });
                (cancellation, vec![payment], Endpoint::TransactionCancel)
            }
            Kind::ApmProvisionCancel => {
                let payment = simulator.seed(SeedApm::default())?;
                let code = &payment.merchant_unique_code;
                let cancellation = json!({ "uniqueCode": payment.unique_code, "merchantUniqueCode": code });
                (cancellation, vec![payment], Endpoint::ApmProvisionCancel)
            }
            Kind::BatchCancel => {
                let seed = || SeedVirtualPos::default().in_batch(BatchPlan::Cancelled { after_ms: 300 });
                let payments = vec![simulator.seed(seed())?, simulator.seed(seed())?];
                let items: Vec<Value> = payments
                    .iter()
                    .map(|item| json!({ "merchantUniqueCode": item.merchant_unique_code, "date": item.date }))
                    .collect();
                (json!({ "payments": items }), payments, Endpoint::BatchCancel)
            }
            Kind::SyncCancelRollback => anyhow::bail!("a rollback cancels nothing"),
        };
        let intent = intent(kind, payment);
        let id = intent["intentId"].as_str().context("an intent has an id")?;
        let payments = ids
            .into_iter()
            .map(|payment| match (kind, payment.merchant_unique_code) {
                (Kind::BatchCancel, Some(code)) => (format!("{id}/{code}"), payment.id),
                _ => (id.to_owned(), payment.id),
            })
            .collect();
        Ok(Cancellation { kind, intent, endpoint, payments })
    }

    /// The subject of the intent as a whole.
    pub(crate) fn subject(&self) -> &str {
        self.intent["intentId"].as_str().expect("an intent has an id")
    }

    /// The routing key of its last word: of a batch, what closes it.
    pub(crate) fn last_word(&self) -> String {
        match self.kind {
            Kind::BatchCancel => "batch_cancel.closed".to_owned(),
            Kind::AsyncCancel
            | Kind::SyncCancelRollback
            | Kind::TransactionCancel
            | Kind::ApmProvisionCancel => format!("{}.cancelled", self.kind.as_str()),
        }
    }

    /// The routing key of the first thing that is announced after the call.
    pub(crate) fn first_word(&self, course: Course) -> String {
        match (self.kind, course) {
            (Kind::BatchCancel, _) | (Kind::AsyncCancel, Course::Later) => {
                format!("{}.accepted", self.kind.as_str())
            }
            (_, _) => self.last_word(),
        }
    }

    /// Waits until the ledger has heard so many last words about the whole.
    pub(crate) async fn ended(&self, stage: &Stage, times: usize) -> Result<()> {
        let is_end = |event: &&Value| {
            event["subject"] == self.subject()
                && (event["data"]["terminal"] == true
                    || event["data"]["status"] == "given_up"
                    || event["data"]["status"] == "unresolved")
        };
        let enough = |events: &[Value]| events.iter().filter(is_end).count() >= times;
        stage.ledger.wait_for(&format!("{times} ends of {}", self.subject()), enough).await?;
        Ok(())
    }

    /// What every story ends with: each payment has one terminal outcome, announced under one id however often, and
    /// it is what happened, once.
    pub(crate) fn is_told_truly(&self, stage: &Stage, copies: Copies) -> Result<()> {
        let whole = self.subject().to_owned();
        for subject in self.payments.iter().map(|(subject, _)| subject).chain([&whole]) {
            let events = stage.ledger.events_of(subject);
            let mut terminal: Vec<(String, &str)> = events
                .iter()
                .filter(|event| event["data"]["terminal"] == true)
                .map(|event| (said(event), event["id"].as_str().unwrap_or_default()))
                .collect();
            terminal.sort_unstable();
            terminal.dedup();
            let [(status, _)] = &terminal[..] else { panic!("{:?}: {events:#?}", self.kind) };
            let expected = match (self.kind, *subject == whole) {
                (Kind::BatchCancel, true) => "closed",
                (_, _) => "cancelled",
            };
            ensure!(status == expected, "{:?} is told as {status}: {events:#?}", self.kind);
        }
        for (_, id) in &self.payments {
            let truth = stage.simulator.truth_of(id).context("it was seeded")?;
            ensure!(truth.state == PaymentState::Cancelled, "{truth:#?}");
            ensure!(truth.effects.cancels == 1, "cancelled {} times: {truth:#?}", truth.effects.cancels);
            // Nothing but the call itself tells whether a provision is cancelled.
            let asks_by_calling = self.kind == Kind::ApmProvisionCancel;
            let may_be_in_vain = asks_by_calling || copies == Copies::Two;
            ensure!(may_be_in_vain || truth.calls_after_cancelled == 0, "called in vain: {truth:#?}");
        }
        Ok(())
    }
}

/// How many copies of a letter were alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copies {
    One,
    /// Both may have seen that nothing was done, and then both call: the second in vain, which it cannot know. Money
    /// moves once all the same.
    Two,
}

/// Hears everything that is announced, headers included.
pub(crate) async fn audit(t: &Context, stage: &Stage) -> Result<String> {
    let name = format!("{}.audit", t.prefix());
    t.on_cleanup([name.clone()], []);
    let channel = stage.connection().create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.as_str().into(), durable, arguments).await?;
    channel
        .queue_bind(
            name.as_str().into(),
            format!("{}.announce", t.prefix()).as_str().into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await?;
    Ok(name)
}

/// Whether nothing lies in any queue that letters travel through. What a consumer holds is not seen: ask when there is
/// none.
pub(crate) async fn nothing_is_left(stage: &Stage) -> Result<()> {
    let topology: &Topology = stage.topology();
    for queue in topology.queues() {
        // The stream keeps what it is told; it is a view.
        if queue.name.ends_with(".log") {
            continue;
        }
        let left = ready(stage, &queue.name).await?;
        ensure!(left == 0, "{left} messages lie in {}", queue.name);
    }
    Ok(())
}

/// How many messages are ready in a queue.
async fn ready(stage: &Stage, queue: &str) -> Result<u32> {
    let channel = stage.connection().create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
    Ok(queue.message_count())
}
