//! The rules that nobody has written down, or that can be set.

use jiff::tz::TimeZone;

use super::clock::istanbul;

/// What nobody has written down about the gateway, or what it lets a merchant set.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// How long after a cancel order a rollback is refused, in milliseconds.
    pub rollback_wait_ms: u64,
    /// The zone whose midnight ends the day.
    pub zone: TimeZone,
    /// Which reading of the shifted integers the replies use.
    pub readings: Readings,
    /// What a second cancel of a cancelled provision is told.
    pub apm_repeat: ApmRepeat,
    /// The HTTP status of a refusal in an envelope (a business error).
    pub refusal_http_status: u16,
    /// The order in which activities of a physical payment are listed.
    pub activities: ActivityOrder,
    /// Whether a batch reply says how many payments there are; the page's table does, its sample does not.
    pub batch_total: BatchTotal,
    /// The status of a batch item that is not taken for a reason of its state.
    pub batch_refused_status: i64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            rollback_wait_ms: 5_000,
            zone: istanbul(),
            readings: Readings::Sdk,
            apm_repeat: ApmRepeat::Succeeds,
            refusal_http_status: 200,
            activities: ActivityOrder::OldestFirst,
            batch_total: BatchTotal::Absent,
            batch_refused_status: 2,
        }
    }
}

/// The two readings of the integers that exist in shifted versions (`paywall.md` §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readings {
    /// As in the gateway's own client library: 94 cancelled, 93 refunded, 92 not suitable, 296 no such provision.
    Sdk,
    /// As in the printed table: 93 cancelled, 92 refunded, 91 not suitable, 297 no such provision.
    Documented,
}

/// What a second cancel of a cancelled provision is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApmRepeat {
    /// Success again, and nothing happens.
    Succeeds,
    /// 359, not suitable.
    NotSuitable,
}

/// The order in which activities are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivityOrder {
    /// The sale first.
    OldestFirst,
    /// The latest first.
    NewestFirst,
}

/// Whether a batch reply has `TotalPaymentCount`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchTotal {
    /// No, as in the page's sample.
    Absent,
    /// Yes, as in the page's table.
    Present,
}
