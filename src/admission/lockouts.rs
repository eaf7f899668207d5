//! Which APIs and endpoints of the gateway merchants are locked out of.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::classify::{LockOutScope, Verdict};
use crate::domain::gate::{Pass, Probe};
use crate::domain::history::LastReply;
use crate::domain::intent::{Api, Kind, MerchantName};
use crate::domain::lockout::{LockOut, LockOutChange, LockOutSignal};
use crate::domain::retry::{Jitter, Tiers};

/// The lock-outs. There are at most as many as merchants times APIs and endpoints, so they are never forgotten.
#[derive(Debug, Default)]
pub(super) struct LockOuts(BTreeMap<Scope, LockOut>);

/// What a lock-out holds for: keys are accepted by an API, an address by an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Api(Api, MerchantName),
    Endpoint(Kind, MerchantName),
}

fn scopes(kind: Kind, merchant: &MerchantName) -> [Scope; 2] {
    [Scope::Api(kind.api(), merchant.clone()), Scope::Endpoint(kind, merchant.clone())]
}

/// The probes as which a letter passes: of its API, and of its endpoint.
pub(super) type Probes = [Option<Probe>; 2];

/// A letter has to wait for the end of a lock-out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LockedOut {
    /// After so long it may come again.
    pub(super) wait: Duration,
    /// What the gateway said last.
    pub(super) last: LastReply,
}

impl LockOuts {
    /// Lets a letter of this kind and merchant call, perhaps as a probe. A probe is given up on after `probe_max`.
    pub(super) fn pass(
        &mut self,
        kind: Kind,
        merchant: &MerchantName,
        now: Duration,
        probe_max: Duration,
    ) -> Result<Probes, LockedOut> {
        let scopes = scopes(kind, merchant);
        // A letter is a probe of both or of none: one that has to wait for the other would find out nothing.
        let shut = scopes.iter().filter_map(|scope| self.0.get(scope));
        let is_shut = shut.filter_map(|lockout| lockout.next_probe(now)).any(|next| !next.is_zero());
        let mut probes = [None, None];
        for (scope, passed) in scopes.iter().zip(&mut probes) {
            let Some(lockout) = self.0.get_mut(scope) else { continue };
            if is_shut && lockout.next_probe(now).is_none_or(|next| next.is_zero()) {
                continue;
            }
            match lockout.pass(now, probe_max) {
                Pass::Open => {}
                Pass::Probe(probe) => *passed = Some(probe),
                Pass::Wait(wait) => {
                    return Err(LockedOut { wait, last: lockout.last().cloned().unwrap_or_default() });
                }
            }
        }
        Ok(probes)
    }

    /// How long it is until a letter of this kind may probe the lock-out of one of these merchants; zero if now.
    /// `None`: one of them is not locked out, or there is none of them.
    pub(super) fn next_probe<'a>(
        &self,
        kind: Kind,
        merchants: impl Iterator<Item = &'a MerchantName>,
        now: Duration,
    ) -> Option<Duration> {
        let next = merchants.map(|merchant| {
            let lockouts = scopes(kind, merchant).into_iter().filter_map(|scope| self.0.get(&scope));
            lockouts.filter_map(|lockout| lockout.next_probe(now)).max()
        });
        next.collect::<Option<Vec<Duration>>>()?.into_iter().min()
    }

    /// A letter that was to find out has called nothing.
    pub(super) fn not_called(
        &mut self,
        kind: Kind,
        merchant: &MerchantName,
        probes: Probes,
        moment: (Duration, &Tiers, Jitter),
    ) {
        self.hear_of_both(kind, merchant, LockOutSignal::Nothing, probes, moment);
    }

    /// Takes note of what a call's verdict says about its lock-outs.
    pub(super) fn hear(
        &mut self,
        kind: Kind,
        merchant: &MerchantName,
        verdict: &Verdict,
        last: &LastReply,
        probes: Probes,
        moment: (Duration, &Tiers, Jitter),
    ) -> LockOutChange {
        let (now, tiers, jitter) = moment;
        let heard = match verdict {
            Verdict::LockedOut(scope) => {
                let ([api, endpoint], [of_api, of_endpoint]) = (scopes(kind, merchant), probes);
                let ((scope, probe), (other, other_probe)) = match scope {
                    LockOutScope::Api => ((api, of_api), (endpoint, of_endpoint)),
                    LockOutScope::Endpoint => ((endpoint, of_endpoint), (api, of_api)),
                };
                // The reply speaks of one of them; the probe of the other has found out nothing.
                if let Some(lockout) = self.0.get_mut(&other) {
                    lockout.hear(LockOutSignal::Nothing, other_probe, now, tiers, jitter);
                }
                let heard = LockOutSignal::LockedOut(last.clone());
                return self.0.entry(scope).or_default().hear(heard, probe, now, tiers, jitter);
            }
            Verdict::NeverSent => LockOutSignal::Nothing,
            Verdict::Done(_)
            | Verdict::Ordered(_)
            | Verdict::OrderedBatch(..)
            | Verdict::Refused(_)
            | Verdict::RefusedByState(_)
            | Verdict::Busy(_)
            | Verdict::InDoubt
            | Verdict::NotConfigured => match last.http_status {
                Some(_) => LockOutSignal::LetIn,
                None => LockOutSignal::Nothing,
            },
        };
        self.hear_of_both(kind, merchant, heard, probes, moment)
    }

    fn hear_of_both(
        &mut self,
        kind: Kind,
        merchant: &MerchantName,
        heard: LockOutSignal,
        probes: Probes,
        moment: (Duration, &Tiers, Jitter),
    ) -> LockOutChange {
        let (now, tiers, jitter) = moment;
        let mut changed = LockOutChange::None;
        for (scope, probe) in scopes(kind, merchant).iter().zip(probes) {
            if let Some(lockout) = self.0.get_mut(scope)
                && let change @ (LockOutChange::Shut | LockOutChange::Opened(_)) =
                    lockout.hear(heard.clone(), probe, now, tiers, jitter)
            {
                changed = change;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::retry::Tier;

    fn merchant(name: &str) -> MerchantName {
        MerchantName::parse(name).expect("a name")
    }

    fn locked(lockouts: &mut LockOuts, kind: Kind, scope: LockOutScope) {
        let tier = Tier { length: Duration::from_secs(1), name: "1s".to_owned() };
        let tiers = Tiers::try_new(vec![tier]).expect("tiers");
        let last = LastReply::default();
        let moment = (Duration::ZERO, &tiers, Jitter::new(0.0));
        let verdict = Verdict::LockedOut(scope);
        let change = lockouts.hear(kind, &merchant("one"), &verdict, &last, [None, None], moment);
        assert_eq!(change, LockOutChange::Shut);
    }

    fn waits(lockouts: &mut LockOuts, kind: Kind, name: &str) -> bool {
        lockouts.pass(kind, &merchant(name), Duration::ZERO, Duration::from_secs(30)).is_err()
    }

    #[test]
    fn keys_that_are_not_accepted_shut_the_whole_api_for_their_merchant_and_for_no_other() {
        let mut lockouts = LockOuts::default();
        locked(&mut lockouts, Kind::AsyncCancel, LockOutScope::Api);
        assert!(waits(&mut lockouts, Kind::AsyncCancel, "one"));
        assert!(waits(&mut lockouts, Kind::SyncCancelRollback, "one"));
        assert!(!waits(&mut lockouts, Kind::AsyncCancel, "two"));
        assert!(!waits(&mut lockouts, Kind::TransactionCancel, "one"));
    }

    #[test]
    fn only_when_every_merchant_is_locked_out_nobody_may_call() {
        let mut lockouts = LockOuts::default();
        let merchants = [merchant("one"), merchant("two")];
        let next = |lockouts: &LockOuts, kind, merchants: &[MerchantName]| {
            lockouts.next_probe(kind, merchants.iter(), Duration::ZERO)
        };
        locked(&mut lockouts, Kind::AsyncCancel, LockOutScope::Api);
        assert_eq!(next(&lockouts, Kind::AsyncCancel, &merchants), None);
        assert_eq!(next(&lockouts, Kind::SyncCancelRollback, &merchants[..1]), Some(Duration::from_secs(1)));
        assert_eq!(next(&lockouts, Kind::TransactionCancel, &merchants[..1]), None);
        assert_eq!(next(&lockouts, Kind::AsyncCancel, &[]), None);
    }

    #[test]
    fn a_probe_of_two_lock_outs_that_hears_of_one_frees_the_next_probe_of_the_other() {
        let mut lockouts = LockOuts::default();
        locked(&mut lockouts, Kind::AsyncCancel, LockOutScope::Api);
        locked(&mut lockouts, Kind::AsyncCancel, LockOutScope::Endpoint);
        let (one, probe_max) = (merchant("one"), Duration::from_secs(60));
        let at = Duration::from_secs(2);
        let probes = lockouts.pass(Kind::AsyncCancel, &one, at, probe_max).expect("it is the probe of both");
        assert!(probes.iter().all(Option::is_some));
        let tier = Tier { length: Duration::from_secs(1), name: "1s".to_owned() };
        let tiers = Tiers::try_new(vec![tier]).expect("tiers");
        let verdict = Verdict::LockedOut(LockOutScope::Endpoint);
        let moment = (at, &tiers, Jitter::new(0.0));
        lockouts.hear(Kind::AsyncCancel, &one, &verdict, &LastReply::default(), probes, moment);
        // Another endpoint of the API waits for the shortest delay, and not until the probe is given up on.
        let next = lockouts.next_probe(Kind::SyncCancelRollback, [&one].into_iter(), at);
        assert_eq!(next, Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_wrong_address_shuts_one_endpoint() {
        let mut lockouts = LockOuts::default();
        locked(&mut lockouts, Kind::AsyncCancel, LockOutScope::Endpoint);
        assert!(waits(&mut lockouts, Kind::AsyncCancel, "one"));
        assert!(!waits(&mut lockouts, Kind::SyncCancelRollback, "one"));
    }
}
