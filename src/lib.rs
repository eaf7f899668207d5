//! cancel-worker.
