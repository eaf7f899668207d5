//! The step of one delivery, and the loop that runs many at once.
//!
//! One delivery is one step: at most one call, or the inquiries of one look. What is announced is announced before
//! the delivery is settled; the types of `amqp` allow no other order.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::admission::{Admission, Hindrance, ROOM_WAIT_MAX};
use crate::amqp::{
    self, Announced, Confirmed, Delivery, Interrupted, Publisher, Purpose, Stopped, Unacked, Unsettled,
};
use crate::clock::{Clock, JitterSource};
use crate::domain::classify::{Facts, Verdict, classify, codes_of, rule_of};
use crate::domain::decide::{
    DeadReason, Decision, Moment, Then, decide_findings, decide_verdict, give_up, wait_locked_out,
    wait_untried,
};
use crate::domain::doubt::{doubted_unread, in_doubt, resumed};
use crate::domain::evidence::{Findings, weigh};
use crate::domain::fault::Fault;
use crate::domain::history::{Doubt, History, Item, Phase};
use crate::domain::intent::{CancelIntent, IntentId, Kind, MerchantName};
use crate::domain::isolation::{Room, Suspicion, Trace, suspect};
use crate::domain::lateness::{Arrived, LatenessLimits, News, Seen, WayBack};
use crate::domain::outcome::{RejectedReason, Subject, UnresolvedReason};
use crate::domain::plan::{Plan, Planned, inquiry_after, plan};
use crate::domain::policy::Policy;
use crate::domain::reply::{InquiryReply, Reply};
use crate::domain::retry::{Tier, elapsed, later};
use crate::domain::set_back::{corrected, set_back_by};
use crate::domain::step::{Call, Inquiry, Order};
use crate::gateway::{self, Gateway, call_path};
use crate::memory::{
    Begun, ClockNews, Copies, Copy, Delays, IdContent, IsolationTransfers, Letters, Ordered, RecentAcks,
    SeenIds, SetBacks,
};
use crate::telemetry::events::IntentRef;
use crate::telemetry::{carrier, events, spans};
use crate::wire::envelope::{Address, HeaderValue, Headers, Letter, Message, Messages, Redelivered, Source};
use crate::wire::history;
use crate::wire::hop;
use crate::wire::intent::{Judgement, Malformed, PartialIntent, Received, decode, judge};
use crate::wire::origin;
use crate::wire::outcome::{
    Stamp, Unannounced, announce_again, encode, encode_malformed, encode_unannounced, isolate, park, put_off,
    refusals,
};

/// So many ordered intents are remembered: some 100 bytes each.
const ORDERED_LEN_MAX: usize = 100_000;

/// How many ids are remembered with what they stood for: some 100 bytes each.
const SEEN_IDS_LEN_MAX: usize = 100_000;

/// A step that is handled alone is cut off after this, so that those who wait behind it are not forgotten.
const ALONE_MAX: Duration = Duration::from_secs(5);

/// So long at most does a step that is handled alone wait for other letters to be settled where they came from.
const SETTLED_WAIT_MAX: Duration = Duration::from_secs(10);

/// So much is remembered of letters whose deliveries were lost with their connection.
const LETTERS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// So much is remembered of letters that have copies.
const COPIES_BYTES_MAX: usize = 8 * 1024 * 1024;

/// So much is remembered of letters that are told, in case that their acks are lost.
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
    /// Who may call or ask now.
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
    pub fn new(
        config: &crate::config::Config,
        gateway: Gateway,
        clock: Clock,
        jitter: JitterSource,
    ) -> Worker {
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

    /// One delivery of this queue, from the broker's hand back into it: one step for its intent.
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
        let in_hand = match may_have_copies(&letter)
            .then(|| self.copies.begin(&letter, is_fresh(&letter), self.clock.now()))
        {
            None => None,
            Some(Copy::None(in_hand)) => Some(in_hand),
            Some(Copy::ToWait) => {
                let messages = self.copy_waits(&letter);
                return self.end_copy(unsettled, messages, &letter, publisher, queue).await;
            }
            Some(Copy::Answered(messages)) => {
                events::copy_answered(lane_of(&letter).as_str());
                return self.end_copy(unsettled, messages, &letter, publisher, queue).await;
            }
        };
        let mut begun = self.letters.begin(&letter).await;
        let generation = unsettled.generation().number();
        let (announced, moving) = match self.recent_acks.take(&letter, generation, self.clock.now()) {
            Some(proof) => {
                events::already_announced(letter.source);
                (unsettled.announced_before(proof), None)
            }
            None => {
                let messages = self.messages(&letter, purpose, &mut begun).await;
                let moving = is_suspect(&messages).then(|| self.isolation_transfers.begin());
                let announced = self.announce(unsettled, messages.clone(), &letter, publisher).await?;
                if let Some(in_hand) = in_hand {
                    in_hand.announced(&messages, self.clock.now());
                }
                (announced, moving)
            }
        };
        let settling = async {
            match moving {
                Some(_moving) => announced.settle_for_good().await,
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

    /// A copy of a letter in hand, on its way to wait for that. It is no attempt, and no doubt; its age runs.
    fn copy_waits(&self, letter: &Letter) -> Messages {
        let now = self.clock.now();
        let kind = lane_of(letter);
        let history = self.history_unread(letter, now);
        let wait = self.policy.tiers.after_elapsed(elapsed(history.first_seen, now), self.jitter.draw());
        events::copy_waits(kind.as_str(), wait);
        let history = History { due: Some(later(now, wait)), ..history };
        put_off(letter, kind, &history, &self.stamp(&carrier::inject(&Span::current())))
    }

    /// Announces what becomes of a copy, and acks it. Nothing of it is remembered: its letter has the same bytes.
    async fn end_copy(
        &self,
        unsettled: Unsettled,
        messages: Messages,
        letter: &Letter,
        publisher: &Publisher,
        queue: &str,
    ) -> Result<(), Interrupted> {
        let announced = self.announce(unsettled, messages, letter, publisher).await?;
        let settled = announced.settle().instrument(spans::settle(queue)).await;
        settled.map(drop).map_err(|unacked| unacked.interrupted)
    }

    /// What is to be announced about a letter.
    async fn messages(&self, letter: &Letter, purpose: Purpose, begun: &mut Begun) -> Messages {
        let messages = match (begun.decided_before(), purpose) {
            // Decided once is known: the same bytes, and no second call.
            (Some(messages), _) => messages.clone(),
            (None, Purpose::Handle) => self.answer(letter, begun.is_untouched()).await,
            (None, Purpose::GiveBack) => match self.give_back(letter, begun.is_untouched()) {
                Some(messages) => messages,
                None => self.answer(letter, begun.is_untouched()).await,
            },
        };
        begun.decided(messages.clone());
        messages
    }

    async fn announce(
        &self,
        unsettled: Unsettled,
        mut messages: Messages,
        letter: &Letter,
        publisher: &Publisher,
    ) -> Result<Announced, Interrupted> {
        let refusals = match letter.source {
            Source::Announcements => refusals(&letter.headers).saturating_add(1),
            Source::Lane(_) | Source::Returns(_) | Source::Rescue | Source::Isolation => 1,
        };
        // Only now: what is announced again waits anew.
        let now = self.clock.now();
        let going = self.delays.going(messages.iter_mut().filter_map(|message| hop::stamp(message, now)));
        let parked = Mutex::new(Vec::new());
        let park = |refused: &Message| {
            let mut message = self.park(refused, refusals)?;
            let going = self.delays.going(hop::stamp(&mut message, self.clock.now()));
            parked.lock().unwrap_or_else(PoisonError::into_inner).push(going);
            Some(message)
        };
        let announcing = spans::announce(messages.as_slice().len());
        let announced = publisher.announce(unsettled, messages, park).instrument(announcing).await?;
        for going in parked.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().chain([going]) {
            going.arrived();
        }
        Ok(announced)
    }

    /// What becomes of an event that the broker refused: it waits, longer each time, and is announced again. The
    /// gateway is not called again for it.
    fn park(&self, refused: &Message, refusals: u32) -> Option<Message> {
        let wait = self.policy.tiers.after_tries(refusals, self.jitter.draw());
        let now = self.clock.now();
        let parked = park(refused, refusals, self.policy.tiers.towards(later(now, wait), now))?;
        events::announcement_parked(refused.message_id.as_deref().unwrap_or_default(), refusals, wait);
        Some(parked)
    }

    /// A letter that nothing was done with, on its way to a later step, which may be another worker's. `None` where its step
    /// is done in no time, or must not be put off.
    fn give_back(&self, letter: &Letter, untouched: bool) -> Option<Messages> {
        match letter.source {
            Source::Lane(_) | Source::Returns(_) => {}
            Source::Rescue | Source::Announcements | Source::Isolation => return None,
        }
        let now = self.clock.now();
        let kind = lane_of(letter);
        let history = self.history_unread(letter, now);
        let trace = carrier::inject(&Span::current());
        let is_suspect = letter.redelivered == Redelivered::Yes && !untouched;
        if is_suspect {
            // Somebody held it before. That somebody has died of it is for its next step to say.
            let history = doubted_unread(kind, &history, &self.policy, now);
            return Some(isolate(letter, kind, &history, &trace));
        }
        Some(put_off(letter, kind, &history, &self.stamp(&trace)))
    }

    /// The history of a letter of a lane or of the returns whose step is not made now.
    fn history_unread(&self, letter: &Letter, now: Timestamp) -> History {
        match letter.source {
            Source::Returns(_) | Source::Isolation => {
                let fresh = History::fresh(now, 0);
                carried(letter, history::items_len(&letter.headers), now)
                    .unwrap_or_else(|| in_doubt(&fresh, now, now))
            }
            Source::Lane(_) => {
                let received = decode(&letter.body);
                History::fresh(now, received.map_or(0, |received| received.intent.items().len()))
            }
            Source::Rescue | Source::Announcements => History::fresh(now, 0),
        }
    }

    /// What is to be announced about a letter that nothing was decided about yet: one that may have taken a process
    /// down is handled alone, and a step that panics makes it such a one.
    async fn answer(&self, letter: &Letter, untouched: bool) -> Messages {
        if letter.source == Source::Announcements {
            return announce_again(letter);
        }
        let trace = match letter.redelivered {
            Redelivered::Yes if !untouched => Trace::Suspect,
            Redelivered::Yes | Redelivered::No => Trace::None,
        };
        if let Some(messages) = self.isolate(letter, trace) {
            return messages;
        }
        if letter.source == Source::Isolation {
            // It may take the process down, which should cost nobody a second life, nor itself. But nobody waits for ever.
            let _ = tokio::time::timeout(SETTLED_WAIT_MAX, self.isolation_transfers.none()).await;
        }
        match AssertUnwindSafe(self.step(letter)).catch_unwind().await {
            Ok(messages) => messages,
            // RecentAcks where it happened. Its neighbours go on.
            Err(_panic) => self.isolate(letter, Trace::Suspect).unwrap_or_else(|| self.poison(letter, None)),
        }
    }

    /// The move of a letter that may have taken a process down; `None` for one that is handled here and now.
    fn isolate(&self, letter: &Letter, trace: Trace) -> Option<Messages> {
        let now = self.clock.now();
        let room = match letter.source {
            Source::Lane(_) | Source::Returns(_) => Room::Among,
            Source::Isolation => Room::Alone,
            // Neither is ever called for, whoever held it before.
            Source::Rescue | Source::Announcements => return None,
        };
        // Before anything else, so also before the body is read.
        let kind = lane_of(letter);
        let fresh = History::fresh(now, 0);
        let history = match letter.source {
            Source::Returns(_) | Source::Isolation => {
                carried(letter, history::items_len(&letter.headers), now)
                    .unwrap_or_else(|| in_doubt(&fresh, now, now))
            }
            Source::Lane(_) | Source::Rescue | Source::Announcements => fresh,
        };
        match suspect(kind, &history, room, trace, &self.policy, now) {
            Suspicion::Clear => None,
            Suspicion::Isolate(history) => {
                events::isolated(kind.as_str(), history.strikes);
                Some(isolate(letter, kind, &history, &carrier::inject(&Span::current())))
            }
            Suspicion::Poison(history) => Some(self.poison(letter, Some(*history))),
        }
    }

    /// The end of a letter that took down one process after the other.
    fn poison(&self, letter: &Letter, history: Option<History>) -> Messages {
        match judge(letter) {
            Judgement::Intent(received) => {
                let items_len = received.intent.items().len();
                let fresh = || {
                    in_doubt(&History::fresh(self.clock.now(), items_len), self.clock.now(), self.clock.now())
                };
                let mut history = history.unwrap_or_else(fresh);
                history.items.resize(items_len, Item::Doubt);
                let dead = DeadReason::Unresolved(UnresolvedReason::Poison);
                let decision = give_up(&received.intent, &history, dead);
                StepLog::new(&received.intent, None).decided(&decision, self.clock.now());
                self.encode(letter, &received, &decision)
            }
            Judgement::Malformed(malformed) => self.malformed(letter, &malformed),
            Judgement::WrongLane(received) => {
                self.unannounced(letter, &known_of(&received), Unannounced::WrongLane)
            }
        }
    }

    fn malformed(&self, letter: &Letter, malformed: &Malformed) -> Messages {
        StepLog::malformed(malformed);
        let trace = carrier::inject(&Span::current());
        encode_malformed(letter, malformed, &self.stamp(&trace))
    }

    /// The end of a letter that nobody is told of but people at the dead letters.
    fn unannounced(&self, letter: &Letter, known: &PartialIntent, why: Unannounced) -> Messages {
        let id = known.id.map(|id| id.to_string());
        let of = IntentRef {
            intent_id: id.as_deref(),
            kind: known.kind.map(Kind::as_str),
            merchant: known.merchant.as_ref().map(MerchantName::as_str),
        };
        events::dead_lettered(of, why.as_str(), why.message());
        let trace = carrier::inject(&Span::current());
        encode_unannounced(letter, known, why, &self.stamp(&trace))
    }

    /// Whether this letter's id was seen with other content, which only a letter fresh from its lane is held to:
    /// about any other something may have been done already.
    fn is_id_reused(&self, letter: &Letter, id: IntentId, content: &IdContent<'_>) -> bool {
        let is_other = self.seen_ids.is_other(id, content);
        let is_fresh = match letter.source {
            Source::Lane(_) => letter.redelivered == Redelivered::No,
            Source::Returns(_) | Source::Rescue | Source::Announcements | Source::Isolation => false,
        };
        is_other && is_fresh
    }

    /// What is to be announced about a letter, the gateway called or asked where that is the next step.
    async fn step(&self, letter: &Letter) -> Messages {
        match spans::decode().in_scope(|| judge(letter)) {
            Judgement::Intent(received) => {
                if self.is_id_reused(letter, received.intent.id, &IdContent::Intent(&received.intent)) {
                    return self.unannounced(letter, &known_of(&received), Unannounced::IntentIdReused);
                }
                let cut_off = match letter.source {
                    Source::Isolation => Some(ALONE_MAX),
                    Source::Lane(_) | Source::Returns(_) | Source::Rescue | Source::Announcements => None,
                };
                let of = StepLog::new(&received.intent, cut_off);
                spans::identify(&Span::current(), &of.intent_id, of.kind, of.merchant);
                let decision = self.decide(letter, &received.intent, &of).await;
                of.decided(&decision, self.clock.now());
                self.encode(letter, &received, &decision)
            }
            Judgement::Malformed(malformed) => {
                // A refusal of this letter would be taken for one of the intent that has the id.
                if let Some(id) = malformed.known.id
                    && self.is_id_reused(letter, id, &IdContent::Malformed(&letter.body))
                {
                    return self.unannounced(letter, &malformed.known, Unannounced::IntentIdReused);
                }
                self.malformed(letter, &malformed)
            }
            Judgement::WrongLane(received) => {
                self.unannounced(letter, &known_of(&received), Unannounced::WrongLane)
            }
        }
    }

    async fn decide(&self, letter: &Letter, intent: &CancelIntent, of: &StepLog<'_>) -> Decision {
        let now = self.clock.now();
        let history = self.history(letter, intent, now);
        if letter.source == Source::Rescue {
            return give_up(intent, &history, DeadReason::Unresolved(UnresolvedReason::Expired));
        }
        let Planned { history, plan } =
            spans::plan().in_scope(|| plan(intent, &history, &self.policy, now, self.jitter.draw()));
        let decided = match plan {
            Plan::Call(call) => self.call(intent, &history, call, of).await,
            Plan::Inquire(inquiry) => self.inquire(intent, &history, inquiry, of).await,
            Plan::Decide(decision) => Ok(*decision),
        };
        decided.unwrap_or_else(|hindrance| self.wait(&history, hindrance))
    }

    fn wait(&self, history: &History, hindrance: Hindrance) -> Decision {
        let moment = self.moment(self.clock.now());
        match hindrance {
            Hindrance::LockedOut { until, last } => wait_locked_out(history, last, until, moment),
            Hindrance::Waits { until, why } => wait_untried(history, until, why, moment),
        }
    }

    async fn call(
        &self,
        intent: &CancelIntent,
        history: &History,
        call: Call,
        of: &StepLog<'_>,
    ) -> Result<Decision, Hindrance> {
        let mut entered = self.admission.enter(intent).await?;
        let attempt = history.attempts.saturating_add(1);
        let path = call_path(intent.kind());
        let span = spans::call(of.kind, self.gateway.host(intent.kind().api()), path, attempt);
        let traceparent = traceparent(&span);
        let begun = Instant::now();
        let calling = self.gateway.call(&call, traceparent.as_deref()).instrument(span.clone());
        let reply = of.within(calling).await.unwrap_or(Reply::Unanswered(Fault::Timeout));
        let now = self.clock.now();
        let verdict = spans::classify().in_scope(|| classify(&call.order, &reply, &self.policy.codes));
        let mut last = codes_of(&reply);
        last.rule = Some(rule_of(intent.kind(), &reply, &verdict, &last, &self.policy.codes));
        match last.http_status {
            Some(http_status) => spans::answered(&span, http_status),
            None => spans::unanswered(&span, last.fault.map_or_else(|| verdict.name(), Fault::as_str)),
        }
        events::called(of.of(), path, attempt, &last, verdict.name(), begun.elapsed());
        entered.hear(&reply, &verdict, &last);
        let verdict = self.look_after_success(intent, verdict, of).await;
        if is_remembered(intent.kind(), &verdict) {
            self.ordered.remember(intent.id, now);
        }
        let called = match &call.order {
            Order::BatchCancel { payments } => payments.iter().map(|(index, ..)| *index).collect(),
            Order::AsyncCancel { .. }
            | Order::SyncCancelRollback { .. }
            | Order::TransactionCancel { .. }
            | Order::ApmProvisionCancel { .. } => Vec::new(),
        };
        let decide = || decide_verdict(intent, history, &called, verdict, last, self.moment(now));
        Ok(spans::decide().in_scope(decide))
    }

    async fn inquire(
        &self,
        intent: &CancelIntent,
        history: &History,
        inquiry: Inquiry,
        of: &StepLog<'_>,
    ) -> Result<Decision, Hindrance> {
        let _place = self.admission.look(intent, &inquiry).await?;
        let asked_at = self.clock.now();
        let (findings, fault) = self.look(intent, &inquiry, history.asked.saturating_add(1), of).await;
        let history = &history.looked(findings.looked(fault));
        let now = self.clock.now();
        let decide = || decide_findings(intent, history, findings, asked_at, self.moment(now));
        Ok(spans::decide().in_scope(decide))
    }

    /// What a look shows, and how the last of its requests failed that did.
    async fn look(
        &self,
        intent: &CancelIntent,
        inquiry: &Inquiry,
        asked: u32,
        of: &StepLog<'_>,
    ) -> (Findings, Option<Fault>) {
        let span = spans::inquire(of.kind, asked);
        let traceparent = traceparent(&span);
        let begun = Instant::now();
        let (reply, fault) = of
            .within(self.gateway.inquire(inquiry, traceparent.as_deref()).instrument(span))
            .await
            .unwrap_or_else(|| (InquiryReply::unanswered(&inquiry.question), Some(Fault::Timeout)));
        let findings = spans::classify().in_scope(|| weigh(&reply, intent.kind(), &self.policy.codes));
        events::inquired(of.of(), asked, &shown(&findings), fault, begun.elapsed());
        (findings, fault)
    }

    /// One more read buys the payment's status where a success reply has none (`inquiry.after_success`). Whatever
    /// it shows, the success stands.
    async fn look_after_success(&self, intent: &CancelIntent, verdict: Verdict, of: &StepLog<'_>) -> Verdict {
        let Verdict::Done(Facts { payment_status: None, learnt }) = verdict else { return verdict };
        let inquiry =
            self.policy.after_success.contains(&intent.kind()).then(|| inquiry_after(intent)).flatten();
        let payment_status = match inquiry {
            None => None,
            Some(inquiry) => match self.look(intent, &inquiry, 1, of).await.0 {
                Findings::Payment(evidence) => evidence.payment_status,
                Findings::Items(_) => None,
            },
        };
        Verdict::Done(Facts { payment_status, learnt })
    }

    /// What was done to the letter before, as far as its source may be believed.
    fn history(&self, letter: &Letter, intent: &CancelIntent, now: Timestamp) -> History {
        let items_len = intent.items().len();
        let fresh = History::fresh(now, items_len);
        let history = match letter.source {
            Source::Lane(_) | Source::Rescue | Source::Announcements => fresh,
            // Only the broker publishes there, what we gave it. If it is not readable all the same, a call may
            // have been made.
            Source::Returns(_) | Source::Isolation => {
                let history = carried(letter, items_len, now).unwrap_or_else(|| in_doubt(&fresh, now, now));
                resumed(intent, &history, &self.policy, now)
            }
        };
        match self.ordered.called_at(intent.id) {
            // A copy of an intent that this process has ordered: it is settled, never called for again.
            Some(called_at) if history.phase == Phase::Call && history.attempts == 0 => {
                // Not later than now: the clock may have been set back since.
                in_doubt(&history, called_at.min(now), now)
            }
            Some(_) | None => history,
        }
    }

    fn moment(&self, now: Timestamp) -> Moment<'_> {
        Moment { policy: &self.policy, now, jitter: self.jitter.draw() }
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

/// What the events of one step have in common.
struct StepLog<'a> {
    /// After which a step that is handled alone is cut off.
    cut_off: Option<Duration>,
    intent_id: String,
    kind: &'a str,
    merchant: &'a str,
    intent: &'a CancelIntent,
}

impl<'a> StepLog<'a> {
    fn new(intent: &'a CancelIntent, cut_off: Option<Duration>) -> StepLog<'a> {
        StepLog {
            cut_off,
            intent_id: intent.id.to_string(),
            kind: intent.kind().as_str(),
            merchant: intent.merchant.as_str(),
            intent,
        }
    }

    /// What `asking` gives, unless the step is cut off before.
    async fn within<T>(&self, asking: impl Future<Output = T>) -> Option<T> {
        match self.cut_off {
            None => Some(asking.await),
            Some(cut_off) => tokio::time::timeout(cut_off, asking).await.ok(),
        }
    }

    fn of(&self) -> IntentRef<'_> {
        IntentRef::intent(&self.intent_id, self.kind, self.merchant)
    }

    /// Everything that was decided: a line for each outcome, one for the wait, one for the dead letter.
    fn decided(&self, decision: &Decision, now: Timestamp) {
        let attempts = decision.history.attempts;
        for outcome in &decision.outcomes {
            let status = outcome.status.name().as_str();
            let reason = outcome.status.reason().map(|(code, _)| code);
            let item = match outcome.subject {
                Subject::Whole => None,
                Subject::Item(index) => {
                    self.intent.items().get(index).map(|item| item.merchant_unique_code.as_str())
                }
            };
            events::decided(self.of(), item, status, reason, attempts);
        }
        match decision.then {
            Then::Done => {}
            Then::Wait(why) => {
                let delay = decision.history.due.map_or(Duration::ZERO, |due| elapsed(now, due));
                events::waiting(self.of(), why.as_str(), delay);
            }
            Then::DeadLetter(reason) => {
                events::dead_lettered(self.of(), reason.as_str(), reason.message());
            }
        }
    }

    /// A letter that could not be read: told with as much of its name as it has.
    fn malformed(malformed: &Malformed) {
        let id = malformed.known.id.map(|id| id.to_string());
        let of = IntentRef {
            intent_id: id.as_deref(),
            kind: malformed.known.kind.map(Kind::as_str),
            merchant: malformed.known.merchant.as_ref().map(MerchantName::as_str),
        };
        events::malformed(of, &malformed.fault.field);
        let reason = RejectedReason::InvalidIntent.as_str();
        events::dead_lettered(of, reason, &malformed.fault.to_string());
    }
}

/// What of an intent is known to people at the dead letters.
fn known_of(received: &Received) -> PartialIntent {
    let Received { intent, reference } = received;
    PartialIntent {
        id: Some(intent.id),
        kind: Some(intent.kind()),
        merchant: Some(intent.merchant.clone()),
        requested_at: Some(intent.requested_at),
        reference: reference.clone(),
    }
}

/// The trace context that a call carries to the gateway, where the configuration lets it.
fn traceparent(span: &Span) -> Option<String> {
    match carrier::inject(span).remove("traceparent") {
        Some(HeaderValue::Text(text)) => Some(text),
        Some(HeaderValue::Int(_) | HeaderValue::Bool(_)) | None => None,
    }
}

/// What a look showed, in words; of a batch, each word once.
fn shown(findings: &Findings) -> String {
    match findings {
        Findings::Payment(evidence) => evidence.shown.as_str().to_owned(),
        Findings::Items(items) => {
            let words: BTreeSet<&str> = items.iter().map(|(_, evidence)| evidence.shown.as_str()).collect();
            words.into_iter().collect::<Vec<_>>().join(",")
        }
    }
}

/// Whether copies of an intent are settled by asking from now on. Nothing but the call itself tells whether a provision
/// is cancelled, so asking about its copies would be calling.
fn is_remembered(kind: Kind, verdict: &Verdict) -> bool {
    let is_ordered = match verdict {
        Verdict::Done(_) | Verdict::Ordered(_) | Verdict::OrderedBatch(..) => true,
        Verdict::Refused(_)
        | Verdict::RefusedByState(_)
        | Verdict::NeverSent
        | Verdict::Busy(_)
        | Verdict::InDoubt
        | Verdict::LockedOut
        | Verdict::NotConfigured => false,
    };
    is_ordered && kind != Kind::ApmProvisionCancel
}

/// Whether the same bytes are the same letter: not where one copy ends by its routing and another is handled, or where the
/// bytes are not all.
fn may_have_copies(letter: &Letter) -> bool {
    let is_well_routed = origin::routing_key(letter).is_none_or(|key| key == lane_of(letter).as_str());
    is_well_routed && !origin::is_body_cut(letter)
}

/// Whether nothing was done with a letter yet, but to let it wait.
fn is_fresh(letter: &Letter) -> bool {
    match letter.source {
        Source::Lane(_) => true,
        Source::Returns(_) => history::decode(&letter.headers, history::items_len(&letter.headers))
            .is_some_and(|history| {
                history.phase == Phase::Call
                    && history.doubt == Doubt::None
                    && history.attempts == 0
                    && history.replays == 0
            }),
        Source::Rescue | Source::Announcements | Source::Isolation => false,
    }
}

/// The history that a letter carries, by our clock: one that is back before its hop was to end shows how far it was set
/// back.
fn carried(letter: &Letter, items_len: usize, now: Timestamp) -> Option<History> {
    let history = history::decode(&letter.headers, items_len)?;
    match hop::read(letter).and_then(|hop| set_back_by(hop.due, now)) {
        Some(by) => Some(corrected(&history, by)),
        None => Some(history),
    }
}

/// Whether what is decided is to handle the letter alone.
fn is_suspect(messages: &Messages) -> bool {
    messages.as_slice().iter().any(|message| message.address == Address::Isolation)
}

/// The kind whose lane a letter came through.
fn lane_of(letter: &Letter) -> Kind {
    match letter.source {
        Source::Lane(kind) | Source::Returns(kind) => kind,
        // What the broker takes from a lane keeps its routing key, which is the lane's kind.
        Source::Rescue | Source::Announcements | Source::Isolation => {
            Kind::parse(&letter.routing_key).unwrap_or(Kind::AsyncCancel)
        }
    }
}

/// The longest that a letter is in hand, from its delivery to its ack. A broker that waits less long for an ack takes
/// the letter back while its step goes on.
///
/// It is the sum of what a delivery may have to wait for, one after the other, each at its own deadline:
///
/// - the permit of a step that outlived its generation, and is still speaking to the gateway;
/// - of a letter that is handled alone, others that are still on their way there, for that step and for its own;
/// - room at the API, for that step and for its own;
/// - its own time with the gateway: the longer of a look, and of a call with the look after its success;
/// - the confirm of what is announced, and where that is refused, the confirm of its parking;
/// - the ack, held back while its lane is about to be paused, and its way to the socket.
pub fn handling_max(config: &crate::config::Config, timeouts: &amqp::Timeouts) -> Duration {
    let call_timeout = config.policy.call_timeout;
    let with_gateway = config.lanes.keys().map(|kind| {
        // Of a physical payment two things are read, each within a deadline of its own.
        let look = match kind {
            Kind::AsyncCancel | Kind::SyncCancelRollback => call_timeout.saturating_mul(2),
            Kind::TransactionCancel | Kind::ApmProvisionCancel | Kind::BatchCancel => call_timeout,
        };
        let after = if config.policy.after_success.contains(kind) { look } else { Duration::ZERO };
        look.max(call_timeout.saturating_add(after))
    });
    let with_gateway = with_gateway.max().unwrap_or(call_timeout);
    let announcing = timeouts.confirm.saturating_mul(2);
    let with_gateway = with_gateway.max(SETTLED_WAIT_MAX.saturating_add(ALONE_MAX));
    let two_stories = with_gateway.saturating_add(ROOM_WAIT_MAX).saturating_mul(2);
    let acking = amqp::ACK_HELD_MAX.saturating_add(timeouts.step);
    two_stories.saturating_add(announcing).saturating_add(acking)
}

/// Takes deliveries and runs their steps until `stop`, over as many generations of the connection as it takes.
pub async fn run(
    worker: Arc<Worker>,
    settings: &amqp::Settings,
    stop: &CancellationToken,
    grace: Duration,
) -> Stopped {
    let jitter = worker.jitter.clone();
    let admission = Arc::clone(&worker);
    let mut runner = Runner { worker, topology: settings.topology(), steps: JoinSet::new() };
    let stopped = tokio::select! {
        stopped = amqp::run_generations(settings, &jitter, stop, grace, &mut runner) => stopped,
        never = admission.admission.keep(stop, |lane, mode| settings.consume(lane, mode)) => match never {},
        never = admission.gateway.watch(tell_of_gateway) => match never {},
        never = admission.set_backs.watch(tell_of_clock) => match never {},
    };
    // What is left is unacked, therefore safe.
    runner.steps.shutdown().await;
    stopped
}

fn tell_of_clock(news: ClockNews) {
    match news {
        ClockNews::SetBack { by, letters } => events::clock_set_back(by, letters),
        ClockNews::Agrees { lasted } => events::clock_agrees(lasted),
    }
}

fn tell_of_gateway(news: gateway::News<'_>) {
    let gateway::News { api, host, port, endpoint, what } = news;
    let of = events::Endpoint { api: api.as_str(), host, port, path: endpoint };
    match what {
        gateway::What::Fails { fault, detail, times, lasts } => {
            events::gateway_failing(&of, fault, detail, times, lasts);
        }
        gateway::What::AnswersAgain { lasted } => events::gateway_answering(&of, lasted),
    }
}

/// The steps that are under way.
struct Runner<'a> {
    worker: Arc<Worker>,
    topology: &'a amqp::Topology,
    steps: JoinSet<()>,
}

impl amqp::DeliveryHandler for &mut Runner<'_> {
    fn begin(&mut self, delivery: Delivery, publisher: &Publisher) {
        reap(&mut self.steps);
        let letter = &delivery.letter;
        if let Some(hop) = hop::read(letter) {
            match letter.redelivered {
                Redelivered::No => {
                    let now = self.worker.clock.now();
                    self.worker.delays.back(&hop, now);
                    self.worker.set_backs.back(hop.due, now);
                }
                // It was on time, or late, when it was handed out first.
                Redelivered::Yes => self.worker.delays.back_again(&hop),
            }
        }
        let queue = self.topology.queue_of(letter.source);
        let span = spans::delivery(letter.source, &queue, letter.redelivered, letter.body.len());
        carrier::continue_trace(&span, &letter.headers);
        let worker = Arc::clone(&self.worker);
        let publisher = publisher.clone();
        self.steps.spawn(
            async move {
                let Letter { source, redelivered, ref body, .. } = delivery.letter;
                events::received(source, redelivered, body.len());
                if let Err(interrupted) = worker.handle(delivery, &publisher, &queue).await {
                    events::interrupted(IntentRef::default(), &interrupted);
                }
            }
            .instrument(span),
        );
    }

    fn not_begun(&mut self, letter: &Letter) {
        self.worker.letters.note_untouched(letter);
    }

    fn watched(&self) -> Vec<String> {
        let tiers = self.worker.policy.tiers.as_slice().iter();
        let delays = tiers.map(|tier| self.topology.exchange_of(&Address::Delay(tier.clone())));
        delays.chain(ways_back().map(|(_, source)| self.topology.queue_of(source))).collect()
    }

    fn looked(&mut self, depths: Vec<(String, amqp::Depth)>) {
        let depth_of =
            |queue: String| depths.iter().find(|(name, _)| *name == queue).map(|(_, depth)| *depth);
        let waiting = |tier: &Tier| {
            let depth = depth_of(self.topology.exchange_of(&Address::Delay(tier.clone())))?;
            Some((tier.name.clone(), depth.ready))
        };
        let arrived = |(way_back, source)| {
            let amqp::Depth { ready, consumers } = depth_of(self.topology.queue_of(source))?;
            Some((way_back, Arrived { ready, consumers }))
        };
        let seen = Seen {
            waiting: self.worker.policy.tiers.as_slice().iter().filter_map(waiting).collect(),
            arrived: ways_back().filter_map(arrived).collect(),
        };
        for news in self.worker.delays.looked(&seen, self.worker.clock.now()) {
            match news {
                News::Late { tier, lateness, letters } => events::delay_late(&tier, lateness, letters),
                News::Stuck { tier, overdue, letters } => events::delay_stuck(&tier, overdue, letters),
                News::OnTimeAgain { tier, after } => events::delay_on_time_again(&tier, after),
            }
        }
    }
}

/// Every end of a wait, and what its deliveries come from.
fn ways_back() -> impl Iterator<Item = (WayBack, Source)> {
    let returns = Kind::ALL.into_iter().map(|kind| (WayBack::Returns(kind), Source::Returns(kind)));
    returns.chain([(WayBack::Announcements, Source::Announcements)])
}

/// Lets go of the steps that have ended, so that none is kept longer than it lasts. A panic is our own bug: it
/// was told where it happened, it ended one step, and its neighbours go on.
fn reap(steps: &mut JoinSet<()>) {
    while steps.try_join_next().is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &[(&str, &str)]) -> crate::config::Config {
        let least = [
            ("CANCEL_WORKER__AMQP__URL", "amqp://localhost"),
            ("CANCEL_WORKER__GATEWAY__PHYSICAL_URL", "https://physical.example"),
            ("CANCEL_WORKER__GATEWAY__PRIVATE_URL", "https://private.example"),
            ("CANCEL_WORKER__MERCHANTS__DEFAULT__PRIVATE_KEY", "key"),
            ("CANCEL_WORKER__MERCHANTS__DEFAULT__PRIVATE_CLIENT", "client"),
        ];
        let env = least.iter().chain(more).copied();
        crate::config::load(None, env, Some("test")).expect("right")
    }

    fn check(more: &[(&str, &str)], expected_s: u64) {
        let longest = handling_max(&config(more), &amqp::Timeouts::default());
        assert_eq!(longest, Duration::from_secs(expected_s), "{more:?}");
    }

    #[test]
    fn a_letter_is_in_hand_as_long_as_all_its_deadlines_together() {
        let kinds = "CANCEL_WORKER__LANES__KINDS";
        let after = "CANCEL_WORKER__INQUIRY__AFTER_SUCCESS";
        let call_timeout = ("CANCEL_WORKER__GATEWAY__CALL_TIMEOUT", "10s");
        // A look in two reads, and before it somebody else's, both after a wait for room; two confirms; an ack.
        check(&[(kinds, "async_cancel")], 2 * (5 + 60) + 60 + 5 + 10);
        check(&[(kinds, "async_cancel"), (after, "async_cancel")], 2 * (5 + 90) + 60 + 5 + 10);
        check(&[(kinds, "transaction_cancel")], 2 * (5 + 30) + 60 + 5 + 10);
        check(&[(kinds, "transaction_cancel"), (after, "transaction_cancel")], 2 * (5 + 60) + 60 + 5 + 10);
        // Here a letter takes the longest that is handled alone: it waits for others, and is cut off.
        check(&[(kinds, "transaction_cancel"), call_timeout], 2 * (5 + 10 + 5) + 60 + 5 + 10);
        // The slowest kind that is served counts.
        check(&[(kinds, "transaction_cancel,async_cancel")], 2 * (5 + 60) + 60 + 5 + 10);
    }
}
