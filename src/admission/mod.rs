//! Whether a letter may call or inquire now: lock-outs, breakers, merchants that the gateway has asked to come later, and
//! limits. All lanes share it. Nothing here decides about a payment.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::amqp::ConsumeMode;
use crate::clock::{Clock, JitterSource};
use crate::config::Config;
use crate::domain::breaker::{Caller, EndpointSignal};
use crate::domain::classify::Verdict;
use crate::domain::history::LastReply;
use crate::domain::intent::{Api, CancelIntent, Kind, MerchantName};
use crate::domain::lockout::LockOutChange;
use crate::domain::reply::Reply;
use crate::domain::retry::{Tiers, later};
use crate::domain::step::{Inquiry, Question};
use crate::domain::waiting::Waiting;
use crate::telemetry::events::{self, IntentRef};

mod breakers;
mod limits;
mod lockouts;

use breakers::{BreakerProbe, Breakers, MerchantPause};
use limits::{ApiLimits, Use};
pub use limits::{LimitPermit, ROOM_WAIT_MAX};
use lockouts::{LockOuts, LockedOut, Probes};

/// How often a letter is looked for while a probe may pass and none comes: the lane may be empty, or its
/// first letter be one that is not called for.
const LOOK_FOR_PROBE_EVERY: Duration = Duration::from_millis(500);

/// What may call or ask now, over all lanes.
pub struct Admission {
    served: BTreeSet<Kind>,
    /// The merchants that have keys for an API.
    keyed: BTreeMap<Api, BTreeSet<MerchantName>>,
    tiers: Tiers,
    retry_after_max: Duration,
    /// A probe without a result is given up on after this.
    probe_max: Duration,
    clock: Clock,
    jitter: JitterSource,
    /// Pauses and waits are measured since this moment: nobody sets that clock.
    begun: Instant,
    limits: ApiLimits,
    known: Mutex<State>,
    /// Something is known that may change how much a lane takes.
    changed: Notify,
    /// Nobody waits for room any more.
    stopping: CancellationToken,
}

/// What is known of the gateway.
#[derive(Debug, Default)]
struct State {
    lockouts: LockOuts,
    breakers: Breakers,
    /// Until when the letters of a merchant wait, as the gateway asked.
    slowed: BTreeMap<(Api, MerchantName), Duration>,
    /// Lanes that were told to be paused, since when, and why.
    paused: BTreeMap<Kind, (Duration, &'static str)>,
}

/// Why a letter is not handled now. It is no attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Hindrance {
    /// Our keys or our address are not accepted; `last` is what the gateway said.
    LockedOut {
        /// It may be looked again then.
        until: Timestamp,
        /// What the gateway said there, to somebody else perhaps.
        last: LastReply,
    },
    /// Something that has nothing to do with its payment.
    Waits {
        /// It may be looked again then.
        until: Timestamp,
        /// What it is.
        why: Waiting,
    },
}

/// A letter that may call. Whatever comes of it must be heard; dropped without, it counts as not called.
#[must_use = "what comes of the call must be heard"]
pub struct Admitted<'a> {
    admission: &'a Admission,
    kind: Kind,
    caller: Caller,
    ticket: Option<BreakerProbe>,
    lockout: Probes,
    heard: bool,
    _place: LimitPermit,
}

impl Admission {
    /// Nothing is known of the gateway yet.
    pub fn new(config: &Config, clock: Clock, jitter: JitterSource) -> Admission {
        let served: BTreeSet<Kind> = config.lanes.keys().copied().collect();
        let keyed = Api::ALL.map(|api| {
            let has_keys = |merchant: &&crate::config::Merchant| match api {
                Api::Physical | Api::Private => merchant.private.is_some(),
                Api::Payment => merchant.public.is_some(),
            };
            let keyed = config.merchants.iter().filter(|(_, merchant)| has_keys(merchant));
            (api, keyed.map(|(name, _)| name.clone()).collect())
        });
        Admission {
            keyed: keyed.into(),
            tiers: config.policy.tiers.clone(),
            retry_after_max: config.policy.retry_after_max,
            probe_max: config.policy.call_timeout.saturating_mul(2),
            clock,
            jitter,
            begun: Instant::now(),
            limits: ApiLimits::new(&config.gateway.limits, &served),
            served,
            known: Mutex::default(),
            changed: Notify::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Lets a letter call, once there is room for it.
    ///
    /// # Errors
    /// Why it has to wait in a delay queue.
    pub async fn enter(&self, intent: &CancelIntent) -> Result<Admitted<'_>, Hindrance> {
        let (kind, merchant) = (intent.kind(), &intent.merchant);
        let api = kind.api();
        // A letter that has to wait anyhow takes no other's place in line.
        if self.limits.limits(api) {
            self.look_ahead(kind, merchant)?;
        }
        let place = self.place(api, Use::Call(kind), 1).await?;
        let now = self.begun.elapsed();
        let mut known = self.lock();
        self.slowed(&known, api, merchant, now)?;
        if let Some(paused_for) = known.breakers.waits(kind, merchant, now) {
            return Err(self.endpoint_down(paused_for));
        }
        let lockout = known
            .lockouts
            .pass(kind, merchant, now, self.probe_max)
            .map_err(|LockedOut { wait, last }| Hindrance::LockedOut { until: self.after(wait), last })?;
        let paused_for = known.breakers.paused_for(kind, merchant, now);
        let ticket = known
            .breakers
            .pass(kind, merchant, now, self.probe_max)
            // No other letter was let in since the look.
            .map_err(|paused_for| self.endpoint_down(paused_for))?;
        if ticket.is_some() {
            let id = intent.id.to_string();
            let of = IntentRef::intent(&id, kind.as_str(), merchant.as_str());
            events::lane_probing(of, paused_for.unwrap_or_default());
        }
        drop(known);
        if ticket.is_some() || lockout.iter().any(Option::is_some) {
            self.changed.notify_one();
        }
        let caller = Caller { merchant: merchant.clone(), intent: intent.id };
        Ok(Admitted { admission: self, kind, caller, ticket, lockout, heard: false, _place: place })
    }

    /// Lets a letter look, once there is room for it. The endpoint of its calls may be paused: looks go elsewhere.
    ///
    /// # Errors
    /// Why it has to wait in a delay queue.
    pub async fn look(&self, intent: &CancelIntent, inquiry: &Inquiry) -> Result<LimitPermit, Hindrance> {
        let api = inquiry.question.api();
        self.slowed(&self.lock(), api, &intent.merchant, self.begun.elapsed())?;
        self.place(api, Use::Look(intent.kind()), requests(&inquiry.question)).await
    }

    /// Says how much each lane takes, at once and whenever it changes; and how much that is, is said by `say`. Ends
    /// never. After `stop` nobody waits for room any more.
    pub async fn keep(&self, stop: &CancellationToken, say: impl Fn(Kind, ConsumeMode)) -> Infallible {
        loop {
            let changed = self.changed.notified();
            let mut again: Option<Duration> = None;
            for kind in &self.served {
                let (mode, look_again) = self.consume_mode(*kind);
                say(*kind, mode);
                again = again.into_iter().chain(look_again).min();
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(again.unwrap_or(Duration::MAX)), if again.is_some() => {}
                () = stop.cancelled(), if !self.stopping.is_cancelled() => self.stopping.cancel(),
            }
        }
    }

    /// How much a lane takes now, and after how long that must be looked at again.
    fn consume_mode(&self, kind: Kind) -> (ConsumeMode, Option<Duration>) {
        let now = self.begun.elapsed();
        let mut known = self.lock();
        let keyed = self.keyed.get(&kind.api()).into_iter().flatten();
        let lockouts = known.lockouts.next_probe(kind, keyed, now);
        let breaker = known.breakers.next_probe(kind, now);
        let (next, why) = match (breaker, lockouts) {
            (None, None) => {
                if let Some((since, _)) = known.paused.remove(&kind) {
                    events::lane_resumed(kind.as_str(), None, now.saturating_sub(since));
                }
                return (ConsumeMode::All, None);
            }
            (Some(breaker), lockouts) => (breaker.max(lockouts.unwrap_or_default()), Waiting::EndpointDown),
            (None, Some(lockouts)) => (lockouts, Waiting::LockedOut),
        };
        let why = why.as_str();
        let (_, told) = known.paused.entry(kind).or_insert((now, ""));
        if *told != why {
            events::lane_paused(kind.as_str(), None, why);
            *told = why;
        }
        if next.is_zero() {
            (ConsumeMode::One, Some(LOOK_FOR_PROBE_EVERY))
        } else {
            (ConsumeMode::Nothing, Some(next))
        }
    }

    /// A letter that would have to wait after having waited for room is told so before.
    fn look_ahead(&self, kind: Kind, merchant: &MerchantName) -> Result<(), Hindrance> {
        let now = self.begun.elapsed();
        let known = self.lock();
        self.slowed(&known, kind.api(), merchant, now)?;
        match known.breakers.waits(kind, merchant, now) {
            None => Ok(()),
            Some(paused_for) => Err(self.endpoint_down(paused_for)),
        }
    }

    fn slowed(
        &self,
        known: &State,
        api: Api,
        merchant: &MerchantName,
        now: Duration,
    ) -> Result<(), Hindrance> {
        match known.slowed.get(&(api, merchant.clone())) {
            Some(until) if *until > now => {
                Err(Hindrance::Waits { until: self.after(*until - now), why: Waiting::SlowedDown })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// About as long again as it has lasted, so that what waits is there soon after the endpoint is back.
    fn endpoint_down(&self, paused_for: Duration) -> Hindrance {
        let until = self.after(self.tiers.after_elapsed(paused_for, self.jitter.draw()));
        Hindrance::Waits { until, why: Waiting::EndpointDown }
    }

    async fn place(&self, api: Api, of: Use, requests: u32) -> Result<LimitPermit, Hindrance> {
        let placed = tokio::select! {
            biased;
            place = self.limits.place(api, of, requests) => Some(place),
            () = self.stopping.cancelled() => None,
            () = tokio::time::sleep(ROOM_WAIT_MAX) => None,
        };
        placed.ok_or_else(|| Hindrance::Waits {
            until: self.after(self.tiers.after_elapsed(ROOM_WAIT_MAX, self.jitter.draw())),
            why: Waiting::NoRoom,
        })
    }

    /// The time of day after so long: what a letter carries is read by that clock.
    fn after(&self, wait: Duration) -> Timestamp {
        later(self.clock.now(), wait)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted<'_> {
    /// Takes note of what the call's reply says about the gateway.
    pub fn hear(&mut self, reply: &Reply, verdict: &Verdict, last: &LastReply) {
        self.heard = true;
        let Admission { jitter, tiers, .. } = self.admission;
        let (now, jitter) = (self.admission.begun.elapsed(), jitter.draw());
        let (kind, api, merchant) = (self.kind, self.kind.api(), &self.caller.merchant);
        let mut known = self.admission.lock();
        let was_paused = known.breakers.next_probe(kind, now).is_some();
        let moment = (now, tiers, jitter);
        let lockout = known.lockouts.hear(kind, merchant, verdict, last, self.lockout, moment);
        let heard = EndpointSignal::of(reply, verdict);
        let breaker = known.breakers.hear(kind, &self.caller, heard, self.ticket, (now, jitter));
        let slowed = match verdict {
            Verdict::Busy(Some(retry_after)) => {
                let wait = retry_after.wait(self.admission.clock.now(), self.admission.retry_after_max);
                let until = known.slowed.entry((api, merchant.clone())).or_insert(now);
                let is_news = *until <= now && !wait.is_zero();
                *until = (*until).max(now.saturating_add(wait));
                is_news.then_some(wait)
            }
            Verdict::Busy(None)
            | Verdict::Done(_)
            | Verdict::Ordered(_)
            | Verdict::OrderedBatch(..)
            | Verdict::Refused(_)
            | Verdict::RefusedByState(_)
            | Verdict::NeverSent
            | Verdict::InDoubt
            | Verdict::LockedOut(_)
            | Verdict::NotConfigured => None,
        };
        let is_paused = known.breakers.next_probe(kind, now).is_some();
        drop(known);
        let is_probe = self.lockout.iter().any(Option::is_some);
        if was_paused || is_paused || is_probe || lockout != LockOutChange::None {
            self.admission.changed.notify_one();
        }
        match lockout {
            LockOutChange::None => {}
            LockOutChange::Shut => events::locked_out(api.as_str(), merchant.as_str(), last.http_status),
            LockOutChange::Opened(after) => events::lock_out_ended(api.as_str(), merchant.as_str(), after),
        }
        match breaker {
            MerchantPause::None => {}
            MerchantPause::Paused => {
                let why = Waiting::EndpointDown.as_str();
                events::lane_paused(kind.as_str(), Some(merchant.as_str()), why);
            }
            MerchantPause::Resumed(after) => {
                events::lane_resumed(kind.as_str(), Some(merchant.as_str()), after)
            }
        }
        if let Some(wait) = slowed {
            events::slowed_down(api.as_str(), merchant.as_str(), wait);
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.heard {
            return;
        }
        let Admission { jitter, tiers, .. } = self.admission;
        let (now, jitter) = (self.admission.begun.elapsed(), jitter.draw());
        let mut known = self.admission.lock();
        known.breakers.hear(self.kind, &self.caller, EndpointSignal::Nothing, self.ticket, (now, jitter));
        known.lockouts.not_called(self.kind, &self.caller.merchant, self.lockout, (now, tiers, jitter));
        drop(known);
        if self.ticket.is_some() || self.lockout.iter().any(Option::is_some) {
            self.admission.changed.notify_one();
        }
    }
}

/// How many requests a look makes.
fn requests(question: &Question) -> u32 {
    match question {
        Question::Physical { .. } => 2,
        Question::Transaction { .. } | Question::Apm { .. } => 1,
        Question::Batch { payments } => u32::try_from(payments.len()).unwrap_or(u32::MAX),
    }
}
