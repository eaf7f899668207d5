//! How many letters this process is just moving to where they are handled alone.
//!
//! Such a letter is there before it is acked where it came from. If it were handled at once and took the process down, it
//! would live twice, and have as many lives again; and so would every other suspect that is on its way.

use tokio::sync::watch;

/// Counts the moves that are under way.
#[derive(Debug, Default)]
pub struct IsolationTransfers(watch::Sender<usize>);

/// One letter that is on its way, until it is dropped.
#[derive(Debug)]
#[must_use = "a move ends when it is dropped"]
pub struct IsolationTransfer<'a>(&'a IsolationTransfers);

impl IsolationTransfers {
    /// A move begins: before anything is published for it.
    pub fn begin(&self) -> IsolationTransfer<'_> {
        self.0.send_modify(|moving| *moving += 1);
        IsolationTransfer(self)
    }

    /// Waits until none is under way.
    pub async fn none(&self) {
        // The sender lives in `self`.
        let _ = self.0.subscribe().wait_for(|moving| *moving == 0).await;
    }
}

impl Drop for IsolationTransfer<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|moving| *moving -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn where_nothing_moves_nobody_waits() {
        let moves = IsolationTransfers::default();
        drop(moves.begin());
        assert!(poll!(pin!(moves.none())).is_ready());
    }

    #[tokio::test]
    async fn it_is_waited_for_the_last_of_several() {
        let moves = IsolationTransfers::default();
        let (first, second) = (moves.begin(), moves.begin());
        let mut none = pin!(moves.none());
        assert!(poll!(none.as_mut()).is_pending());
        drop(first);
        assert!(poll!(none.as_mut()).is_pending());
        drop(second);
        assert!(poll!(none.as_mut()).is_ready());
    }
}
