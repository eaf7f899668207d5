//! Provisions of alternative payment methods: no query proves that one was cancelled.

use std::time::Duration;

use anyhow::Result;
use cancel_worker::domain::intent::Kind;
use paywall_simulator::{
    ApmRepeat, ApmState, Fault, FaultKind, PaymentState, Rules, SeedApm, SimulatorConfig,
};
use serde_json::json;

use super::scene::{Looks, QUIET, Row, SOON_UNRESOLVED, Scene};
use crate::support::Context;
use crate::support::broker_test;

fn provision(name: &str, state: ApmState) -> Row {
    Row::new(name, Kind::ApmProvisionCancel, SeedApm { state, ..SeedApm::default() })
}

broker_test!(a_success_of_the_repeated_call_is_told_as_cancelled);
async fn a_success_of_the_repeated_call_is_told_as_cancelled(t: Context) -> Result<()> {
    let told = |row: Row| {
        row.says(["cancelled"]).calls(2).attempts(2).looks(Looks::None).leaves(PaymentState::Cancelled)
    };
    let curtain = Scene::open(&t, "")
        .await?
        .play(vec![
            told(provision("not done", ApmState::Provisioned).struck(FaultKind::Reset)),
            told(provision("done and unheard", ApmState::Provisioned).struck_after_effect(FaultKind::Reset)),
        ])
        .await?;
    for payment in curtain.scene.stage.simulator.truth().payments {
        assert!(Duration::try_from(payment.log[1].at.duration_since(payment.log[0].at))? >= QUIET);
        assert_eq!(payment.effects.cancels, 1);
    }
    Ok(())
}

broker_test!(a_refusal_of_the_repeated_call_may_be_the_echo_of_our_own_success);
async fn a_refusal_of_the_repeated_call_may_be_the_echo_of_our_own_success(t: Context) -> Result<()> {
    let strict = Rules { apm_repeat: ApmRepeat::NotSuitable, ..Rules::default() };
    let simulator = SimulatorConfig { rules: strict, ..SimulatorConfig::default() };
    let mut scene = Scene::without_worker(&t, "", Some(simulator)).await?;
    scene.work().await?;
    let unresolved = |row: Row| row.says(["unresolved/no_evidence"]).calls(2).attempts(2).looks(Looks::None);
    let curtain = scene
        .play(vec![
            unresolved(
                provision("done and unheard", ApmState::Provisioned).struck_after_effect(FaultKind::Reset),
            )
            .leaves(PaymentState::Cancelled),
            unresolved(provision("refunded and unheard", ApmState::Refunded).struck(FaultKind::Reset))
                .leaves(PaymentState::Refunded),
            unresolved(
                provision("bad data, the second time", ApmState::Provisioned)
                    .struck_after_effect(FaultKind::Reset)
                    .struck(FaultKind::error_code(2)),
            ),
        ])
        .await?;
    assert!(curtain.dead.iter().all(|dead| dead.headers["cancel-doubt"] == "true"));
    Ok(())
}

broker_test!(a_refusal_by_state_is_rejected_only_where_the_query_shows_a_refund);
async fn a_refusal_by_state_is_rejected_only_where_the_query_shows_a_refund(t: Context) -> Result<()> {
    let refunded = |row: Row| {
        row.says(["rejected/already_refunded"])
            .evidence("refunded")
            .calls(1)
            .leaves(PaymentState::Refunded)
            .payment_status(Some(("apm", "refund", "successful")))
    };
    let unresolved = |row: Row| row.says(["unresolved/no_evidence"]).calls(1).attempts(1);
    Scene::open(&t, "")
        .await?
        .play(vec![
            refunded(provision("refunded", ApmState::Refunded)),
            // A query that does not answer is asked again first.
            refunded(
                provision("refunded, and the query is down for a while", ApmState::Refunded)
                    .fault_on_inquiry(Fault::new(FaultKind::http(503)).times(3)),
            ),
            unresolved(provision("not suitable", ApmState::NotSuitable)).evidence("not_shown"),
            unresolved(
                provision("refunded, and no code to ask by", ApmState::Refunded)
                    .with("/payment/merchantUniqueCode", json!(null))
                    .looks(Looks::None),
            ),
        ])
        .await?;
    Ok(())
}

broker_test!(a_query_of_a_provision_that_tells_nothing_for_ever_leaves_it_unresolved);
async fn a_query_of_a_provision_that_tells_nothing_for_ever_leaves_it_unresolved(t: Context) -> Result<()> {
    let unresolved = |row: Row| row.says(["unresolved/no_evidence"]).evidence("unanswered").calls(1);
    let curtain = Scene::open(&t, SOON_UNRESOLVED)
        .await?
        .play(vec![
            unresolved(
                provision("refunded, and the query is down", ApmState::Refunded)
                    .fault_on_inquiry(Fault::new(FaultKind::http(503)).until_cleared()),
            ),
            // The query's own code for an unknown provision has readings that differ.
            unresolved(
                Row::about_nobody("not found", Kind::ApmProvisionCancel).struck(FaultKind::error_code(404)),
            ),
        ])
        .await?;
    let mut why: Vec<&str> = curtain.dead.iter().map(|dead| dead.headers["cancel-why"].as_str()).collect();
    why.sort_unstable();
    assert_eq!(why, ["already_refunded", "not_found"]);
    Ok(())
}
