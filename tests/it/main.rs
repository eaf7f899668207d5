//! The tests that need a RabbitMQ: one binary, one broker, a fresh prefix per test.
//!
//! A test is an async function that takes a [`support::Context`] and returns `anyhow::Result<()>`, or panics. It is run
//! when it stands in the list below. `cargo test --test it -- NAME` runs those whose name contains NAME.

mod amqp;
mod doors;
mod harness;
mod ledgers;
mod permissions;
mod process;
mod stories;
mod support;

use std::process::ExitCode;

fn main() -> ExitCode {
    // As the binary does: the process has one TLS provider, chosen once.
    rustls::crypto::ring::default_provider().install_default().expect("nobody was here before");
    let mut tests = trials![
        harness::a_confirmed_letter_comes_back,
        harness::a_cleaned_up_test_leaves_nothing_behind,
        harness::a_broker_of_ours_can_be_asked_and_operated,
        doors::while_a_merchant_is_locked_out_one_letter_finds_out_and_no_attempt_is_burned,
        ledgers::an_event_that_a_full_ledger_refuses_is_announced_again_without_a_second_call,
        ledgers::a_ledger_that_is_full_for_one_kind_does_not_stop_the_others,
        permissions::the_least_permissions_of_a_worker_are_enough_and_one_less_is_told,
        stories::an_async_cancel_that_succeeds_at_once_is_told_as_cancelled,
    ];
    tests.extend(trials![
        process::crashes::a_connection_cut_before_the_announcement_leaves_one_truth,
        process::crashes::a_connection_cut_before_a_provisions_announcement_leaves_one_truth,
        process::crashes::a_connection_cut_before_the_ack_tells_the_same_again,
        process::crashes::a_connection_cut_before_a_provisions_ack_tells_the_same_again,
        process::crashes::an_async_cancel_killed_before_its_announcement_ends_once,
        process::crashes::a_transaction_cancel_killed_before_its_announcement_ends_once,
        process::crashes::a_provision_cancel_killed_before_its_announcement_ends_once,
        process::crashes::a_batch_killed_before_its_announcement_ends_once,
        process::crashes::an_async_cancel_killed_before_its_ack_is_told_under_the_same_id,
        process::crashes::a_transaction_cancel_killed_before_its_ack_is_told_under_the_same_id,
        process::crashes::a_provision_cancel_killed_before_its_ack_is_told_under_the_same_id,
        process::crashes::a_batch_killed_before_its_ack_is_told_under_the_same_id,
        process::crashes::an_async_cancel_killed_during_a_call_without_effect_is_called_again,
        process::crashes::an_async_cancel_killed_during_a_call_with_effect_ends_once,
        process::crashes::a_transaction_cancel_killed_during_a_call_without_effect_is_called_again,
        process::crashes::a_transaction_cancel_killed_during_a_call_with_effect_ends_once,
        process::crashes::a_provision_cancel_killed_during_a_call_without_effect_is_called_again,
        process::crashes::a_provision_cancel_killed_during_a_call_with_effect_ends_once,
        process::crashes::a_batch_killed_during_a_call_without_effect_is_called_again,
        process::crashes::a_batch_killed_during_a_call_with_effect_ends_once,
        process::crashes::two_copies_of_an_async_cancel_that_waits_to_call_tell_one_truth,
        process::crashes::two_copies_of_a_transaction_cancel_that_waits_to_call_tell_one_truth,
        process::crashes::two_copies_of_a_provision_cancel_that_waits_to_call_tell_one_truth,
        process::crashes::two_copies_of_an_ordered_async_cancel_tell_one_truth,
        process::crashes::two_copies_of_an_ordered_batch_tell_one_truth,
        process::signals::sigterm_ends_an_idle_worker_and_says_so,
        process::signals::sigint_ends_an_idle_worker_and_says_so,
        process::signals::sigterm_during_a_call_lets_it_end_and_tells_the_outcome,
        process::signals::sigint_during_a_call_lets_it_end_and_tells_the_outcome,
        process::signals::a_call_longer_than_the_grace_period_is_given_back_and_ended_by_another,
        process::signals::a_worker_that_waits_for_a_broker_ends_with_0,
        process::signals::a_letter_whose_outcome_is_not_confirmed_in_time_is_given_back,
        process::signals::a_connection_lost_while_stopping_is_told_as_letters_given_back,
        process::commands::publish_takes_lines_from_standard_input_or_a_file_and_has_them_confirmed,
        process::commands::publish_says_that_nobody_has_declared_the_topology,
        process::commands::outcomes_ends_after_as_many_events_as_were_wanted,
        process::commands::outcomes_ends_with_0_on_a_signal,
        process::commands::what_is_missing_is_found_and_applied,
        process::commands::what_is_different_is_found_and_left_alone,
        process::secrets::nothing_secret_is_in_json_logs_or_messages,
        process::secrets::nothing_secret_is_in_text_logs_or_messages,
        process::secrets::a_broker_that_is_down_is_told_without_the_password,
        process::secrets::a_password_that_the_broker_refuses_is_told_without_it,
        process::telling::a_dead_lettered_letter_emits_its_event,
        process::telling::what_nobody_is_bound_to_is_alarmed_and_kept,
        process::telling::a_publishers_trace_in_a_long_string_goes_on,
        process::telling::a_publishers_trace_in_bytes_goes_on,
    ]);
    tests.extend(trials_at_url![
        amqp::a_shared_channel_gives_confirms_to_the_wrong_message,
        amqp::our_publisher_never_calls_confirmed_what_was_returned,
        amqp::a_full_queue_refuses_exactly_what_it_did_not_take,
        amqp::a_refused_announcement_interrupts_and_the_letter_comes_again,
        amqp::an_ack_of_a_generation_that_is_gone_is_interrupted,
        amqp::no_more_is_delivered_than_we_hold_permits_for,
        amqp::the_topology_applies_twice_and_is_found_as_declared,
        amqp::a_differing_argument_is_refused_by_name,
        amqp::a_delayed_letter_comes_back_with_its_routing_key,
        amqp::what_nobody_is_bound_to_is_kept,
        amqp::dead_letters_are_work_and_view_and_the_rescue_has_what_the_broker_took,
        amqp::nobody_but_the_broker_publishes_to_the_returns,
        amqp::a_lost_connection_ends_the_generation_and_the_next_is_built,
        amqp::a_consumer_cancelled_by_the_broker_ends_the_generation,
        amqp::the_next_address_is_tried_when_one_does_not_answer,
        amqp::tls_at_a_plain_port_is_told_as_such,
        amqp::a_worker_that_starts_without_a_broker_waits_for_it,
        amqp::a_drain_settles_what_was_delivered_and_leaves_the_rest,
    ]);
    support::run(tests)
}
