//! Which queue is to blame where the broker closes one connection after the other. Pure: time comes in.
//!
//! A message that the broker cannot deliver (one that was published over AMQP 1.0 with a property that AMQP 0-9-1 has no
//! type for, say) makes the broker close the connection at each delivery, and does not say which queue it lies in.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::generation::{ClientError, Ended, Role};
use super::reply_code;
use super::session::Layout;
use crate::wire::envelope::Source;

/// How many generations must end with a fault of the connection ...
const FAULTS: usize = 3;
/// ... within this time, before each queue gets a connection of its own.
const WITHIN: Duration = Duration::from_secs(20);

/// What has happened so far.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// When generations with one connection for all queues have ended with a fault of it.
    faults: VecDeque<Instant>,
    apart: Option<Apart>,
}

/// Generations with a connection for each queue are being built.
#[derive(Debug, Default)]
struct Apart {
    /// The queue whose own connection ended alone last time.
    accused: Option<Source>,
    /// How many have ended without telling anything.
    in_vain: usize,
}

impl Suspicion {
    /// How the next generation is to be built.
    pub(super) fn layout(&self) -> Layout {
        match self.apart {
            Some(_) => Layout::Apart,
            None => Layout::Joint,
        }
    }

    /// A generation with one connection for all queues has ended. Blames no queue: which one it was cannot be known.
    pub(super) fn joint_ended(&mut self, now: Instant, why: &Ended) -> Option<Source> {
        if !is_fault(why) {
            return None;
        }
        self.faults.push_back(now);
        while self.faults.front().is_some_and(|at| now.duration_since(*at) > WITHIN) {
            self.faults.pop_front();
        }
        if self.faults.len() >= FAULTS {
            self.faults.clear();
            self.apart = Some(Apart::default());
        }
        None
    }

    /// A generation with a connection for each queue has ended; `alone` is the queue whose own connection has ended while all
    /// others live. Gives the queue that is to blame: twice in a row is no accident of the network.
    pub(super) fn apart_ended(&mut self, why: &Ended, alone: Option<Source>) -> Option<Source> {
        let apart = self.apart.as_mut()?;
        match alone {
            Some(source) if apart.accused == Some(source) => {
                self.apart = None;
                return Some(source);
            }
            Some(source) => apart.accused = Some(source),
            None => {
                apart.accused = None;
                apart.in_vain += 1;
                // Ended in peace, or it is the network, or the broker as a whole.
                if !is_fault(why) || apart.in_vain >= FAULTS {
                    self.apart = None;
                }
            }
        }
        None
    }
}

/// Whether a generation has ended because a connection that consumes has. What the broker says of one channel alone, and
/// what an operator does, is none.
pub(super) fn is_fault(why: &Ended) -> bool {
    match why {
        Ended::ConnectionLost { role: Role::Consume, source: Some(fault) }
        | Ended::ConsumerBroke { source: fault, .. }
        | Ended::AckFailed { source: Some(fault) } => !is_forced(fault),
        Ended::ConnectionLost { role: Role::Consume, source: None } | Ended::AckFailed { source: None } => {
            true
        }
        Ended::ConnectionLost { role: Role::Publish, .. }
        | Ended::Closed
        | Ended::Unfit
        | Ended::Regrouped
        | Ended::Silent { .. }
        | Ended::Blocked { .. }
        | Ended::ConsumerCancelled { .. }
        | Ended::Returned { .. }
        | Ended::Refused { .. }
        | Ended::Unconfirmed { .. }
        | Ended::PublishFailed { .. }
        | Ended::Unsendable { .. } => false,
    }
}

fn is_forced(fault: &ClientError) -> bool {
    reply_code::of(&fault.0) == Some(reply_code::CONNECTION_FORCED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::intent::Kind;

    const LANE: Source = Source::Lane(Kind::AsyncCancel);
    const OTHER: Source = Source::Lane(Kind::BatchCancel);

    fn lost() -> Ended {
        Ended::ConnectionLost { role: Role::Consume, source: None }
    }

    /// After this number of generations that were lost, one each of these intervals.
    fn after(faults: usize, every: Duration) -> Suspicion {
        let mut suspicion = Suspicion::default();
        let mut now = Instant::now();
        for _ in 0..faults {
            assert_eq!(suspicion.joint_ended(now, &lost()), None);
            now += every;
        }
        suspicion
    }

    #[test]
    fn three_faults_in_twenty_seconds_set_the_queues_apart() {
        assert_eq!(after(2, Duration::from_secs(1)).layout(), Layout::Joint);
        assert_eq!(after(3, Duration::from_secs(10)).layout(), Layout::Apart);
        assert_eq!(after(9, Duration::from_secs(11)).layout(), Layout::Joint);
    }

    #[test]
    fn what_is_no_fault_of_the_connection_sets_nothing_apart() {
        let mut suspicion = Suspicion::default();
        let after = Duration::from_secs(30);
        for why in [
            Ended::Closed,
            Ended::Unfit,
            Ended::Silent { role: Role::Consume },
            Ended::Blocked { after },
            Ended::Unconfirmed { after },
            Ended::ConsumerCancelled { queue: "a-queue".to_owned() },
            Ended::ConnectionLost { role: Role::Publish, source: None },
        ] {
            for _ in 0..5 {
                suspicion.joint_ended(Instant::now(), &why);
            }
        }
        assert_eq!(suspicion.layout(), Layout::Joint);
    }

    #[test]
    fn a_queue_whose_own_connection_ends_alone_twice_in_a_row_is_to_blame() {
        let mut suspicion = after(3, Duration::ZERO);
        assert_eq!(suspicion.apart_ended(&lost(), Some(LANE)), None);
        assert_eq!(suspicion.layout(), Layout::Apart);
        assert_eq!(suspicion.apart_ended(&lost(), Some(LANE)), Some(LANE));
        assert_eq!(suspicion.layout(), Layout::Joint);
    }

    #[test]
    fn an_accident_of_the_network_accuses_and_does_not_blame() {
        let mut suspicion = after(3, Duration::ZERO);
        for source in [LANE, OTHER, LANE, OTHER] {
            assert_eq!(suspicion.apart_ended(&lost(), Some(source)), None);
        }
        assert_eq!(suspicion.apart_ended(&lost(), None), None, "all have ended at once");
        assert_eq!(suspicion.apart_ended(&lost(), Some(LANE)), None);
    }

    #[test]
    fn what_tells_nothing_three_times_or_lives_in_peace_goes_back_to_one_connection() {
        let mut suspicion = after(3, Duration::ZERO);
        for _ in 0..3 {
            suspicion.apart_ended(&lost(), None);
        }
        assert_eq!(suspicion.layout(), Layout::Joint);
        let mut suspicion = after(3, Duration::ZERO);
        suspicion.apart_ended(&Ended::Regrouped, None);
        assert_eq!(suspicion.layout(), Layout::Joint);
    }
}
