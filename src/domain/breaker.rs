//! The breaker: an endpoint that is known to be down is not called, so that no letter burns its attempts on it. One
//! letter at a time finds out whether it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::classify::Verdict;
use super::gate::{Gate, Pass, Probe};
use super::http_status::HttpStatus;
use super::intent::{IntentId, MerchantName};
use super::reply::{NeverSent, Reply};
use super::retry::Jitter;

/// This many calls in a row that the endpoint failed to answer pause it. An endpoint that fails half of its calls at
/// random is paused about once in 32 calls, for half a second.
pub const FAILURES_MIN: u32 = 5;

/// They must have been for at least this many intents: one payment that is always in doubt says nothing about the endpoint.
pub const INTENTS_MIN: usize = 3;

/// While another merchant was answered within this time, and has not failed since, the endpoint is not down: the
/// failures concern one merchant.
pub const ANSWERED_LATELY: Duration = Duration::from_secs(60);

/// The pause before the first probe.
pub const PAUSE_FIRST: Duration = Duration::from_millis(500);

/// The longest pause between two probes: soon after the endpoint is back, work goes on.
pub const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a call's reply says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointSignal {
    /// It answered, whatever it said.
    Answered,
    /// Nothing was sent, nothing came back, or the reply came from a proxy in front of it.
    Failed,
    /// Our keys or our address were not accepted: that is a merchant's trouble, but somebody is there.
    LockedOut,
    /// Neither: the gateway asked for a later call, or nothing was called.
    Nothing,
}

impl EndpointSignal {
    /// What the reply to a call says about its endpoint. A 5xx or a 429 without known
    /// codes counts as a failure: a proxy in front of the endpoint may have sent it.
    pub fn of(reply: &Reply, verdict: &Verdict) -> EndpointSignal {
        let answer = match reply {
            Reply::NeverSent(NeverSent::NotBuilt) => return EndpointSignal::Nothing,
            Reply::NeverSent(NeverSent::NotConnected(_)) | Reply::Unanswered(_) => {
                return EndpointSignal::Failed;
            }
            Reply::Answered(answer) => answer,
        };
        let is_strained = HttpStatus::of(answer.http_status).is_strained();
        match verdict {
            Verdict::LockedOut(_) => EndpointSignal::LockedOut,
            // It waits with its merchant.
            Verdict::Busy(Some(_)) => EndpointSignal::Nothing,
            Verdict::Busy(None) | Verdict::InDoubt if is_strained => EndpointSignal::Failed,
            Verdict::Done(_)
            | Verdict::Ordered(_)
            | Verdict::OrderedBatch(..)
            | Verdict::Refused(_)
            | Verdict::RefusedByState(_)
            | Verdict::NeverSent
            | Verdict::Busy(None)
            | Verdict::InDoubt
            | Verdict::NotConfigured => EndpointSignal::Answered,
        }
    }
}

/// Whose call it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose keys were used.
    pub merchant: MerchantName,
    /// What was called for.
    pub intent: IntentId,
}

/// What follows from a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// All stays as it is.
    None,
    /// Stop calling.
    Pause,
    /// Call again, after so long a pause.
    Resume(Duration),
}

/// The breaker of an endpoint, or of one merchant at it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Breaker {
    /// Shut while the endpoint is paused; then with the number of probes that failed.
    gate: Gate<u32>,
    /// The failures since the last answer, and for which intents they were.
    failures: u32,
    intents: BTreeSet<IntentId>,
    /// When a merchant was answered last, if it has not failed since. As many as there are merchants.
    answered: BTreeMap<MerchantName, Duration>,
}

impl Breaker {
    /// Whether a letter may call now. A probe is given up on after `probe_max`.
    pub fn pass(&mut self, now: Duration, probe_max: Duration) -> Pass {
        self.gate.pass(now, probe_max)
    }

    /// How long the endpoint has been paused, if it is.
    pub fn paused_for(&self, now: Duration) -> Option<Duration> {
        self.gate.shut_for(now)
    }

    /// How long it is until a probe may pass; zero if now. `None`: it is not paused.
    pub fn next_probe(&self, now: Duration) -> Option<Duration> {
        self.gate.next_probe(now)
    }

    /// Takes note of what a call's reply says. `probe` is what the caller was given when it passed as one.
    pub fn hear(
        &mut self,
        heard: EndpointSignal,
        caller: &Caller,
        probe: Option<Probe>,
        now: Duration,
        jitter: Jitter,
    ) -> Transition {
        match heard {
            EndpointSignal::Answered => drop(self.answered.insert(caller.merchant.clone(), now)),
            EndpointSignal::Failed => drop(self.answered.remove(&caller.merchant)),
            EndpointSignal::LockedOut | EndpointSignal::Nothing => {}
        }
        let is_paused = self.gate.shut_for(now).is_some();
        match heard {
            EndpointSignal::Answered => {
                self.failures = 0;
                self.intents.clear();
                self.resume(now)
            }
            // Also of a call that was begun before the pause: it is not down if it answers.
            EndpointSignal::LockedOut if is_paused => self.resume(now),
            EndpointSignal::Failed if !is_paused => {
                self.failures = self.failures.saturating_add(1);
                if self.intents.len() < INTENTS_MIN {
                    self.intents.insert(caller.intent);
                }
                let another_was_answered =
                    self.answered.values().any(|at| now.saturating_sub(*at) < ANSWERED_LATELY);
                if self.failures < FAILURES_MIN || self.intents.len() < INTENTS_MIN || another_was_answered {
                    return Transition::None;
                }
                self.gate.shut(0, now, pause(0, jitter));
                Transition::Pause
            }
            EndpointSignal::Failed => {
                if let Some(failures) = self.gate.probing(probe) {
                    *failures = failures.saturating_add(1);
                    let wait = pause(*failures, jitter);
                    self.gate.probe_again(now, wait);
                }
                Transition::None
            }
            EndpointSignal::LockedOut | EndpointSignal::Nothing => {
                if let Some(failures) = self.gate.probing(probe) {
                    let wait = pause(*failures, jitter);
                    self.gate.probe_again(now, wait);
                }
                Transition::None
            }
        }
    }

    fn resume(&mut self, now: Duration) -> Transition {
        match self.gate.open(now) {
            Some(paused_for) => {
                self.failures = 0;
                self.intents.clear();
                Transition::Resume(paused_for)
            }
            None => Transition::None,
        }
    }
}

/// The pause before the next probe, after this many that failed: doubled with each, spread below itself, never longer than
/// [`PAUSE_MAX`].
fn pause(failures: u32, jitter: Jitter) -> Duration {
    // It is at its cap long before this many.
    let grown = PAUSE_FIRST.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX);
    grown / 2 + jitter.part_of(grown / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::domain::classify::LockOutScope;
    use crate::domain::fault::Fault;
    use crate::domain::outcome::RejectedReason;
    use crate::domain::reply::{Answer, Envelope, RetryAfter};

    const PROBE_MAX: Duration = Duration::from_secs(60);

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn caller(merchant: &str, intent: u128) -> Caller {
        Caller {
            merchant: MerchantName::parse(merchant).expect("a name"),
            intent: IntentId::try_new(Uuid::from_u128(intent + 1)).expect("not nil"),
        }
    }

    /// What follows from calls of one merchant, each for an intent of its own, one a millisecond.
    fn check(heard: &[EndpointSignal], order: Transition) -> Breaker {
        let mut breaker = Breaker::default();
        let mut last = Transition::None;
        for (number, heard) in (0_u32..).zip(heard) {
            let now = s(100.0) + Duration::from_millis(1) * number;
            last = breaker.hear(*heard, &caller("one", number.into()), None, now, Jitter::new(0.0));
        }
        assert_eq!(last, order, "{heard:?}");
        breaker
    }

    fn paused() -> Breaker {
        check(&[EndpointSignal::Failed; 5], Transition::Pause)
    }

    fn hear(breaker: &mut Breaker, heard: EndpointSignal, probe: Option<Probe>, at: f64) -> Transition {
        breaker.hear(heard, &caller("one", 7), probe, s(at), Jitter::new(0.999_999))
    }

    fn probe(breaker: &mut Breaker, at: f64) -> Probe {
        match breaker.pass(s(at), PROBE_MAX) {
            Pass::Probe(probe) => probe,
            pass @ (Pass::Open | Pass::Wait(_)) => panic!("{pass:?} at {at}"),
        }
    }

    #[test]
    fn five_calls_in_a_row_that_were_not_answered_pause_the_endpoint() {
        use EndpointSignal::{Answered, Failed, LockedOut, Nothing};
        check(&[Failed; 4], Transition::None);
        check(&[Failed; 5], Transition::Pause);
        check(&[Failed, Failed, Failed, Failed, Answered, Failed], Transition::None);
        check(&[Failed, Failed, Nothing, LockedOut, Failed, Failed, Failed], Transition::Pause);
        check(&[Answered; 50], Transition::None);
        check(&[LockedOut; 50], Transition::None);
    }

    #[test]
    fn only_an_answer_of_substance_speaks_for_an_endpoint() {
        let answered = |http_status, verdict: Verdict| {
            let answer = Answer { http_status, retry_after: None, fault: None, envelope: Envelope::Missing };
            EndpointSignal::of(&Reply::Answered(answer), &verdict)
        };
        let later = RetryAfter::Seconds(1);
        assert_eq!(
            EndpointSignal::of(&Reply::NeverSent(NeverSent::NotConnected(Fault::Dns)), &Verdict::NeverSent),
            EndpointSignal::Failed
        );
        assert_eq!(
            EndpointSignal::of(&Reply::NeverSent(NeverSent::NotBuilt), &Verdict::NeverSent),
            EndpointSignal::Nothing
        );
        assert_eq!(
            EndpointSignal::of(&Reply::Unanswered(Fault::Timeout), &Verdict::InDoubt),
            EndpointSignal::Failed
        );
        assert_eq!(answered(500, Verdict::InDoubt), EndpointSignal::Failed);
        assert_eq!(answered(429, Verdict::Busy(None)), EndpointSignal::Failed);
        assert_eq!(answered(503, Verdict::Busy(Some(later))), EndpointSignal::Nothing);
        assert_eq!(answered(401, Verdict::LockedOut(LockOutScope::Api)), EndpointSignal::LockedOut);
        assert_eq!(answered(500, Verdict::Refused(RejectedReason::InvalidRequest)), EndpointSignal::Answered);
        assert_eq!(answered(200, Verdict::InDoubt), EndpointSignal::Answered);
        assert_eq!(answered(200, Verdict::Busy(None)), EndpointSignal::Answered);
    }

    #[test]
    fn one_payment_that_is_always_in_doubt_pauses_nobody() {
        let mut breaker = Breaker::default();
        for number in 0..100 {
            let of = caller("one", number % 2);
            let order = breaker.hear(EndpointSignal::Failed, &of, None, s(number as f64), Jitter::new(0.0));
            assert_eq!(order, Transition::None);
        }
    }

    #[test]
    fn one_merchants_trouble_pauses_nobody_while_another_is_answered() {
        let mut breaker = Breaker::default();
        breaker.hear(EndpointSignal::Answered, &caller("two", 1), None, s(100.0), Jitter::new(0.0));
        for number in 0..100 {
            let of = caller("one", number);
            assert_eq!(
                breaker.hear(EndpointSignal::Failed, &of, None, s(101.0), Jitter::new(0.0)),
                Transition::None
            );
        }
        // Once the other fails as well, nobody is answered any more.
        let order = breaker.hear(EndpointSignal::Failed, &caller("two", 2), None, s(102.0), Jitter::new(0.0));
        assert_eq!(order, Transition::Pause);
    }

    #[test]
    fn a_merchant_that_was_answered_long_ago_tells_nothing() {
        let mut breaker = Breaker::default();
        breaker.hear(EndpointSignal::Answered, &caller("two", 1), None, s(0.0), Jitter::new(0.0));
        let orders: Vec<Transition> = (0..5)
            .map(|number| {
                breaker.hear(EndpointSignal::Failed, &caller("one", number), None, s(60.0), Jitter::new(0.0))
            })
            .collect();
        assert_eq!(orders.last(), Some(&Transition::Pause));
    }

    #[test]
    fn while_it_is_paused_one_letter_at_a_time_finds_out() {
        let mut breaker = paused();
        assert!(matches!(breaker.pass(s(100.1), PROBE_MAX), Pass::Wait(_)));
        let probe = probe(&mut breaker, 101.0);
        assert!(matches!(breaker.pass(s(101.0), PROBE_MAX), Pass::Wait(_)));
        // What was called before the pause ends meanwhile.
        assert_eq!(hear(&mut breaker, EndpointSignal::Failed, None, 102.0), Transition::None);
        assert!(matches!(breaker.pass(s(110.0), PROBE_MAX), Pass::Wait(_)));
        assert_eq!(hear(&mut breaker, EndpointSignal::Failed, Some(probe), 111.0), Transition::None);
        assert_eq!(breaker.next_probe(s(111.0)).map(|wait| wait.as_millis()), Some(999));
    }

    #[test]
    fn an_answer_ends_the_pause_for_everybody_whoever_heard_it() {
        for by_probe in [true, false] {
            let mut breaker = paused();
            let probe = probe(&mut breaker, 130.004);
            let order = hear(&mut breaker, EndpointSignal::Answered, by_probe.then_some(probe), 130.004);
            assert_eq!(order, Transition::Resume(s(30.0)));
            assert_eq!(breaker.pass(s(131.0), PROBE_MAX), Pass::Open);
        }
    }

    #[test]
    fn the_pause_grows_while_probes_fail_and_is_bounded() {
        let mut breaker = paused();
        let mut now = 101.0;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let probe = probe(&mut breaker, now);
            hear(&mut breaker, EndpointSignal::Failed, Some(probe), now);
            let wait = breaker.next_probe(s(now)).expect("it is paused");
            pauses.push((wait.as_secs_f64() * 10.0).round() / 10.0);
            now += wait.as_secs_f64() + 0.001;
        }
        assert_eq!(pauses, [1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0]);
    }

    #[test]
    fn a_probe_that_told_nothing_or_never_came_back_frees_the_next() {
        let mut breaker = paused();
        let told_nothing = probe(&mut breaker, 101.0);
        hear(&mut breaker, EndpointSignal::Nothing, Some(told_nothing), 101.0);
        let lost = probe(&mut breaker, 101.5);
        assert!(matches!(breaker.pass(s(161.0), PROBE_MAX), Pass::Wait(_)));
        let next = probe(&mut breaker, 161.5);
        assert_ne!(lost, next);
        // The lost one comes back after all, and is not taken for the next.
        hear(&mut breaker, EndpointSignal::Failed, Some(lost), 162.0);
        assert!(matches!(breaker.pass(s(170.0), PROBE_MAX), Pass::Wait(_)));
    }

    /// One thing that happens: how long after the one before, to whom, what.
    #[derive(Debug, Clone)]
    enum Step {
        /// Somebody wants to call.
        Pass,
        /// The oldest of the calls under way hears this.
        Hear(EndpointSignal),
    }

    fn steps(
        heard: impl Strategy<Value = EndpointSignal> + Clone,
    ) -> impl Strategy<Value = Vec<(u64, u8, u8, Step)>> {
        let step = prop_oneof![Just(Step::Pass), heard.prop_map(Step::Hear)];
        prop::collection::vec((0_u64..3_000, 0_u8..3, 0_u8..6, step), 0..200)
    }

    fn any_heard() -> impl Strategy<Value = EndpointSignal> + Clone {
        prop_oneof![
            Just(EndpointSignal::Answered),
            Just(EndpointSignal::Failed),
            Just(EndpointSignal::Failed),
            Just(EndpointSignal::Nothing)
        ]
    }

    /// What became of some steps: when they ended, how many probes ran at once at most, and the one still under way.
    struct Played {
        now: Duration,
        probes_max: usize,
        probing: Option<Probe>,
    }

    /// Plays these steps; the callers hear in the order in which they passed.
    fn play(breaker: &mut Breaker, steps: &[(u64, u8, u8, Step)]) -> Played {
        let mut now = Duration::ZERO;
        let mut calling: Vec<Option<Probe>> = Vec::new();
        let mut probes_max = 0;
        for (after_ms, merchant, intent, step) in steps {
            now += Duration::from_millis(*after_ms);
            match step {
                Step::Pass => match breaker.pass(now, Duration::MAX) {
                    Pass::Open => calling.push(None),
                    Pass::Probe(probe) => calling.push(Some(probe)),
                    Pass::Wait(_) => {}
                },
                Step::Hear(heard) => {
                    let probe = if calling.is_empty() { None } else { calling.remove(0) };
                    let of = caller(["one", "two", "three"][usize::from(*merchant)], (*intent).into());
                    let order = breaker.hear(*heard, &of, probe, now, Jitter::new(0.5));
                    if let Transition::Resume(_) = order {
                        // Their pause is over; what they hear later is no probe's word.
                        calling.iter_mut().for_each(|probe| *probe = None);
                    }
                }
            }
            probes_max = probes_max.max(calling.iter().flatten().count());
        }
        Played { now, probes_max, probing: calling.into_iter().flatten().next() }
    }

    proptest! {
        #[test]
        fn there_is_never_more_than_one_probe_at_a_time(steps in steps(any_heard())) {
            let Played { probes_max, .. } = play(&mut Breaker::default(), &steps);
            prop_assert!(probes_max <= 1, "{probes_max} at once");
        }

        #[test]
        fn whatever_happened_a_probe_that_is_answered_ends_the_pause_soon(steps in steps(any_heard())) {
            let mut breaker = Breaker::default();
            let Played { mut now, probing, .. } = play(&mut breaker, &steps);
            if let Some(probe) = probing {
                breaker.hear(EndpointSignal::Failed, &caller("one", 1), Some(probe), now, Jitter::new(0.5));
            }
            now += PAUSE_MAX;
            match breaker.pass(now, PROBE_MAX) {
                Pass::Open => {}
                Pass::Probe(probe) => {
                    breaker.hear(EndpointSignal::Answered, &caller("one", 1), Some(probe), now, Jitter::new(0.5));
                }
                Pass::Wait(_) => prop_assert!(false, "nobody may find out after the longest pause"),
            }
            prop_assert_eq!(breaker.pass(now, PROBE_MAX), Pass::Open);
        }

        #[test]
        fn lock_outs_never_pause_an_endpoint(
            steps in steps(prop_oneof![Just(EndpointSignal::Answered), Just(EndpointSignal::LockedOut), Just(EndpointSignal::Nothing)])
        ) {
            let mut breaker = Breaker::default();
            let Played { now, .. } = play(&mut breaker, &steps);
            prop_assert_eq!(breaker.paused_for(now), None);
        }

        #[test]
        fn no_pause_is_longer_than_the_longest(failures in 0_u32.., jitter in 0.0_f64..1.0) {
            let pause = pause(failures, Jitter::new(jitter));
            prop_assert!(pause <= PAUSE_MAX && pause >= PAUSE_FIRST / 2);
        }
    }
}
