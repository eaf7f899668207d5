//! What deliveries are handed to.

use super::consumer::Delivery;
use super::declare::Depth;
use super::publisher::Publisher;
use crate::wire::envelope::Letter;

/// What deliveries are handed to. Any function of a delivery and its publisher is one.
pub trait DeliveryHandler: Send {
    /// A delivery has come; `publisher` is the one that can announce for it.
    fn begin(&mut self, delivery: Delivery, publisher: &Publisher);

    /// A letter was delivered, and its generation ended before it was begun. It comes again, said to be redelivered.
    fn not_begun(&mut self, letter: &Letter);

    /// The queues whose depths it wants to know now and then, by their full names. Asked for in each generation.
    fn watched(&self) -> Vec<String> {
        Vec::new()
    }

    /// The depths of those queues, as far as they could be read.
    fn looked(&mut self, _depths: Vec<(String, Depth)>) {}
}

impl<F: FnMut(Delivery, &Publisher) + Send> DeliveryHandler for F {
    fn begin(&mut self, delivery: Delivery, publisher: &Publisher) {
        self(delivery, publisher);
    }

    fn not_begun(&mut self, _letter: &Letter) {}
}
