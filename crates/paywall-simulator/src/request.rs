//! Requests as they are read off the wire: which payment, which day, or what is wrong with them.

use hyper::HeaderMap;
use jiff::{Timestamp, civil};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    answer::Answer,
    api::Endpoint,
    payment, physical, private,
    world::{Named, World},
};

/// What one of the three APIs is asked.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Physical(physical::Request),
    Private(private::Request),
    Payment(payment::Request),
}

/// Why a request cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invalid {
    NotJson,
    Field(&'static str),
    Header(&'static str),
    CallbackMissing,
    CallbackMalformed,
}

impl Request {
    /// Reads what came for an endpoint.
    pub(super) fn read(
        endpoint: Endpoint,
        path_id: Option<&str>,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Self, Invalid> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        match endpoint {
            Endpoint::AsyncCancel | Endpoint::SyncCancel => {
                Ok(Self::Physical(physical::Request::Cancel { id: physical::read_order(body)? }))
            }
            Endpoint::CancelRollback => {
                Ok(Self::Physical(physical::Request::RollBack { id: physical::read_order(body)? }))
            }
            Endpoint::PhysicalInquiry => physical::read_inquiry(path_id).map(Self::Physical),
            Endpoint::PhysicalActivities => physical::read_activities(body).map(Self::Physical),
            Endpoint::TransactionCancel => private::read_cancel(body).map(Self::Private),
            Endpoint::PrivateQuery => private::read_query(header("merchantuniquecode")).map(Self::Private),
            Endpoint::PrivateQueryByUniqueCode => {
                private::read_query_by_unique_code(header("uniquecode")).map(Self::Private)
            }
            Endpoint::ApmProvisionCancel => payment::read_provision_cancel(body).map(Self::Payment),
            Endpoint::ApmQuery => {
                payment::read_provision_query(header("merchantuniquecode")).map(Self::Payment)
            }
            Endpoint::BatchCancel => payment::read_batch(body).map(Self::Payment),
        }
    }

    /// The payments that it names.
    pub(super) fn named(&self) -> Vec<Named> {
        match self {
            Self::Physical(request) => vec![Named { identifier: request.identifier(), date: None }],
            Self::Private(request) => vec![Named { identifier: request.identifier(), date: request.date() }],
            Self::Payment(request) => request.named(),
        }
    }

    /// Does what it asks, and answers.
    pub(super) fn answer(
        &self,
        endpoint: Endpoint,
        world: &mut World,
        now: Timestamp,
        merchant: &str,
    ) -> Answer {
        match self {
            Self::Physical(request) => request.answer(endpoint, world, now, merchant),
            Self::Private(request) => request.answer(endpoint, world, now, merchant),
            Self::Payment(request) => request.answer(endpoint, world, now, merchant),
        }
    }
}

impl Invalid {
    /// The refusal that a request gets that cannot be read.
    pub(super) fn answer(self, endpoint: Endpoint, status: u16) -> Answer {
        let (code, message) = match self {
            Self::NotJson => (2, "The body is not a JSON object".to_owned()),
            Self::Field(name) => (2, format!("{name} is missing or invalid")),
            // Table C has a code of its own for a missing header.
            Self::Header(name) => (4, format!("Header {name} is missing")),
            Self::CallbackMissing => (163, "CallbackUrl must be given".to_owned()),
            Self::CallbackMalformed => (166, "CallbackUrl is invalid".to_owned()),
        };
        Answer::refused(endpoint, status, code, "System.ValidationError", &message)
    }
}

/// The fields of a JSON object, found by their names in any case.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn read(body: &[u8]) -> Result<Self, Invalid> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) | Err(_) => Err(Invalid::NotJson),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let found = self.0.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        found.filter(|value| !value.is_null())
    }

    /// A text that is not empty.
    pub(super) fn text(&self, name: &'static str) -> Result<String, Invalid> {
        match self.get(name).and_then(Value::as_str) {
            Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
            Some(_) | None => Err(Invalid::Field(name)),
        }
    }

    pub(super) fn guid(&self, name: &'static str) -> Result<Uuid, Invalid> {
        self.get(name).and_then(Value::as_str).and_then(guid).ok_or(Invalid::Field(name))
    }

    /// A day, or a date-time of which only the day counts.
    pub(super) fn date(&self, name: &'static str) -> Result<civil::Date, Invalid> {
        let text = self.text(name)?;
        let day = text.split_once('T').map_or(text.as_str(), |(day, _)| day);
        if day.len() != 10 {
            return Err(Invalid::Field(name));
        }
        day.parse().map_err(|_| Invalid::Field(name))
    }

    pub(super) fn number(&self, name: &'static str, default: u64) -> Result<u64, Invalid> {
        self.get(name).map_or(Ok(default), |value| value.as_u64().ok_or(Invalid::Field(name)))
    }

    pub(super) fn truth(&self, name: &'static str) -> Result<Option<bool>, Invalid> {
        self.get(name).map(|value| value.as_bool().ok_or(Invalid::Field(name))).transpose()
    }

    pub(super) fn object(&self, name: &'static str) -> Result<Option<Self>, Invalid> {
        self.get(name)
            .map(|value| value.as_object().cloned().map(Self).ok_or(Invalid::Field(name)))
            .transpose()
    }

    pub(super) fn list(&self, name: &'static str) -> Result<Vec<Self>, Invalid> {
        let items = self.get(name).and_then(Value::as_array).ok_or(Invalid::Field(name))?;
        items.iter().map(|item| item.as_object().cloned().map(Self).ok_or(Invalid::Field(name))).collect()
    }
}

/// A Guid as the gateway's framework reads it from JSON: 36 characters with hyphens, in any case. The empty one is none.
pub(super) fn guid(text: &str) -> Option<Uuid> {
    let id = (text.len() == 36).then(|| Uuid::try_parse(text).ok())??;
    (!id.is_nil()).then_some(id)
}
