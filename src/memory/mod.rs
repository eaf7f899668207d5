//! What this process remembers beyond one step: bounded, and lost with the process, which is why nothing but
//! comfort may depend on it.

mod copies;
mod delays;
mod isolation_transfers;
mod letters;
mod ordered;
mod recent_acks;
mod seen_ids;
mod set_backs;

pub use copies::{Copies, Copy, InHand};
pub use delays::{Delays, Going};
pub use isolation_transfers::{IsolationTransfer, IsolationTransfers};
pub use letters::{Begun, Letters};
pub use ordered::Ordered;
pub use recent_acks::RecentAcks;
pub use seen_ids::{IdContent, SeenIds};
pub use set_backs::{ClockNews, SetBacks};
