//! Outcome events, read: what a person wants to see of them.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::outcome::StatusName;

/// What a person wants to see of an outcome event at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// When it was decided.
    pub time: String,
    /// What it is about.
    pub subject: String,
    /// `data.kind`.
    pub kind: String,
    /// `data.status`.
    pub status: String,
    /// `data.reason.code`.
    pub reason: Option<String>,
    /// `data.paymentStatus`: type and status by name.
    pub payment_status: Option<String>,
    /// `data.attempts`.
    pub attempts: u64,
    /// `data.reference`, as it stands.
    pub reference: Option<String>,
}

impl Summary {
    /// Whose outcome it is, as the subject says it.
    pub fn intent_id(&self) -> &str {
        self.subject.split_once('/').map_or(&self.subject, |(intent, _)| intent)
    }

    /// Whether a worker has come to an end with the intent: nothing follows unless a person acts.
    pub fn is_end(&self) -> bool {
        let of_an_item = self.subject.contains('/');
        !of_an_item && self.status != StatusName::Accepted.as_str()
    }
}

/// Reads an outcome event; `None` if it is none.
pub fn read_summary(body: &[u8]) -> Option<Summary> {
    #[derive(Deserialize)]
    struct Event {
        time: String,
        subject: String,
        data: Data,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Data {
        kind: String,
        status: String,
        attempts: u64,
        payment_status: Option<PaymentStatus>,
        reason: Option<Reason>,
        reference: Option<Box<RawValue>>,
    }
    #[derive(Deserialize)]
    struct PaymentStatus {
        #[serde(rename = "type")]
        kind: Name,
        name: String,
    }
    #[derive(Deserialize)]
    struct Name {
        name: String,
    }
    #[derive(Deserialize)]
    struct Reason {
        code: String,
    }
    let Event { time, subject, data } = serde_json::from_slice(body).ok()?;
    Some(Summary {
        time,
        subject,
        kind: data.kind,
        status: data.status,
        reason: data.reason.map(|reason| reason.code),
        payment_status: data.payment_status.map(|status| format!("{} {}", status.kind.name, status.name)),
        attempts: data.attempts,
        reference: data.reference.map(|reference| reference.get().to_owned()),
    })
}
