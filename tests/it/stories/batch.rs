//! Batches: money travels in the events of the items, and the batch as a whole only opens and closes.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use cancel_worker::domain::intent::Kind;
use jiff::civil::Date;
use paywall_simulator::{
    BatchPlan, Endpoint, Fault, FaultKind, PastActivity, PaymentState, PlannedStep, SeedVirtualPos,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::scene::{Curtain, SOON_UNRESOLVED, Scene, id_of};
use crate::support::Context;
use crate::support::broker_test;

/// One payment of a batch, and what must be told of it.
pub(super) struct Item {
    code: String,
    seed: Option<SeedVirtualPos>,
    date: Option<Date>,
    says: &'static str,
    calls: u64,
}

impl Item {
    /// A payment that fares so in a batch.
    fn new(name: &str, batch: BatchPlan, says: &'static str) -> Item {
        Item::of(name, SeedVirtualPos::default().in_batch(batch), says)
    }

    /// This payment.
    pub(super) fn of(name: &str, seed: SeedVirtualPos, says: &'static str) -> Item {
        let code = format!("{name}-{}", Uuid::new_v4().simple());
        let seed = SeedVirtualPos { merchant_unique_code: Some(code.clone()), ..seed };
        Item { code, seed: Some(seed), date: None, says, calls: 1 }
    }

    /// A payment that the gateway does not know.
    fn unknown(says: &'static str) -> Item {
        Item { seed: None, ..Item::new("unknown", BatchPlan::LeftOut, says) }
    }

    /// The same on another day.
    pub(super) fn on(self, date: Date) -> Item {
        Item { date: Some(date), seed: self.seed.map(|seed| seed.on(date)), ..self }
    }

    /// So many calls name it.
    pub(super) fn calls(self, calls: u64) -> Item {
        Item { calls, ..self }
    }
}

/// A batch, and what must be told of it as a whole.
pub(super) struct Batch {
    name: &'static str,
    items: Vec<Item>,
    faults: Vec<Fault>,
    inquiry_faults: Vec<Fault>,
    requested_on: Option<Date>,
    says: Vec<&'static str>,
    counts: Value,
}

impl Batch {
    pub(super) fn new<const N: usize>(
        name: &'static str,
        items: Vec<Item>,
        says: [&'static str; N],
        counts: Value,
    ) -> Batch {
        let says = says.to_vec();
        Batch { name, items, faults: vec![], inquiry_faults: vec![], requested_on: None, says, counts }
    }

    /// A fault of the batch's own call.
    pub(super) fn struck(mut self, fault: Fault) -> Batch {
        self.faults.push(fault);
        self
    }

    /// A fault of every inquiry about its items.
    pub(super) fn struck_when_asked(mut self, fault: Fault) -> Batch {
        self.inquiry_faults.push(fault);
        self
    }

    /// Requested at noon of this day.
    pub(super) fn requested_on(self, day: Date) -> Batch {
        Batch { requested_on: Some(day), ..self }
    }

    /// Seeds the payments, plans the faults, and publishes the intent.
    pub(super) async fn publish(&self, scene: &Scene) -> Result<Value> {
        let simulator = &scene.stage.simulator;
        for item in &self.items {
            if let Some(seed) = &item.seed {
                simulator.seed(seed.clone())?;
            }
            for fault in &self.inquiry_faults {
                simulator.plan(fault.clone().on(Endpoint::PrivateQuery).of(&item.code)).await?;
            }
        }
        for fault in &self.faults {
            simulator.plan(fault.clone().on(Endpoint::BatchCancel).of(&self.items[0].code)).await?;
        }
        let payments: Vec<Value> = self
            .items
            .iter()
            .map(|item| {
                let date = item.date.unwrap_or_else(|| scene.today());
                json!({ "merchantUniqueCode": item.code, "date": date.to_string() })
            })
            .collect();
        let mut cancellation = scene.cancellation(Kind::BatchCancel, json!({ "payments": payments }));
        if let Some(day) = self.requested_on {
            let noon = day.at(12, 0, 0, 0).to_zoned(super::scene::zone())?.timestamp();
            cancellation["requestedAt"] = json!(noon.to_string());
        }
        scene.publish(&cancellation).await?;
        Ok(cancellation)
    }

    /// Holds what was told to what must be told.
    pub(super) fn check(&self, curtain: &Curtain, cancellation: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        let heard = curtain.heard(id_of(cancellation));
        if heard != self.says {
            wrong.push(format!("{}: what is said is {heard:?} and not {:?}", self.name, self.says));
            return wrong;
        }
        let end = curtain.end(id_of(cancellation));
        if end["data"]["counts"] != self.counts {
            wrong
                .push(format!("{}: counts are {} and not {}", self.name, end["data"]["counts"], self.counts));
        }
        for (index, item) in self.items.iter().enumerate() {
            let heard = curtain.heard(&format!("{}/{}", id_of(cancellation), item.code));
            if heard != [item.says] {
                wrong.push(format!(
                    "{}: {heard:?} is said of {}, and not {}",
                    self.name, item.code, item.says
                ));
            }
            let truth = curtain.scene.stage.simulator.truth_of(&item.code);
            let calls = truth.as_ref().map_or(0, |truth| truth.calls_of(Endpoint::BatchCancel));
            if calls != item.calls {
                wrong.push(format!("{}: {calls} calls name item {index}, and not {}", self.name, item.calls));
            }
            let Some(truth) = truth else { continue };
            let cancelled = truth.state == PaymentState::Cancelled;
            if cancelled != (item.says == "cancelled") && !item.says.starts_with("unresolved") {
                wrong.push(format!("{}: {} is {:?}", self.name, item.code, truth.state));
            }
            if truth.effects.cancels > 1 {
                wrong.push(format!("{}: money of {} moved more than once", self.name, item.code));
            }
        }
        wrong
    }
}

/// Plays batches all at once to their ends.
pub(super) async fn play(scene: Scene, batches: Vec<Batch>) -> Result<(Curtain, Vec<Value>)> {
    let mut cancellations = Vec::new();
    for batch in &batches {
        cancellations.push(batch.publish(&scene).await?);
    }
    play_to_the_end(scene, batches, cancellations).await
}

/// The same in two acts: while the gateway's clock stands, until each batch is accepted; then it runs, and they end.
async fn play_in_two_acts(scene: Scene, batches: Vec<Batch>) -> Result<(Curtain, Vec<Value>)> {
    scene.stage.simulator.freeze();
    let mut cancellations = Vec::new();
    for batch in &batches {
        cancellations.push(batch.publish(&scene).await?);
    }
    let ids: Vec<String> = cancellations.iter().map(|cancellation| id_of(cancellation).to_owned()).collect();
    scene.all_accepted(&ids).await?;
    scene.stage.simulator.run();
    play_to_the_end(scene, batches, cancellations).await
}

async fn play_to_the_end(
    scene: Scene,
    batches: Vec<Batch>,
    cancellations: Vec<Value>,
) -> Result<(Curtain, Vec<Value>)> {
    let subjects: Vec<String> =
        cancellations.iter().map(|cancellation| id_of(cancellation).to_owned()).collect();
    scene.ends_of(&subjects).await?;
    let curtain = scene.close().await?;
    let wrong: Vec<String> = batches
        .iter()
        .zip(&cancellations)
        .flat_map(|(batch, cancellation)| batch.check(&curtain, cancellation))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok((curtain, cancellations))
}

fn cancelled_after(after_ms: u64) -> BatchPlan {
    BatchPlan::Cancelled { after_ms }
}

fn sold_and(kind: u8, status: u8) -> SeedVirtualPos {
    SeedVirtualPos::default().after(PastActivity::ended(kind, status))
}

broker_test!(a_batch_of_mixed_items_is_told_item_by_item_and_then_closed);
async fn a_batch_of_mixed_items_is_told_item_by_item_and_then_closed(t: Context) -> Result<()> {
    let items = vec![
        Item::new("at-once", cancelled_after(0), "cancelled"),
        Item::new("later", cancelled_after(1_500), "cancelled"),
        Item::new("failed", BatchPlan::Failed { after_ms: 500, status: 5 }, "rejected/cancel_failed"),
        Item::new(
            "failed-by-query",
            BatchPlan::Failed { after_ms: 500, status: 7 },
            "rejected/cancel_failed",
        ),
        Item::of("refunded", sold_and(2, 4), "rejected/already_refunded"),
        Item::of("refunded-in-part", sold_and(4, 4), "rejected/partially_refunded"),
        Item::of("cancelled-before", sold_and(3, 4), "cancelled"),
        Item::unknown("rejected/not_found"),
        Item::new("left-out", BatchPlan::LeftOutButCancelled { after_ms: 800 }, "cancelled"),
        Item::new("twice", BatchPlan::Twice { after_ms: 300, second_status: 1 }, "cancelled"),
        Item::new("twice-otherwise", BatchPlan::Twice { after_ms: 300, second_status: 2 }, "cancelled"),
    ];
    let counts = json!({ "cancelled": 6, "rejected": 5 });
    let batch = Batch::new("mixed", items, ["accepted", "closed"], counts);
    let (curtain, cancellations) = play(Scene::open(&t, "").await?, vec![batch]).await?;

    let of_whole = |status: &str| {
        let found = curtain
            .events
            .iter()
            .find(|e| e["subject"] == cancellations[0]["intentId"] && e["data"]["status"] == *status);
        found.unwrap()["data"].clone()
    };
    let accepted = of_whole("accepted");
    assert_eq!(accepted["counts"], json!({ "accepted": 11 }), "the items still open");
    assert!(accepted["payment"]["bulkPaymentId"].is_u64(), "{accepted}");
    // Each item is told as soon as it is decided, and the end comes last.
    let decided = |event: &&Value| event["data"]["decidedAt"].as_str().unwrap().to_owned();
    let mut in_order: Vec<&Value> = curtain.events.iter().collect();
    in_order.sort_by_key(decided);
    let item_of = |event: &&Value| event["data"]["item"]["merchantUniqueCode"].as_str().map(str::to_owned);
    let order: Vec<String> = in_order.iter().filter_map(item_of).collect();
    let place = |name: &str| order.iter().position(|code| code.starts_with(&format!("{name}-"))).unwrap();
    assert!(place("at-once") < place("later"), "{order:?}");
    for event in curtain.events.iter().filter(|event| event["data"]["item"].is_object()) {
        assert!(event["data"]["counts"].is_null() && event["data"]["status"] != "accepted", "{event}");
    }
    Ok(())
}

broker_test!(a_batch_that_is_refused_as_a_whole_is_rejected_item_by_item_and_closed);
async fn a_batch_that_is_refused_as_a_whole_is_rejected_item_by_item_and_closed(t: Context) -> Result<()> {
    let items = |says| {
        ["first", "second", "third"]
            .map(|name| Item::new(name, cancelled_after(0), says))
            .into_iter()
            .collect()
    };
    let counts = || json!({ "rejected": 3 });
    let whole = ["closed"];
    play(
        Scene::open(&t, "").await?,
        vec![
            Batch::new("refused", items("rejected/invalid_request"), whole, counts())
                .struck(Fault::new(FaultKind::error_code(2))),
            Batch::new("refused by state", items("rejected/not_suitable"), whole, counts())
                .struck(Fault::new(FaultKind::error_code(359))),
        ],
    )
    .await?;
    Ok(())
}

broker_test!(a_batch_in_doubt_is_called_again_only_with_what_was_not_done);
async fn a_batch_in_doubt_is_called_again_only_with_what_was_not_done(t: Context) -> Result<()> {
    let pair = |calls| {
        ["first", "second"]
            .map(|name| Item::new(name, cancelled_after(500), "cancelled").calls(calls))
            .into_iter()
            .collect()
    };
    let two = || json!({ "cancelled": 2 });
    let whole = ["accepted", "closed"];
    let partly = vec![
        Item::new("open", cancelled_after(0), "cancelled").calls(2),
        Item::of("cancelled-before", sold_and(3, 4), "cancelled").calls(1),
        Item::of("refunded", sold_and(2, 4), "rejected/already_refunded").calls(1),
    ];
    let mut batches = vec![
        Batch::new("partly done", partly, whole, json!({ "cancelled": 2, "rejected": 1 }))
            .struck(Fault::new(FaultKind::Reset)),
        Batch::new("another payment is named", pair(1), whole, two())
            .struck(Fault::new(FaultKind::ForeignId).after_effect()),
    ];
    for fault in [
        FaultKind::Reset,
        FaultKind::Hang,
        FaultKind::http(500),
        FaultKind::Empty,
        FaultKind::Garbage,
        FaultKind::Contradiction,
        FaultKind::Truncated,
        FaultKind::error_code(987_654),
    ] {
        batches
            .push(Batch::new("before the effect", pair(2), whole, two()).struck(Fault::new(fault.clone())));
        batches.push(
            Batch::new("after the effect", pair(1), whole, two()).struck(Fault::new(fault).after_effect()),
        );
    }
    let (curtain, cancellations) = play_in_two_acts(Scene::open(&t, "").await?, batches).await?;

    let code = cancellations[0]["payment"]["payments"][0]["merchantUniqueCode"].as_str().unwrap();
    let second = &curtain
        .scene
        .truth(code)
        .log
        .iter()
        .filter(|c| c.endpoint == Endpoint::BatchCancel)
        .nth(1)
        .unwrap()
        .body
        .clone();
    let second: Value = serde_json::from_str(second)?;
    let payments =
        second.as_object().unwrap().iter().find(|(k, _)| k.eq_ignore_ascii_case("payments")).unwrap().1;
    assert_eq!(payments.as_array().map(Vec::len), Some(1), "{second}");
    Ok(())
}

broker_test!(an_item_that_a_reply_leaves_out_is_called_again_alone_until_its_attempts_end);
async fn an_item_that_a_reply_leaves_out_is_called_again_alone_until_its_attempts_end(
    t: Context,
) -> Result<()> {
    let items = vec![
        Item::new("taken", cancelled_after(0), "cancelled"),
        Item::new("left-out", BatchPlan::LeftOut, "given_up/attempts_exhausted").calls(4),
    ];
    let counts = json!({ "cancelled": 1, "given_up": 1 });
    let batch = Batch::new("left out", items, ["accepted", "given_up/attempts_exhausted"], counts);
    let (curtain, cancellations) = play(Scene::open(&t, "").await?, vec![batch]).await?;
    assert_eq!(curtain.dead_letter(id_of(&cancellations[0])).headers["cancel-items"], "CG");
    Ok(())
}

broker_test!(an_item_that_a_reply_named_is_never_called_again_and_ends_unresolved_without_an_end);
async fn an_item_that_a_reply_named_is_never_called_again_and_ends_unresolved_without_an_end(
    t: Context,
) -> Result<()> {
    let refused = || BatchPlan::Refused { status: 2, message: "no".to_owned() };
    let items = vec![
        Item::new("named-otherwise", refused(), "unresolved/no_evidence"),
        Item::new("never-ends", BatchPlan::Pending, "unresolved/no_evidence"),
        Item::new("taken", cancelled_after(0), "cancelled"),
    ];
    let batch = Batch::new(
        "open for ever",
        items,
        ["accepted", "unresolved/no_evidence"],
        json!({ "cancelled": 1, "unresolved": 2 }),
    );
    let blind = Batch::new(
        "inquiry down for ever",
        vec![Item::new("blind", cancelled_after(0), "unresolved/no_evidence")],
        ["accepted", "unresolved/no_evidence"],
        json!({ "unresolved": 1 }),
    )
    .struck_when_asked(Fault::new(FaultKind::http(503)).until_cleared());
    let unknown = Batch::new(
        "in doubt about what nobody knows",
        vec![Item::unknown("unresolved/no_evidence")],
        ["unresolved/no_evidence"],
        json!({ "unresolved": 1 }),
    )
    .struck(Fault::new(FaultKind::Reset));
    let (curtain, cancellations) =
        play(Scene::open(&t, SOON_UNRESOLVED).await?, vec![batch, blind, unknown]).await?;
    assert_eq!(curtain.dead_letter(id_of(&cancellations[0])).headers["cancel-items"], "UUC");
    Ok(())
}

broker_test!(an_item_whose_cancel_runs_already_is_followed_to_its_end);
async fn an_item_whose_cancel_runs_already_is_followed_to_its_end(t: Context) -> Result<()> {
    let running = |end| {
        let then = vec![PlannedStep { after_ms: 1_200, status: end }];
        SeedVirtualPos::default().after(PastActivity { kind: 3, status: 2, ago_ms: 0, then })
    };
    let items = vec![
        Item::of("done-by-another", running(4), "cancelled"),
        Item::of("failed-for-another", running(5), "rejected/cancel_failed"),
    ];
    let counts = json!({ "cancelled": 1, "rejected": 1 });
    let batch = Batch::new("running", items, ["accepted", "closed"], counts);
    play_in_two_acts(Scene::open(&t, "").await?, vec![batch]).await?;
    Ok(())
}

broker_test!(an_inquiry_that_is_down_for_a_while_holds_up_only_its_item);
async fn an_inquiry_that_is_down_for_a_while_holds_up_only_its_item(t: Context) -> Result<()> {
    let batch = Batch::new(
        "down for a while",
        vec![
            Item::new("first", cancelled_after(0), "cancelled"),
            Item::new("second", cancelled_after(0), "cancelled"),
        ],
        ["accepted", "closed"],
        json!({ "cancelled": 2 }),
    )
    .struck_when_asked(Fault::new(FaultKind::Reset).times(3));
    play(Scene::open(&t, "").await?, vec![batch]).await?;
    Ok(())
}

broker_test!(a_batch_longer_than_one_look_is_asked_about_in_turns);
async fn a_batch_longer_than_one_look_is_asked_about_in_turns(t: Context) -> Result<()> {
    let items: Vec<Item> =
        (0..45).map(|n| Item::new(&format!("item-{n}"), cancelled_after(0), "cancelled")).collect();
    let batch = Batch::new("long", items, ["accepted", "closed"], json!({ "cancelled": 45 }));
    let (curtain, _) = play(Scene::open(&t, "").await?, vec![batch]).await?;
    let mut looks: BTreeMap<String, usize> = BTreeMap::new();
    for request in curtain.scene.stage.simulator.requests_to(Endpoint::PrivateQuery) {
        *looks
            .entry(request.headers.get("merchantuniquecode").unwrap_or_default().to_owned())
            .or_default() += 1;
    }
    assert_eq!(looks.len(), 45);
    Ok(())
}
