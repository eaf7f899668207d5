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
//! Nobody but the publisher makes an [`Announced`], and so nobody acks one delivery with the confirms of another:
//!
//! ```compile_fail,E0451
//! # use cancel_worker::amqp::{Announced, Unsettled};
//! fn forge(unsettled: Unsettled) -> Announced {
//!     Announced { unsettled }
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
//!     publisher.announce(unsettled, messages, |_| None).await?.settle().await
//! }
//! ```

use std::time::Duration;

use lapin::Acker;
use lapin::options::BasicAckOptions;

use super::confirms::Confirmed;
use super::consumer::Hold;
use super::generation::{Ended, Fault, Generation, Interrupted};

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
    hold: Hold,
}

impl Unsettled {
    pub(super) fn new(acker: Acker, generation: Generation, ack_timeout: Duration, hold: Hold) -> Unsettled {
        Unsettled { acker, generation, ack_timeout, hold }
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
}

impl Announced {
    /// Made from this very delivery and the confirms of what it announced.
    pub(super) fn new(unsettled: Unsettled, _proof: Confirmed) -> Announced {
        Announced { unsettled }
    }

    /// Acks the delivery.
    ///
    /// # Errors
    /// When the ack could not be sent. The letter will be delivered again, and announced again with the same ids.
    pub async fn settle(self) -> Result<(), Interrupted> {
        let Unsettled { acker, generation, ack_timeout, hold } = self.unsettled;
        // Not the channel's ack: only the delivery's own knows when its channel is gone. It says so by `false`,
        // which is no error to the client library.
        let ended = match tokio::time::timeout(ack_timeout, acker.ack(BasicAckOptions::default())).await {
            Ok(Ok(true)) => {
                hold.settled();
                return Ok(());
            }
            Ok(Ok(false)) | Err(_) => Ended::AckFailed { source: None },
            Ok(Err(error)) => Ended::AckFailed { source: Some(Fault(error)) },
        };
        generation.end(ended);
        Err(generation.interrupted())
    }
}
