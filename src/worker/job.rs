//! What is to be done with a delivery, by the queue that it came from: decided once, before anything else.

use jiff::Timestamp;

use crate::domain::doubt::in_doubt;
use crate::domain::history::{Doubt, History, Phase};
use crate::domain::intent::Kind;
use crate::domain::isolation::{Crash, Handling};
use crate::domain::set_back::{corrected, set_back_by};
use crate::wire::envelope::{Letter, Redelivered, Source};
use crate::wire::{history, hop, intent, origin};

/// What is to be done with a delivery. Its history is believed only from queues that no order system can write to.
#[derive(Debug)]
pub(super) enum Job {
    /// From its lane: nothing is known but what its body says.
    Fresh,
    /// Back from a wait, with what was done before.
    Resumed(History),
    /// From the isolation, with what was done before: it is handled alone.
    Isolated(History),
    /// An announcement that the broker refused, back from its wait: its bytes are published again.
    Republish,
    /// Dead-lettered by the broker from its lane into the queue `rescue`: it ends without a call.
    Expired,
}

impl Job {
    /// What is to be done with this letter.
    pub(super) fn of(letter: &Letter, now: Timestamp) -> Job {
        match letter.source {
            Source::Lane(_) => Job::Fresh,
            Source::Returns(_) => Job::Resumed(carried(letter, now)),
            Source::Isolation => Job::Isolated(carried(letter, now)),
            Source::Announcements => Job::Republish,
            Source::Rescue => Job::Expired,
        }
    }

    /// Whether nothing was done with the letter yet, but to let it wait.
    pub(super) fn is_untouched(&self) -> bool {
        match self {
            Job::Fresh => true,
            Job::Resumed(history) => {
                history.phase == Phase::Call
                    && history.doubt == Doubt::None
                    && history.attempts == 0
                    && history.replays == 0
            }
            Job::Isolated(_) | Job::Republish | Job::Expired => false,
        }
    }

    /// What was done before, of a letter whose body has this many payments.
    pub(super) fn history(&self, items_len: usize, now: Timestamp) -> History {
        match self {
            Job::Resumed(history) | Job::Isolated(history) => history.clone(),
            Job::Fresh | Job::Republish | Job::Expired => History::fresh(now, items_len),
        }
    }

    /// The history of a letter whose step is not made now. The body of one that has none yet is read for its payments.
    pub(super) fn history_to_wait_with(&self, letter: &Letter, now: Timestamp) -> History {
        let items_len = match self {
            Job::Fresh => intent::decode(&letter.body).map_or(0, |received| received.intent.items().len()),
            Job::Resumed(_) | Job::Isolated(_) | Job::Republish | Job::Expired => 0,
        };
        self.history(items_len, now)
    }

    /// Where the letter is handled; `None` where nothing is ever called for it.
    pub(super) fn handling(&self) -> Option<Handling> {
        match self {
            Job::Fresh | Job::Resumed(_) => Some(Handling::Shared),
            Job::Isolated(_) => Some(Handling::Isolated),
            Job::Republish | Job::Expired => None,
        }
    }
}

/// The history that a letter carries, by our clock: one that is back before its hop was to end shows how far it was set
/// back. Only the broker publishes there, what we gave it; if it cannot be read all the same, a call may have been made.
fn carried(letter: &Letter, now: Timestamp) -> History {
    let Some(history) = history::decode(&letter.headers, history::items_len(&letter.headers)) else {
        return in_doubt(&History::fresh(now, 0), now, now);
    };
    match hop::read(letter).and_then(|hop| set_back_by(hop.due, now)) {
        Some(by) => corrected(&history, by),
        None => history,
    }
}

/// What is known of the end of the process that held a letter before. `untouched`: this process made no step with it.
pub(super) fn crash(letter: &Letter, untouched: bool) -> Crash {
    match letter.redelivered {
        Redelivered::Yes if !untouched => Crash::Possible,
        Redelivered::Yes | Redelivered::No => Crash::None,
    }
}

/// The kind whose lane a letter came through.
pub(super) fn lane_of(letter: &Letter) -> Kind {
    match letter.source {
        Source::Lane(kind) | Source::Returns(kind) => kind,
        // What the broker takes from a lane keeps its routing key, which is the lane's kind.
        Source::Rescue | Source::Announcements | Source::Isolation => {
            Kind::parse(&letter.routing_key).unwrap_or(Kind::AsyncCancel)
        }
    }
}

/// Whether the same bytes are the same letter: not where one copy ends by its routing and another is handled, or where the
/// bytes are not all.
pub(super) fn may_have_copies(letter: &Letter) -> bool {
    let is_well_routed = origin::routing_key(letter).is_none_or(|key| key == lane_of(letter).as_str());
    is_well_routed && !origin::is_body_cut(letter)
}
