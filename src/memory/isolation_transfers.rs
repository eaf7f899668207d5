//! The letters that this process is moving to the isolation.
//!
//! A suspect is published to the isolation before it is acked in the queue that it came from. If a suspect were handled in
//! between and crashed the process, every suspect on its way would exist twice, each with strikes of its own.

use tokio::sync::watch;

/// Counts the transfers in flight.
#[derive(Debug, Default)]
pub struct IsolationTransfers(watch::Sender<usize>);

/// One transfer, in flight until this is dropped.
#[derive(Debug)]
#[must_use = "a transfer ends when this is dropped"]
pub struct IsolationTransfer<'a>(&'a IsolationTransfers);

impl IsolationTransfers {
    /// Begins a transfer, before its letter is published.
    pub fn begin(&self) -> IsolationTransfer<'_> {
        self.0.send_modify(|in_flight| *in_flight += 1);
        IsolationTransfer(self)
    }

    /// Waits until none is in flight.
    pub async fn none(&self) {
        // The sender lives in `self`.
        let _ = self.0.subscribe().wait_for(|in_flight| *in_flight == 0).await;
    }
}

impl Drop for IsolationTransfer<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|in_flight| *in_flight -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn without_a_transfer_there_is_no_wait() {
        let transfers = IsolationTransfers::default();
        drop(transfers.begin());
        assert!(poll!(pin!(transfers.none())).is_ready());
    }

    #[tokio::test]
    async fn the_wait_ends_with_the_last_of_several_transfers() {
        let transfers = IsolationTransfers::default();
        let (first, second) = (transfers.begin(), transfers.begin());
        let mut none = pin!(transfers.none());
        assert!(poll!(none.as_mut()).is_pending());
        drop(first);
        assert!(poll!(none.as_mut()).is_pending());
        drop(second);
        assert!(poll!(none.as_mut()).is_ready());
    }
}
