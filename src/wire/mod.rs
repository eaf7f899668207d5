//! The contract: the twin of `schemas/`. Letters in, messages out; no broker, no deciding.

pub mod envelope;
