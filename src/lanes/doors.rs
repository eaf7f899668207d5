//! Which of the gateway's doors are shut, and for whom.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::classify::Verdict;
use crate::domain::history::LastReply;
use crate::domain::intent::{Api, Kind, MerchantName};
use crate::domain::lockout::{Change, Door, Heard, Pass};
use crate::domain::retry::{Roll, Tiers};

/// The doors to the gateway. There are as many as merchants times APIs and endpoints, so they are never forgotten.
#[derive(Debug, Default)]
pub(super) struct Doors(BTreeMap<Place, Door>);

/// Where a door stands: our keys open an API, our address an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Api(Api, MerchantName),
    Endpoint(Kind, MerchantName),
}

fn places(kind: Kind, merchant: &MerchantName) -> [Place; 2] {
    [Place::Api(kind.api(), merchant.clone()), Place::Endpoint(kind, merchant.clone())]
}

impl Doors {
    /// Whether a letter of this kind and merchant may call now. One that probes is given up on after `probe_max`.
    pub(super) fn pass(
        &mut self,
        kind: Kind,
        merchant: &MerchantName,
        now: Timestamp,
        probe_max: Duration,
    ) -> Pass {
        let mut passed = Pass::Open;
        for place in places(kind, merchant) {
            let Some(door) = self.0.get_mut(&place) else { continue };
            match door.pass(now, probe_max) {
                Pass::Open => {}
                Pass::Probe => passed = Pass::Probe,
                wait @ Pass::Wait { .. } => return wait,
            }
        }
        passed
    }

    /// How long it is until a letter of this kind may find out about the doors of one of these merchants; zero if
    /// now. `None`: a door is open for one of them, or there is none of them.
    pub(super) fn next_probe<'a>(
        &self,
        kind: Kind,
        merchants: impl Iterator<Item = &'a MerchantName>,
        now: Timestamp,
    ) -> Option<Duration> {
        let next = merchants.map(|merchant| {
            let doors = places(kind, merchant).into_iter().filter_map(|place| self.0.get(&place));
            doors.filter_map(|door| door.next_probe(now)).max()
        });
        next.collect::<Option<Vec<Duration>>>()?.into_iter().min()
    }

    /// A letter that was to find out has called nothing.
    pub(super) fn not_called(
        &mut self,
        kind: Kind,
        merchant: &MerchantName,
        moment: (Timestamp, &Tiers, Roll),
    ) {
        let (now, tiers, roll) = moment;
        for place in places(kind, merchant) {
            if let Some(door) = self.0.get_mut(&place) {
                door.hear(Heard::Nothing, now, tiers, roll);
            }
        }
    }

    /// Takes note of what a call's verdict says about its doors.
    pub(super) fn hear(
        &mut self,
        kind: Kind,
        merchant: &MerchantName,
        verdict: &Verdict,
        last: &LastReply,
        moment: (Timestamp, &Tiers, Roll),
    ) -> Change {
        let (now, tiers, roll) = moment;
        let heard = match verdict {
            Verdict::LockedOut => Heard::LockedOut(last.clone()),
            Verdict::NeverSent => Heard::Nothing,
            Verdict::Done(_)
            | Verdict::Ordered(_)
            | Verdict::OrderedBatch(..)
            | Verdict::Refused(_)
            | Verdict::RefusedByState(_)
            | Verdict::Busy(_)
            | Verdict::InDoubt
            | Verdict::NotConfigured => match last.http_status {
                Some(_) => Heard::LetIn,
                None => Heard::Nothing,
            },
        };
        let [api, endpoint] = places(kind, merchant);
        if let Heard::LockedOut(_) = heard {
            // A wrong address is one endpoint's; everything else speaks of our keys.
            let is_address = last.client_message.is_none()
                && last.error_code.is_none()
                && last.http_status.is_some_and(|status| matches!(status, 404 | 405 | 410 | 300..=399));
            let place = if is_address { endpoint } else { api };
            return self.0.entry(place).or_default().hear(heard, now, tiers, roll);
        }
        let mut changed = Change::None;
        for place in [api, endpoint] {
            if let Some(door) = self.0.get_mut(&place)
                && let change @ (Change::Shut | Change::Opened(_)) =
                    door.hear(heard.clone(), now, tiers, roll)
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

    fn locked(doors: &mut Doors, kind: Kind, http_status: u16) {
        let tier = Tier { length: Duration::from_secs(1), name: "1s".to_owned() };
        let tiers = Tiers::try_new(vec![tier]).expect("tiers");
        let last = LastReply { http_status: Some(http_status), ..LastReply::default() };
        let moment = (Timestamp::UNIX_EPOCH, &tiers, Roll::new(0.0));
        let change = doors.hear(kind, &merchant("one"), &Verdict::LockedOut, &last, moment);
        assert_eq!(change, Change::Shut);
    }

    fn waits(doors: &mut Doors, kind: Kind, name: &str) -> bool {
        let pass = doors.pass(kind, &merchant(name), Timestamp::UNIX_EPOCH, Duration::from_secs(30));
        matches!(pass, Pass::Wait { .. })
    }

    #[test]
    fn keys_that_are_not_accepted_shut_the_whole_api_for_their_merchant_and_for_no_other() {
        let mut doors = Doors::default();
        locked(&mut doors, Kind::AsyncCancel, 401);
        assert!(waits(&mut doors, Kind::AsyncCancel, "one"));
        assert!(waits(&mut doors, Kind::SyncCancelRollback, "one"));
        assert!(!waits(&mut doors, Kind::AsyncCancel, "two"));
        assert!(!waits(&mut doors, Kind::TransactionCancel, "one"));
    }

    #[test]
    fn only_when_every_merchant_is_locked_out_nobody_may_call() {
        let mut doors = Doors::default();
        let merchants = [merchant("one"), merchant("two")];
        let next = |doors: &Doors, kind, merchants: &[MerchantName]| {
            doors.next_probe(kind, merchants.iter(), Timestamp::UNIX_EPOCH)
        };
        locked(&mut doors, Kind::AsyncCancel, 401);
        assert_eq!(next(&doors, Kind::AsyncCancel, &merchants), None);
        assert_eq!(next(&doors, Kind::SyncCancelRollback, &merchants[..1]), Some(Duration::from_secs(1)));
        assert_eq!(next(&doors, Kind::TransactionCancel, &merchants[..1]), None);
        assert_eq!(next(&doors, Kind::AsyncCancel, &[]), None);
    }

    #[test]
    fn a_wrong_address_shuts_one_endpoint() {
        let mut doors = Doors::default();
        locked(&mut doors, Kind::AsyncCancel, 404);
        assert!(waits(&mut doors, Kind::AsyncCancel, "one"));
        assert!(!waits(&mut doors, Kind::SyncCancelRollback, "one"));
    }
}
