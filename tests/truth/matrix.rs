//! The cases.

use super::*;

const FAULTS: [Fault; 19] = [
    Fault::None,
    Fault::NeverSent,
    Fault::ResetBefore,
    Fault::ResetAfter,
    Fault::ErrorBefore,
    Fault::ErrorAfter,
    Fault::Late,
    Fault::ResetThenLate,
    Fault::GarbageBefore,
    Fault::GarbageAfter,
    Fault::ForeignIdAfter,
    Fault::ContradictionAfter,
    Fault::ProviderFailureAfter,
    Fault::UnknownCodeAfter,
    Fault::Busy,
    Fault::BusyWithWish,
    Fault::LockedOut,
    Fault::NotConfigured,
    Fault::BadData,
];

const CRASHES: [Crash; 8] = [
    Crash::Never,
    Crash::BeforeCall(1),
    Crash::DuringCall(1),
    Crash::AfterCall(1),
    Crash::BeforeAck(1),
    Crash::BeforeAck(2),
    Crash::AfterCall(3),
    Crash::BeforeAck(4),
];

const COPIES: [Copies; 4] =
    [Copies::One, Copies::Second(500), Copies::Second(45_000), Copies::Second(3_600_000)];

/// What a kind's cases are made of, beside what all have in common.
struct Axes {
    kind: Kind,
    payments: Vec<Vec<(Past, Vec<Fate>)>>,
    queries: Vec<Queries>,
    again: Vec<Again>,
    midnights: Vec<Midnight>,
}

fn cases(axes: &Axes) -> Vec<Case> {
    let mut cases = Vec::new();
    for payments in &axes.payments {
        for fault in FAULTS {
            for meets in [Meets::First, Meets::FirstTwo, Meets::All] {
                for queries in &axes.queries {
                    for again in &axes.again {
                        for crash in CRASHES {
                            for copies in COPIES {
                                for midnight in &axes.midnights {
                                    cases.push(Case {
                                        kind: axes.kind,
                                        payments: payments.clone(),
                                        fault,
                                        meets,
                                        queries: *queries,
                                        again: *again,
                                        crash,
                                        copies,
                                        midnight: *midnight,
                                    });
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    cases.retain(is_fair);
    sample(cases)
}

/// The whole matrix takes minutes, so a run takes every so-many-th case of it; a prime, so that it skips no axis.
/// `TRUTH=1` tells all of it.
fn sample(cases: Vec<Case>) -> Vec<Case> {
    let stride = std::env::var("TRUTH").ok().and_then(|value| value.parse().ok()).unwrap_or(STRIDE);
    cases.into_iter().step_by(stride.max(1)).collect()
}

const STRIDE: usize = 41;

/// Worlds in which the gateway keeps to what its pages say and what the configuration promises.
fn is_fair(case: &Case) -> bool {
    let forked = case.copies != Copies::One || case.crash != Crash::Never;
    let denied = case.queries == Queries::NotFound;
    // What is bad data once is bad data always.
    (case.fault != Fault::BadData || case.meets == Meets::All)
        && (case.fault != Fault::None || case.meets == Meets::First)
        // A query that denies a payment which is there tells one copy a lie that nothing gainsays; and so it does of
        // a payment of a batch that was named with a status that nobody knows, and is done after all.
        && !(denied && (forked || is_named_and_done(case)))
        // The one refusal that leaves no trace and does not last: a withdrawal that came too soon. One copy is told
        // so, and another one, later, withdraws the order.
        && !(case.kind == Kind::SyncCancelRollback && is_refused_too_soon(case) && forked)
        // Bad data is refused without a look; a copy that looks may see what somebody else did.
        && !(case.fault == Fault::BadData && forked && somebody_was_here(case))
        // The exception of `contract.md` §2: a second copy of an async cancel, still waiting, orders again what was
        // withdrawn, be it by a rollback of this order or of one before it.
        && !(case.kind == Kind::AsyncCancel && has_withdrawal(case) && forked)
        // Not told truly, and known: a copy that was refused because of another copy's order, and that did not see that
        // order on its way (its looks were not answered, or it came in the order's last moment), sees only that it
        // never reached its device, and is rejected as it was refused; the other copy orders again.
        && !(case.kind == Kind::AsyncCancel && is_undelivered(case) && forked && misses_the_order(case))
        // The gateway takes a batch into a queue of its own. What it holds there for hours, and what is not said to
        // us, looks like nothing at all when the day is over.
        && !(case.kind == Kind::BatchCancel && waits_for_hours(case) && forked && case.midnight != Midnight::Far)
}

fn is_refused_too_soon(case: &Case) -> bool {
    case.payments.iter().any(|(before, _)| matches!(before, Past::Waiting { ordered_s: 2.., .. }))
}

fn has_withdrawal(case: &Case) -> bool {
    let withdrawn = |fate: &Fate| *fate == Fate::Withdrawn;
    case.payments
        .iter()
        .any(|(before, fates)| *before == Past::WithdrawnBefore || fates.iter().any(withdrawn))
}

fn is_named_and_done(case: &Case) -> bool {
    case.payments.iter().any(|(_, fates)| fates.contains(&Fate::NamedAndDone))
}

fn is_undelivered(case: &Case) -> bool {
    case.payments.iter().any(|(_, fates)| fates.contains(&Fate::Undelivered))
}

fn misses_the_order(case: &Case) -> bool {
    matches!(case.queries, Queries::DownForAWhile | Queries::EveryOther)
        || case.copies == Copies::Second(45_000)
}

fn waits_for_hours(case: &Case) -> bool {
    case.payments.iter().any(|(_, fates)| fates.contains(&Fate::SucceedsLate))
}

fn somebody_was_here(case: &Case) -> bool {
    case.payments.iter().any(|(before, _)| *before == Past::CancelledBefore)
}

fn one(before: Past, fates: &[Fate]) -> Vec<(Past, Vec<Fate>)> {
    vec![(before, fates.to_vec())]
}

const QUERIES: [Queries; 5] =
    [Queries::Healthy, Queries::DownForAWhile, Queries::DownForEver, Queries::EveryOther, Queries::NotFound];

const MIDNIGHTS: [Midnight; 5] =
    [Midnight::Far, Midnight::Between, Midnight::During, Midnight::HandledLate, Midnight::RequestedLate];

#[test]
fn an_async_cancel_is_never_told_untruly() {
    let mut queries = QUERIES.to_vec();
    queries.extend([Queries::ListDown, Queries::InquiryDown]);
    check(&cases(&Axes {
        kind: Kind::AsyncCancel,
        payments: vec![
            one(Past::Stands, &[Fate::AtOnce]),
            one(Past::Stands, &[Fate::Succeeds]),
            one(Past::Stands, &[Fate::SucceedsLate]),
            one(Past::Stands, &[Fate::Fails]),
            one(Past::Stands, &[Fate::Undelivered, Fate::Succeeds]),
            one(Past::Stands, &[Fate::Undelivered]),
            one(Past::Stands, &[Fate::Withdrawn]),
            one(Past::Stands, &[Fate::Stuck]),
            one(Past::CancelledBefore, &[Fate::AtOnce]),
            one(Past::Refunded, &[Fate::AtOnce]),
            one(Past::Unknown, &[Fate::AtOnce]),
            one(Past::SaleGone, &[Fate::AtOnce]),
            one(Past::WithdrawnBefore, &[Fate::Succeeds]),
        ],
        queries,
        again: vec![Again::IsRefused],
        midnights: vec![Midnight::Far],
    }));
}

#[test]
fn a_rollback_is_never_told_untruly() {
    let mut queries = QUERIES.to_vec();
    queries.extend([Queries::ListDown, Queries::InquiryDown]);
    let waiting = |ordered_s, received_s| one(Past::Waiting { ordered_s, received_s }, &[Fate::AtOnce]);
    check(&cases(&Axes {
        kind: Kind::SyncCancelRollback,
        payments: vec![
            // The device is off, or takes the order before, while or after we withdraw it.
            waiting(0, None),
            waiting(0, Some(3)),
            waiting(0, Some(7)),
            waiting(0, Some(20)),
            waiting(0, Some(50)),
            waiting(0, Some(4_000)),
            // The order is younger than it was said to be: the gateway refuses to withdraw it so soon.
            waiting(4, None),
            waiting(4, Some(25)),
            one(Past::Stands, &[Fate::AtOnce]),
            one(Past::CancelledBefore, &[Fate::AtOnce]),
            one(Past::WithdrawnBefore, &[Fate::AtOnce]),
            one(Past::UndeliveredBefore, &[Fate::AtOnce]),
            one(Past::FailedBefore, &[Fate::AtOnce]),
            one(Past::Refunded, &[Fate::AtOnce]),
            one(Past::SaleGone, &[Fate::AtOnce]),
            one(Past::Unknown, &[Fate::AtOnce]),
        ],
        queries,
        again: vec![Again::IsRefused],
        midnights: vec![Midnight::Far],
    }));
}

#[test]
fn a_transaction_is_never_told_untruly() {
    check(&cases(&Axes {
        kind: Kind::TransactionCancel,
        payments: vec![
            one(Past::Stands, &[Fate::AtOnce]),
            one(Past::Stands, &[Fate::Succeeds]),
            one(Past::Stands, &[Fate::SucceedsLate]),
            one(Past::Stands, &[Fate::Fails]),
            one(Past::CancelledBefore, &[Fate::AtOnce]),
            one(Past::Refunded, &[Fate::AtOnce]),
            one(Past::PartlyRefunded, &[Fate::AtOnce]),
            one(Past::Unknown, &[Fate::AtOnce]),
        ],
        queries: QUERIES.to_vec(),
        again: vec![Again::IsRefused],
        midnights: MIDNIGHTS.to_vec(),
    }));
}

#[test]
fn a_provision_is_never_told_untruly() {
    check(&cases(&Axes {
        kind: Kind::ApmProvisionCancel,
        payments: vec![
            one(Past::Stands, &[Fate::AtOnce]),
            one(Past::CancelledBefore, &[Fate::AtOnce]),
            one(Past::Refunded, &[Fate::AtOnce]),
            one(Past::Unknown, &[Fate::AtOnce]),
        ],
        queries: QUERIES.to_vec(),
        again: vec![Again::IsRefused, Again::Succeeds],
        midnights: vec![Midnight::Far],
    }));
}

#[test]
fn a_batch_is_never_told_untruly() {
    let stands = |fates: &[Fate]| (Past::Stands, fates.to_vec());
    let was = |before| (before, vec![Fate::AtOnce]);
    check(&cases(&Axes {
        kind: Kind::BatchCancel,
        payments: vec![
            vec![stands(&[Fate::Succeeds]), stands(&[Fate::Fails]), stands(&[Fate::AtOnce])],
            vec![stands(&[Fate::MissingInVain, Fate::Succeeds]), stands(&[Fate::MissingAndDone])],
            vec![stands(&[Fate::NamedInVain]), stands(&[Fate::NamedAndDone]), was(Past::Refunded)],
            vec![was(Past::CancelledBefore), was(Past::PartlyRefunded), was(Past::Unknown)],
            vec![stands(&[Fate::SucceedsLate]), stands(&[Fate::Stuck]), was(Past::CancelledBefore)],
            vec![stands(&[Fate::MissingInVain]), stands(&[Fate::MissingInVain, Fate::Fails])],
        ],
        queries: QUERIES.to_vec(),
        again: vec![Again::IsRefused],
        midnights: MIDNIGHTS.to_vec(),
    }));
}
