//! What this process remembers beyond one step: bounded, and lost with the process, so that
//! correctness must not depend on it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wire::envelope::Messages;

mod bounded;
mod copies;
mod delays;
mod fingerprint;
#[cfg(test)]
mod fixtures;
mod isolation_transfers;
mod letters;
mod ordered;
mod recent_acks;
mod seen_ids;
mod set_backs;

pub use copies::{Copies, Copy, Original};
pub use delays::{Delays, Going};
pub use isolation_transfers::{IsolationTransfer, IsolationTransfers};
pub use letters::{Begun, Letters};
pub use ordered::Ordered;
pub use recent_acks::RecentAcks;
pub use seen_ids::{IdContent, SeenIds};
pub use set_backs::{ClockNews, SetBacks};

/// About as many bytes an entry takes whose key is a fingerprint, beside its messages.
const ENTRY_BYTES: usize = 256;

/// About as many bytes an entry with these messages takes.
fn entry_bytes(messages: Option<&Messages>) -> usize {
    let messages = messages.map(Messages::as_slice).unwrap_or_default();
    ENTRY_BYTES + messages.iter().map(|message| message.body.len() + 1_024).sum::<usize>()
}

/// A panic of another task while it held the lock leaves whole entries behind, so poison is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
