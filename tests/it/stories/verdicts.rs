//! What the reply to a call means, and what is done about it.

use std::time::Duration;

use anyhow::Result;
use cancel_worker::domain::intent::Kind;
use paywall_simulator::{
    Api, CancelPlan, Endpoint, Fault, FaultKind, Merchant, PastActivity, PaymentState, PlannedStep,
    ProviderSays, Seed, SeedApm, SeedPhysical, SeedVirtualPos, SimulatorConfig,
};
use serde_json::{Value, json};

use super::scene::{CALMER, Looks, QUIET, Row, Scene, TOO_SLOW, id_of, payment_of};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::stage::{UNHURRIED, said};

/// A payment that a call of this kind changes: of a rollback, one with a cancel that waits.
pub(super) fn ready_for(kind: Kind) -> Seed {
    match kind {
        Kind::AsyncCancel => SeedPhysical::default().into(),
        Kind::SyncCancelRollback => SeedPhysical::default()
            .after(PastActivity { ago_ms: 60_000, ..PastActivity::ended(2, 10) })
            .into(),
        Kind::TransactionCancel | Kind::BatchCancel => SeedVirtualPos::default().into(),
        Kind::ApmProvisionCancel => SeedApm::default().into(),
    }
}

/// The kinds of one payment each.
pub(super) const OF_ONE_PAYMENT: [Kind; 4] =
    [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel, Kind::ApmProvisionCancel];

/// What a success of this kind is called.
pub(super) fn success_of(kind: Kind) -> (&'static str, PaymentState) {
    match kind {
        Kind::SyncCancelRollback => ("rolled_back", PaymentState::RolledBack),
        Kind::AsyncCancel | Kind::TransactionCancel | Kind::ApmProvisionCancel | Kind::BatchCancel => {
            ("cancelled", PaymentState::Cancelled)
        }
    }
}

/// A row that ends as if nothing had been wrong.
fn heals(name: impl std::fmt::Display, kind: Kind) -> Row {
    let (status, state) = success_of(kind);
    Row::new(format!("{kind}: {name}"), kind, ready_for(kind)).says([status]).leaves(state)
}

broker_test!(what_the_gateway_says_is_done_is_told_at_once);
async fn what_the_gateway_says_is_done_is_told_at_once(t: Context) -> Result<()> {
    let done = |kind| heals("done", kind).calls(1).attempts(1).looks(Looks::None);
    let curtain = Scene::open(&t, "")
        .await?
        .play(vec![
            done(Kind::AsyncCancel).payment_status(Some(("physical", "cancel", "successful"))),
            done(Kind::SyncCancelRollback).payment_status(Some(("physical", "cancel", "withdrawn"))),
            done(Kind::TransactionCancel).payment_status(None),
            done(Kind::ApmProvisionCancel).payment_status(None),
        ])
        .await?;

    let of = |kind: &str| curtain.events.iter().find(|event| event["data"]["kind"] == kind).unwrap();
    let apm = &of("apm_provision_cancel")["data"]["payment"];
    assert!(apm["apmTransactionId"].is_u64(), "{apm}");
    assert_eq!(apm["amount"]["value"], "8.00");
    assert!(of("async_cancel")["data"]["payment"]["paymentRequestActivityId"].is_string());
    Ok(())
}

broker_test!(an_order_that_is_taken_is_told_as_accepted_and_followed_to_its_end);
async fn an_order_that_is_taken_is_told_as_accepted_and_followed_to_its_end(t: Context) -> Result<()> {
    let rows = [1, 2, 9, 10, 11].map(|status| {
        let plan = CancelPlan { first: status, then: vec![PlannedStep { after_ms: 400, status: 4 }] };
        Row::new(format!("status {status}"), Kind::AsyncCancel, SeedPhysical::default().cancelling(plan))
            .says(["accepted", "cancelled"])
            .calls(1)
            .attempts(1)
            .leaves(PaymentState::Cancelled)
            .payment_status(Some(("physical", "cancel", "successful")))
    });
    Scene::open(&t, "").await?.play(rows.into()).await?;
    Ok(())
}

broker_test!(a_refusal_is_final_and_is_not_asked_about);
async fn a_refusal_is_final_and_is_not_asked_about(t: Context) -> Result<()> {
    let refused = |kind, what: &str, fault: FaultKind, says| {
        Row::new(format!("{kind}: {what}"), kind, ready_for(kind))
            .struck(fault)
            .says([says])
            .calls(1)
            .attempts(1)
            .looks(Looks::None)
            .payment_status(None)
    };
    let bad_data = "rejected/invalid_request";
    let curtain = Scene::open(&t, "")
        .await?
        .play(vec![
            refused(
                Kind::AsyncCancel,
                "bad data",
                FaultKind::client_message("System.ValidationError"),
                bad_data,
            ),
            refused(
                Kind::AsyncCancel,
                "bad data with 400",
                FaultKind::Code {
                    error_code: None,
                    client_message: Some("System.ValidationError".to_owned()),
                    status: 400,
                },
                bad_data,
            ),
            refused(Kind::TransactionCancel, "bad data", FaultKind::error_code(2), bad_data),
            refused(
                Kind::TransactionCancel,
                "unsupported",
                FaultKind::error_code(501),
                "rejected/unsupported",
            ),
            refused(Kind::ApmProvisionCancel, "bad data", FaultKind::error_code(2), bad_data),
            Row::new(
                "transaction_cancel: marketplace records",
                Kind::TransactionCancel,
                SeedVirtualPos { marketplace_records: true, ..SeedVirtualPos::default() },
            )
            .says(["rejected/marketplace_records_exist"])
            .calls(1)
            .looks(Looks::None)
            .leaves(PaymentState::Stands),
        ])
        .await?;

    let codes: Vec<&Value> = curtain
        .events
        .iter()
        .map(|event| &event["data"]["reason"]["gateway"]["errorCode"])
        .filter(|code| code.is_i64())
        .collect();
    assert!(codes.contains(&&json!(353)) && codes.contains(&&json!(501)), "{codes:?}");
    Ok(())
}

broker_test!(marketplace_records_are_deleted_only_where_the_intent_says_so);
async fn marketplace_records_are_deleted_only_where_the_intent_says_so(t: Context) -> Result<()> {
    let with_records = || SeedVirtualPos { marketplace_records: true, ..SeedVirtualPos::default() };
    let row = |name, records: Value| {
        Row::new(name, Kind::TransactionCancel, with_records())
            .with("/payment/deleteMarketplaceRecords", records)
            .calls(1)
    };
    let refused = ["rejected/marketplace_records_exist"];
    let curtain = Scene::open(&t, "")
        .await?
        .play(vec![
            row("true", json!(true)).says(["cancelled"]).leaves(PaymentState::Cancelled),
            row("false", json!(false)).says(refused).leaves(PaymentState::Stands),
            row("absent", Value::Null).says(refused).leaves(PaymentState::Stands),
        ])
        .await?;

    let told = |status: &str| -> Vec<&Value> {
        let of_status = curtain.events.iter().filter(|event| event["data"]["status"] == *status);
        of_status.map(|event| &event["data"]["payment"]["deleteMarketplaceRecords"]).collect()
    };
    assert_eq!(told("cancelled"), [&json!(true)]);
    assert!(told("rejected").contains(&&json!(false)));
    let sent = curtain.scene.stage.simulator.requests_to(Endpoint::TransactionCancel);
    let with_market = sent.iter().filter(|request| request.body.contains("MarketPlace")).count();
    assert_eq!(with_market, 2, "what the intent leaves open is not sent");
    Ok(())
}

broker_test!(a_refusal_by_state_is_asked_about_and_not_called_again);
async fn a_refusal_by_state_is_asked_about_and_not_called_again(t: Context) -> Result<()> {
    let stands = |kind, what: &str, fault: FaultKind, says| {
        Row::new(format!("{kind}: {what}"), kind, ready_for(kind))
            .struck(fault)
            .says([says])
            .calls(1)
            .attempts(1)
            .looks(Looks::Some)
    };
    let not_convenient = || FaultKind::client_message("Payment.Async.NotConvenientStatusForThisOperation");
    let not_suitable = "rejected/not_suitable";
    let rows = vec![
        stands(Kind::AsyncCancel, "not suitable", not_convenient(), not_suitable).evidence("sale_stands"),
        stands(Kind::SyncCancelRollback, "not suitable", not_convenient(), "rejected/rollback_window")
            .evidence("in_progress"),
        stands(Kind::TransactionCancel, "not suitable", FaultKind::error_code(92), not_suitable)
            .evidence("sale_stands"),
        stands(Kind::TransactionCancel, "finalised", FaultKind::error_code(269), not_suitable)
            .evidence("sale_stands"),
        stands(
            Kind::ApmProvisionCancel,
            "not suitable",
            FaultKind::error_code(359),
            "unresolved/no_evidence",
        )
        .evidence("not_shown"),
        Row::about_nobody("async_cancel: not found", Kind::AsyncCancel)
            .says(["rejected/not_found"])
            .evidence("no_such_payment")
            .calls(1),
        Row::about_nobody("transaction_cancel: not found", Kind::TransactionCancel)
            .says(["rejected/not_found"])
            .evidence("no_such_payment")
            .calls(1),
        Row::new(
            "transaction_cancel: already cancelled",
            Kind::TransactionCancel,
            SeedVirtualPos::default().after(PastActivity::ended(3, 4)),
        )
        .says(["cancelled"])
        .calls(1)
        .attempts(1)
        .payment_status(Some(("virtual_pos", "cancel", "successful"))),
    ];
    Scene::open(&t, "").await?.play(rows).await?;
    Ok(())
}

broker_test!(a_gateway_that_is_busy_twice_gets_three_calls_and_tells_one_outcome);
async fn a_gateway_that_is_busy_twice_gets_three_calls_and_tells_one_outcome(t: Context) -> Result<()> {
    let busy = [
        ("408", FaultKind::http(408)),
        ("425", FaultKind::http(425)),
        ("429", FaultKind::http(429)),
        ("429 in an envelope", FaultKind::http_with_envelope(429)),
        ("429 with Retry-After", FaultKind::http_retry_after(429, "0")),
        ("503 with Retry-After", FaultKind::http_retry_after(503, "0")),
    ];
    let mut rows = Vec::new();
    for (name, fault) in busy {
        for kind in [Kind::AsyncCancel, Kind::TransactionCancel] {
            rows.push(
                heals(name, kind).fault_on_call(Fault::new(fault.clone()).times(2)).calls(3).attempts(3),
            );
        }
    }
    for kind in [Kind::SyncCancelRollback, Kind::ApmProvisionCancel] {
        let fault = Fault::new(FaultKind::http(429)).times(2);
        rows.push(heals("429", kind).fault_on_call(fault).calls(3).attempts(3).looks(Looks::None));
    }
    rows.push(
        Row::new("batch_cancel: 429", Kind::BatchCancel, ready_for(Kind::BatchCancel))
            .fault_on_call(Fault::new(FaultKind::http(429)).times(2))
            .says(["accepted", "closed"])
            .calls(3)
            .leaves(PaymentState::Cancelled),
    );
    open_apart(&t, CALMER, &OF_ONE_PAYMENT).await?.play(rows).await?;
    Ok(())
}

broker_test!(what_was_never_sent_is_called_again_and_burns_no_attempt);
async fn what_was_never_sent_is_called_again_and_burns_no_attempt(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "retry.attempts_max = 1").await?;
    let api_of = |kind| match kind {
        Kind::AsyncCancel | Kind::SyncCancelRollback => Api::Physical,
        Kind::TransactionCancel => Api::Private,
        Kind::ApmProvisionCancel | Kind::BatchCancel => Api::Payment,
    };
    for api in [Api::Physical, Api::Private, Api::Payment] {
        let refusing = FaultKind::RefuseConnection { for_ms: Some(1_500) };
        scene.stage.simulator.plan(Fault::new(refusing).at(api)).await?;
    }
    let rows = OF_ONE_PAYMENT.map(|kind| {
        heals(format!("{:?} is down", api_of(kind)), kind).calls(1).attempts(1).looks(Looks::None)
    });
    scene.play(rows.into()).await?;
    Ok(())
}

broker_test!(retry_after_is_honoured_within_our_bounds);
async fn retry_after_is_honoured_within_our_bounds(t: Context) -> Result<()> {
    let busy = |name, retry_after: &str| {
        heals(name, Kind::AsyncCancel)
            .struck(FaultKind::http_retry_after(503, retry_after))
            .calls(2)
            .attempts(2)
    };
    let curtain = Scene::open(&t, "retry.retry_after_max = '2s'")
        .await?
        .play(vec![busy("one second", "1"), busy("a day", "86400")])
        .await?;

    let mut gaps: Vec<i128> = Vec::new();
    for payment in curtain.scene.stage.simulator.truth().payments {
        let [first, second] = payment.log.as_slice() else { panic!("two calls: {:?}", payment.log) };
        gaps.push(second.at.duration_since(first.at).as_millis());
    }
    assert!(gaps[0] >= 1_000, "{gaps:?}");
    assert!(gaps[1] >= 2_000, "{gaps:?}");
    Ok(())
}

broker_test!(a_gateway_that_stays_busy_is_given_up_on_when_the_attempts_are_spent);
async fn a_gateway_that_stays_busy_is_given_up_on_when_the_attempts_are_spent(t: Context) -> Result<()> {
    let mut rows: Vec<Row> = OF_ONE_PAYMENT
        .into_iter()
        .map(|kind| {
            Row::new(format!("{kind} stays busy"), kind, ready_for(kind))
                .fault_on_call(Fault::new(FaultKind::http(429)).until_cleared())
                .says(["given_up/attempts_exhausted"])
                .calls(4)
                .attempts(4)
                .looks(Looks::None)
        })
        .collect();
    rows.push(
        Row::new("batch_cancel stays busy", Kind::BatchCancel, ready_for(Kind::BatchCancel))
            .fault_on_call(Fault::new(FaultKind::http(429)).until_cleared())
            .says(["given_up/attempts_exhausted"])
            .calls(4),
    );
    rows.push(
        // Evidence of *not done* gives the call back, but not the attempt.
        Row::new("async_cancel is reset every time", Kind::AsyncCancel, ready_for(Kind::AsyncCancel))
            .fault_on_call(Fault::new(FaultKind::Reset).until_cleared())
            .says(["given_up/attempts_exhausted"])
            .calls(4)
            .attempts(4)
            .leaves(PaymentState::Stands),
    );
    let curtain = open_apart(&t, CALMER, &OF_ONE_PAYMENT).await?.play(rows).await?;
    assert!(curtain.dead.iter().all(|dead| dead.headers["cancel-doubt"] == "false"));
    Ok(())
}

/// Everything that leaves open what a call has done, at each API where it can be.
fn causes_of_doubt(kind: Kind) -> Vec<(&'static str, FaultKind)> {
    let mut causes = vec![
        ("reset", FaultKind::Reset),
        ("closed without a reply", FaultKind::Close),
        ("no reply in time", FaultKind::Hang),
        ("500", FaultKind::http(500)),
        ("500 in an envelope", FaultKind::http_with_envelope(500)),
        ("502", FaultKind::http(502)),
        ("503 without Retry-After", FaultKind::http(503)),
        ("an empty 200", FaultKind::Empty),
        ("garbage", FaultKind::Garbage),
        ("cut short", FaultKind::Truncated),
        ("larger than we read", FaultKind::Oversized),
        ("fields that contradict each other", FaultKind::Contradiction),
        ("an unknown code", FaultKind::error_code(987_654)),
        ("code 1, which says nothing", FaultKind::error_code(1)),
    ];
    match kind {
        Kind::AsyncCancel | Kind::SyncCancelRollback => causes.extend([
            ("another payment's id", FaultKind::ForeignId),
            ("an unknown word", FaultKind::client_message("Payment.Async.NobodyKnowsThis")),
            ("a server error in words", FaultKind::client_message("System.ServerError")),
        ]),
        Kind::TransactionCancel => {}
        Kind::ApmProvisionCancel => causes.extend([
            ("another payment's id", FaultKind::ForeignId),
            ("a failure of the provider inside", FaultKind::ProviderFailure),
        ]),
        Kind::BatchCancel => {}
    }
    causes
}

/// A scene in which what strikes one row touches no other: none shares a connection with another, and no endpoint is taken
/// to be down.
async fn open_apart(t: &Context, tuning: &str, kinds: &[Kind]) -> Result<Scene> {
    let merchants = vec![Merchant::demo("default"), Merchant::demo("other")];
    let simulator = SimulatorConfig { merchants, keep_alive: false, ..SimulatorConfig::default() };
    let mut scene = Scene::without_worker(t, tuning, Some(simulator)).await?;
    scene.work().await?;
    scene.another_merchant_is_answered(kinds).await?;
    Ok(scene)
}

broker_test!(doubt_after_the_effect_ends_as_success_without_a_second_call);
async fn doubt_after_the_effect_ends_as_success_without_a_second_call(t: Context) -> Result<()> {
    let mut rows = Vec::new();
    let kinds = [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel];
    for kind in kinds {
        for (cause, fault) in causes_of_doubt(kind) {
            rows.push(heals(cause, kind).struck_after_effect(fault).calls(1).attempts(1).looks(Looks::Some));
        }
    }
    open_apart(&t, CALMER, &kinds).await?.play(rows).await?;
    Ok(())
}

broker_test!(doubt_before_the_effect_ends_as_success_after_a_second_call);
async fn doubt_before_the_effect_ends_as_success_after_a_second_call(t: Context) -> Result<()> {
    let mut rows = Vec::new();
    let kinds = [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel];
    for kind in kinds {
        for (cause, fault) in causes_of_doubt(kind) {
            rows.push(heals(cause, kind).struck(fault).calls(2).attempts(2).looks(Looks::Some));
        }
    }
    open_apart(&t, CALMER, &kinds).await?.play(rows).await?;
    Ok(())
}

broker_test!(a_bank_that_is_still_at_it_when_we_stop_waiting_is_not_called_twice);
async fn a_bank_that_is_still_at_it_when_we_stop_waiting_is_not_called_twice(t: Context) -> Result<()> {
    let rows = [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel]
        .map(|kind| heals("slow", kind).struck(TOO_SLOW).calls(1).attempts(1).looks(Looks::Some));
    Scene::open(&t, "").await?.play(rows.into()).await?;
    Ok(())
}

broker_test!(a_provision_in_doubt_is_called_again_after_the_quiet_time);
async fn a_provision_in_doubt_is_called_again_after_the_quiet_time(t: Context) -> Result<()> {
    let kind = Kind::ApmProvisionCancel;
    let mut rows = Vec::new();
    for (cause, fault) in causes_of_doubt(kind) {
        rows.push(heals(format!("{cause}, before"), kind).struck(fault.clone()).calls(2).attempts(2));
        rows.push(heals(format!("{cause}, after"), kind).struck_after_effect(fault).calls(2).attempts(2));
    }
    rows.push(
        Row::new(
            "the provider says no and has done it",
            kind,
            SeedApm { provider: ProviderSays::NoButDidIt, ..SeedApm::default() },
        )
        .says(["cancelled"])
        .calls(2)
        .leaves(PaymentState::Cancelled),
    );
    rows.push(
        Row::new(
            "the provider says no and means it",
            kind,
            SeedApm { provider: ProviderSays::NoAndMeansIt, ..SeedApm::default() },
        )
        .says(["unresolved/no_evidence"])
        .calls(4)
        .attempts(4)
        .leaves(PaymentState::Stands),
    );
    let curtain = open_apart(&t, "", &[kind]).await?.play(rows).await?;

    for payment in curtain.scene.stage.simulator.truth().payments {
        for pair in payment.log.windows(2) {
            let gap = Duration::try_from(pair[1].at.duration_since(pair[0].at))?;
            assert!(gap >= QUIET, "{gap:?} between {pair:?}");
        }
    }
    Ok(())
}

broker_test!(a_lock_out_burns_no_attempt_and_heals);
async fn a_lock_out_burns_no_attempt_and_heals(t: Context) -> Result<()> {
    let by_status = [
        ("401", FaultKind::http(401)),
        ("403", FaultKind::http(403)),
        ("401 in an envelope", FaultKind::http_with_envelope(401)),
        ("a bare 404", FaultKind::http(404)),
        ("a bare 405", FaultKind::http(405)),
        ("a bare 410", FaultKind::http(410)),
        ("301", FaultKind::redirect(301, "https://elsewhere.example/")),
        ("302", FaultKind::redirect(302, "/login")),
        ("307", FaultKind::redirect(307, "/api/payment/async/cancel")),
    ];
    let mut causes: Vec<(&str, FaultKind, Vec<Kind>)> = by_status
        .into_iter()
        .map(|(name, fault)| (name, fault, vec![Kind::AsyncCancel, Kind::TransactionCancel]))
        .collect();
    let in_words = FaultKind::client_message("System.AuthError");
    causes.push(("System.AuthError", in_words, vec![Kind::AsyncCancel]));
    causes.push((
        "401 again",
        FaultKind::http(401),
        vec![Kind::SyncCancelRollback, Kind::ApmProvisionCancel],
    ));
    // A door is shut for a whole merchant, so every cause has a merchant of its own.
    let merchant_of = |index: usize| format!("merchant-{index}");
    let merchants = (0..causes.len()).map(|index| Merchant::demo(merchant_of(index))).collect();
    let simulator = SimulatorConfig { merchants, ..SimulatorConfig::default() };
    let tuning = format!("{UNHURRIED}retry.attempts_max = 2");
    let mut scene = Scene::without_worker(&t, &tuning, Some(simulator)).await?;
    scene.work().await?;
    let mut rows = Vec::new();
    for (index, (name, fault, kinds)) in causes.into_iter().enumerate() {
        for kind in kinds {
            // More often than there are attempts.
            let fault = Fault::new(fault.clone()).times(3);
            let row = heals(name, kind).of_merchant(&merchant_of(index)).fault_on_call(fault);
            rows.push(row.calls(4).attempts(1).looks(Looks::None));
        }
    }
    scene.play(rows).await?;
    Ok(())
}

broker_test!(a_lock_out_that_lasts_is_given_up_as_locked_out_with_no_attempt_made);
async fn a_lock_out_that_lasts_is_given_up_as_locked_out_with_no_attempt_made(t: Context) -> Result<()> {
    let mut rows: Vec<Row> = OF_ONE_PAYMENT
        .into_iter()
        .map(|kind| {
            Row::new(format!("{kind} stays locked out"), kind, ready_for(kind))
                .fault_on_call(Fault::new(FaultKind::http_with_envelope(401)).until_cleared())
                .says(["given_up/locked_out"])
                .attempts(0)
                .looks(Looks::None)
        })
        .collect();
    rows.push(
        Row::new("the keys of a merchant are wrong", Kind::AsyncCancel, SeedPhysical::default())
            .with("/merchant", json!("other"))
            .says(["given_up/locked_out"])
            .attempts(0)
            .leaves(PaymentState::Stands),
    );
    let tuning = "retry.age_max = '2s'\nmerchants.other.private_key = 'wrong'";
    Scene::open(&t, tuning).await?.play(rows).await?;
    Ok(())
}

broker_test!(what_is_not_configured_waits_long_and_is_given_up_when_nobody_fixes_it);
async fn what_is_not_configured_waits_long_and_is_given_up_when_nobody_fixes_it(t: Context) -> Result<()> {
    let not_configured = [
        (Kind::AsyncCancel, FaultKind::client_message("Terminal.NotFound")),
        (Kind::AsyncCancel, FaultKind::client_message("Connection.NotConnected")),
        (Kind::SyncCancelRollback, FaultKind::client_message("Terminal.Pair.NotFound")),
        (Kind::TransactionCancel, FaultKind::error_code(541)),
        (Kind::ApmProvisionCancel, FaultKind::error_code(286)),
    ];
    let mut rows = Vec::new();
    for (kind, fault) in not_configured {
        rows.push(
            heals(format!("{fault:?}, fixed"), kind)
                .fault_on_call(Fault::new(fault.clone()).times(2))
                .calls(3)
                .attempts(3),
        );
        rows.push(
            Row::new(format!("{kind}: {fault:?}, never fixed"), kind, ready_for(kind))
                .fault_on_call(Fault::new(fault).until_cleared())
                .says(["given_up/not_configured"])
                .calls(4)
                .attempts(4)
                .looks(Looks::None),
        );
    }
    let curtain = Scene::open(&t, "").await?.play(rows).await?;

    // The last third of the five delays: 500 ms and 1 s.
    let long = Duration::from_millis(500);
    for payment in curtain.scene.stage.simulator.truth().payments {
        for pair in payment.log.windows(2) {
            let gap = Duration::try_from(pair[1].at.duration_since(pair[0].at))?;
            assert!(gap >= long, "{gap:?} between {pair:?}");
        }
    }
    Ok(())
}

broker_test!(a_declared_code_goes_before_the_table);
async fn a_declared_code_goes_before_the_table(t: Context) -> Result<()> {
    let rules = r#"
[[classification.rules]]
api = "physical"
client_message = "Payment.Async.HouseRule"
kind = "sync_cancel_rollback"
class = "refused"
reason = "rollback_refused"
[[classification.rules]]
api = "private"
code = 987654
class = "busy"
"#;
    let rollback = Kind::SyncCancelRollback;
    Scene::open(&t, rules)
        .await?
        .play(vec![
            Row::new("a refusal with a reason of its own", rollback, ready_for(rollback))
                .struck(FaultKind::client_message("Payment.Async.HouseRule"))
                .says(["rejected/rollback_refused"])
                .calls(1)
                .looks(Looks::Some),
            heals("a code declared as busy", Kind::TransactionCancel)
                .struck(FaultKind::error_code(987_654))
                .calls(2)
                .attempts(2)
                .looks(Looks::None),
        ])
        .await?;
    Ok(())
}

broker_test!(a_malformed_letter_is_dead_at_once_and_told_where_it_can_be_addressed);
async fn a_malformed_letter_is_dead_at_once_and_told_where_it_can_be_addressed(t: Context) -> Result<()> {
    let scene = Scene::open(&t, "").await?;
    let payment = scene.stage.simulator.seed(SeedPhysical::default())?;
    let good =
        || scene.cancellation(Kind::AsyncCancel, payment_of(Kind::AsyncCancel, &payment, scene.today()));

    let mut typo = good();
    typo["payment"]["paymentRequestID"] = typo["payment"]["paymentRequestId"].clone();
    scene.publish(&typo).await?;
    let elsewhere = good();
    scene.remember(&elsewhere)?;
    scene.stage.publish_bytes("transaction_cancel", serde_json::to_vec(&elsewhere)?).await?;
    scene.stage.publish_bytes("async_cancel", b"not JSON".to_vec()).await?;
    let mut nameless = good();
    nameless.as_object_mut().unwrap().remove("intentId");
    scene.stage.publish_bytes("async_cancel", serde_json::to_vec(&nameless)?).await?;
    // A lane is taken in its order, so what came after the bad ones comes last.
    let last = good();
    scene.publish(&last).await?;
    scene.ends_of(&[&typo, &elsewhere, &last].map(|cancellation| id_of(cancellation).to_owned())).await?;
    let curtain = scene.close().await?;

    for cancellation in [&typo, &elsewhere] {
        assert_eq!(said(curtain.end(id_of(cancellation))), "rejected/invalid_intent");
        assert_eq!(curtain.end(id_of(cancellation))["data"]["attempts"], 0);
        assert_eq!(curtain.dead_letter(id_of(cancellation)).routing_key, "async_cancel.invalid_intent");
    }
    let detail = &curtain.dead_letter(id_of(&typo)).headers["cancel-detail"];
    assert!(detail.contains("paymentRequestID") && !detail.contains(&payment.id), "{detail}");
    let mut nameless: Vec<&str> = curtain
        .dead
        .iter()
        .filter(|dead| !dead.headers.contains_key("cancel-intent-id"))
        .map(|dead| dead.routing_key.as_str())
        .collect();
    nameless.sort_unstable();
    assert_eq!(nameless, ["async_cancel.invalid_intent", "unknown.invalid_intent"]);
    assert_eq!(curtain.events.len(), 3, "one word about each that has a name");
    assert_eq!(curtain.scene.truth(&payment.id).calls_total(), 1);
    Ok(())
}
