//! The step of one delivery, and the loop that runs many at once.
//!
//! One delivery is one step: at most one call, or the inquiries of one look. What is announced is announced before
//! the delivery is settled; the types of `amqp` allow no other order.

use std::sync::Arc;

use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::admission::Admission;
use crate::amqp::{Confirmed, Delivery, Interrupted, Publisher, Purpose, Unacked};
use crate::clock::{Clock, JitterSource};
use crate::config::Config;
use crate::domain::decide::Decision;
use crate::domain::doubt::doubted_unread;
use crate::domain::history::History;
use crate::domain::isolation::Crash;
use crate::domain::lateness::LatenessLimits;
use crate::domain::outcome::RejectedReason;
use crate::domain::policy::Policy;
use crate::domain::retry::{elapsed, later};
use crate::gateway::Gateway;
use crate::memory::{
    Begun, Copies, Copy, Delays, IsolationTransfers, Letters, Ordered, Original, RecentAcks, SeenIds,
    SetBacks,
};
use crate::telemetry::{carrier, events, spans};
use crate::wire::envelope::{Headers, Letter, Messages};
use crate::wire::intent::{Malformed, PartialIntent, Received};
use crate::wire::outcome::{
    Stamp, Unannounced, encode, encode_malformed, encode_unannounced, isolate, put_off,
};

mod announce;
mod deadlines;
mod delay_watch;
mod isolation;
mod job;
mod runner;
mod step;
mod step_log;

pub use deadlines::handling_max;
use job::{Job, lane_of};
pub use runner::run;

/// How many ordered intents are remembered: some 100 bytes each.
const ORDERED_LEN_MAX: usize = 100_000;

/// How many ids are remembered with what they stood for: some 100 bytes each.
const SEEN_IDS_LEN_MAX: usize = 100_000;

/// How many bytes are remembered of letters whose deliveries were lost with their connection.
const LETTERS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How many bytes are remembered of letters that have copies.
const COPIES_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How many bytes are remembered of letters whose outcomes are published, in case that their acks are lost.
const RECENT_ACKS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Everything that a step needs beside its letter. Shared by all steps of a process.
pub struct Worker {
    /// `worker.source`.
    pub source: String,
    /// `worker.name`.
    pub name: String,
    /// The numbers by which is planned and decided.
    pub policy: Policy,
    /// Where calls and looks go.
    pub gateway: Gateway,
    /// Where `now` comes from.
    pub clock: Clock,
    /// Where chance comes from.
    pub jitter: JitterSource,
    /// The intents that this process has ordered, or done.
    pub ordered: Ordered,
    /// What the intents of the ids were that this process has seen.
    pub seen_ids: SeenIds,
    /// What may call or ask now.
    pub admission: Admission,
    /// The letters that this process has in hand, or has decided about.
    pub letters: Arc<Letters>,
    /// Copies of letters in hand.
    pub copies: Copies,
    /// The letters that are on their way to where they are handled alone.
    pub isolation_transfers: IsolationTransfers,
    /// The letters that need nothing but an ack when they come again.
    pub recent_acks: RecentAcks<Confirmed>,
    /// Whether waits end on time.
    pub delays: Arc<Delays>,
    /// Whether this machine's clock was set back.
    pub set_backs: Arc<SetBacks>,
}

impl Worker {
    /// A worker that has ordered nothing yet.
    pub fn new(config: &Config, gateway: Gateway, clock: Clock, jitter: JitterSource) -> Worker {
        Worker {
            source: config.worker.source.clone(),
            name: config.worker.name.clone(),
            policy: config.policy.clone(),
            gateway,
            admission: Admission::new(config, clock.clone(), jitter.clone()),
            clock,
            jitter,
            ordered: Ordered::new(ORDERED_LEN_MAX),
            seen_ids: SeenIds::new(SEEN_IDS_LEN_MAX),
            letters: Arc::new(Letters::new(LETTERS_BYTES_MAX)),
            copies: Copies::new(COPIES_BYTES_MAX),
            isolation_transfers: IsolationTransfers::default(),
            recent_acks: RecentAcks::new(RECENT_ACKS_BYTES_MAX),
            delays: Arc::new(Delays::new(&config.policy.tiers, LatenessLimits::default())),
            set_backs: Arc::new(SetBacks::default()),
        }
    }

    /// Handles one delivery of this queue until it is settled: one step for its intent.
    ///
    /// # Errors
    /// The generation has ended: the delivery comes again.
    pub async fn handle(
        &self,
        delivery: Delivery,
        publisher: &Publisher,
        queue: &str,
    ) -> Result<(), Interrupted> {
        let Delivery { letter, unsettled, purpose } = delivery;
        let job = Job::of(&letter, self.clock.now());
        let original = match self.begin_original(&letter, &job) {
            Ok(original) => original,
            // Nothing is remembered of a copy: its letter has the same bytes.
            Err(messages) => {
                let announced = self.announce(unsettled, messages, &letter, &job, publisher).await?;
                let settled = announced.settle().instrument(spans::settle(queue)).await;
                return settled.map(drop).map_err(|unacked| unacked.interrupted);
            }
        };
        let mut begun = self.letters.begin(&letter).await;
        let generation = unsettled.generation().number();
        let known = self.recent_acks.take(&letter, generation, self.clock.now());
        let (announced, transfer) = match known {
            Some(proof) => {
                events::already_announced(letter.source);
                (unsettled.announced_before(proof), None)
            }
            None => {
                let messages = self.messages(&letter, &job, purpose, &mut begun).await;
                let transfer = isolation::is_transfer(&messages).then(|| self.isolation_transfers.begin());
                let announced = self.announce(unsettled, messages.clone(), &letter, &job, publisher).await?;
                if let Some(original) = original {
                    original.announced(&messages, self.clock.now());
                }
                (announced, transfer)
            }
        };
        let settling = async {
            match transfer {
                Some(_transfer) => announced.settle_for_good().await,
                None => announced.settle().await,
            }
        };
        let (proof, settled) = match settling.instrument(spans::settle(queue)).await {
            Ok(proof) => (proof, Ok(())),
            Err(Unacked { proof, interrupted }) => (proof, Err(interrupted)),
        };
        self.recent_acks.remember(&letter, generation, proof, self.clock.now());
        settled?;
        begun.settled();
        Ok(())
    }

    /// Begins with a letter, or gives what is to be announced about a copy of one whose step is in flight.
    fn begin_original(&self, letter: &Letter, job: &Job) -> Result<Option<Original<'_>>, Messages> {
        if !job::may_have_copies(letter) {
            return Ok(None);
        }
        match self.copies.begin(letter, job.is_untouched(), self.clock.now()) {
            Copy::None(original) => Ok(Some(original)),
            Copy::ToWait => Err(self.copy_waits(letter, job)),
            Copy::Answered(messages) => {
                events::copy_answered(lane_of(letter).as_str());
                Err(messages)
            }
        }
    }

    /// A copy of a letter in flight, on its way to wait for that. It is no attempt, and no doubt; its age runs.
    fn copy_waits(&self, letter: &Letter, job: &Job) -> Messages {
        let now = self.clock.now();
        let kind = lane_of(letter);
        let history = job.history_to_wait_with(letter, now);
        let wait = self.policy.tiers.after_elapsed(elapsed(history.first_seen, now), self.jitter.draw());
        events::copy_waits(kind.as_str(), wait);
        let history = History { due: Some(later(now, wait)), ..history };
        put_off(letter, kind, &history, &self.stamp(&carrier::inject(&Span::current())))
    }

    /// What is to be announced about a letter.
    async fn messages(&self, letter: &Letter, job: &Job, purpose: Purpose, begun: &mut Begun) -> Messages {
        let untouched = begun.is_untouched();
        // Decided once is known: the same bytes, and no second call.
        let messages = match (begun.decided_before(), purpose) {
            (Some(messages), _) => messages.clone(),
            (None, Purpose::Handle) => self.handle_or_isolate(letter, job, untouched).await,
            (None, Purpose::GiveBack) => match self.give_back(letter, job, untouched) {
                Some(messages) => messages,
                None => self.handle_or_isolate(letter, job, untouched).await,
            },
        };
        begun.decided(messages.clone());
        messages
    }

    /// A letter that nothing was done with, on its way to a later step, which may be another worker's. `None` where its step
    /// is done in no time, or must not be put off.
    fn give_back(&self, letter: &Letter, job: &Job, untouched: bool) -> Option<Messages> {
        match job {
            Job::Fresh | Job::Resumed(_) => {}
            Job::Isolated(_) | Job::Republish | Job::Expired => return None,
        }
        let now = self.clock.now();
        let kind = lane_of(letter);
        let history = job.history_to_wait_with(letter, now);
        let trace = carrier::inject(&Span::current());
        Some(match job::crash(letter, untouched) {
            // Whether the process that held it before died of it is for its next step to say.
            Crash::Possible => {
                isolate(letter, kind, &doubted_unread(kind, &history, &self.policy, now), &trace)
            }
            Crash::None => put_off(letter, kind, &history, &self.stamp(&trace)),
        })
    }

    fn malformed(&self, letter: &Letter, malformed: &Malformed) -> Messages {
        step_log::of_known(&malformed.known, |of| {
            events::malformed(of, &malformed.fault.field);
            events::dead_lettered(of, RejectedReason::InvalidIntent.as_str(), &malformed.fault.to_string());
        });
        let trace = carrier::inject(&Span::current());
        encode_malformed(letter, malformed, &self.stamp(&trace))
    }

    /// The end of a letter that nobody is told of but people at the dead letters.
    fn unannounced(&self, letter: &Letter, known: &PartialIntent, why: Unannounced) -> Messages {
        step_log::of_known(known, |of| events::dead_lettered(of, why.as_str(), why.message()));
        let trace = carrier::inject(&Span::current());
        encode_unannounced(letter, known, why, &self.stamp(&trace))
    }

    fn encode(&self, letter: &Letter, received: &Received, decision: &Decision) -> Messages {
        let trace = carrier::inject(&Span::current());
        encode(letter, received, decision, &self.stamp(&trace))
    }

    fn stamp<'a>(&'a self, trace: &'a Headers) -> Stamp<'a> {
        Stamp {
            source: &self.source,
            worker: &self.name,
            now: self.clock.now(),
            trace,
            fresh_id: Uuid::new_v4(),
            tiers: &self.policy.tiers,
        }
    }
}
