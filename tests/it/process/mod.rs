//! The worker as a process of its own, killed, stopped and listened to.

pub(crate) mod alarms;
pub(crate) mod cancellations;
pub(crate) mod commands;
pub(crate) mod crashes;
pub(crate) mod poison;
pub(crate) mod rotation;
pub(crate) mod secrets;
pub(crate) mod signals;
pub(crate) mod telling;
pub(crate) mod tls;
