//! The right columns of `design.md` §3 and §4: what follows from a verdict or from evidence.

use super::*;
use crate::domain::classify::LockOutScope;
use crate::domain::fixtures::{
    DAY, MIDNIGHT, about, at, batch, called, code, fresh, intent, items, moment, only, policy,
    same_day_policy, settling, summary,
};
use crate::domain::intent::Target;
use crate::domain::paywall::{PhysicalStatus, PhysicalType, VposStatus, VposType};
use crate::domain::reply::RetryAfter;

use RejectedReason::{AlreadyRefunded, InvalidRequest, NotSuitable, RollbackWindow};

const ALONE: [Kind; 4] =
    [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel, Kind::ApmProvisionCancel];
const SETTLED_BY_LOOKS: [Kind; 3] = [Kind::AsyncCancel, Kind::SyncCancelRollback, Kind::TransactionCancel];

/// The codes of a reply that is none in particular.
fn some_reply() -> LastReply {
    LastReply { http_status: Some(200), error_code: Some(42), ..LastReply::default() }
}

fn evidence(shown: Shown) -> Evidence {
    Evidence { shown, payment_status: None, learnt: Learnt::default() }
}

fn after(intent: &CancelIntent, history: &History, verdict: Verdict, seconds: i64) -> Decision {
    let every: Vec<usize> = (0..history.items.len()).filter(|i| history.items[*i] == Item::ToCall).collect();
    decide_verdict(intent, history, &every, verdict, some_reply(), moment(&policy(), at(seconds)))
}

fn seeing(intent: &CancelIntent, history: &History, shown: Shown, seconds: i64) -> Decision {
    let findings = Findings::Payment(evidence(shown));
    decide_findings(intent, history, findings, at(seconds), moment(&policy(), at(seconds)))
}

/// What a verdict leads to, the call having ended 60 s after noon.
#[track_caller]
fn check_verdict(kind: Kind, history: &History, verdict: Verdict, expected: &str) -> Decision {
    let decision = after(&intent(kind), history, verdict.clone(), 60);
    assert_eq!(summary(&decision, at(60)), expected, "{kind} after {verdict:?}");
    decision
}

#[test]
fn a_letter_whose_step_has_spoken_to_the_gateway_is_no_suspect_any_more() {
    let intent = intent(Kind::TransactionCancel);
    let history = History { strikes: 2, ..fresh(&intent) };
    assert_eq!(after(&intent, &history, Verdict::NeverSent, 60).history.strikes, 0);
    assert_eq!(seeing(&intent, &history, Shown::Unanswered, 60).history.strikes, 0);
    let policy = policy();
    let moment = moment(&policy, at(60));
    assert_eq!(
        wait_untried(&history, at(61), Waiting::NoRoom, moment).history.strikes,
        2,
        "a wait proves nothing"
    );
}

mod a_first_call {
    use super::*;

    fn check(kind: Kind, verdict: Verdict, expected: &str) -> Decision {
        check_verdict(kind, &fresh(&intent(kind)), verdict, expected)
    }

    #[test]
    fn that_is_done_ends_the_story() {
        for (kind, expected) in [
            (Kind::AsyncCancel, "cancelled; done"),
            (Kind::SyncCancelRollback, "rolled_back; done"),
            (Kind::TransactionCancel, "cancelled; done"),
            (Kind::ApmProvisionCancel, "cancelled; done"),
        ] {
            check(kind, Verdict::Done(Facts::default()), expected);
        }
    }

    #[test]
    fn that_is_ordered_is_told_and_followed() {
        check(Kind::AsyncCancel, Verdict::Ordered(Facts::default()), "accepted; settle: to_ask in 1s");
    }

    #[test]
    fn that_is_refused_ends_the_story() {
        for kind in ALONE {
            check(kind, Verdict::Refused(InvalidRequest), "rejected/invalid_request; done");
        }
    }

    #[test]
    fn that_is_refused_by_state_is_asked_about() {
        for kind in ALONE {
            let decision = check(kind, Verdict::RefusedByState(NotSuitable), "settle: to_ask in 1s");
            assert_eq!(decision.history.why, Some(Why::RefusedByState(NotSuitable)));
        }
    }

    #[test]
    fn that_came_to_a_busy_gateway_is_made_again() {
        for kind in ALONE {
            check(kind, Verdict::Busy(None), "call: to_call_again in 1s");
        }
    }

    #[test]
    fn that_was_never_sent_is_made_again() {
        for kind in ALONE {
            // It has lasted a minute; it may last about as long again.
            check(kind, Verdict::NeverSent, "call: to_call_again in 30s");
        }
    }

    #[test]
    fn that_nobody_answered_is_settled_by_looks_and_of_a_provision_by_a_late_call() {
        for kind in SETTLED_BY_LOOKS {
            check(kind, Verdict::InDoubt, "settle in doubt: to_ask in 1s");
        }
        check(Kind::ApmProvisionCancel, Verdict::InDoubt, "settle in doubt: to_ask in 30s");
    }

    #[test]
    fn that_was_locked_out_waits() {
        for kind in ALONE {
            check(kind, Verdict::LockedOut(LockOutScope::Api), "call: locked_out in 30s");
        }
    }

    #[test]
    fn of_what_is_not_configured_waits_long() {
        for kind in ALONE {
            let decision = check(kind, Verdict::NotConfigured, "call: not_configured in 300s");
            assert_eq!(decision.history.why, Some(Why::NotConfigured));
        }
    }

    #[test]
    fn is_counted_and_remembered_if_it_may_have_reached_the_gateway() {
        let verdicts = [
            (Verdict::Done(Facts::default()), 1),
            (Verdict::Ordered(Facts::default()), 1),
            (Verdict::Refused(InvalidRequest), 1),
            (Verdict::RefusedByState(InvalidRequest), 1),
            (Verdict::Busy(None), 1),
            (Verdict::InDoubt, 1),
            (Verdict::NotConfigured, 1),
            (Verdict::LockedOut(LockOutScope::Api), 0),
            (Verdict::NeverSent, 0),
        ];
        for (verdict, attempts) in verdicts {
            let intent = intent(Kind::AsyncCancel);
            let history = after(&intent, &fresh(&intent), verdict.clone(), 60).history;
            assert_eq!(history.attempts, attempts, "{verdict:?}");
            assert_eq!(history.called_at, (attempts == 1).then(|| at(60)), "{verdict:?}");
            let answered = verdict != Verdict::NeverSent;
            assert_eq!(history.last == some_reply(), answered, "{verdict:?}");
        }
    }

    #[test]
    fn tells_what_its_reply_told() {
        let facts = Facts {
            payment_status: Some(PaymentStatus::Physical(PhysicalType::Cancel, PhysicalStatus::Created)),
            learnt: Learnt { apm_transaction_id: Some(5), ..Learnt::default() },
        };
        for verdict in [Verdict::Done(facts.clone()), Verdict::Ordered(facts.clone())] {
            let intent = intent(Kind::AsyncCancel);
            let decision = after(&intent, &fresh(&intent), verdict, 60);
            let (outcome, _) = only(&decision);
            assert_eq!(outcome.payment_status, facts.payment_status);
            assert_eq!(outcome.learnt, facts.learnt);
        }
    }
}

mod a_later_call {
    use super::*;

    fn tried(kind: Kind, attempts: u32) -> History {
        History { attempts, ..called(&intent(kind)) }
    }

    #[test]
    fn waits_longer_the_more_calls_came_before() {
        for (attempts, expected) in [(0, "1s"), (1, "1s"), (2, "2s"), (3, "5s"), (4, "10s"), (10, "900s")] {
            let expected = format!("call: to_call_again in {expected}");
            check_verdict(
                Kind::AsyncCancel,
                &tried(Kind::AsyncCancel, attempts),
                Verdict::Busy(None),
                &expected,
            );
        }
        for (attempts, expected) in [(0, "300s"), (1, "300s"), (2, "900s"), (10, "1800s")] {
            let expected = format!("call: not_configured in {expected}");
            check_verdict(
                Kind::AsyncCancel,
                &tried(Kind::AsyncCancel, attempts),
                Verdict::NotConfigured,
                &expected,
            );
        }
    }

    #[test]
    fn that_is_the_last_of_the_budget_is_given_up_when_nothing_happened() {
        for kind in ALONE {
            let history = tried(kind, 11);
            let busy = "given_up/attempts_exhausted; dead attempts_exhausted";
            check_verdict(kind, &history, Verdict::Busy(None), busy);
            let not_configured = "given_up/not_configured; dead not_configured";
            check_verdict(kind, &history, Verdict::NotConfigured, not_configured);
            // Neither of these burns an attempt.
            check_verdict(kind, &history, Verdict::NeverSent, "call: to_call_again in 30s");
            check_verdict(kind, &history, Verdict::LockedOut(LockOutScope::Api), "call: locked_out in 30s");
        }
        for kind in ALONE {
            let history = tried(kind, 10);
            check_verdict(kind, &history, Verdict::Busy(None), "call: to_call_again in 900s");
        }
    }

    #[test]
    fn that_is_the_last_of_the_budget_is_still_settled_when_it_is_in_doubt() {
        for kind in SETTLED_BY_LOOKS {
            check_verdict(kind, &tried(kind, 11), Verdict::InDoubt, "settle in doubt: to_ask in 1s");
            let refused = Verdict::RefusedByState(NotSuitable);
            check_verdict(kind, &tried(kind, 11), refused, "settle: to_ask in 1s");
        }
    }

    #[test]
    fn forgets_what_an_earlier_one_was_told() {
        let history = History { why: Some(Why::NotConfigured), ..tried(Kind::TransactionCancel, 1) };
        for verdict in [Verdict::Busy(None), Verdict::InDoubt] {
            let decision = after(&intent(Kind::TransactionCancel), &history, verdict, 60);
            assert_eq!(decision.history.why, None);
        }
        for verdict in [Verdict::NeverSent, Verdict::LockedOut(LockOutScope::Api)] {
            let decision = after(&intent(Kind::TransactionCancel), &history, verdict, 60);
            assert_eq!(decision.history.why, Some(Why::NotConfigured));
        }
    }

    #[test]
    fn honours_the_gateways_wish_within_our_bound() {
        let busy = |wish| Verdict::Busy(Some(wish));
        for (wish, expected) in [
            (RetryAfter::Seconds(0), "1s"),
            (RetryAfter::Seconds(7), "7s"),
            (RetryAfter::Seconds(900), "900s"),
            (RetryAfter::Seconds(901), "900s"),
            (RetryAfter::Seconds(u64::MAX), "900s"),
            (RetryAfter::At(at(0)), "1s"),
            (RetryAfter::At(at(100)), "40s"),
            (RetryAfter::At(at(100_000)), "900s"),
        ] {
            let expected = format!("call: to_call_again in {expected}");
            check_verdict(Kind::AsyncCancel, &fresh(&intent(Kind::AsyncCancel)), busy(wish), &expected);
        }
    }

    #[test]
    fn is_not_waited_for_beyond_the_age_at_which_the_letter_is_given_up() {
        let history = fresh(&intent(Kind::AsyncCancel));
        let age_max = 6 * 3600;
        for verdict in [Verdict::NotConfigured, Verdict::Busy(Some(RetryAfter::Seconds(500)))] {
            let decision = after(&intent(Kind::AsyncCancel), &history, verdict, age_max - 10);
            assert_eq!(decision.history.due, Some(at(age_max)));
        }
        for verdict in [
            Verdict::NotConfigured,
            Verdict::Busy(None),
            Verdict::NeverSent,
            Verdict::LockedOut(LockOutScope::Api),
        ] {
            let decision = after(&intent(Kind::AsyncCancel), &history, verdict, age_max + 10);
            assert_eq!(decision.history.due, Some(at(age_max + 10)), "not before now");
        }
    }
}

mod a_provision_in_doubt {
    use super::*;

    fn check(attempts: u32, verdict: Verdict, expected: &str) -> Decision {
        let history = History {
            doubt: Doubt::MayHaveHappened,
            attempts,
            ..settling(&intent(Kind::ApmProvisionCancel))
        };
        check_verdict(Kind::ApmProvisionCancel, &history, verdict, expected)
    }

    #[test]
    fn is_cancelled_by_a_success() {
        check(1, Verdict::Done(Facts::default()), "cancelled; done");
    }

    #[test]
    fn stays_in_doubt_by_any_refusal() {
        let expected = "unresolved/no_evidence; dead no_evidence";
        check(1, Verdict::RefusedByState(NotSuitable), expected);
        check(1, Verdict::Refused(InvalidRequest), expected);
    }

    #[test]
    fn is_called_again_in_time() {
        check(1, Verdict::InDoubt, "settle in doubt: to_ask in 30s");
        check(2, Verdict::Busy(None), "settle in doubt: to_call_again in 2s");
        check(1, Verdict::NeverSent, "settle in doubt: to_call_again in 30s");
        check(1, Verdict::LockedOut(LockOutScope::Api), "settle in doubt: locked_out in 30s");
        check(1, Verdict::NotConfigured, "settle in doubt: not_configured in 300s");
    }

    #[test]
    fn is_told_as_doubt_when_the_budget_is_spent() {
        let expected = "unresolved/no_evidence; dead no_evidence";
        check(11, Verdict::Busy(None), expected);
        check(11, Verdict::NotConfigured, expected);
    }

    #[test]
    fn keeps_the_time_at_which_it_began_to_be_settled() {
        let decision = check(1, Verdict::InDoubt, "settle in doubt: to_ask in 30s");
        assert_eq!(decision.history.settling_since, Some(at(0)));
    }
}

mod entering_phase_settle {
    use super::*;

    #[test]
    fn begins_a_budget_of_its_own() {
        let history =
            History { asked: 7, settling_since: Some(at(-500)), ..called(&intent(Kind::TransactionCancel)) };
        for verdict in
            [Verdict::InDoubt, Verdict::RefusedByState(NotSuitable), Verdict::Ordered(Facts::default())]
        {
            let decision = after(&intent(Kind::TransactionCancel), &history, verdict, 60);
            assert_eq!(decision.history.settling_since, Some(at(60)));
            assert_eq!(decision.history.asked, 0);
            assert_eq!(decision.history.phase, Phase::Settle);
        }
    }
}

/// What one cell of a table says, at a look that is too early for absences and at one that is not.
fn expected_of(cell: &str, accepted: bool, doubt: &str) -> (String, String) {
    let ask = format!("settle{doubt}: to_ask in 1s");
    match cell {
        "cancelled" => ("cancelled; done".to_owned(), "cancelled; done".to_owned()),
        "rolled_back" => ("rolled_back; done".to_owned(), "rolled_back; done".to_owned()),
        // Only after the quiet time, since it may stem from an order before ours.
        "rolled_back_late" => (ask, "rolled_back; done".to_owned()),
        "call_again" => (ask, "call: to_call_again in 1s".to_owned()),
        "in_progress" => {
            let told = if accepted { "" } else { "accepted; " };
            let line = format!("{told}settle: to_ask in 1s");
            (line.clone(), line)
        }
        "ask_again" => (ask.clone(), ask),
        "no_evidence" => {
            let line = "unresolved/no_evidence; dead no_evidence".to_owned();
            (line.clone(), line)
        }
        reason => {
            assert!(RejectedReason::parse(reason).is_some(), "{reason} is no reason");
            (ask, format!("rejected/{reason}; done"))
        }
    }
}

/// Every kind of evidence is a row, everything that can have been done before a column; `that` in a cell stands
/// for the refusal's own reason.
#[track_caller]
fn check_table(kind: Kind, table: &str) {
    let intent = intent(kind);
    let mut lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
    let columns: Vec<&str> = lines.next().unwrap().split_whitespace().skip(1).collect();
    let mut seen = Vec::new();
    for line in lines {
        let mut cells = line.split_whitespace();
        let shown = Shown::parse(cells.next().unwrap()).unwrap_or_else(|| panic!("{line}"));
        seen.push(shown);
        let cells: Vec<&str> = cells.collect();
        assert_eq!(cells.len(), columns.len(), "{line}");
        for (column, cell) in columns.iter().zip(cells) {
            let in_doubt = History { doubt: Doubt::MayHaveHappened, ..settling(&intent) };
            let why = Some(Why::RefusedByState(NotSuitable));
            let history = match *column {
                "not_called" => History { attempts: 0, called_at: None, ..settling(&intent) },
                "unanswered" => in_doubt,
                "busy" => settling(&intent),
                "refused" => History { why, ..settling(&intent) },
                "ordered" => History { announced: vec![StatusName::Accepted], ..settling(&intent) },
                "refused_and_ordered" => {
                    History { why, announced: vec![StatusName::Accepted], ..settling(&intent) }
                }
                other => panic!("no column {other}"),
            };
            let cell = if cell == "that" { "not_suitable" } else { cell };
            let doubt = if *column == "unanswered" { " in doubt" } else { "" };
            let (early, late) = expected_of(cell, column.ends_with("ordered"), doubt);
            // Where nothing was called, nothing can be under way, and no time is too early.
            let early = if *column == "not_called" { late.clone() } else { early };
            let message = format!("{kind}, {column} before, shown {}", shown.as_str());
            assert_eq!(summary(&seeing(&intent, &history, shown, 29), at(29)), early, "{message}, early");
            assert_eq!(summary(&seeing(&intent, &history, shown, 30), at(30)), late, "{message}, late");
        }
    }
    seen.sort_by_key(|shown| shown.as_str());
    seen.dedup();
    assert_eq!(seen.len(), 15, "a row for everything that can be shown");
}

#[test]
fn evidence_about_an_async_cancel_leads_where_the_table_says() {
    check_table(
        Kind::AsyncCancel,
        "
        shown               not_called        unanswered        busy              refused           ordered           refused_and_ordered
        cancelled           cancelled         cancelled         cancelled         cancelled         cancelled         cancelled
        withdrawn           rolled_back_late  rolled_back_late  rolled_back_late  rolled_back       rolled_back       rolled_back
        received_by_device  in_progress       in_progress       in_progress       in_progress       in_progress       in_progress
        in_progress         in_progress       in_progress       in_progress       in_progress       in_progress       in_progress
        cancel_failed       cancel_failed     cancel_failed     cancel_failed     cancel_failed     cancel_failed     cancel_failed
        not_delivered       call_again        call_again        call_again        that              call_again        that
        refunded            already_refunded  already_refunded  already_refunded  already_refunded  already_refunded  already_refunded
        partially_refunded  ask_again         ask_again         ask_again         ask_again         ask_again         ask_again
        sale_stands         call_again        call_again        call_again        that              in_progress       in_progress
        sale_gone           not_suitable      not_suitable      not_suitable      not_suitable      not_suitable      not_suitable
        no_such_payment     ask_again         ask_again         ask_again         not_found         ask_again         ask_again
        not_shown           ask_again         ask_again         ask_again         ask_again         ask_again         ask_again
        unanswered          ask_again         ask_again         ask_again         ask_again         ask_again         ask_again
        unknown             ask_again         ask_again         ask_again         ask_again         ask_again         ask_again
        contradictory       ask_again         ask_again         ask_again         ask_again         ask_again         ask_again
        ",
    );
}

#[test]
fn evidence_about_a_rollback_leads_where_the_table_says() {
    check_table(
        Kind::SyncCancelRollback,
        "
        shown               not_called           unanswered           busy                 refused
        cancelled           cancel_completed     cancel_completed     cancel_completed     cancel_completed
        withdrawn           rolled_back          rolled_back          rolled_back          rolled_back
        received_by_device  device_received      device_received      device_received      device_received
        in_progress         call_again           call_again           call_again           that
        cancel_failed       nothing_to_withdraw  nothing_to_withdraw  nothing_to_withdraw  nothing_to_withdraw
        not_delivered       nothing_to_withdraw  nothing_to_withdraw  nothing_to_withdraw  nothing_to_withdraw
        refunded            nothing_to_withdraw  nothing_to_withdraw  nothing_to_withdraw  nothing_to_withdraw
        partially_refunded  ask_again            ask_again            ask_again            ask_again
        sale_stands         nothing_to_withdraw  nothing_to_withdraw  nothing_to_withdraw  nothing_to_withdraw
        sale_gone           nothing_to_withdraw  nothing_to_withdraw  nothing_to_withdraw  nothing_to_withdraw
        no_such_payment     ask_again            ask_again            ask_again            not_found
        not_shown           ask_again            ask_again            ask_again            ask_again
        unanswered          ask_again            ask_again            ask_again            ask_again
        unknown             ask_again            ask_again            ask_again            ask_again
        contradictory       ask_again            ask_again            ask_again            ask_again
        ",
    );
}

#[test]
fn evidence_about_a_transaction_leads_where_the_table_says() {
    check_table(
        Kind::TransactionCancel,
        "
        shown               not_called          unanswered          busy                refused             ordered
        cancelled           cancelled           cancelled           cancelled           cancelled           cancelled
        withdrawn           ask_again           ask_again           ask_again           ask_again           ask_again
        received_by_device  ask_again           ask_again           ask_again           ask_again           ask_again
        in_progress         in_progress         in_progress         in_progress         in_progress         in_progress
        cancel_failed       call_again          call_again          call_again          that                cancel_failed
        not_delivered       ask_again           ask_again           ask_again           ask_again           ask_again
        refunded            already_refunded    already_refunded    already_refunded    already_refunded    already_refunded
        partially_refunded  partially_refunded  partially_refunded  partially_refunded  partially_refunded  partially_refunded
        sale_stands         call_again          call_again          call_again          that                in_progress
        sale_gone           ask_again           ask_again           ask_again           ask_again           ask_again
        no_such_payment     not_found           ask_again           ask_again           not_found           ask_again
        not_shown           ask_again           ask_again           ask_again           ask_again           ask_again
        unanswered          ask_again           ask_again           ask_again           ask_again           ask_again
        unknown             ask_again           ask_again           ask_again           ask_again           ask_again
        contradictory       ask_again           ask_again           ask_again           ask_again           ask_again
        ",
    );
}

#[test]
fn evidence_about_a_refused_provision_leads_where_the_table_says() {
    check_table(
        Kind::ApmProvisionCancel,
        "
        shown               refused
        cancelled           no_evidence
        withdrawn           no_evidence
        received_by_device  no_evidence
        in_progress         no_evidence
        cancel_failed       no_evidence
        not_delivered       no_evidence
        refunded            already_refunded
        partially_refunded  no_evidence
        sale_stands         no_evidence
        sale_gone           no_evidence
        no_such_payment     no_evidence
        not_shown           no_evidence
        unanswered          ask_again
        unknown             no_evidence
        contradictory       no_evidence
        ",
    );
}

mod a_look {
    use super::*;

    fn in_doubt(kind: Kind) -> History {
        History { doubt: Doubt::MayHaveHappened, ..settling(&intent(kind)) }
    }

    #[test]
    fn shows_no_absence_before_the_quiet_time_however_long_it_took() {
        let kind = Kind::TransactionCancel;
        let policy = policy();
        for ended in [29, 30, 31, 59] {
            let findings = Findings::Payment(evidence(Shown::SaleStands));
            let moment = moment(&policy, at(ended));
            let decision = decide_findings(&intent(kind), &in_doubt(kind), findings, at(29), moment);
            assert_eq!(summary(&decision, at(ended)), "settle in doubt: to_ask in 1s", "ended at {ended}");
        }
    }

    #[test]
    fn that_came_too_early_is_made_again_when_it_counts_but_not_later() {
        let kind = Kind::TransactionCancel;
        let history = History { asked: 5, ..in_doubt(kind) };
        // The schedule says 30 s.
        assert_eq!(summary(&seeing(&intent(kind), &history, Shown::SaleStands, 25), at(25)), {
            "settle in doubt: to_ask in 5s"
        });
        assert_eq!(summary(&seeing(&intent(kind), &history, Shown::Refunded, 25), at(25)), {
            "settle in doubt: to_ask in 5s"
        });
        let async_history = History { asked: 5, ..in_doubt(Kind::AsyncCancel) };
        let withdrawn = seeing(&intent(Kind::AsyncCancel), &async_history, Shown::Withdrawn, 25);
        assert_eq!(summary(&withdrawn, at(25)), "settle in doubt: to_ask in 5s");
        // What tells nothing is not hurried by it.
        assert_eq!(summary(&seeing(&intent(kind), &history, Shown::Unanswered, 25), at(25)), {
            "settle in doubt: to_ask in 30s"
        });
    }

    #[test]
    fn is_made_again_less_and_less_often() {
        let kind = Kind::TransactionCancel;
        for (asked, expected) in [(0, 1), (1, 2), (2, 2), (3, 5), (4, 10), (20, 1800)] {
            let history = History { asked, ..in_doubt(kind) };
            let decision = seeing(&intent(kind), &history, Shown::Unanswered, 3600);
            let expected = if asked == 1 { 1 } else { expected };
            assert_eq!(
                summary(&decision, at(3600)),
                format!("settle in doubt: to_ask in {expected}s"),
                "{asked}"
            );
            assert_eq!(decision.history.asked, asked + 1);
        }
    }

    #[test]
    fn is_not_waited_for_beyond_the_budget_nor_is_a_time_that_has_passed() {
        let kind = Kind::TransactionCancel;
        let history = History { asked: 20, ..in_doubt(kind) };
        let day = 24 * 3600;
        let decision = seeing(&intent(kind), &history, Shown::Unanswered, day - 10);
        assert_eq!(decision.history.due, Some(at(day)));
        let decision = seeing(&intent(kind), &history, Shown::Unanswered, day + 10);
        assert_eq!(decision.history.due, Some(at(day + 10)));
    }

    #[test]
    fn that_shows_not_done_ends_the_doubt_and_all_that_belongs_to_it() {
        let kind = Kind::TransactionCancel;
        let history = History { asked: 3, ..in_doubt(kind) };
        let history = seeing(&intent(kind), &history, Shown::SaleStands, 60).history;
        assert_eq!(history.doubt, Doubt::None);
        assert_eq!(history.phase, Phase::Call);
        assert_eq!((history.asked, history.settling_since, history.why), (0, None, None));
        assert_eq!(history.attempts, 1, "what was called stays counted");
    }

    #[test]
    fn that_shows_not_done_when_no_call_is_left_gives_up() {
        for kind in SETTLED_BY_LOOKS {
            let shown = if kind == Kind::SyncCancelRollback { Shown::InProgress } else { Shown::SaleStands };
            let spent = History { attempts: 12, ..in_doubt(kind) };
            assert_eq!(summary(&seeing(&intent(kind), &spent, shown, 60), at(60)), {
                "given_up/attempts_exhausted; dead attempts_exhausted"
            });
            let nearly = History { attempts: 11, ..in_doubt(kind) };
            assert_eq!(summary(&seeing(&intent(kind), &nearly, shown, 60), at(60)), {
                "call: to_call_again in 900s"
            });
        }
    }

    #[test]
    fn that_shows_an_order_ends_the_doubt() {
        let decision = seeing(&intent(Kind::AsyncCancel), &in_doubt(Kind::AsyncCancel), Shown::InProgress, 1);
        assert_eq!(decision.history.doubt, Doubt::None);
        assert_eq!(decision.history.announced, [StatusName::Accepted]);
    }

    #[test]
    fn that_shows_an_order_makes_it_ours_even_if_we_were_refused_because_of_it() {
        let kind = Kind::AsyncCancel;
        let refused = after(&intent(kind), &fresh(&intent(kind)), Verdict::RefusedByState(NotSuitable), 0);
        let followed = seeing(&intent(kind), &refused.history, Shown::InProgress, 1);
        assert_eq!(followed.history.why, None);
        // A copy's order that never reached the device: the copy orders again, and so do we.
        let undelivered = seeing(&intent(kind), &followed.history, Shown::NotDelivered, 60);
        assert_eq!(undelivered.then, Then::Wait(Waiting::ToCallAgain));
        // A refusal of that call is final again.
        let refused = after(&intent(kind), &undelivered.history, Verdict::RefusedByState(NotSuitable), 61);
        let ended = seeing(&intent(kind), &refused.history, Shown::NotDelivered, 120);
        assert_eq!(summary(&ended, at(120)), "rejected/not_suitable; done");
    }

    #[test]
    fn is_remembered_as_one_word() {
        let decision = seeing(&intent(Kind::AsyncCancel), &in_doubt(Kind::AsyncCancel), Shown::Unknown, 1);
        assert_eq!(decision.history.shown, Some(Shown::Unknown));
    }

    #[test]
    fn tells_what_it_was_told() {
        let found = Evidence {
            shown: Shown::Cancelled,
            payment_status: Some(PaymentStatus::VirtualPos(VposType::Cancel, VposStatus::Successful)),
            learnt: Learnt { unique_code: Some("code".to_owned()), ..Learnt::default() },
        };
        for shown in [Shown::Cancelled, Shown::Refunded, Shown::InProgress] {
            let found = Evidence { shown, ..found.clone() };
            let kind = Kind::TransactionCancel;
            let policy = policy();
            let decision = decide_findings(
                &intent(kind),
                &in_doubt(kind),
                Findings::Payment(found.clone()),
                at(60),
                moment(&policy, at(60)),
            );
            let (outcome, _) = only(&decision);
            assert_eq!((&outcome.payment_status, &outcome.learnt), (&found.payment_status, &found.learnt));
        }
    }
}

mod the_same_day_rule {
    use super::*;

    /// A transaction's evidence of not done, asked and answered this many seconds after its day.
    fn check(history: &History, shown: Shown, after_midnight: i64, expected: &str) {
        let policy = same_day_policy();
        let now = at(MIDNIGHT + after_midnight);
        let findings = Findings::Payment(evidence(shown));
        let decision =
            decide_findings(&intent(Kind::TransactionCancel), history, findings, now, moment(&policy, now));
        assert_eq!(summary(&decision, now), expected);
    }

    fn uncalled() -> History {
        History { attempts: 0, called_at: None, ..settling(&intent(Kind::TransactionCancel)) }
    }

    #[test]
    fn makes_not_done_an_end_once_no_copy_can_be_at_it_any_more() {
        for history in [uncalled(), settling(&intent(Kind::TransactionCancel))] {
            check(&history, Shown::SaleStands, 59, "settle: to_ask in 1s");
            check(&history, Shown::SaleStands, 60, "rejected/same_day_window_closed; done");
            check(&history, Shown::CancelFailed, 60, "rejected/same_day_window_closed; done");
        }
    }

    #[test]
    fn looks_again_when_it_counts_but_not_later() {
        let history = History { asked: 5, ..uncalled() };
        check(&history, Shown::SaleStands, 50, "settle: to_ask in 10s");
    }

    #[test]
    fn says_nothing_of_what_was_ordered() {
        let history = History { announced: vec![StatusName::Accepted], ..uncalled() };
        check(&history, Shown::SaleStands, 60, "settle: to_ask in 1s");
    }

    #[test]
    fn says_nothing_before_the_day_is_over() {
        let uncalled = History { first_seen: at(MIDNIGHT - 60), ..uncalled() };
        check(&uncalled, Shown::SaleStands, -1, "call: to_call_again in 1s");
        check(&uncalled, Shown::SaleStands, 0, "settle: to_ask in 1s");
    }

    #[test]
    fn counts_from_the_last_call_where_that_is_later() {
        let history =
            History { called_at: Some(at(MIDNIGHT + 40)), ..settling(&intent(Kind::TransactionCancel)) };
        check(&history, Shown::SaleStands, 69, "settle: to_ask in 1s");
        check(&history, Shown::SaleStands, 70, "rejected/same_day_window_closed; done");
    }

    #[test]
    fn changes_nothing_where_it_is_not_enforced() {
        let policy = policy();
        let now = at(MIDNIGHT + 60);
        let findings = Findings::Payment(evidence(Shown::SaleStands));
        let history = uncalled();
        let decision =
            decide_findings(&intent(Kind::TransactionCancel), &history, findings, now, moment(&policy, now));
        assert_eq!(decision.then, Then::Wait(Waiting::ToCallAgain));
    }
}

mod a_wait_that_is_no_try {
    use super::*;

    #[test]
    fn burns_neither_attempt_nor_look_and_keeps_the_strikes() {
        for before in [called(&intent(Kind::AsyncCancel)), settling(&intent(Kind::AsyncCancel))] {
            let before = History { attempts: 3, asked: 4, strikes: 2, ..before };
            let decision = wait_untried(&before, at(10), Waiting::EndpointDown, moment(&policy(), at(0)));
            assert_eq!(decision.then, Then::Wait(Waiting::EndpointDown));
            assert_eq!(decision.history, History { due: Some(at(10)), ..before });
        }
    }

    #[test]
    fn ends_with_the_letters_age() {
        let history = fresh(&intent(Kind::AsyncCancel));
        let ends = later(history.first_seen, policy().age_max);
        let decision = wait_untried(&history, Timestamp::MAX, Waiting::NoRoom, moment(&policy(), at(0)));
        assert_eq!(decision.history.due, Some(ends));
    }
}

mod a_spent_budget {
    use super::*;

    #[track_caller]
    fn check(history: &History, reason: GivenUpReason, expected: &str) {
        let policy = policy();
        let decision =
            spent(&intent(Kind::TransactionCancel), history.clone(), reason, moment(&policy, at(0)));
        assert_eq!(summary(&decision, at(0)), expected);
    }

    fn last(http_status: u16) -> History {
        let last = LastReply { http_status: Some(http_status), ..LastReply::default() };
        History { last, ..called(&intent(Kind::TransactionCancel)) }
    }

    #[test]
    fn names_what_stood_in_the_way() {
        for reason in [GivenUpReason::AttemptsExhausted, GivenUpReason::DeadlinePassed] {
            check(&last(401), reason, "given_up/locked_out; dead locked_out");
            let not_configured = History { why: Some(Why::NotConfigured), ..last(200) };
            check(&not_configured, reason, "given_up/not_configured; dead not_configured");
        }
        check(&last(503), GivenUpReason::DeadlinePassed, "given_up/deadline_passed; dead deadline_passed");
    }

    #[test]
    fn keeps_a_reason_that_has_nothing_to_do_with_the_gateway() {
        for reason in [GivenUpReason::UnknownMerchant, GivenUpReason::RequestedInFuture] {
            let name = reason.as_str();
            check(&last(401), reason, &format!("given_up/{name}; dead {name}"));
        }
    }

    #[test]
    fn with_doubt_is_told_as_doubt() {
        let history = History { doubt: Doubt::MayHaveHappened, ..last(503) };
        for reason in GivenUpReason::ALL {
            check(&history, *reason, "unresolved/no_evidence; dead no_evidence");
        }
    }

    #[track_caller]
    fn check_unresolved(kind: Kind, history: &History, seconds: i64, expected: &str) {
        let decision = unresolved(&intent(kind), history, moment(&same_day_policy(), at(seconds)));
        assert_eq!(summary(&decision, at(seconds)), format!("unresolved/{expected}; dead {expected}"));
    }

    #[test]
    fn of_looks_is_told_as_doubt_with_what_the_looks_showed() {
        for kind in ALONE {
            let history = settling(&intent(kind));
            check_unresolved(kind, &history, 0, "no_evidence");
            for (shown, expected) in [
                (Shown::Unanswered, "no_evidence"),
                (Shown::Unknown, "no_evidence"),
                (Shown::Contradictory, "contradicting_evidence"),
            ] {
                let history = History { shown: Some(shown), ..history.clone() };
                check_unresolved(kind, &history, 0, expected);
            }
        }
    }

    #[test]
    fn of_looks_without_a_call_says_that_it_was_too_late_to_call() {
        let uncalled = History { attempts: 0, ..settling(&intent(Kind::TransactionCancel)) };
        check_unresolved(Kind::TransactionCancel, &uncalled, MIDNIGHT, "deadline_passed");
        check_unresolved(Kind::TransactionCancel, &uncalled, MIDNIGHT - 1, "no_evidence");
        let called = settling(&intent(Kind::TransactionCancel));
        check_unresolved(Kind::TransactionCancel, &called, MIDNIGHT, "no_evidence");
        let contradictory = History { shown: Some(Shown::Contradictory), ..uncalled };
        check_unresolved(Kind::TransactionCancel, &contradictory, MIDNIGHT, "deadline_passed");
    }

    #[test]
    fn of_a_batch_without_a_call_says_so_too() {
        let one = intent(Kind::BatchCancel);
        let items = vec![Item::ToCall; one.items().len()];
        let history = History { attempts: 0, called_at: None, items, ..settling(&one) };
        let decision = unresolved(&intent(Kind::BatchCancel), &history, moment(&policy(), at(MIDNIGHT)));
        assert_eq!(decision.then, Then::DeadLetter(DeadReason::Unresolved(UnresolvedReason::DeadlinePassed)));
        let decision = unresolved(&intent(Kind::BatchCancel), &history, moment(&policy(), at(MIDNIGHT - 1)));
        assert_eq!(decision.then, Then::DeadLetter(DeadReason::Unresolved(UnresolvedReason::NoEvidence)));
    }
}

mod what_was_announced {
    use super::*;

    #[test]
    fn is_remembered_once() {
        let kind = Kind::AsyncCancel;
        let accepted = after(&intent(kind), &fresh(&intent(kind)), Verdict::Ordered(Facts::default()), 1);
        assert_eq!(accepted.history.announced, [StatusName::Accepted]);
        let again = seeing(&intent(kind), &accepted.history, Shown::InProgress, 2);
        assert_eq!(summary(&again, at(2)), "settle: to_ask in 1s");
        assert_eq!(again.history.announced, [StatusName::Accepted]);
        let ended = seeing(&intent(kind), &again.history, Shown::Cancelled, 3);
        assert_eq!(ended.history.announced, [StatusName::Accepted, StatusName::Cancelled]);
    }

    #[test]
    fn of_a_second_order_is_not_told_again() {
        let kind = Kind::AsyncCancel;
        let history = History { announced: vec![StatusName::Accepted], ..called(&intent(kind)) };
        let decision = after(&intent(kind), &history, Verdict::Ordered(Facts::default()), 60);
        assert_eq!(summary(&decision, at(60)), "settle: to_ask in 1s");
    }
}

mod a_batch {
    use super::*;

    fn history(text: &str) -> History {
        let intent = batch(&vec![DAY; text.len()]);
        let doubt = if text.contains('d') { Doubt::MayHaveHappened } else { Doubt::None };
        History { items: items(text), doubt, ..called(&intent) }
    }

    fn settling_batch(text: &str) -> History {
        History { phase: Phase::Settle, settling_since: Some(at(0)), ..history(text) }
    }

    fn refused(text: &str) -> History {
        History { why: Some(Why::RefusedByState(NotSuitable)), ..settling_batch(text) }
    }

    /// What the verdict of a call of all items `n` leads to.
    #[track_caller]
    fn check_call(history: &History, verdict: Verdict, expected: &str) -> Decision {
        let intent = batch(&vec![DAY; history.items.len()]);
        let decision = after(&intent, history, verdict, 60);
        assert_eq!(summary(&decision, at(60)), expected);
        decision
    }

    fn look(history: &History, found: &[(usize, Shown)], seconds: i64) -> Decision {
        look_at(&batch(&vec![DAY; history.items.len()]), history, found, seconds)
    }

    fn look_at(intent: &CancelIntent, history: &History, found: &[(usize, Shown)], seconds: i64) -> Decision {
        let found = found.iter().map(|(index, shown)| (*index, evidence(*shown))).collect();
        let policy = policy();
        let moment = moment(&policy, at(seconds));
        decide_findings(intent, history, Findings::Items(found), at(seconds), moment)
    }

    #[track_caller]
    fn check_look(history: &History, found: &[(usize, Shown)], seconds: i64, expected: &str) -> Decision {
        let decision = look(history, found, seconds);
        assert_eq!(summary(&decision, at(seconds)), expected);
        decision
    }

    fn receipt(text: &str) -> Verdict {
        Verdict::OrderedBatch(Facts::default(), items(text).into_iter().enumerate().collect())
    }

    mod that_is_called {
        use super::*;

        #[test]
        fn is_accepted_as_a_whole_and_followed_payment_by_payment() {
            check_call(&history("nnn"), receipt("aaa"), "accepted; settle: to_ask in 1s [aaa]");
            check_call(&history("nnn"), receipt("abd"), "accepted; settle in doubt: to_ask in 1s [abd]");
        }

        #[test]
        fn tells_what_the_receipt_told_and_what_is_open() {
            let learnt = Learnt { bulk_payment_id: Some(7), ..Learnt::default() };
            let facts = Facts { payment_status: None, learnt: learnt.clone() };
            let verdict = Verdict::OrderedBatch(facts, vec![(0, Item::Ordered), (2, Item::Doubt)]);
            let decision =
                check_call(&history("nJnbCG"), verdict, "accepted; settle in doubt: to_ask in 1s [aJdbCG]");
            let (outcome, _) = only(&decision);
            assert_eq!(outcome.learnt, learnt);
            assert_eq!(
                outcome.counts,
                [
                    (StatusName::Accepted, 3),
                    (StatusName::Cancelled, 1),
                    (StatusName::Rejected, 1),
                    (StatusName::GivenUp, 1),
                ]
            );
        }

        #[test]
        fn is_accepted_once() {
            let again = History { announced: vec![StatusName::Accepted], ..history("na") };
            check_call(&again, receipt("a"), "settle: to_ask in 1s [aa]");
        }

        #[test]
        fn and_not_answered_is_in_doubt_in_what_was_called() {
            for verdict in
                [Verdict::InDoubt, Verdict::Done(Facts::default()), Verdict::Ordered(Facts::default())]
            {
                check_call(&history("nJn"), verdict, "settle in doubt: to_ask in 1s [dJd]");
            }
        }

        #[test]
        fn and_refused_as_a_whole_is_rejected_payment_by_payment_and_closed() {
            let decision = check_call(
                &history("nCn"),
                Verdict::Refused(InvalidRequest),
                "0:rejected/invalid_request + 2:rejected/invalid_request + closed; done [JCJ]",
            );
            let whole = decision.outcomes.last().unwrap();
            assert_eq!(whole.counts, [(StatusName::Cancelled, 1), (StatusName::Rejected, 2)]);
        }

        #[test]
        fn and_refused_in_part_goes_on_with_the_rest() {
            check_call(
                &history("nad"),
                Verdict::Refused(InvalidRequest),
                "0:rejected/invalid_request; settle in doubt: to_ask in 1s [Jad]",
            );
        }

        #[test]
        fn and_refused_by_state_is_asked_about_and_not_called_again() {
            let decision =
                check_call(&history("nn"), Verdict::RefusedByState(NotSuitable), "settle: to_ask in 1s [nn]");
            assert_eq!(decision.history.why, Some(Why::RefusedByState(NotSuitable)));
        }

        #[test]
        fn and_surely_not_done_is_called_again() {
            check_call(&history("nn"), Verdict::Busy(None), "call: to_call_again in 1s [nn]");
            check_call(&history("nn"), Verdict::NeverSent, "call: to_call_again in 30s [nn]");
            check_call(&history("nn"), Verdict::LockedOut(LockOutScope::Api), "call: locked_out in 30s [nn]");
            check_call(&history("nn"), Verdict::NotConfigured, "call: not_configured in 300s [nn]");
        }

        #[test]
        fn for_the_last_time_gives_up_what_was_to_be_called() {
            let last = |text| History { attempts: 11, ..history(text) };
            check_call(
                &last("nn"),
                Verdict::Busy(None),
                "0:given_up/attempts_exhausted + 1:given_up/attempts_exhausted + given_up/attempts_exhausted; \
                 dead attempts_exhausted [GG]",
            );
            check_call(
                &last("nn"),
                Verdict::NotConfigured,
                "0:given_up/not_configured + 1:given_up/not_configured + given_up/not_configured; \
                 dead not_configured [GG]",
            );
            check_call(&last("n"), Verdict::NeverSent, "call: to_call_again in 30s [n]");
            check_call(
                &History { attempts: 10, ..history("n") },
                Verdict::Busy(None),
                "call: to_call_again in 900s [n]",
            );
        }

        #[test]
        fn for_the_last_time_follows_what_is_in_doubt_to_its_end() {
            let last = History { attempts: 11, ..history("nda") };
            let decision = check_call(
                &last,
                Verdict::Busy(None),
                "0:given_up/attempts_exhausted; settle in doubt: to_ask in 1s [Gda]",
            );
            assert_eq!(decision.history.settling_since, Some(at(60)));
        }
    }

    mod that_is_looked_at {
        use super::*;

        /// As [`check_table`], but for the one payment of a batch, by its character; `N` is one that was refused,
        /// and `n`, which is not called in this phase, one whose day was over before anything was called.
        #[test]
        fn leads_where_the_table_says() {
            let table = "
                n                   N                   d                   a                   b
                cancelled           cancelled           cancelled           cancelled           cancelled           cancelled
                withdrawn           ask_again           ask_again           ask_again           ask_again           ask_again
                received_by_device  ask_again           ask_again           ask_again           ask_again           ask_again
                in_progress         in_progress         in_progress         in_progress         in_progress         in_progress
                cancel_failed       same_day            that                call_again          cancel_failed       cancel_failed
                not_delivered       ask_again           ask_again           ask_again           ask_again           ask_again
                refunded            already_refunded    already_refunded    already_refunded    already_refunded    already_refunded
                partially_refunded  partially_refunded  partially_refunded  partially_refunded  partially_refunded  partially_refunded
                sale_stands         same_day            that                call_again          in_progress         in_progress
                sale_gone           ask_again           ask_again           ask_again           ask_again           ask_again
                no_such_payment     not_found           not_found           ask_again           ask_again           not_found
                not_shown           ask_again           ask_again           ask_again           ask_again           ask_again
                unanswered          ask_again           ask_again           ask_again           ask_again           ask_again
                unknown             ask_again           ask_again           ask_again           ask_again           ask_again
                contradictory       ask_again           ask_again           ask_again           ask_again           ask_again
            ";
            let mut lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
            let columns: Vec<char> = lines
                .next()
                .unwrap()
                .split_whitespace()
                .map(|column| column.chars().next().unwrap())
                .collect();
            let mut rows = 0;
            for line in lines {
                rows += 1;
                let mut cells = line.split_whitespace();
                let shown = Shown::parse(cells.next().unwrap()).unwrap();
                for (column, cell) in columns.iter().zip(cells) {
                    let history = match column {
                        'N' => refused("n"),
                        'n' => History { attempts: 0, called_at: None, ..settling_batch("n") },
                        item => settling_batch(&item.to_string()),
                    };
                    let item = column.to_ascii_lowercase();
                    let doubt = if item == 'd' { " in doubt" } else { "" };
                    let ask = format!("settle{doubt}: to_ask in 1s [{item}]");
                    let call = "call: to_call_again in 1s [n]".to_owned();
                    let cell = match cell {
                        "that" => "not_suitable",
                        "same_day" => "same_day_window_closed",
                        cell => cell,
                    };
                    let (early, late) = match cell {
                        "cancelled" => {
                            let line = "0:cancelled + closed; done [C]".to_owned();
                            (line.clone(), line)
                        }
                        "in_progress" => (format!("accepted; {ask}"), format!("accepted; {ask}")),
                        "ask_again" => (ask.clone(), ask),
                        "call_again" => (ask, call.clone()),
                        reason => (ask, format!("0:rejected/{reason} + closed; done [J]")),
                    };
                    let early = if *column == 'n' { late.clone() } else { early };
                    let message = format!("{column} shown {}", shown.as_str());
                    let day = if *column == 'n' { DAY.yesterday().unwrap() } else { DAY };
                    for (seconds, expected) in [(29, early), (30, late)] {
                        let decision = look_at(&batch(&[day]), &history, &[(0, shown)], seconds);
                        let told = summary(&decision, at(seconds));
                        assert_eq!(told, expected, "{message}, asked after {seconds} s");
                    }
                }
            }
            assert_eq!(rows, 15);
        }

        #[test]
        fn tells_each_payment_as_soon_as_it_is_decided() {
            check_look(
                &settling_batch("aaa"),
                &[(0, Shown::Cancelled), (1, Shown::SaleStands), (2, Shown::Refunded)],
                30,
                "0:cancelled + 2:rejected/already_refunded + accepted; settle: to_ask in 1s [CaJ]",
            );
        }

        #[test]
        fn is_closed_with_its_last_payment() {
            let decision = check_look(
                &History { announced: vec![StatusName::Accepted], ..settling_batch("CaJ") },
                &[(1, Shown::Cancelled)],
                30,
                "1:cancelled + closed; done [CCJ]",
            );
            let whole = decision.outcomes.last().unwrap();
            assert_eq!(whole.counts, [(StatusName::Cancelled, 2), (StatusName::Rejected, 1)]);
            assert_eq!(decision.history.announced, [StatusName::Accepted, StatusName::Closed]);
        }

        #[test]
        fn calls_again_exactly_the_payments_that_were_not_done() {
            let decision = check_look(
                &settling_batch("ddaC"),
                &[(0, Shown::SaleStands), (1, Shown::Unanswered)],
                30,
                "call in doubt: to_call_again in 1s [ndaC]",
            );
            assert_eq!((decision.history.asked, decision.history.settling_since), (0, None));
        }

        #[test]
        fn gives_up_what_was_not_done_when_no_call_is_left() {
            check_look(
                &History { attempts: 12, ..settling_batch("dd") },
                &[(0, Shown::SaleStands), (1, Shown::Cancelled)],
                30,
                "1:cancelled + 0:given_up/attempts_exhausted + given_up/attempts_exhausted; \
                 dead attempts_exhausted [GC]",
            );
            check_look(
                &History { attempts: 11, ..settling_batch("d") },
                &[(0, Shown::SaleStands)],
                30,
                "call: to_call_again in 900s [n]",
            );
        }

        #[test]
        fn does_not_take_a_payment_that_is_to_be_called_for_a_refused_one() {
            // The refused ones are told first; what is not done is called after them.
            check_look(
                &refused("nd"),
                &[(0, Shown::Unanswered), (1, Shown::SaleStands)],
                30,
                "settle in doubt: to_ask in 1s [nd]",
            );
            check_look(
                &refused("nd"),
                &[(0, Shown::SaleStands), (1, Shown::SaleStands)],
                30,
                "0:rejected/not_suitable; call: to_call_again in 1s [Jn]",
            );
            let decision = look(&refused("nd"), &[(0, Shown::SaleStands), (1, Shown::SaleStands)], 30);
            assert_eq!(decision.history.why, None);
        }

        #[test]
        fn leaves_decided_payments_and_strangers_alone() {
            check_look(
                &settling_batch("CJGUa"),
                &[
                    (0, Shown::Refunded),
                    (1, Shown::Cancelled),
                    (2, Shown::Cancelled),
                    (3, Shown::Cancelled),
                    (99, Shown::Cancelled),
                ],
                30,
                "settle: to_ask in 1s [CJGUa]",
            );
        }

        #[test]
        fn ends_unresolved_if_any_payment_is_else_given_up_if_any_is() {
            check_look(
                &settling_batch("UGa"),
                &[(2, Shown::Cancelled)],
                30,
                "2:cancelled + unresolved/no_evidence; dead no_evidence [UGC]",
            );
            check_look(
                &settling_batch("GaJ"),
                &[(1, Shown::Cancelled)],
                30,
                "1:cancelled + given_up/attempts_exhausted; dead attempts_exhausted [GCJ]",
            );
        }

        #[test]
        fn remembers_the_look_that_holds_it_up() {
            let decision = look(&settling_batch("aa"), &[(0, Shown::Unknown), (1, Shown::Cancelled)], 30);
            assert_eq!(decision.history.shown, Some(Shown::Unknown));
            let before = History { shown: Some(Shown::Contradictory), ..settling_batch("aa") };
            let decision = look(&before, &[(1, Shown::Cancelled)], 30);
            assert_eq!(decision.history.shown, Some(Shown::Contradictory));
        }

        #[test]
        fn is_looked_at_again_when_something_counts_but_not_later() {
            let history = History { asked: 6, ..settling_batch("dd") };
            let early = [(0, Shown::SaleStands), (1, Shown::Unanswered)];
            check_look(&history, &early, 20, "settle in doubt: to_ask in 10s [dd]");
            let nothing = [(0, Shown::Unanswered), (1, Shown::Unanswered)];
            check_look(&history, &nothing, 20, "settle in doubt: to_ask in 60s [dd]");
        }

        #[test]
        fn is_asked_for_a_whole_round_before_the_schedule_grows() {
            // 45 payments take three looks.
            let open = "a".repeat(45);
            for (asked, expected) in [(0, 1), (1, 1), (2, 1), (3, 1), (5, 1), (6, 1), (8, 2), (9, 1), (11, 5)]
            {
                let history =
                    History { asked, announced: vec![StatusName::Accepted], ..settling_batch(&open) };
                let decision = look(&history, &[], 3600);
                assert_eq!(decision.history.due, Some(at(3600 + expected)), "after {asked} looks");
            }
        }
    }

    mod on_the_payments_days {
        use super::*;
        use jiff::civil::{Date, date};

        const NEXT: Date = date(2025, 6, 11);

        fn look_at_two_days(history: &History, found: &[(usize, Shown)], after_midnight: i64) -> String {
            let intent = batch(&[DAY, NEXT]);
            let found = found.iter().map(|(index, shown)| (*index, evidence(*shown))).collect();
            let policy = policy();
            let now = at(MIDNIGHT + after_midnight);
            summary(
                &decide_findings(&intent, history, Findings::Items(found), now, moment(&policy, now)),
                now,
            )
        }

        #[test]
        fn a_late_payment_in_doubt_is_asked_about_on_and_the_other_is_called() {
            let found = [(0, Shown::SaleStands), (1, Shown::SaleStands)];
            let both = History { first_seen: at(MIDNIGHT), ..settling_batch("dd") };
            // A bulk queue may hold it over midnight: however late it is, the day ends nothing that may have been called.
            for seconds in [59, 60, 3_600] {
                let told = look_at_two_days(&both, &found, seconds);
                assert_eq!(told, "call in doubt: to_call_again in 1s [dn]", "{seconds} s after midnight");
            }
        }

        #[test]
        fn a_payment_that_was_left_out_of_a_refused_call_is_judged_by_the_day() {
            let call_after_midnight = History { called_at: Some(at(MIDNIGHT + 10)), ..refused("nn") };
            let told = look_at_two_days(&call_after_midnight, &[(0, Shown::SaleStands)], 60);
            assert_eq!(told, "0:rejected/same_day_window_closed; settle: to_ask in 1s [Jn]");
            let called_before = History { called_at: Some(at(MIDNIGHT - 10)), ..refused("nn") };
            let told = look_at_two_days(&called_before, &[(0, Shown::SaleStands)], 60);
            assert_eq!(told, "0:rejected/not_suitable; settle: to_ask in 1s [Jn]");
        }

        #[test]
        fn an_ordered_payment_is_followed_across_midnight() {
            let ordered = History { announced: vec![StatusName::Accepted], ..settling_batch("ab") };
            let found = [(0, Shown::SaleStands), (1, Shown::SaleStands)];
            assert_eq!(look_at_two_days(&ordered, &found, 3600), "settle: to_ask in 1s [ab]");
        }

        #[test]
        fn payments_that_are_too_late_do_not_make_a_call_of_the_rest() {
            let all_late = History { announced: vec![StatusName::Accepted], ..settling_batch("na") };
            assert_eq!(look_at_two_days(&all_late, &[(1, Shown::InProgress)], 10), {
                "settle: to_ask in 1s [na]"
            });
        }
    }

    #[test]
    fn that_nobody_can_help_ends_in_every_open_payment() {
        let reason = DeadReason::Unresolved(UnresolvedReason::Poison);
        let decision = give_up(&batch(&[DAY; 6]), &history("ndabCJ"), reason);
        assert_eq!(
            summary(&decision, at(0)),
            "0:unresolved/poison + 1:unresolved/poison + 2:unresolved/poison + 3:unresolved/poison + \
             unresolved/poison; dead poison [UUUUCJ]"
        );
        assert_eq!(
            decision.outcomes.last().unwrap().counts,
            [(StatusName::Cancelled, 1), (StatusName::Rejected, 1), (StatusName::Unresolved, 4),]
        );
    }

    #[test]
    fn that_a_rule_refuses_in_part_goes_on_with_the_rest_at_once() {
        let policy = policy();
        let refuse = |marks: &str, indices: &[usize]| {
            let ruling = Ruling::RefuseItems(indices.to_vec());
            decide_ruling(&intent(Kind::BatchCancel), &history(marks), ruling, moment(&policy, at(0)))
        };
        let decision = refuse("nnn", &[0, 2]);
        assert_eq!(
            summary(&decision, at(0)),
            "0:rejected/same_day_window_closed + 2:rejected/same_day_window_closed; \
             call: to_call_again in 1s [JnJ]"
        );
        let decision = refuse("nC", &[0]);
        assert_eq!(summary(&decision, at(0)), "0:rejected/same_day_window_closed + closed; done [JC]");
    }
}

#[test]
fn a_letter_that_nobody_can_help_is_dead_with_its_reason() {
    for kind in ALONE {
        for reason in UnresolvedReason::ALL {
            let decision = give_up(&intent(kind), &fresh(&intent(kind)), DeadReason::Unresolved(*reason));
            let name = reason.as_str();
            assert_eq!(summary(&decision, at(0)), format!("unresolved/{name}; dead {name}"));
            assert_eq!(DeadReason::Unresolved(*reason).message(), reason.message());
        }
        for reason in GivenUpReason::ALL {
            let decision = give_up(&intent(kind), &fresh(&intent(kind)), DeadReason::GivenUp(*reason));
            let name = reason.as_str();
            assert_eq!(summary(&decision, at(0)), format!("given_up/{name}; dead {name}"));
            assert_eq!(DeadReason::GivenUp(*reason).message(), reason.message());
        }
    }
}

#[test]
fn a_refused_provision_without_a_merchant_code_has_nothing_to_be_asked() {
    let target = Target::ApmProvisionCancel { unique_code: code("APM-1"), merchant_unique_code: None };
    let history = History { doubt: Doubt::MayHaveHappened, ..settling(&about(target.clone())) };
    let refused = after(&about(target), &history, Verdict::RefusedByState(AlreadyRefunded), 60);
    assert_eq!(summary(&refused, at(60)), "unresolved/no_evidence; dead no_evidence");
}

#[test]
fn a_refused_rollback_in_progress_is_rejected_with_the_reason_of_its_refusal() {
    let kind = Kind::SyncCancelRollback;
    for reason in [RollbackWindow, RejectedReason::RollbackRefused, RejectedReason::DeviceReceived] {
        let refused = after(&intent(kind), &fresh(&intent(kind)), Verdict::RefusedByState(reason), 0);
        let decision = seeing(&intent(kind), &refused.history, Shown::InProgress, 30);
        assert_eq!(summary(&decision, at(30)), format!("rejected/{}; done", reason.as_str()));
    }
}

#[test]
fn every_wait_has_a_word_of_its_own() {
    let words: std::collections::BTreeSet<&str> = [
        Waiting::NotDue,
        Waiting::RollbackWait,
        Waiting::ToCallAgain,
        Waiting::ToAsk,
        Waiting::LockedOut,
        Waiting::NotConfigured,
    ]
    .map(Waiting::as_str)
    .into();
    assert_eq!(words.len(), 6);
}
