//! What one step tells of itself in the log.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::decide::{Decision, Then};
use crate::domain::intent::{CancelIntent, Kind, MerchantName};
use crate::domain::outcome::Subject;
use crate::domain::retry::elapsed;
use crate::telemetry::events::{self, IntentRef};
use crate::wire::intent::PartialIntent;

/// What the events of one step have in common.
pub(super) struct StepLog<'a> {
    intent: &'a CancelIntent,
    intent_id: String,
}

impl<'a> StepLog<'a> {
    pub(super) fn new(intent: &'a CancelIntent) -> StepLog<'a> {
        StepLog { intent, intent_id: intent.id.to_string() }
    }

    /// The intent's name in the log.
    pub(super) fn of(&self) -> IntentRef<'_> {
        IntentRef::intent(&self.intent_id, self.intent.kind().as_str(), self.intent.merchant.as_str())
    }

    /// Everything that was decided: a line for each outcome, one for the wait, one for the dead letter.
    pub(super) fn decided(&self, decision: &Decision, now: Timestamp) {
        let attempts = decision.history.attempts;
        for outcome in &decision.outcomes {
            let status = outcome.status.name().as_str();
            let reason = outcome.status.reason().map(|(code, _)| code);
            let item = match outcome.subject {
                Subject::Whole => None,
                Subject::Item(index) => {
                    self.intent.items().get(index).map(|item| item.merchant_unique_code.as_str())
                }
            };
            events::decided(self.of(), item, status, reason, attempts);
        }
        match decision.then {
            Then::Done => {}
            Then::Wait(why) => {
                let delay = decision.history.due.map_or(Duration::ZERO, |due| elapsed(now, due));
                events::waiting(self.of(), why.as_str(), delay);
            }
            Then::DeadLetter(reason) => {
                events::dead_lettered(self.of(), reason.as_str(), reason.message());
            }
        }
    }
}

/// Tells something of a letter that is no intent, by as much of its name as it has.
pub(super) fn of_known(known: &PartialIntent, tell: impl FnOnce(IntentRef<'_>)) {
    let id = known.id.map(|id| id.to_string());
    tell(IntentRef {
        intent_id: id.as_deref(),
        kind: known.kind.map(Kind::as_str),
        merchant: known.merchant.as_ref().map(MerchantName::as_str),
    });
}
