//! Whether waits end on time: when each letter is due back from its delay queue, when it came, and what to make of
//! it. A letter that comes late has missed nothing but time; one that does not come at all is nobody's any more,
//! unless somebody says so.
//!
//! What is measured is one *hop*: the way through one delay queue. A wait that is composed of several is on time when
//! each of them is.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use super::intent::Kind;
use super::retry::{Tier, Tiers, elapsed, later};

/// So many letters a second come back from a delay queue at least: RabbitMQ was seen to do three times as many.
const RETURNS_PER_S: u64 = 2_000;

/// So many consumers may each have had all that came back, and we none of it, before we wonder: with so many letters a
/// consumer, that happens by chance less than once in a hundred times.
const LETTERS_PER_CONSUMER: u64 = 5;

/// So many lots of letters are kept apart; beyond it, the oldest two become one, due when the later of them is.
const LOTS_LEN_MAX: usize = 64;

/// What is called late, and what is called stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatenessLimits {
    /// A letter that comes back so long after its time is late; of a delay longer than twenty times this, one that
    /// is late by more than a twentieth of the delay.
    pub late_after: Duration,
    /// A delay queue of which nothing has come back for so long after it was late is stuck. The broker tries again
    /// after three minutes where the way back was missing for a moment: that is not worth a person's while.
    pub stuck_after: Duration,
    /// An alarm that lasts is told again so often.
    pub told_every: Duration,
}

impl Default for LatenessLimits {
    fn default() -> LatenessLimits {
        LatenessLimits {
            late_after: Duration::from_secs(5),
            stuck_after: Duration::from_secs(200),
            told_every: Duration::from_secs(600),
        }
    }
}

/// Where a wait ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WayBack {
    /// The returns of a kind.
    Returns(Kind),
    /// The refused events.
    Announcements,
}

/// One way through one delay queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The name of the tier.
    pub tier: String,
    /// Where it ends.
    pub way_back: WayBack,
    /// When.
    pub due: Timestamp,
}

/// What a look at the broker's queues has shown. What could not be read is not in it, and nothing is concluded then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many letters wait in a tier, by its name.
    pub waiting: BTreeMap<String, u32>,
    /// What stands at the end of each way back.
    pub arrived: BTreeMap<WayBack, Arrived>,
}

/// The end of a way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// Letters that nobody has taken yet.
    pub ready: u32,
    /// The consumers that take them, ours included.
    pub consumers: u32,
}

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Letters come back late.
    Late {
        /// From which tier.
        tier: String,
        /// How late the latest of them is.
        lateness: Duration,
        /// How many since it was last looked.
        letters: u64,
    },
    /// Letters do not come back at all.
    Stuck {
        /// From which tier.
        tier: String,
        /// How long the first of them is overdue.
        overdue: Duration,
        /// How many of ours.
        letters: u64,
    },
    /// All is well again.
    OnTimeAgain {
        /// With which tier.
        tier: String,
        /// After so long.
        after: Duration,
    },
}

/// The figures of one tier since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Letters that this process has put in.
    pub gone: u64,
    /// Letters that have come back to this process, whichever had put them in.
    pub back: u64,
    /// Of them, those that were late.
    pub late: u64,
    /// How late all of them together were; by `back`, their mean lateness.
    pub lateness_total: Duration,
    /// How late the latest of them was.
    pub lateness_max: Duration,
    /// Letters that this process has put in, that are overdue, and of which nothing is known.
    pub overdue: u64,
    /// What is alarmed now.
    pub alarm: Option<Alarmed>,
}

/// What is wrong with a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarmed {
    /// Its letters come late.
    Late,
    /// Its letters do not come.
    Stuck,
}

/// All tiers.
#[derive(Debug)]
pub struct Lateness {
    limits: LatenessLimits,
    tiers: BTreeMap<String, State>,
}

#[derive(Debug)]
struct State {
    tier: Tier,
    /// What we have put in and do not know to have come back, by its way back; the first due in front.
    away: BTreeMap<WayBack, VecDeque<Lot>>,
    /// The most that waited in it before the last look, and the one before that: a burst takes its time to come back.
    waiting: [u64; 2],
    /// The most that we had there since the last look.
    away_max: u64,
    /// Since the last look.
    late_now: Late,
    alarm: Option<Alarm>,
    figures: Figures,
}

/// Letters that are due at about the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lot {
    due: Timestamp,
    letters: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Late {
    letters: u64,
    lateness_max: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Alarm {
    what: Alarmed,
    since: Timestamp,
    told_at: Timestamp,
}

impl Lateness {
    /// Nothing has gone yet.
    pub fn new(tiers: &Tiers, limits: LatenessLimits) -> Lateness {
        let state = |tier: &Tier| State {
            tier: tier.clone(),
            away: BTreeMap::new(),
            waiting: [0, 0],
            away_max: 0,
            late_now: Late::default(),
            alarm: None,
            figures: Figures::default(),
        };
        Lateness {
            limits,
            tiers: tiers.as_slice().iter().map(|tier| (tier.name.clone(), state(tier))).collect(),
        }
    }

    /// A letter is about to go. To be said before it goes: it may be back sooner than its confirm.
    pub fn gone(&mut self, hop: &Hop) {
        let Some(state) = self.tiers.get_mut(&hop.tier) else { return };
        state.figures.gone += 1;
        let together = together(&state.tier);
        let lots = state.away.entry(hop.way_back).or_default();
        match lots.back_mut() {
            Some(last) if elapsed(last.due, hop.due) < together => {
                last.letters += 1;
                last.due = last.due.max(hop.due);
            }
            Some(_) | None => lots.push_back(Lot { due: hop.due, letters: 1 }),
        }
        if lots.len() > LOTS_LEN_MAX
            && let (Some(first), Some(second)) = (lots.pop_front(), lots.front_mut())
        {
            second.letters += first.letters;
        }
        state.away_max = state.away_max.max(state.away_len());
    }

    /// It has not gone after all, or nobody knows: nothing is concluded from its absence.
    pub fn not_gone(&mut self, hop: &Hop) {
        let Some(lots) = self.tiers.get_mut(&hop.tier).and_then(|state| state.away.get_mut(&hop.way_back))
        else {
            return;
        };
        if let Some(lot) = lots.iter_mut().find(|lot| lot.due >= hop.due) {
            lot.letters = lot.letters.saturating_sub(1);
        }
        lots.retain(|lot| lot.letters > 0);
    }

    /// A letter has come back that was handed out before: it was on time, or late, then. All that were due before it
    /// on the same way have come back too, to us or to somebody else, for a delay queue is first in, first out.
    pub fn back_again(&mut self, hop: &Hop) {
        let Some(state) = self.tiers.get_mut(&hop.tier) else { return };
        if let Some(lots) = state.away.get_mut(&hop.way_back) {
            // A lot is due with the last of its letters.
            lots.retain(|lot| lot.due > hop.due);
        }
    }

    /// A letter has come back. Says how late it is.
    pub fn back(&mut self, hop: &Hop, now: Timestamp) -> Duration {
        self.back_again(hop);
        let lateness = elapsed(hop.due, now);
        let Some(state) = self.tiers.get_mut(&hop.tier) else { return lateness };
        let figures = &mut state.figures;
        figures.back += 1;
        figures.lateness_total = figures.lateness_total.saturating_add(lateness);
        figures.lateness_max = figures.lateness_max.max(lateness);
        if lateness > state.allowed(&self.limits) {
            state.figures.late += 1;
            state.late_now.letters += 1;
            state.late_now.lateness_max = state.late_now.lateness_max.max(lateness);
        }
        lateness
    }

    /// What follows from a look at the broker's queues.
    pub fn looked(&mut self, seen: &Seen, now: Timestamp) -> Vec<News> {
        let limits = self.limits;
        self.tiers.values_mut().filter_map(|state| state.looked(seen, &limits, now)).collect()
    }

    /// The figures of every tier, by its name.
    pub fn figures(&self, now: Timestamp) -> BTreeMap<String, Figures> {
        let of = |state: &State| Figures {
            overdue: state.overdue(state.allowed(&self.limits), now).map(|(_, letters, _)| letters).sum(),
            alarm: state.alarm.map(|alarm| alarm.what),
            ..state.figures
        };
        self.tiers.iter().map(|(name, state)| (name.clone(), of(state))).collect()
    }
}

impl State {
    /// How late a letter of this tier may be: a part of its wait, and the time that those before it take.
    fn allowed(&self, limits: &LatenessLimits) -> Duration {
        let waiting = self.away_max.max(self.waiting[0]).max(self.waiting[1]);
        let burst = Duration::from_millis(waiting * 1_000 / RETURNS_PER_S);
        limits.late_after.max(self.tier.length / 20).saturating_add(burst)
    }

    fn away_len(&self) -> u64 {
        self.away.values().flatten().map(|lot| lot.letters).sum()
    }

    /// Of each way back: since when the first letter is overdue, and how many are.
    fn overdue(&self, by: Duration, now: Timestamp) -> impl Iterator<Item = (WayBack, u64, Timestamp)> {
        self.away.iter().filter_map(move |(way_back, lots)| {
            let overdue = lots.iter().take_while(|lot| later(lot.due, by) < now);
            let letters = overdue.clone().map(|lot| lot.letters).sum();
            Some((*way_back, letters, overdue.clone().next()?.due))
        })
    }

    fn looked(&mut self, seen: &Seen, limits: &LatenessLimits, now: Timestamp) -> Option<News> {
        let waiting = seen.waiting.get(&self.tier.name).copied().unwrap_or_default();
        self.waiting = [self.waiting[1], self.away_max.max(waiting.into())];
        self.away_max = self.away_len();
        let late = std::mem::take(&mut self.late_now);
        let allowed = self.allowed(limits);
        let stuck_after = allowed.saturating_add(limits.stuck_after);
        let (stuck, first) = self
            .overdue(stuck_after, now)
            .filter(|(way_back, letters, _)| {
                seen.arrived.get(way_back).is_some_and(|arrived| {
                    // What lies there has come back, and it is for us to take it.
                    arrived.ready == 0 && *letters >= evidence(arrived.consumers)
                })
            })
            .fold((0, now), |(sum, first), (_, letters, due)| (sum + letters, first.min(due)));
        let is_any_overdue = self.overdue(allowed, now).next().is_some();
        let tier = self.tier.name.clone();
        if stuck > 0 {
            let news = News::Stuck { tier, overdue: elapsed(first, now), letters: stuck };
            self.raise(Alarmed::Stuck, limits, now).then_some(news)
        } else if late.letters > 0 {
            let news = News::Late { tier, lateness: late.lateness_max, letters: late.letters };
            self.raise(Alarmed::Late, limits, now).then_some(news)
        } else if is_any_overdue {
            // Nobody knows yet: what is raised stays, and nothing is.
            None
        } else {
            let alarm = self.alarm.take()?;
            Some(News::OnTimeAgain { tier, after: elapsed(alarm.since, now) })
        }
    }

    /// Whether it is to be told: an alarm is news when it is raised, and once in a while as long as it lasts.
    fn raise(&mut self, what: Alarmed, limits: &LatenessLimits, now: Timestamp) -> bool {
        let (since, is_news) = match self.alarm {
            None => (now, true),
            Some(alarm) => {
                // A stuck queue recovers by delivering its letters late: that is not logged as a new alarm.
                let is_worse = alarm.what == Alarmed::Late && what == Alarmed::Stuck;
                (alarm.since, is_worse || elapsed(alarm.told_at, now) >= limits.told_every)
            }
        };
        let told_at = self.alarm.filter(|_| !is_news).map_or(now, |alarm| alarm.told_at);
        self.alarm = Some(Alarm { what, since, told_at });
        is_news
    }
}

/// Letters that are due within so long are one lot.
fn together(tier: &Tier) -> Duration {
    (tier.length / 32).max(Duration::from_millis(100))
}

/// How many overdue letters prove that none comes back, where this many consumers take them in turn.
fn evidence(consumers: u32) -> u64 {
    match consumers {
        0 | 1 => 1,
        several => u64::from(several) * LETTERS_PER_CONSUMER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::at;

    const WAY: WayBack = WayBack::Returns(Kind::AsyncCancel);
    const OTHER_WAY: WayBack = WayBack::Returns(Kind::BatchCancel);

    /// A tier of ten seconds, and one of an hour.
    fn lateness() -> Lateness {
        let tier = |seconds, name: &str| Tier { length: Duration::from_secs(seconds), name: name.to_owned() };
        let tiers = Tiers::try_new(vec![tier(10, "10s"), tier(3_600, "1h")]).expect("valid");
        Lateness::new(&tiers, LatenessLimits::default())
    }

    fn hop(tier: &str, due: i64) -> Hop {
        Hop { tier: tier.to_owned(), way_back: WAY, due: at(due) }
    }

    /// A look that shows this many letters in the tiers, none arrived, and this many consumers at the end.
    fn seen(waiting: u32, consumers: u32) -> Seen {
        let arrived = Arrived { ready: 0, consumers };
        Seen {
            waiting: BTreeMap::from([("10s".to_owned(), waiting), ("1h".to_owned(), waiting)]),
            arrived: BTreeMap::from([(WAY, arrived), (OTHER_WAY, arrived)]),
        }
    }

    /// What is told at a look, this process being alone and the tiers empty.
    fn look(lateness: &mut Lateness, now: i64) -> Vec<News> {
        lateness.looked(&seen(0, 1), at(now))
    }

    fn late(lateness: u64, letters: u64) -> News {
        News::Late { tier: "10s".to_owned(), lateness: Duration::from_secs(lateness), letters }
    }

    fn stuck(overdue: u64, letters: u64) -> News {
        News::Stuck { tier: "10s".to_owned(), overdue: Duration::from_secs(overdue), letters }
    }

    fn on_time_again(after: u64) -> News {
        News::OnTimeAgain { tier: "10s".to_owned(), after: Duration::from_secs(after) }
    }

    #[test]
    fn letters_that_come_back_on_time_are_no_news() {
        let mut lateness = lateness();
        for due in [10, 11, 12] {
            lateness.gone(&hop("10s", due));
        }
        for due in [10, 11, 12] {
            assert_eq!(lateness.back(&hop("10s", due), at(due + 1)), Duration::from_secs(1));
        }
        for now in [20, 300, 3_000] {
            assert_eq!(look(&mut lateness, now), []);
        }
    }

    #[test]
    fn a_letter_that_comes_before_its_time_is_not_late() {
        let mut lateness = lateness();
        lateness.gone(&hop("10s", 10));
        assert_eq!(lateness.back(&hop("10s", 10), at(9)), Duration::ZERO);
        assert_eq!(look(&mut lateness, 10), []);
    }

    #[test]
    fn letters_that_come_late_are_told_at_the_next_look_and_once_in_a_while_and_when_it_is_over() {
        let mut lateness = lateness();
        let come = |lateness: &mut Lateness, due, now| {
            lateness.gone(&hop("10s", due));
            lateness.back(&hop("10s", due), at(now));
        };
        come(&mut lateness, 10, 16);
        come(&mut lateness, 11, 18);
        assert_eq!(look(&mut lateness, 20), [late(7, 2)]);
        come(&mut lateness, 22, 29);
        assert_eq!(look(&mut lateness, 30), [], "it is told already");
        come(&mut lateness, 610, 620);
        assert_eq!(look(&mut lateness, 620), [late(10, 1)], "it lasts");
        come(&mut lateness, 622, 622);
        assert_eq!(look(&mut lateness, 630), [on_time_again(610)]);
        assert_eq!(look(&mut lateness, 640), []);
    }

    #[test]
    fn a_long_wait_may_be_late_by_a_twentieth() {
        let mut lateness = lateness();
        lateness.back(&hop("1h", 0), at(180));
        assert_eq!(look(&mut lateness, 180), []);
        lateness.back(&hop("1h", 0), at(181));
        assert_eq!(look(&mut lateness, 181).len(), 1);
    }

    #[test]
    fn a_burst_may_take_as_long_as_the_broker_needs_for_it() {
        let mut lateness = lateness();
        assert_eq!(lateness.looked(&seen(60_000, 1), at(0)), []);
        // Five seconds, and thirty for the burst.
        lateness.back(&hop("10s", 10), at(45));
        assert_eq!(look(&mut lateness, 45), []);
        lateness.back(&hop("10s", 10), at(46));
        assert_eq!(look(&mut lateness, 46), [late(36, 1)]);
    }

    #[test]
    fn a_burst_of_our_own_between_two_looks_counts_too() {
        let mut lateness = lateness();
        for _ in 0..60_000 {
            lateness.gone(&hop("10s", 10));
        }
        lateness.back(&hop("10s", 10), at(45));
        assert_eq!(look(&mut lateness, 45), []);
    }

    #[test]
    fn letters_that_never_come_back_are_told_when_the_broker_has_had_time_to_try_again() {
        let mut lateness = lateness();
        lateness.gone(&hop("10s", 10));
        lateness.gone(&hop("10s", 12));
        assert_eq!(look(&mut lateness, 215), []);
        assert_eq!(look(&mut lateness, 220), [stuck(210, 2)]);
        assert_eq!(look(&mut lateness, 230), [], "it is told already");
        assert_eq!(look(&mut lateness, 820), [stuck(810, 2)], "it lasts");
    }

    #[test]
    fn what_was_stuck_is_over_when_the_letters_are_back_however_late() {
        let mut lateness = lateness();
        lateness.gone(&hop("10s", 10));
        assert_eq!(look(&mut lateness, 220), [stuck(210, 1)]);
        lateness.back(&hop("10s", 10), at(223));
        assert_eq!(look(&mut lateness, 230), [], "that it comes late is how it fixes");
        assert_eq!(look(&mut lateness, 240), [on_time_again(20)]);
    }

    #[test]
    fn late_letters_that_end_up_stuck_are_news() {
        let mut lateness = lateness();
        lateness.gone(&hop("10s", 10));
        lateness.back(&hop("10s", 10), at(20));
        assert_eq!(look(&mut lateness, 20), [late(10, 1)]);
        lateness.gone(&hop("10s", 30));
        assert_eq!(look(&mut lateness, 240), [stuck(210, 1)]);
    }

    #[test]
    fn a_later_letter_proves_that_those_before_it_are_back() {
        let mut lateness = lateness();
        lateness.gone(&hop("10s", 10));
        lateness.gone(&hop("10s", 20));
        // Somebody else had the first.
        lateness.back(&hop("10s", 20), at(20));
        assert_eq!(look(&mut lateness, 300), []);
    }

    #[test]
    fn a_way_back_that_is_gone_is_found_though_another_works() {
        let mut lateness = lateness();
        lateness.gone(&hop("10s", 10));
        let other = Hop { way_back: OTHER_WAY, ..hop("10s", 20) };
        lateness.gone(&other);
        lateness.back(&other, at(20));
        assert_eq!(look(&mut lateness, 220), [stuck(210, 1)]);
    }

    #[test]
    fn among_several_consumers_a_few_letters_prove_nothing() {
        let mut lateness = lateness();
        for _ in 0..9 {
            lateness.gone(&hop("10s", 10));
        }
        assert_eq!(lateness.looked(&seen(0, 2), at(220)), [], "the other one may have had them");
        lateness.gone(&hop("10s", 10));
        assert_eq!(lateness.looked(&seen(0, 2), at(230)), [stuck(220, 10)]);
    }

    #[test]
    fn what_has_arrived_and_waits_for_us_is_not_stuck() {
        let mut lateness = lateness();
        lateness.gone(&hop("10s", 10));
        let mut arrived = seen(0, 1);
        arrived.arrived.insert(WAY, Arrived { ready: 1, consumers: 1 });
        assert_eq!(lateness.looked(&arrived, at(300)), []);
    }

    #[test]
    fn nothing_is_concluded_from_what_could_not_be_read() {
        let mut lateness = lateness();
        lateness.gone(&hop("10s", 10));
        assert_eq!(lateness.looked(&Seen::default(), at(300)), []);
    }

    #[test]
    fn what_has_not_gone_is_not_missed() {
        let mut lateness = lateness();
        lateness.gone(&hop("10s", 10));
        lateness.not_gone(&hop("10s", 10));
        assert_eq!(look(&mut lateness, 300), []);
    }

    #[test]
    fn a_letter_that_is_handed_out_again_is_back_but_not_late() {
        let mut lateness = lateness();
        lateness.gone(&hop("10s", 10));
        lateness.back_again(&hop("10s", 10));
        assert_eq!(look(&mut lateness, 300), []);
        assert_eq!(lateness.figures(at(300))["10s"].late, 0);
    }

    #[test]
    fn a_tier_that_nobody_knows_is_left_alone() {
        let mut lateness = lateness();
        lateness.gone(&hop("7s", 10));
        assert_eq!(lateness.back(&hop("7s", 10), at(900)), Duration::from_secs(890));
        assert_eq!(look(&mut lateness, 900), []);
    }

    #[test]
    fn a_stuck_queue_takes_no_more_room_the_longer_it_lasts() {
        let mut lateness = lateness();
        for due in 0..10_000 {
            lateness.gone(&hop("10s", due));
        }
        assert_eq!(lateness.tiers["10s"].away[&WAY].len(), LOTS_LEN_MAX);
        assert_eq!(lateness.figures(at(20_000))["10s"].overdue, 10_000);
    }

    #[test]
    fn figures_are_kept_for_every_tier() {
        let mut lateness = lateness();
        lateness.gone(&hop("10s", 10));
        lateness.gone(&hop("10s", 11));
        lateness.gone(&hop("10s", 30));
        lateness.back(&hop("10s", 10), at(12));
        lateness.back(&hop("10s", 11), at(20));
        let figures = lateness.figures(at(40));
        let expected = Figures {
            gone: 3,
            back: 2,
            late: 1,
            lateness_total: Duration::from_secs(11),
            lateness_max: Duration::from_secs(9),
            overdue: 1,
            alarm: None,
        };
        assert_eq!(figures["10s"], expected);
        assert_eq!(figures["1h"], Figures::default());
    }
}
