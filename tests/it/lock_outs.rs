//! Doors that are shut: letters wait without burning attempts, one of them at a time finds out, others go on.

use anyhow::Result;
use cancel_worker::domain::intent::Kind;
use paywall_simulator::{Endpoint, Fault, FaultKind, SeedPhysical};
use serde_json::json;

use crate::support::Context;
use crate::support::broker_test;
use crate::support::stage::{PATIENCE, Stage, UNHURRIED, intent, said};

const LETTERS: usize = 30;

broker_test!(while_a_merchant_is_locked_out_one_letter_finds_out_and_no_attempt_is_burned);
async fn while_a_merchant_is_locked_out_one_letter_finds_out_and_no_attempt_is_burned(
    t: Context,
) -> Result<()> {
    let stage = Stage::new(&t, UNHURRIED).await?;
    let fault = Fault::new(FaultKind::http(401)).on(Endpoint::AsyncCancel).by("default").until_cleared();
    let fault = stage.simulator.plan(fault).await?;
    let working = stage.work_consuming().await?;
    let struck = |simulator: &paywall_simulator::Handle| -> u64 {
        simulator.faults().iter().map(|report| report.struck).sum()
    };
    let mut cancellations = Vec::new();
    for number in 0..LETTERS {
        let payment = stage.simulator.seed(SeedPhysical::default())?;
        let cancellation = intent(Kind::AsyncCancel, json!({ "paymentRequestId": payment.id }));
        stage.publish(&cancellation).await?;
        cancellations.push(cancellation["intentId"].as_str().unwrap_or_default().to_owned());
        if number == 0 {
            // The first finds the door shut; the others come later.
            stage.simulator.wait_until(PATIENCE, |simulator| struck(simulator) >= 1).await?;
        }
    }
    let mut of_another = intent(Kind::AsyncCancel, json!({}));
    of_another["merchant"] = json!("other");
    let payment =
        stage.simulator.seed(SeedPhysical { merchant: "other".to_owned(), ..SeedPhysical::default() })?;
    of_another["payment"] = json!({ "paymentRequestId": payment.id });
    stage.publish(&of_another).await?;

    // The other merchant does not feel it.
    let end = stage.ledger.end_of(of_another["intentId"].as_str().unwrap_or_default()).await?;
    assert_eq!(said(&end), "cancelled");
    // One probe after the other; without the door every letter would have called, again and again.
    stage.simulator.wait_until(PATIENCE, |simulator| struck(simulator) >= 4).await?;
    let struck = struck(&stage.simulator.handle());
    assert!(struck < 10, "{struck} calls at a shut door");
    stage.simulator.clear_fault(fault).await?;

    for cancellation in &cancellations {
        let end = stage.ledger.end_of(cancellation).await?;
        assert_eq!((said(&end), &end["data"]["attempts"]), ("cancelled".to_owned(), &json!(1)));
    }
    working.stop().await?;
    Ok(())
}
