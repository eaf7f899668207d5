//! How much is asked of an API at once, and how often: `[gateway.<api>] concurrency, rate`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config;
use crate::domain::intent::{Api, Kind};
use crate::domain::rate::Rate;

/// How long a step waits for a limit of the API. That is enough while the gateway answers; after it the letter goes to a
/// delay queue, where it holds no permit of its lane.
pub const ROOM_WAIT_MAX: Duration = Duration::from_secs(5);

/// What is asked of an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// The calls of a kind.
    Call(Kind),
    /// The looks of a kind.
    Look(Kind),
}

impl Use {
    fn kind(self) -> Kind {
        match self {
            Use::Call(kind) | Use::Look(kind) => kind,
        }
    }
}

/// The limits of all APIs that have any.
#[derive(Debug)]
pub(super) struct ApiLimits {
    apis: BTreeMap<Api, Limit>,
    /// Since when time is counted.
    begun: Instant,
}

#[derive(Debug)]
struct Limit {
    room: Option<Room>,
    rate: Option<Mutex<Rate>>,
    /// The steps of one use wait in line, and only the first of each line looks for room: so no lane with a
    /// backlog is heard more often than its neighbour with a single letter.
    lines: BTreeMap<Use, tokio::sync::Mutex<()>>,
}

/// Places for calls and looks: some are reserved for each use, the others are shared.
#[derive(Debug)]
struct Room {
    kept: BTreeMap<Use, Arc<Semaphore>>,
    common: Arc<Semaphore>,
}

/// A place among the calls and looks of an API, until it is dropped.
#[derive(Debug)]
#[must_use = "the place is free again when this is dropped"]
pub struct LimitPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl ApiLimits {
    /// `lanes` are the kinds that are served: only they keep places for themselves.
    pub(super) fn new(limits: &BTreeMap<Api, config::Limits>, lanes: &BTreeSet<Kind>) -> ApiLimits {
        let apis = limits
            .iter()
            .filter(|(_, limits)| limits.concurrency.is_some() || limits.rate.is_some())
            .map(|(api, limits)| (*api, Limit::new(limits, &uses(*api, lanes))))
            .collect();
        ApiLimits { apis, begun: Instant::now() }
    }

    /// Whether anybody ever has to wait for room there.
    pub(super) fn limits(&self, api: Api) -> bool {
        self.apis.contains_key(&api)
    }

    /// A place for one call or look that makes this many requests, as soon as there is one. Can be dropped while it
    /// waits.
    pub(super) async fn place(&self, api: Api, of: Use, requests: u32) -> LimitPermit {
        let Some(limit) = self.apis.get(&api) else { return LimitPermit { _permit: None } };
        let _first_in_line = match limit.lines.get(&of) {
            Some(line) => Some(line.lock().await),
            // A lane that is not served has no letters.
            None => None,
        };
        let permit = match &limit.room {
            Some(room) => room.take(of).await,
            None => None,
        };
        if let Some(rate) = &limit.rate {
            loop {
                let taken =
                    rate.lock().unwrap_or_else(PoisonError::into_inner).take(requests, self.begun.elapsed());
                match taken {
                    Ok(()) => break,
                    Err(wait) => tokio::time::sleep(wait).await,
                }
            }
        }
        LimitPermit { _permit: permit }
    }
}

/// Everything that is asked of an API by these lanes.
fn uses(api: Api, lanes: &BTreeSet<Kind>) -> BTreeSet<Use> {
    let calls = lanes.iter().filter(|kind| kind.api() == api).map(|kind| Use::Call(*kind));
    let looks = lanes.iter().filter(|kind| kind.inquiry_api() == api).map(|kind| Use::Look(*kind));
    calls.chain(looks).collect()
}

impl Limit {
    fn new(limits: &config::Limits, uses: &BTreeSet<Use>) -> Limit {
        Limit {
            room: limits.concurrency.map(|concurrency| Room::new(concurrency, uses)),
            rate: limits.rate.map(|rate| Mutex::new(Rate::new(rate))),
            lines: uses.iter().map(|of| (*of, tokio::sync::Mutex::new(()))).collect(),
        }
    }
}

impl Room {
    fn new(concurrency: u32, uses: &BTreeSet<Use>) -> Room {
        let lanes: BTreeSet<Kind> = uses.iter().map(|of| of.kind()).collect();
        let kept_by_each = kept(concurrency, lanes.len());
        let mut kept = BTreeMap::new();
        for kind in &lanes {
            let of_lane: Vec<Use> = uses.iter().copied().filter(|of| of.kind() == *kind).collect();
            if of_lane.len() == 2 && kept_by_each >= 2 {
                // Calls that hang take nothing from the looks that find out about them.
                let halves = [kept_by_each - kept_by_each / 2, kept_by_each / 2];
                kept.extend(of_lane.into_iter().zip(halves.map(|half| Arc::new(Semaphore::new(half)))));
            } else {
                let shared = Arc::new(Semaphore::new(kept_by_each));
                kept.extend(of_lane.into_iter().map(|of| (of, Arc::clone(&shared))));
            }
        }
        let common = (concurrency as usize).saturating_sub(kept_by_each * lanes.len());
        Room { kept, common: Arc::new(Semaphore::new(common)) }
    }

    async fn take(&self, of: Use) -> Option<OwnedSemaphorePermit> {
        let kept = self.kept.get(&of)?;
        // What is kept for it first: what is common is for everybody. Neither is ever closed.
        tokio::select! {
            biased;
            permit = Arc::clone(kept).acquire_owned() => permit.ok(),
            permit = Arc::clone(&self.common).acquire_owned() => permit.ok(),
        }
    }
}

/// How many places are kept for each lane: half of all, evenly, and at least one where there are as many as lanes. So
/// no lane takes everything from its neighbours, and alone it has more than half.
fn kept(concurrency: u32, lanes_len: usize) -> usize {
    let concurrency = concurrency as usize;
    if concurrency < lanes_len { 0 } else { (concurrency / (2 * lanes_len.max(1))).max(1) }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const SERVED: [Kind; 5] = Kind::ALL;

    fn limits(api: Api, concurrency: Option<u32>, rate: Option<f64>) -> ApiLimits {
        let limits = BTreeMap::from([(api, config::Limits { concurrency, rate })]);
        ApiLimits::new(&limits, &SERVED.into())
    }

    /// As many places as this use gets at once.
    fn places(limits: &ApiLimits, api: Api, of: Use) -> Vec<LimitPermit> {
        std::iter::from_fn(|| limits.place(api, of, 1).now_or_never()).take(1_000).collect()
    }

    #[test]
    fn each_lane_keeps_a_part_of_half_the_places() {
        assert_eq!(
            [(50, 2), (4, 2), (3, 2), (2, 2), (1, 2)].map(|(all, lanes)| kept(all, lanes)),
            [12, 1, 1, 1, 0]
        );
    }

    #[test]
    fn a_lane_alone_has_all_places_but_those_kept_for_others() {
        let limits = limits(Api::Physical, Some(50), None);
        let taken = places(&limits, Api::Physical, Use::Call(Kind::AsyncCancel));
        assert_eq!(taken.len(), 50 - 12 - 6, "all but the other lane's, and the half that is kept for looks");
        assert_eq!(places(&limits, Api::Physical, Use::Call(Kind::SyncCancelRollback)).len(), 6);
        assert_eq!(places(&limits, Api::Physical, Use::Look(Kind::SyncCancelRollback)).len(), 6);
        assert_eq!(places(&limits, Api::Physical, Use::Look(Kind::AsyncCancel)).len(), 6);
        drop(taken);
        assert_eq!(places(&limits, Api::Physical, Use::Call(Kind::AsyncCancel)).len(), 32);
    }

    #[test]
    fn where_there_is_but_one_place_everybody_shares_it() {
        let limits = limits(Api::Payment, Some(1), None);
        let taken = places(&limits, Api::Payment, Use::Call(Kind::BatchCancel));
        assert_eq!(taken.len(), 1);
        assert!(places(&limits, Api::Payment, Use::Call(Kind::ApmProvisionCancel)).is_empty());
        drop(taken);
        assert_eq!(places(&limits, Api::Payment, Use::Look(Kind::ApmProvisionCancel)).len(), 1);
    }

    #[test]
    fn an_api_without_limits_has_room_for_all() {
        let limits = limits(Api::Physical, Some(1), Some(1.0));
        assert_eq!(places(&limits, Api::Private, Use::Call(Kind::TransactionCancel)).len(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_and_the_lanes_take_turns() {
        let limits = Arc::new(limits(Api::Payment, None, Some(10.0)));
        let begun = Instant::now();
        let mut calls = tokio::task::JoinSet::new();
        let mut call = |of| {
            let limits = Arc::clone(&limits);
            calls.spawn(async move {
                let _place = limits.place(Api::Payment, of, 1).await;
                (of, begun.elapsed())
            });
        };
        for _ in 0..20 {
            call(Use::Call(Kind::BatchCancel));
        }
        call(Use::Call(Kind::ApmProvisionCancel));
        let made = calls.join_all().await;
        let lone = made.iter().find(|(of, _)| *of == Use::Call(Kind::ApmProvisionCancel)).expect("it called");
        assert!(lone.1 <= Duration::from_millis(500), "it waited behind a backlog: {:?}", lone.1);
        let last = made.iter().map(|(_, at)| *at).max().expect("calls");
        assert!(last >= Duration::from_millis(1_900), "21 calls in {last:?}");
    }
}
