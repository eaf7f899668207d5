//! The payments and the rules: what the gateway knows, and what a call does to it.
//!
//! Every rule is a function of the world and the moment. Nothing here happens by itself: a status is looked up in the
//! plan of its activity by the time that is asked for.

use std::collections::HashMap;

use jiff::{Timestamp, civil, tz::TimeZone};
use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use super::{
    api::{Endpoint, Purpose},
    clock::{after_ms, before_ms, day, istanbul},
    seed::{
        ApmState, BatchPlan, CancelPlan, Identity, PastActivity, PlannedStep, ProviderSays, Seed, SeedApm,
        SeedPhysical, SeedVirtualPos,
    },
    truth::{
        ActivityTruth, CallLog, CallRecord, EffectKind, EffectRecord, Effects, Origin, PaymentState,
        PaymentTruth, Scheme, Truth,
    },
};

/// Payments that one simulator holds.
pub(super) const PAYMENTS_MAX: usize = 100_000;
/// Identifiers of unknown payments that it remembers.
const UNKNOWN_MAX: usize = 10_000;

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

/// Why a payment cannot be seeded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SeedError {
    /// An identifier of it belongs to another payment of this merchant.
    #[error("{field}: another payment of this merchant has it already")]
    Taken {
        /// The field.
        field: &'static str,
    },
    /// A value that no payment can have.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No key set has this name.
    #[error("merchant: no key set has this name")]
    UnknownMerchant,
    /// The simulator is full.
    #[error("the simulator holds its {PAYMENTS_MAX} payments already")]
    Full,
}

/// How a call names a payment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Handle {
    RequestId(Uuid),
    UniqueCode(Uuid),
    MerchantCode(String),
    Apm(String),
    ApmMerchantCode(String),
}

impl Handle {
    pub(super) fn name(&self) -> String {
        match self {
            Self::RequestId(id) | Self::UniqueCode(id) => id.to_string(),
            Self::MerchantCode(code) | Self::Apm(code) | Self::ApmMerchantCode(code) => code.clone(),
        }
    }

    fn field(&self) -> &'static str {
        match self {
            Self::RequestId(_) => "payment_request_id",
            Self::UniqueCode(_) | Self::Apm(_) => "unique_code",
            Self::MerchantCode(_) | Self::ApmMerchantCode(_) => "merchant_unique_code",
        }
    }
}

/// A payment that a call names, and the day that it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) handle: Handle,
    pub(super) date: Option<civil::Date>,
}

/// One thing that was done to a payment, with its whole future.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    pub(super) id: Uuid,
    pub(super) number: u64,
    pub(super) kind: u8,
    /// When it began, as it is printed: never the same for two of one payment, however the clock stands.
    pub(super) date: Timestamp,
    origin: Origin,
    /// When a call withdrew it.
    withdrawn: Option<Timestamp>,
    /// Status by time, in the order of time; the first holds from the beginning.
    steps: Vec<(Timestamp, u8)>,
}

impl Activity {
    pub(super) fn status(&self, now: Timestamp) -> u8 {
        self.steps
            .iter()
            .rev()
            .find(|(at, _)| *at <= now)
            .or(self.steps.first())
            .map_or(1, |(_, status)| *status)
    }

    pub(super) fn changed_at(&self, now: Timestamp) -> Timestamp {
        self.steps.iter().rev().find(|(at, _)| *at <= now).map_or(self.date, |(at, _)| *at)
    }

    fn began(&self) -> Timestamp {
        self.steps.first().map_or(self.date, |(at, _)| *at)
    }
}

/// A payment at a physical terminal.
#[derive(Debug, Clone)]
pub(super) struct Physical {
    pub(super) request_id: Uuid,
    pub(super) merchant_code: String,
    pub(super) terminal_id: Uuid,
    pub(super) amount: String,
    pub(super) activities: Vec<Activity>,
    plans: Vec<CancelPlan>,
    orders: usize,
}

/// A virtual-POS payment.
#[derive(Debug, Clone)]
pub(super) struct VirtualPos {
    pub(super) number: u64,
    pub(super) unique_code: Uuid,
    pub(super) merchant_code: String,
    pub(super) date: civil::Date,
    pub(super) amount: String,
    pub(super) activities: Vec<Activity>,
    plans: Vec<CancelPlan>,
    orders: usize,
    batch: BatchPlan,
    marketplace_records: bool,
}

/// A provision of an alternative payment method.
#[derive(Debug, Clone)]
pub(super) struct Apm {
    pub(super) unique_code: String,
    pub(super) merchant_code: String,
    pub(super) transaction_id: u64,
    pub(super) amount: String,
    pub(super) created: Timestamp,
    pub(super) state: ApmState,
    provider: ProviderSays,
    cancelled_at: Option<Timestamp>,
}

#[derive(Debug, Clone)]
enum Body {
    Physical(Physical),
    VirtualPos(VirtualPos),
    Apm(Apm),
}

#[derive(Debug)]
struct Payment {
    identity: Identity,
    /// Every identifier, in lower case.
    names: Vec<String>,
    body: Body,
    log: CallLog,
}

/// Types of activities at a terminal (`paywall.md` §2.2).
pub(super) mod terminal {
    pub(in crate::simulator) const SALE: u8 = 1;
    pub(in crate::simulator) const CANCEL: u8 = 2;
    pub(in crate::simulator) const REFUND: u8 = 3;
}

/// Types of activities at the virtual POS (`paywall.md` §2.3): 2 and 3 are swapped.
pub(super) mod pos {
    pub(in crate::simulator) const SALE: u8 = 1;
    pub(in crate::simulator) const REFUND: u8 = 2;
    pub(in crate::simulator) const CANCEL: u8 = 3;
    pub(in crate::simulator) const PARTIAL_REFUND: u8 = 4;
}

const SUCCESSFUL: u8 = 4;
const FAILED: u8 = 5;
const FAILED_BY_QUERY: u8 = 7;
const WITHDRAWN: u8 = 12;
const TAKEN_BY_DEVICE: u8 = 11;

impl Physical {
    fn last_cancel(&self) -> Option<&Activity> {
        self.activities.iter().rev().find(|activity| activity.kind == terminal::CANCEL)
    }

    fn any(&self, kind: u8, status: u8, now: Timestamp) -> bool {
        self.activities.iter().any(|activity| activity.kind == kind && activity.status(now) == status)
    }

    /// The latest activity; the sale is always there.
    pub(super) fn latest(&self) -> Option<&Activity> {
        self.activities.last()
    }

    fn state(&self, now: Timestamp) -> PaymentState {
        if self.any(terminal::CANCEL, SUCCESSFUL, now) {
            return PaymentState::Cancelled;
        }
        if self.any(terminal::REFUND, SUCCESSFUL, now) {
            return PaymentState::Refunded;
        }
        if !self.any(terminal::SALE, SUCCESSFUL, now) {
            return PaymentState::NotPaid;
        }
        match self.last_cancel().map(|cancel| cancel.status(now)) {
            None => PaymentState::Stands,
            Some(WITHDRAWN) => PaymentState::RolledBack,
            Some(FAILED) => PaymentState::CancelFailed,
            Some(3 | 7 | 8) => PaymentState::Undelivered,
            Some(_) => PaymentState::Pending,
        }
    }
}

impl VirtualPos {
    pub(super) fn any(&self, kind: u8, now: Timestamp) -> bool {
        self.activities.iter().any(|activity| activity.kind == kind && activity.status(now) == SUCCESSFUL)
    }

    /// Cancelled, as a sale or as a pre-authorisation (status 12).
    pub(super) fn any_cancel(&self, now: Timestamp) -> bool {
        self.any(pos::CANCEL, now)
    }

    /// The latest activity; the sale is always there.
    pub(super) fn latest(&self) -> Option<&Activity> {
        self.activities.last()
    }

    fn provision_cancelled(&self, now: Timestamp) -> bool {
        self.activities.iter().any(|activity| activity.status(now) == WITHDRAWN)
    }

    fn state(&self, now: Timestamp) -> PaymentState {
        if self.any_cancel(now) || self.provision_cancelled(now) {
            return PaymentState::Cancelled;
        }
        if self.any(pos::REFUND, now) {
            return PaymentState::Refunded;
        }
        if self.any(pos::PARTIAL_REFUND, now) {
            return PaymentState::PartiallyRefunded;
        }
        if !self.any(pos::SALE, now) {
            return PaymentState::NotPaid;
        }
        let last = self.activities.iter().rev().find(|activity| activity.kind == pos::CANCEL);
        match last.map(|cancel| cancel.status(now)) {
            None => PaymentState::Stands,
            Some(FAILED | FAILED_BY_QUERY) => PaymentState::CancelFailed,
            Some(_) => PaymentState::Pending,
        }
    }
}

/// Why the Physical API refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PhysicalRefusal {
    NotFound,
    AlreadyReversed,
    NotConvenient(Inconvenience),
    NotDelivered,
}

/// What makes the status of a payment not convenient. All say the same code; only the text tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inconvenience {
    CancelUnderWay,
    NoSuccessfulSale,
    TooEarly,
    TakenByDevice,
    NothingToWithdraw,
}

/// What an order, or its withdrawal, is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ordered {
    pub(super) request_id: Uuid,
    pub(super) activity_id: Uuid,
    pub(super) kind: u8,
    pub(super) status: u8,
}

/// Why the virtual POS refuses a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PosRefusal {
    NotFound,
    AlreadyCancelled,
    AlreadyRefunded,
    NotSuitable,
    TooLate,
    MarketplaceRecords,
    ProviderFailed,
}

/// What a cancel does with marketplace earnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarketplaceRecords {
    Keep,
    Delete,
}

/// Why an APM cancel is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApmRefusal {
    NotFound,
    NotSuitable,
    AlreadyRefunded,
}

/// A cancelled provision, as the reply tells it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cancelled<'a> {
    pub(super) apm: &'a Apm,
    pub(super) provider: Provider,
}

/// The provider's part of an APM reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    Agrees,
    Fails,
}

/// One item of a batch reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchLine {
    pub(super) merchant_code: String,
    pub(super) result: BatchResult,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BatchResult {
    Taken,
    /// Named with a status that is not 1, and a text.
    Other {
        status: i64,
        message: String,
    },
}

/// All that the gateway knows.
#[derive(Debug)]
pub(super) struct World {
    pub(super) rules: Rules,
    payments: Vec<Payment>,
    index: HashMap<(String, Handle), usize>,
    by_name: HashMap<String, usize>,
    unknown: HashMap<String, CallLog>,
    dice: StdRng,
    last_number: u64,
    last_bulk: u64,
}

impl World {
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            payments: Vec::new(),
            index: HashMap::new(),
            by_name: HashMap::new(),
            unknown: HashMap::new(),
            dice: StdRng::seed_from_u64(seed),
            last_number: 14_210,
            last_bulk: 2_682,
        }
    }

    // -- seeding ------------------------------------------------------------------------------------------------

    pub(super) fn seed(&mut self, now: Timestamp, seed: Seed) -> Result<Identity, SeedError> {
        if self.payments.len() >= PAYMENTS_MAX {
            return Err(SeedError::Full);
        }
        match seed {
            Seed::Physical(seed) => self.seed_physical(now, seed),
            Seed::VirtualPos(seed) => self.seed_virtual_pos(now, seed),
            Seed::Apm(seed) => self.seed_apm(now, seed),
        }
    }

    fn seed_physical(&mut self, now: Timestamp, seed: SeedPhysical) -> Result<Identity, SeedError> {
        check_amount(&seed.amount)?;
        check_activities(&seed.history, &seed.cancels, seed.sale_status, 12)?;
        let request_id = seed.payment_request_id.unwrap_or_else(|| self.made_up_uuid());
        let merchant_code = seed.merchant_unique_code.unwrap_or_else(|| self.made_up_code());
        let identity = Identity {
            id: request_id.to_string(),
            merchant: seed.merchant,
            payment_request_id: Some(request_id),
            merchant_unique_code: Some(merchant_code.clone()),
            ..Identity::default()
        };
        let activities = self.past(now, terminal::SALE, seed.sale_status, &seed.history);
        let terminal_id = self.made_up_uuid();
        let body = Body::Physical(Physical {
            request_id,
            merchant_code,
            terminal_id,
            amount: seed.amount,
            activities,
            plans: seed.cancels,
            orders: 0,
        });
        self.insert(identity, vec![Handle::RequestId(request_id)], body)
    }

    fn seed_virtual_pos(&mut self, now: Timestamp, seed: SeedVirtualPos) -> Result<Identity, SeedError> {
        check_amount(&seed.amount)?;
        check_activities(&seed.history, &seed.cancels, seed.sale_status, 14)?;
        let unique_code = seed.unique_code.unwrap_or_else(|| self.made_up_uuid());
        let merchant_code = seed.merchant_unique_code.unwrap_or_else(|| self.made_up_code());
        let date = seed.date.unwrap_or_else(|| day(now, &self.rules.zone));
        let identity = Identity {
            id: unique_code.to_string(),
            merchant: seed.merchant,
            unique_code: Some(unique_code.to_string()),
            merchant_unique_code: Some(merchant_code.clone()),
            date: Some(date),
            ..Identity::default()
        };
        let handles = vec![Handle::UniqueCode(unique_code), Handle::MerchantCode(merchant_code.clone())];
        let body = Body::VirtualPos(VirtualPos {
            number: self.next_number(),
            unique_code,
            merchant_code,
            date,
            amount: seed.amount,
            activities: self.past(now, pos::SALE, seed.sale_status, &seed.history),
            plans: seed.cancels,
            orders: 0,
            batch: seed.batch,
            marketplace_records: seed.marketplace_records,
        });
        self.insert(identity, handles, body)
    }

    fn seed_apm(&mut self, now: Timestamp, seed: SeedApm) -> Result<Identity, SeedError> {
        check_amount(&seed.amount)?;
        let unique_code = seed.unique_code.unwrap_or_else(|| self.made_up_uuid().to_string());
        let merchant_code = seed.merchant_unique_code.unwrap_or_else(|| self.made_up_code());
        let transaction_id = seed.apm_transaction_id.unwrap_or_else(|| self.next_number());
        let identity = Identity {
            id: unique_code.clone(),
            merchant: seed.merchant,
            unique_code: Some(unique_code.clone()),
            merchant_unique_code: Some(merchant_code.clone()),
            apm_transaction_id: Some(transaction_id),
            ..Identity::default()
        };
        let handles = vec![Handle::Apm(unique_code.clone()), Handle::ApmMerchantCode(merchant_code.clone())];
        let body = Body::Apm(Apm {
            unique_code,
            merchant_code,
            transaction_id,
            amount: seed.amount,
            created: now,
            state: seed.state,
            provider: seed.provider,
            cancelled_at: None,
        });
        self.insert(identity, handles, body)
    }

    fn insert(
        &mut self,
        identity: Identity,
        handles: Vec<Handle>,
        body: Body,
    ) -> Result<Identity, SeedError> {
        let keys: Vec<_> = handles.into_iter().map(|handle| (identity.merchant.clone(), handle)).collect();
        if let Some((_, handle)) = keys.iter().find(|key| self.index.contains_key(key)) {
            return Err(SeedError::Taken { field: handle.field() });
        }
        let at = self.payments.len();
        let mut names: Vec<String> = Vec::new();
        for name in [
            Some(identity.id.clone()),
            identity.merchant_unique_code.clone(),
            identity.apm_transaction_id.map(|id| id.to_string()),
        ] {
            names.extend(name.map(|name| name.to_lowercase()));
        }
        let mut log = CallLog::default();
        for name in &names {
            self.by_name.entry(name.clone()).or_insert(at);
            // Calls that named it before it was there are calls of it.
            if let Some(earlier) = self.unknown.remove(name) {
                for (endpoint, count) in earlier.counts {
                    *log.counts.entry(endpoint).or_default() += count;
                }
                log.records.extend(earlier.records);
            }
        }
        self.index.extend(keys.into_iter().map(|key| (key, at)));
        self.payments.push(Payment { identity: identity.clone(), names, body, log });
        Ok(identity)
    }

    /// Seeds what a call names and nobody seeded, as if a normal payment had always been there.
    ///
    /// For a rollback a cancel order has been waiting for a minute, else nothing could be withdrawn.
    pub(super) fn meet(&mut self, now: Timestamp, merchant: &str, endpoint: Endpoint, named: &[Named]) {
        for Named { handle, date } in named {
            if self.find(merchant, handle).is_some() {
                continue;
            }
            let merchant = merchant.to_owned();
            let seed = match handle.clone() {
                Handle::RequestId(id) => {
                    let history = match endpoint {
                        Endpoint::CancelRollback => vec![PastActivity::ended(terminal::CANCEL, 10)],
                        Endpoint::AsyncCancel
                        | Endpoint::SyncCancel
                        | Endpoint::PhysicalInquiry
                        | Endpoint::PhysicalActivities
                        | Endpoint::TransactionCancel
                        | Endpoint::PrivateQuery
                        | Endpoint::PrivateQueryByUniqueCode
                        | Endpoint::ApmProvisionCancel
                        | Endpoint::ApmQuery
                        | Endpoint::BatchCancel => Vec::new(),
                    };
                    Seed::Physical(SeedPhysical { merchant, history, ..SeedPhysical::sold(id) })
                }
                Handle::UniqueCode(code) => {
                    Seed::VirtualPos(SeedVirtualPos { merchant, date: *date, ..SeedVirtualPos::sold(code) })
                }
                Handle::MerchantCode(code) => {
                    Seed::VirtualPos(SeedVirtualPos { merchant, date: *date, ..SeedVirtualPos::item(code) })
                }
                Handle::Apm(code) => Seed::Apm(SeedApm { merchant, ..SeedApm::provisioned(code) }),
                Handle::ApmMerchantCode(code) => {
                    Seed::Apm(SeedApm { merchant, merchant_unique_code: Some(code), ..SeedApm::default() })
                }
            };
            // A full simulator knows no more payments: the call is then told that there is none.
            let _ = self.seed(now, seed);
        }
    }

    // -- physical -----------------------------------------------------------------------------------------------

    /// Orders a cancel of a payment at a terminal.
    pub(super) fn order_cancel(
        &mut self,
        now: Timestamp,
        merchant: &str,
        id: Uuid,
    ) -> Result<Ordered, PhysicalRefusal> {
        let (activity_id, number) = (self.made_up_uuid(), self.next_number());
        let payment = self.physical_mut(merchant, id).ok_or(PhysicalRefusal::NotFound)?;
        match payment.state(now) {
            PaymentState::Cancelled | PaymentState::Refunded | PaymentState::PartiallyRefunded => {
                return Err(PhysicalRefusal::AlreadyReversed);
            }
            PaymentState::Pending => {
                return Err(PhysicalRefusal::NotConvenient(Inconvenience::CancelUnderWay));
            }
            PaymentState::NotPaid => {
                return Err(PhysicalRefusal::NotConvenient(Inconvenience::NoSuccessfulSale));
            }
            PaymentState::Stands
            | PaymentState::RolledBack
            | PaymentState::CancelFailed
            | PaymentState::Undelivered
            | PaymentState::Unknown => {}
        }
        let plan = next_plan(&payment.plans, &mut payment.orders);
        let date = payment.latest().map_or(now, |latest| now.max(after_ms(latest.date, 1)));
        let steps = steps(now, plan.first, &plan.then);
        let kind = terminal::CANCEL;
        payment.activities.push(Activity {
            id: activity_id,
            number,
            kind,
            date,
            origin: Origin::Called,
            withdrawn: None,
            steps,
        });
        match plan.first {
            3 | 7 | 8 => Err(PhysicalRefusal::NotDelivered),
            status => Ok(Ordered { request_id: id, activity_id, kind, status }),
        }
    }

    /// Withdraws the cancel order of a payment at a terminal.
    pub(super) fn roll_back(
        &mut self,
        now: Timestamp,
        merchant: &str,
        id: Uuid,
    ) -> Result<Ordered, PhysicalRefusal> {
        let wait_ms = self.rules.rollback_wait_ms;
        let payment = self.physical_mut(merchant, id).ok_or(PhysicalRefusal::NotFound)?;
        let cancel = payment.activities.iter_mut().rev().find(|activity| activity.kind == terminal::CANCEL);
        let refuse = |why| Err(PhysicalRefusal::NotConvenient(why));
        let Some(cancel) = cancel else {
            return refuse(Inconvenience::NothingToWithdraw);
        };
        match cancel.status(now) {
            1 | 2 | 9 | 10 if now < after_ms(cancel.began(), wait_ms) => refuse(Inconvenience::TooEarly),
            1 | 2 | 9 | 10 => {
                cancel.steps.retain(|(at, _)| *at <= now);
                cancel.steps.push((now, WITHDRAWN));
                cancel.withdrawn = Some(now);
                let Activity { id: activity_id, kind, .. } = *cancel;
                Ok(Ordered { request_id: id, activity_id, kind, status: WITHDRAWN })
            }
            TAKEN_BY_DEVICE | SUCCESSFUL | FAILED => refuse(Inconvenience::TakenByDevice),
            _ => refuse(Inconvenience::NothingToWithdraw),
        }
    }

    pub(super) fn physical(&self, merchant: &str, id: Uuid) -> Option<&Physical> {
        match &self.payment(merchant, Handle::RequestId(id))?.body {
            Body::Physical(physical) => Some(physical),
            Body::VirtualPos(_) | Body::Apm(_) => None,
        }
    }

    fn physical_mut(&mut self, merchant: &str, id: Uuid) -> Option<&mut Physical> {
        let at = self.find(merchant, &Handle::RequestId(id))?;
        match &mut self.payments.get_mut(at)?.body {
            Body::Physical(physical) => Some(physical),
            Body::VirtualPos(_) | Body::Apm(_) => None,
        }
    }

    // -- virtual POS --------------------------------------------------------------------------------------------

    /// Cancels a virtual-POS payment by its unique code.
    pub(super) fn cancel_transaction(
        &mut self,
        now: Timestamp,
        merchant: &str,
        unique_code: Uuid,
        date: civil::Date,
        records: MarketplaceRecords,
    ) -> Result<(), PosRefusal> {
        let (today, id, number) = (day(now, &self.rules.zone), self.made_up_uuid(), self.next_number());
        let payment =
            self.virtual_pos_mut(merchant, &Handle::UniqueCode(unique_code)).ok_or(PosRefusal::NotFound)?;
        suits_cancel(payment, now, date, today)?;
        if payment.marketplace_records && records == MarketplaceRecords::Keep {
            return Err(PosRefusal::MarketplaceRecords);
        }
        let plan = next_plan(&payment.plans, &mut payment.orders);
        push_cancel(payment, id, number, now, steps(now, plan.first, &plan.then));
        if plan.first != SUCCESSFUL {
            return Err(PosRefusal::ProviderFailed);
        }
        payment.marketplace_records = false;
        Ok(())
    }

    /// Takes a list of payments to cancel. The number is that of the batch; the lines are what its reply names.
    pub(super) fn cancel_batch(
        &mut self,
        now: Timestamp,
        merchant: &str,
        items: &[(String, civil::Date)],
    ) -> (u64, Vec<BatchLine>) {
        self.last_bulk += 1;
        let lines =
            items.iter().flat_map(|(code, date)| self.cancel_item(now, merchant, code, *date)).collect();
        (self.last_bulk, lines)
    }

    fn cancel_item(
        &mut self,
        now: Timestamp,
        merchant: &str,
        code: &str,
        date: civil::Date,
    ) -> Vec<BatchLine> {
        let (today, id, number) = (day(now, &self.rules.zone), self.made_up_uuid(), self.next_number());
        let refused_status = self.rules.batch_refused_status;
        let line = |result| BatchLine { merchant_code: code.to_owned(), result };
        let refused = |message: &str| {
            vec![line(BatchResult::Other { status: refused_status, message: message.to_owned() })]
        };
        let Some(payment) = self.virtual_pos_mut(merchant, &Handle::MerchantCode(code.to_owned())) else {
            return refused("Payment not found");
        };
        match suits_cancel(payment, now, date, today) {
            Ok(()) => {}
            Err(refusal) => return refused(pos_text(refusal)),
        }
        let then = |after_ms, status| vec![PlannedStep { after_ms, status }];
        let (then, lines) = match &payment.batch {
            BatchPlan::Cancelled { after_ms } => {
                (then(*after_ms, SUCCESSFUL), vec![line(BatchResult::Taken)])
            }
            BatchPlan::Failed { after_ms, status } => {
                (then(*after_ms, *status), vec![line(BatchResult::Taken)])
            }
            BatchPlan::Pending => (Vec::new(), vec![line(BatchResult::Taken)]),
            BatchPlan::Refused { status, message } => {
                return vec![line(BatchResult::Other { status: *status, message: message.clone() })];
            }
            BatchPlan::LeftOut => return Vec::new(),
            BatchPlan::LeftOutButCancelled { after_ms } => (then(*after_ms, SUCCESSFUL), Vec::new()),
            BatchPlan::Twice { after_ms, second_status } => {
                let second = match second_status {
                    1 => BatchResult::Taken,
                    status => {
                        BatchResult::Other { status: *status, message: "Already in process".to_owned() }
                    }
                };
                (then(*after_ms, SUCCESSFUL), vec![line(BatchResult::Taken), line(second)])
            }
        };
        // 2: the provider is being asked. An item without delay is cancelled at once.
        push_cancel(payment, id, number, now, steps(now, 2, &then));
        lines
    }

    pub(super) fn virtual_pos(&self, merchant: &str, handle: Handle) -> Option<&VirtualPos> {
        match &self.payment(merchant, handle)?.body {
            Body::VirtualPos(payment) => Some(payment),
            Body::Physical(_) | Body::Apm(_) => None,
        }
    }

    fn virtual_pos_mut(&mut self, merchant: &str, handle: &Handle) -> Option<&mut VirtualPos> {
        let at = self.find(merchant, handle)?;
        match &mut self.payments.get_mut(at)?.body {
            Body::VirtualPos(payment) => Some(payment),
            Body::Physical(_) | Body::Apm(_) => None,
        }
    }

    // -- alternative payment methods ----------------------------------------------------------------------------

    /// Cancels a provision.
    pub(super) fn cancel_provision(
        &mut self,
        now: Timestamp,
        merchant: &str,
        unique_code: &str,
    ) -> Result<Cancelled<'_>, ApmRefusal> {
        let repeat = self.rules.apm_repeat;
        let at = self.find(merchant, &Handle::Apm(unique_code.to_owned())).ok_or(ApmRefusal::NotFound)?;
        let apm = match self.payments.get_mut(at).map(|payment| &mut payment.body) {
            Some(Body::Apm(apm)) => apm,
            Some(Body::Physical(_) | Body::VirtualPos(_)) | None => return Err(ApmRefusal::NotFound),
        };
        match (apm.state, repeat) {
            (ApmState::Refunded, _) => return Err(ApmRefusal::AlreadyRefunded),
            (ApmState::NotSuitable, _) | (ApmState::Cancelled, ApmRepeat::NotSuitable) => {
                return Err(ApmRefusal::NotSuitable);
            }
            (ApmState::Cancelled, ApmRepeat::Succeeds) => {
                return Ok(Cancelled { apm, provider: Provider::Agrees });
            }
            (ApmState::Provisioned, _) => {}
        }
        let (provider, state) = match apm.provider {
            ProviderSays::Yes => (Provider::Agrees, ApmState::Cancelled),
            ProviderSays::NoAndMeansIt => (Provider::Fails, ApmState::Provisioned),
            ProviderSays::NoButDidIt => (Provider::Fails, ApmState::Cancelled),
        };
        if state == ApmState::Cancelled {
            apm.cancelled_at = Some(now);
        }
        apm.state = state;
        Ok(Cancelled { apm, provider })
    }

    pub(super) fn apm(&self, merchant: &str, merchant_code: &str) -> Option<&Apm> {
        match &self.payment(merchant, Handle::ApmMerchantCode(merchant_code.to_owned()))?.body {
            Body::Apm(apm) => Some(apm),
            Body::Physical(_) | Body::VirtualPos(_) => None,
        }
    }

    // -- without effect -----------------------------------------------------------------------------------------

    /// What `call` would be answered, with none of its effects on the payments that it names.
    pub(super) fn pretend<T>(
        &mut self,
        merchant: &str,
        named: &[Named],
        call: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let saved: Vec<(usize, Body)> = named
            .iter()
            .filter_map(|named| self.find(merchant, &named.handle))
            .filter_map(|at| self.payments.get(at).map(|payment| (at, payment.body.clone())))
            .collect();
        let answer = call(self);
        for (at, body) in saved {
            if let Some(payment) = self.payments.get_mut(at) {
                payment.body = body;
            }
        }
        answer
    }

    // -- the truth ----------------------------------------------------------------------------------------------

    /// Notes a call of every payment that it names, whether it is known or not.
    pub(super) fn note_call(
        &mut self,
        now: Timestamp,
        merchant: Option<&str>,
        named: &[Named],
        record: &CallRecord,
    ) {
        for named in named {
            match self.meant(merchant, &named.handle) {
                Some(at) => {
                    let Some(payment) = self.payments.get_mut(at) else { continue };
                    let cancelled = state(&payment.body, now) == PaymentState::Cancelled;
                    if cancelled && record.endpoint.purpose() == Purpose::Call {
                        payment.log.after_cancelled += 1;
                    }
                    payment.log.push(record.clone());
                }
                None => {
                    let name = named.handle.name().to_lowercase();
                    if self.unknown.len() < UNKNOWN_MAX || self.unknown.contains_key(&name) {
                        self.unknown.entry(name).or_default().push(record.clone());
                    }
                }
            }
        }
    }

    /// Changes the records of a call that was noted before. The effect is told apart by payment.
    pub(super) fn mend_call(
        &mut self,
        merchant: Option<&str>,
        named: &[Named],
        number: u64,
        mut mend: impl FnMut(&mut CallRecord, Option<&Touched>),
        touched: &[Touched],
    ) {
        for named in named {
            match self.meant(merchant, &named.handle) {
                Some(at) => {
                    if let Some(record) =
                        self.payments.get_mut(at).and_then(|payment| payment.log.find(number))
                    {
                        mend(record, touched.iter().find(|touched| touched.at == at));
                    }
                }
                None => {
                    let log = self.unknown.get_mut(&named.handle.name().to_lowercase());
                    if let Some(record) = log.and_then(|log| log.find(number)) {
                        mend(record, None);
                    }
                }
            }
        }
    }

    /// The payments that a call names, and how many effects each has had, to be compared with later.
    pub(super) fn watch(&self, now: Timestamp, merchant: &str, named: &[Named]) -> Vec<Touched> {
        named
            .iter()
            .filter_map(|named| self.find(merchant, &named.handle))
            .filter_map(|at| {
                let payment = self.payments.get(at)?;
                Some(Touched { at, effects: effects(&payment.body, now), what: None })
            })
            .collect()
    }

    /// Says of each watched payment what has happened to it since.
    pub(super) fn compare(&self, now: Timestamp, watched: &mut [Touched]) {
        for touched in watched {
            let Some(payment) = self.payments.get(touched.at) else { continue };
            let since = effects(&payment.body, now);
            touched.what = since.get(touched.effects.len()..).and_then(|new| new.last()).map(|new| new.what);
        }
    }

    /// Every identifier of every payment that a call names.
    pub(super) fn names(&self, merchant: Option<&str>, named: &[Named]) -> Vec<String> {
        named
            .iter()
            .flat_map(|named| {
                let known = self.meant(merchant, &named.handle).and_then(|at| self.payments.get(at));
                known.map_or_else(|| vec![named.handle.name()], |payment| payment.names.clone())
            })
            .collect()
    }

    pub(super) fn truth(&self, now: Timestamp) -> Truth {
        let mut unknown: Vec<_> = self.unknown.iter().map(|(name, log)| unknown_truth(name, log)).collect();
        unknown.sort_by(|one, other| one.identity.id.cmp(&other.identity.id));
        Truth { now, payments: self.payments.iter().map(|payment| truth_of(payment, now)).collect(), unknown }
    }

    /// The truth about one payment, by any of its identifiers.
    pub(super) fn truth_of(&self, now: Timestamp, id: &str) -> Option<PaymentTruth> {
        let name = id.to_lowercase();
        if let Some(payment) = self.by_name.get(&name).and_then(|at| self.payments.get(*at)) {
            return Some(truth_of(payment, now));
        }
        self.unknown.get(&name).map(|log| unknown_truth(&name, log))
    }

    // -- helpers ------------------------------------------------------------------------------------------------

    fn find(&self, merchant: &str, handle: &Handle) -> Option<usize> {
        self.index.get(&(merchant.to_owned(), handle.clone())).copied()
    }

    /// The payment that is meant, for the books: that of the caller, else anybody's of this name.
    fn meant(&self, merchant: Option<&str>, handle: &Handle) -> Option<usize> {
        merchant
            .and_then(|merchant| self.find(merchant, handle))
            .or_else(|| self.by_name.get(&handle.name().to_lowercase()).copied())
    }

    fn payment(&self, merchant: &str, handle: Handle) -> Option<&Payment> {
        self.find(merchant, &handle).and_then(|at| self.payments.get(at))
    }

    fn past(&mut self, now: Timestamp, sale: u8, sale_status: u8, history: &[PastActivity]) -> Vec<Activity> {
        let oldest_ms = history.iter().map(|past| past.ago_ms).max().unwrap_or(0);
        let sold = before_ms(now, oldest_ms.saturating_add(60_000));
        let mut activities = vec![self.activity(sale, sold, steps(sold, sale_status, &[]))];
        for past in history {
            let began = before_ms(now, past.ago_ms);
            let date = activities.last().map_or(began, |last| began.max(after_ms(last.date, 1)));
            activities.push(self.activity(past.kind, date, steps(began, past.status, &past.then)));
        }
        activities
    }

    fn activity(&mut self, kind: u8, date: Timestamp, steps: Vec<(Timestamp, u8)>) -> Activity {
        Activity {
            id: self.made_up_uuid(),
            number: self.next_number(),
            kind,
            date,
            origin: Origin::Seeded,
            withdrawn: None,
            steps,
        }
    }

    fn made_up_uuid(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.dice.random()).into_uuid()
    }

    fn made_up_code(&mut self) -> String {
        format!("MUC{:012}", self.next_number())
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// A payment that a call names: which, what had happened to it before, and what the call did.
#[derive(Debug, Clone)]
pub(super) struct Touched {
    at: usize,
    effects: Vec<EffectRecord>,
    pub(super) what: Option<EffectKind>,
}

/// Whether a virtual-POS payment can be cancelled now. What it is comes before the time of day.
fn suits_cancel(
    payment: &VirtualPos,
    now: Timestamp,
    date: civil::Date,
    today: civil::Date,
) -> Result<(), PosRefusal> {
    if date != payment.date {
        return Err(PosRefusal::NotFound);
    }
    match payment.state(now) {
        PaymentState::Cancelled => Err(PosRefusal::AlreadyCancelled),
        PaymentState::Refunded | PaymentState::PartiallyRefunded => Err(PosRefusal::AlreadyRefunded),
        PaymentState::NotPaid | PaymentState::Pending => Err(PosRefusal::NotSuitable),
        PaymentState::Stands
        | PaymentState::RolledBack
        | PaymentState::CancelFailed
        | PaymentState::Undelivered
        | PaymentState::Unknown => {
            if today > payment.date {
                Err(PosRefusal::TooLate)
            } else {
                Ok(())
            }
        }
    }
}

fn push_cancel(payment: &mut VirtualPos, id: Uuid, number: u64, now: Timestamp, steps: Vec<(Timestamp, u8)>) {
    let date = payment.latest().map_or(now, |latest| now.max(after_ms(latest.date, 1)));
    payment.activities.push(Activity {
        id,
        number,
        kind: pos::CANCEL,
        date,
        origin: Origin::Called,
        withdrawn: None,
        steps,
    });
}

/// The English text beside a refusal of the virtual POS. It decides nothing.
pub(super) fn pos_text(refusal: PosRefusal) -> &'static str {
    match refusal {
        PosRefusal::NotFound => "Payment not found",
        PosRefusal::AlreadyCancelled => "Payment has a successful cancel",
        PosRefusal::AlreadyRefunded => "Payment has a successful refund",
        PosRefusal::NotSuitable => "Payment is not suitable for this operation",
        PosRefusal::TooLate => "This operation cannot be done at this time",
        PosRefusal::MarketplaceRecords => "Payment has marketplace earnings",
        PosRefusal::ProviderFailed => "Payment error",
    }
}

/// The plan of the next order: one after the other, the last one again and again.
fn next_plan(plans: &[CancelPlan], orders: &mut usize) -> CancelPlan {
    let plan = plans.get(*orders).or(plans.last()).cloned().unwrap_or_else(CancelPlan::at_once);
    *orders += 1;
    plan
}

/// Status by time, in the order of time.
fn steps(began: Timestamp, first: u8, then: &[PlannedStep]) -> Vec<(Timestamp, u8)> {
    let mut steps = vec![(began, first)];
    steps.extend(then.iter().map(|step| (after_ms(began, step.after_ms), step.status)));
    steps.sort_by_key(|(at, _)| *at);
    steps
}

fn state(body: &Body, now: Timestamp) -> PaymentState {
    match body {
        Body::Physical(payment) => payment.state(now),
        Body::VirtualPos(payment) => payment.state(now),
        Body::Apm(apm) => match apm.state {
            ApmState::Provisioned => PaymentState::Stands,
            ApmState::Cancelled => PaymentState::Cancelled,
            ApmState::Refunded => PaymentState::Refunded,
            ApmState::NotSuitable => PaymentState::NotPaid,
        },
    }
}

/// What calls have done to a payment up to now, in the order of time.
fn effects(body: &Body, now: Timestamp) -> Vec<EffectRecord> {
    let (activities, cancel) = match body {
        Body::Physical(payment) => (&payment.activities, terminal::CANCEL),
        Body::VirtualPos(payment) => (&payment.activities, pos::CANCEL),
        Body::Apm(apm) => {
            let cancelled = apm.cancelled_at.into_iter();
            return cancelled
                .flat_map(|at| {
                    [EffectKind::CancelOrdered, EffectKind::Cancelled].map(|what| EffectRecord { at, what })
                })
                .collect();
        }
    };
    let mut effects = Vec::new();
    for activity in activities.iter().filter(|activity| activity.kind == cancel) {
        if activity.origin == Origin::Called {
            effects.push(EffectRecord { at: activity.began(), what: EffectKind::CancelOrdered });
            let ended = activity.steps.iter().find(|(at, status)| *at <= now && *status == SUCCESSFUL);
            effects.extend(ended.map(|(at, _)| EffectRecord { at: *at, what: EffectKind::Cancelled }));
        }
        // An order that was there from the beginning can be withdrawn by a call, too.
        effects.extend(activity.withdrawn.map(|at| EffectRecord { at, what: EffectKind::RolledBack }));
    }
    effects.sort_by_key(|effect| effect.at);
    effects
}

fn truth_of(payment: &Payment, now: Timestamp) -> PaymentTruth {
    let events = effects(&payment.body, now);
    let count = |what| events.iter().filter(|event| event.what == what).count() as u64;
    let (scheme, activities) = match &payment.body {
        Body::Physical(physical) => (Scheme::Physical, physical.activities.as_slice()),
        Body::VirtualPos(payment) => (Scheme::VirtualPos, payment.activities.as_slice()),
        Body::Apm(_) => (Scheme::Apm, [].as_slice()),
    };
    PaymentTruth {
        identity: payment.identity.clone(),
        scheme: Some(scheme),
        state: state(&payment.body, now),
        calls: payment.log.counts.clone(),
        calls_after_cancelled: payment.log.after_cancelled,
        effects: Effects {
            orders: count(EffectKind::CancelOrdered),
            cancels: count(EffectKind::Cancelled),
            rollbacks: count(EffectKind::RolledBack),
        },
        events,
        activities: activities
            .iter()
            .map(|activity| ActivityTruth {
                kind: activity.kind,
                status: activity.status(now),
                at: activity.date,
                origin: activity.origin,
            })
            .collect(),
        log: payment.log.records.iter().cloned().collect(),
    }
}

fn unknown_truth(name: &str, log: &CallLog) -> PaymentTruth {
    PaymentTruth {
        identity: Identity { id: name.to_owned(), ..Identity::default() },
        scheme: None,
        state: PaymentState::Unknown,
        calls: log.counts.clone(),
        calls_after_cancelled: 0,
        effects: Effects::default(),
        events: Vec::new(),
        activities: Vec::new(),
        log: log.records.iter().cloned().collect(),
    }
}

/// Decimal text that is a JSON number as it stands.
fn check_amount(amount: &str) -> Result<(), SeedError> {
    let (whole, part) = amount.split_once('.').unwrap_or((amount, "0"));
    let digits = |text: &str, max| {
        !text.is_empty() && text.len() <= max && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if digits(whole, 15) && digits(part, 8) && (whole == "0" || !whole.starts_with('0')) {
        Ok(())
    } else {
        Err(SeedError::Invalid { field: "amount", problem: "not a plain decimal number such as 8.00" })
    }
}

fn check_activities(
    history: &[PastActivity],
    cancels: &[CancelPlan],
    sale_status: u8,
    status_max: u8,
) -> Result<(), SeedError> {
    let known = |status: u8| (1..=status_max).contains(&status);
    let all_known = |steps: &[PlannedStep]| steps.iter().all(|step| known(step.status));
    if !known(sale_status) {
        return Err(SeedError::Invalid { field: "sale_status", problem: "no such status" });
    }
    if history.iter().any(|past| !(1..=4).contains(&past.kind)) {
        return Err(SeedError::Invalid { field: "history.type", problem: "no such type" });
    }
    if history.iter().any(|past| !known(past.status) || !all_known(&past.then)) {
        return Err(SeedError::Invalid { field: "history.status", problem: "no such status" });
    }
    if cancels.iter().any(|plan| !known(plan.first) || !all_known(&plan.then)) {
        return Err(SeedError::Invalid { field: "cancels", problem: "no such status" });
    }
    if cancels.is_empty() {
        return Err(SeedError::Invalid { field: "cancels", problem: "must have at least one plan" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::uuid;

    use super::*;

    const ID: Uuid = uuid!("7cc7c8e8-9d92-41b6-9378-e9ecef5a7812");
    const M: &str = "default";
    const TODAY: civil::Date = civil::Date::constant(2026, 3, 1);

    /// Noon in Istanbul, and so many seconds.
    fn noon(seconds: u64) -> Timestamp {
        after_ms("2026-03-01T09:00:00Z".parse().unwrap(), seconds * 1_000)
    }

    fn world_with(seed: impl Into<Seed>) -> World {
        let mut world = World::new(Rules::default(), 1);
        world.seed(noon(0), seed.into()).unwrap();
        world
    }

    fn terminal_world(seed: SeedPhysical) -> World {
        world_with(SeedPhysical { payment_request_id: Some(ID), ..seed })
    }

    fn pos_world(seed: SeedVirtualPos) -> World {
        world_with(SeedVirtualPos {
            unique_code: Some(ID),
            merchant_unique_code: Some("A-1".to_owned()),
            ..seed
        })
    }

    fn state_of(world: &World, now: Timestamp) -> PaymentState {
        world.truth_of(now, &ID.to_string()).unwrap().state
    }

    fn effects_of(world: &World, now: Timestamp) -> Effects {
        world.truth_of(now, &ID.to_string()).unwrap().effects
    }

    // -- terminals ----------------------------------------------------------------------------------------------

    #[test]
    fn an_accepted_cancel_is_taken_by_the_device_and_then_ends_by_the_clock_alone() {
        let plan = CancelPlan::accepted(10_000, 20_000, SUCCESSFUL);
        let mut world = terminal_world(SeedPhysical::default().cancelling(plan));
        assert_eq!(world.order_cancel(noon(0), M, ID).unwrap().status, 10);
        let status = |world: &World, now| world.physical(M, ID).unwrap().latest().unwrap().status(now);
        assert_eq!(status(&world, noon(9)), 10);
        assert_eq!(status(&world, noon(10)), TAKEN_BY_DEVICE);
        assert_eq!(status(&world, noon(20)), SUCCESSFUL);
        assert_eq!(effects_of(&world, noon(19)), Effects { orders: 1, cancels: 0, rollbacks: 0 });
        assert_eq!(effects_of(&world, noon(20)), Effects { orders: 1, cancels: 1, rollbacks: 0 });
    }

    fn check_rollback(seconds: u64, expected: Result<u8, PhysicalRefusal>) {
        let plan = CancelPlan::accepted(10_000, 20_000, SUCCESSFUL);
        let mut world = terminal_world(SeedPhysical::default().cancelling(plan));
        world.order_cancel(noon(0), M, ID).unwrap();
        let answered = world.roll_back(noon(seconds), M, ID);
        assert_eq!(answered.map(|ordered| ordered.status), expected, "after {seconds} s");
    }

    #[test]
    fn a_cancel_can_be_withdrawn_from_the_fifth_second_until_the_device_has_it() {
        let refused = |why| Err(PhysicalRefusal::NotConvenient(why));
        check_rollback(0, refused(Inconvenience::TooEarly));
        check_rollback(4, refused(Inconvenience::TooEarly));
        check_rollback(5, Ok(WITHDRAWN));
        check_rollback(9, Ok(WITHDRAWN));
        check_rollback(10, refused(Inconvenience::TakenByDevice));
        check_rollback(20, refused(Inconvenience::TakenByDevice));
    }

    #[test]
    fn a_withdrawn_cancel_never_ends_and_the_sale_stands() {
        let plan = CancelPlan::accepted(10_000, 20_000, SUCCESSFUL);
        let mut world = terminal_world(SeedPhysical::default().cancelling(plan));
        world.order_cancel(noon(0), M, ID).unwrap();
        world.roll_back(noon(6), M, ID).unwrap();
        assert_eq!(state_of(&world, noon(3_600)), PaymentState::RolledBack);
        assert_eq!(effects_of(&world, noon(3_600)), Effects { orders: 1, cancels: 0, rollbacks: 1 });
        let again = world.roll_back(noon(7), M, ID);
        assert_eq!(again, Err(PhysicalRefusal::NotConvenient(Inconvenience::NothingToWithdraw)));
    }

    fn check_order(seed: SeedPhysical, expected: Result<u8, PhysicalRefusal>) {
        let told = format!("{seed:?}");
        let answered = terminal_world(seed).order_cancel(noon(0), M, ID).map(|ordered| ordered.status);
        assert_eq!(answered, expected, "{told}");
    }

    #[test]
    fn a_cancel_is_ordered_only_where_the_money_is_still_taken_and_no_cancel_runs() {
        let past = |kind, status| SeedPhysical::default().after(PastActivity::ended(kind, status));
        let inconvenient = |why| Err(PhysicalRefusal::NotConvenient(why));
        check_order(SeedPhysical::default(), Ok(4));
        check_order(past(terminal::CANCEL, 4), Err(PhysicalRefusal::AlreadyReversed));
        check_order(past(terminal::REFUND, 4), Err(PhysicalRefusal::AlreadyReversed));
        for running in [1, 2, 6, 9, 10, 11] {
            check_order(past(terminal::CANCEL, running), inconvenient(Inconvenience::CancelUnderWay));
        }
        for over in [3, 5, 7, 8, 12] {
            check_order(past(terminal::CANCEL, over), Ok(4));
        }
        for unpaid in [1, 5, 12] {
            let seed = SeedPhysical { sale_status: unpaid, ..SeedPhysical::default() };
            check_order(seed, inconvenient(Inconvenience::NoSuccessfulSale));
        }
        for lost in [3, 7, 8] {
            check_order(
                SeedPhysical::default().cancelling(CancelPlan::only(lost)),
                Err(PhysicalRefusal::NotDelivered),
            );
        }
    }

    #[test]
    fn an_order_that_was_not_delivered_can_be_given_again_and_goes_by_the_next_plan() {
        let cancels = vec![CancelPlan::only(3), CancelPlan::at_once()];
        let mut world = terminal_world(SeedPhysical { cancels, ..SeedPhysical::default() });
        assert_eq!(world.order_cancel(noon(0), M, ID), Err(PhysicalRefusal::NotDelivered));
        assert_eq!(state_of(&world, noon(0)), PaymentState::Undelivered);
        assert_eq!(world.order_cancel(noon(0), M, ID).unwrap().status, SUCCESSFUL);
        let dates: Vec<_> = world.physical(M, ID).unwrap().activities.iter().map(|one| one.date).collect();
        assert!(dates.is_sorted_by(|one, next| one < next), "a standing clock keeps them apart: {dates:?}");
    }

    #[test]
    fn nothing_is_withdrawn_where_no_cancel_runs() {
        let nothing = Err(PhysicalRefusal::NotConvenient(Inconvenience::NothingToWithdraw));
        assert_eq!(terminal_world(SeedPhysical::default()).roll_back(noon(0), M, ID), nothing);
        for over in [3, 7, 8, 12] {
            let seed = SeedPhysical::default().after(PastActivity::ended(terminal::CANCEL, over));
            assert_eq!(terminal_world(seed).roll_back(noon(0), M, ID), nothing);
        }
    }

    #[test]
    fn a_payment_is_found_only_with_the_keys_of_its_own_merchant() {
        let mut world = terminal_world(SeedPhysical::default());
        assert_eq!(world.order_cancel(noon(0), "other", ID), Err(PhysicalRefusal::NotFound));
        assert_eq!(world.roll_back(noon(0), "other", ID), Err(PhysicalRefusal::NotFound));
    }

    // -- virtual POS --------------------------------------------------------------------------------------------

    fn check_pos(seed: SeedVirtualPos, now: Timestamp, date: civil::Date, expected: Result<(), PosRefusal>) {
        let told = format!("{seed:?}");
        let answered = pos_world(seed).cancel_transaction(now, M, ID, date, MarketplaceRecords::Keep);
        assert_eq!(answered, expected, "{told}");
    }

    #[test]
    fn a_transaction_is_cancelled_on_its_day_by_its_date_and_only_once() {
        let sold = SeedVirtualPos::default;
        let past = |kind, status| sold().after(PastActivity::ended(kind, status));
        let day_over = noon(12 * 3_600);
        check_pos(sold(), noon(0), TODAY, Ok(()));
        check_pos(sold(), noon(0), TODAY.yesterday().unwrap(), Err(PosRefusal::NotFound));
        check_pos(sold(), before_ms(day_over, 1), TODAY, Ok(()));
        check_pos(sold(), day_over, TODAY, Err(PosRefusal::TooLate));
        check_pos(past(pos::CANCEL, 4), noon(0), TODAY, Err(PosRefusal::AlreadyCancelled));
        check_pos(past(pos::CANCEL, 4), day_over, TODAY, Err(PosRefusal::AlreadyCancelled));
        check_pos(past(pos::REFUND, 4), noon(0), TODAY, Err(PosRefusal::AlreadyRefunded));
        check_pos(past(pos::PARTIAL_REFUND, 4), noon(0), TODAY, Err(PosRefusal::AlreadyRefunded));
        check_pos(past(pos::CANCEL, 2), noon(0), TODAY, Err(PosRefusal::NotSuitable));
        check_pos(past(pos::CANCEL, 5), noon(0), TODAY, Ok(()));
        check_pos(SeedVirtualPos { sale_status: 5, ..sold() }, noon(0), TODAY, Err(PosRefusal::NotSuitable));
        check_pos(
            SeedVirtualPos { sale_status: 12, ..sold() },
            noon(0),
            TODAY,
            Err(PosRefusal::AlreadyCancelled),
        );
        let failing = SeedVirtualPos { cancels: vec![CancelPlan::only(5)], ..sold() };
        check_pos(failing, noon(0), TODAY, Err(PosRefusal::ProviderFailed));
    }

    #[test]
    fn marketplace_earnings_keep_a_payment_until_the_caller_lets_them_go() {
        let mut world = pos_world(SeedVirtualPos { marketplace_records: true, ..SeedVirtualPos::default() });
        let kept = world.cancel_transaction(noon(0), M, ID, TODAY, MarketplaceRecords::Keep);
        assert_eq!(kept, Err(PosRefusal::MarketplaceRecords));
        assert_eq!(state_of(&world, noon(0)), PaymentState::Stands);
        let deleted = world.cancel_transaction(noon(0), M, ID, TODAY, MarketplaceRecords::Delete);
        assert_eq!(deleted, Ok(()));
        assert_eq!(state_of(&world, noon(0)), PaymentState::Cancelled);
    }

    fn check_item(batch: BatchPlan, statuses: &[i64], end: PaymentState, cancels: u64) {
        let told = format!("{batch:?}");
        let mut world = pos_world(SeedVirtualPos::default().in_batch(batch));
        let (_, lines) = world.cancel_batch(noon(0), M, &[("A-1".to_owned(), TODAY)]);
        let named: Vec<_> = lines
            .iter()
            .map(|line| match &line.result {
                BatchResult::Taken => 1,
                BatchResult::Other { status, .. } => *status,
            })
            .collect();
        assert_eq!(named, statuses, "{told}");
        assert_eq!(state_of(&world, noon(3_600)), end, "{told}");
        assert_eq!(effects_of(&world, noon(3_600)).cancels, cancels, "{told}");
    }

    #[test]
    fn an_item_of_a_batch_ends_as_it_was_seeded_whatever_the_reply_named() {
        let after_ms = 30_000;
        let refused = BatchPlan::Refused { status: 3, message: "no".to_owned() };
        check_item(BatchPlan::Cancelled { after_ms }, &[1], PaymentState::Cancelled, 1);
        check_item(BatchPlan::Failed { after_ms, status: 5 }, &[1], PaymentState::CancelFailed, 0);
        check_item(BatchPlan::Failed { after_ms, status: 7 }, &[1], PaymentState::CancelFailed, 0);
        check_item(BatchPlan::Pending, &[1], PaymentState::Pending, 0);
        check_item(refused, &[3], PaymentState::Stands, 0);
        check_item(BatchPlan::LeftOut, &[], PaymentState::Stands, 0);
        check_item(BatchPlan::LeftOutButCancelled { after_ms }, &[], PaymentState::Cancelled, 1);
        check_item(BatchPlan::Twice { after_ms, second_status: 2 }, &[1, 2], PaymentState::Cancelled, 1);
    }

    #[test]
    fn an_item_is_not_taken_twice_nor_after_its_day_nor_under_another_date() {
        let mut world = pos_world(SeedVirtualPos::default());
        let mut send = |now, code: &str, date| {
            let (_, lines) = world.cancel_batch(now, M, &[(code.to_owned(), date)]);
            matches!(lines[0].result, BatchResult::Taken)
        };
        assert!(!send(noon(0), "nobody", TODAY));
        assert!(!send(noon(0), "A-1", TODAY.yesterday().unwrap()));
        assert!(!send(noon(12 * 3_600), "A-1", TODAY));
        assert!(send(noon(0), "A-1", TODAY));
        assert!(!send(noon(1), "A-1", TODAY), "its cancel is under way");
        assert!(!send(noon(60), "A-1", TODAY), "it is cancelled");
    }

    // -- alternative payment methods ----------------------------------------------------------------------------

    fn check_apm(
        seed: SeedApm,
        repeat: ApmRepeat,
        expected: Result<Provider, ApmRefusal>,
        state: PaymentState,
        cancels: u64,
    ) {
        let told = format!("{seed:?} {repeat:?}");
        let mut world = world_with(SeedApm { unique_code: Some("c".to_owned()), ..seed });
        world.rules.apm_repeat = repeat;
        let answered = world.cancel_provision(noon(0), M, "c").map(|cancelled| cancelled.provider);
        assert_eq!(answered, expected, "{told}");
        let truth = world.truth_of(noon(0), "c").unwrap();
        assert_eq!((truth.state, truth.effects.cancels), (state, cancels), "{told}");
    }

    #[test]
    fn a_provision_is_cancelled_once_and_a_repeat_does_nothing_more() {
        use ApmRepeat::{NotSuitable, Succeeds};
        let of = |state| SeedApm { state, ..SeedApm::default() };
        let says = |provider| SeedApm { provider, ..SeedApm::default() };
        let (yes, fails) = (Ok(Provider::Agrees), Ok(Provider::Fails));
        check_apm(of(ApmState::Provisioned), Succeeds, yes, PaymentState::Cancelled, 1);
        check_apm(of(ApmState::Cancelled), Succeeds, yes, PaymentState::Cancelled, 0);
        let refused = Err(ApmRefusal::NotSuitable);
        check_apm(of(ApmState::Cancelled), NotSuitable, refused, PaymentState::Cancelled, 0);
        check_apm(of(ApmState::NotSuitable), Succeeds, refused, PaymentState::NotPaid, 0);
        let refunded = Err(ApmRefusal::AlreadyRefunded);
        check_apm(of(ApmState::Refunded), Succeeds, refunded, PaymentState::Refunded, 0);
        check_apm(says(ProviderSays::NoAndMeansIt), Succeeds, fails, PaymentState::Stands, 0);
        check_apm(says(ProviderSays::NoButDidIt), Succeeds, fails, PaymentState::Cancelled, 1);
    }

    // -- around them --------------------------------------------------------------------------------------------

    #[test]
    fn a_call_that_is_only_pretended_leaves_everything_as_it_was() {
        let mut world = terminal_world(SeedPhysical::default());
        let named = [Named { handle: Handle::RequestId(ID), date: None }];
        let answer = world.pretend(M, &named, |world| world.order_cancel(noon(0), M, ID));
        assert_eq!(answer.unwrap().status, SUCCESSFUL);
        assert_eq!(state_of(&world, noon(0)), PaymentState::Stands);
        assert_eq!(effects_of(&world, noon(0)), Effects::default());
    }

    #[test]
    fn a_seed_that_cannot_be_is_refused_by_the_name_of_its_field() {
        let mut world = terminal_world(SeedPhysical::default());
        let mut field = |seed: SeedPhysical| match world.seed(noon(0), seed.into()) {
            Err(SeedError::Taken { field } | SeedError::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let default = SeedPhysical::default;
        assert_eq!(field(SeedPhysical::sold(ID)), "payment_request_id");
        assert_eq!(field(SeedPhysical { amount: "8,00".to_owned(), ..default() }), "amount");
        assert_eq!(field(SeedPhysical { amount: "08".to_owned(), ..default() }), "amount");
        assert_eq!(field(SeedPhysical { sale_status: 13, ..default() }), "sale_status");
        assert_eq!(field(default().after(PastActivity::ended(5, 4))), "history.type");
        assert_eq!(field(default().cancelling(CancelPlan::only(0))), "cancels");
        assert_eq!(field(SeedPhysical { cancels: Vec::new(), ..default() }), "cancels");
    }

    #[test]
    fn a_cancel_that_was_there_from_the_beginning_is_no_effect_of_a_call() {
        let seed = SeedPhysical::default().after(PastActivity::ended(terminal::CANCEL, 4));
        let world = terminal_world(seed);
        assert_eq!(state_of(&world, noon(0)), PaymentState::Cancelled);
        assert_eq!(effects_of(&world, noon(0)), Effects::default());
    }
}
