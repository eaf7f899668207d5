//! Whether the gateway can be reached, host by host and endpoint by endpoint: kept as a state, so that it is told when it
//! changes and not once for each letter. And the connections that were found dead.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::condition::{Condition, Tell};
use crate::domain::fault::{Fault, Reach};
use crate::domain::intent::Api;
use crate::web::failure::Failure;

/// A host that was not reached is reachable again when it was reached, and for so long never was not; an endpoint alike.
const OVER_AFTER: Duration = Duration::from_secs(5);

/// So many connections are remembered as used; those that have been idle for too long are forgotten first.
const USED_LEN_MAX: usize = 1_024;

/// What is known of the gateway's hosts and endpoints.
#[derive(Debug)]
pub(super) struct Endpoints {
    begun: Instant,
    known: Mutex<BTreeMap<FailurePoint, Condition<Cause>>>,
    /// Something may have to be told.
    changed: Notify,
    connections: Connections,
    /// Of each API: how many requests died with a connection that had carried others before.
    stale: BTreeMap<Api, AtomicU64>,
}

/// Where something fails: what fails before there is a connection is the host's, all else the endpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FailurePoint {
    Host(Api),
    Endpoint(Api, &'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cause {
    fault: Fault,
    detail: &'static str,
}

/// What is to be told of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News<'a> {
    /// Whose host or endpoint it is.
    pub api: Api,
    /// The host.
    pub host: &'a str,
    /// Its port.
    pub port: Option<u16>,
    /// The endpoint's path, of which parts in braces differ from request to request; `None`: the host as a whole.
    pub endpoint: Option<&'static str>,
    /// What is the matter.
    pub what: What,
}

/// What is the matter with a host or an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It fails.
    Fails {
        /// How, as one word.
        fault: Fault,
        /// How, for the person who must fix it.
        detail: &'static str,
        /// How many requests since it was last told.
        times: u64,
        /// How long it has lasted.
        lasts: Duration,
    },
    /// It answers again.
    AnswersAgain {
        /// How long it had failed.
        lasted: Duration,
    },
}

impl Endpoints {
    pub(super) fn new() -> Endpoints {
        Endpoints {
            begun: Instant::now(),
            known: Mutex::default(),
            changed: Notify::new(),
            connections: Connections::default(),
            stale: Api::ALL.map(|api| (api, AtomicU64::new(0))).into(),
        }
    }

    /// Takes note of how a request ended. `failure` is `None` where a reply came that could be read, whatever it said.
    pub(super) fn hear(&self, api: Api, endpoint: &'static str, failure: Option<Failure>) {
        let now = self.begun.elapsed();
        let host = FailurePoint::Host(api);
        let place = FailurePoint::Endpoint(api, endpoint);
        let (failed, cleared): (Option<FailurePoint>, &[FailurePoint]) =
            match failure.map(|failure| failure.fault.reach()) {
                Some(Reach::NotConnected) => (Some(host), &[]),
                Some(Reach::Connected) => (Some(place), &[host]),
                None => (None, &[host, place]),
            };
        let mut known = self.lock();
        let mut is_news = false;
        for cleared in cleared {
            is_news |= known.get_mut(cleared).is_some_and(Condition::cleared);
        }
        if let (Some(failed), Some(Failure { fault, detail })) = (failed, failure) {
            known
                .entry(failed)
                .or_insert_with(|| Condition::new(OVER_AFTER))
                .met(Cause { fault, detail }, now);
            is_news = true;
        }
        drop(known);
        if is_news {
            self.changed.notify_one();
        }
    }

    /// Says what is to be told, as soon as it is. Ends never; what happened before it is polled first is told then.
    pub(super) async fn watch(&self, tell: impl Fn(FailurePoint, What)) -> Infallible {
        loop {
            let changed = self.changed.notified();
            let (news, next) = self.look();
            for (place, what) in news {
                tell(place, what);
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(next.unwrap_or(Duration::MAX)), if next.is_some() => {}
            }
        }
    }

    /// What is to be told now, and after how long that is to be looked at again.
    fn look(&self) -> (Vec<(FailurePoint, What)>, Option<Duration>) {
        let now = self.begun.elapsed();
        let mut known = self.lock();
        let mut news = Vec::new();
        for (place, condition) in known.iter_mut() {
            news.extend(condition.look(now).into_iter().map(|tell| {
                let what = match tell {
                    Tell::Is { cause: Cause { fault, detail }, times, lasts } => {
                        What::Fails { fault, detail, times, lasts }
                    }
                    Tell::Over { lasted } => What::AnswersAgain { lasted },
                };
                (*place, what)
            }));
        }
        let next = known.values().filter_map(|condition| condition.next_look(now)).min();
        (news, next)
    }

    /// A request on this connection was answered.
    pub(super) fn answered_on(&self, local: Option<SocketAddr>) {
        self.connections.used(local, self.begun.elapsed());
    }

    /// A request on this connection failed. Counts it if the connection had carried one before and was found dead.
    pub(super) fn failed_on(&self, api: Api, local: Option<SocketAddr>, fault: Fault, idle_max: Duration) {
        if self.connections.was_stale(local, fault, idle_max, self.begun.elapsed())
            && let Some(stale) = self.stale.get(&api)
        {
            stale.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests to this API died with a connection that had carried others before.
    pub(super) fn stale(&self, api: Api) -> u64 {
        self.stale.get(&api).map_or(0, |stale| stale.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FailurePoint, Condition<Cause>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections that have carried a request, by our end of them.
///
/// A server, or a box on the way, may close a connection while it is idle, and in the moment in which the next request is
/// sent on it. Then nobody knows whether that request was read: it is in doubt, though mostly nothing happened.
#[derive(Debug, Default)]
struct Connections {
    used: Mutex<BTreeMap<SocketAddr, Duration>>,
}

impl Connections {
    fn used(&self, local: Option<SocketAddr>, now: Duration) {
        let Some(local) = local else { return };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(local, now);
        if used.len() > USED_LEN_MAX {
            let oldest = used.iter().min_by_key(|(_, at)| **at).map(|(local, _)| *local);
            oldest.map(|local| used.remove(&local));
        }
    }

    /// Whether this connection had carried a request before, not longer ago than a connection is kept idle, and ended
    /// without a word. Another one may have the same local end later: so it is forgotten.
    fn was_stale(&self, local: Option<SocketAddr>, fault: Fault, idle_max: Duration, now: Duration) -> bool {
        let Some(local) = local else { return false };
        let used_at = self.used.lock().unwrap_or_else(PoisonError::into_inner).remove(&local);
        matches!(fault, Fault::Reset | Fault::Closed)
            && used_at.is_some_and(|at| now <= at.saturating_add(idle_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &str = "/call";
    const LOOK: &str = "/look";
    const DNS: Failure = Failure::new(Fault::Dns, "the name of the host cannot be resolved");
    const RESET: Failure = Failure::new(Fault::Reset, "the connection was reset before a reply");

    fn hear(endpoints: &Endpoints, endpoint: &'static str, failure: Option<Failure>) {
        endpoints.hear(Api::Physical, endpoint, failure);
    }

    /// What is told within this many seconds of a clock that stands unless it is waited for.
    async fn told(endpoints: &Endpoints, seconds: u64) -> Vec<String> {
        let told = Mutex::new(Vec::new());
        let watching = endpoints.watch(|place, what| {
            let place = match place {
                FailurePoint::Host(api) => format!("{api}"),
                FailurePoint::Endpoint(api, endpoint) => format!("{api}{endpoint}"),
            };
            let what = match what {
                What::Fails { fault, times, lasts, .. } => {
                    format!("{} {times} {}", fault.as_str(), lasts.as_secs())
                }
                What::AnswersAgain { lasted } => format!("again {}", lasted.as_secs()),
            };
            told.lock().expect("nobody panics with it").push(format!("{place} {what}"));
        });
        let _ = tokio::time::timeout(Duration::from_secs(seconds), watching).await;
        told.into_inner().expect("nobody panics with it")
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_not_reached_is_told_once_and_then_once_a_minute() {
        let endpoints = Endpoints::new();
        let mut lines = Vec::new();
        for _second in 0..=120 {
            hear(&endpoints, CALL, Some(DNS));
            hear(&endpoints, LOOK, Some(DNS));
            lines.extend(told(&endpoints, 1).await);
        }
        assert_eq!(lines, ["physical dns 2 0", "physical dns 118 60", "physical dns 120 120"]);
    }

    #[tokio::test(start_paused = true)]
    async fn its_end_is_told_when_it_was_reached_for_a_while_even_if_nothing_more_comes() {
        let endpoints = Endpoints::new();
        hear(&endpoints, CALL, Some(DNS));
        assert_eq!(told(&endpoints, 600).await, ["physical dns 1 0"], "nothing was tried since");
        hear(&endpoints, LOOK, None);
        assert_eq!(told(&endpoints, 1).await, ["physical again 0"]);
        assert_eq!(told(&endpoints, 600).await, Vec::<String>::new());

        hear(&endpoints, CALL, Some(DNS));
        hear(&endpoints, CALL, None);
        assert_eq!(told(&endpoints, 4).await, ["physical dns 1 0"]);
        assert_eq!(told(&endpoints, 600).await, ["physical again 0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_on_a_connection_is_the_endpoints_and_shows_that_the_host_is_reached() {
        let endpoints = Endpoints::new();
        hear(&endpoints, CALL, Some(DNS));
        assert_eq!(told(&endpoints, 10).await, ["physical dns 1 0"]);
        hear(&endpoints, CALL, Some(RESET));
        hear(&endpoints, LOOK, None);
        assert_eq!(told(&endpoints, 10).await, ["physical again 0", "physical/call reset 1 0"]);
        hear(&endpoints, CALL, None);
        assert_eq!(told(&endpoints, 10).await, ["physical/call again 0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_cause_is_told_at_once() {
        let endpoints = Endpoints::new();
        hear(&endpoints, CALL, Some(DNS));
        hear(&endpoints, CALL, Some(Failure::new(Fault::Tls, "the certificate has expired")));
        assert_eq!(told(&endpoints, 1).await, ["physical dns 1 0", "physical tls 1 0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_knows_nothing_of_another() {
        let endpoints = Endpoints::new();
        endpoints.hear(Api::Payment, CALL, Some(DNS));
        hear(&endpoints, CALL, None);
        assert_eq!(told(&endpoints, 60).await, ["payment dns 1 0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_had_carried_a_request_and_then_died_is_counted() {
        const WITHIN: Duration = Duration::from_secs(15);
        let endpoints = Endpoints::new();
        let local = |port: u16| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let fail = |port, fault| endpoints.failed_on(Api::Physical, local(port), fault, WITHIN);
        endpoints.answered_on(local(1));
        fail(1, Fault::Reset);
        assert_eq!(endpoints.stale(Api::Physical), 1);
        fail(1, Fault::Reset);
        assert_eq!(endpoints.stale(Api::Physical), 1, "another connection has the same end");
        fail(2, Fault::Closed);
        endpoints.failed_on(Api::Physical, None, Fault::Closed, WITHIN);
        assert_eq!(endpoints.stale(Api::Physical), 1, "those had carried nothing");
        endpoints.answered_on(local(3));
        fail(3, Fault::Timeout);
        endpoints.answered_on(local(4));
        tokio::time::advance(Duration::from_secs(16)).await;
        fail(4, Fault::Reset);
        assert_eq!(endpoints.stale(Api::Physical), 1, "nobody keeps one for so long");
        assert_eq!(endpoints.stale(Api::Private), 0);
        for port in 1..=2_000 {
            endpoints.answered_on(local(port));
        }
        assert!(endpoints.connections.used.lock().expect("nobody panics").len() <= USED_LEN_MAX);
        fail(2_000, Fault::Closed);
        assert_eq!(endpoints.stale(Api::Physical), 2);
    }
}
