//! Which endpoints are paused: for everybody, or for one merchant.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::breaker::{Breaker, Caller, EndpointSignal, Transition};
use crate::domain::gate::{Pass, Probe};
use crate::domain::intent::{Kind, MerchantName};
use crate::domain::retry::Jitter;

/// The breakers: one for each lane, fed by the calls of all merchants, and one for each merchant in it. While the lane's
/// breaker is paused, it decides about a letter; else the merchant's does. Their number is bounded by merchants times
/// kinds, so none is ever removed.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    lanes: BTreeMap<Kind, Breaker>,
    merchants: BTreeMap<(Kind, MerchantName), Breaker>,
}

/// A probe, and whose pause it may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BreakerProbe {
    Lane(Probe),
    Merchant(Probe),
}

/// A merchant's pause that begins or ends. A pause of the whole lane is logged by `Admission::consume_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MerchantPause {
    None,
    Paused,
    Resumed(Duration),
}

impl Breakers {
    /// Lets a letter call, perhaps as a probe; `Err`: how long the endpoint has been paused. A probe is given up on after
    /// `probe_max`.
    pub(super) fn pass(
        &mut self,
        kind: Kind,
        merchant: &MerchantName,
        now: Duration,
        probe_max: Duration,
    ) -> Result<Option<BreakerProbe>, Duration> {
        let lane = self.lanes.entry(kind).or_default();
        let is_lane = lane.paused_for(now).is_some();
        let breaker = match is_lane {
            true => lane,
            false => match self.merchants.get_mut(&(kind, merchant.clone())) {
                Some(breaker) => breaker,
                None => return Ok(None),
            },
        };
        match breaker.pass(now, probe_max) {
            Pass::Open => Ok(None),
            Pass::Probe(probe) if is_lane => Ok(Some(BreakerProbe::Lane(probe))),
            Pass::Probe(probe) => Ok(Some(BreakerProbe::Merchant(probe))),
            Pass::Wait(_) => Err(breaker.paused_for(now).unwrap_or_default()),
        }
    }

    /// How long the endpoint has been paused for this merchant, if it is.
    pub(super) fn paused_for(&self, kind: Kind, merchant: &MerchantName, now: Duration) -> Option<Duration> {
        self.facing(kind, merchant, now)?.paused_for(now)
    }

    /// The same, if no probe may pass now.
    pub(super) fn waits(&self, kind: Kind, merchant: &MerchantName, now: Duration) -> Option<Duration> {
        let breaker = self.facing(kind, merchant, now)?;
        breaker.next_probe(now).filter(|next| !next.is_zero()).and_then(|_| breaker.paused_for(now))
    }

    /// The breaker that a letter faces.
    fn facing(&self, kind: Kind, merchant: &MerchantName, now: Duration) -> Option<&Breaker> {
        let lane = self.lanes.get(&kind).filter(|lane| lane.paused_for(now).is_some());
        lane.or_else(|| self.merchants.get(&(kind, merchant.clone())))
    }

    /// How long it is until a letter of this lane may find out for all of it; zero if now. `None`: it is not paused.
    pub(super) fn next_probe(&self, kind: Kind, now: Duration) -> Option<Duration> {
        self.lanes.get(&kind)?.next_probe(now)
    }

    /// Takes note of what a call's reply says about its endpoint.
    pub(super) fn hear(
        &mut self,
        kind: Kind,
        caller: &Caller,
        heard: EndpointSignal,
        ticket: Option<BreakerProbe>,
        moment: (Duration, Jitter),
    ) -> MerchantPause {
        let (now, jitter) = moment;
        let (of_lane, of_merchant) = match ticket {
            None => (None, None),
            Some(BreakerProbe::Lane(probe)) => (Some(probe), None),
            Some(BreakerProbe::Merchant(probe)) => (None, Some(probe)),
        };
        let lane = self.lanes.entry(kind).or_default();
        lane.hear(heard, caller, of_lane, now, jitter);
        if lane.paused_for(now).is_some() {
            // What holds for everybody need not be found out for each.
            self.merchants.retain(|(of, _), _| *of != kind);
            return MerchantPause::None;
        }
        let breaker = self.merchants.entry((kind, caller.merchant.clone())).or_default();
        match breaker.hear(heard, caller, of_merchant, now, jitter) {
            Transition::None => MerchantPause::None,
            Transition::Pause => MerchantPause::Paused,
            Transition::Resume(after) => MerchantPause::Resumed(after),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::intent::IntentId;

    const KIND: Kind = Kind::AsyncCancel;
    const NOW: Duration = Duration::from_secs(100);
    const PROBE_MAX: Duration = Duration::from_secs(30);

    fn merchant(name: &str) -> MerchantName {
        MerchantName::parse(name).expect("a name")
    }

    fn hear(breakers: &mut Breakers, name: &str, heard: EndpointSignal) -> MerchantPause {
        let mut change = MerchantPause::None;
        for intent in 1..=5 {
            let intent = IntentId::try_new(Uuid::from_u128(intent)).expect("not nil");
            let caller = Caller { merchant: merchant(name), intent };
            change = breakers.hear(KIND, &caller, heard, None, (NOW, Jitter::new(0.0)));
        }
        change
    }

    fn waits(breakers: &mut Breakers, kind: Kind, name: &str) -> bool {
        breakers.pass(kind, &merchant(name), NOW, PROBE_MAX).is_err()
    }

    #[test]
    fn an_endpoint_that_answers_nobody_is_paused_for_everybody_and_no_other_is() {
        let mut breakers = Breakers::default();
        assert_eq!(hear(&mut breakers, "one", EndpointSignal::Failed), MerchantPause::None);
        assert!(waits(&mut breakers, KIND, "one"));
        assert!(waits(&mut breakers, KIND, "two"));
        assert!(!waits(&mut breakers, Kind::SyncCancelRollback, "one"));
        assert!(breakers.next_probe(KIND, NOW).is_some());
    }

    #[test]
    fn an_endpoint_that_answers_one_merchant_is_paused_for_the_other_alone() {
        let mut breakers = Breakers::default();
        assert_eq!(hear(&mut breakers, "two", EndpointSignal::Answered), MerchantPause::None);
        assert_eq!(hear(&mut breakers, "one", EndpointSignal::Failed), MerchantPause::Paused);
        assert!(waits(&mut breakers, KIND, "one"));
        assert!(!waits(&mut breakers, KIND, "two"));
        assert_eq!(breakers.next_probe(KIND, NOW), None);
        let later = NOW + Duration::from_secs(1);
        let faced = breakers.pass(KIND, &merchant("one"), later, PROBE_MAX);
        assert!(matches!(faced, Ok(Some(BreakerProbe::Merchant(_)))), "{faced:?}");
    }

    #[test]
    fn a_merchants_own_pause_is_part_of_the_lanes_once_nobody_is_answered() {
        let mut breakers = Breakers::default();
        hear(&mut breakers, "two", EndpointSignal::Answered);
        assert_eq!(hear(&mut breakers, "one", EndpointSignal::Failed), MerchantPause::Paused);
        hear(&mut breakers, "two", EndpointSignal::Failed);
        let later = NOW + Duration::from_secs(1);
        let faced = breakers.pass(KIND, &merchant("one"), later, PROBE_MAX);
        assert!(matches!(faced, Ok(Some(BreakerProbe::Lane(_)))), "{faced:?}");
        hear(&mut breakers, "two", EndpointSignal::Answered);
        assert!(!waits(&mut breakers, KIND, "one"));
    }
}
