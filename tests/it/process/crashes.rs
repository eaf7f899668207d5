//! SIGKILL at the worst moments. The broker hands the letter out again, another process ends it, and the world hears
//! one truth.

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use paywall_simulator::{Fault, FaultKind, FaultPoint};
use serde_json::Value;

use super::cancellations::{Cancellation, Copies, Course, nothing_is_left};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::Process;
use crate::support::proxy::{Frame, Proxy};
use crate::support::road::{Road, Way, Which};
use crate::support::stage::{PATIENCE, Stage, UNHURRIED};

const DONE: i32 = 0;

/// The stage of one story: a worker behind a proxy, whose end it will be, and a cancellation.
struct Story {
    stage: Stage,
    proxy: Proxy,
    cancellation: Cancellation,
    course: Course,
}

/// What waits in a delay queue comes back to whoever takes over, and not while the process or its connection is dying.
const UNTIL_KILLED: &str = "retry.delays = ['2s']";

impl Story {
    async fn new(t: &Context, kind: Kind, course: Course) -> Result<Story> {
        Story::tuned(t, "", kind, course).await
    }

    async fn tuned(t: &Context, tuning: &str, kind: Kind, course: Course) -> Result<Story> {
        let stage = Stage::new(t, tuning).await?;
        let proxy = Proxy::start(stage.url()).await?;
        let cancellation = Cancellation::new(&stage, kind, course)?;
        Ok(Story { stage, proxy, cancellation, course })
    }

    fn announce(&self) -> String {
        format!("{}.announce", self.stage.topology().prefix())
    }

    fn first_worker(&self) -> Result<Process> {
        Process::work_through(&self.stage, self.proxy.url())
    }

    /// One that has lived through a cut: it knew what came to it again.
    async fn ends_without_a_suspect(&self, worker: Process) -> Result<()> {
        let ended = worker.stop_by("TERM").await?;
        assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
        ensure!(ended.stderr.events("generation_started").len() > 1, "it has connected again");
        assert_eq!(ended.stderr.events("isolated").len(), 0, "it knows what it has decided");
        self.cancellation.is_told_truly(&self.stage, Copies::One)?;
        nothing_is_left(&self.stage).await
    }

    /// Another process takes over, until the cancellation has ended so often; then everything is told truly, and nothing left.
    async fn is_ended_by_another_process(&self, times: usize, copies: Copies) -> Result<()> {
        let second = Process::work(&self.stage, &[])?;
        self.cancellation.ended(&self.stage, times).await?;
        let ended = second.stop_by("TERM").await?;
        assert_eq!(ended.code, Some(DONE), "{}", ended.stderr.text());
        self.cancellation.is_told_truly(&self.stage, copies)?;
        nothing_is_left(&self.stage).await
    }
}

/// The call has had its effect, the process dies before a word of it is out.
async fn killed_between_call_and_announce(t: Context, kind: Kind) -> Result<()> {
    let story = Story::new(&t, kind, Course::AtOnce).await?;
    let Story { stage, proxy, cancellation, course } = &story;
    let hold = proxy.hold(Frame::publish_to(&story.announce()).with(&cancellation.first_word(*course)));
    let first = story.first_worker()?;
    stage.publish(&cancellation.intent).await?;
    hold.held().await?;
    let (_, id) = &cancellation.payments[0];
    stage.simulator.wait_for_calls(id, cancellation.endpoint, 1, PATIENCE).await?;

    first.kill().await?;

    ensure!(stage.ledger.events().is_empty(), "nothing was announced: {:#?}", stage.ledger.events());
    story.is_ended_by_another_process(1, Copies::One).await
}

/// The ledger has heard the end, the process dies before the letter is acked.
async fn killed_between_announce_and_ack(t: Context, kind: Kind) -> Result<()> {
    let story = Story::new(&t, kind, Course::AtOnce).await?;
    let Story { stage, proxy, cancellation, .. } = &story;
    let last_word = proxy.hold(Frame::publish_to(&story.announce()).with(&cancellation.last_word()));
    let first = story.first_worker()?;
    stage.publish(&cancellation.intent).await?;
    last_word.held().await?;
    let ack = proxy.hold(Frame::ack());
    last_word.release();
    ack.held().await?;
    cancellation.ended(stage, 1).await?;

    first.kill().await?;

    story.is_ended_by_another_process(2, Copies::One).await
}

/// The process dies while the gateway has the call.
async fn killed_during_the_call(t: Context, kind: Kind, fault: Fault) -> Result<()> {
    let story = Story::new(&t, kind, Course::AtOnce).await?;
    let Story { stage, cancellation, .. } = &story;
    let calls_expected = match fault.point {
        FaultPoint::BeforeEffect => 2,
        FaultPoint::AfterEffect => 1,
    };
    stage.simulator.plan(fault.on(cancellation.endpoint)).await?;
    let first = story.first_worker()?;
    stage.publish(&cancellation.intent).await?;
    let (_, id) = &cancellation.payments[0];
    stage.simulator.wait_for_calls(id, cancellation.endpoint, 1, PATIENCE).await?;

    first.kill().await?;

    story.is_ended_by_another_process(1, Copies::One).await?;
    let calls = stage.simulator.truth_of(id).context("it was seeded")?.calls_of(cancellation.endpoint);
    // Nothing but the call itself tells whether a provision is cancelled.
    let asks_by_calling = kind == Kind::ApmProvisionCancel;
    ensure!(asks_by_calling || calls == calls_expected, "{calls} calls");
    Ok(())
}

/// The letter lies in a delay queue, and the process dies before the delivery that it was made from is acked: two
/// copies are alive.
async fn killed_between_delay_and_ack(t: Context, kind: Kind, course: Course) -> Result<()> {
    let story = Story::tuned(&t, UNTIL_KILLED, kind, course).await?;
    let Story { stage, proxy, cancellation, .. } = &story;
    match course {
        // It waits because the gateway is busy: the call has had no effect.
        Course::AtOnce => {
            let busy = FaultKind::http_retry_after(503, "0");
            stage.simulator.plan(Fault::new(busy).on(cancellation.endpoint)).await?;
        }
        // It waits for the end of what was ordered.
        Course::Later => {}
    }
    let ack = proxy.hold(Frame::ack());
    let first = story.first_worker()?;
    stage.publish(&cancellation.intent).await?;
    ack.held().await?;

    first.kill().await?;

    story.is_ended_by_another_process(2, Copies::Two).await
}

/// The process lives on, but its connection is cut before the announcement is through: the letter comes to it again.
async fn cut_before_the_announcement(t: Context, kind: Kind) -> Result<()> {
    let story = Story::new(&t, kind, Course::AtOnce).await?;
    let Story { stage, proxy, cancellation, .. } = &story;
    let hold = proxy.hold(Frame::publish_to(&story.announce()).with(&cancellation.last_word()));
    let worker = story.first_worker()?;
    stage.publish(&cancellation.intent).await?;
    hold.held().await?;

    hold.cut();

    cancellation.ended(stage, 1).await?;
    story.ends_without_a_suspect(worker).await
}

/// The process lives on, but its connection is cut and the ack lost on its way: the letter comes to it again.
async fn cut_before_the_ack(t: Context, kind: Kind, course: Course, calls_expected: u64) -> Result<()> {
    let story = Story::tuned(&t, UNTIL_KILLED, kind, course).await?;
    let Story { stage, proxy, cancellation, .. } = &story;
    if course == Course::AtOnce && calls_expected == 2 {
        let busy = FaultKind::http_retry_after(503, "1");
        stage.simulator.plan(Fault::new(busy).on(cancellation.endpoint)).await?;
    }
    let ack = proxy.hold(Frame::ack());
    let environment = [("CANCEL_WORKER__AMQP__URL", proxy.url()), ("RUST_LOG", "debug")];
    let worker = Process::work(stage, &environment)?;
    stage.publish(&cancellation.intent).await?;
    ack.held().await?;

    ack.cut();

    worker.stderr.event("already_announced").await?;
    cancellation.ended(stage, 1).await?;
    story.ends_without_a_suspect(worker).await?;
    for (subject, id) in &cancellation.payments {
        let truth = stage.simulator.truth_of(id).context("it was seeded")?;
        ensure!(truth.calls_of(cancellation.endpoint) == calls_expected, "{truth:#?}");
        let mut ids: Vec<_> =
            stage.ledger.events_of(subject).iter().map(|event| event["id"].clone()).collect();
        let told = ids.len();
        ids.sort_by_key(Value::to_string);
        ids.dedup();
        ensure!(ids.len() == told, "nothing is told twice: {ids:?}");
    }
    Ok(())
}

broker_test!(a_connection_cut_before_the_announcement_leaves_one_truth);
async fn a_connection_cut_before_the_announcement_leaves_one_truth(t: Context) -> Result<()> {
    cut_before_the_announcement(t, Kind::TransactionCancel).await
}

broker_test!(a_connection_cut_before_a_provisions_announcement_leaves_one_truth);
async fn a_connection_cut_before_a_provisions_announcement_leaves_one_truth(t: Context) -> Result<()> {
    cut_before_the_announcement(t, Kind::ApmProvisionCancel).await
}

broker_test!(a_confirm_that_comes_after_the_consuming_connection_is_lost_still_counts);
async fn a_confirm_that_comes_after_the_consuming_connection_is_lost_still_counts(t: Context) -> Result<()> {
    let stage = Stage::new(&t, UNHURRIED).await?;
    let road = Road::to(stage.url()).await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    let worker = Process::work_through(&stage, road.url())?;
    worker.stderr.event("generation_started").await?;
    road.silence(Which::Publish, Way::ToClient);
    stage.publish(&cancellation.intent).await?;
    cancellation.ended(&stage, 1).await?;

    road.cut(Which::Consume);
    worker.stderr.event("generation_ended").await?;
    road.speak_again(Which::Publish);

    // The letter comes again, and all about it is told: it is acked, and nothing else.
    road.delivered(2).await?;
    let has_begun_again =
        |line: &str| line.contains("generation_started") && line.contains(r#""generation":2"#);
    worker.stderr.wait_for("second generation", has_begun_again).await?;
    let ended = worker.stop_by("TERM").await?;
    ensure!(ended.code == Some(0), "it does not end with 0");
    nothing_is_left(&stage).await.with_context(|| ended.stderr.text())?;
    cancellation.is_told_truly(&stage, Copies::One)?;
    let told = stage.ledger.events_of(cancellation.subject()).len();
    ensure!(told == 1, "it is told {told} times");
    Ok(())
}

broker_test!(a_lost_ack_is_sent_again_and_nothing_is_told_twice);
async fn a_lost_ack_is_sent_again_and_nothing_is_told_twice(t: Context) -> Result<()> {
    cut_before_the_ack(t, Kind::TransactionCancel, Course::AtOnce, 1).await
}

broker_test!(a_lost_ack_of_a_provision_is_sent_again_and_nothing_is_called_twice);
async fn a_lost_ack_of_a_provision_is_sent_again_and_nothing_is_called_twice(t: Context) -> Result<()> {
    cut_before_the_ack(t, Kind::ApmProvisionCancel, Course::AtOnce, 1).await
}

broker_test!(a_lost_ack_of_a_letter_that_waits_to_call_does_not_double_it);
async fn a_lost_ack_of_a_letter_that_waits_to_call_does_not_double_it(t: Context) -> Result<()> {
    cut_before_the_ack(t, Kind::TransactionCancel, Course::AtOnce, 2).await
}

broker_test!(a_lost_ack_of_an_ordered_cancel_does_not_double_it);
async fn a_lost_ack_of_an_ordered_cancel_does_not_double_it(t: Context) -> Result<()> {
    cut_before_the_ack(t, Kind::AsyncCancel, Course::Later, 1).await
}

fn hang() -> Fault {
    Fault::new(FaultKind::Hang)
}

broker_test!(an_async_cancel_killed_before_its_announcement_ends_once);
async fn an_async_cancel_killed_before_its_announcement_ends_once(t: Context) -> Result<()> {
    killed_between_call_and_announce(t, Kind::AsyncCancel).await
}

broker_test!(a_transaction_cancel_killed_before_its_announcement_ends_once);
async fn a_transaction_cancel_killed_before_its_announcement_ends_once(t: Context) -> Result<()> {
    killed_between_call_and_announce(t, Kind::TransactionCancel).await
}

broker_test!(a_provision_cancel_killed_before_its_announcement_ends_once);
async fn a_provision_cancel_killed_before_its_announcement_ends_once(t: Context) -> Result<()> {
    killed_between_call_and_announce(t, Kind::ApmProvisionCancel).await
}

broker_test!(a_batch_killed_before_its_announcement_ends_once);
async fn a_batch_killed_before_its_announcement_ends_once(t: Context) -> Result<()> {
    killed_between_call_and_announce(t, Kind::BatchCancel).await
}

broker_test!(an_async_cancel_killed_before_its_ack_is_told_under_the_same_id);
async fn an_async_cancel_killed_before_its_ack_is_told_under_the_same_id(t: Context) -> Result<()> {
    killed_between_announce_and_ack(t, Kind::AsyncCancel).await
}

broker_test!(a_transaction_cancel_killed_before_its_ack_is_told_under_the_same_id);
async fn a_transaction_cancel_killed_before_its_ack_is_told_under_the_same_id(t: Context) -> Result<()> {
    killed_between_announce_and_ack(t, Kind::TransactionCancel).await
}

broker_test!(a_provision_cancel_killed_before_its_ack_is_told_under_the_same_id);
async fn a_provision_cancel_killed_before_its_ack_is_told_under_the_same_id(t: Context) -> Result<()> {
    killed_between_announce_and_ack(t, Kind::ApmProvisionCancel).await
}

broker_test!(a_batch_killed_before_its_ack_is_told_under_the_same_id);
async fn a_batch_killed_before_its_ack_is_told_under_the_same_id(t: Context) -> Result<()> {
    killed_between_announce_and_ack(t, Kind::BatchCancel).await
}

broker_test!(an_async_cancel_killed_during_a_call_without_effect_is_called_again);
async fn an_async_cancel_killed_during_a_call_without_effect_is_called_again(t: Context) -> Result<()> {
    killed_during_the_call(t, Kind::AsyncCancel, hang()).await
}

broker_test!(an_async_cancel_killed_during_a_call_with_effect_ends_once);
async fn an_async_cancel_killed_during_a_call_with_effect_ends_once(t: Context) -> Result<()> {
    killed_during_the_call(t, Kind::AsyncCancel, hang().after_effect()).await
}

broker_test!(a_transaction_cancel_killed_during_a_call_without_effect_is_called_again);
async fn a_transaction_cancel_killed_during_a_call_without_effect_is_called_again(t: Context) -> Result<()> {
    killed_during_the_call(t, Kind::TransactionCancel, hang()).await
}

broker_test!(a_transaction_cancel_killed_during_a_call_with_effect_ends_once);
async fn a_transaction_cancel_killed_during_a_call_with_effect_ends_once(t: Context) -> Result<()> {
    killed_during_the_call(t, Kind::TransactionCancel, hang().after_effect()).await
}

broker_test!(a_provision_cancel_killed_during_a_call_without_effect_is_called_again);
async fn a_provision_cancel_killed_during_a_call_without_effect_is_called_again(t: Context) -> Result<()> {
    killed_during_the_call(t, Kind::ApmProvisionCancel, hang()).await
}

broker_test!(a_provision_cancel_killed_during_a_call_with_effect_ends_once);
async fn a_provision_cancel_killed_during_a_call_with_effect_ends_once(t: Context) -> Result<()> {
    killed_during_the_call(t, Kind::ApmProvisionCancel, hang().after_effect()).await
}

broker_test!(a_batch_killed_during_a_call_without_effect_is_called_again);
async fn a_batch_killed_during_a_call_without_effect_is_called_again(t: Context) -> Result<()> {
    killed_during_the_call(t, Kind::BatchCancel, hang()).await
}

broker_test!(a_batch_killed_during_a_call_with_effect_ends_once);
async fn a_batch_killed_during_a_call_with_effect_ends_once(t: Context) -> Result<()> {
    killed_during_the_call(t, Kind::BatchCancel, hang().after_effect()).await
}

broker_test!(two_copies_of_an_async_cancel_that_waits_to_call_tell_one_truth);
async fn two_copies_of_an_async_cancel_that_waits_to_call_tell_one_truth(t: Context) -> Result<()> {
    killed_between_delay_and_ack(t, Kind::AsyncCancel, Course::AtOnce).await
}

broker_test!(two_copies_of_a_transaction_cancel_that_waits_to_call_tell_one_truth);
async fn two_copies_of_a_transaction_cancel_that_waits_to_call_tell_one_truth(t: Context) -> Result<()> {
    killed_between_delay_and_ack(t, Kind::TransactionCancel, Course::AtOnce).await
}

broker_test!(two_copies_of_a_provision_cancel_that_waits_to_call_tell_one_truth);
async fn two_copies_of_a_provision_cancel_that_waits_to_call_tell_one_truth(t: Context) -> Result<()> {
    killed_between_delay_and_ack(t, Kind::ApmProvisionCancel, Course::AtOnce).await
}

broker_test!(two_copies_of_an_ordered_async_cancel_tell_one_truth);
async fn two_copies_of_an_ordered_async_cancel_tell_one_truth(t: Context) -> Result<()> {
    killed_between_delay_and_ack(t, Kind::AsyncCancel, Course::Later).await
}

broker_test!(two_copies_of_an_ordered_batch_tell_one_truth);
async fn two_copies_of_an_ordered_batch_tell_one_truth(t: Context) -> Result<()> {
    killed_between_delay_and_ack(t, Kind::BatchCancel, Course::Later).await
}
