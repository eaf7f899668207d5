//! The contract: the twin of `schemas/`. Letters in, messages out; no broker, no deciding.

pub mod envelope;
pub mod history;
pub mod hop;
pub mod intent;
pub mod origin;
pub mod outcome;
mod strict;
mod values;

pub use strict::FieldError;
pub use values::split_values;

/// Whether this is one JSON value, and nothing else.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}
