//! What becomes of an intent, over a real RabbitMQ and real sockets.

use anyhow::Result;
use cancel_worker::domain::intent::Kind;
use cancel_worker::simulator::{Endpoint, PaymentState, SeedPhysical};
use serde_json::json;

use crate::support::Context;
use crate::support::stage::{Stage, intent, said};

pub(crate) async fn an_async_cancel_that_succeeds_at_once_is_told_as_cancelled(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let working = stage.work()?;
    let payment = stage.simulator.seed(SeedPhysical::default())?;
    let wish = intent(Kind::AsyncCancel, json!({ "paymentRequestId": payment.id }));
    stage.publish(&wish).await?;

    let end = stage.ledger.end_of(wish["intentId"].as_str().unwrap()).await?;

    assert_eq!(said(&end), "cancelled");
    let truth = stage.simulator.truth_of(&payment.id).unwrap();
    assert_eq!(truth.state, PaymentState::Cancelled);
    assert_eq!(truth.calls_of(Endpoint::AsyncCancel), 1);
    working.stop().await?;
    Ok(())
}
