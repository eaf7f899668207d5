//! What we know and what we decide: plain functions over plain data.
//!
//! No async, no IO, no clock, no chance, no logs, no serde, and nothing of ours is imported here. The flow is
//! `intent` + `history` → `plan` → (call or inquiry) → `classify` or `evidence` → `decide`.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod breaker;
pub mod classify;
pub mod codes;
pub mod condition;
pub mod decide;
pub mod digits;
pub mod doubt;
pub mod evidence;
pub mod fault;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod gate;
pub mod history;
pub mod http_status;
pub mod intent;
pub mod isolation;
pub mod lateness;
#[cfg(test)]
mod laws;
pub mod lockout;
pub mod outcome;
pub mod paywall;
pub mod plan;
pub mod policy;
pub mod rate;
pub mod reply;
pub mod retry;
pub mod same_day;
pub mod set_back;
pub mod step;
pub mod waiting;
