//! Which APIs and endpoints of the gateway merchants are locked out of.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::classify::{LockOutScope, Verdict};
use crate::domain::history::LastReply;
use crate::domain::intent::{Api, Kind, MerchantName};
use crate::domain::lockout::{LockOut, LockOutChange, LockOutPass, LockOutSignal};
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

impl LockOuts {
    /// Whether a letter of this kind and merchant may call now. One that probes is given up on after `probe_max`.
    pub(super) fn pass(
        &mut self,
        kind: Kind,
        merchant: &MerchantName,
        now: Timestamp,
        probe_max: Duration,
    ) -> LockOutPass {
        let mut passed = LockOutPass::Open;
        for scope in scopes(kind, merchant) {
            let Some(lockout) = self.0.get_mut(&scope) else { continue };
            match lockout.pass(now, probe_max) {
                LockOutPass::Open => {}
                LockOutPass::Probe => passed = LockOutPass::Probe,
                wait @ LockOutPass::Wait { .. } => return wait,
            }
        }
        passed
    }

    /// How long it is until a letter of this kind may probe the lock-out of one of these merchants; zero if now.
    /// `None`: one of them is not locked out, or there is none of them.
    pub(super) fn next_probe<'a>(
        &self,
        kind: Kind,
        merchants: impl Iterator<Item = &'a MerchantName>,
        now: Timestamp,
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
        moment: (Timestamp, &Tiers, Jitter),
    ) {
        let (now, tiers, jitter) = moment;
        for scope in scopes(kind, merchant) {
            if let Some(lockout) = self.0.get_mut(&scope) {
                lockout.hear(LockOutSignal::Nothing, now, tiers, jitter);
            }
        }
    }

    /// Takes note of what a call's verdict says about its lock-outs.
    pub(super) fn hear(
        &mut self,
        kind: Kind,
        merchant: &MerchantName,
        verdict: &Verdict,
        last: &LastReply,
        moment: (Timestamp, &Tiers, Jitter),
    ) -> LockOutChange {
        let (now, tiers, jitter) = moment;
        let [api, endpoint] = scopes(kind, merchant);
        let heard = match verdict {
            Verdict::LockedOut(scope) => {
                let scope = match scope {
                    LockOutScope::Api => api,
                    LockOutScope::Endpoint => endpoint,
                };
                let heard = LockOutSignal::LockedOut(last.clone());
                return self.0.entry(scope).or_default().hear(heard, now, tiers, jitter);
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
        let mut changed = LockOutChange::None;
        for scope in [api, endpoint] {
            if let Some(lockout) = self.0.get_mut(&scope)
                && let change @ (LockOutChange::Shut | LockOutChange::Opened(_)) =
                    lockout.hear(heard.clone(), now, tiers, jitter)
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
        let moment = (Timestamp::UNIX_EPOCH, &tiers, Jitter::new(0.0));
        let change = lockouts.hear(kind, &merchant("one"), &Verdict::LockedOut(scope), &last, moment);
        assert_eq!(change, LockOutChange::Shut);
    }

    fn waits(lockouts: &mut LockOuts, kind: Kind, name: &str) -> bool {
        let pass = lockouts.pass(kind, &merchant(name), Timestamp::UNIX_EPOCH, Duration::from_secs(30));
        matches!(pass, LockOutPass::Wait { .. })
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
            lockouts.next_probe(kind, merchants.iter(), Timestamp::UNIX_EPOCH)
        };
        locked(&mut lockouts, Kind::AsyncCancel, LockOutScope::Api);
        assert_eq!(next(&lockouts, Kind::AsyncCancel, &merchants), None);
        assert_eq!(next(&lockouts, Kind::SyncCancelRollback, &merchants[..1]), Some(Duration::from_secs(1)));
        assert_eq!(next(&lockouts, Kind::TransactionCancel, &merchants[..1]), None);
        assert_eq!(next(&lockouts, Kind::AsyncCancel, &[]), None);
    }

    #[test]
    fn a_wrong_address_shuts_one_endpoint() {
        let mut lockouts = LockOuts::default();
        locked(&mut lockouts, Kind::AsyncCancel, LockOutScope::Endpoint);
        assert!(waits(&mut lockouts, Kind::AsyncCancel, "one"));
        assert!(!waits(&mut lockouts, Kind::SyncCancelRollback, "one"));
    }
}
