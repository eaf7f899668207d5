//! The tests that need a RabbitMQ: one binary, one broker, a fresh prefix per test.
//!
//! A test is an async function that takes a [`support::Context`] and returns `anyhow::Result<()>`, or panics. It is run
//! when it stands in the list below. `cargo test --test it -- NAME` runs those whose name contains NAME.

mod amqp;
mod demo;
mod doors;
mod harness;
mod ledgers;
mod permissions;
mod stories;
mod support;
mod truth;

use std::process::ExitCode;

fn main() -> ExitCode {
    // As the binary does: the process has one TLS provider, chosen once.
    rustls::crypto::ring::default_provider().install_default().expect("nobody was here before");
    let mut tests = trials![
        demo::the_demo_exits_with_0_and_leaves_nothing_at_the_broker,
        harness::a_confirmed_letter_comes_back,
        harness::a_cleaned_up_test_leaves_nothing_behind,
        harness::a_broker_of_ours_can_be_asked_and_operated,
        doors::while_a_merchant_is_locked_out_one_letter_finds_out_and_no_attempt_is_burned,
        ledgers::an_event_that_a_full_ledger_refuses_is_announced_again_without_a_second_call,
        ledgers::a_ledger_that_is_full_for_one_kind_does_not_stop_the_others,
        permissions::the_least_permissions_of_a_worker_are_enough_and_one_less_is_told,
        stories::verdicts::what_the_gateway_says_is_done_is_told_at_once,
        stories::verdicts::an_order_that_is_taken_is_told_as_accepted_and_followed_to_its_end,
        stories::verdicts::a_refusal_is_final_and_is_not_asked_about,
        stories::verdicts::marketplace_records_are_deleted_only_where_the_intent_says_so,
        stories::verdicts::a_refusal_by_state_is_asked_about_and_not_called_again,
        stories::verdicts::a_gateway_that_is_busy_twice_gets_three_calls_and_tells_one_outcome,
        stories::verdicts::what_was_never_sent_is_called_again_and_burns_no_attempt,
        stories::verdicts::retry_after_is_honoured_within_our_bounds,
        stories::verdicts::a_gateway_that_stays_busy_is_given_up_on_when_the_attempts_are_spent,
        stories::verdicts::doubt_after_the_effect_ends_as_success_without_a_second_call,
        stories::verdicts::doubt_before_the_effect_ends_as_success_after_a_second_call,
        stories::verdicts::a_bank_that_is_still_at_it_when_we_stop_waiting_is_not_called_twice,
        stories::verdicts::a_provision_in_doubt_is_called_again_after_the_quiet_time,
        stories::verdicts::a_lock_out_burns_no_attempt_and_heals,
        stories::verdicts::a_lock_out_that_lasts_is_given_up_as_locked_out_with_no_attempt_made,
        stories::verdicts::what_is_not_configured_waits_long_and_is_given_up_when_nobody_mends_it,
        stories::verdicts::a_declared_code_goes_before_the_table,
        stories::verdicts::a_malformed_letter_is_dead_at_once_and_told_where_it_can_be_addressed,
        stories::physical::any_successful_cancel_is_told_as_cancelled,
        stories::physical::a_withdrawn_order_is_told_as_rolled_back_and_is_never_ordered_again,
        stories::physical::an_order_that_an_inquiry_finds_under_way_is_accepted_once_and_followed,
        stories::physical::an_ordered_cancel_that_fails_is_rejected_as_failed,
        stories::physical::an_order_that_never_reached_the_device_is_given_again_unless_it_was_refused,
        stories::physical::a_refunded_payment_is_rejected_as_already_refunded,
        stories::physical::a_standing_sale_is_called_again_after_doubt_and_rejected_after_a_refusal,
        stories::physical::a_standing_sale_after_an_accepted_order_is_in_progress_until_nobody_can_tell,
        stories::physical::a_sale_that_failed_or_was_withdrawn_is_rejected_as_not_suitable,
        stories::physical::an_unknown_payment_is_rejected_after_a_refusal_and_unresolved_after_doubt,
        stories::physical::an_inquiry_that_is_down_for_a_while_is_asked_again_and_the_truth_is_told,
        stories::physical::an_inquiry_that_is_down_for_ever_leaves_the_doubt_unresolved,
        stories::physical::answers_that_exclude_each_other_leave_the_doubt_unresolved,
        stories::physical::a_number_that_nobody_knows_leaves_the_doubt_unresolved,
        stories::physical::looks_can_be_limited_in_number,
        stories::physical::a_rollback_of_a_completed_cancel_is_rejected,
        stories::physical::a_withdrawn_order_is_told_as_rolled_back_whoever_withdrew_it,
        stories::physical::a_rollback_after_the_device_has_the_order_is_refused_after_exactly_one_call,
        stories::physical::a_rollback_within_the_window_is_refused_after_exactly_one_call,
        stories::physical::a_rollback_in_doubt_whose_order_still_waits_is_called_again,
        stories::physical::a_rollback_is_never_called_before_its_wait_is_over,
        stories::physical::a_rollback_with_no_live_cancel_is_rejected_as_nothing_to_withdraw,
        stories::physical::no_inquiry_is_made_where_the_reply_told_everything,
        stories::transaction::a_successful_cancel_is_told_as_cancelled_whoever_made_it,
        stories::transaction::a_refunded_transaction_is_rejected_with_the_kind_of_its_refund,
        stories::transaction::a_cancel_under_way_is_accepted_once_and_followed_to_its_end,
        stories::transaction::a_successful_payment_and_nothing_else_is_not_done,
        stories::transaction::one_more_look_buys_the_payment_status_of_a_success,
        stories::batch::a_batch_of_mixed_items_is_told_item_by_item_and_then_closed,
        stories::batch::a_batch_that_is_refused_as_a_whole_is_rejected_item_by_item_and_closed,
        stories::batch::a_batch_in_doubt_is_called_again_only_with_what_was_not_done,
        stories::batch::an_item_that_a_reply_leaves_out_is_called_again_alone_until_its_attempts_end,
        stories::batch::an_item_that_a_reply_named_is_never_called_again_and_ends_unresolved_without_an_end,
        stories::batch::an_item_whose_cancel_runs_already_is_followed_to_its_end,
        stories::batch::an_inquiry_that_is_down_for_a_while_holds_up_only_its_item,
        stories::batch::a_batch_longer_than_one_look_is_asked_about_in_turns,
        stories::apm::a_success_of_the_repeated_call_is_told_as_cancelled,
        stories::apm::a_refusal_of_the_repeated_call_may_be_the_echo_of_our_own_success,
        stories::apm::a_refusal_by_state_is_rejected_only_where_the_query_shows_a_refund,
        stories::apm::a_query_of_a_provision_that_tells_nothing_for_ever_leaves_it_unresolved,
        stories::time::what_was_requested_after_its_day_is_rejected_without_a_call,
        stories::time::what_is_handled_too_late_is_asked_about_and_not_called,
        stories::time::what_is_handled_too_late_and_cannot_be_asked_about_is_unresolved,
        stories::time::midnight_ends_what_was_not_done_and_nothing_that_was_ordered,
        stories::time::a_wish_from_the_future_is_given_up_without_a_call,
        stories::time::a_wish_for_a_merchant_without_keys_is_given_up_without_a_call,
        stories::time::each_merchant_is_called_with_its_own_keys,
        stories::time::what_can_never_be_sent_is_given_up_by_its_age,
        stories::time::what_the_broker_took_from_a_lane_is_unresolved_and_never_called,
        stories::time::where_the_same_day_rule_is_not_enforced_the_gateway_decides,
        stories::copies::a_second_copy_of_an_intent_tells_the_same_event,
        stories::copies::a_late_copy_of_an_ordered_cancel_orders_nothing_again,
        stories::copies::a_delivery_that_comes_again_is_asked_about_before_it_is_called,
        stories::copies::an_outcome_that_no_ledger_listens_to_is_kept,
        stories::copies::an_intent_with_an_unknown_routing_key_is_kept,
        truth::whatever_goes_wrong_nothing_untrue_is_told,
        truth::whatever_goes_wrong_across_midnight_nothing_untrue_is_told,
    ];
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
