//! No story ends in a lie: the worker's pure functions against a gateway that knows the truth, in virtual time.
//!
//! Every case of a matrix (what is cancelled × where a call goes wrong × what was true before × what becomes of the
//! order × what the query services do × crashes × second copies × midnight) is stepped from plan to decision until
//! every copy of its letter has come to an end. Then what was told is held against what had happened.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use cancel_worker::domain::classify::{classify, codes_of};
use cancel_worker::domain::codes::Codes;
use cancel_worker::domain::decide::{Decision, Moment, Then, decide_findings, decide_ruling, decide_verdict};
use cancel_worker::domain::doubt::resumed;
use cancel_worker::domain::evidence::weigh;
use cancel_worker::domain::history::History;
use cancel_worker::domain::intent::{
    BatchPayment, BatchPayments, CancelIntent, Code, IntentId, Kind, MerchantName, Target,
};
use cancel_worker::domain::isolation::{self, Handling, Suspicion, suspect};
use cancel_worker::domain::outcome::{RejectedReason, Status, StatusName, Subject, UnresolvedReason};
use cancel_worker::domain::plan::{Plan, plan};
use cancel_worker::domain::policy::Policy;
use cancel_worker::domain::retry::{Jitter, Tier, Tiers, later};
use jiff::civil::date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

mod gateway;

use gateway::{Again, CALL_TIMEOUT, Fate, Fault, Gateway, Meets, PAYMENT, Past, QUIET, Queries, Setup};

/// When the process dies, and what of its step it had done by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    Never,
    /// At this step: nothing was called.
    BeforeCall(u32),
    /// At this step, while its call is under way.
    DuringCall(u32),
    /// At this step: called, nothing announced.
    AfterCall(u32),
    /// At this step: all of it confirmed, not acked. Two copies live on.
    BeforeAck(u32),
}

/// Whether the publisher publishes the same bytes twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copies {
    One,
    /// The second comes so many milliseconds after the first.
    Second(i64),
}

/// When the intent was requested and is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Midnight {
    /// At noon.
    Far,
    /// Handled so shortly before midnight that looks come after it.
    Between,
    /// Requested and handled in the last moment of the day; the call ends after it.
    During,
    /// Requested in time, handled after midnight.
    HandledLate,
    /// Requested after midnight.
    RequestedLate,
}

#[derive(Debug, Clone)]
struct Case {
    kind: Kind,
    /// One payment, or each of a batch: what was true before, and the fates of its orders.
    payments: Vec<(Past, Vec<Fate>)>,
    fault: Fault,
    meets: Meets,
    queries: Queries,
    again: Again,
    crash: Crash,
    copies: Copies,
    midnight: Midnight,
}

/// The end of the payments' day.
fn midnight() -> Timestamp {
    "2025-06-10T21:00:00Z".parse().expect("a time")
}

fn policy(case: &Case) -> Policy {
    let tiers = [1, 2, 5, 10, 30, 60, 120, 300, 900, 1800, 3600]
        .map(|s| Tier { length: Duration::from_secs(s), name: format!("{s}s") });
    let enforced = case.midnight != Midnight::Far;
    let bound: &[Kind] =
        if enforced { &[Kind::BatchCancel, Kind::TransactionCancel] } else { &[Kind::BatchCancel] };
    Policy {
        tiers: Tiers::try_new(tiers.to_vec()).expect("tiers that differ"),
        attempts_max: 12,
        age_max: Duration::from_secs(6 * 3600),
        retry_after_max: Duration::from_secs(15 * 60),
        call_timeout: CALL_TIMEOUT,
        quiet: QUIET,
        asks_max: None,
        inquiry_age_max: Duration::from_secs(24 * 3600),
        after_success: BTreeSet::new(),
        rollback_wait: Duration::from_secs(6),
        zone: TimeZone::get("Europe/Istanbul").expect("a zone that is bundled"),
        same_day: bound.iter().copied().collect(),
        merchants: BTreeSet::from([MerchantName::default()]),
        codes: Codes::default(),
    }
}

/// When the letter is first taken, and when it was requested.
fn times(case: &Case) -> (Timestamp, Timestamp) {
    let ms = |ms: i64| midnight() + SignedDuration::from_millis(ms);
    match case.midnight {
        Midnight::Far => (ms(-9 * 3_600_000), ms(-9 * 3_600_000)),
        Midnight::Between => (ms(-10_000), ms(-11_000)),
        Midnight::During => (ms(-100), ms(-200)),
        Midnight::HandledLate => (ms(5_000), ms(-5_000)),
        Midnight::RequestedLate => (ms(5_000), ms(4_000)),
    }
}

fn intent(case: &Case) -> CancelIntent {
    let code = |text: &str| Code::parse(text).expect("a code");
    let day = date(2025, 6, 10);
    let (_, requested_at) = times(case);
    let target = match case.kind {
        Kind::AsyncCancel => Target::AsyncCancel { payment_request_id: PAYMENT },
        Kind::SyncCancelRollback => {
            Target::SyncCancelRollback { payment_request_id: PAYMENT, cancel_requested_at: None }
        }
        Kind::TransactionCancel => {
            Target::TransactionCancel { unique_code: PAYMENT, date: day, delete_marketplace_records: None }
        }
        Kind::ApmProvisionCancel => Target::ApmProvisionCancel {
            unique_code: code("APM-1"),
            merchant_unique_code: Some(code("shop-1")),
        },
        Kind::BatchCancel => {
            let payments = (0..case.payments.len())
                .map(|i| BatchPayment { merchant_unique_code: code(&format!("shop-{i}")), date: day });
            Target::BatchCancel {
                payments: BatchPayments::try_new(payments.collect()).expect("no code twice"),
            }
        }
    };
    CancelIntent {
        id: IntentId::try_new(Uuid::from_u128(0x33)).expect("not nil"),
        requested_at,
        merchant: MerchantName::default(),
        target,
    }
}

fn gateway(case: &Case) -> Gateway {
    let (noon, _) = times(case);
    let setup = Setup {
        fault: case.fault,
        meets: case.meets,
        queries: case.queries,
        again: case.again,
        noon,
        day_ends: (case.midnight != Midnight::Far).then(midnight),
    };
    let (before, fates) = &case.payments[0];
    match case.kind {
        Kind::AsyncCancel | Kind::SyncCancelRollback => Gateway::physical(*before, fates, setup),
        Kind::TransactionCancel => Gateway::transaction(*before, fates[0], setup),
        Kind::ApmProvisionCancel => Gateway::provision(*before, setup),
        Kind::BatchCancel => {
            let payments: Vec<(Past, &[Fate])> =
                case.payments.iter().map(|(before, fates)| (*before, fates.as_slice())).collect();
            Gateway::batch(&payments, setup)
        }
    }
}

/// One copy of the letter, on its way to its next step.
struct Copy {
    name: usize,
    arrives: Timestamp,
    redelivered: bool,
    history: History,
    /// Payments of which this copy knows the effect.
    knows: BTreeSet<usize>,
}

/// Something that was told: when, by which copy, of which payment.
struct Told {
    at: Timestamp,
    by: usize,
    subject: usize,
    status: Status,
}

struct Story<'a> {
    case: &'a Case,
    intent: CancelIntent,
    policy: Policy,
    gateway: Gateway,
    copies: Vec<Copy>,
    copies_made: usize,
    told: Vec<Told>,
    steps: u32,
    log: Option<String>,
    lies: Vec<String>,
}

impl<'a> Story<'a> {
    fn begin(case: &'a Case, log: Option<String>) -> Story<'a> {
        let intent = intent(case);
        let (first, _) = times(case);
        let mut story = Story {
            case,
            policy: policy(case),
            gateway: gateway(case),
            copies: Vec::new(),
            copies_made: 0,
            told: Vec::new(),
            steps: 0,
            log,
            lies: Vec::new(),
            intent,
        };
        story.arrive(first);
        if let Copies::Second(ms) = case.copies {
            story.arrive(first + SignedDuration::from_millis(ms));
        }
        story
    }

    fn arrive(&mut self, at: Timestamp) {
        let history = History::fresh(at, self.intent.items().len());
        self.live_on(at, false, history, BTreeSet::new());
    }

    fn live_on(&mut self, arrives: Timestamp, redelivered: bool, history: History, knows: BTreeSet<usize>) {
        self.copies.push(Copy { name: self.copies_made, arrives, redelivered, history, knows });
        self.copies_made += 1;
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            writeln!(log, "    {}", line()).expect("a string takes all");
        }
    }

    /// To the end of every copy, and long after it.
    fn tell(mut self) -> Story<'a> {
        while let Some(index) = (0..self.copies.len()).min_by_key(|index| self.copies[*index].arrives) {
            let copy = self.copies.swap_remove(index);
            self.step(copy);
            if self.steps > 20_000 {
                self.lies.push("the story does not end".to_owned());
                break;
            }
        }
        self.gateway.advance(Timestamp::MAX);
        self
    }

    fn step(&mut self, mut copy: Copy) {
        self.steps += 1;
        let now = copy.arrives;
        let as_delivered = copy.history.clone();
        if copy.redelivered {
            let kind = self.intent.kind();
            match suspect(
                kind,
                &copy.history,
                Handling::Shared,
                isolation::Crash::Possible,
                &self.policy,
                now,
            ) {
                Suspicion::Isolate(history) => copy.history = *history,
                // A process dies once, and only the third death is one too many.
                Suspicion::Clear | Suspicion::Poison(_) => {
                    self.lies.push("a suspect was not isolated".to_owned())
                }
            }
            self.note(|| format!("{now} #{} is redelivered", copy.name));
        }
        copy.history = resumed(&self.intent, &copy.history, &self.policy, now);
        // Only the first copy's process dies, and once.
        let crash = if copy.name == 0 { self.case.crash } else { Crash::Never };
        let name = copy.name;
        let died = |story: &mut Self, at: Timestamp| {
            story.note(|| format!("{at} #{name} the process dies"));
            story.live_on(later(at, Duration::from_secs(1)), true, as_delivered.clone(), BTreeSet::new());
        };
        if crash == Crash::BeforeCall(self.steps) {
            return died(self, now);
        }
        let jitter = Jitter::new(f64::from(self.steps % 7) / 7.0);
        let planned = plan(&self.intent, &copy.history, &self.policy, now);
        copy.history = planned.history;
        let (decision, ended) = match planned.plan {
            Plan::Decide(ruling) => {
                let moment = Moment { policy: &self.policy, now, jitter };
                (decide_ruling(&self.intent, &copy.history, ruling, moment), now)
            }
            Plan::Call(call) => {
                let named = call.order.indices();
                let called = if self.intent.kind() == Kind::BatchCancel { named.clone() } else { vec![0] };
                if let Some(known) = called.iter().find(|index| copy.knows.contains(index)) {
                    self.lies.push(format!("payment {known} was called after its effect was known"));
                }
                let (reply, took) = self.gateway.call(&call.order, now);
                self.note(|| format!("{now} #{} calls {called:?}: {reply:?}", copy.name));
                if crash == Crash::DuringCall(self.steps) {
                    return died(self, later(now, Duration::from_millis(100)));
                }
                let ended = later(now, took);
                if crash == Crash::AfterCall(self.steps) {
                    return died(self, ended);
                }
                let verdict = classify(&call.order, &reply, &self.policy.codes);
                let last = codes_of(&reply);
                let moment = Moment { policy: &self.policy, now: ended, jitter };
                (decide_verdict(&self.intent, &copy.history, &named, verdict, last, moment), ended)
            }
            Plan::Inquire(inquiry) => {
                let reply = self.gateway.look(&inquiry.question, now);
                self.note(|| format!("{now} #{} looks: {reply:?}", copy.name));
                let ended = later(now, Duration::from_millis(200));
                let findings = weigh(&reply, self.intent.kind(), &self.policy.codes);
                let moment = Moment { policy: &self.policy, now: ended, jitter };
                (decide_findings(&self.intent, &copy.history, findings, now, moment), ended)
            }
        };
        self.announce(&mut copy, &decision, ended);
        if crash == Crash::BeforeAck(self.steps) {
            died(self, ended);
        }
        match decision.then {
            Then::Done | Then::DeadLetter(_) => {}
            Then::Wait(_) => {
                let arrives = decision.history.due.expect("a letter that waits is due").max(ended);
                self.copies.push(Copy { arrives, redelivered: false, history: decision.history, ..copy });
            }
        }
    }

    fn announce(&mut self, copy: &mut Copy, decision: &Decision, at: Timestamp) {
        self.gateway.advance(at);
        self.note(|| {
            let told: Vec<String> =
                decision.outcomes.iter().map(|o| format!("{:?} {:?}", o.subject, o.status)).collect();
            let due = decision.history.due;
            format!("{at} #{} tells {told:?}, then {:?} until {due:?}", copy.name, decision.then)
        });
        for outcome in &decision.outcomes {
            let subject = match (outcome.subject, self.case.kind) {
                (Subject::Item(index), _) => index,
                (Subject::Whole, Kind::BatchCancel) => continue,
                (Subject::Whole, _) => 0,
            };
            if matches!(outcome.status, Status::Cancelled | Status::RolledBack) {
                copy.knows.insert(subject);
            }
            match outcome.status {
                Status::Cancelled if !self.gateway.is_cancelled(subject) => {
                    self.lies.push(format!("payment {subject} told as cancelled, and is not"));
                }
                Status::RolledBack if !self.gateway.is_withdrawn() => {
                    self.lies.push("told as rolled back, and no order is withdrawn".to_owned());
                }
                Status::Accepted if !self.gateway.took_an_order() => {
                    self.lies.push("told as accepted, and no order was ever taken".to_owned());
                }
                _to_be_judged_at_the_end => {}
            }
            self.told.push(Told { at, by: copy.name, subject, status: outcome.status });
        }
    }

    /// What was told, against what is true when nothing can happen any more.
    fn judge(&mut self) {
        for subject in 0..self.case.payments.len() {
            let told: Vec<&Told> = self.told.iter().filter(|told| told.subject == subject).collect();
            let ends: BTreeSet<StatusName> =
                told.iter().map(|told| told.status.name()).filter(|name| name.is_terminal()).collect();
            let effects = self.gateway.our_effects(subject);
            let cancelled = self.gateway.is_cancelled(subject);
            let mut lies = Vec::new();
            if ends.len() > 1 {
                lies.push(format!("payment {subject} has two ends: {ends:?}"));
            }
            for told in &told {
                let at_peace = matches!(told.status, Status::Rejected(_))
                    // What a copy gives up, another one may still bring about; its end is the one that counts.
                    || matches!(told.status, Status::GivenUp(_)) && (self.copies_made == 1 || ends.is_empty());
                if at_peace && effects > 0 {
                    lies.push(format!(
                        "payment {subject} told as {:?}, and our call had its effect",
                        told.status
                    ));
                }
                // What somebody else did is told as far as it was asked about and could be answered.
                let unasked = matches!(
                    told.status,
                    Status::Rejected(RejectedReason::InvalidRequest | RejectedReason::SameDayWindowClosed)
                ) && effects == 0;
                let denied = self.case.queries == Queries::NotFound;
                let cancels = self.case.kind != Kind::SyncCancelRollback;
                let rejected = matches!(told.status, Status::Rejected(_));
                if rejected && cancelled && cancels && !unasked && !denied {
                    lies.push(format!("payment {subject} told as {:?}, and is cancelled", told.status));
                }
                if told.status == Status::RolledBack && effects > 0 && cancelled {
                    lies.push(format!("payment {subject} told as rolled back, and is cancelled in the end"));
                }
            }
            // A bulk queue may hold over midnight what may have been called: nothing proves that it was not.
            let is_held = self.case.kind == Kind::BatchCancel
                && !cancelled
                && told
                    .last()
                    .is_some_and(|told| told.status == Status::Unresolved(UnresolvedReason::DeadlinePassed));
            if ends.is_empty() && !is_held && !self.may_stay_open(subject) {
                let last = told.last().map(|told| told.status);
                lies.push(format!("payment {subject} has no end, though the gateway would tell: {last:?}"));
            }
            if self.must_be_cancelled(subject) && !cancelled {
                lies.push(format!("payment {subject} could have been cancelled, and is not"));
            }
            self.lies.extend(lies);
        }
    }

    /// Whether a story may end without a terminal outcome.
    fn may_stay_open(&self, subject: usize) -> bool {
        let case = self.case;
        let (before, fates) = &case.payments[subject];
        // A payment that is denied while there is doubt may yet turn up.
        let unknown = *before == Past::Unknown;
        let never_ends = fates.iter().any(|fate| matches!(fate, Fate::Stuck | Fate::NamedInVain));
        let nothing_comes_through = case.meets == Meets::All && case.fault != Fault::None;
        let never_delivered = matches!(fates.last(), Some(Fate::Undelivered | Fate::MissingInVain));
        let mute = match case.queries {
            Queries::Healthy | Queries::DownForAWhile | Queries::EveryOther => false,
            Queries::DownForEver | Queries::NotFound | Queries::ListDown | Queries::InquiryDown => true,
        };
        let provision = case.kind == Kind::ApmProvisionCancel;
        mute || unknown || never_ends || nothing_comes_through || never_delivered || provision
    }

    /// Whether nothing stood in the way of the cancellation but faults that heal.
    fn must_be_cancelled(&self, subject: usize) -> bool {
        let case = self.case;
        let (before, fates) = &case.payments[subject];
        let ends_well = |fate: &Fate| {
            matches!(
                fate,
                Fate::AtOnce
                    | Fate::Succeeds
                    | Fate::SucceedsLate
                    | Fate::NamedAndDone
                    | Fate::MissingAndDone
            )
        };
        let heals = case.fault == Fault::None || case.meets != Meets::All;
        let asks = matches!(case.queries, Queries::Healthy | Queries::DownForAWhile | Queries::EveryOther);
        case.kind != Kind::SyncCancelRollback
            && *before == Past::Stands
            && fates.iter().all(ends_well)
            && heals
            && asks
            && case.midnight == Midnight::Far
    }
}

/// Tells every case; panics with the whole stories of those that end in a lie.
fn check(cases: &[Case]) {
    let mut failed = 0;
    let mut shown = String::new();
    for case in cases {
        let mut story = Story::begin(case, None).tell();
        story.judge();
        if story.lies.is_empty() {
            continue;
        }
        failed += 1;
        if failed <= 3 {
            let mut story = Story::begin(case, Some(String::new())).tell();
            story.judge();
            let told: Vec<String> = story
                .told
                .iter()
                .map(|told| format!("{} #{} {} {:?}", told.at, told.by, told.subject, told.status))
                .collect();
            write!(
                shown,
                "\n{case:?}\n{}  told {told:#?}\n  LIES {:#?}\n",
                story.log.unwrap_or_default(),
                story.lies
            )
            .expect("a string takes all");
        }
    }
    assert!(failed == 0, "{failed} of {} cases end in a lie{shown}", cases.len());
    println!("{} cases", cases.len());
}

mod matrix;
