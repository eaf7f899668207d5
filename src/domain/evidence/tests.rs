//! What each answer of the query services shows (`paywall.md` §7), as the left column of `design.md` §4 names it.

use jiff::civil::{DateTime, date};
use uuid::Uuid;

use super::*;
use crate::domain::codes::{Matcher, Rule};
use crate::domain::fixtures::OURS;
use crate::domain::intent::Api;
use crate::domain::reply::Amount;

const SALE: i64 = 1;
const CANCEL: i64 = 2;
const REFUND: i64 = 3;

fn time(minute: i8) -> DateTime {
    date(2025, 6, 10).at(12, minute, 0, 0)
}

/// One activity: its number, type and status; the number says when it was, too.
fn act(id: u8, kind: i64, status: i64) -> Activity {
    Activity {
        id: Some(Uuid::from_u128(id.into())),
        kind: PhysicalType::from_code(kind),
        status: PhysicalStatus::from_code(status),
        date: Some(time(id as i8)),
    }
}

fn list(acts: &[(i64, i64)]) -> Read<Vec<Activity>> {
    Read::Found(acts.iter().zip(1u8..).map(|((kind, status), id)| act(id, *kind, *status)).collect())
}

/// The inquiry, showing the activity of this number.
fn inquiry(id: u8, kind: i64, status: i64) -> Read<PhysicalPayment> {
    Read::Found(PhysicalPayment {
        payment_request_id: Some(OURS),
        activity_id: Some(Uuid::from_u128(id.into())),
        merchant_unique_code: Some("shop-1".to_owned()),
        amount: Some(Amount { value: "8.00".to_owned(), currency: None }),
        kind: Some(PhysicalType::from_code(kind)),
        status: Some(PhysicalStatus::from_code(status)),
    })
}

/// The list, and an inquiry that shows its last activity.
fn whole(acts: &[(i64, i64)]) -> InquiryReply {
    let (kind, status) = *acts.last().unwrap();
    InquiryReply::Physical {
        activities: list(acts),
        inquiry: inquiry(u8::try_from(acts.len()).unwrap(), kind, status),
    }
}

fn refusal<T>(http_status: u16, client_message: Option<&str>, error_code: Option<i64>) -> Read<T> {
    Read::Refused(ReadRefusal { http_status, error_code, client_message: client_message.map(str::to_owned) })
}

fn no_such_request<T>() -> Read<T> {
    refusal(200, Some("Payment.Request.RequestNotFound"), None)
}

fn evidence(reply: &InquiryReply) -> Evidence {
    let kind = match reply {
        InquiryReply::Physical { .. } => Kind::AsyncCancel,
        InquiryReply::Transaction(_) => Kind::TransactionCancel,
        InquiryReply::Batch(_) => Kind::BatchCancel,
        InquiryReply::Apm(_) => Kind::ApmProvisionCancel,
    };
    match weigh(reply, kind, &Codes::default()) {
        Findings::Payment(evidence) => evidence,
        Findings::Items(items) => panic!("not of one payment: {items:?}"),
    }
}

#[track_caller]
fn check(reply: InquiryReply, expected: Shown) {
    assert_eq!(evidence(&reply).shown, expected, "{reply:?}");
}

#[track_caller]
fn check_physical(activities: Read<Vec<Activity>>, inquiry: Read<PhysicalPayment>, expected: Shown) {
    check(InquiryReply::Physical { activities, inquiry }, expected);
}

mod a_physical_payment {
    use super::*;

    /// What a cancel in this status shows when it is the latest.
    fn shown_by(status: i64) -> Shown {
        match status {
            4 => Shown::Cancelled,
            12 => Shown::Withdrawn,
            11 => Shown::ReceivedByDevice,
            1 | 2 | 9 | 10 => Shown::InProgress,
            5 => Shown::CancelFailed,
            3 | 7 | 8 => Shown::NotDelivered,
            _anything_else => Shown::Unknown,
        }
    }

    #[test]
    fn shows_its_cancel_in_every_status() {
        for status in 0..=14 {
            check(whole(&[(SALE, 4), (CANCEL, status)]), shown_by(status));
        }
    }

    #[test]
    fn shows_its_cancel_by_the_list_alone() {
        for status in 0..=14 {
            check_physical(list(&[(SALE, 4), (CANCEL, status)]), Read::Unanswered, shown_by(status));
        }
    }

    #[test]
    fn shows_by_the_inquiry_alone_what_happened_and_no_absence() {
        for status in 0..=14 {
            let absence = matches!(shown_by(status), Shown::CancelFailed | Shown::NotDelivered);
            let expected = if absence { Shown::Unanswered } else { shown_by(status) };
            check_physical(Read::Unanswered, inquiry(2, CANCEL, status), expected);
            check_physical(refusal(500, None, None), inquiry(2, CANCEL, status), expected);
        }
        for kind in [SALE, REFUND] {
            for status in 0..=14 {
                check_physical(Read::Unanswered, inquiry(1, kind, status), Shown::Unanswered);
            }
        }
    }

    #[test]
    fn is_cancelled_if_any_cancel_was_successful_wherever_it_stands() {
        for status in 0..=14 {
            check(whole(&[(SALE, 4), (CANCEL, 4), (CANCEL, status)]), Shown::Cancelled);
            check(whole(&[(SALE, 4), (CANCEL, 4), (REFUND, status)]), Shown::Cancelled);
            check(whole(&[(SALE, 4), (CANCEL, 4), (99, status)]), Shown::Cancelled);
        }
    }

    #[test]
    fn shows_its_latest_cancel_where_none_was_successful() {
        for older in [1, 2, 3, 5, 7, 8, 9, 10, 11, 12] {
            for latest in [1, 2, 3, 5, 7, 8, 9, 10, 11, 12] {
                let acts = [(SALE, 4), (CANCEL, older), (CANCEL, latest)];
                check(whole(&acts), shown_by(latest));
                check_physical(list(&acts), Read::Unanswered, shown_by(latest));
                // An inquiry that still shows the sale takes nothing from the list.
                check_physical(list(&acts), inquiry(1, SALE, 4), shown_by(latest));
            }
        }
    }

    #[test]
    fn shows_what_the_inquiry_says_of_an_activity_that_the_list_had_before() {
        check_physical(list(&[(SALE, 4), (CANCEL, 1)]), inquiry(2, CANCEL, 4), Shown::Cancelled);
        check_physical(list(&[(SALE, 4), (CANCEL, 1)]), inquiry(2, CANCEL, 12), Shown::Withdrawn);
        check_physical(list(&[(SALE, 4)]), inquiry(2, CANCEL, 1), Shown::InProgress);
        check_physical(list(&[(SALE, 4), (CANCEL, 6)]), inquiry(2, CANCEL, 11), Shown::ReceivedByDevice);
    }

    #[test]
    fn shows_the_cancel_of_the_list_that_is_newest_whatever_the_order_of_the_list() {
        let acts = vec![act(3, CANCEL, 12), act(1, SALE, 4), act(2, CANCEL, 3)];
        check_physical(Read::Found(acts), Read::Unanswered, Shown::Withdrawn);
    }

    #[test]
    fn shows_nothing_sure_when_no_date_tells_its_cancels_apart() {
        let undated = |status| Activity { date: None, ..act(2, CANCEL, status) };
        let same_time = |id, status| Activity { date: Some(time(5)), ..act(id, CANCEL, status) };
        let both = |one, two| Read::Found(vec![act(1, SALE, 4), one, two]);
        check_physical(both(undated(3), act(3, CANCEL, 12)), Read::Unanswered, Shown::Unknown);
        check_physical(both(same_time(2, 3), same_time(3, 12)), Read::Unanswered, Shown::Unknown);
        check_physical(both(undated(12), undated(12)), Read::Unanswered, Shown::Withdrawn);
        check_physical(both(same_time(2, 3), same_time(3, 3)), Read::Unanswered, Shown::NotDelivered);
    }

    #[test]
    fn shows_nothing_sure_beside_an_activity_that_might_be_a_cancel() {
        for kind in [0, 4, 5, 99] {
            for status in [1, 4, 12] {
                check(whole(&[(SALE, 4), (kind, status)]), Shown::Unknown);
                check(whole(&[(SALE, 4), (kind, status), (REFUND, 4)]), Shown::Unknown);
                for cancel in [1, 3, 5, 11, 12] {
                    check(whole(&[(SALE, 4), (kind, status), (CANCEL, cancel)]), Shown::Unknown);
                    check(whole(&[(SALE, 4), (CANCEL, cancel), (kind, status)]), Shown::Unknown);
                }
            }
        }
    }

    #[test]
    fn shows_nothing_sure_beside_a_cancel_that_might_be_done() {
        for unclear in [6, 13, 99] {
            for cancel in [1, 3, 5, 11, 12] {
                check(whole(&[(SALE, 4), (CANCEL, unclear), (CANCEL, cancel)]), Shown::Unknown);
            }
        }
    }

    #[test]
    fn without_a_cancel_is_refunded_by_a_successful_refund_only() {
        check(whole(&[(SALE, 4), (REFUND, 4)]), Shown::Refunded);
        check(whole(&[(REFUND, 4), (SALE, 4)]), Shown::Refunded);
        check_physical(list(&[(SALE, 4)]), inquiry(2, REFUND, 4), Shown::Refunded);
        for status in [1, 2, 3, 5, 6, 11, 12, 99] {
            check(whole(&[(SALE, 4), (REFUND, status)]), Shown::SaleStands);
        }
    }

    #[test]
    fn with_nothing_but_its_sale_stands_or_is_gone() {
        for status in 0..=14 {
            let expected = match status {
                4 => Shown::SaleStands,
                5 | 12 => Shown::SaleGone,
                _not_an_end => Shown::Unknown,
            };
            check(whole(&[(SALE, status)]), expected);
            check_physical(list(&[(SALE, status)]), Read::Unanswered, expected);
        }
        check_physical(list(&[(SALE, 1)]), inquiry(1, SALE, 12), Shown::SaleGone);
    }

    #[test]
    fn is_unknown_to_the_gateway_only_if_both_answers_say_so() {
        check_physical(no_such_request(), no_such_request(), Shown::NoSuchPayment);
        check_physical(list(&[]), no_such_request(), Shown::NoSuchPayment);
        check_physical(Read::Unanswered, no_such_request(), Shown::Unanswered);
        check_physical(refusal(500, None, None), no_such_request(), Shown::Unanswered);
        check_physical(no_such_request(), Read::Unanswered, Shown::Unanswered);
        check_physical(list(&[]), Read::Unanswered, Shown::Unanswered);
        check_physical(list(&[]), refusal(404, None, None), Shown::Unanswered);
        check_physical(list(&[(SALE, 4)]), no_such_request(), Shown::Contradictory);
    }

    #[test]
    fn that_is_there_has_activities_or_the_answers_contradict_each_other() {
        check_physical(list(&[]), inquiry(1, SALE, 4), Shown::Contradictory);
        check_physical(list(&[]), inquiry(2, CANCEL, 5), Shown::Contradictory);
        check_physical(list(&[]), inquiry(2, CANCEL, 4), Shown::Cancelled);
        check_physical(no_such_request(), inquiry(1, SALE, 4), Shown::Unanswered);
    }

    #[test]
    fn whose_inquiry_says_neither_type_nor_status_is_judged_by_the_list() {
        for (kind, status) in [(None, None), (Some(CANCEL), None), (None, Some(4))] {
            let Read::Found(found) = inquiry(2, SALE, 4) else { unreachable!() };
            let vague = Read::Found(PhysicalPayment {
                kind: kind.map(PhysicalType::from_code),
                status: status.map(PhysicalStatus::from_code),
                ..found
            });
            check_physical(list(&[(SALE, 4)]), vague.clone(), Shown::SaleStands);
            check_physical(Read::Unanswered, vague, Shown::Unanswered);
        }
    }

    #[test]
    fn that_nobody_answers_for_shows_nothing() {
        check_physical(Read::Unanswered, Read::Unanswered, Shown::Unanswered);
    }

    #[test]
    fn tells_the_activity_that_proves_it_and_what_the_inquiry_knows() {
        let found = evidence(&whole(&[(SALE, 4), (CANCEL, 4)]));
        assert_eq!(
            found.payment_status,
            Some(PaymentStatus::Physical(PhysicalType::Cancel, PhysicalStatus::Successful))
        );
        assert_eq!(
            found.learnt,
            Learnt {
                payment_request_activity_id: Some(Uuid::from_u128(2)),
                merchant_unique_code: Some("shop-1".to_owned()),
                amount: Some(Amount { value: "8.00".to_owned(), currency: None }),
                ..Learnt::default()
            }
        );
    }

    #[test]
    fn keeps_activities_without_a_number_apart() {
        let nameless = |status| Activity { id: None, ..act(2, CANCEL, status) };
        let Read::Found(found) = inquiry(2, CANCEL, 1) else { unreachable!() };
        let nameless_inquiry = Read::Found(PhysicalPayment { activity_id: None, ..found });
        let acts = Read::Found(vec![act(1, SALE, 4), nameless(4)]);
        check_physical(acts, nameless_inquiry, Shown::Cancelled);
    }
}

mod a_virtual_payment {
    use super::*;

    fn payment(kind: Option<i64>, status: Option<i64>) -> VposPayment {
        VposPayment {
            unique_code: Some("code".to_owned()),
            merchant_unique_code: Some("shop-1".to_owned()),
            amount: Some(Amount { value: "1".to_owned(), currency: None }),
            kind: kind.map(VposType::from_code),
            status: status.map(VposStatus::from_code),
            any_success_payment: Some(true),
            any_success_refund: Some(false),
            any_success_partial_refund: Some(false),
            any_success_cancel: Some(false),
        }
    }

    #[track_caller]
    fn check_vpos(payment: VposPayment, expected: Shown) {
        check(InquiryReply::Transaction(Read::Found(payment)), expected);
    }

    const RUNNING: [i64; 9] = [1, 2, 3, 6, 8, 9, 10, 11, 14];

    #[test]
    fn is_cancelled_by_the_flag_whatever_else_it_shows() {
        for kind in 0..=5 {
            for status in 0..=15 {
                let flagged =
                    VposPayment { any_success_cancel: Some(true), ..payment(Some(kind), Some(status)) };
                check_vpos(flagged, Shown::Cancelled);
            }
        }
    }

    #[test]
    fn shows_its_latest_activity_in_every_type_and_status() {
        for kind in 0..=5 {
            for status in 0..=15 {
                let expected = match (kind, status) {
                    (3, 4) | (_, 12) => Shown::Cancelled,
                    (3, status) if RUNNING.contains(&status) => Shown::InProgress,
                    (3, 5 | 7) => Shown::CancelFailed,
                    (1, _) | (2 | 4, 5 | 7) => Shown::SaleStands,
                    (2 | 4, 4) => Shown::Contradictory,
                    _anything_else => Shown::Unknown,
                };
                check_vpos(payment(Some(kind), Some(status)), expected);
            }
        }
    }

    #[test]
    fn whose_cancel_runs_is_followed_before_any_refund_is_told() {
        for status in RUNNING {
            let refunded = VposPayment { any_success_refund: Some(true), ..payment(Some(3), Some(status)) };
            check_vpos(refunded, Shown::InProgress);
        }
    }

    #[test]
    fn is_refunded_wholly_or_in_part_by_its_flags() {
        for (kind, status) in [(1, 4), (2, 4), (4, 4), (3, 5), (3, 7), (99, 99)] {
            let whole = payment(Some(kind), Some(status));
            let refunded = VposPayment { any_success_refund: Some(true), ..whole.clone() };
            let partially = VposPayment { any_success_partial_refund: Some(true), ..whole.clone() };
            let both = VposPayment { any_success_refund: Some(true), ..partially.clone() };
            check_vpos(refunded, Shown::Refunded);
            check_vpos(partially, Shown::PartiallyRefunded);
            check_vpos(both, Shown::Refunded);
        }
    }

    #[test]
    fn stands_only_if_it_says_so_and_nothing_is_left_out() {
        let whole = payment(Some(1), Some(4));
        check_vpos(whole.clone(), Shown::SaleStands);
        for any_success_payment in [Some(false), None] {
            check_vpos(VposPayment { any_success_payment, ..whole.clone() }, Shown::Unknown);
        }
        check_vpos(VposPayment { any_success_refund: None, ..whole.clone() }, Shown::Unknown);
        check_vpos(VposPayment { any_success_cancel: None, ..whole.clone() }, Shown::Unknown);
        check_vpos(VposPayment { kind: None, ..whole.clone() }, Shown::Unknown);
        check_vpos(VposPayment { kind: None, status: None, ..whole.clone() }, Shown::Unknown);
        check_vpos(VposPayment { any_success_partial_refund: None, ..whole }, Shown::SaleStands);
    }

    #[test]
    fn whose_cancel_failed_is_told_only_if_nothing_is_left_out() {
        let failed = payment(Some(3), Some(5));
        check_vpos(VposPayment { any_success_cancel: None, ..failed.clone() }, Shown::Unknown);
        check_vpos(VposPayment { any_success_payment: None, ..failed }, Shown::Unknown);
        check_vpos(payment(Some(3), None), Shown::Unknown);
    }

    #[test]
    fn is_unknown_to_the_gateway_if_the_envelope_says_so() {
        check(InquiryReply::Transaction(refusal(200, None, Some(404))), Shown::NoSuchPayment);
        check(InquiryReply::Transaction(refusal(404, None, Some(404))), Shown::NoSuchPayment);
    }

    #[test]
    fn that_was_not_shown_is_not_absent() {
        check(InquiryReply::Transaction(Read::Unanswered), Shown::Unanswered);
        for (http_status, error_code) in
            [(404, None), (200, Some(1)), (200, Some(400)), (500, None), (200, Some(359))]
        {
            check(InquiryReply::Transaction(refusal(http_status, None, error_code)), Shown::Unanswered);
        }
    }

    #[test]
    fn is_not_absent_under_a_status_that_speaks_of_our_keys_or_of_load() {
        for http_status in [401, 403, 408, 425, 429] {
            check(InquiryReply::Transaction(refusal(http_status, None, Some(404))), Shown::Unanswered);
        }
    }

    #[test]
    fn tells_its_type_and_status_and_identifiers() {
        let found = evidence(&InquiryReply::Transaction(Read::Found(payment(Some(3), Some(4)))));
        assert_eq!(
            found.payment_status,
            Some(PaymentStatus::VirtualPos(VposType::Cancel, VposStatus::Successful))
        );
        assert_eq!(
            found.learnt,
            Learnt {
                unique_code: Some("code".to_owned()),
                merchant_unique_code: Some("shop-1".to_owned()),
                amount: Some(Amount { value: "1".to_owned(), currency: None }),
                ..Learnt::default()
            }
        );
    }

    #[test]
    fn of_a_batch_is_weighed_by_itself() {
        let reply = InquiryReply::Batch(vec![
            (4, Read::Found(payment(Some(3), Some(4)))),
            (1, refusal(200, None, Some(404))),
            (2, Read::Unanswered),
        ]);
        let Findings::Items(items) = weigh(&reply, Kind::BatchCancel, &Codes::default()) else {
            panic!("a batch's look finds items");
        };
        let shown: Vec<(usize, Shown)> = items.into_iter().map(|(index, e)| (index, e.shown)).collect();
        assert_eq!(shown, [(4, Shown::Cancelled), (1, Shown::NoSuchPayment), (2, Shown::Unanswered)]);
    }

    #[test]
    fn is_absent_by_a_code_that_the_operator_declares() {
        let codes = Codes::new(vec![Rule {
            api: Api::Private,
            matcher: Matcher::Code(777),
            kind: Some(Kind::TransactionCancel),
            class: Class::RefusedByState(RejectedReason::NotFound),
        }]);
        let reply = InquiryReply::Transaction(refusal(200, None, Some(777)));
        let Findings::Payment(found) = weigh(&reply, Kind::TransactionCancel, &codes) else { panic!() };
        assert_eq!(found.shown, Shown::NoSuchPayment);
    }
}

mod a_provision {
    use super::*;

    fn payment(kind: Option<i64>, status: Option<i64>) -> InquiryReply {
        InquiryReply::Apm(Read::Found(ApmPayment {
            unique_code: Some("APM-1".to_owned()),
            merchant_unique_code: Some("shop-1".to_owned()),
            apm_transaction_id: Some(5),
            amount: Some(Amount { value: "2.50".to_owned(), currency: None }),
            kind: kind.map(ApmType::from_code),
            status: status.map(ApmStatus::from_code),
        }))
    }

    #[test]
    fn shows_nothing_of_a_cancel_but_a_refund_that_is_done() {
        for kind in 0..=4 {
            for status in 0..=15 {
                let expected = if (kind, status) == (2, 4) { Shown::Refunded } else { Shown::NotShown };
                check(payment(Some(kind), Some(status)), expected);
            }
        }
        check(payment(None, None), Shown::NotShown);
        check(payment(Some(2), None), Shown::NotShown);
    }

    #[test]
    fn is_unknown_to_the_gateway_if_the_envelope_says_so() {
        check(InquiryReply::Apm(refusal(200, None, Some(404))), Shown::NoSuchPayment);
        check(InquiryReply::Apm(refusal(404, None, None)), Shown::Unanswered);
        check(InquiryReply::Apm(Read::Unanswered), Shown::Unanswered);
    }

    #[test]
    fn tells_its_transaction() {
        let found = evidence(&payment(Some(2), Some(4)));
        assert_eq!(found.payment_status, Some(PaymentStatus::Apm(ApmType::Refund, ApmStatus::Successful)));
        assert_eq!(
            found.learnt,
            Learnt {
                unique_code: Some("APM-1".to_owned()),
                merchant_unique_code: Some("shop-1".to_owned()),
                apm_transaction_id: Some(5),
                amount: Some(Amount { value: "2.50".to_owned(), currency: None }),
                ..Learnt::default()
            }
        );
    }
}

#[test]
fn every_word_of_evidence_is_read_as_it_is_written() {
    for shown in Shown::ALL {
        assert_eq!(Shown::parse(shown.as_str()), Some(shown));
    }
    assert_eq!(Shown::parse("no such word"), None);
}
