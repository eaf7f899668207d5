//! Announces what was decided, and parks what the broker refuses.

use std::sync::{Mutex, PoisonError};

use tracing::Instrument;

use super::Worker;
use super::job::Job;
use crate::amqp::{Announced, Interrupted, Publisher, Unsettled};
use crate::domain::retry::later;
use crate::telemetry::{events, spans};
use crate::wire::envelope::{Letter, Message, Messages};
use crate::wire::hop;
use crate::wire::outcome::{park, refusals};

impl Worker {
    /// Announces all of it; the delivery may be settled when the broker has confirmed that.
    pub(super) async fn announce(
        &self,
        unsettled: Unsettled,
        mut messages: Messages,
        letter: &Letter,
        job: &Job,
        publisher: &Publisher,
    ) -> Result<Announced, Interrupted> {
        let refusals = match job {
            Job::Republish => refusals(&letter.headers).saturating_add(1),
            Job::Fresh | Job::Resumed(_) | Job::Isolated(_) | Job::Expired => 1,
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
}
