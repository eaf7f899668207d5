//! The audit notice: where something is wrong, they do not balance. A healthy run is tampered with in every way that
//! they must see, and exactly that must be counted.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Connection};
use paywall_simulator::PaymentState;
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::{self, Audit, Leave};
use super::ledger::Event;
use super::load::{Cancellation, Odd};
use super::stage::{Play, Setting, Stage};

/// Tampers with the traces of a healthy run, one thing after the other.
pub(crate) async fn the_audit_notices(play: Play) -> Result<()> {
    let mut stage = Stage::set(play, Setting::default()).await?;
    let worker = stage.worker().await?;
    let mut plan = stage.plan();
    // Kinds of which none ends in the dead letters: those are counted once.
    plan.kinds = &[Kind::TransactionCancel, Kind::AsyncCancel, Kind::SyncCancelRollback];
    // Every copy allows a call of its own.
    plan.odd = Odd::Nothing;
    let mut load = stage.load(plan);
    stage.wind_up(&mut load, vec![worker]).await?;
    let mut cancellations = load.cancellations();
    let healthy = audit::balance(&stage, &cancellations, Leave::Nothing).await?;
    ensure!(healthy.balance(), "a healthy run does not balance: {:#?}", healthy.complaints);

    let cancelled = find(&stage, &cancellations, Kind::TransactionCancel, PaymentState::Cancelled)?;

    // An intent that nobody has heard of again.
    let forgotten = Cancellation { id: Uuid::from_u128(1), confirmed: true, ..cancelled.clone() };
    cancellations.push(forgotten.clone());
    notices(&stage, &cancellations, "lost", |audit| audit.lost == 1).await?;
    // The same, lying in a queue.
    publish(&stage, &forgotten).await?;
    notices(&stage, &cancellations, "stuck", |audit| (audit.stuck, audit.lost) == (1, 0)).await?;
    cancellations.pop();

    // The gateway is called for a payment that is cancelled already.
    call_again(&stage, &cancelled).await?;
    notices(&stage, &cancellations, "a call after the effect", |audit| audit.calls_after_effect == 1).await?;

    // Another end for what has one, which is untrue, too.
    stage.ledgers[0].move_here([forged(&cancelled, "rejected", Some("already_refunded"))]);
    notices(&stage, &cancellations, "an untrue end, and another one", |audit| {
        audit.contradictions > 0 && audit.false_outcomes > 0
    })
    .await?;
    // A second effect cannot be brought about: the simulator refuses it, as the gateway does.
    stage.strike().await
}

async fn notices(
    stage: &Stage,
    cancellations: &[Cancellation],
    what: &str,
    is_noticed: impl Fn(&Audit) -> bool,
) -> Result<()> {
    let audit = audit::balance(stage, cancellations, Leave::Nothing).await?;
    ensure!(!audit.balance() && is_noticed(&audit), "the audit do not notice {what}: {audit:#?}");
    Ok(())
}

fn find(
    stage: &Stage,
    cancellations: &[Cancellation],
    kind: Kind,
    state: PaymentState,
) -> Result<Cancellation> {
    let is = |cancellation: &&Cancellation| {
        cancellation.kind == kind
            && stage
                .simulator
                .truth_of(&cancellation.payments[0].id)
                .is_some_and(|truth| truth.state == state && truth.effects.cancels == 1)
    };
    cancellations.iter().find(is).cloned().context("no such payment; another seed has one")
}

async fn publish(stage: &Stage, cancellation: &Cancellation) -> Result<()> {
    let body = serde_json::to_vec(&json!({ "intentId": cancellation.id }))?;
    let lane = format!("{}.intents.{}", stage.topology.prefix(), cancellation.kind);
    let visit = |connection: Arc<Connection>| async move {
        let channel = connection.create_channel().await?;
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        channel.confirm_select(Default::default()).await?;
        channel.basic_publish("".into(), lane.as_str().into(), options, &body, properties).await?.await?;
        Ok(())
    };
    stage.broker.visit(visit).await
}

async fn call_again(stage: &Stage, cancellation: &Cancellation) -> Result<()> {
    let intent: Value = serde_json::from_slice(&cancellation.body)?;
    let payment = &intent["payment"];
    let url = format!("{}/api/paywall/private/cancel/by/uniqueCode", stage.simulator.urls().private);
    let body = json!({ "UniqueCode": payment["uniqueCode"], "Date": payment["date"] });
    reqwest::Client::builder()
        .no_proxy()
        .build()?
        .post(url)
        .header("apikeyprivate", "default-private-key")
        .header("apiclientprivate", "default-private-client")
        .json(&body)
        .send()
        .await?;
    Ok(())
}

fn forged(cancellation: &Cancellation, status: &str, reason: Option<&str>) -> Event {
    Event {
        id: Uuid::new_v5(&cancellation.id, status.as_bytes()).to_string(),
        subject: cancellation.id.to_string(),
        intent: cancellation.id,
        of_item: false,
        kind: cancellation.kind.as_str().to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        terminal: true,
        order: Some(cancellation.order.clone()),
        decided_at: None,
        heard_at: cancel_worker::clock::Clock::system().now(),
    }
}
