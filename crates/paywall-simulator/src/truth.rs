//! What really happened: the truth that a test compares with what it was told.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeSeq};

use super::{
    api::{Api, Endpoint, Purpose},
    faults::FaultId,
    seed::Identity,
};

/// Calls of one payment that are kept word for word; older ones are only counted.
pub(super) const CALLS_KEPT_MAX: usize = 200;

/// Everything the simulator knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// The simulator's time when this was told.
    pub now: Timestamp,
    /// Every seeded payment, in the order of seeding.
    pub payments: Vec<PaymentTruth>,
    /// Identifiers that calls named and nobody seeded, by identifier.
    pub unknown: Vec<PaymentTruth>,
}

/// The truth about one payment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaymentTruth {
    /// Its identifiers.
    pub identity: Identity,
    /// What it is; none if nobody seeded it.
    pub scheme: Option<Scheme>,
    /// What it is now.
    pub state: PaymentState,
    /// How many calls came in, by endpoint, whatever became of them.
    pub calls: BTreeMap<Endpoint, u64>,
    /// Of them, the calls of a cancelling endpoint (inquiries left out) that came when it was already cancelled.
    pub calls_after_cancelled: u64,
    /// How often something happened because of a call.
    pub effects: Effects,
    /// The same one by one, in the order of time.
    pub events: Vec<EffectRecord>,
    /// Its activities, seeded ones too, the oldest first.
    pub activities: Vec<ActivityTruth>,
    /// The last calls, the oldest first.
    pub log: Vec<CallRecord>,
}

impl PaymentTruth {
    /// How many calls of one endpoint came in.
    pub fn calls_of(&self, endpoint: Endpoint) -> u64 {
        self.calls.get(&endpoint).copied().unwrap_or(0)
    }

    /// How many calls came in that may change the payment: inquiries are left out.
    pub fn calls_total(&self) -> u64 {
        self.calls
            .iter()
            .filter(|(endpoint, _)| endpoint.purpose() == Purpose::Call)
            .map(|(_, count)| count)
            .sum()
    }

    /// How many inquiries came in.
    pub fn inquiries_total(&self) -> u64 {
        self.calls
            .iter()
            .filter(|(endpoint, _)| endpoint.purpose() == Purpose::Inquiry)
            .map(|(_, count)| count)
            .sum()
    }
}

/// What kind of payment it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// At a physical terminal.
    Physical,
    /// At the virtual POS.
    VirtualPos,
    /// A provision of an alternative payment method.
    Apm,
}

/// What a payment is, all activities together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentState {
    /// The sale (or provision) stands; no cancel of it is under way.
    Stands,
    /// A cancel is under way.
    Pending,
    /// Cancelled.
    Cancelled,
    /// The last cancel order was withdrawn; the sale stands.
    RolledBack,
    /// The last cancel failed; the sale stands.
    CancelFailed,
    /// The last cancel never reached the device; the sale stands.
    Undelivered,
    /// Refunded in full.
    Refunded,
    /// Refunded in part.
    PartiallyRefunded,
    /// There never was a successful sale, or it was withdrawn.
    NotPaid,
    /// Nobody seeded it.
    Unknown,
}

/// How often something happened because of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Effects {
    /// Cancels that were ordered.
    pub orders: u64,
    /// Cancels that took place: money moved.
    pub cancels: u64,
    /// Cancel orders that were withdrawn.
    pub rollbacks: u64,
}

/// Something that happened to a payment because of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectRecord {
    /// When, by the simulator's clock.
    pub at: Timestamp,
    /// What.
    pub what: EffectKind,
}

/// What can happen to a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectKind {
    /// A cancel was ordered; its end comes later.
    CancelOrdered,
    /// It was cancelled: money moved.
    Cancelled,
    /// The cancel order was withdrawn.
    RolledBack,
}

/// One activity as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityTruth {
    /// Its type, in the numbers of the payment's own side.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Its status now, in the numbers of the payment's own side.
    pub status: u8,
    /// When it began.
    pub at: Timestamp,
    /// Which caller made it.
    pub origin: Origin,
}

/// Which caller made an activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It was there from the beginning.
    Seeded,
    /// A call made it.
    Called,
}

/// One call that came in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallRecord {
    /// Its number among all calls.
    pub number: u64,
    /// When it came, by the simulator's clock.
    pub at: Timestamp,
    /// What it called.
    pub endpoint: Endpoint,
    /// Whose keys it carried; none if no key set fits.
    pub merchant: Option<String>,
    /// Its body as it came; of a query the identifier of its header or path.
    #[serde(with = "shared_text")]
    pub body: Arc<str>,
    /// What it changed, of this payment, at once.
    pub effect: Option<EffectKind>,
    /// The fault that struck it.
    pub fault: Option<FaultId>,
    /// The HTTP status of the reply, if one was sent. Of a reply that was cut short, too.
    pub replied: Option<u16>,
}

/// The calls of one payment: all are counted, the last ones are kept.
#[derive(Debug, Clone, Default)]
pub(super) struct CallLog {
    pub(super) counts: BTreeMap<Endpoint, u64>,
    pub(super) after_cancelled: u64,
    pub(super) records: VecDeque<CallRecord>,
}

impl CallLog {
    pub(super) fn push(&mut self, record: CallRecord) {
        *self.counts.entry(record.endpoint).or_default() += 1;
        if self.records.len() == CALLS_KEPT_MAX {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    pub(super) fn find(&mut self, number: u64) -> Option<&mut CallRecord> {
        self.records.iter_mut().rev().find(|record| record.number == number)
    }
}

/// One request as it came over the wire, for tests that compare it with the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestRecord {
    /// Its number among all requests.
    pub number: u64,
    /// When it came, by the simulator's clock.
    pub at: Timestamp,
    /// The API whose port it came to.
    pub api: Api,
    /// The endpoint that its path leads to, if there is one.
    pub endpoint: Option<Endpoint>,
    /// GET, POST …
    pub method: String,
    /// Path and query, in the letters of the request.
    pub path: String,
    /// All headers, in their order.
    pub headers: RequestHeaders,
    /// The body as text (what is not UTF-8 is replaced), up to 128 KiB.
    #[serde(with = "shared_text")]
    pub body: Arc<str>,
}

/// The headers of a request. Printing them (`Debug`, JSON) hides the values of the four key headers; `get` does not.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RequestHeaders(pub(super) Vec<(String, String)>);

impl RequestHeaders {
    /// The first value of a header, by its name in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All headers, names in lower case.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().map(|(name, value)| {
            let secret = Api::ALL
                .into_iter()
                .map(Api::key_headers)
                .any(|(key, client)| name.eq_ignore_ascii_case(key) || name.eq_ignore_ascii_case(client));
            (name, if secret { "(hidden)" } else { value })
        })
    }
}

impl fmt::Debug for RequestHeaders {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_map().entries(self.shown()).finish()
    }
}

impl Serialize for RequestHeaders {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for header in self.shown() {
            list.serialize_element(&header)?;
        }
        list.end()
    }
}

/// Text that many records share, written and read as plain text.
mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_request_are_not_printed() {
        let headers = RequestHeaders(vec![
            ("ApiKeyPrivate".to_owned(), "canary".to_owned()),
            ("accept".to_owned(), "*/*".to_owned()),
        ]);
        assert_eq!(headers.get("apikeyprivate"), Some("canary"));
        let printed = format!("{headers:?} {}", serde_json::to_string(&headers).unwrap());
        assert!(!printed.contains("canary"), "{printed}");
        assert!(printed.contains("*/*"), "{printed}");
    }
}
