//! The rows of `design.md` §3, each as a promise about one reply.

use super::*;
use crate::domain::codes::{Matcher, Rule};
use crate::domain::fault::{Fault, Reach};
use crate::domain::fixtures::{ANOTHER, DAY, OURS, code};
use crate::domain::intent::Api;
use crate::domain::reply::{Amount, NeverSent, PaymentResult, Provider};

use RejectedReason::{
    DeviceReceived, InvalidRequest, MarketplaceRecordsExist, NotFound, NotSuitable, RollbackWindow,
};
use Verdict::{Busy, Done, InDoubt, LockedOut, NotConfigured, Ordered, Refused, RefusedByState};

fn order(kind: Kind) -> Order {
    match kind {
        Kind::AsyncCancel => Order::AsyncCancel { payment_request_id: OURS },
        Kind::SyncCancelRollback => Order::SyncCancelRollback { payment_request_id: OURS },
        Kind::TransactionCancel => {
            Order::TransactionCancel { unique_code: OURS, date: DAY, delete_marketplace_records: None }
        }
        Kind::ApmProvisionCancel => Order::ApmProvisionCancel { unique_code: code("APM-1") },
        Kind::BatchCancel => Order::BatchCancel {
            payments: vec![(0, code("shop-0"), DAY), (2, code("shop-2"), DAY), (3, code("shop-3"), DAY)],
        },
    }
}

fn answered(http_status: u16, envelope: Envelope) -> Reply {
    Reply::Answered(Answer { http_status, retry_after: None, fault: None, envelope })
}

fn physical(envelope: PhysicalEnvelope) -> Reply {
    answered(200, Envelope::Physical(envelope))
}

fn payment(envelope: PaymentEnvelope) -> Reply {
    answered(200, Envelope::Payment(envelope))
}

fn physical_success(kind: PhysicalType, status: PhysicalStatus) -> PhysicalEnvelope {
    PhysicalEnvelope {
        succeeded: Some(true),
        failed: Some(false),
        result: Some(PhysicalResult {
            payment_request_id: Some(OURS),
            activity_id: Some(Uuid::from_u128(7)),
            activity_type: Some(kind),
            status: Some(status),
        }),
        ..PhysicalEnvelope::default()
    }
}

fn physical_failure(client_message: &str) -> PhysicalEnvelope {
    PhysicalEnvelope {
        succeeded: Some(false),
        failed: Some(true),
        client_message: Some(client_message.to_owned()),
        ..PhysicalEnvelope::default()
    }
}

fn success() -> PaymentEnvelope {
    PaymentEnvelope { error_code: Some(0), result: Some(true), ..PaymentEnvelope::default() }
}

fn failure(error_code: i64) -> PaymentEnvelope {
    PaymentEnvelope { error_code: Some(error_code), result: Some(false), ..PaymentEnvelope::default() }
}

fn with_body(body: PaymentBody) -> PaymentEnvelope {
    PaymentEnvelope { body: Some(body), ..success() }
}

fn receipt(results: &[(&str, Option<i64>)]) -> PaymentEnvelope {
    let result = |(code, status): &(&str, Option<i64>)| PaymentResult {
        merchant_unique_code: Some((*code).to_owned()),
        status: *status,
        bulk_payment_id: Some(77),
    };
    with_body(PaymentBody {
        result: Some(true),
        payment_results: Some(results.iter().map(result).collect()),
        ..PaymentBody::default()
    })
}

#[track_caller]
fn check(kind: Kind, reply: Reply, expected: Verdict) {
    check_with(&Codes::default(), kind, reply, expected);
}

#[track_caller]
fn check_with(codes: &Codes, kind: Kind, reply: Reply, expected: Verdict) {
    assert_eq!(classify(&order(kind), &reply, codes), expected, "{kind} answered by {reply:?}");
}

fn physical_facts(status: PhysicalStatus) -> Facts {
    Facts {
        payment_status: Some(PaymentStatus::Physical(PhysicalType::Cancel, status)),
        learnt: Learnt { payment_request_activity_id: Some(Uuid::from_u128(7)), ..Learnt::default() },
    }
}

const PHYSICAL: [Kind; 2] = [Kind::AsyncCancel, Kind::SyncCancelRollback];
const VIRTUAL: [Kind; 3] = [Kind::TransactionCancel, Kind::ApmProvisionCancel, Kind::BatchCancel];

/// A refusal that the table calls final, in the envelope of the kind's API.
fn known_refusal(kind: Kind, http_status: u16) -> Reply {
    match kind.api() {
        Api::Physical => {
            answered(http_status, Envelope::Physical(physical_failure("System.ValidationError")))
        }
        Api::Private | Api::Payment => answered(http_status, Envelope::Payment(failure(400))),
    }
}

/// A clean success of the kind, under another HTTP status.
fn clean_success(kind: Kind, http_status: u16) -> Reply {
    match kind {
        Kind::AsyncCancel => answered(
            http_status,
            Envelope::Physical(physical_success(PhysicalType::Cancel, PhysicalStatus::Successful)),
        ),
        Kind::SyncCancelRollback => answered(
            http_status,
            Envelope::Physical(physical_success(PhysicalType::Cancel, PhysicalStatus::Withdrawn)),
        ),
        Kind::TransactionCancel | Kind::ApmProvisionCancel => {
            answered(http_status, Envelope::Payment(success()))
        }
        Kind::BatchCancel => answered(http_status, Envelope::Payment(receipt(&[("shop-0", Some(1))]))),
    }
}

mod a_physical_success {
    use super::*;

    fn expected(kind: Kind, activity: PhysicalType, status: PhysicalStatus) -> Verdict {
        let facts = physical_facts(status);
        match (kind, activity.code(), status.code()) {
            (Kind::AsyncCancel, 2, 4) | (Kind::SyncCancelRollback, 2, 12) => Done(facts),
            (Kind::AsyncCancel, 2, 1 | 2 | 9 | 10 | 11) => Ordered(facts),
            _anything_else => InDoubt,
        }
    }

    #[test]
    fn is_read_by_its_type_and_status_and_what_is_not_listed_is_doubt() {
        let types = PhysicalType::LISTED.iter().copied().chain([0, 5, 99].map(PhysicalType::from_code));
        for activity in types {
            let statuses =
                PhysicalStatus::LISTED.iter().copied().chain([0, 13, 99].map(PhysicalStatus::from_code));
            for status in statuses {
                for kind in PHYSICAL {
                    check(
                        kind,
                        physical(physical_success(activity, status)),
                        expected(kind, activity, status),
                    );
                }
            }
        }
    }

    #[test]
    fn of_a_cancel_that_is_successful_is_done() {
        check(Kind::AsyncCancel, clean_success(Kind::AsyncCancel, 200), {
            Done(physical_facts(PhysicalStatus::Successful))
        });
    }

    #[test]
    fn of_a_rollback_that_says_successful_instead_of_withdrawn_is_doubt() {
        let says_four = physical_success(PhysicalType::Cancel, PhysicalStatus::Successful);
        check(Kind::SyncCancelRollback, physical(says_four), InDoubt);
    }

    #[test]
    fn that_names_another_payment_or_none_is_doubt() {
        for kind in PHYSICAL {
            for named in [Some(ANOTHER), None] {
                let Reply::Answered(mut answer) = clean_success(kind, 200) else { unreachable!() };
                let Envelope::Physical(envelope) = &mut answer.envelope else { unreachable!() };
                envelope.result.as_mut().unwrap().payment_request_id = named;
                check(kind, Reply::Answered(answer), InDoubt);
            }
        }
    }

    #[test]
    fn without_a_result_or_with_half_of_one_is_doubt() {
        for kind in PHYSICAL {
            let whole = physical_success(PhysicalType::Cancel, PhysicalStatus::Successful);
            let result = whole.result.clone().unwrap();
            let halves = [
                None,
                Some(PhysicalResult { activity_type: None, ..result.clone() }),
                Some(PhysicalResult { status: None, ..result }),
            ];
            for result in halves {
                check(kind, physical(PhysicalEnvelope { result, ..whole.clone() }), InDoubt);
            }
        }
    }

    #[test]
    fn with_a_code_of_a_failure_beside_it_is_doubt() {
        let whole = physical_success(PhysicalType::Cancel, PhysicalStatus::Successful);
        let coded = PhysicalEnvelope { error_code: Some(400), ..whole.clone() };
        let worded = PhysicalEnvelope { client_message: Some("System.ValidationError".to_owned()), ..whole };
        check(Kind::AsyncCancel, physical(coded), InDoubt);
        check(Kind::AsyncCancel, physical(worded), InDoubt);
    }

    #[test]
    fn may_carry_the_code_zero() {
        let whole = physical_success(PhysicalType::Cancel, PhysicalStatus::Successful);
        let zero = PhysicalEnvelope { error_code: Some(0), ..whole };
        check(Kind::AsyncCancel, physical(zero), Done(physical_facts(PhysicalStatus::Successful)));
    }

    #[test]
    fn needs_succeeded_and_no_failed() {
        let flags = [
            (Some(true), None, Done(physical_facts(PhysicalStatus::Successful))),
            (Some(true), Some(true), InDoubt),
            (Some(false), Some(false), InDoubt),
            (Some(false), None, InDoubt),
            (None, Some(false), InDoubt),
            (None, Some(true), InDoubt),
            (None, None, InDoubt),
        ];
        for (succeeded, failed, expected) in flags {
            let whole = physical_success(PhysicalType::Cancel, PhysicalStatus::Successful);
            check(Kind::AsyncCancel, physical(PhysicalEnvelope { succeeded, failed, ..whole }), expected);
        }
    }
}

mod a_physical_failure {
    use super::*;

    #[test]
    fn decides_by_its_word_whichever_flag_says_that_it_is_one() {
        for (succeeded, failed) in
            [(Some(false), Some(true)), (Some(false), None), (None, Some(true)), (None, None)]
        {
            let envelope =
                PhysicalEnvelope { succeeded, failed, ..physical_failure("System.ValidationError") };
            check(Kind::AsyncCancel, physical(envelope), Refused(InvalidRequest));
        }
    }

    #[test]
    fn whose_flags_exclude_each_other_is_doubt_whatever_its_word() {
        for (succeeded, failed) in [(Some(true), Some(true)), (Some(false), Some(false)), (None, Some(false))]
        {
            let envelope =
                PhysicalEnvelope { succeeded, failed, ..physical_failure("System.ValidationError") };
            check(Kind::AsyncCancel, physical(envelope), InDoubt);
        }
    }

    #[test]
    fn about_another_payment_is_doubt() {
        let mut envelope = physical_failure("System.ValidationError");
        envelope.result =
            Some(PhysicalResult { payment_request_id: Some(ANOTHER), ..PhysicalResult::default() });
        check(Kind::AsyncCancel, physical(envelope), InDoubt);
    }

    #[test]
    fn because_of_the_payments_state_is_to_be_asked_about() {
        for (word, reason) in [
            ("Payment.Async.NotConvenientStatusForThisOperation", NotSuitable),
            ("Payment.Async.AlreadyHasRefundOrCancel", NotSuitable),
            ("Payment.Request.RequestNotFound", NotFound),
            ("Transaction.NotFound", NotFound),
        ] {
            check(Kind::AsyncCancel, physical(physical_failure(word)), RefusedByState(reason));
        }
    }

    #[test]
    fn about_one_terminal_or_connection_pauses_nothing() {
        for word in
            ["Terminal.NotFound", "Connection.NotConnected", "Connection.Whatever", "Terminal.Whatever"]
        {
            for kind in PHYSICAL {
                check(kind, physical(physical_failure(word)), NotConfigured);
            }
        }
    }

    #[test]
    fn of_our_keys_locks_out() {
        for kind in PHYSICAL {
            check(kind, physical(physical_failure("System.AuthError")), LockedOut(LockOutScope::Api));
        }
    }

    #[test]
    fn with_a_word_that_nobody_knows_is_doubt() {
        for word in ["Payment.Async.SomethingNew", "System.ServerError", "system.autherror"] {
            check(Kind::AsyncCancel, physical(physical_failure(word)), InDoubt);
        }
    }

    #[test]
    fn with_neither_word_nor_number_is_doubt() {
        let silent = PhysicalEnvelope { failed: Some(true), ..PhysicalEnvelope::default() };
        check(Kind::AsyncCancel, physical(silent), InDoubt);
    }
}

mod a_refused_rollback {
    use super::*;

    fn declared(client_message: &str, class: Class) -> Codes {
        Codes::new(vec![Rule {
            api: Api::Physical,
            matcher: Matcher::ClientMessage(client_message.to_owned()),
            kind: Some(Kind::SyncCancelRollback),
            class,
        }])
    }

    #[test]
    fn is_refused_by_state_whatever_the_word_for_it() {
        for word in [
            "System.ValidationError",
            "Payment.Async.NotConvenientStatusForThisOperation",
            "Payment.Async.AlreadyHasRefundOrCancel",
            "Payment.Request.RequestNotFound",
        ] {
            check(Kind::SyncCancelRollback, physical(physical_failure(word)), RefusedByState(RollbackWindow));
        }
    }

    #[test]
    fn has_the_reason_that_a_rule_declares() {
        for class in [Class::Refused(DeviceReceived), Class::RefusedByState(DeviceReceived)] {
            check_with(
                &declared("System.ValidationError", class),
                Kind::SyncCancelRollback,
                physical(physical_failure("System.ValidationError")),
                RefusedByState(DeviceReceived),
            );
        }
    }

    #[test]
    fn does_not_lend_its_rule_to_other_kinds() {
        check_with(
            &declared("System.ValidationError", Class::Refused(DeviceReceived)),
            Kind::AsyncCancel,
            physical(physical_failure("System.ValidationError")),
            Refused(InvalidRequest),
        );
    }
}

mod a_virtual_success {
    use super::*;

    fn done(learnt: Learnt) -> Verdict {
        Done(Facts { payment_status: None, learnt })
    }

    #[test]
    fn without_a_body_is_done() {
        check(Kind::TransactionCancel, payment(success()), done(Learnt::default()));
        check(Kind::ApmProvisionCancel, payment(success()), done(Learnt::default()));
    }

    #[test]
    fn that_names_our_payment_is_done_in_whatever_case_it_names_it() {
        let named = |text: &str| PaymentBody { unique_code: Some(text.to_owned()), ..PaymentBody::default() };
        let upper = OURS.to_string().to_uppercase();
        check(Kind::TransactionCancel, payment(with_body(named(&upper))), {
            done(Learnt { unique_code: Some(upper.clone()), ..Learnt::default() })
        });
        check(Kind::ApmProvisionCancel, payment(with_body(named("apm-1"))), {
            done(Learnt { unique_code: Some("apm-1".to_owned()), ..Learnt::default() })
        });
    }

    #[test]
    fn that_names_another_payment_is_doubt_and_so_is_such_a_refusal() {
        let another = || {
            let unique_code = Some(ANOTHER.to_string());
            Some(PaymentBody { unique_code, ..PaymentBody::default() })
        };
        for kind in [Kind::TransactionCancel, Kind::ApmProvisionCancel] {
            check(kind, payment(PaymentEnvelope { body: another(), ..success() }), InDoubt);
            check(kind, payment(PaymentEnvelope { body: another(), ..failure(400) }), InDoubt);
        }
    }

    #[test]
    fn tells_what_its_body_holds() {
        let amount = Amount { value: "8.00".to_owned(), currency: Some("TRY".to_owned()) };
        let body = PaymentBody {
            merchant_unique_code: Some("shop-1".to_owned()),
            apm_transaction_id: Some(9),
            amount: Some(amount.clone()),
            provider: Some(Provider { error_code: Some(0), http_code: Some(200) }),
            ..PaymentBody::default()
        };
        check(Kind::ApmProvisionCancel, payment(with_body(body)), {
            done(Learnt {
                merchant_unique_code: Some("shop-1".to_owned()),
                apm_transaction_id: Some(9),
                amount: Some(amount),
                ..Learnt::default()
            })
        });
    }

    #[test]
    fn around_a_failure_of_the_provider_is_doubt() {
        let failures = [
            (Some(5010), Some(200)),
            (Some(0), Some(500)),
            (None, Some(300)),
            (Some(1), None),
            (None, Some(199)),
        ];
        for (error_code, http_code) in failures {
            let body =
                PaymentBody { provider: Some(Provider { error_code, http_code }), ..PaymentBody::default() };
            check(Kind::ApmProvisionCancel, payment(with_body(body)), InDoubt);
        }
    }

    #[test]
    fn around_a_body_that_says_false_is_doubt() {
        let body = PaymentBody { result: Some(false), ..PaymentBody::default() };
        for kind in VIRTUAL {
            check(kind, payment(with_body(body.clone())), InDoubt);
        }
    }

    #[test]
    fn needs_the_code_zero_and_the_result_true() {
        let flags = [
            (Some(0), Some(false)),
            (Some(0), None),
            (None, Some(true)),
            (None, Some(false)),
            (None, None),
            (Some(400), Some(true)),
        ];
        for (error_code, result) in flags {
            for kind in VIRTUAL {
                let envelope = PaymentEnvelope { error_code, result, ..receipt(&[("shop-0", Some(1))]) };
                check(kind, payment(envelope), InDoubt);
            }
        }
    }
}

mod a_receipt_of_a_batch {
    use super::*;

    fn ordered(items: &str) -> Verdict {
        let items = items.chars().map(|c| Item::from_char(c).unwrap());
        let learnt = Learnt { bulk_payment_id: Some(77), ..Learnt::default() };
        Verdict::OrderedBatch(
            Facts { payment_status: None, learnt },
            [0, 2, 3].into_iter().zip(items).collect(),
        )
    }

    #[test]
    fn is_read_payment_by_payment() {
        let results = [("shop-0", Some(1)), ("shop-2", Some(2)), ("shop-3", Some(1))];
        check(Kind::BatchCancel, payment(receipt(&results)), ordered("aba"));
    }

    #[test]
    fn leaves_a_payment_that_it_does_not_name_in_doubt() {
        check(Kind::BatchCancel, payment(receipt(&[("shop-2", Some(1))])), ordered("dad"));
    }

    #[test]
    fn keeps_a_payment_that_it_names_without_a_status_apart_from_an_ordered_one() {
        let results = [("shop-0", None), ("shop-2", Some(0)), ("shop-3", Some(-1))];
        check(Kind::BatchCancel, payment(receipt(&results)), ordered("bbb"));
    }

    #[test]
    fn does_not_believe_a_payment_that_it_names_twice_and_differently() {
        let results = [("shop-0", Some(1)), ("shop-0", Some(2)), ("shop-2", Some(1)), ("shop-2", Some(1))];
        check(Kind::BatchCancel, payment(receipt(&results)), ordered("bad"));
    }

    #[test]
    fn says_nothing_about_payments_that_were_not_called() {
        let results = [("shop-0", Some(1)), ("shop-1", Some(1)), ("shop-2", Some(1)), ("shop-3", Some(1))];
        check(Kind::BatchCancel, payment(receipt(&results)), ordered("aaa"));
    }

    #[test]
    fn compares_codes_to_the_letter() {
        let results = [("SHOP-0", Some(1)), ("shop-2", Some(1)), ("shop-3", Some(1))];
        check(Kind::BatchCancel, payment(receipt(&results)), ordered("daa"));
    }

    #[test]
    fn without_a_list_leaves_every_payment_in_doubt() {
        let body = PaymentBody { result: Some(true), ..PaymentBody::default() };
        let items = vec![(0, Item::Doubt), (2, Item::Doubt), (3, Item::Doubt)];
        check(Kind::BatchCancel, payment(with_body(body)), Verdict::OrderedBatch(Facts::default(), items));
    }

    #[test]
    fn whose_own_result_is_not_true_is_doubt() {
        let results = [("shop-0", Some(1))];
        let unsaid = |result| {
            let body = receipt(&results).body.unwrap();
            with_body(PaymentBody { result, ..body })
        };
        check(Kind::BatchCancel, payment(unsaid(None)), InDoubt);
        check(Kind::BatchCancel, payment(unsaid(Some(false))), InDoubt);
        check(Kind::BatchCancel, payment(success()), InDoubt);
    }
}

mod a_virtual_refusal {
    use super::*;

    #[test]
    fn that_every_table_calls_permanent_is_refused() {
        for kind in VIRTUAL {
            check(kind, payment(failure(400)), Refused(InvalidRequest));
            check(kind, payment(failure(353)), Refused(MarketplaceRecordsExist));
        }
    }

    #[test]
    fn because_of_the_payments_state_is_to_be_asked_about() {
        for kind in VIRTUAL {
            check(kind, payment(failure(404)), RefusedByState(NotFound));
            check(kind, payment(failure(269)), RefusedByState(NotSuitable));
            check(kind, payment(failure(359)), RefusedByState(NotSuitable));
            for code in 91..=97 {
                check(kind, payment(failure(code)), RefusedByState(NotSuitable));
            }
        }
    }

    #[test]
    fn whose_number_the_tables_read_differently_or_not_at_all_is_doubt() {
        for kind in VIRTUAL {
            for code in [-1, 1, 7, 63, 88, 500, 502, 504, 999, i64::MIN] {
                check(kind, payment(failure(code)), InDoubt);
            }
        }
    }

    #[test]
    fn by_a_bare_integer_pauses_nothing() {
        for kind in VIRTUAL {
            for code in [286, 401, 403, 541] {
                check(kind, payment(failure(code)), NotConfigured);
            }
        }
    }

    #[test]
    fn may_leave_out_its_result() {
        let bare = PaymentEnvelope { error_code: Some(400), ..PaymentEnvelope::default() };
        check(Kind::TransactionCancel, payment(bare), Refused(InvalidRequest));
    }
}

mod the_http_status {
    use super::*;

    #[test]
    fn of_a_known_code_decides_nothing_but_for_those_that_decide_by_themselves() {
        for http_status in [200, 201, 302, 400, 404, 405, 410, 422, 500, 502, 503, 504] {
            for kind in Kind::ALL {
                let rollback = kind == Kind::SyncCancelRollback;
                let expected =
                    if rollback { RefusedByState(RollbackWindow) } else { Refused(InvalidRequest) };
                check(kind, known_refusal(kind, http_status), expected);
            }
        }
    }

    #[test]
    fn outside_of_2xx_makes_a_doubt_of_every_success() {
        for http_status in [100, 199, 300, 302, 400, 404, 422, 500, 503] {
            for kind in Kind::ALL {
                check(kind, clean_success(kind, http_status), InDoubt);
            }
        }
    }

    #[test]
    fn may_be_any_of_2xx_for_a_success() {
        for http_status in [200, 201, 202, 299] {
            for kind in Kind::ALL {
                let verdict = classify(&order(kind), &clean_success(kind, http_status), &Codes::default());
                let name = if kind == Kind::BatchCancel { "ordered" } else { "done" };
                assert_eq!(verdict.name(), name, "{kind} under {http_status}");
            }
        }
    }

    #[test]
    fn that_decides_by_itself_decides_over_every_envelope() {
        for kind in Kind::ALL {
            for (http_status, expected) in [
                (401, LockedOut(LockOutScope::Api)),
                (403, LockedOut(LockOutScope::Api)),
                (408, Busy(None)),
                (425, Busy(None)),
                (429, Busy(None)),
            ] {
                check(kind, answered(http_status, Envelope::Missing), expected.clone());
                check(kind, known_refusal(kind, http_status), expected.clone());
                check(kind, clean_success(kind, http_status), expected);
            }
        }
    }

    #[test]
    fn busy_carries_the_gateways_wish() {
        let wish = Some(RetryAfter::Seconds(7));
        for http_status in [408, 425, 429, 503] {
            let reply = Reply::Answered(Answer {
                http_status,
                retry_after: wish,
                fault: None,
                envelope: Envelope::Missing,
            });
            for kind in Kind::ALL {
                check(kind, reply.clone(), Busy(wish));
            }
        }
    }

    #[test]
    fn of_503_is_busy_only_with_a_retry_after() {
        for kind in Kind::ALL {
            check(kind, answered(503, Envelope::Missing), InDoubt);
        }
    }

    #[test]
    fn of_a_wish_that_cannot_be_read_is_busy_with_the_usual_delay() {
        for http_status in [408, 425, 429, 503] {
            let retry_after = Some(RetryAfter::Unreadable);
            let envelope = Envelope::Missing;
            let answer = Answer { http_status, retry_after, fault: None, envelope };
            for kind in Kind::ALL {
                check(kind, Reply::Answered(answer.clone()), Busy(None));
            }
        }
    }

    #[test]
    fn of_a_wrong_address_locks_out_when_there_is_no_envelope() {
        for http_status in [300, 301, 302, 307, 308, 399, 404, 405, 410] {
            for kind in Kind::ALL {
                check(kind, answered(http_status, Envelope::Missing), LockedOut(LockOutScope::Endpoint));
                let unknown = match kind.api() {
                    Api::Physical => Envelope::Physical(PhysicalEnvelope::default()),
                    Api::Private | Api::Payment => Envelope::Payment(failure(999)),
                };
                check(kind, answered(http_status, unknown), InDoubt);
            }
        }
    }

    #[test]
    fn of_anything_else_without_an_envelope_is_doubt() {
        for http_status in [100, 200, 204, 299, 400, 402, 406, 409, 411, 418, 422, 500, 501, 502, 504, 599] {
            for kind in Kind::ALL {
                check(kind, answered(http_status, Envelope::Missing), InDoubt);
            }
        }
    }
}

mod no_answer {
    use super::*;

    #[test]
    fn when_nothing_was_sent_is_surely_not_done() {
        for kind in Kind::ALL {
            check(kind, Reply::NeverSent(NeverSent::NotBuilt), Verdict::NeverSent);
            for fault in Fault::ALL.into_iter().filter(|fault| fault.reach() == Reach::NotConnected) {
                check(kind, Reply::NeverSent(NeverSent::NotConnected(fault)), Verdict::NeverSent);
            }
        }
    }

    #[test]
    fn when_something_was_sent_is_doubt() {
        for kind in Kind::ALL {
            for fault in Fault::ALL.into_iter().filter(|fault| fault.reach() == Reach::Connected) {
                check(kind, Reply::Unanswered(fault), InDoubt);
            }
        }
    }

    #[test]
    fn in_the_envelope_of_another_api_is_doubt() {
        for kind in PHYSICAL {
            check(kind, payment(success()), InDoubt);
        }
        let physical_success = physical_success(PhysicalType::Cancel, PhysicalStatus::Successful);
        for kind in VIRTUAL {
            check(kind, physical(physical_success.clone()), InDoubt);
        }
    }
}

mod a_rule_of_the_operator {
    use super::*;

    fn rule(matcher: Matcher, class: Class) -> Codes {
        Codes::new(vec![Rule { api: Api::Private, matcher, kind: None, class }])
    }

    #[test]
    fn goes_before_the_table() {
        for (class, expected) in [
            (Class::Refused(NotSuitable), Refused(NotSuitable)),
            (Class::RefusedByState(NotSuitable), RefusedByState(NotSuitable)),
            (Class::Busy, Busy(None)),
            (Class::InDoubt, InDoubt),
            (Class::LockedOut, LockedOut(LockOutScope::Api)),
            (Class::NotConfigured, NotConfigured),
        ] {
            let codes = rule(Matcher::Code(400), class);
            check_with(&codes, Kind::TransactionCancel, payment(failure(400)), expected);
        }
    }

    #[test]
    fn about_a_code_says_nothing_under_a_status_that_decides_by_itself() {
        let codes = rule(Matcher::Code(400), Class::LockedOut);
        let reply = answered(429, Envelope::Payment(failure(400)));
        check_with(&codes, Kind::TransactionCancel, reply, Busy(None));
    }

    #[test]
    fn about_a_status_decides_even_over_one_that_decides_by_itself() {
        let codes = rule(Matcher::HttpStatus(403), Class::NotConfigured);
        check_with(&codes, Kind::TransactionCancel, answered(403, Envelope::Missing), NotConfigured);
    }

    #[test]
    fn never_makes_a_refusal_of_a_success() {
        let codes = rule(Matcher::HttpStatus(200), Class::Refused(NotSuitable));
        check_with(&codes, Kind::TransactionCancel, payment(success()), Done(Facts::default()));
    }

    #[test]
    fn never_makes_anything_of_a_contradiction() {
        let codes = rule(Matcher::HttpStatus(200), Class::Refused(NotSuitable));
        let contradiction = PaymentEnvelope { result: Some(false), ..success() };
        check_with(&codes, Kind::TransactionCancel, payment(contradiction), InDoubt);
    }
}

mod what_the_letter_remembers_of_a_reply {
    use super::*;

    #[track_caller]
    fn check_obstacle(codes: &Codes, kind: Kind, reply: &Reply) {
        let locked_out = matches!(classify(&order(kind), reply, codes), LockedOut(_));
        assert_eq!(was_locked_out(kind, &codes_of(reply), codes), locked_out, "{kind} answered by {reply:?}");
    }

    #[test]
    fn is_its_codes_and_nothing_else() {
        let answer = answered(
            422,
            Envelope::Physical(PhysicalEnvelope {
                error_code: Some(3),
                ..physical_failure("System.ValidationError")
            }),
        );
        assert_eq!(
            codes_of(&answer),
            LastReply {
                http_status: Some(422),
                error_code: Some(3),
                error_code_type: None,
                client_message: Some("System.ValidationError".to_owned()),
                ..LastReply::default()
            }
        );
        let answer =
            answered(200, Envelope::Payment(PaymentEnvelope { error_code_type: Some(1), ..failure(404) }));
        assert_eq!(
            codes_of(&answer),
            LastReply {
                http_status: Some(200),
                error_code: Some(404),
                error_code_type: Some(1),
                ..LastReply::default()
            }
        );
        assert_eq!(
            codes_of(&answered(500, Envelope::Missing)),
            LastReply { http_status: Some(500), ..LastReply::default() }
        );
    }

    #[test]
    fn is_the_fault_when_nobody_answered() {
        for fault in Fault::ALL {
            let last = LastReply { fault: Some(fault), ..LastReply::default() };
            assert_eq!(codes_of(&Reply::NeverSent(NeverSent::NotConnected(fault))), last);
            assert_eq!(codes_of(&Reply::Unanswered(fault)), last);
            assert!(!was_locked_out(Kind::AsyncCancel, &last, &Codes::default()));
        }
        assert_eq!(codes_of(&Reply::NeverSent(NeverSent::NotBuilt)), LastReply::default());
    }

    #[test]
    fn is_the_fault_of_a_body_beside_its_status() {
        let answer = Answer {
            http_status: 200,
            retry_after: None,
            fault: Some(Fault::Truncated),
            envelope: Envelope::Missing,
        };
        let last =
            LastReply { http_status: Some(200), fault: Some(Fault::Truncated), ..LastReply::default() };
        assert_eq!(codes_of(&Reply::Answered(answer)), last);
    }

    #[test]
    fn never_holds_a_number_that_may_be_a_card() {
        let card = Some(5_555_444_433_331_111);
        let envelope = PaymentEnvelope {
            error_code: card,
            error_code_type: card,
            result: Some(false),
            ..PaymentEnvelope::default()
        };
        let payment = answered(400, Envelope::Payment(envelope));
        let bare = LastReply { http_status: Some(400), ..LastReply::default() };
        assert_eq!(codes_of(&payment), bare);
        let envelope =
            PhysicalEnvelope { error_code: card, failed: Some(true), ..PhysicalEnvelope::default() };
        assert_eq!(codes_of(&answered(400, Envelope::Physical(envelope))), bare);
        check(Kind::TransactionCancel, payment, InDoubt);
    }

    #[test]
    fn tells_a_lock_out_from_every_other_answer() {
        let mut statuses = vec![200, 400, 401, 403, 404, 405, 408, 410, 422, 425, 429, 500, 503];
        statuses.extend([299, 300, 301, 399]);
        let rules = [
            Codes::default(),
            Codes::new(vec![Rule {
                api: Api::Private,
                matcher: Matcher::Code(400),
                kind: None,
                class: Class::LockedOut,
            }]),
            Codes::new(vec![Rule {
                api: Api::Private,
                matcher: Matcher::HttpStatus(401),
                kind: None,
                class: Class::NotConfigured,
            }]),
            Codes::new(vec![Rule {
                api: Api::Private,
                matcher: Matcher::HttpStatus(429),
                kind: None,
                class: Class::LockedOut,
            }]),
        ];
        for http_status in statuses {
            for codes in &rules {
                for kind in [Kind::TransactionCancel, Kind::ApmProvisionCancel] {
                    check_obstacle(codes, kind, &answered(http_status, Envelope::Missing));
                    for code in [286, 400, 401, 404, 999] {
                        check_obstacle(codes, kind, &answered(http_status, Envelope::Payment(failure(code))));
                    }
                }
                for word in ["System.AuthError", "System.ValidationError", "Terminal.NotFound"] {
                    let reply = answered(http_status, Envelope::Physical(physical_failure(word)));
                    check_obstacle(codes, Kind::AsyncCancel, &reply);
                }
            }
        }
    }
}

#[test]
fn every_verdict_has_a_name_of_its_own_but_for_the_two_ways_to_order() {
    let verdicts = [
        (Done(Facts::default()), "done"),
        (Ordered(Facts::default()), "ordered"),
        (Verdict::OrderedBatch(Facts::default(), Vec::new()), "ordered"),
        (Refused(NotFound), "refused"),
        (RefusedByState(NotFound), "refused_by_state"),
        (Verdict::NeverSent, "never_sent"),
        (Busy(None), "busy"),
        (InDoubt, "in_doubt"),
        (LockedOut(LockOutScope::Api), "locked_out"),
        (NotConfigured, "not_configured"),
    ];
    for (verdict, name) in verdicts {
        assert_eq!(verdict.name(), name);
    }
}
