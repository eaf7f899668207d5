//! Drives the broker tests of `tests/it/amqp.rs` until the harness does: `AMQP_URL` names the broker.
#![allow(missing_docs)]
use std::future::Future;

#[path = "it/amqp.rs"]
mod amqp;

fn drive<F: Future<Output = anyhow::Result<()>>>(test: impl FnOnce(String, String) -> F) {
    let url = std::env::var("AMQP_URL").expect("AMQP_URL");
    let prefix = format!("t{}", uuid::Uuid::new_v4().simple());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("rt");
    if std::env::var("LOG").is_ok() {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(std::env::var("LOG").unwrap_or_default())
            .with_ansi(false)
            .try_init();
    }
    let started = std::time::Instant::now();
    let result = runtime.block_on(test(url, prefix));
    eprintln!("took {:?}", started.elapsed());
    result.expect("the promise holds");
}

macro_rules! tests {
    ($($name:ident)*) => { $( #[test] fn $name() { drive(|url, prefix| async move { amqp::$name(&url, &prefix).await }); } )* };
}

tests! {
    a_shared_channel_gives_confirms_to_the_wrong_message
    our_publisher_never_calls_confirmed_what_was_returned
    a_full_queue_refuses_exactly_what_it_did_not_take
    a_refused_announcement_interrupts_and_the_letter_comes_again
    an_ack_of_a_generation_that_is_gone_is_interrupted
    no_more_is_delivered_than_we_hold_permits_for
    the_topology_applies_twice_and_is_found_as_declared
    a_differing_argument_is_refused_by_name
    a_delayed_letter_comes_back_with_its_routing_key
    what_nobody_is_bound_to_is_kept
    dead_letters_are_work_and_view_and_the_rescue_has_what_the_broker_took
    nobody_but_the_broker_publishes_to_the_returns
    a_lost_connection_ends_the_generation_and_the_next_is_built
    a_consumer_cancelled_by_the_broker_ends_the_generation
    the_next_address_is_tried_when_one_does_not_answer
    a_worker_that_starts_without_a_broker_waits_for_it
    a_drain_settles_what_was_delivered_and_leaves_the_rest
}
