//! Which one step comes next (`design.md` §5): a call, a look, or a decision that needs neither.

use jiff::civil::{Date, date};

use super::*;
use crate::domain::decide::{DeadReason, Decision, Then, decide_ruling};
use crate::domain::doubt::resumed;
use crate::domain::fixtures::{
    DAY, MIDNIGHT, OURS, about, at, batch, called, code, fresh, intent, items, moment, policy, redelivered,
    same_day_policy, settling, summary,
};
use crate::domain::history::{Item, LastReply};
use crate::domain::intent::MerchantName;

const NEXT: Date = date(2025, 6, 11);
const AGE_MAX: i64 = 6 * 3600;
const INQUIRY_AGE_MAX: i64 = 24 * 3600;

fn planned(intent: &CancelIntent, history: &History, policy: &Policy, seconds: i64) -> Planned {
    plan(intent, history, policy, at(seconds))
}

/// What is decided without the gateway.
#[track_caller]
fn decided(intent: &CancelIntent, history: &History, policy: &Policy, seconds: i64) -> Decision {
    match planned(intent, history, policy, seconds) {
        Planned { history, plan: Plan::Decide(ruling) } => {
            decide_ruling(intent, &history, ruling, moment(policy, at(seconds)))
        }
        Planned { plan: Plan::Call(_) | Plan::Inquire(_), .. } => panic!("{} is not decided", intent.kind()),
    }
}

/// A plan in one word, or a decision in summary.
#[track_caller]
fn check_by(
    policy: &Policy,
    intent: &CancelIntent,
    history: &History,
    seconds: i64,
    expected: &str,
) -> Planned {
    let planned = planned(intent, history, policy, seconds);
    let word = match &planned.plan {
        Plan::Call(_) => "call".to_owned(),
        Plan::Inquire(_) => "look".to_owned(),
        Plan::Decide(_) => summary(&decided(intent, history, policy, seconds), at(seconds)),
    };
    assert_eq!(word, expected, "{}", intent.kind());
    planned
}

#[track_caller]
fn check(intent: &CancelIntent, history: &History, seconds: i64, expected: &str) -> Planned {
    check_by(&policy(), intent, history, seconds, expected)
}

/// When an intent of this kind may be called: a rollback has its wait first.
fn ready(kind: Kind) -> i64 {
    if kind == Kind::SyncCancelRollback { 6 } else { 0 }
}

fn in_doubt_at_noon(intent: &CancelIntent) -> History {
    let items = fresh(intent).items.iter().map(|_| Item::Doubt).collect();
    History { doubt: Doubt::MayHaveHappened, items, ..settling(intent) }
}

mod a_fresh_letter {
    use super::*;

    #[test]
    fn is_called_at_once() {
        for kind in Kind::ALL {
            check(&intent(kind), &fresh(&intent(kind)), ready(kind), "call");
        }
    }

    #[test]
    fn is_called_for_exactly_what_it_wishes() {
        let orders = [
            (Kind::AsyncCancel, Order::AsyncCancel { payment_request_id: OURS }),
            (Kind::SyncCancelRollback, Order::SyncCancelRollback { payment_request_id: OURS }),
            (
                Kind::TransactionCancel,
                Order::TransactionCancel {
                    unique_code: OURS,
                    date: DAY,
                    delete_marketplace_records: Some(true),
                },
            ),
            (Kind::ApmProvisionCancel, Order::ApmProvisionCancel { unique_code: code("APM-1") }),
            (
                Kind::BatchCancel,
                Order::BatchCancel {
                    payments: vec![
                        (0, code("shop-0"), DAY),
                        (1, code("shop-1"), DAY),
                        (2, code("shop-2"), DAY),
                    ],
                },
            ),
        ];
        for (kind, order) in orders {
            let planned = check(&intent(kind), &fresh(&intent(kind)), ready(kind), "call");
            assert_eq!(order.kind(), kind);
            assert_eq!(planned.plan, Plan::Call(Call { merchant: MerchantName::default(), order }));
        }
    }

    #[test]
    fn of_an_unknown_merchant_is_given_up() {
        for kind in Kind::ALL {
            let stranger =
                CancelIntent { merchant: MerchantName::parse("stranger").unwrap(), ..intent(kind) };
            let decision = decided(&stranger, &fresh(&stranger), &policy(), ready(kind));
            let reason = DeadReason::GivenUp(GivenUpReason::UnknownMerchant);
            assert_eq!(decision.then, Then::DeadLetter(reason));
        }
    }

    #[test]
    fn from_more_than_five_minutes_in_our_future_is_given_up() {
        for kind in Kind::ALL {
            let early = History { first_seen: at(-301), ..fresh(&intent(kind)) };
            let decision = decided(&intent(kind), &early, &policy(), -301);
            let reason = DeadReason::GivenUp(GivenUpReason::RequestedInFuture);
            assert_eq!(decision.then, Then::DeadLetter(reason));
        }
        check(&intent(Kind::AsyncCancel), &fresh(&intent(Kind::AsyncCancel)), -300, "call");
    }

    #[test]
    fn from_our_future_is_given_up_however_often_it_was_tried() {
        let intent = intent(Kind::AsyncCancel);
        let early = History { first_seen: at(-301), ..called(&intent) };
        check(&intent, &early, -301, "given_up/requested_in_future; dead requested_in_future");
    }

    #[test]
    fn is_not_in_our_future_because_our_clock_was_set_back_since_it_was_first_seen() {
        for kind in Kind::ALL {
            let planned = planned(&intent(kind), &fresh(&intent(kind)), &policy(), -3_600);
            // A rollback is waited with: it is never called too early, whichever clock is right.
            let is_called = matches!(planned.plan, Plan::Call(_));
            assert_eq!(is_called, kind != Kind::SyncCancelRollback, "{kind}");
        }
    }
}

mod a_letter_that_is_not_due {
    use super::*;

    #[test]
    fn waits_again_and_that_is_no_attempt() {
        for kind in Kind::ALL {
            for history in [fresh(&intent(kind)), settling(&intent(kind))] {
                let early = History { due: Some(at(50)), ..history };
                let decision = decided(&intent(kind), &early, &policy(), 10);
                assert_eq!(decision.then, Then::Wait(Waiting::NotDue));
                assert_eq!(decision.history, early);
            }
        }
    }

    #[test]
    fn is_handled_from_the_moment_that_it_is_due() {
        let kind = Kind::AsyncCancel;
        let due = History { due: Some(at(10)), ..fresh(&intent(kind)) };
        let planned = check(&intent(kind), &due, 10, "call");
        assert_eq!(planned.history.due, None);
    }
}

mod a_rollback {
    use super::*;

    fn rollback(cancel_requested_at: Option<Timestamp>) -> CancelIntent {
        about(Target::SyncCancelRollback { payment_request_id: OURS, cancel_requested_at })
    }

    #[test]
    fn is_not_called_before_its_wait_is_over() {
        for (since, from) in [(None, 6), (Some(at(-4)), 2), (Some(at(-60)), -54)] {
            let rollback = rollback(since);
            check(&rollback, &fresh(&rollback), from - 1, "call: rollback_wait in 1s");
            let decision = decided(&rollback, &fresh(&rollback), &policy(), from - 1);
            assert_eq!(decision.history, History { due: Some(at(from)), ..fresh(&rollback) }, "no attempt");
            check(&rollback, &fresh(&rollback), from, "call");
        }
    }

    #[test]
    fn waits_before_every_call() {
        let rollback = rollback(None);
        check(&rollback, &called(&rollback), 5, "call: rollback_wait in 1s");
    }
}

mod the_budget_of_phase_call {
    use super::*;

    #[test]
    fn ends_by_age() {
        for kind in Kind::ALL {
            let history = called(&intent(kind));
            check(&intent(kind), &history, AGE_MAX - 1, "call");
            let decision = decided(&intent(kind), &history, &policy(), AGE_MAX);
            let expected = DeadReason::GivenUp(GivenUpReason::DeadlinePassed);
            assert_eq!(decision.then, Then::DeadLetter(expected));
        }
    }

    #[test]
    fn ends_by_calls() {
        for kind in Kind::ALL {
            let history = |attempts| History { attempts, ..called(&intent(kind)) };
            check(&intent(kind), &history(11), 100, "call");
            for attempts in [12, 13] {
                let decision = decided(&intent(kind), &history(attempts), &policy(), 100);
                let expected = DeadReason::GivenUp(GivenUpReason::AttemptsExhausted);
                assert_eq!(decision.then, Then::DeadLetter(expected));
            }
        }
    }

    #[test]
    fn tells_a_lock_out_as_the_obstacle() {
        let intent = intent(Kind::AsyncCancel);
        let last = LastReply { http_status: Some(403), ..LastReply::default() };
        let history = History { last, ..fresh(&intent) };
        check(&intent, &history, AGE_MAX, "given_up/locked_out; dead locked_out");
    }

    #[test]
    fn gives_up_what_is_to_be_called_and_follows_the_rest() {
        let intent = batch(&[DAY; 3]);
        let history =
            History { items: items("nda"), doubt: Doubt::MayHaveHappened, attempts: 12, ..called(&intent) };
        check(&intent, &history, 100, "0:given_up/attempts_exhausted; settle in doubt: to_ask in 1s [Gda]");
    }
}

mod doubt {
    use super::*;

    #[test]
    fn is_settled_before_anything_is_called() {
        for kind in [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel] {
            let history = History { doubt: Doubt::MayHaveHappened, asked: 9, ..called(&intent(kind)) };
            let planned = check(&intent(kind), &history, 100, "look");
            assert_eq!(planned.history.phase, Phase::Settle);
            assert_eq!((planned.history.settling_since, planned.history.asked), (Some(at(100)), 0));
        }
    }

    #[test]
    fn about_a_provision_is_settled_by_calling_after_the_quiet_time() {
        let intent = intent(Kind::ApmProvisionCancel);
        let history = in_doubt_at_noon(&intent);
        check(&intent, &history, 29, "settle in doubt: to_ask in 1s");
        let planned = check(&intent, &history, 30, "call");
        assert_eq!(planned.history.phase, Phase::Settle);
        check(&intent, &History { attempts: 11, ..history.clone() }, 30, "call");
        let spent = History { attempts: 12, ..history.clone() };
        check(&intent, &spent, 30, "unresolved/no_evidence; dead no_evidence");
        let stranger = CancelIntent { merchant: MerchantName::parse("stranger").unwrap(), ..intent };
        check(&stranger, &history, 30, "unresolved/no_evidence; dead no_evidence");
    }

    #[test]
    fn about_one_payment_of_a_batch_does_not_hold_up_the_others() {
        let intent = batch(&[DAY; 3]);
        let history = History { items: items("ndn"), doubt: Doubt::MayHaveHappened, ..called(&intent) };
        let planned = check(&intent, &history, 100, "call");
        assert_eq!(called_of(&planned), [0, 2]);
    }
}

fn called_of(planned: &Planned) -> Vec<usize> {
    let Plan::Call(Call { order: Order::BatchCancel { payments }, .. }) = &planned.plan else {
        panic!("no call of a batch: {planned:?}")
    };
    payments.iter().map(|(index, ..)| *index).collect()
}

fn asked_of(planned: &Planned) -> Vec<usize> {
    let Plan::Inquire(Inquiry { question: Question::Batch { payments }, .. }) = &planned.plan else {
        panic!("no look at a batch: {planned:?}")
    };
    payments.iter().map(|(index, _)| *index).collect()
}

mod a_look {
    use super::*;

    #[test]
    fn asks_what_its_kind_can_be_asked() {
        let questions = [
            (Kind::AsyncCancel, Question::Physical { payment_request_id: OURS }),
            (Kind::SyncCancelRollback, Question::Physical { payment_request_id: OURS }),
            (Kind::TransactionCancel, Question::Transaction { unique_code: OURS }),
            (Kind::ApmProvisionCancel, Question::Apm { merchant_unique_code: code("shop-1") }),
            (
                Kind::BatchCancel,
                Question::Batch {
                    payments: vec![(0, code("shop-0")), (1, code("shop-1")), (2, code("shop-2"))],
                },
            ),
        ];
        for (kind, question) in questions {
            let why = Some(Why::RefusedByState(RejectedReason::NotSuitable));
            let history = History { why, ..settling(&intent(kind)) };
            let planned = check(&intent(kind), &history, 100, "look");
            assert_eq!(question.api(), kind.inquiry_api());
            assert_eq!(planned.plan, Plan::Inquire(Inquiry { merchant: MerchantName::default(), question }));
        }
    }

    #[test]
    fn has_nothing_to_ask_about_a_refused_provision_without_a_merchant_code() {
        let target = Target::ApmProvisionCancel { unique_code: code("APM-1"), merchant_unique_code: None };
        let why = Some(Why::RefusedByState(RejectedReason::NotSuitable));
        let intent = about(target);
        let history = History { why, ..settling(&intent) };
        check(&intent, &history, 100, "unresolved/no_evidence; dead no_evidence");
    }

    #[test]
    fn is_made_until_the_budget_of_phase_settle_ends() {
        for kind in [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel] {
            for history in [settling(&intent(kind)), in_doubt_at_noon(&intent(kind))] {
                check(&intent(kind), &history, INQUIRY_AGE_MAX - 1, "look");
                check(&intent(kind), &history, INQUIRY_AGE_MAX, "unresolved/no_evidence; dead no_evidence");
            }
        }
    }

    #[test]
    fn is_made_as_often_as_the_configuration_lets_it() {
        let intent = intent(Kind::AsyncCancel);
        let policy = Policy { asks_max: Some(3), ..policy() };
        let history = |asked| History { asked, ..settling(&intent) };
        check_by(&policy, &intent, &history(2), 100, "look");
        check_by(&policy, &intent, &history(3), 100, "unresolved/no_evidence; dead no_evidence");
    }

    #[test]
    fn at_a_batch_counts_when_every_payment_had_its_turn() {
        let intent = batch(&[DAY; 41]);
        let policy = Policy { asks_max: Some(2), ..policy() };
        let history = |asked| History { asked, items: items(&"d".repeat(41)), ..in_doubt_at_noon(&intent) };
        // Three looks of twenty payments each make a round.
        let look = planned(&intent, &history(5), &policy, 100);
        assert!(matches!(look.plan, Plan::Inquire(_)), "{look:?}");
        let end = planned(&intent, &history(6), &policy, 100);
        assert!(matches!(end.plan, Plan::Decide(_)), "{end:?}");
    }

    #[test]
    fn has_its_budget_from_when_the_letter_was_first_seen_if_nothing_says_since_when() {
        let intent = intent(Kind::AsyncCancel);
        let history = History { settling_since: None, ..settling(&intent) };
        check(&intent, &history, INQUIRY_AGE_MAX - 1, "look");
        check(&intent, &history, INQUIRY_AGE_MAX, "unresolved/no_evidence; dead no_evidence");
    }

    #[test]
    fn at_a_batch_ends_in_every_open_payment_when_the_budget_ends() {
        let intent = batch(&[DAY; 4]);
        let history = History { items: items("adbC"), ..in_doubt_at_noon(&intent) };
        check(
            &intent,
            &history,
            INQUIRY_AGE_MAX,
            "0:unresolved/no_evidence + 1:unresolved/deadline_passed + 2:unresolved/no_evidence + \
             unresolved/deadline_passed; dead deadline_passed [UUUC]",
        );
    }

    #[test]
    fn at_a_batch_asks_for_its_open_payments_only() {
        let intent = batch(&[DAY; 8]);
        let history = History { items: items("ndabCJGU"), ..in_doubt_at_noon(&intent) };
        assert_eq!(asked_of(&check(&intent, &history, 100, "look")), [0, 1, 2, 3]);
    }

    #[test]
    fn at_a_batch_asks_for_twenty_at_most_and_begins_where_the_last_one_ended() {
        let intent = batch(&[DAY; 45]);
        let history = |asked| History { asked, ..in_doubt_at_noon(&intent) };
        let asked = |looks| asked_of(&check(&intent, &history(looks), 100, "look"));
        assert_eq!(asked(0), (0..20).collect::<Vec<_>>());
        assert_eq!(asked(1), (20..40).collect::<Vec<_>>());
        assert_eq!(asked(2), (40..45).chain(0..15).collect::<Vec<_>>());
    }

    #[test]
    fn at_a_batch_leaves_no_open_payment_out_of_a_round() {
        for len in [1, 19, 20, 21, 45, 60, 500] {
            let intent = batch(&vec![DAY; len]);
            for keep_every in [1, 2, 7] {
                let items: Vec<Item> = (0..len)
                    .map(|index| if index % keep_every == 0 { Item::Ordered } else { Item::Cancelled })
                    .collect();
                let looks = u32::try_from(len.div_ceil(20)).unwrap();
                for first in [0, 1, 5] {
                    let mut asked: Vec<usize> = (first..first + looks)
                        .flat_map(|asked| {
                            let history =
                                History { asked, items: items.clone(), ..in_doubt_at_noon(&intent) };
                            asked_of(&planned(&intent, &history, &policy(), 100))
                        })
                        .collect();
                    asked.sort_unstable();
                    asked.dedup();
                    let open: Vec<usize> = (0..len).step_by(keep_every).collect();
                    assert_eq!(asked, open, "{len} payments, every {keep_every}th open, from look {first}");
                }
            }
        }
    }
}

mod on_the_same_day {
    use super::*;

    fn transaction(requested_at: i64) -> CancelIntent {
        CancelIntent { requested_at: at(requested_at), ..intent(Kind::TransactionCancel) }
    }

    #[test]
    fn a_payment_is_called_until_its_day_ends() {
        let intent = transaction(0);
        let history = History { first_seen: at(MIDNIGHT - 60), ..fresh(&intent) };
        check_by(&same_day_policy(), &intent, &history, MIDNIGHT - 1, "call");
    }

    #[test]
    fn a_request_after_the_payments_day_is_rejected_without_a_call() {
        let late = transaction(MIDNIGHT);
        let expected = "rejected/same_day_window_closed; done";
        check_by(&same_day_policy(), &late, &fresh(&late), MIDNIGHT, expected);
        check_by(&same_day_policy(), &late, &called(&late), MIDNIGHT, expected);
        let in_time = transaction(MIDNIGHT - 1);
        let history = History { first_seen: at(MIDNIGHT - 60), ..fresh(&in_time) };
        check_by(&same_day_policy(), &in_time, &history, MIDNIGHT - 1, "call");
    }

    #[test]
    fn a_request_in_time_that_is_handled_too_late_is_asked_about() {
        let intent = transaction(0);
        let planned = check_by(&same_day_policy(), &intent, &fresh(&intent), MIDNIGHT, "look");
        assert_eq!(planned.history.phase, Phase::Settle);
        assert_eq!(planned.history.settling_since, Some(at(MIDNIGHT)));
        assert_eq!((planned.history.attempts, planned.history.doubt), (0, Doubt::None));
    }

    #[test]
    fn a_kind_that_the_rule_does_not_bind_is_called_whenever_it_comes() {
        let late = transaction(MIDNIGHT + 5);
        let history = History { first_seen: at(MIDNIGHT), ..fresh(&late) };
        check(&late, &history, MIDNIGHT + 5, "call");
        for kind in [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::ApmProvisionCancel] {
            let every = Policy { same_day: Kind::ALL.into(), ..policy() };
            let late = CancelIntent { requested_at: at(MIDNIGHT + 5), ..intent(kind) };
            let history = History { first_seen: at(MIDNIGHT), ..fresh(&late) };
            check_by(&every, &late, &history, MIDNIGHT + 20, "call");
        }
    }

    #[test]
    fn payments_of_a_batch_are_judged_one_by_one() {
        let yesterday = DAY.yesterday().unwrap();
        let some_late = batch(&[yesterday, DAY, yesterday]);
        check(
            &some_late,
            &fresh(&some_late),
            10,
            "0:rejected/same_day_window_closed + 2:rejected/same_day_window_closed; \
             call: to_call_again in 1s [JnJ]",
        );
        let all_late = batch(&[yesterday]);
        check(&all_late, &fresh(&all_late), 10, "0:rejected/same_day_window_closed + closed; done [J]");
    }

    #[test]
    fn payments_of_a_batch_whose_day_is_over_are_left_out_of_the_call() {
        let intent = batch(&[DAY, NEXT, DAY, NEXT]);
        let history = History { first_seen: at(MIDNIGHT), ..fresh(&intent) };
        let planned = check(&intent, &history, MIDNIGHT, "call");
        assert_eq!(called_of(&planned), [1, 3]);
        assert_eq!(same_day::callable(&intent, &history, &policy(), at(MIDNIGHT)), [1, 3]);
        assert_eq!(same_day::callable(&intent, &history, &policy(), at(MIDNIGHT - 1)), [0, 1, 2, 3]);
    }

    #[test]
    fn a_batch_of_which_nothing_may_be_called_any_more_is_asked_about() {
        let intent = batch(&[DAY, DAY]);
        let planned = check(&intent, &fresh(&intent), MIDNIGHT, "look");
        assert_eq!(asked_of(&planned), [0, 1]);
        assert_eq!(planned.history.phase, Phase::Settle);
    }

    #[test]
    fn what_is_not_callable_is_asked_about_rather_than_given_up_by_age() {
        let intent = transaction(0);
        let history = History { attempts: 12, ..called(&intent) };
        check_by(&same_day_policy(), &intent, &history, MIDNIGHT + 1, "look");
    }
}

mod a_redelivered_letter {
    use super::*;

    fn again(kind: Kind, history: &History, seconds: i64) -> History {
        redelivered(&intent(kind), history, &policy(), at(seconds))
    }

    #[test]
    fn of_phase_call_is_in_doubt_from_its_arrival_on() {
        for kind in Kind::ALL {
            let before = History {
                why: Some(Why::NotConfigured),
                due: Some(at(500)),
                asked: 4,
                settling_since: Some(at(-500)),
                ..called(&intent(kind))
            };
            let expected = History {
                phase: Phase::Settle,
                doubt: Doubt::MayHaveHappened,
                attempts: 2,
                called_at: Some(at(130)),
                settling_since: Some(at(100)),
                asked: 0,
                why: None,
                due: None,
                items: before.items.iter().map(|_| Item::Doubt).collect(),
                ..before.clone()
            };
            assert_eq!(again(kind, &before, 100), expected);
        }
    }

    #[test]
    fn of_phase_settle_is_what_it_was() {
        for kind in [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel, Kind::BatchCancel]
        {
            let before = in_doubt_at_noon(&intent(kind));
            assert_eq!(again(kind, &before, 100), before);
        }
        let refused = settling(&intent(Kind::ApmProvisionCancel));
        assert_eq!(again(Kind::ApmProvisionCancel, &refused, 100), refused);
    }

    #[test]
    fn about_a_provision_in_doubt_may_have_been_called_once_more() {
        let kind = Kind::ApmProvisionCancel;
        let before = History { asked: 3, ..in_doubt_at_noon(&intent(kind)) };
        let after = again(kind, &before, 100);
        assert_eq!((after.attempts, after.called_at), (2, Some(at(130))));
        assert_eq!((after.settling_since, after.asked), (Some(at(0)), 3), "its budget goes on");
    }

    #[test]
    fn about_a_provision_in_doubt_has_its_budget_from_now_if_nothing_says_since_when() {
        let kind = Kind::ApmProvisionCancel;
        let before = History { asked: 3, settling_since: None, ..in_doubt_at_noon(&intent(kind)) };
        let after = again(kind, &before, 100);
        assert_eq!((after.settling_since, after.asked), (Some(at(100)), 0));
    }

    #[test]
    fn about_a_batch_leaves_what_was_not_to_be_called_as_it_was() {
        let intent = batch(&[DAY; 6]);
        let before = History { items: items("ndabCG"), ..called(&intent) };
        assert_eq!(redelivered(&intent, &before, &policy(), at(100)).items, items("ddabCG"));
    }

    #[test]
    fn that_no_copy_can_have_called_is_what_it_was() {
        let late = CancelIntent { requested_at: at(MIDNIGHT), ..intent(Kind::TransactionCancel) };
        let after = redelivered(&late, &fresh(&late), &same_day_policy(), at(MIDNIGHT + 5));
        assert_eq!(after, fresh(&late));
        let in_time = CancelIntent { requested_at: at(MIDNIGHT - 1), ..late };
        let after = redelivered(&in_time, &fresh(&in_time), &same_day_policy(), at(MIDNIGHT + 5));
        assert_eq!(after.doubt, Doubt::MayHaveHappened);
    }

    #[test]
    fn about_a_batch_is_in_doubt_only_in_payments_that_a_copy_can_have_called() {
        let yesterday = DAY.yesterday().unwrap();
        let all_late = batch(&[yesterday, yesterday]);
        assert_eq!(redelivered(&all_late, &fresh(&all_late), &policy(), at(5)), fresh(&all_late));
        let mixed = batch(&[yesterday, DAY, yesterday]);
        let after = redelivered(&mixed, &fresh(&mixed), &policy(), at(5));
        assert_eq!((after.items.clone(), after.phase), (items("ndn"), Phase::Settle));
        check(
            &mixed,
            &after,
            5,
            "0:rejected/same_day_window_closed + 2:rejected/same_day_window_closed; \
             settle in doubt: to_ask in 1s [JdJ]",
        );
    }

    #[test]
    fn counts_no_further_than_a_count_can() {
        let before = History { attempts: u32::MAX, ..fresh(&intent(Kind::AsyncCancel)) };
        assert_eq!(again(Kind::AsyncCancel, &before, 100).attempts, u32::MAX);
    }
}

#[test]
fn a_letter_replayed_in_doubt_stays_in_doubt_whatever_its_day() {
    // Its attempts count since the replay; before it, under other rules perhaps, it may have been called.
    let late = CancelIntent { requested_at: at(MIDNIGHT + 1), ..intent(Kind::TransactionCancel) };
    let before = History {
        phase: Phase::Settle,
        doubt: Doubt::MayHaveHappened,
        settling_since: Some(at(0)),
        replays: 1,
        ..History::fresh(at(0), 0)
    };
    assert_eq!(resumed(&late, &before, &same_day_policy(), at(0)), before);
}
