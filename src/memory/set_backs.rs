//! Whether this machine's clock was set back: then letters come back from delay queues before they are due.

use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock;
use crate::domain::condition::{Condition, Tell};
use crate::domain::set_back::set_back_by;

/// It is over when letters come back on time, and none came back early for this time.
const OVER_AFTER: Duration = Duration::from_secs(60);

/// What follows from the letters that came back, measured by a clock that cannot be set.
#[derive(Debug)]
pub struct SetBacks {
    begun: Instant,
    known: Mutex<Seen>,
    changed: Notify,
}

#[derive(Debug)]
struct Seen {
    condition: Condition<()>,
    last: Duration,
    letters: u64,
}

/// What a log line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockNews {
    /// Letters came back before they were due.
    SetBack {
        /// By how much, the last of them.
        by: Duration,
        /// How many since the last line.
        letters: u64,
    },
    /// They come back when they are due.
    Agrees {
        /// From the first to the last letter that came back early.
        lasted: Duration,
    },
}

impl Default for SetBacks {
    fn default() -> SetBacks {
        SetBacks {
            begun: Instant::now(),
            known: Mutex::new(Seen {
                condition: Condition::new(OVER_AFTER),
                last: Duration::ZERO,
                letters: 0,
            }),
            changed: Notify::new(),
        }
    }
}

impl SetBacks {
    /// A letter has come back whose hop was to end at this time.
    pub fn back(&self, hop_due: Timestamp, now: Timestamp) {
        let uptime = self.begun.elapsed();
        let mut known = lock(&self.known);
        let is_news = match set_back_by(hop_due, now) {
            Some(by) => {
                known.condition.met((), uptime);
                known.last = by;
                known.letters = known.letters.saturating_add(1);
                true
            }
            None => known.condition.cleared(),
        };
        drop(known);
        if is_news {
            self.changed.notify_one();
        }
    }

    /// How many letters came back before they were due since the process began.
    pub fn letters(&self) -> u64 {
        lock(&self.known).letters
    }

    /// Calls `tell` with each piece of news as soon as there is one. Never ends.
    pub async fn watch(&self, tell: impl Fn(ClockNews)) -> Infallible {
        loop {
            let changed = self.changed.notified();
            let (tells, last, next) = {
                let uptime = self.begun.elapsed();
                let mut known = lock(&self.known);
                let tells = known.condition.look(uptime);
                (tells, known.last, known.condition.next_look(uptime))
            };
            for news in tells {
                tell(match news {
                    Tell::Is { cause: (), times, lasts: _ } => {
                        ClockNews::SetBack { by: last, letters: times }
                    }
                    Tell::Over { lasted } => ClockNews::Agrees { lasted },
                });
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(next.unwrap_or(Duration::MAX)), if next.is_some() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::retry::later;

    async fn told(set_backs: &SetBacks, seconds: u64) -> Vec<ClockNews> {
        let told = Mutex::new(Vec::new());
        let watching = set_backs.watch(|news| told.lock().expect("nobody panics with it").push(news));
        let _ = tokio::time::timeout(Duration::from_secs(seconds), watching).await;
        told.into_inner().expect("nobody panics with it")
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_letters_that_come_back_early_are_one_line() {
        let set_backs = SetBacks::default();
        let now = Timestamp::UNIX_EPOCH;
        let hour = Duration::from_secs(3_600);
        for _ in 0..1_000 {
            set_backs.back(later(now, hour), now);
        }
        assert_eq!(told(&set_backs, 600).await, [ClockNews::SetBack { by: hour, letters: 1_000 }]);
        assert_eq!(set_backs.letters(), 1_000);
        set_backs.back(now, now);
        assert_eq!(told(&set_backs, 600).await, [ClockNews::Agrees { lasted: Duration::ZERO }]);
        set_backs.back(later(now, Duration::from_secs(5)), now);
        assert_eq!(told(&set_backs, 600).await, []);
    }
}
