//! Faults: what goes wrong, where, how often, and whether the effect happens all the same.

use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::api::{Api, Endpoint};

/// The number of a planned fault.
pub type FaultId = u64;

/// A fault to strike calls with. Every condition that is given must hold; the first planned fault that fits strikes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub what: FaultKind,
    /// Whether it strikes before the effect (there is none) or after it (it happened, whatever the reply says).
    #[serde(default)]
    pub point: FaultPoint,
    /// Only calls of this API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// Only calls of this endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Only calls that name this payment, by any of its identifiers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<String>,
    /// Only calls with the keys of this merchant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merchant: Option<String>,
    /// How many fitting calls pass unharmed first.
    #[serde(default)]
    pub skip: u32,
    /// How often it strikes.
    #[serde(default)]
    pub times: Times,
    /// The chance, from 0 to 1, with which it strikes a fitting call; absent: always. The random generator is seeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl Fault {
    /// A fault that strikes the first call that comes, before its effect.
    pub fn new(what: FaultKind) -> Self {
        Self {
            what,
            point: FaultPoint::default(),
            api: None,
            endpoint: None,
            payment: None,
            merchant: None,
            skip: 0,
            times: Times::default(),
            ratio: None,
        }
    }

    /// The same, after the effect.
    pub fn after_effect(self) -> Self {
        Self { point: FaultPoint::AfterEffect, ..self }
    }

    /// The same, for one API.
    pub fn at(self, api: Api) -> Self {
        Self { api: Some(api), ..self }
    }

    /// The same, for one endpoint.
    pub fn on(self, endpoint: Endpoint) -> Self {
        Self { endpoint: Some(endpoint), ..self }
    }

    /// The same, for calls that name one payment, by any of its identifiers.
    pub fn of(self, payment: impl ToString) -> Self {
        Self { payment: Some(payment.to_string()), ..self }
    }

    /// The same, for calls with the keys of one merchant.
    pub fn by(self, merchant: impl Into<String>) -> Self {
        Self { merchant: Some(merchant.into()), ..self }
    }

    /// The same, after this many fitting calls have passed.
    pub fn skipping(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// The same, striking this many calls.
    pub fn times(self, count: u32) -> Self {
        Self { times: Times::Count(count), ..self }
    }

    /// The same, striking until it is cleared.
    pub fn until_cleared(self) -> Self {
        Self { times: Times::UntilCleared, ..self }
    }

    /// The same, with a chance from 0 to 1.
    pub fn with_ratio(self, ratio: f64) -> Self {
        Self { ratio: Some(ratio), ..self }
    }
}

/// Whether the effect of a struck call happens.
///
/// A delay, and a hang that is released, do not prevent the effect: before means that the effect comes after the wait
/// (of a delay even if the caller is gone by then: a slow bank), after means that it comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultPoint {
    /// Nothing happens to the payment.
    #[default]
    BeforeEffect,
    /// The payment is changed as if nothing were wrong; only the caller is not told so.
    AfterEffect,
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Times {
    /// So many calls.
    Count(u32),
    /// Every fitting call, until the fault is cleared.
    UntilCleared,
}

impl Default for Times {
    fn default() -> Self {
        Self::Count(1)
    }
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// The answer comes late, in real time.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// The connection is reset (a TCP RST).
    Reset,
    /// The connection is closed in order, with no reply.
    Close,
    /// No answer until the fault is cleared or released, or the caller goes away.
    Hang,
    /// An HTTP status instead of the answer.
    Http {
        /// 300 to 599, or a 2xx with a body that is no answer.
        status: u16,
        /// What stands in the body.
        #[serde(default)]
        body: HttpBody,
        /// A `Retry-After` header, as text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<String>,
        /// A `Location` header, as text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        location: Option<String>,
    },
    /// A refusal with these codes in the API's own envelope.
    Code {
        /// `ErrorCode`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error_code: Option<i64>,
        /// `ClientMessage`, of the Physical API; the other two print it as `Message`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_message: Option<String>,
        /// The HTTP status it comes with.
        #[serde(default = "ok")]
        status: u16,
    },
    /// Fields that contradict each other: `succeeded` and `failed` both true, or `ErrorCode` 0 with `Result` false.
    Contradiction,
    /// A 200 whose body is not JSON.
    Garbage,
    /// A 200 with no body.
    Empty,
    /// The answer, made larger than 1 MiB.
    Oversized,
    /// The answer, of which the half is missing though its `Content-Length` promises all of it.
    Truncated,
    /// The answer, with another payment's identifiers. A reply that names no payment stays as it is.
    ForeignId,
    /// The answer, a success outside, with a failure of the provider inside (APM only; others stay as they are).
    ProviderFailure,
    /// The API's port is closed, with all its connections, until the fault is cleared. Needs `api`; strikes no calls.
    RefuseConnection {
        /// Opens again by itself after this many milliseconds of real time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_ms: Option<u64>,
    },
    /// Exactly this answer.
    Raw {
        /// The HTTP status.
        status: u16,
        /// Headers, name and value.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// The body.
        #[serde(default)]
        body: String,
    },
}

fn ok() -> u16 {
    200
}

impl FaultKind {
    /// An HTTP status with a page such as a proxy's.
    pub fn http(status: u16) -> Self {
        Self::Http { status, body: HttpBody::Html, retry_after: None, location: None }
    }

    /// An HTTP status with a `Retry-After` header and no body.
    pub fn http_retry_after(status: u16, retry_after: impl Into<String>) -> Self {
        Self::Http { status, body: HttpBody::Empty, retry_after: Some(retry_after.into()), location: None }
    }

    /// An HTTP status that points elsewhere, with no body.
    pub fn redirect(status: u16, location: impl Into<String>) -> Self {
        Self::Http { status, body: HttpBody::Empty, retry_after: None, location: Some(location.into()) }
    }

    /// An HTTP status with the API's own envelope.
    pub fn http_with_envelope(status: u16) -> Self {
        Self::Http { status, body: HttpBody::Envelope, retry_after: None, location: None }
    }

    /// A refusal with an integer code and HTTP 200.
    pub fn error_code(code: i64) -> Self {
        Self::Code { error_code: Some(code), client_message: None, status: 200 }
    }

    /// A refusal with a fixed text and HTTP 200.
    pub fn client_message(text: impl Into<String>) -> Self {
        Self::Code { error_code: None, client_message: Some(text.into()), status: 200 }
    }
}

/// The body of a reply that is only a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpBody {
    /// None.
    Empty,
    /// A page such as a proxy's.
    #[default]
    Html,
    /// The API's own envelope.
    Envelope,
}

/// A planned fault and what has come of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultReport {
    /// Its number.
    pub id: FaultId,
    /// The fault as it was planned.
    pub fault: Fault,
    /// Fitting calls that it has seen.
    pub seen: u64,
    /// Calls that it has struck.
    pub struck: u64,
}

/// What a call is, as far as a fault asks.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) endpoint: Endpoint,
    pub(super) merchant: Option<&'a str>,
    /// Every identifier of every payment that the call names.
    pub(super) names: &'a [String],
}

/// A fault that strikes one call.
#[derive(Debug, Clone)]
pub(super) struct Strike {
    pub(super) id: FaultId,
    pub(super) what: FaultKind,
    pub(super) point: FaultPoint,
    pub(super) released: CancellationToken,
}

/// All planned faults, in the order in which they were planned.
#[derive(Debug, Default)]
pub(super) struct FaultTable {
    last: FaultId,
    planned: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    report: FaultReport,
    released: CancellationToken,
}

impl FaultTable {
    pub(super) fn len(&self) -> usize {
        self.planned.len()
    }

    pub(super) fn plan(&mut self, fault: Fault) -> FaultId {
        self.last += 1;
        let report = FaultReport { id: self.last, fault, seen: 0, struck: 0 };
        self.planned.push(Planned { report, released: CancellationToken::new() });
        self.last
    }

    /// Forgets one fault, releasing what hangs on it.
    pub(super) fn clear(&mut self, id: FaultId) -> Option<Fault> {
        let at = self.planned.iter().position(|planned| planned.report.id == id)?;
        let planned = self.planned.remove(at);
        planned.released.cancel();
        Some(planned.report.fault)
    }

    /// Forgets all faults, releasing what hangs on them.
    pub(super) fn clear_all(&mut self) {
        for planned in self.planned.drain(..) {
            planned.released.cancel();
        }
    }

    /// Lets every call go on that hangs now; the faults stay for later calls.
    pub(super) fn release(&mut self) {
        for planned in &mut self.planned {
            std::mem::take(&mut planned.released).cancel();
        }
    }

    pub(super) fn reports(&self) -> Vec<FaultReport> {
        self.planned.iter().map(|planned| planned.report.clone()).collect()
    }

    pub(super) fn refuses(&self, api: Api) -> bool {
        self.planned.iter().any(|planned| {
            planned.report.fault.api == Some(api)
                && matches!(planned.report.fault.what, FaultKind::RefuseConnection { .. })
        })
    }

    /// The fault that strikes this call, if one does.
    pub(super) fn strike(&mut self, target: &Target<'_>, rng: &mut impl Rng) -> Option<Strike> {
        self.planned.iter_mut().find_map(|planned| {
            let Planned { report: FaultReport { id, fault, seen, struck }, released } = planned;
            if !fits(fault, target) {
                return None;
            }
            *seen += 1;
            let spent = match fault.times {
                Times::Count(count) => *struck >= u64::from(count),
                Times::UntilCleared => false,
            };
            if spent || *seen <= u64::from(fault.skip) {
                return None;
            }
            if fault.ratio.is_some_and(|ratio| !rng.random_bool(ratio.clamp(0.0, 1.0))) {
                return None;
            }
            *struck += 1;
            Some(Strike { id: *id, what: fault.what.clone(), point: fault.point, released: released.clone() })
        })
    }
}

fn fits(fault: &Fault, target: &Target<'_>) -> bool {
    if matches!(fault.what, FaultKind::RefuseConnection { .. }) {
        return false;
    }
    fault.api.is_none_or(|api| api == target.endpoint.api())
        && fault.endpoint.is_none_or(|endpoint| endpoint == target.endpoint)
        && fault.merchant.as_deref().is_none_or(|merchant| target.merchant == Some(merchant))
        && fault
            .payment
            .as_deref()
            .is_none_or(|payment| target.names.iter().any(|name| name.eq_ignore_ascii_case(payment)))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn struck(fault: Fault, calls: &[(Endpoint, &str)]) -> Vec<bool> {
        let mut table = FaultTable::default();
        let mut rng = StdRng::seed_from_u64(1);
        table.plan(fault);
        calls
            .iter()
            .map(|(endpoint, name)| {
                let names = [(*name).to_owned()];
                let target = Target { endpoint: *endpoint, merchant: Some("default"), names: &names };
                table.strike(&target, &mut rng).is_some()
            })
            .collect()
    }

    const CANCEL: (Endpoint, &str) = (Endpoint::AsyncCancel, "a");

    #[test]
    fn a_fault_strikes_as_often_as_planned_and_then_no_more() {
        let fault = Fault::new(FaultKind::Reset).times(2);
        assert_eq!(struck(fault, &[CANCEL, CANCEL, CANCEL]), [true, true, false]);
    }

    #[test]
    fn a_fault_lets_the_first_calls_pass_that_it_skips() {
        let fault = Fault::new(FaultKind::Reset).skipping(1);
        assert_eq!(struck(fault, &[CANCEL, CANCEL, CANCEL]), [false, true, false]);
    }

    #[test]
    fn a_fault_strikes_only_where_all_its_conditions_hold() {
        let fault = Fault::new(FaultKind::Reset).on(Endpoint::AsyncCancel).of("A").until_cleared();
        let calls = [CANCEL, (Endpoint::AsyncCancel, "b"), (Endpoint::PhysicalInquiry, "a"), CANCEL];
        assert_eq!(struck(fault, &calls), [true, false, false, true]);
    }

    #[test]
    fn a_ratio_strikes_about_so_many_and_the_same_ones_every_time() {
        let fault = Fault::new(FaultKind::Reset).until_cleared().with_ratio(0.5);
        let first = struck(fault.clone(), &[CANCEL; 1_000]);
        let hits = first.iter().filter(|hit| **hit).count();
        assert!((400..600).contains(&hits), "{hits}");
        assert_eq!(first, struck(fault, &[CANCEL; 1_000]));
    }

    #[test]
    fn the_first_fault_that_fits_strikes_and_the_next_takes_over_when_it_is_spent() {
        let mut table = FaultTable::default();
        let mut rng = StdRng::seed_from_u64(1);
        let first = table.plan(Fault::new(FaultKind::Reset));
        let second = table.plan(Fault::new(FaultKind::Close));
        let names = ["a".to_owned()];
        let target = Target { endpoint: Endpoint::AsyncCancel, merchant: None, names: &names };
        let ids: Vec<_> = (0..3).map(|_| table.strike(&target, &mut rng).map(|strike| strike.id)).collect();
        assert_eq!(ids, [Some(first), Some(second), None]);
    }

    #[test]
    fn clearing_a_fault_releases_what_hangs_on_it() {
        let mut table = FaultTable::default();
        let mut rng = StdRng::seed_from_u64(1);
        let id = table.plan(Fault::new(FaultKind::Hang));
        let target = Target { endpoint: Endpoint::AsyncCancel, merchant: None, names: &[] };
        let strike = table.strike(&target, &mut rng).unwrap();
        table.clear(id);
        assert!(strike.released.is_cancelled());
    }

    #[test]
    fn a_fault_reads_from_json_as_it_is_written() {
        let fault = Fault::new(FaultKind::http(503)).at(Api::Physical).until_cleared().after_effect();
        let text = serde_json::to_string(&fault).unwrap();
        assert_eq!(serde_json::from_str::<Fault>(&text).unwrap(), fault);
    }
}
