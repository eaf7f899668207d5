//! What holds for every life that a letter can have, whatever the gateway says and whenever the broker hands it
//! out again. A life is stepped from plan to decision in virtual time; what the laws need to know of it is kept
//! beside it, by other means than the code that they judge.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::classify::{Facts, LockOutScope, Verdict};
use super::decide::{
    DeadReason, Decision, Moment, Then, decide_findings, decide_ruling, decide_verdict, give_up,
};
use super::doubt::resumed;
use super::evidence::{Evidence, Findings, Shown};
use super::fixtures::{DAY, MIDNIGHT, at, batch, fresh, intent, policy, same_day_policy, summary};
use super::history::{Doubt, History, Item, LastReply, Phase};
use super::intent::{CancelIntent, Kind};
use super::isolation::{Crash, Handling, Suspicion, suspect};
use super::outcome::{Learnt, RejectedReason, Status, StatusName, Subject, UnresolvedReason};
use super::plan::{Plan, plan};
use super::policy::Policy;
use super::reply::RetryAfter;
use super::retry::{Jitter, later};
use super::same_day;
use super::step::{Order, Question};

/// Far more steps than any life may have.
const STEPS_MAX: usize = 5_000;
/// How often the broker may hand a letter out again in one life.
const REDELIVERIES_MAX: u32 = 4;

/// What may come of a call, before it is fitted to the kind.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Word {
    Done,
    Ordered,
    Refused,
    RefusedByState,
    Busy,
    BusyWithWish,
    NeverSent,
    InDoubt,
    LockedOut,
    NotConfigured,
}

const WORDS: [Word; 10] = [
    Word::Done,
    Word::Ordered,
    Word::Refused,
    Word::RefusedByState,
    Word::Busy,
    Word::BusyWithWish,
    Word::NeverSent,
    Word::InDoubt,
    Word::LockedOut,
    Word::NotConfigured,
];

/// One world: what the gateway is in the mood to say, and when the life begins.
#[derive(Debug, Clone)]
struct World {
    kind: Kind,
    batch_len: usize,
    begins: i64,
    seed: u64,
    /// The gateway says nothing else than these; so a gateway that is always busy is a world too.
    words: Vec<Word>,
    shown: Vec<Shown>,
    /// How many of a hundred deliveries are handed out again.
    redelivered_percent: u64,
    asks_max: Option<u32>,
}

fn worlds() -> impl Strategy<Value = World> {
    let kind = proptest::sample::select(Kind::ALL.to_vec());
    let batch_len = prop_oneof![4 => 1usize..5, 1 => 20usize..50];
    let begins = prop_oneof![Just(0), MIDNIGHT - 120..MIDNIGHT + 120];
    let words = proptest::sample::subsequence(WORDS.to_vec(), 1..=WORDS.len());
    let shown = proptest::sample::subsequence(Shown::ALL.to_vec(), 1..=Shown::ALL.len());
    let asks_max = prop_oneof![3 => Just(None), 1 => (1u32..9).prop_map(Some)];
    (kind, batch_len, begins, any::<u64>(), words, shown, prop_oneof![Just(0u64), 0u64..30], asks_max)
        .prop_map(|(kind, batch_len, begins, seed, words, shown, redelivered_percent, asks_max)| World {
            kind,
            batch_len,
            begins,
            seed,
            words,
            shown,
            redelivered_percent,
            asks_max,
        })
}

/// Chance that a failing case repeats.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, len: u64) -> u64 {
        self.next() % len.max(1)
    }

    fn one_of<T: Copy>(&mut self, things: &[T]) -> T {
        things[usize::try_from(self.below(things.len() as u64)).unwrap()]
    }
}

/// What the laws know about one payment, by themselves.
#[derive(Debug, Clone, Default)]
struct Ghost {
    /// When a call of which nothing is known surely ended; `None`: there is none such.
    open: Option<Timestamp>,
    called: bool,
    terminal: Option<Status>,
}

struct Life {
    intent: CancelIntent,
    policy: Policy,
    history: History,
    /// Where the letter lies.
    handling: Handling,
    now: Timestamp,
    begun: Timestamp,
    ghosts: Vec<Ghost>,
    /// Calls that may have reached the gateway, by our own count.
    calls: u32,
    redeliveries: u32,
    log: Vec<String>,
}

impl Life {
    fn begin(world: &World) -> Life {
        let mut intent = match world.kind {
            Kind::BatchCancel => {
                // Payments of two days, so that midnight comes between them.
                let next = DAY.tomorrow().unwrap();
                let days: Vec<_> =
                    (0..world.batch_len).map(|i| if i % 3 == 2 { next } else { DAY }).collect();
                batch(&days)
            }
            Kind::AsyncCancel
            | Kind::SyncCancelRollback
            | Kind::TransactionCancel
            | Kind::ApmProvisionCancel => intent(world.kind),
        };
        let begins = at(world.begins);
        // Requested before it arrives, and for some letters on the other side of midnight.
        intent.requested_at = begins - SignedDuration::from_secs((world.seed % 200) as i64);
        let base = if world.seed.is_multiple_of(2) { policy() } else { same_day_policy() };
        let policy = Policy { asks_max: world.asks_max, ..base };
        let history = History { first_seen: begins, ..fresh(&intent) };
        let ghosts = vec![Ghost::default(); intent.items().len().max(1)];
        Life {
            intent,
            policy,
            history,
            handling: Handling::Shared,
            now: begins,
            begun: begins,
            ghosts,
            calls: 0,
            redeliveries: 0,
            log: Vec::new(),
        }
    }

    /// The payments that a call of these items is about, as indices of ghosts.
    fn subjects(&self, called: &[usize]) -> Vec<usize> {
        if self.intent.kind() == Kind::BatchCancel { called.to_vec() } else { vec![0] }
    }

    fn verdict(&self, word: Word, called: &[usize], chance: &mut Chance) -> Verdict {
        let reason = chance.one_of(&[RejectedReason::NotSuitable, RejectedReason::NotFound]);
        match word {
            Word::Done | Word::Ordered if self.intent.kind() == Kind::BatchCancel => {
                let marks = [Item::Ordered, Item::Named, Item::Doubt];
                let items = called.iter().map(|index| (*index, chance.one_of(&marks))).collect();
                Verdict::OrderedBatch(Facts::default(), items)
            }
            Word::Ordered if self.intent.kind() == Kind::AsyncCancel => Verdict::Ordered(Facts::default()),
            Word::Done | Word::Ordered => Verdict::Done(Facts::default()),
            // No refusal of a rollback is final by itself.
            Word::Refused if self.intent.kind() != Kind::SyncCancelRollback => Verdict::Refused(reason),
            Word::Refused | Word::RefusedByState => Verdict::RefusedByState(reason),
            Word::Busy => Verdict::Busy(None),
            Word::BusyWithWish => Verdict::Busy(Some(RetryAfter::Seconds(chance.below(5_000)))),
            Word::NeverSent => Verdict::NeverSent,
            Word::InDoubt => Verdict::InDoubt,
            Word::LockedOut => Verdict::LockedOut(LockOutScope::Api),
            Word::NotConfigured => Verdict::NotConfigured,
        }
    }

    /// One delivery. `true` when the life has ended.
    fn step(&mut self, world: &World, chance: &mut Chance) -> Result<bool, TestCaseError> {
        let before = self.history.clone();
        if let Some(poison) = self.arrive(world, chance) {
            self.judge(&before, &poison)?;
            return Ok(true);
        }
        self.history = resumed(&self.intent, &self.history, &self.policy, self.now);
        // Now and then the broker brings it back too early.
        if let Some(due) = self.history.due.filter(|_| chance.below(20) == 0) {
            let early = due - SignedDuration::from_millis(1);
            let planned = plan(&self.intent, &self.history, &self.policy, early);
            let Plan::Decide(ruling) = planned.plan else {
                return Err(TestCaseError::fail("a letter that is not due was handled"));
            };
            let moment = Moment { policy: &self.policy, now: early, jitter: Jitter::new(0.5) };
            let decision = decide_ruling(&self.intent, &self.history, ruling, moment);
            prop_assert_eq!(&decision.history, &self.history, "a wait changes nothing");
        }
        let jitter = Jitter::new(chance.below(1_000) as f64 / 1_000.0);
        let planned = plan(&self.intent, &self.history, &self.policy, self.now);
        self.history = planned.history;
        let decision = match planned.plan {
            Plan::Decide(ruling) => {
                let moment = Moment { policy: &self.policy, now: self.now, jitter };
                decide_ruling(&self.intent, &self.history, ruling, moment)
            }
            Plan::Call(call) => self.call(&call.order, world, chance, jitter)?,
            Plan::Inquire(inquiry) => self.look(&inquiry.question, world, chance, jitter),
        };
        self.log.push(format!("{} {}", self.now, summary(&decision, self.now)));
        self.judge(&before, &decision)?;
        self.history = decision.history;
        match decision.then {
            Then::Done | Then::DeadLetter(_) => Ok(true),
            Then::Wait(_) => {
                self.handling = Handling::Shared;
                let due = self.history.due.expect("judged to be due at some time");
                // The queues are never early, and sometimes late.
                self.now = later(due.max(self.now), Duration::from_millis(chance.below(3) * 400));
                Ok(false)
            }
        }
    }

    /// The letter is handed out, perhaps again and again, until its step begins or it is dead as poison.
    fn arrive(&mut self, world: &World, chance: &mut Chance) -> Option<Decision> {
        loop {
            let is_again =
                self.redeliveries < REDELIVERIES_MAX && chance.below(100) < world.redelivered_percent;
            let crash = if is_again { Crash::Possible } else { Crash::None };
            if is_again {
                self.note_redelivery();
            }
            let kind = self.intent.kind();
            match suspect(kind, &self.history, self.handling, crash, &self.policy, self.now) {
                Suspicion::Clear => return None,
                Suspicion::Isolate(history) => {
                    self.handling = Handling::Isolated;
                    self.history = *history;
                }
                Suspicion::Poison(history) => {
                    let history = resumed(&self.intent, &history, &self.policy, self.now);
                    let dead = DeadReason::Unresolved(UnresolvedReason::Poison);
                    return Some(give_up(&self.intent, &history, dead));
                }
            }
        }
    }

    fn note_redelivery(&mut self) {
        self.log.push(format!("{} redelivered", self.now));
        self.redeliveries += 1;
        // Among its neighbours a letter with strikes is moved, and nothing else.
        let is_only_moved = self.handling == Handling::Shared && self.history.strikes > 0;
        let may_have_called = self.history.phase == Phase::Call
            || self.intent.kind() == Kind::ApmProvisionCancel && self.history.doubt == Doubt::MayHaveHappened;
        if may_have_called && !is_only_moved {
            let ended = later(self.now, self.policy.call_timeout);
            // What was requested after its day is called by no copy.
            let in_time = |index: usize| match self.intent.items().get(index) {
                Some(item) => self.intent.requested_at < same_day::day_end(item.date, &self.policy),
                None => !same_day::is_over_for(&self.intent, &self.policy, self.intent.requested_at),
            };
            let callable: Vec<usize> =
                (0..self.history.items.len()).filter(|i| self.history.items[*i] == Item::ToCall).collect();
            for subject in self.subjects(&callable).into_iter().filter(|index| in_time(*index)) {
                self.ghosts[subject].open = Some(ended);
                self.ghosts[subject].called = true;
            }
        }
    }

    fn call(
        &mut self,
        order: &Order,
        world: &World,
        chance: &mut Chance,
        jitter: Jitter,
    ) -> Result<Decision, TestCaseError> {
        prop_assert_eq!(order.kind(), self.intent.kind());
        let called = order.indices();
        let subjects = self.subjects(&called);
        prop_assert!(!subjects.is_empty(), "an empty call");
        for subject in &subjects {
            let ghost = &self.ghosts[*subject];
            prop_assert!(ghost.terminal.is_none(), "a call after its end");
            // A provision's call is repeated, since nothing else can tell; but not before the quiet time.
            match (self.intent.kind(), ghost.open) {
                (Kind::ApmProvisionCancel, Some(ended)) => {
                    prop_assert!(self.now >= later(ended, self.policy.quiet), "called again too early");
                }
                (_, open) => prop_assert!(open.is_none(), "a call in spite of a doubt"),
            }
        }
        let word = chance.one_of(&world.words);
        let verdict = self.verdict(word, &called, chance);
        self.log.push(format!("{} call {called:?}: {verdict:?}", self.now));
        self.now = later(self.now, Duration::from_millis(chance.below(30_000)));
        match &verdict {
            Verdict::NeverSent | Verdict::LockedOut(_) => {}
            Verdict::Done(_)
            | Verdict::Ordered(_)
            | Verdict::OrderedBatch(..)
            | Verdict::Refused(_)
            | Verdict::RefusedByState(_)
            | Verdict::Busy(_)
            | Verdict::InDoubt
            | Verdict::NotConfigured => {
                self.calls += 1;
                for subject in &subjects {
                    self.ghosts[*subject].called = true;
                }
            }
        }
        if let Verdict::InDoubt = verdict {
            for subject in &subjects {
                self.ghosts[*subject].open = Some(self.now);
            }
        }
        if let Verdict::OrderedBatch(_, items) = &verdict {
            for (index, _) in items.iter().filter(|(_, item)| *item != Item::Ordered) {
                self.ghosts[*index].open = Some(self.now);
            }
        }
        let moment = Moment { policy: &self.policy, now: self.now, jitter };
        Ok(decide_verdict(&self.intent, &self.history, &called, verdict, LastReply::default(), moment))
    }

    fn look(&mut self, question: &Question, world: &World, chance: &mut Chance, jitter: Jitter) -> Decision {
        let asked_at = self.now;
        let evidence = |shown| Evidence { shown, payment_status: None, learnt: Learnt::default() };
        let found: Vec<(usize, Shown)> = match question {
            Question::Batch { payments } => {
                let answered = 1 + chance.below(payments.len() as u64) as usize;
                payments.iter().take(answered).map(|(i, _)| (*i, chance.one_of(&world.shown))).collect()
            }
            Question::Physical { .. } | Question::Transaction { .. } | Question::Apm { .. } => {
                vec![(0, chance.one_of(&world.shown))]
            }
        };
        self.log.push(format!("{} look: {found:?}", self.now));
        self.now = later(self.now, Duration::from_millis(chance.below(5_000)));
        for (index, shown) in &found {
            self.settle_ghost(*index, *shown, asked_at);
        }
        let findings = match question {
            Question::Batch { .. } => {
                Findings::Items(found.into_iter().map(|(i, shown)| (i, evidence(shown))).collect())
            }
            Question::Physical { .. } | Question::Transaction { .. } | Question::Apm { .. } => {
                Findings::Payment(evidence(found[0].1))
            }
        };
        let moment = Moment { policy: &self.policy, now: self.now, jitter };
        decide_findings(&self.intent, &self.history, findings, asked_at, moment)
    }

    /// A doubt ends by evidence of what happened, or of what did not when nothing can be under way any more.
    fn settle_ghost(&mut self, index: usize, shown: Shown, asked_at: Timestamp) {
        let quiet = self.policy.quiet;
        let ghost = &mut self.ghosts[index];
        let Some(ended) = ghost.open else { return };
        let late = asked_at >= later(ended, quiet);
        let settles = match shown {
            Shown::Cancelled | Shown::ReceivedByDevice | Shown::InProgress => {
                late || self.intent.kind() != Kind::SyncCancelRollback
            }
            // Of a rollback it is the effect.
            Shown::Withdrawn => late || self.intent.kind() == Kind::SyncCancelRollback,
            Shown::CancelFailed
            | Shown::NotDelivered
            | Shown::Refunded
            | Shown::PartiallyRefunded
            | Shown::SaleStands
            | Shown::SaleGone
            | Shown::NoSuchPayment => late,
            Shown::NotShown | Shown::Unanswered | Shown::Unknown | Shown::Contradictory => false,
        };
        if settles {
            ghost.open = None;
        }
    }

    fn judge(&mut self, before: &History, decision: &Decision) -> Result<(), TestCaseError> {
        let history = &decision.history;
        prop_assert!(history.attempts >= before.attempts, "attempts went back");
        prop_assert!(self.calls <= self.policy.attempts_max, "more calls than the budget has");
        prop_assert_eq!(history.attempts - self.calls.min(history.attempts) <= self.redeliveries, true);
        prop_assert_eq!(history.items.len(), before.items.len());
        for (was, is) in before.items.iter().zip(&history.items) {
            prop_assert!(may_become(*was, *is), "{:?} became {:?}", was, is);
        }
        if let Then::Wait(_) = decision.then {
            prop_assert!(history.due.is_some_and(|due| due >= self.now), "a wait that ended before now");
            prop_assert!(decision.outcomes.iter().all(|o| may_follow_itself(o.status.name(), o.subject)));
        }
        let mut told = BTreeSet::new();
        for outcome in &decision.outcomes {
            let key = match outcome.subject {
                Subject::Whole => (None, outcome.status.name()),
                Subject::Item(index) => (Some(index), outcome.status.name()),
            };
            prop_assert!(told.insert(key), "told twice in one decision: {:?}", key);
            self.judge_outcome(outcome.subject, outcome.status)?;
        }
        let whole = decision.outcomes.iter().rfind(|o| o.subject == Subject::Whole);
        match decision.then {
            Then::Wait(_) => {}
            Then::Done => {
                prop_assert!(whole.is_some_and(|o| o.status.name().is_terminal()), "no end was told");
            }
            Then::DeadLetter(reason) => {
                let told = whole.and_then(|o| o.status.reason()).map(|(reason, _)| reason);
                prop_assert_eq!(told, Some(reason.as_str()), "a dead letter that was not announced");
            }
        }
        if decision.then == Then::Done {
            let open = history.items.iter().any(|item| !item.is_decided());
            prop_assert!(!open, "closed with open payments");
        }
        Ok(())
    }

    fn judge_outcome(&mut self, subject: Subject, status: Status) -> Result<(), TestCaseError> {
        let alone = self.intent.kind() != Kind::BatchCancel;
        let index = match subject {
            Subject::Item(index) => index,
            Subject::Whole if alone => 0,
            // Money travels in the events of the payments; they are judged one by one.
            Subject::Whole => return Ok(()),
        };
        let over = match self.intent.items().get(index) {
            Some(item) => same_day::is_over(Kind::BatchCancel, item.date, &self.policy, self.now),
            None => same_day::is_over_for(&self.intent, &self.policy, self.now),
        };
        let ghost = &mut self.ghosts[index];
        prop_assert!(ghost.terminal.is_none(), "told after its end: {:?}", status);
        match status {
            Status::Rejected(_) => {
                prop_assert!(ghost.open.is_none(), "a doubt told as rejected");
            }
            Status::GivenUp(_) => {
                prop_assert!(ghost.open.is_none(), "a doubt told as given up");
            }
            Status::Unresolved(_) => {
                prop_assert!(ghost.called || over, "unresolved, though nothing was ever called");
            }
            Status::Cancelled | Status::RolledBack | Status::Accepted => {}
            Status::Closed | Status::Abandoned(_) => {
                return Err(TestCaseError::fail(format!("{status:?} of one payment")));
            }
        }
        if status.name().is_terminal() {
            ghost.terminal = Some(status);
        }
        Ok(())
    }
}

/// Under which events a life may go on.
fn may_follow_itself(name: StatusName, subject: Subject) -> bool {
    match subject {
        Subject::Whole => name == StatusName::Accepted,
        Subject::Item(_) => {
            matches!(name, StatusName::Cancelled | StatusName::Rejected | StatusName::GivenUp)
        }
    }
}

/// Which way a payment of a batch may go in one step.
fn may_become(was: Item, is: Item) -> bool {
    match (was, is) {
        (one, same) if one == same => true,
        (Item::ToCall, _) => true,
        // Only on evidence of not done; that no doubt is called without it is judged at the call.
        (Item::Doubt, Item::ToCall) => true,
        (Item::Doubt | Item::Ordered | Item::Named, later) => later.is_decided(),
        (Item::Cancelled | Item::Rejected | Item::GivenUp | Item::Unresolved, _) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn every_story_ends_within_its_budgets_and_keeps_the_laws(world in worlds()) {
        let mut chance = Chance(world.seed);
        let mut life = Life::begin(&world);
        let mut steps = 0;
        loop {
            let ended = match life.step(&world, &mut chance) {
                Ok(ended) => ended,
                Err(broken) => {
                    return Err(TestCaseError::fail(format!("{broken}\n{}", life.log.join("\n"))));
                }
            };
            if ended {
                break;
            }
            steps += 1;
            prop_assert!(steps < STEPS_MAX, "a life without an end:\n{}", life.log.join("\n"));
        }
        // Every return to phase call takes a call, a redelivery or the end of a payment; each has one more budget.
        let returns = life.policy.attempts_max + REDELIVERIES_MAX + life.history.items.len() as u32 + 2;
        let longest = (life.policy.age_max + life.policy.inquiry_age_max + Duration::from_secs(3_600)) * returns;
        prop_assert!(life.now < later(life.begun, longest), "longer than all its budgets");
    }
}
