//! The right to ack a delivery, used once, and only after the broker has confirmed what it announced.
//!
//! An [`Unsettled`] cannot be acked, only announced:
//!
//! ```compile_fail,E0599
//! # use cancel_worker::amqp::{Interrupted, Unsettled};
//! async fn ack_before_announcing(unsettled: Unsettled) -> Result<(), Interrupted> {
//!     unsettled.settle().await
//! }
//! ```
//!
//! Announcing uses it up, so nothing is announced for it twice and then acked twice:
//!
//! ```compile_fail,E0382
//! # use cancel_worker::amqp::{Interrupted, Publisher, Unsettled};
//! # use cancel_worker::wire::envelope::Messages;
//! async fn announce_twice(publisher: &Publisher, unsettled: Unsettled, one: Messages, two: Messages) {
//!     let _ = publisher.announce(unsettled, one, |_| None).await;
//!     let _ = publisher.announce(unsettled, two, |_| None).await;
//! }
//! ```
//!
//! Only the publisher makes an [`Announced`] of a letter that comes for the first time. When it comes again,
//! [`Unsettled::announced_before`] takes the proof of that first time, which no one else can make:
//!
//! ```compile_fail,E0451
//! # use cancel_worker::amqp::{Announced, Confirmed, Unsettled};
//! fn forge(unsettled: Unsettled, proof: Confirmed) -> Announced {
//!     Announced { unsettled, proof }
//! }
//! ```
//!
//! Settling uses it up, too:
//!
//! ```compile_fail,E0382
//! # use cancel_worker::amqp::Announced;
//! async fn settle_twice(announced: Announced) {
//!     let _ = announced.settle().await;
//!     let _ = announced.settle().await;
//! }
//! ```
//!
//! There are no copies:
//!
//! ```compile_fail,E0599
//! # use cancel_worker::amqp::Unsettled;
//! fn copy(unsettled: &Unsettled) -> Unsettled {
//!     unsettled.clone()
//! }
//! ```
//!
//! What does compile is the one way there is:
//!
//! ```
//! # use cancel_worker::amqp::{Interrupted, Publisher, Unsettled};
//! # use cancel_worker::wire::envelope::Messages;
//! async fn one_step(publisher: &Publisher, unsettled: Unsettled, messages: Messages) -> Result<(), Interrupted> {
//!     let announced = publisher.announce(unsettled, messages, |_| None).await?;
//!     announced.settle().await.map(drop).map_err(|unacked| unacked.interrupted)
//! }
//! ```

use std::time::Duration;

use lapin::Acker;
use lapin::options::BasicAckOptions;

use super::confirms::Confirmed;
use super::consumer_channel::InFlight;
use super::generation::{ClientError, Ended, Generation, Interrupted};

/// A delivery that we hold: the broker waits for its ack, and a permit of its lane is taken.
///
/// Dropping it gives the permit back and leaves the delivery unacked: it comes again, to us or to another worker,
/// when the generation has ended.
#[must_use = "a delivery is settled by announcing what was decided about it"]
#[derive(Debug)]
pub struct Unsettled {
    acker: Acker,
    generation: Generation,
    ack_timeout: Duration,
    // Given back only after the ack: the broker's prefetch and our permits are the same number.
    hold: InFlight,
}

impl Unsettled {
    pub(super) fn new(
        acker: Acker,
        generation: Generation,
        ack_timeout: Duration,
        hold: InFlight,
    ) -> Unsettled {
        Unsettled { acker, generation, ack_timeout, hold }
    }

    /// For a delivery of a letter whose announcements have been confirmed before, and whose ack was lost: this is the
    /// proof, as [`Announced::settle`] gave it.
    pub fn announced_before(self, proof: Confirmed) -> Announced {
        Announced::new(self, proof)
    }

    /// The generation that it was delivered in. No other can settle it.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }
}

/// The right to ack one delivery: all that was decided about it has been confirmed by the broker.
#[must_use = "what was announced must be settled, or it is announced again"]
#[derive(Debug)]
pub struct Announced {
    unsettled: Unsettled,
    proof: Confirmed,
}

impl Announced {
    /// Made from this very delivery and the confirms of what it announced.
    pub(super) fn new(unsettled: Unsettled, proof: Confirmed) -> Announced {
        Announced { unsettled, proof }
    }

    /// Acks the delivery. Nothing tells whether the broker gets the ack: the proof is given back, for the case that
    /// the letter is delivered again.
    ///
    /// # Errors
    /// When the ack could not be sent. The letter will be delivered again.
    pub async fn settle(self) -> Result<Confirmed, Unacked> {
        self.ack().await.map(|(_acked, proof)| proof)
    }

    /// The same, and then waits for an answer of the broker, until the time is up or the generation ends. Once it has answered,
    /// the letter does not come again, whatever becomes of this process.
    ///
    /// # Errors
    /// When the ack could not be sent. The letter will be delivered again.
    pub async fn settle_for_good(self) -> Result<Confirmed, Unacked> {
        let (acked, proof) = self.ack().await?;
        acked.has_arrived().await;
        Ok(proof)
    }

    async fn ack(self) -> Result<(Acked, Confirmed), Unacked> {
        let Announced { unsettled, proof } = self;
        match unsettled.ack().await {
            Ok(acked) => Ok((acked, proof)),
            Err(interrupted) => Err(Unacked { proof, interrupted }),
        }
    }
}

/// What was announced is confirmed, but its delivery is not acked: it comes again.
#[derive(Debug, thiserror::Error)]
#[error("the ack could not be sent")]
pub struct Unacked {
    /// For the letter when it comes again.
    pub proof: Confirmed,
    /// Why.
    #[source]
    pub interrupted: Interrupted,
}

/// A delivery whose ack is sent. The broker confirms no ack.
struct Acked {
    generation: Generation,
    timeout: Duration,
    hold: InFlight,
}

impl Acked {
    /// Waits until the broker has the ack. Where that cannot be known, the connection is broken or about to be, and the
    /// watch over it ends the generation.
    async fn has_arrived(self) {
        let asking = tokio::time::timeout(self.timeout, self.hold.has_arrived());
        let _ = self.generation.while_it_lasts(asking).await;
    }
}

impl Unsettled {
    async fn ack(self) -> Result<Acked, Interrupted> {
        let Unsettled { acker, generation, ack_timeout, mut hold } = self;
        generation.while_it_lasts(hold.may_be_acked()).await;
        // Not the channel's ack: only the delivery's own knows when its channel is gone. It says so by `false`,
        // which is no error to the client library.
        let ended = match tokio::time::timeout(ack_timeout, acker.ack(BasicAckOptions::default())).await {
            Ok(Ok(true)) => {
                hold.settled();
                return Ok(Acked { generation, timeout: ack_timeout, hold });
            }
            Ok(Ok(false)) | Err(_) => Ended::AckFailed { source: None },
            Ok(Err(error)) => Ended::AckFailed { source: Some(ClientError(error)) },
        };
        generation.end(ended);
        Err(generation.interrupted())
    }
}
