//! What the lanes know together about the gateway: which of its doors are shut and for whom, which of its endpoints
//! are paused, who was asked to come later, and how much may be asked at once. Nothing here decides about a payment.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Dice};
use crate::config::Config;
use crate::domain::breaker::{Caller, Heard, Take};
use crate::domain::classify::Verdict;
use crate::domain::decide::Waiting;
use crate::domain::history::LastReply;
use crate::domain::intent::{Api, CancelIntent, Kind, MerchantName};
use crate::domain::lockout::{self, Pass};
use crate::domain::reply::Reply;
use crate::domain::retry::{Tiers, later};
use crate::domain::step::{Inquiry, Question};
use crate::telemetry::events::{self, Of};

mod breakers;
mod doors;
mod limits;

use breakers::{Breakers, Change, Faced, Ticket};
use doors::Doors;
use limits::{Limits, Use};
pub use limits::{Place, ROOM_WAIT_MAX};

/// While somebody should find out and nobody does, it is looked for a letter so often: the lane may be empty, or its
/// first letter be one that is not called for.
const LOOK_FOR_PROBE_EVERY: Duration = Duration::from_millis(500);

/// Who may call or ask now, over all lanes.
pub struct Lanes {
    served: BTreeSet<Kind>,
    /// The merchants that have keys for an API.
    keyed: BTreeMap<Api, BTreeSet<MerchantName>>,
    tiers: Tiers,
    retry_after_max: Duration,
    /// A letter that finds out is given up on after this.
    probe_max: Duration,
    clock: Clock,
    dice: Dice,
    /// Pauses are measured by a clock that nobody sets.
    begun: Instant,
    limits: Limits,
    known: Mutex<Known>,
    /// Something is known that may change how much a lane takes.
    changed: Notify,
    /// Nobody waits for room any more.
    stopping: CancellationToken,
}

/// What is known of the gateway.
#[derive(Debug, Default)]
struct Known {
    doors: Doors,
    breakers: Breakers,
    /// Until when the letters of a merchant wait, as the gateway wished.
    slowed: BTreeMap<(Api, MerchantName), Timestamp>,
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
pub struct Entered<'a> {
    lanes: &'a Lanes,
    kind: Kind,
    caller: Caller,
    ticket: Option<Ticket>,
    door: lockout::Pass,
    heard: bool,
    _place: Place,
}

impl Lanes {
    /// Lanes that know nothing of the gateway yet.
    pub fn new(config: &Config, clock: Clock, dice: Dice) -> Lanes {
        let served: BTreeSet<Kind> = config.lanes.keys().copied().collect();
        let keyed = Api::ALL.map(|api| {
            let has_keys = |merchant: &&crate::config::Merchant| match api {
                Api::Physical | Api::Private => merchant.private.is_some(),
                Api::Payment => merchant.public.is_some(),
            };
            let keyed = config.merchants.iter().filter(|(_, merchant)| has_keys(merchant));
            (api, keyed.map(|(name, _)| name.clone()).collect())
        });
        Lanes {
            keyed: keyed.into(),
            tiers: config.policy.tiers.clone(),
            retry_after_max: config.policy.retry_after_max,
            probe_max: config.policy.call_timeout.saturating_mul(2),
            clock,
            dice,
            begun: Instant::now(),
            limits: Limits::new(&config.gateway.limits, &served),
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
    pub async fn enter(&self, intent: &CancelIntent) -> Result<Entered<'_>, Hindrance> {
        let (kind, merchant) = (intent.kind(), &intent.merchant);
        let api = kind.api();
        // Who has to wait anyhow takes nobody's place in line.
        if self.limits.limits(api) {
            self.look_ahead(kind, merchant)?;
        }
        let place = self.place(api, Use::Call(kind), 1).await?;
        let (now, uptime) = (self.clock.now(), self.begun.elapsed());
        let mut known = self.lock();
        self.slowed(&known, api, merchant, now)?;
        if let Some(paused_for) = known.breakers.waits(kind, merchant, uptime) {
            return Err(self.endpoint_down(paused_for, now));
        }
        let door = known.doors.pass(kind, merchant, now, self.probe_max);
        if let Pass::Wait { until, last } = door {
            return Err(Hindrance::LockedOut { until, last });
        }
        let paused_for = known.breakers.paused_for(kind, merchant, uptime);
        let ticket = match known.breakers.pass(kind, merchant, uptime, self.probe_max) {
            Faced::Open => None,
            Faced::Probe(ticket) => {
                let id = intent.id.to_string();
                let of = Of::intent(&id, kind.as_str(), merchant.as_str());
                events::lane_probing(of, paused_for.unwrap_or_default());
                Some(ticket)
            }
            // Nobody was let in since the look.
            Faced::Wait { paused_for } => return Err(self.endpoint_down(paused_for, now)),
        };
        drop(known);
        if ticket.is_some() || door == Pass::Probe {
            self.changed.notify_one();
        }
        let caller = Caller { merchant: merchant.clone(), intent: intent.id };
        Ok(Entered { lanes: self, kind, caller, ticket, door, heard: false, _place: place })
    }

    /// Lets a letter look, once there is room for it. The endpoint of its calls may be paused: looks go elsewhere.
    ///
    /// # Errors
    /// Why it has to wait in a delay queue.
    pub async fn look(&self, intent: &CancelIntent, inquiry: &Inquiry) -> Result<Place, Hindrance> {
        let api = inquiry.question.api();
        self.slowed(&self.lock(), api, &intent.merchant, self.clock.now())?;
        self.place(api, Use::Look(intent.kind()), requests(&inquiry.question)).await
    }

    /// Says how much each lane takes, at once and whenever it changes; and how much that is, is said by `say`. Ends
    /// never. After `stop` nobody waits for room any more.
    pub async fn keep(&self, stop: &CancellationToken, say: impl Fn(Kind, Take)) -> Infallible {
        loop {
            let changed = self.changed.notified();
            let mut again: Option<Duration> = None;
            for kind in &self.served {
                let (take, look_again) = self.order(*kind);
                say(*kind, take);
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
    fn order(&self, kind: Kind) -> (Take, Option<Duration>) {
        let (now, uptime) = (self.clock.now(), self.begun.elapsed());
        let mut known = self.lock();
        let keyed = self.keyed.get(&kind.api()).into_iter().flatten();
        let doors = known.doors.next_probe(kind, keyed, now);
        let breaker = known.breakers.next_probe(kind, uptime);
        let (next, why) = match (breaker, doors) {
            (None, None) => {
                if let Some((since, _)) = known.paused.remove(&kind) {
                    events::lane_resumed(kind.as_str(), None, uptime.saturating_sub(since));
                }
                return (Take::All, None);
            }
            (Some(breaker), doors) => (breaker.max(doors.unwrap_or_default()), Waiting::EndpointDown),
            (None, Some(doors)) => (doors, Waiting::LockedOut),
        };
        let why = why.as_str();
        let (_, told) = known.paused.entry(kind).or_insert((uptime, ""));
        if *told != why {
            events::lane_paused(kind.as_str(), None, why);
            *told = why;
        }
        if next.is_zero() { (Take::One, Some(LOOK_FOR_PROBE_EVERY)) } else { (Take::Nothing, Some(next)) }
    }

    /// A letter that would have to wait after having waited for room is told so before.
    fn look_ahead(&self, kind: Kind, merchant: &MerchantName) -> Result<(), Hindrance> {
        let now = self.clock.now();
        let known = self.lock();
        self.slowed(&known, kind.api(), merchant, now)?;
        match known.breakers.waits(kind, merchant, self.begun.elapsed()) {
            None => Ok(()),
            Some(paused_for) => Err(self.endpoint_down(paused_for, now)),
        }
    }

    fn slowed(
        &self,
        known: &Known,
        api: Api,
        merchant: &MerchantName,
        now: Timestamp,
    ) -> Result<(), Hindrance> {
        match known.slowed.get(&(api, merchant.clone())) {
            Some(until) if *until > now => Err(Hindrance::Waits { until: *until, why: Waiting::SlowedDown }),
            Some(_) | None => Ok(()),
        }
    }

    /// About as long again as it has lasted, so that what waits is there soon after the endpoint is back.
    fn endpoint_down(&self, paused_for: Duration, now: Timestamp) -> Hindrance {
        let until = later(now, self.tiers.after_elapsed(paused_for, self.dice.roll()));
        Hindrance::Waits { until, why: Waiting::EndpointDown }
    }

    async fn place(&self, api: Api, of: Use, requests: u32) -> Result<Place, Hindrance> {
        let placed = tokio::select! {
            biased;
            place = self.limits.place(api, of, requests) => Some(place),
            () = self.stopping.cancelled() => None,
            () = tokio::time::sleep(ROOM_WAIT_MAX) => None,
        };
        placed.ok_or_else(|| Hindrance::Waits {
            until: later(self.clock.now(), self.tiers.after_elapsed(ROOM_WAIT_MAX, self.dice.roll())),
            why: Waiting::NoRoom,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entered<'_> {
    /// Takes note of what the call's reply says about the gateway.
    pub fn hear(&mut self, reply: &Reply, verdict: &Verdict, last: &LastReply) {
        self.heard = true;
        let Lanes { clock, dice, tiers, .. } = self.lanes;
        let (now, uptime, roll) = (clock.now(), self.lanes.begun.elapsed(), dice.roll());
        let (kind, api, merchant) = (self.kind, self.kind.api(), &self.caller.merchant);
        let mut known = self.lanes.lock();
        let was_paused = known.breakers.next_probe(kind, uptime).is_some();
        let door = known.doors.hear(kind, merchant, verdict, last, (now, tiers, roll));
        let heard = Heard::of(reply, verdict);
        let breaker = known.breakers.hear(kind, &self.caller, heard, self.ticket, (uptime, roll));
        let slowed = match verdict {
            Verdict::Busy(Some(retry_after)) => {
                let wait = retry_after.wait(now, self.lanes.retry_after_max);
                let until = known.slowed.entry((api, merchant.clone())).or_insert(now);
                let is_news = *until <= now && !wait.is_zero();
                *until = (*until).max(later(now, wait));
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
            | Verdict::LockedOut
            | Verdict::NotConfigured => None,
        };
        let is_paused = known.breakers.next_probe(kind, uptime).is_some();
        drop(known);
        if was_paused || is_paused || door != lockout::Change::None {
            self.lanes.changed.notify_one();
        }
        match door {
            lockout::Change::None => {}
            lockout::Change::Shut => events::locked_out(api.as_str(), merchant.as_str(), last.http_status),
            lockout::Change::Opened(after) => events::let_in(api.as_str(), merchant.as_str(), after),
        }
        match breaker {
            Change::None => {}
            Change::Paused => {
                let why = Waiting::EndpointDown.as_str();
                events::lane_paused(kind.as_str(), Some(merchant.as_str()), why);
            }
            Change::Resumed(after) => events::lane_resumed(kind.as_str(), Some(merchant.as_str()), after),
        }
        if let Some(wait) = slowed {
            events::slowed_down(api.as_str(), merchant.as_str(), wait);
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.heard {
            return;
        }
        let Lanes { clock, dice, tiers, .. } = self.lanes;
        let (now, uptime, roll) = (clock.now(), self.lanes.begun.elapsed(), dice.roll());
        let mut known = self.lanes.lock();
        known.breakers.hear(self.kind, &self.caller, Heard::Nothing, self.ticket, (uptime, roll));
        if self.door == Pass::Probe {
            known.doors.not_called(self.kind, &self.caller.merchant, (now, tiers, roll));
        }
        drop(known);
        if self.ticket.is_some() || self.door == Pass::Probe {
            self.lanes.changed.notify_one();
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
