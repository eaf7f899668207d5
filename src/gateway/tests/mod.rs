//! The gateway's promises.
