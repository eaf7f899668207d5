//! What is told is true: a sample of everything that can go wrong at once, compared with what the simulator knows.
//!
//! Each case is a kind, a state of the payment, a fault of the call, before or after its effect, an inquiry that is
//! healthy, down for a while or down for ever, a delivery that comes once, comes again, or was in a process that
//! died with the call in its hands, one copy or two, a publisher that is plain, copies to other lanes or writes what no
//! library reads, and a day that goes on or ends meanwhile. In the end every id is used once more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use cancel_worker::amqp::{Settings, Timeouts};
use cancel_worker::clock::JitterSource;
use cancel_worker::domain::intent::Kind;
use cancel_worker::gateway::Gateway;
use cancel_worker::worker::{self, Worker};
use jiff::Timestamp;
use lapin::options::BasicGetOptions;
use paywall_simulator::{
    ApmState, BatchPlan, CallRecord, CancelPlan, EffectKind, Endpoint, Fault, FaultId, FaultKind, Identity,
    PastActivity, PaymentState, PaymentTruth, PlannedStep, Purpose, Seed, SeedApm, SeedPhysical,
    SeedVirtualPos,
};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::stories::scene::{Scene, TOO_SLOW, endpoint_of, id_of, inquiries_of, payment_of, zone};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::raw::{self, RawPublisher, entry, headers, long};
use crate::support::stage::{PATIENCE, load};

/// So many cases of the 270 combinations of each day are drawn, always the same ones.
const CASES_A_DAY: usize = 100;
const SEED: u64 = 20_260_301;

/// Where the call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Nowhere,
    BeforeEffect,
    AfterEffect,
}

/// What the query service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Inquiry {
    Healthy,
    DownForAWhile,
    DownForEver,
}

/// What becomes of the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Delivery {
    Once,
    /// Taken by a process that died before it did anything.
    Again,
    /// Taken by a process that died in the middle of its call.
    AgainAfterACall,
}

/// Whether the payment's day ends while the case is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Day {
    GoesOn,
    Ends,
}

#[derive(Debug, Clone)]
struct Case {
    kind: Kind,
    point: Point,
    inquiry: Inquiry,
    delivery: Delivery,
    copies: usize,
    seeds: Vec<Seed>,
    fault: FaultKind,
    publisher: Publisher,
}

/// How a letter is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Publisher {
    Plain,
    /// With a copy to the lane of another kind.
    CopiesElsewhere,
    /// With properties and headers that the client library could not read.
    Odd,
}

/// A case on its way.
struct Told {
    case: Case,
    cancellation: Value,
    /// Each payment, with the subject under which it is told.
    payments: Vec<(Identity, String)>,
}

/// Half of a day's cases. Those that may have taken a process down are handled one at a time: all of a day would wait
/// too long for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    First,
    Second,
}

const OF_A_DAY_THAT_GOES_ON: &str = "inquiry.asks_max = 16";
const OF_A_DAY_THAT_ENDS: &str = "inquiry.age_max = '75s'\nretry.age_max = '240s'";

broker_test!(whatever_goes_wrong_nothing_untrue_is_told);
async fn whatever_goes_wrong_nothing_untrue_is_told(t: Context) -> Result<()> {
    tell_all(&t, Day::GoesOn, Half::First, OF_A_DAY_THAT_GOES_ON).await
}

broker_test!(whatever_else_goes_wrong_nothing_untrue_is_told);
async fn whatever_else_goes_wrong_nothing_untrue_is_told(t: Context) -> Result<()> {
    tell_all(&t, Day::GoesOn, Half::Second, OF_A_DAY_THAT_GOES_ON).await
}

broker_test!(whatever_goes_wrong_across_midnight_nothing_untrue_is_told);
async fn whatever_goes_wrong_across_midnight_nothing_untrue_is_told(t: Context) -> Result<()> {
    tell_all(&t, Day::Ends, Half::First, OF_A_DAY_THAT_ENDS).await
}

broker_test!(whatever_else_goes_wrong_across_midnight_nothing_untrue_is_told);
async fn whatever_else_goes_wrong_across_midnight_nothing_untrue_is_told(t: Context) -> Result<()> {
    tell_all(&t, Day::Ends, Half::Second, OF_A_DAY_THAT_ENDS).await
}

async fn tell_all(t: &Context, day: Day, half: Half, tuning: &str) -> Result<()> {
    let enforce = "same_day.enforce = ['batch_cancel', 'transaction_cancel']\nretry.attempts_max = 8";
    let mut scene = Scene::without_worker(t, &format!("{tuning}\n{enforce}"), None).await?;
    match day {
        Day::GoesOn => {}
        // Time enough for a process to die before midnight.
        Day::Ends => scene.set_local_time(23, 59, 30),
    }
    let today = scene.today();
    let mut cases = drawn(day);
    let second = cases.split_off(cases.len() / 2);
    let cases = match half {
        Half::First => cases,
        Half::Second => second,
    };
    let mut told = Vec::new();
    let mut until_midnight = Vec::new();
    for case in cases {
        told.push(prepare(&scene, case, day, &mut until_midnight).await?);
    }

    let of = |delivery| told.iter().filter(move |one: &&Told| one.case.delivery == delivery);
    die_in_the_middle_of(&scene, &of(Delivery::AgainAfterACall).collect::<Vec<_>>()).await?;
    for one in of(Delivery::Again) {
        publish(&scene, one).await?;
    }
    take_and_give_back(&scene).await?;
    scene.work().await?;
    for one in of(Delivery::Once) {
        publish(&scene, one).await?;
    }
    match day {
        Day::GoesOn => {}
        Day::Ends => {
            let handle = scene.stage.simulator.handle();
            let is_over = |now: Timestamp| now.to_zoned(zone()).date() > today;
            handle.wait_until(PATIENCE, |simulator| is_over(simulator.now())).await?;
            for fault in until_midnight {
                handle.clear_fault(fault).await?;
            }
        }
    }
    all_have_ended(&scene, &told).await?;
    // Of a letter that was forked by a death there is one more than was published.
    scene.until_nothing_is_on_its_way().await?;
    use_ids_again(&scene, &told).await?;
    let curtain = scene.close().await?;

    // Whatever is still under way at the gateway ends now.
    curtain.scene.stage.simulator.advance(Duration::from_secs(3_600));
    let mut wrong = Vec::new();
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for one in &told {
        for (identity, subject) in &one.payments {
            let truth = curtain.scene.truth(&identity.id);
            let heard = curtain.heard(subject);
            let decided_at =
                curtain.end(subject)["data"]["decidedAt"].as_str().unwrap_or_default().parse()?;
            // Of two copies, one may find out what the other cannot; each must tell the truth.
            for end in heard.iter().filter(|status| *status != "accepted") {
                *ends.entry(format!("{}: {end}", one.case.kind)).or_default() += 1;
                for complaint in complaints(&one.case, &heard, end, decided_at, &truth) {
                    wrong.push(format!("{complaint}: {heard:?} of {:?}, log {:#?}", one.case, brief(&truth)));
                }
            }
        }
    }
    print_categories(day, &told, &ends);
    ensure!(wrong.is_empty(), "{} untruths:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

// ---------------------------------------------------------------------------------------------------------
// The sample.

fn drawn(day: Day) -> Vec<Case> {
    let mut rng = StdRng::seed_from_u64(SEED + u64::from(day == Day::Ends));
    let mut combinations = Vec::new();
    for kind in Kind::ALL {
        for point in [Point::Nowhere, Point::BeforeEffect, Point::AfterEffect] {
            for inquiry in [Inquiry::Healthy, Inquiry::DownForAWhile, Inquiry::DownForEver] {
                for delivery in [Delivery::Once, Delivery::Again, Delivery::AgainAfterACall] {
                    for copies in [1, 2] {
                        combinations.push((kind, point, inquiry, delivery, copies));
                    }
                }
            }
        }
    }
    combinations.shuffle(&mut rng);
    combinations
        .into_iter()
        .take(CASES_A_DAY)
        .map(|(kind, point, inquiry, delivery, copies)| {
            let seeds = seeds(kind, &mut rng);
            let fault = fault(kind, point, &mut rng);
            let publishers: &[Publisher] = match delivery {
                Delivery::Once => &[Publisher::Plain, Publisher::CopiesElsewhere, Publisher::Odd],
                // Those who take these before the worker does have the client library alone.
                Delivery::Again | Delivery::AgainAfterACall => {
                    &[Publisher::Plain, Publisher::CopiesElsewhere]
                }
            };
            let publisher = *publishers.choose(&mut rng).expect("there are some");
            Case { kind, point, inquiry, delivery, copies, seeds, fault, publisher }
        })
        .collect()
}

/// What the payment of a case is, and what a cancel of it becomes. Half of them are as simple as can be.
fn seeds(kind: Kind, rng: &mut StdRng) -> Vec<Seed> {
    let simple = rng.random_bool(0.5);
    let mut pick = |len: usize| if simple { 0 } else { rng.random_range(0..len) };
    let later = |end| vec![PlannedStep { after_ms: 1_500, status: end }];
    match kind {
        Kind::AsyncCancel => {
            let sold = SeedPhysical::default;
            let seeds = [
                sold(),
                sold().cancelling(CancelPlan { first: 10, then: later(4) }),
                sold().cancelling(CancelPlan { first: 2, then: later(5) }),
                sold().cancelling(CancelPlan::accepted(400, 1_200, 4)),
                sold().after(PastActivity::ended(2, 4)),
                sold().after(PastActivity::ended(3, 4)),
                sold().after(PastActivity { kind: 2, status: 10, ago_ms: 0, then: later(4) }),
            ];
            vec![seeds[pick(seeds.len())].clone().into()]
        }
        Kind::SyncCancelRollback => {
            let statuses = [10, 1, 9, 11, 4, 12, 5];
            let status = statuses[pick(statuses.len())];
            vec![SeedPhysical::default().after(PastActivity::ended(2, status)).into()]
        }
        Kind::TransactionCancel => {
            let sold = SeedVirtualPos::default;
            let seeds = [
                sold(),
                sold().after(PastActivity::ended(3, 4)),
                sold().after(PastActivity::ended(2, 4)),
                sold().after(PastActivity::ended(4, 4)),
                sold().after(PastActivity { kind: 3, status: 2, ago_ms: 0, then: later(4) }),
                SeedVirtualPos { cancels: vec![CancelPlan::only(5), CancelPlan::at_once()], ..sold() },
            ];
            vec![seeds[pick(seeds.len())].clone().into()]
        }
        Kind::ApmProvisionCancel => {
            let states =
                [ApmState::Provisioned, ApmState::Cancelled, ApmState::Refunded, ApmState::NotSuitable];
            vec![SeedApm { state: states[pick(states.len())], ..SeedApm::default() }.into()]
        }
        Kind::BatchCancel => {
            let plans = [
                BatchPlan::Cancelled { after_ms: 800 },
                BatchPlan::Cancelled { after_ms: 0 },
                BatchPlan::Failed { after_ms: 800, status: 5 },
                BatchPlan::LeftOutButCancelled { after_ms: 800 },
                BatchPlan::Twice { after_ms: 800, second_status: 1 },
                BatchPlan::Twice { after_ms: 800, second_status: 2 },
            ];
            let refunded = SeedVirtualPos::default().after(PastActivity::ended(2, 4));
            let mut items: Vec<Seed> = (0..2)
                .map(|_| SeedVirtualPos::default().in_batch(plans[pick(plans.len())].clone()).into())
                .collect();
            if !simple {
                items.push(refunded.into());
            }
            items
        }
    }
}

fn fault(kind: Kind, point: Point, rng: &mut StdRng) -> FaultKind {
    let mut faults = vec![
        FaultKind::Reset,
        FaultKind::Close,
        FaultKind::Hang,
        FaultKind::http(500),
        FaultKind::http(503),
        FaultKind::Empty,
        FaultKind::Garbage,
        FaultKind::Truncated,
        FaultKind::Contradiction,
        FaultKind::error_code(987_654),
    ];
    match kind {
        Kind::AsyncCancel | Kind::SyncCancelRollback => faults.push(FaultKind::ForeignId),
        Kind::ApmProvisionCancel => faults.push(FaultKind::ProviderFailure),
        Kind::TransactionCancel | Kind::BatchCancel => {}
    }
    match point {
        // What these say would not be true after the effect, and a delay lets the effect come late by itself.
        Point::BeforeEffect => {
            faults.extend([FaultKind::http(429), FaultKind::http(401), TOO_SLOW, TOO_SLOW])
        }
        Point::Nowhere | Point::AfterEffect => {}
    }
    faults.choose(rng).expect("there are some").clone()
}

// ---------------------------------------------------------------------------------------------------------
// The telling.

async fn prepare(scene: &Scene, case: Case, day: Day, until_midnight: &mut Vec<FaultId>) -> Result<Told> {
    let simulator = &scene.stage.simulator;
    let mut identities = Vec::new();
    for seed in &case.seeds {
        identities.push(simulator.seed(seed.clone())?);
    }
    let at = |fault: Fault| match case.point {
        Point::Nowhere | Point::BeforeEffect => fault,
        Point::AfterEffect => fault.after_effect(),
    };
    // A call names all payments of a batch, so a fault of its first payment is a fault of the batch.
    let call = |fault: Fault| fault.on(endpoint_of(case.kind)).of(&identities[0].id);
    if case.delivery == Delivery::AgainAfterACall {
        simulator.plan(call(at(Fault::new(FaultKind::Hang)))).await?;
    }
    if case.point != Point::Nowhere {
        simulator.plan(call(at(Fault::new(case.fault.clone())))).await?;
    }
    for identity in &identities {
        for endpoint in inquiries_of(case.kind) {
            let down = Fault::new(FaultKind::http(503)).on(*endpoint).of(&identity.id);
            match (case.inquiry, day) {
                (Inquiry::Healthy, _) => {}
                (Inquiry::DownForAWhile, Day::GoesOn) => drop(simulator.plan(down.times(3)).await?),
                (Inquiry::DownForAWhile, Day::Ends) => {
                    until_midnight.push(simulator.plan(down.until_cleared()).await?);
                }
                (Inquiry::DownForEver, _) => drop(simulator.plan(down.until_cleared()).await?),
            }
        }
    }
    let payment = match case.kind {
        Kind::AsyncCancel | Kind::SyncCancelRollback | Kind::TransactionCancel | Kind::ApmProvisionCancel => {
            payment_of(case.kind, &identities[0], scene.today())
        }
        Kind::BatchCancel => {
            let payments: Vec<Value> = identities
                .iter()
                .map(|one| json!({ "merchantUniqueCode": one.merchant_unique_code, "date": one.date }))
                .collect();
            json!({ "payments": payments })
        }
    };
    let cancellation = scene.cancellation(case.kind, payment);
    let subject_of = |identity: &Identity| match (case.kind, &identity.merchant_unique_code) {
        (Kind::BatchCancel, Some(code)) => format!("{}/{code}", id_of(&cancellation)),
        _ => id_of(&cancellation).to_owned(),
    };
    let payments = identities.iter().map(|one| (one.clone(), subject_of(one))).collect();
    Ok(Told { case, cancellation, payments })
}

async fn publish(scene: &Scene, one: &Told) -> Result<()> {
    let properties = match one.case.publisher {
        Publisher::Plain => {
            for _ in 0..one.case.copies {
                scene.publish(&one.cancellation).await?;
            }
            return Ok(());
        }
        Publisher::CopiesElsewhere => {
            let elsewhere =
                Kind::ALL.into_iter().find(|kind| *kind != one.case.kind).expect("there are five");
            let copy = [&b"S"[..], &long(elsewhere.as_str().as_bytes())].concat();
            headers(&entry(b"CC", &[&b"A"[..], &long(&copy)].concat()))
        }
        Publisher::Odd => headers(&entry(b"M\xfcller", b"V")),
    };
    scene.remember(&one.cancellation)?;
    let mut publisher = RawPublisher::connect(scene.stage.url()).await?;
    let exchange = format!("{}.intents", scene.stage.topology().prefix());
    let body = serde_json::to_vec(&one.cancellation)?;
    for _ in 0..one.case.copies {
        let key = one.case.kind.as_str().as_bytes();
        let taken = publisher.publish(&exchange, key, &properties, &body).await?;
        ensure!(taken == raw::Taken::Confirmed, "{taken:?}");
    }
    Ok(())
}

/// Uses every id once more, for another payment: nothing is called for it, and nobody is told.
async fn use_ids_again(scene: &Scene, told: &[Told]) -> Result<()> {
    let simulator = &scene.stage.simulator;
    let mut others = Vec::new();
    for one in told {
        let seed: Seed = match one.case.kind {
            Kind::AsyncCancel | Kind::SyncCancelRollback => SeedPhysical::default().into(),
            Kind::TransactionCancel | Kind::BatchCancel => SeedVirtualPos::default().into(),
            Kind::ApmProvisionCancel => SeedApm::default().into(),
        };
        let identity: Identity = simulator.seed(seed)?;
        let mut cancellation = one.cancellation.clone();
        cancellation["payment"] = match one.case.kind {
            Kind::BatchCancel => json!({
                "payments": [{ "merchantUniqueCode": identity.merchant_unique_code, "date": identity.date }]
            }),
            kind @ (Kind::AsyncCancel
            | Kind::SyncCancelRollback
            | Kind::TransactionCancel
            | Kind::ApmProvisionCancel) => payment_of(kind, &identity, scene.today()),
        };
        scene.stage.publish(&cancellation).await?;
        others.push((one.case.kind, identity));
    }
    scene.until_nothing_is_on_its_way().await?;
    for (kind, identity) in others {
        let truth = scene.truth(&identity.id);
        ensure!(truth.calls_of(endpoint_of(kind)) == 0, "called for a second intent of one id: {truth:?}");
    }
    Ok(())
}

/// A worker in a runtime of its own takes these, calls, and is gone before it is answered.
async fn die_in_the_middle_of(scene: &Scene, told: &[&Told]) -> Result<()> {
    let doomed = Doomed::start(scene)?;
    // So many faults at once would pause a lane, in which then one letter at a time is called for: for as long as it hangs.
    scene.another_merchant_is_answered(&Kind::ALL).await?;
    for one in told {
        publish(scene, one).await?;
    }
    let called = |simulator: &paywall_simulator::Handle| {
        told.iter().all(|one| {
            let truth = simulator.truth_of(&one.payments[0].0.id);
            // Of two copies, the second waits for the first.
            truth.is_some_and(|truth| truth.calls_of(endpoint_of(one.case.kind)) >= 1)
        })
    };
    scene.stage.simulator.wait_until(PATIENCE * 2, called).await?;
    drop(doomed);
    let letters: usize = told.iter().map(|one| one.case.copies).sum();
    wait_until_waiting(scene, letters).await
}

/// A worker that dies when it is dropped, as a process does: nothing is finished, its connections are gone.
struct Doomed(Option<Runtime>);

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Doomed {
    fn start(scene: &Scene) -> Result<Doomed> {
        let mut toml: toml::Table = toml::from_str(scene.stage.toml())?;
        for (section, key) in [("gateway", "call_timeout"), ("inquiry", "quiet")] {
            let section =
                toml.get_mut(section).and_then(toml::Value::as_table_mut).expect("it has this section");
            section.insert(key.to_owned(), "60s".into());
        }
        let config = load(&toml::to_string(&toml)?)?;
        let gateway = Gateway::new(&config.gateway, &config.merchants)?;
        let settings =
            Settings::new(&config.amqp, "doomed", &config.lanes, &config.policy.tiers, Timeouts::default())?;
        let worker = Arc::new(Worker::new(&config, gateway, scene.clock.clone(), JitterSource::system()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.spawn(async move {
            worker::run(worker, &settings, &CancellationToken::new(), Duration::ZERO).await;
        });
        Ok(Doomed(Some(runtime)))
    }
}

/// Waits until so many letters lie in lanes and returns, given back. There may be more: of a letter that was published to a
/// delay queue and not acked yet there are two when its process dies.
async fn wait_until_waiting(scene: &Scene, letters: usize) -> Result<()> {
    let waiting = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(25));
        loop {
            let mut depth = 0;
            for queue in lanes_and_returns(scene) {
                depth += scene.depth(&queue).await? as usize;
            }
            if depth >= letters {
                return anyhow::Ok(());
            }
            ticks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await?
}

fn lanes_and_returns(scene: &Scene) -> Vec<String> {
    let prefix = scene.stage.topology().prefix();
    let both = ["intents", "returns"];
    both.iter().flat_map(|place| Kind::ALL.map(|kind| format!("{prefix}.{place}.{kind}"))).collect()
}

/// Somebody takes all that lies in the lanes, and is gone before anything is done.
async fn take_and_give_back(scene: &Scene) -> Result<()> {
    let channel = scene.stage.connection().create_channel().await?;
    let mut letters = 0;
    for queue in lanes_and_returns(scene) {
        while channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?.is_some() {
            letters += 1;
        }
    }
    channel.close(200, "the process is gone".into()).await?;
    wait_until_waiting(scene, letters).await
}

/// Every copy of every case tells its end by itself.
async fn all_have_ended(scene: &Scene, told: &[Told]) -> Result<()> {
    let is_end = |event: &Value| {
        event["data"]["terminal"] == true
            || matches!(event["data"]["status"].as_str(), Some("given_up" | "unresolved"))
    };
    let open = |events: &[Value]| -> Vec<String> {
        let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
        for event in events.iter().filter(|event| is_end(event)) {
            *ends.entry(event["subject"].as_str().unwrap_or_default()).or_default() += 1;
        }
        let missing = told
            .iter()
            .filter(|one| ends.get(id_of(&one.cancellation)).copied().unwrap_or_default() < one.case.copies);
        missing.map(|one| format!("{} {:?}", id_of(&one.cancellation), one.case)).collect()
    };
    // Those that may have taken a process down are handled one at a time.
    let patience = PATIENCE * 2;
    let ended =
        scene.stage.ledger.wait_within(patience, "end of all", |events| open(events).is_empty()).await;
    if ended.is_err() {
        let open = open(&scene.stage.ledger.events());
        anyhow::bail!("{} cases have no end: {open:#?}", open.len());
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------------
// The judgement.

fn complaints(
    case: &Case,
    heard: &[String],
    end: &str,
    decided_at: Timestamp,
    truth: &PaymentTruth,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_rollback = case.kind == Kind::SyncCancelRollback;
    let effects = truth.effects;
    let is_true = match end {
        "cancelled" => truth.state == PaymentState::Cancelled && !is_rollback,
        "rolled_back" => truth.state == PaymentState::RolledBack,
        "rejected/already_refunded" => truth.state == PaymentState::Refunded,
        "rejected/partially_refunded" => truth.state == PaymentState::PartiallyRefunded,
        "rejected/cancel_failed" => truth.state == PaymentState::CancelFailed,
        "rejected/cancel_completed" => is_rollback && truth.state == PaymentState::Cancelled,
        "rejected/device_received" => is_rollback && truth.activities.iter().any(|one| one.status == 11),
        "rejected/nothing_to_withdraw" => is_rollback && effects.rollbacks == 0,
        "rejected/same_day_window_closed" => effects.cancels == 0 && truth.state != PaymentState::Cancelled,
        "unresolved/no_evidence" | "unresolved/deadline_passed" => true,
        _ => false,
    };
    if !is_true {
        wrong.push(format!("{end} is not true of a payment that is {:?}", truth.state));
    }
    if end.starts_with("rejected") && (effects.cancels > 0 || effects.rollbacks > 0) {
        wrong.push(format!("{end}, and it had an effect"));
    }
    if effects.cancels > 1 || effects.rollbacks > 1 {
        wrong.push(format!("the effect happened more than once: {effects:?}"));
    }
    if heard.iter().any(|status| status == "accepted") && case.kind == Kind::BatchCancel {
        wrong.push("an item was accepted".to_owned());
    }
    let may_be_unresolved = case.inquiry == Inquiry::DownForEver
        || case.kind == Kind::ApmProvisionCancel
        || was_named_too_late(case.kind, truth)
        // A bulk queue may hold over midnight what may have been called: nothing proves that it was not.
        || (case.kind == Kind::BatchCancel && end == "unresolved/deadline_passed");
    if end.starts_with("unresolved") && !may_be_unresolved {
        wrong.push("it could have been found out".to_owned());
    }
    // A copy knows nothing of what the other one has seen.
    if case.copies == 1
        && let Some(call) = call_after_known_effect(case.kind, decided_at, truth)
    {
        wrong.push(format!("call {} came after the effect was known", call.number));
    }
    wrong
}

/// A call that came after an inquiry had shown that its effect was there, or after the end was decided.
fn call_after_known_effect(kind: Kind, decided_at: Timestamp, truth: &PaymentTruth) -> Option<&CallRecord> {
    let wanted: &[EffectKind] = match kind {
        Kind::AsyncCancel => &[EffectKind::CancelOrdered, EffectKind::Cancelled],
        Kind::SyncCancelRollback => &[EffectKind::RolledBack],
        Kind::TransactionCancel | Kind::ApmProvisionCancel | Kind::BatchCancel => &[EffectKind::Cancelled],
    };
    let happened_at =
        truth.events.iter().filter(|event| wanted.contains(&event.what)).map(|event| event.at).min();
    let shows = |call: &CallRecord| {
        call.endpoint.purpose() == Purpose::Inquiry
            // No query shows that a provision is cancelled.
            && call.endpoint != Endpoint::ApmQuery
            && call.fault.is_none()
            && call.replied == Some(200)
            && happened_at.is_some_and(|at| at <= call.at)
    };
    // An event tells whole milliseconds.
    let is_later = |call: &CallRecord| call.at.as_millisecond() > decided_at.as_millisecond();
    let mut known = false;
    truth.log.iter().find(|call| {
        known |= shows(call);
        call.endpoint == endpoint_of(kind) && (known || is_later(call))
    })
}

fn brief(truth: &PaymentTruth) -> Vec<String> {
    let of = |call: &CallRecord| {
        format!(
            "{} {:?} {:?} fault {:?} replied {:?}",
            call.at, call.endpoint, call.effect, call.fault, call.replied
        )
    };
    truth.log.iter().map(of).collect()
}

fn print_categories(day: Day, told: &[Told], ends: &BTreeMap<String, usize>) {
    fn count<K: Ord + Debug>(told: &[Told], key: impl Fn(&Case) -> K) -> String {
        let mut counts: BTreeMap<K, usize> = BTreeMap::new();
        for one in told {
            *counts.entry(key(&one.case)).or_default() += 1;
        }
        counts.iter().map(|(key, count)| format!("{key:?} {count}")).collect::<Vec<_>>().join(", ")
    }
    let payments: BTreeSet<&str> =
        told.iter().flat_map(|one| one.payments.iter().map(|(_, subject)| subject.as_str())).collect();
    println!("truth: {} cases, {} payments, a day that {day:?}", told.len(), payments.len());
    println!("truth:   {}", count(told, |case| case.kind.as_str()));
    println!("truth:   fault {}", count(told, |case| case.point));
    println!("truth:   inquiry {}", count(told, |case| case.inquiry));
    println!("truth:   delivery {}", count(told, |case| case.delivery));
    println!("truth:   publisher {}", count(told, |case| case.publisher));
    println!("truth:   copies {}", count(told, |case| case.copies));
    for (end, count) in ends {
        println!("truth:   {count:>4} {end}");
    }
}

/// Whether a batch's call left in time and arrived when the payment's day was over. The reply then names the payment
/// with another status than 1, which is an order that nobody may give again: it is followed, and seen to no end.
fn was_named_too_late(kind: Kind, truth: &PaymentTruth) -> bool {
    let morrow = truth.identity.date.and_then(|day| day.tomorrow().ok());
    let Some(midnight) = morrow.and_then(|day| day.in_tz("Europe/Istanbul").ok()) else { return false };
    let named_too_late = |call: &CallRecord| {
        call.endpoint == Endpoint::BatchCancel && call.replied.is_some() && call.at >= midnight.timestamp()
    };
    kind == Kind::BatchCancel && truth.log.iter().any(named_too_late)
}
