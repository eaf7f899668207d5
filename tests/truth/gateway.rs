//! A small gateway that knows the truth: states, effects, orders that end later, calls that are still under way.
//! It is written from the gateway's pages and shares no decision with the code that it judges.

use std::collections::BTreeMap;
use std::time::Duration;

use cancel_worker::domain::fault;
use cancel_worker::domain::paywall::{
    ApmStatus, ApmType, PhysicalStatus, PhysicalType, VposStatus, VposType,
};
use cancel_worker::domain::reply::{
    Activity, Answer, ApmPayment, Envelope, InquiryReply, NeverSent, PaymentBody, PaymentEnvelope,
    PaymentResult, PhysicalEnvelope, PhysicalPayment, PhysicalResult, Provider, Read, ReadRefusal, Reply,
    RetryAfter, VposPayment,
};
use cancel_worker::domain::retry::later;
use cancel_worker::domain::step::{Order, Question};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

pub(super) const PAYMENT: Uuid = Uuid::from_u128(0x11);
const STRANGER: Uuid = Uuid::from_u128(0x22);

pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const QUIET: Duration = Duration::from_secs(30);
/// A slow bank is at it as long as this after a call has ended, and no longer.
const SLOW: Duration = Duration::from_secs(29);

/// Where a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    NeverSent,
    ResetBefore,
    ResetAfter,
    ErrorBefore,
    ErrorAfter,
    /// The call times out, and the gateway takes it up long after.
    Late,
    /// The connection breaks at once, and the gateway takes the call up long after.
    ResetThenLate,
    GarbageBefore,
    GarbageAfter,
    ForeignIdAfter,
    ContradictionAfter,
    ProviderFailureAfter,
    UnknownCodeAfter,
    Busy,
    BusyWithWish,
    LockedOut,
    NotConfigured,
    /// The gateway finds the request wrong, and always will.
    BadData,
}

/// Which calls a fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meets {
    First,
    FirstTwo,
    All,
}

/// What the query services do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queries {
    Healthy,
    /// For ten minutes.
    DownForAWhile,
    DownForEver,
    EveryOther,
    /// They know no payment, whichever is asked for.
    NotFound,
    /// Of a physical payment, the list of activities is down for ever.
    ListDown,
    /// Of a physical payment, the inquiry is down for ever.
    InquiryDown,
}

/// What becomes of an order, or of a payment's place in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Done in the reply already.
    AtOnce,
    /// Taken, and done after a minute.
    Succeeds,
    /// Taken, and done after hours.
    SucceedsLate,
    /// Taken, and failed after a minute.
    Fails,
    /// Taken, and never brought to the device.
    Undelivered,
    /// Taken, and withdrawn by somebody's rollback.
    Withdrawn,
    /// Taken, and nothing ever happens.
    Stuck,
    /// A batch names it with another status, and nothing happens.
    NamedInVain,
    /// A batch names it with another status, and it is done.
    NamedAndDone,
    /// A batch does not name it, and nothing happens.
    MissingInVain,
    /// A batch does not name it, and it is done.
    MissingAndDone,
}

/// What was true before anything was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    Stands,
    CancelledBefore,
    Refunded,
    PartlyRefunded,
    Unknown,
    SaleGone,
    /// An earlier cancel order was withdrawn; the sale stands.
    WithdrawnBefore,
    /// For rollbacks: an order that waits for its device, which comes late or never.
    Waiting {
        ordered_s: i64,
        received_s: Option<i64>,
    },
    /// For rollbacks: an order that never reached its device.
    UndeliveredBefore,
    /// For rollbacks: an order that failed.
    FailedBefore,
}

// ---------------------------------------------------------------------------------------------------------------
// Card payments: transactions, and the payments of a batch.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CardState {
    Unknown,
    Stands,
    Running,
    CancelFailed,
    Cancelled,
    Refunded,
    PartlyRefunded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CardChange {
    Start(Fate),
    Done,
    Failed,
}

#[derive(Debug, Clone)]
struct Card {
    state: CardState,
    coming: Vec<(Timestamp, CardChange)>,
    fates: Vec<Fate>,
    starts: usize,
    our_effects: u32,
}

impl Card {
    fn new(before: Past, fates: &[Fate]) -> Card {
        let state = match before {
            Past::Stands => CardState::Stands,
            Past::CancelledBefore => CardState::Cancelled,
            Past::Refunded => CardState::Refunded,
            Past::PartlyRefunded => CardState::PartlyRefunded,
            Past::Unknown => CardState::Unknown,
            other => panic!("{other:?} is nothing that a card payment can be"),
        };
        Card { state, coming: Vec::new(), fates: fates.to_vec(), starts: 0, our_effects: 0 }
    }

    fn advance(&mut self, to: Timestamp) {
        while let Some((at, change)) = next_of(&mut self.coming, to) {
            match (change, self.state) {
                (CardChange::Start(fate), CardState::Stands | CardState::CancelFailed) => {
                    self.start(fate, at);
                    if matches!(fate, Fate::Succeeds | Fate::SucceedsLate | Fate::Fails) {
                        self.state = CardState::Running;
                    }
                }
                (CardChange::Done, CardState::Stands | CardState::Running | CardState::CancelFailed) => {
                    self.state = CardState::Cancelled;
                    self.our_effects += 1;
                }
                (CardChange::Failed, CardState::Stands | CardState::Running) => {
                    self.state = CardState::CancelFailed;
                }
                _too_late => {}
            }
        }
    }

    fn next_fate(&mut self) -> Fate {
        let fate = self.fates.get(self.starts).or_else(|| self.fates.last()).copied().unwrap_or(Fate::AtOnce);
        self.starts += 1;
        fate
    }

    fn start(&mut self, fate: Fate, at: Timestamp) {
        let mut in_s =
            |seconds: i64, change| self.coming.push((at + SignedDuration::from_secs(seconds), change));
        match fate {
            Fate::AtOnce => {
                self.state = CardState::Cancelled;
                self.our_effects += 1;
            }
            Fate::Succeeds | Fate::NamedAndDone => in_s(60, CardChange::Done),
            Fate::SucceedsLate => in_s(5 * 3600, CardChange::Done),
            // What the reply says nothing of is done before the quiet time is over.
            Fate::MissingAndDone => in_s(29, CardChange::Done),
            Fate::Fails => in_s(60, CardChange::Failed),
            Fate::Undelivered | Fate::Withdrawn => panic!("no fate of a card payment"),
            Fate::Stuck | Fate::NamedInVain | Fate::MissingInVain => {}
        }
    }

    /// Why a cancel is refused, if it is.
    fn refuses(&self) -> Option<i64> {
        match self.state {
            CardState::Stands | CardState::CancelFailed => None,
            CardState::Unknown => Some(404),
            CardState::Cancelled => Some(94),
            CardState::Refunded => Some(92),
            CardState::PartlyRefunded | CardState::Running => Some(91),
        }
    }

    fn shown(&self) -> Read<VposPayment> {
        let (kind, status) = match self.state {
            CardState::Unknown => return not_found_by_code(),
            CardState::Stands => (VposType::Sale, VposStatus::Successful),
            CardState::Running => (VposType::Cancel, VposStatus::Started),
            CardState::CancelFailed => (VposType::Cancel, VposStatus::Failed),
            CardState::Cancelled => (VposType::Cancel, VposStatus::Successful),
            CardState::Refunded => (VposType::Refund, VposStatus::Successful),
            CardState::PartlyRefunded => (VposType::PartialRefund, VposStatus::Successful),
        };
        Read::Found(VposPayment {
            kind: Some(kind),
            status: Some(status),
            any_success_payment: Some(true),
            any_success_cancel: Some(self.state == CardState::Cancelled),
            any_success_refund: Some(self.state == CardState::Refunded),
            any_success_partial_refund: Some(self.state == CardState::PartlyRefunded),
            ..VposPayment::default()
        })
    }
}

fn next_of<T: Copy>(coming: &mut Vec<(Timestamp, T)>, to: Timestamp) -> Option<(Timestamp, T)> {
    let (index, _) =
        coming.iter().enumerate().filter(|(_, (at, _))| *at <= to).min_by_key(|(_, (at, _))| *at)?;
    Some(coming.remove(index))
}

fn not_found_by_code<T>() -> Read<T> {
    Read::Refused(ReadRefusal { http_status: 200, error_code: Some(404), client_message: None })
}

fn not_found_by_word<T>() -> Read<T> {
    let client_message = Some("Payment.Request.RequestNotFound".to_owned());
    Read::Refused(ReadRefusal { http_status: 200, error_code: None, client_message })
}

// ---------------------------------------------------------------------------------------------------------------
// Physical payments: async cancels and their rollbacks.

#[derive(Debug, Clone, Copy)]
struct Act {
    id: u128,
    kind: PhysicalType,
    status: PhysicalStatus,
    at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PhysicalChange {
    Order,
    Rollback,
    SomebodysRollback(u128),
    Becomes(u128, PhysicalStatus),
}

#[derive(Debug, Clone)]
struct Physical {
    acts: Vec<Act>,
    coming: Vec<(Timestamp, PhysicalChange)>,
    fates: Vec<Fate>,
    orders: usize,
    our_orders: Vec<u128>,
    our_withdrawals: u32,
}

impl Physical {
    fn new(before: Past, fates: &[Fate], noon: Timestamp) -> Physical {
        let mut acts = vec![(PhysicalType::Sale, PhysicalStatus::Successful)];
        let mut coming = Vec::new();
        let mut ordered = noon - SignedDuration::from_secs(600);
        match before {
            Past::Stands => {}
            Past::CancelledBefore => acts.push((PhysicalType::Cancel, PhysicalStatus::Successful)),
            Past::Refunded => acts.push((PhysicalType::Refund, PhysicalStatus::Successful)),
            Past::Unknown => acts.clear(),
            Past::SaleGone => acts = vec![(PhysicalType::Sale, PhysicalStatus::Withdrawn)],
            Past::WithdrawnBefore => acts.push((PhysicalType::Cancel, PhysicalStatus::Withdrawn)),
            Past::UndeliveredBefore => acts.push((PhysicalType::Cancel, PhysicalStatus::NotSentToDevice)),
            Past::FailedBefore => acts.push((PhysicalType::Cancel, PhysicalStatus::Failed)),
            Past::Waiting { ordered_s, received_s } => {
                ordered = noon + SignedDuration::from_secs(ordered_s);
                acts.push((PhysicalType::Cancel, PhysicalStatus::FirebaseSent));
                if let Some(received_s) = received_s {
                    let received = noon + SignedDuration::from_secs(received_s);
                    let done = received + SignedDuration::from_secs(40);
                    coming.push((received, PhysicalChange::Becomes(2, PhysicalStatus::ReceivedByDevice)));
                    coming.push((done, PhysicalChange::Becomes(2, PhysicalStatus::Successful)));
                }
            }
            Past::PartlyRefunded => panic!("nothing that a physical payment can be"),
        }
        let acts = acts
            .into_iter()
            .zip(1u128..)
            .map(|((kind, status), id)| {
                let at =
                    if kind == PhysicalType::Cancel { ordered } else { noon - SignedDuration::from_hours(1) };
                Act { id, kind, status, at }
            })
            .collect();
        Physical {
            acts,
            coming,
            fates: fates.to_vec(),
            orders: 0,
            our_orders: Vec::new(),
            our_withdrawals: 0,
        }
    }

    fn advance(&mut self, to: Timestamp) {
        while let Some((at, change)) = next_of(&mut self.coming, to) {
            match change {
                PhysicalChange::Order => {
                    let _refused_or_not = self.order(at);
                }
                PhysicalChange::Rollback => {
                    let _refused_or_not = self.roll_back(at);
                }
                PhysicalChange::SomebodysRollback(id) => self.become_(id, PhysicalStatus::Withdrawn),
                PhysicalChange::Becomes(id, status) => self.become_(id, status),
            }
        }
    }

    /// A state that is an end does not change any more.
    fn become_(&mut self, id: u128, status: PhysicalStatus) {
        let act = self.acts.iter_mut().find(|act| act.id == id).expect("an activity of this payment");
        let running = [1, 2, 9, 10, 11].contains(&act.status.code());
        let withdrawable = act.status != PhysicalStatus::ReceivedByDevice;
        if running && (status != PhysicalStatus::Withdrawn || withdrawable) {
            act.status = status;
        }
    }

    fn latest_cancel(&self) -> Option<Act> {
        self.acts
            .iter()
            .copied()
            .filter(|act| act.kind == PhysicalType::Cancel)
            .max_by_key(|act| (act.at, act.id))
    }

    fn has(&self, kind: PhysicalType, status: PhysicalStatus) -> bool {
        self.acts.iter().any(|act| act.kind == kind && act.status == status)
    }

    fn order(&mut self, at: Timestamp) -> Result<Act, &'static str> {
        if self.acts.is_empty() {
            return Err("Payment.Request.RequestNotFound");
        }
        if self.has(PhysicalType::Cancel, PhysicalStatus::Successful)
            || self.has(PhysicalType::Refund, PhysicalStatus::Successful)
        {
            return Err("Payment.Async.AlreadyHasRefundOrCancel");
        }
        let live = self.latest_cancel().is_some_and(|act| [1, 2, 9, 10, 11].contains(&act.status.code()));
        if live || !self.has(PhysicalType::Sale, PhysicalStatus::Successful) {
            return Err("Payment.Async.NotConvenientStatusForThisOperation");
        }
        let fate = self.fates.get(self.orders).or_else(|| self.fates.last()).copied().unwrap_or(Fate::AtOnce);
        self.orders += 1;
        let id = 100 + self.orders as u128;
        self.our_orders.push(id);
        let mut act = Act { id, kind: PhysicalType::Cancel, status: PhysicalStatus::Created, at };
        let mut in_s = |seconds: i64, status: i64| {
            let change = PhysicalChange::Becomes(id, PhysicalStatus::from_code(status));
            self.coming.push((at + SignedDuration::from_secs(seconds), change));
        };
        match fate {
            Fate::AtOnce => act.status = PhysicalStatus::Successful,
            Fate::Succeeds => [(2, 9), (20, 11), (60, 4)].into_iter().for_each(|(s, to)| in_s(s, to)),
            Fate::SucceedsLate => {
                [(2, 10), (18_000, 11), (18_010, 4)].into_iter().for_each(|(s, to)| in_s(s, to))
            }
            Fate::Fails => [(2, 2), (20, 11), (60, 5)].into_iter().for_each(|(s, to)| in_s(s, to)),
            Fate::Undelivered => in_s(5, [3, 7, 8][self.orders % 3]),
            Fate::Withdrawn => {
                in_s(2, 9);
                let change = PhysicalChange::SomebodysRollback(id);
                self.coming.push((at + SignedDuration::from_secs(12), change));
            }
            Fate::Stuck => {}
            Fate::NamedInVain | Fate::NamedAndDone | Fate::MissingInVain | Fate::MissingAndDone => {
                panic!("no fate of an order to a device")
            }
        }
        self.acts.push(act);
        Ok(act)
    }

    fn roll_back(&mut self, at: Timestamp) -> Result<Act, &'static str> {
        if self.acts.is_empty() {
            return Err("Payment.Request.RequestNotFound");
        }
        let Some(cancel) = self.latest_cancel() else {
            return Err("Payment.Async.NotConvenientStatusForThisOperation");
        };
        if ![1, 2, 9, 10].contains(&cancel.status.code()) {
            return Err("Payment.Async.NotConvenientStatusForThisOperation");
        }
        if at.duration_since(cancel.at) < SignedDuration::from_secs(5) {
            return Err("System.ValidationError");
        }
        self.become_(cancel.id, PhysicalStatus::Withdrawn);
        self.our_withdrawals += 1;
        Ok(Act { status: PhysicalStatus::Withdrawn, ..cancel })
    }

    fn list(&self) -> Read<Vec<Activity>> {
        if self.acts.is_empty() {
            return not_found_by_word();
        }
        let mut list: Vec<Activity> = self
            .acts
            .iter()
            .map(|act| Activity {
                id: Some(Uuid::from_u128(act.id)),
                kind: act.kind,
                status: act.status,
                date: Some(TimeZone::UTC.to_datetime(act.at)),
            })
            .collect();
        list.reverse();
        Read::Found(list)
    }

    fn inquiry(&self) -> Read<PhysicalPayment> {
        match self.acts.iter().max_by_key(|act| (act.at, act.id)) {
            None => not_found_by_word(),
            Some(act) => Read::Found(PhysicalPayment {
                payment_request_id: Some(PAYMENT),
                activity_id: Some(Uuid::from_u128(act.id)),
                merchant_unique_code: None,
                amount: None,
                kind: Some(act.kind),
                status: Some(act.status),
            }),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Provisions.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProvisionState {
    Unknown,
    Open,
    Cancelled,
    Refunded,
}

/// What the gateway says to the cancel of a provision that is cancelled already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Succeeds,
    IsRefused,
}

#[derive(Debug, Clone)]
struct Provision {
    state: ProvisionState,
    coming: Vec<(Timestamp, ())>,
    again: Again,
    our_effects: u32,
}

impl Provision {
    fn advance(&mut self, to: Timestamp) {
        while let Some((_, ())) = next_of(&mut self.coming, to) {
            let _refused_or_not = self.cancel();
        }
    }

    fn cancel(&mut self) -> Result<(), i64> {
        match (self.state, self.again) {
            (ProvisionState::Open, _) => {
                self.state = ProvisionState::Cancelled;
                self.our_effects += 1;
                Ok(())
            }
            (ProvisionState::Cancelled, Again::Succeeds) => Ok(()),
            (ProvisionState::Cancelled, Again::IsRefused) => Err(359),
            (ProvisionState::Refunded, _) => Err(360),
            (ProvisionState::Unknown, _) => Err(404),
        }
    }

    fn shown(&self) -> Read<ApmPayment> {
        // No status says that a provision is cancelled.
        let (kind, status) = match self.state {
            ProvisionState::Unknown => return not_found_by_code(),
            ProvisionState::Open | ProvisionState::Cancelled => (ApmType::Sale, ApmStatus::Successful),
            ProvisionState::Refunded => (ApmType::Refund, ApmStatus::Successful),
        };
        Read::Found(ApmPayment { kind: Some(kind), status: Some(status), ..ApmPayment::default() })
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The gateway as a whole.

#[derive(Debug, Clone)]
enum Books {
    Cards(BTreeMap<String, Card>),
    Physical(Physical),
    Provision(Provision),
}

/// How the gateway is set up.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) fault: Fault,
    pub(super) meets: Meets,
    pub(super) queries: Queries,
    pub(super) again: Again,
    pub(super) noon: Timestamp,
    /// The end of the payments' day; after it the gateway takes no cancel of a card payment.
    pub(super) day_ends: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub(super) struct Gateway {
    books: Books,
    setup: Setup,
    calls: u32,
    looks: u32,
    pub(super) our_calls: u32,
}

/// What the gateway does about a call that has come through to it.
enum Done {
    Card,
    Batch(Vec<PaymentResult>),
    Physical(Act),
    Provision,
}

enum Refused {
    Code(i64),
    Word(&'static str),
}

impl Gateway {
    pub(super) fn transaction(before: Past, fate: Fate, setup: Setup) -> Gateway {
        let card = Card::new(before, &[fate]);
        Gateway::with(Books::Cards(BTreeMap::from([(PAYMENT.to_string(), card)])), setup)
    }

    /// The payments `shop-0`, `shop-1` and so on.
    pub(super) fn batch(payments: &[(Past, &[Fate])], setup: Setup) -> Gateway {
        let cards = payments
            .iter()
            .enumerate()
            .map(|(index, (before, fates))| (format!("shop-{index}"), Card::new(*before, fates)))
            .collect();
        Gateway::with(Books::Cards(cards), setup)
    }

    pub(super) fn physical(before: Past, fates: &[Fate], setup: Setup) -> Gateway {
        let physical = Physical::new(before, fates, setup.noon);
        Gateway::with(Books::Physical(physical), setup)
    }

    pub(super) fn provision(before: Past, setup: Setup) -> Gateway {
        let state = match before {
            Past::Stands => ProvisionState::Open,
            Past::CancelledBefore => ProvisionState::Cancelled,
            Past::Refunded => ProvisionState::Refunded,
            Past::Unknown => ProvisionState::Unknown,
            other => panic!("{other:?} is nothing that a provision can be"),
        };
        let again = setup.again;
        Gateway::with(Books::Provision(Provision { state, coming: Vec::new(), again, our_effects: 0 }), setup)
    }

    fn with(books: Books, setup: Setup) -> Gateway {
        Gateway { books, setup, calls: 0, looks: 0, our_calls: 0 }
    }

    /// Lets everything happen that happens until then.
    pub(super) fn advance(&mut self, to: Timestamp) {
        match &mut self.books {
            Books::Cards(cards) => cards.values_mut().for_each(|card| card.advance(to)),
            Books::Physical(physical) => physical.advance(to),
            Books::Provision(provision) => provision.advance(to),
        }
    }

    /// Whether the payment is cancelled: a fact, whoever did it.
    pub(super) fn is_cancelled(&self, index: usize) -> bool {
        match &self.books {
            Books::Cards(cards) => {
                cards.values().nth(index).expect("a payment of the case").state == CardState::Cancelled
            }
            Books::Physical(physical) => physical.has(PhysicalType::Cancel, PhysicalStatus::Successful),
            Books::Provision(provision) => provision.state == ProvisionState::Cancelled,
        }
    }

    /// Whether the latest cancel order is withdrawn.
    pub(super) fn is_withdrawn(&self) -> bool {
        match &self.books {
            Books::Physical(physical) => {
                physical.latest_cancel().is_some_and(|act| act.status == PhysicalStatus::Withdrawn)
            }
            Books::Cards(_) | Books::Provision(_) => false,
        }
    }

    /// What our calls have brought about: cancellations, or withdrawals of a cancel order.
    pub(super) fn our_effects(&self, index: usize) -> u32 {
        match &self.books {
            Books::Cards(cards) => cards.values().nth(index).expect("a payment of the case").our_effects,
            Books::Physical(physical) => {
                let ours = |act: &&Act| {
                    physical.our_orders.contains(&act.id) && act.status == PhysicalStatus::Successful
                };
                physical.our_withdrawals + physical.acts.iter().filter(ours).map(|_| 1).sum::<u32>()
            }
            Books::Provision(provision) => provision.our_effects,
        }
    }

    /// Whether an order of ours was ever taken.
    pub(super) fn took_an_order(&self) -> bool {
        match &self.books {
            Books::Cards(cards) => cards.values().any(|card| card.starts > 0),
            Books::Physical(physical) => physical.latest_cancel().is_some(),
            Books::Provision(provision) => provision.our_effects > 0,
        }
    }

    /// One call: the reply, and how long it took to come.
    pub(super) fn call(&mut self, order: &Order, at: Timestamp) -> (Reply, Duration) {
        self.advance(at);
        self.calls += 1;
        let met = match self.setup.meets {
            Meets::First => self.calls <= 1,
            Meets::FirstTwo => self.calls <= 2,
            Meets::All => true,
        };
        let fault = if met { self.setup.fault } else { Fault::None };
        if fault != Fault::NeverSent {
            self.our_calls += 1;
        }
        let soon = Duration::from_millis(300);
        let answered = |http_status, retry_after, envelope| {
            Reply::Answered(Answer { http_status, retry_after, fault: None, envelope })
        };
        match fault {
            Fault::NeverSent => (Reply::NeverSent(NeverSent::NotConnected(fault::Fault::Dns)), soon),
            Fault::ResetBefore => (Reply::Unanswered(fault::Fault::Reset), soon),
            Fault::ErrorBefore => (answered(500, None, Envelope::Missing), soon),
            Fault::GarbageBefore => (answered(200, None, Envelope::Missing), soon),
            Fault::Busy => (answered(429, None, Envelope::Missing), soon),
            Fault::BusyWithWish => (answered(503, Some(RetryAfter::Seconds(20)), Envelope::Missing), soon),
            Fault::LockedOut => (answered(401, None, Envelope::Missing), soon),
            Fault::NotConfigured => (answered(200, None, failure(order, 541, "Terminal.NotFound")), soon),
            Fault::BadData => (answered(200, None, failure(order, 400, "System.ValidationError")), soon),
            Fault::Late => {
                self.process_later(order, later(later(at, CALL_TIMEOUT), SLOW));
                (Reply::Unanswered(fault::Fault::Timeout), CALL_TIMEOUT)
            }
            Fault::ResetThenLate => {
                self.process_later(order, later(later(at, soon), SLOW));
                (Reply::Unanswered(fault::Fault::Reset), soon)
            }
            Fault::None
            | Fault::ResetAfter
            | Fault::ErrorAfter
            | Fault::GarbageAfter
            | Fault::ForeignIdAfter
            | Fault::ContradictionAfter
            | Fault::ProviderFailureAfter
            | Fault::UnknownCodeAfter => {
                // What no reply names is not left in a queue, but done or not before the quiet time is over.
                let read_by_nobody = fault != Fault::None && matches!(order, Order::BatchCancel { .. });
                if read_by_nobody {
                    self.process_later(order, at);
                    self.advance(at);
                }
                let processed =
                    if read_by_nobody { Ok(Done::Batch(Vec::new())) } else { self.process(order, at) };
                let reply = match fault {
                    Fault::ResetAfter => Reply::Unanswered(fault::Fault::Reset),
                    Fault::ErrorAfter => answered(502, None, Envelope::Missing),
                    Fault::GarbageAfter => answered(200, None, Envelope::Missing),
                    Fault::UnknownCodeAfter => {
                        answered(200, None, failure(order, 9_999, "Payment.Async.SomethingNew"))
                    }
                    _the_gateways_own_words => answered(200, None, spoken(order, processed, fault)),
                };
                (reply, soon)
            }
        }
    }

    /// What the gateway does with an order that has come through.
    fn process(&mut self, order: &Order, at: Timestamp) -> Result<Done, Refused> {
        let late = self.setup.day_ends.is_some_and(|ends| at >= ends);
        match (&mut self.books, order) {
            (Books::Physical(physical), Order::AsyncCancel { .. }) => {
                physical.order(at).map(Done::Physical).map_err(Refused::Word)
            }
            (Books::Physical(physical), Order::SyncCancelRollback { .. }) => {
                physical.roll_back(at).map(Done::Physical).map_err(Refused::Word)
            }
            (Books::Provision(provision), Order::ApmProvisionCancel { .. }) => {
                provision.cancel().map(|()| Done::Provision).map_err(Refused::Code)
            }
            (Books::Cards(cards), Order::TransactionCancel { unique_code, .. }) => {
                let card = cards.get_mut(&unique_code.to_string()).expect("the only payment");
                if let Some(code) = card.refuses() {
                    return Err(Refused::Code(code));
                }
                if late {
                    return Err(Refused::Code(269));
                }
                let fate = card.next_fate();
                card.start(fate, at);
                // An order that does not end at once is shown as running, and answered as nothing sure.
                if fate != Fate::AtOnce {
                    card.state = CardState::Running;
                    return Err(Refused::Code(88));
                }
                Ok(Done::Card)
            }
            (Books::Cards(cards), Order::BatchCancel { payments }) => {
                let mut results = Vec::new();
                for (_, code, _) in payments {
                    let card = cards.get_mut(code.as_str()).expect("a payment of the batch");
                    let mut named = |status| {
                        results.push(PaymentResult {
                            merchant_unique_code: Some(code.as_str().to_owned()),
                            status: Some(status),
                            bulk_payment_id: Some(77),
                        });
                    };
                    if card.refuses().is_some() || late {
                        named(5);
                        continue;
                    }
                    let fate = card.next_fate();
                    match fate {
                        Fate::NamedInVain | Fate::NamedAndDone => named(2),
                        Fate::MissingInVain | Fate::MissingAndDone => {}
                        Fate::AtOnce
                        | Fate::Succeeds
                        | Fate::SucceedsLate
                        | Fate::Fails
                        | Fate::Undelivered
                        | Fate::Withdrawn
                        | Fate::Stuck => named(1),
                    }
                    card.start(fate, at);
                }
                Ok(Done::Batch(results))
            }
            _mismatch => panic!("this gateway has no such payment: {order:?}"),
        }
    }

    /// The order has come through, but is taken up later.
    fn process_later(&mut self, order: &Order, at: Timestamp) {
        match (&mut self.books, order) {
            (Books::Physical(physical), Order::AsyncCancel { .. }) => {
                physical.coming.push((at, PhysicalChange::Order));
            }
            (Books::Physical(physical), Order::SyncCancelRollback { .. }) => {
                physical.coming.push((at, PhysicalChange::Rollback));
            }
            (Books::Provision(provision), Order::ApmProvisionCancel { .. }) => {
                provision.coming.push((at, ()))
            }
            (Books::Cards(cards), Order::TransactionCancel { unique_code, .. }) => {
                let card = cards.get_mut(&unique_code.to_string()).expect("the only payment");
                let fate = card.next_fate();
                card.coming.push((at, CardChange::Start(fate)));
            }
            (Books::Cards(cards), Order::BatchCancel { payments }) => {
                for (_, code, _) in payments {
                    let card = cards.get_mut(code.as_str()).expect("a payment of the batch");
                    // Of what is said in no reply, all that happens has happened by then.
                    let fate = match card.next_fate() {
                        Fate::Fails | Fate::Stuck | Fate::NamedInVain | Fate::MissingInVain => Fate::Stuck,
                        _ends_well => Fate::AtOnce,
                    };
                    card.coming.push((at, CardChange::Start(fate)));
                }
            }
            _mismatch => panic!("this gateway has no such payment: {order:?}"),
        }
    }

    /// One look.
    pub(super) fn look(&mut self, question: &Question, at: Timestamp) -> InquiryReply {
        self.advance(at);
        self.looks += 1;
        let down = match self.setup.queries {
            Queries::DownForEver => true,
            Queries::DownForAWhile => at < self.setup.noon + SignedDuration::from_mins(10),
            Queries::EveryOther => !self.looks.is_multiple_of(2),
            Queries::Healthy | Queries::NotFound | Queries::ListDown | Queries::InquiryDown => false,
        };
        let unknown = self.setup.queries == Queries::NotFound;
        match (&self.books, question) {
            (Books::Physical(physical), Question::Physical { .. }) => {
                let (activities, inquiry) = match self.setup.queries {
                    _down if down => (Read::Unanswered, Read::Unanswered),
                    Queries::NotFound => (not_found_by_word(), not_found_by_word()),
                    Queries::ListDown => (Read::Unanswered, physical.inquiry()),
                    Queries::InquiryDown => (physical.list(), Read::Unanswered),
                    _both => (physical.list(), physical.inquiry()),
                };
                InquiryReply::Physical { activities, inquiry }
            }
            (Books::Cards(cards), Question::Transaction { unique_code }) => {
                InquiryReply::Transaction(match cards[&unique_code.to_string()].shown() {
                    _down if down => Read::Unanswered,
                    _known if unknown => not_found_by_code(),
                    shown => shown,
                })
            }
            (Books::Cards(cards), Question::Batch { payments }) => {
                let read = |code: &str| match cards[code].shown() {
                    _down if down => Read::Unanswered,
                    _known if unknown => not_found_by_code(),
                    shown => shown,
                };
                InquiryReply::Batch(
                    payments.iter().map(|(index, code)| (*index, read(code.as_str()))).collect(),
                )
            }
            (Books::Provision(provision), Question::Apm { .. }) => {
                InquiryReply::Apm(match provision.shown() {
                    _down if down => Read::Unanswered,
                    _known if unknown => not_found_by_code(),
                    shown => shown,
                })
            }
            _mismatch => panic!("this gateway has no such query: {question:?}"),
        }
    }
}

fn failure(order: &Order, code: i64, word: &str) -> Envelope {
    match order {
        Order::AsyncCancel { .. } | Order::SyncCancelRollback { .. } => {
            Envelope::Physical(PhysicalEnvelope {
                succeeded: Some(false),
                failed: Some(true),
                client_message: Some(word.to_owned()),
                ..PhysicalEnvelope::default()
            })
        }
        Order::TransactionCancel { .. } | Order::ApmProvisionCancel { .. } | Order::BatchCancel { .. } => {
            Envelope::Payment(PaymentEnvelope {
                error_code: Some(code),
                result: Some(false),
                ..PaymentEnvelope::default()
            })
        }
    }
}

/// The gateway's own words, but for what a fault makes of them.
fn spoken(order: &Order, processed: Result<Done, Refused>, fault: Fault) -> Envelope {
    let done = match processed {
        Err(Refused::Code(code)) => return failure(order, code, ""),
        Err(Refused::Word(word)) => return failure(order, 0, word),
        Ok(done) => done,
    };
    let foreign = fault == Fault::ForeignIdAfter;
    let contradiction = fault == Fault::ContradictionAfter;
    let success = |body| {
        Envelope::Payment(PaymentEnvelope {
            error_code: Some(0),
            result: Some(!contradiction),
            body,
            ..PaymentEnvelope::default()
        })
    };
    let provider =
        Provider { error_code: Some(i64::from(fault == Fault::ProviderFailureAfter)), http_code: None };
    match done {
        Done::Physical(act) => Envelope::Physical(PhysicalEnvelope {
            succeeded: Some(true),
            failed: Some(contradiction),
            result: Some(PhysicalResult {
                payment_request_id: Some(if foreign { STRANGER } else { PAYMENT }),
                activity_id: Some(Uuid::from_u128(act.id)),
                activity_type: Some(act.kind),
                // A physical reply has no provider; what it may get wrong is the status.
                status: Some(if fault == Fault::ProviderFailureAfter {
                    PhysicalStatus::Unknown
                } else {
                    act.status
                }),
            }),
            ..PhysicalEnvelope::default()
        }),
        Done::Card | Done::Provision => {
            let unique_code = foreign.then(|| STRANGER.to_string());
            success(Some(PaymentBody { unique_code, provider: Some(provider), ..PaymentBody::default() }))
        }
        Done::Batch(results) => {
            // A batch's reply names its payments one by one: a foreign one is one that we did not call.
            let payment_results = results
                .into_iter()
                .map(|result| PaymentResult {
                    merchant_unique_code: if foreign {
                        Some("stranger".to_owned())
                    } else {
                        result.merchant_unique_code
                    },
                    ..result
                })
                .collect();
            success(Some(PaymentBody {
                result: Some(fault != Fault::ProviderFailureAfter),
                payment_results: Some(payment_results),
                ..PaymentBody::default()
            }))
        }
    }
}
