//! Letters that may have taken a process down: which of them are handled alone, and which are dead.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tracing::Span;

use super::Worker;
use super::deadlines::SETTLED_WAIT_MAX;
use super::job::{Job, crash, lane_of};
use super::step_log::StepLog;
use crate::domain::decide::{DeadReason, give_up};
use crate::domain::doubt::in_doubt;
use crate::domain::history::{History, Item};
use crate::domain::isolation::{Crash, Suspicion, suspect};
use crate::domain::outcome::UnresolvedReason;
use crate::telemetry::{carrier, events};
use crate::wire::envelope::{Address, Letter, Messages};
use crate::wire::intent::{Judgement, judge};
use crate::wire::outcome::{Unannounced, announce_again, isolate};

impl Worker {
    /// What is to be announced about a letter that nothing was decided about yet: one that may have taken a process
    /// down is handled alone, and a step that panics makes it such a one.
    pub(super) async fn handle_or_isolate(&self, letter: &Letter, job: &Job, untouched: bool) -> Messages {
        if let Job::Republish = job {
            return announce_again(letter);
        }
        if let Some(messages) = self.isolate(letter, job, crash(letter, untouched)) {
            return messages;
        }
        if let Job::Isolated(_) = job {
            // This letter may crash the process. So the letters on their way to the isolation are acked in their old queues
            // first: otherwise a crash would give each of them a copy. The wait is bounded.
            let _ = tokio::time::timeout(SETTLED_WAIT_MAX, self.isolation_transfers.none()).await;
        }
        match AssertUnwindSafe(self.step(letter, job)).catch_unwind().await {
            Ok(messages) => messages,
            // The panic's own report is in the log. The neighbours of the letter go on.
            Err(_panic) => {
                self.isolate(letter, job, Crash::Possible).unwrap_or_else(|| self.poison(letter, None))
            }
        }
    }

    /// The move of a letter that may have taken a process down; `None` for one that is handled here and now. Its body is
    /// not read: reading may be what did it.
    fn isolate(&self, letter: &Letter, job: &Job, crash: Crash) -> Option<Messages> {
        let now = self.clock.now();
        let kind = lane_of(letter);
        match suspect(kind, &job.history(0, now), job.handling()?, crash, &self.policy, now) {
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
                let now = self.clock.now();
                let items_len = received.intent.items().len();
                let mut history =
                    history.unwrap_or_else(|| in_doubt(&History::fresh(now, items_len), now, now));
                history.items.resize(items_len, Item::Doubt);
                let dead = DeadReason::Unresolved(UnresolvedReason::Poison);
                let decision = give_up(&received.intent, &history, dead);
                StepLog::new(&received.intent).decided(&decision, self.clock.now());
                self.encode(letter, &received, &decision)
            }
            Judgement::Malformed(malformed) => self.malformed(letter, &malformed),
            Judgement::WrongLane(received) => {
                self.unannounced(letter, &received.known(), Unannounced::WrongLane)
            }
        }
    }
}

/// Whether what is decided is to handle the letter alone.
pub(super) fn is_transfer(messages: &Messages) -> bool {
    messages.as_slice().iter().any(|message| message.address == Address::Isolation)
}
