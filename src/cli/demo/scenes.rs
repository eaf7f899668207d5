//! What the demo stages, as data: what is to be cancelled, what goes wrong, what must be told in the end, and what
//! must then be true at the gateway. Whoever plays it knows no special cases.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use uuid::Uuid;

use crate::domain::intent::Kind;
use crate::domain::outcome::RejectedReason::{
    AlreadyRefunded, CancelCompleted, CancelFailed, DeviceReceived, InvalidIntent, MarketplaceRecordsExist,
    NotFound, NotSuitable, RollbackWindow, SameDayWindowClosed,
};
use crate::domain::outcome::Status::{Accepted, Cancelled, Closed, Rejected, RolledBack, Unresolved};
use crate::domain::outcome::{Status, UnresolvedReason};
use paywall_simulator::{
    ApmState, BatchPlan, CancelPlan, Endpoint, Fault, FaultKind, PastActivity, PaymentState, ProviderSays,
    Seed, SeedApm, SeedPhysical, SeedVirtualPos,
};

/// How soon after a cancel order the gateway refuses its rollback: the page's five seconds.
pub(super) const GATEWAY_ROLLBACK_WAIT_MS: u64 = 5_000;

/// One intent, and everything around it.
pub(super) struct Scene {
    /// Its kind, which is its routing key.
    pub(super) kind: Kind,
    /// `intentId`.
    pub(super) intent: Uuid,
    /// The letter, as the order system publishes it.
    pub(super) body: String,
    /// What goes wrong on the way.
    pub(super) faults: Vec<Fault>,
    /// Why the letter must lie in the dead letters in the end, byte for byte; `None`: it must not.
    pub(super) dead_letter: Option<&'static str>,
    /// What is told about: the intent, and after it, one by one, the payments of a batch.
    pub(super) parts: Vec<Part>,
}

/// Something that outcomes are about: an intent, or one payment of a batch.
pub(super) struct Part {
    /// What was staged.
    pub(super) story: &'static str,
    /// The payment's code, of one payment of a batch.
    pub(super) item: Option<&'static str>,
    /// What must be told, in this order.
    pub(super) told: Vec<Status>,
    /// How many calls must reach the gateway, and be told as `attempts`.
    pub(super) calls: u64,
    /// The payment at the gateway; a batch as a whole has none.
    pub(super) payment: Option<Payment>,
}

/// A payment at the gateway.
pub(super) struct Payment {
    /// What the gateway knows it by.
    pub(super) id: String,
    /// How it is put there; `None`: the gateway does not know it.
    pub(super) seed: Option<Seed>,
    /// What it must be in the end.
    pub(super) state: PaymentState,
    /// How often money must have moved because of calls.
    pub(super) cancels: u64,
    /// How many calls must have come when it was cancelled already: none, but where nobody could know.
    pub(super) late_calls: u64,
}

/// Types of activities, in the numbers of the payment's own side: 2 and 3 are swapped (`paywall.md` §2).
const CANCEL_AT_TERMINAL: u8 = 2;
const REFUND_AT_TERMINAL: u8 = 3;
const REFUND_AT_POS: u8 = 2;
const CANCEL_AT_POS: u8 = 3;

/// Statuses of activities.
const SUCCESSFUL: u8 = 4;
const FAILED: u8 = 5;
const TOLD_TO_DEVICE: u8 = 10;
const TAKEN_BY_DEVICE: u8 = 11;

/// All of it, at this time, on this day of the gateway.
pub(super) fn scenes(now: Timestamp, today: Date) -> Vec<Scene> {
    let at = Desk { now };
    [terminals(&at), virtual_pos(&at, today), alternative_methods(&at), batches(&at, today)]
        .into_iter()
        .flatten()
        .collect()
}

fn terminals(at: &Desk) -> Vec<Scene> {
    vec![
        at.async_cancel("cancelled at once", sold()).ends([Cancelled], PaymentState::Cancelled, 1),
        at.async_cancel("accepted now, cancelled later", sold().cancelling(device(SUCCESSFUL))).ends(
            [Accepted, Cancelled],
            PaymentState::Cancelled,
            1,
        ),
        at.async_cancel("accepted now, fails later", sold().cancelling(device(FAILED))).ends(
            [Accepted, Rejected(CancelFailed)],
            PaymentState::CancelFailed,
            1,
        ),
        at.async_cancel("429, then 503 with Retry-After, then it goes", sold())
            .fault(Fault::new(FaultKind::http(429)))
            .fault(Fault::new(FaultKind::http_retry_after(503, "1")))
            .ends([Cancelled], PaymentState::Cancelled, 3),
        at.async_cancel("no answer, though it was cancelled", sold())
            .fault(Fault::new(FaultKind::Hang).after_effect())
            .ends([Cancelled], PaymentState::Cancelled, 1),
        at.async_cancel("no answer, and nothing happened", sold()).fault(Fault::new(FaultKind::Hang)).ends(
            [Cancelled],
            PaymentState::Cancelled,
            2,
        ),
        at.async_cancel("connection reset, though it was cancelled", sold())
            .fault(Fault::new(FaultKind::Reset).after_effect())
            .ends([Cancelled], PaymentState::Cancelled, 1),
        at.async_cancel("cancelled at the till before", sold().after(past(CANCEL_AT_TERMINAL)))
            .ends([Cancelled], PaymentState::Cancelled, 1)
            .cancelled_before(),
        at.async_cancel("refunded before", sold().after(past(REFUND_AT_TERMINAL))).ends(
            [Rejected(AlreadyRefunded)],
            PaymentState::Refunded,
            1,
        ),
        at.async_cancel("a payment that the gateway does not know", sold())
            .ends([Rejected(NotFound)], PaymentState::Unknown, 1)
            .unknown(),
        at.async_cancel("a letter with a misspelt field", sold())
            .misspelt("paymentRequestId", "paymentRequestID")
            .ends([Rejected(InvalidIntent)], PaymentState::Stands, 0)
            .dies("invalid_intent"),
        at.rollback("too early: ordered just now, so it waits", ms(0), ordered(TOLD_TO_DEVICE, ms(0))).ends(
            [RolledBack],
            PaymentState::RolledBack,
            1,
        ),
        at.rollback("too early: younger than the intent says", ms(60_000), ordered(TOLD_TO_DEVICE, ms(0)))
            .ends([Rejected(RollbackWindow)], PaymentState::Pending, 1),
        at.rollback("the device has the order", ms(60_000), ordered(TAKEN_BY_DEVICE, ms(60_000))).ends(
            [Rejected(DeviceReceived)],
            PaymentState::Pending,
            1,
        ),
        at.rollback("the cancel went through before", ms(60_000), ordered(SUCCESSFUL, ms(60_000)))
            .ends([Rejected(CancelCompleted)], PaymentState::Cancelled, 1)
            .cancelled_before(),
    ]
}

fn virtual_pos(at: &Desk, today: Date) -> Vec<Scene> {
    let yesterday = day_before(today);
    vec![
        at.transaction("cancelled at once", shop(), today, Records::Unmentioned).ends(
            [Cancelled],
            PaymentState::Cancelled,
            1,
        ),
        at.transaction("its day is over, says the gateway (269)", shop(), yesterday, Records::Unmentioned)
            .ends([Rejected(NotSuitable)], PaymentState::Stands, 1),
        at.transaction("marketplace records exist", with_records(), today, Records::Unmentioned).ends(
            [Rejected(MarketplaceRecordsExist)],
            PaymentState::Stands,
            1,
        ),
        at.transaction("marketplace records go with it", with_records(), today, Records::Delete).ends(
            [Cancelled],
            PaymentState::Cancelled,
            1,
        ),
        at.transaction("reset before anything happened", shop(), today, Records::Unmentioned)
            .fault(Fault::new(FaultKind::Reset))
            .ends([Cancelled], PaymentState::Cancelled, 2),
        at.transaction("reset after it; inquiry down for a while", shop(), today, Records::Unmentioned)
            .fault(Fault::new(FaultKind::Reset).after_effect().on(Endpoint::TransactionCancel))
            .fault(Fault::new(FaultKind::http(503)).on(Endpoint::PrivateQueryByUniqueCode).times(3))
            .ends([Cancelled], PaymentState::Cancelled, 1),
        at.transaction(
            "cancelled by somebody else before",
            shop().after(past(CANCEL_AT_POS)),
            today,
            Records::Unmentioned,
        )
        .ends([Cancelled], PaymentState::Cancelled, 1)
        .cancelled_before(),
    ]
}

fn alternative_methods(at: &Desk) -> Vec<Scene> {
    let provision = SeedApm::default;
    vec![
        at.apm("cancelled at once", provision()).ends([Cancelled], PaymentState::Cancelled, 1),
        // No query proves a cancelled provision: the call itself is the question, and has its effect once.
        at.apm("no answer, though it was cancelled; called again", provision())
            .fault(Fault::new(FaultKind::Hang).after_effect())
            .ends([Cancelled], PaymentState::Cancelled, 2)
            .late_calls(1),
        at.apm(
            "a success with a failure inside, every time",
            SeedApm { provider: ProviderSays::NoAndMeansIt, ..provision() },
        )
        .ends([Unresolved(UnresolvedReason::NoEvidence)], PaymentState::Stands, 3)
        .dies("no_evidence"),
        at.apm("refunded before", SeedApm { state: ApmState::Refunded, ..provision() }).ends(
            [Rejected(AlreadyRefunded)],
            PaymentState::Refunded,
            1,
        ),
    ]
}

fn batches(at: &Desk, today: Date) -> Vec<Scene> {
    let yesterday = day_before(today);
    vec![
        at.batch(
            "some of its payments end well, some do not",
            vec![
                item("A-1", "taken, cancelled later", taken(1_500, SUCCESSFUL), today).ends(
                    [Cancelled],
                    PaymentState::Cancelled,
                    1,
                ),
                item("A-2", "taken, fails later", taken(1_500, FAILED), today).ends(
                    [Rejected(CancelFailed)],
                    PaymentState::CancelFailed,
                    1,
                ),
                item("A-3", "refused: refunded before", shop().after(past(REFUND_AT_POS)), today).ends(
                    [Rejected(AlreadyRefunded)],
                    PaymentState::Refunded,
                    1,
                ),
                item("A-4", "refused: the gateway does not know it", shop(), today)
                    .ends([Rejected(NotFound)], PaymentState::Unknown, 1)
                    .unknown(),
                item("A-5", "its day is over: not called", shop(), yesterday).ends(
                    [Rejected(SameDayWindowClosed)],
                    PaymentState::Stands,
                    0,
                ),
                item("A-6", "taken, but left out of the reply", left_out(1_500), today).ends(
                    [Cancelled],
                    PaymentState::Cancelled,
                    1,
                ),
            ],
        ),
        at.batch(
            "taken, and the reply is lost",
            vec![
                // Under way long enough to be seen there, whatever else the machine has to do.
                item("B-1", "cancelled later", taken(6_000, SUCCESSFUL), today).ends(
                    [Cancelled],
                    PaymentState::Cancelled,
                    1,
                ),
                item("B-2", "refunded before", shop().after(past(REFUND_AT_POS)), today).ends(
                    [Rejected(AlreadyRefunded)],
                    PaymentState::Refunded,
                    1,
                ),
            ],
        )
        .fault(Fault::new(FaultKind::Reset).after_effect().on(Endpoint::BatchCancel)),
    ]
}

fn sold() -> SeedPhysical {
    SeedPhysical::default()
}

/// The device takes the order after one second, and it ends after three.
fn device(end: u8) -> CancelPlan {
    CancelPlan::accepted(1_000, 3_000, end)
}

/// Sold, and a cancel was ordered so long ago.
fn ordered(status: u8, ago: Duration) -> SeedPhysical {
    let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
    sold().after(PastActivity { kind: CANCEL_AT_TERMINAL, status, ago_ms, then: Vec::new() })
}

fn past(kind: u8) -> PastActivity {
    PastActivity::ended(kind, SUCCESSFUL)
}

fn shop() -> SeedVirtualPos {
    SeedVirtualPos::default()
}

fn with_records() -> SeedVirtualPos {
    SeedVirtualPos { marketplace_records: true, ..shop() }
}

fn taken(after_ms: u64, end: u8) -> SeedVirtualPos {
    shop().in_batch(match end {
        FAILED => BatchPlan::Failed { after_ms, status: FAILED },
        _successful => BatchPlan::Cancelled { after_ms },
    })
}

fn left_out(after_ms: u64) -> SeedVirtualPos {
    shop().in_batch(BatchPlan::LeftOutButCancelled { after_ms })
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn day_before(day: Date) -> Date {
    day.yesterday().unwrap_or(day)
}

/// What an intent says about marketplace records.
enum Records {
    Unmentioned,
    Delete,
}

/// One payment of a batch, and its day.
struct Item {
    code: &'static str,
    date: Date,
    part: Part,
}

fn item(code: &'static str, story: &'static str, seed: SeedVirtualPos, date: Date) -> Item {
    let seed = SeedVirtualPos { merchant_unique_code: Some(code.to_owned()), date: Some(date), ..seed };
    let part = Part { item: Some(code), ..Part::new(story, code.to_owned(), seed.into()) };
    Item { code, date, part }
}

impl Item {
    fn ends<const N: usize>(self, told: [Status; N], state: PaymentState, calls: u64) -> Item {
        Item { part: self.part.ends(told.to_vec(), state, calls), ..self }
    }

    fn unknown(self) -> Item {
        Item { part: self.part.with(|payment| Payment { seed: None, ..payment }), ..self }
    }
}

/// Writes intents, as an order system's program does.
struct Desk {
    now: Timestamp,
}

impl Desk {
    fn async_cancel(&self, story: &'static str, seed: SeedPhysical) -> Scene {
        let id = Uuid::new_v4();
        let payment = format!(r#"{{"paymentRequestId":"{id}"}}"#);
        self.physical(Kind::AsyncCancel, story, id, &payment, seed)
    }

    fn rollback(&self, story: &'static str, ordered_ago: Duration, seed: SeedPhysical) -> Scene {
        let id = Uuid::new_v4();
        let ordered_at = self.now - ordered_ago;
        let payment = format!(r#"{{"paymentRequestId":"{id}","cancelRequestedAt":"{ordered_at}"}}"#);
        self.physical(Kind::SyncCancelRollback, story, id, &payment, seed)
    }

    fn physical(
        &self,
        kind: Kind,
        story: &'static str,
        id: Uuid,
        payment: &str,
        seed: SeedPhysical,
    ) -> Scene {
        let seed = SeedPhysical { payment_request_id: Some(id), ..seed };
        self.scene(kind, payment, Part::new(story, id.to_string(), seed.into()))
    }

    fn transaction(&self, story: &'static str, seed: SeedVirtualPos, date: Date, records: Records) -> Scene {
        let id = Uuid::new_v4();
        let records = match records {
            Records::Unmentioned => "",
            Records::Delete => r#","deleteMarketplaceRecords":true"#,
        };
        let payment = format!(r#"{{"uniqueCode":"{id}","date":"{date}"{records}}}"#);
        let seed = SeedVirtualPos { unique_code: Some(id), date: Some(date), ..seed };
        self.scene(Kind::TransactionCancel, &payment, Part::new(story, id.to_string(), seed.into()))
    }

    fn apm(&self, story: &'static str, seed: SeedApm) -> Scene {
        let id = Uuid::new_v4();
        let code = format!("W-{}", id.simple());
        let payment = format!(r#"{{"uniqueCode":"{id}","merchantUniqueCode":"{code}"}}"#);
        let seed = SeedApm { unique_code: Some(id.to_string()), merchant_unique_code: Some(code), ..seed };
        self.scene(Kind::ApmProvisionCancel, &payment, Part::new(story, id.to_string(), seed.into()))
    }

    /// A batch that is called once. Once its payments have been told of, it is closed.
    fn batch(&self, story: &'static str, items: Vec<Item>) -> Scene {
        let payments: Vec<String> = items
            .iter()
            .map(|Item { code, date, .. }| format!(r#"{{"merchantUniqueCode":"{code}","date":"{date}"}}"#))
            .collect();
        let payment = format!(r#"{{"payments":[{}]}}"#, payments.join(","));
        let whole = Part { story, item: None, told: vec![Accepted, Closed], calls: 1, payment: None };
        let mut scene = self.scene(Kind::BatchCancel, &payment, whole);
        scene.parts.extend(items.into_iter().map(|item| item.part));
        scene
    }

    fn scene(&self, kind: Kind, payment: &str, part: Part) -> Scene {
        let (intent, now) = (Uuid::new_v4(), self.now);
        let body =
            format!(r#"{{"intentId":"{intent}","kind":"{kind}","requestedAt":"{now}","payment":{payment}}}"#);
        Scene { kind, intent, body, faults: Vec::new(), dead_letter: None, parts: vec![part] }
    }
}

impl Scene {
    /// The subject of the outcomes about one of its parts.
    pub(super) fn subject_of(&self, part: &Part) -> String {
        match part.item {
            None => self.intent.to_string(),
            Some(code) => format!("{}/{code}", self.intent),
        }
    }

    /// A fault that strikes calls that name its payment; of a batch, its first one.
    fn fault(mut self, fault: Fault) -> Scene {
        let payment = self.parts.iter().find_map(|part| part.payment.as_ref());
        let fault = match payment {
            Some(payment) => fault.of(&payment.id),
            None => fault,
        };
        self.faults.push(fault);
        self
    }

    fn ends<const N: usize>(self, told: [Status; N], state: PaymentState, calls: u64) -> Scene {
        self.with(|part| part.ends(told.to_vec(), state, calls))
    }

    fn misspelt(self, right: &str, wrong: &str) -> Scene {
        Scene { body: self.body.replace(right, wrong), ..self }
    }

    fn dies(self, reason: &'static str) -> Scene {
        Scene { dead_letter: Some(reason), ..self }
    }

    /// The gateway has never heard of it.
    fn unknown(self) -> Scene {
        self.with(|part| part.with(|payment| Payment { seed: None, ..payment }))
    }

    /// Cancelled before the first call: no call moves money, and each comes too late.
    fn cancelled_before(self) -> Scene {
        self.with(|part| {
            let late_calls = part.calls;
            part.with(|payment| Payment { cancels: 0, late_calls, ..payment })
        })
    }

    fn late_calls(self, late_calls: u64) -> Scene {
        self.with(|part| part.with(|payment| Payment { late_calls, ..payment }))
    }

    /// Changes what it tells about the intent itself.
    fn with(mut self, change: impl FnOnce(Part) -> Part) -> Scene {
        if !self.parts.is_empty() {
            let whole = self.parts.remove(0);
            self.parts.insert(0, change(whole));
        }
        self
    }
}

impl Part {
    fn new(story: &'static str, id: String, seed: Seed) -> Part {
        let payment =
            Payment { id, seed: Some(seed), state: PaymentState::Stands, cancels: 0, late_calls: 0 };
        Part { story, item: None, told: Vec::new(), calls: 0, payment: Some(payment) }
    }

    fn ends(self, told: Vec<Status>, state: PaymentState, calls: u64) -> Part {
        let cancels = match state {
            PaymentState::Cancelled => 1,
            PaymentState::Stands
            | PaymentState::Pending
            | PaymentState::RolledBack
            | PaymentState::CancelFailed
            | PaymentState::Undelivered
            | PaymentState::Refunded
            | PaymentState::PartiallyRefunded
            | PaymentState::NotPaid
            | PaymentState::Unknown => 0,
        };
        Part { told, calls, ..self }.with(|payment| Payment { state, cancels, ..payment })
    }

    fn with(self, change: impl FnOnce(Payment) -> Payment) -> Part {
        Part { payment: self.payment.map(change), ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::civil::date;

    use super::*;
    use crate::wire::intent::decode;

    fn all() -> Vec<Scene> {
        scenes("2026-03-01T09:00:00Z".parse().unwrap(), date(2026, 3, 1))
    }

    #[test]
    fn every_kind_is_there_with_a_success() {
        let all = all();
        assert!(all.len() >= 16);
        for kind in Kind::ALL {
            let succeeds =
                |part: &Part| part.told.last().is_some_and(|s| matches!(s, Cancelled | RolledBack));
            assert!(all.iter().any(|scene| scene.kind == kind && scene.parts.iter().any(succeeds)), "{kind}");
        }
    }

    #[test]
    fn every_letter_is_a_valid_intent_but_the_one_that_must_not_be() {
        for scene in all() {
            let is_valid = decode(scene.body.as_bytes()).is_ok();
            assert_eq!(is_valid, scene.dead_letter != Some("invalid_intent"), "{}", scene.body);
        }
    }

    #[test]
    fn no_two_scenes_share_a_payment_or_a_subject() {
        let all = all();
        let parts = || all.iter().flat_map(|scene| scene.parts.iter().map(move |part| (scene, part)));
        let subjects: BTreeSet<String> = parts().map(|(scene, part)| scene.subject_of(part)).collect();
        assert_eq!(subjects.len(), parts().count());
        let payments = || parts().filter_map(|(_, part)| part.payment.as_ref().map(|payment| &payment.id));
        assert_eq!(payments().collect::<BTreeSet<_>>().len(), payments().count());
    }
}
