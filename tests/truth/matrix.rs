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
    payments: Vec<Vec<(Before, Vec<Fate>)>>,
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

/// The whole matrix takes minutes. A run takes every so-many-th case of it, a prime, so that no axis is skipped; the
/// whole of it is told with `TRUTH=whole`.
fn sample(cases: Vec<Case>) -> Vec<Case> {
    let whole = std::env::var("TRUTH").is_ok_and(|value| value == "whole");
    if whole { cases } else { cases.into_iter().step_by(STRIDE).collect() }
}

const STRIDE: usize = 41;

/// Worlds in which the gateway keeps to what its pages say and what the configuration promises.
fn is_fair(case: &Case) -> bool {
    let forked = case.copies != Copies::One || case.crash != Crash::Never;
    let denied = case.queries == Queries::NotFound;
    // What is bad data once is bad data always.
    (case.fault != Fault::BadData || case.meets == Meets::All)
        && (case.fault != Fault::None || case.meets == Meets::First)
        // A query that denies a payment which is there tells one copy a lie that nothing gainsays.
        && !(denied && forked)
}

fn one(before: Before, fates: &[Fate]) -> Vec<(Before, Vec<Fate>)> {
    vec![(before, fates.to_vec())]
}

const QUERIES: [Queries; 5] =
    [Queries::Healthy, Queries::DownForAWhile, Queries::DownForEver, Queries::EveryOther, Queries::NotFound];

#[test]
fn a_transaction_is_never_told_untruly() {
    check(&cases(&Axes {
        kind: Kind::TransactionCancel,
        payments: vec![
            one(Before::Stands, &[Fate::AtOnce]),
            one(Before::Stands, &[Fate::Succeeds]),
            one(Before::Stands, &[Fate::SucceedsLate]),
            one(Before::Stands, &[Fate::Fails]),
            one(Before::CancelledBefore, &[Fate::AtOnce]),
            one(Before::Refunded, &[Fate::AtOnce]),
            one(Before::PartlyRefunded, &[Fate::AtOnce]),
            one(Before::Unknown, &[Fate::AtOnce]),
        ],
        queries: QUERIES.to_vec(),
        again: vec![Again::IsRefused],
        midnights: vec![
            Midnight::Far,
            Midnight::Between,
            Midnight::During,
            Midnight::HandledLate,
            Midnight::RequestedLate,
        ],
    }));
}
