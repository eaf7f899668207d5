//! Why a letter waits.

/// Why a letter waits: for logs, and for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It came back before it was due.
    NotDue,
    /// A rollback must not be called so soon.
    RollbackWait,
    /// Surely not done: to be called again.
    ToCallAgain,
    /// Ordered, refused by state or in doubt: to be asked about.
    ToAsk,
    /// Our keys or addresses are not accepted.
    LockedOut,
    /// The gateway is not set up for this payment.
    NotConfigured,
    /// The endpoint is known to be down.
    EndpointDown,
    /// The gateway asked for a later call, in a reply to another letter of this merchant.
    SlowedDown,
    /// As much is asked of the API already as it is allowed to be asked.
    NoRoom,
}

impl Waiting {
    /// The word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Waiting::NotDue => "not_due",
            Waiting::RollbackWait => "rollback_wait",
            Waiting::ToCallAgain => "to_call_again",
            Waiting::ToAsk => "to_ask",
            Waiting::LockedOut => "locked_out",
            Waiting::NotConfigured => "not_configured",
            Waiting::EndpointDown => "endpoint_down",
            Waiting::SlowedDown => "slowed_down",
            Waiting::NoRoom => "no_room",
        }
    }
}
