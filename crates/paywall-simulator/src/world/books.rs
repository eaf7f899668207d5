//! The books: which calls came, and what has become of each payment.

use jiff::Timestamp;

use super::{Body, Named, Payment, SUCCESSFUL, World, pos, state, terminal};
use crate::{
    api::Purpose,
    seed::Identity,
    truth::{
        ActivityTruth, CallLog, CallRecord, EffectKind, EffectRecord, Effects, Origin, PaymentState,
        PaymentTruth, Scheme, Truth,
    },
};

/// Identifiers of unknown payments that are remembered.
const UNKNOWN_MAX: usize = 10_000;

/// A payment that a call names: which, what had happened to it before, and what the call did.
#[derive(Debug, Clone)]
pub(crate) struct Touched {
    at: usize,
    effects: Vec<EffectRecord>,
    pub(crate) what: Option<EffectKind>,
}

impl World {
    /// Notes a call of every payment that it names, whether it is known or not.
    pub(crate) fn note_call(
        &mut self,
        now: Timestamp,
        merchant: Option<&str>,
        named: &[Named],
        record: &CallRecord,
    ) {
        for named in named {
            match self.meant(merchant, &named.identifier) {
                Some(at) => {
                    let Some(payment) = self.payments.get_mut(at) else { continue };
                    let cancelled = state(&payment.body, now) == PaymentState::Cancelled;
                    if cancelled && record.endpoint.purpose() == Purpose::Call {
                        payment.log.after_cancelled += 1;
                    }
                    payment.log.push(record.clone());
                }
                None => {
                    let name = named.identifier.name().to_lowercase();
                    if self.unknown.len() < UNKNOWN_MAX || self.unknown.contains_key(&name) {
                        self.unknown.entry(name).or_default().push(record.clone());
                    }
                }
            }
        }
    }

    /// Changes the records of a call that was noted before. The effect is told apart by payment.
    pub(crate) fn amend_call(
        &mut self,
        merchant: Option<&str>,
        named: &[Named],
        number: u64,
        mut amend: impl FnMut(&mut CallRecord, Option<&Touched>),
        touched: &[Touched],
    ) {
        for named in named {
            match self.meant(merchant, &named.identifier) {
                Some(at) => {
                    if let Some(record) =
                        self.payments.get_mut(at).and_then(|payment| payment.log.find(number))
                    {
                        amend(record, touched.iter().find(|touched| touched.at == at));
                    }
                }
                None => {
                    let log = self.unknown.get_mut(&named.identifier.name().to_lowercase());
                    if let Some(record) = log.and_then(|log| log.find(number)) {
                        amend(record, None);
                    }
                }
            }
        }
    }

    /// The payments that a call names, and how many effects each has had, to be compared with later.
    pub(crate) fn watch(&self, now: Timestamp, merchant: &str, named: &[Named]) -> Vec<Touched> {
        named
            .iter()
            .filter_map(|named| self.find(merchant, &named.identifier))
            .filter_map(|at| {
                let payment = self.payments.get(at)?;
                Some(Touched { at, effects: effects(&payment.body, now), what: None })
            })
            .collect()
    }

    /// Says of each watched payment what has happened to it since.
    pub(crate) fn compare(&self, now: Timestamp, watched: &mut [Touched]) {
        for touched in watched {
            let Some(payment) = self.payments.get(touched.at) else { continue };
            let since = effects(&payment.body, now);
            touched.what = since.get(touched.effects.len()..).and_then(|new| new.last()).map(|new| new.what);
        }
    }

    /// Every identifier of every payment that a call names.
    pub(crate) fn names(&self, merchant: Option<&str>, named: &[Named]) -> Vec<String> {
        named
            .iter()
            .flat_map(|named| {
                let known = self.meant(merchant, &named.identifier).and_then(|at| self.payments.get(at));
                known.map_or_else(|| vec![named.identifier.name()], |payment| payment.names.clone())
            })
            .collect()
    }

    pub(crate) fn truth(&self, now: Timestamp) -> Truth {
        let mut unknown: Vec<_> = self.unknown.iter().map(|(name, log)| unknown_truth(name, log)).collect();
        unknown.sort_by(|one, other| one.identity.id.cmp(&other.identity.id));
        Truth { now, payments: self.payments.iter().map(|payment| truth_of(payment, now)).collect(), unknown }
    }

    /// The truth about one payment, by any of its identifiers.
    pub(crate) fn truth_of(&self, now: Timestamp, id: &str) -> Option<PaymentTruth> {
        let name = id.to_lowercase();
        if let Some(payment) = self.by_name.get(&name).and_then(|at| self.payments.get(*at)) {
            return Some(truth_of(payment, now));
        }
        self.unknown.get(&name).map(|log| unknown_truth(&name, log))
    }
}

/// What calls have done to a payment up to now, in the order of time.
fn effects(body: &Body, now: Timestamp) -> Vec<EffectRecord> {
    let (activities, cancel) = match body {
        Body::Physical(payment) => (&payment.activities, terminal::CANCEL),
        Body::VirtualPos(payment) => (&payment.activities, pos::CANCEL),
        Body::Apm(apm) => {
            let cancelled = apm.cancelled_at.into_iter();
            return cancelled
                .flat_map(|at| {
                    [EffectKind::CancelOrdered, EffectKind::Cancelled].map(|what| EffectRecord { at, what })
                })
                .collect();
        }
    };
    let mut effects = Vec::new();
    for activity in activities.iter().filter(|activity| activity.kind == cancel) {
        if activity.origin == Origin::Called {
            effects.push(EffectRecord { at: activity.began(), what: EffectKind::CancelOrdered });
            let ended = activity.steps.iter().find(|(at, status)| *at <= now && *status == SUCCESSFUL);
            effects.extend(ended.map(|(at, _)| EffectRecord { at: *at, what: EffectKind::Cancelled }));
        }
        // An order that was there from the beginning can be withdrawn by a call, too.
        effects.extend(activity.withdrawn.map(|at| EffectRecord { at, what: EffectKind::RolledBack }));
    }
    effects.sort_by_key(|effect| effect.at);
    effects
}

fn truth_of(payment: &Payment, now: Timestamp) -> PaymentTruth {
    let events = effects(&payment.body, now);
    let count = |what| events.iter().filter(|event| event.what == what).count() as u64;
    let (scheme, activities) = match &payment.body {
        Body::Physical(physical) => (Scheme::Physical, physical.activities.as_slice()),
        Body::VirtualPos(payment) => (Scheme::VirtualPos, payment.activities.as_slice()),
        Body::Apm(_) => (Scheme::Apm, [].as_slice()),
    };
    PaymentTruth {
        identity: payment.identity.clone(),
        scheme: Some(scheme),
        state: state(&payment.body, now),
        calls: payment.log.counts.clone(),
        calls_after_cancelled: payment.log.after_cancelled,
        effects: Effects {
            orders: count(EffectKind::CancelOrdered),
            cancels: count(EffectKind::Cancelled),
            rollbacks: count(EffectKind::RolledBack),
        },
        events,
        activities: activities
            .iter()
            .map(|activity| ActivityTruth {
                kind: activity.kind,
                status: activity.status(now),
                at: activity.date,
                origin: activity.origin,
            })
            .collect(),
        log: payment.log.records.iter().cloned().collect(),
    }
}

fn unknown_truth(name: &str, log: &CallLog) -> PaymentTruth {
    PaymentTruth {
        identity: Identity { id: name.to_owned(), ..Identity::default() },
        scheme: None,
        state: PaymentState::Unknown,
        calls: log.counts.clone(),
        calls_after_cancelled: 0,
        effects: Effects::default(),
        events: Vec::new(),
        activities: Vec::new(),
        log: log.records.iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use crate::seed::{PastActivity, SeedPhysical};

    #[test]
    fn a_cancel_that_was_there_from_the_beginning_is_no_effect_of_a_call() {
        let seed = SeedPhysical::default().after(PastActivity::ended(terminal::CANCEL, 4));
        let world = terminal_world(seed);
        assert_eq!(state_of(&world, noon(0)), PaymentState::Cancelled);
        assert_eq!(effects_of(&world, noon(0)), Effects::default());
    }
}
