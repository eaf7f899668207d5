//! What the lanes know together about the gateway: which of its doors are shut, and for whom.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::classify::Verdict;
use crate::domain::history::LastReply;
use crate::domain::intent::{Api, Kind, MerchantName};
use crate::domain::lockout::{Change, Door, Heard, Pass};
use crate::domain::retry::{Roll, Tiers};

/// The doors to the gateway. There are as many as merchants times APIs and endpoints, so they are never forgotten.
#[derive(Debug, Default)]
pub struct Doors(Mutex<BTreeMap<Place, Door>>);

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
    pub fn pass(&self, kind: Kind, merchant: &MerchantName, now: Timestamp, probe_max: Duration) -> Pass {
        let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut passed = Pass::Open;
        for place in places(kind, merchant) {
            let Some(door) = doors.get_mut(&place) else { continue };
            match door.pass(now, probe_max) {
                Pass::Open => {}
                Pass::Probe => passed = Pass::Probe,
                wait @ Pass::Wait { .. } => return wait,
            }
        }
        passed
    }

    /// Takes note of what a call's verdict says about its doors.
    pub fn hear(
        &self,
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
        let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [api, endpoint] = places(kind, merchant);
        if let Heard::LockedOut(_) = heard {
            // A wrong address is one endpoint's; everything else speaks of our keys.
            let is_address = last.client_message.is_none()
                && last.error_code.is_none()
                && last.http_status.is_some_and(|status| matches!(status, 404 | 405 | 410 | 300..=399));
            let place = if is_address { endpoint } else { api };
            return doors.entry(place).or_default().hear(heard, now, tiers, roll);
        }
        let mut changed = Change::None;
        for place in [api, endpoint] {
            if let Some(door) = doors.get_mut(&place)
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

    fn locked(doors: &Doors, kind: Kind, http_status: u16) {
        let tier = Tier { length: Duration::from_secs(1), name: "1s".to_owned() };
        let tiers = Tiers::try_new(vec![tier]).expect("tiers");
        let last = LastReply { http_status: Some(http_status), ..LastReply::default() };
        let moment = (Timestamp::UNIX_EPOCH, &tiers, Roll::new(0.0));
        let change = doors.hear(kind, &merchant("one"), &Verdict::LockedOut, &last, moment);
        assert_eq!(change, Change::Shut);
    }

    fn waits(doors: &Doors, kind: Kind, name: &str) -> bool {
        let pass = doors.pass(kind, &merchant(name), Timestamp::UNIX_EPOCH, Duration::from_secs(30));
        matches!(pass, Pass::Wait { .. })
    }

    #[test]
    fn keys_that_are_not_accepted_shut_the_whole_api_for_their_merchant_and_for_no_other() {
        let doors = Doors::default();
        locked(&doors, Kind::AsyncCancel, 401);
        assert!(waits(&doors, Kind::AsyncCancel, "one"));
        assert!(waits(&doors, Kind::SyncCancelRollback, "one"));
        assert!(!waits(&doors, Kind::AsyncCancel, "two"));
        assert!(!waits(&doors, Kind::TransactionCancel, "one"));
    }

    #[test]
    fn a_wrong_address_shuts_one_endpoint() {
        let doors = Doors::default();
        locked(&doors, Kind::AsyncCancel, 404);
        assert!(waits(&doors, Kind::AsyncCancel, "one"));
        assert!(!waits(&doors, Kind::SyncCancelRollback, "one"));
    }
}
