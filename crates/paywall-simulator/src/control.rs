//! The control API: seeding, faults, the clock and the truth, as JSON over HTTP. Its table stands in the module above.

use hyper::{Method, Response, StatusCode, body::Bytes};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    Handle, PlanError, SeedError,
    calls::{ReplyBody, full},
    faults::Fault,
    seed::Seed,
};

/// Answers one request to the control API.
pub(super) async fn handle(handle: Handle, method: &Method, path: &str, body: &Bytes) -> Response<ReplyBody> {
    let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
    let rest = path.strip_prefix("/control/").unwrap_or_default();
    let (room, id) = rest.split_once('/').map_or((rest, None), |(room, id)| (room, Some(id)));
    let answered = match (room, id, method) {
        ("health", None, &Method::GET) => {
            Ok(json!({ "ok": true, "now": handle.now(), "urls": handle.urls() }))
        }
        ("payments", None, &Method::POST) => seed(&handle, body),
        ("faults", None, &Method::POST) => plan(&handle, body).await,
        ("faults", None, &Method::GET) => value(&handle.faults()),
        ("faults", None, &Method::DELETE) => clear_all(&handle).await,
        ("faults", Some(id), &Method::DELETE) => clear(&handle, id).await,
        ("release", None, &Method::POST) => {
            handle.release();
            Ok(json!({ "released": true }))
        }
        ("truth", None, &Method::GET) => value(&handle.truth()),
        ("truth", Some(id), &Method::GET) => match handle.truth_of(id) {
            Some(truth) => value(&truth),
            None => Err(Wrong::new(StatusCode::NOT_FOUND, "no payment and no call has this identifier")),
        },
        ("requests", None, &Method::GET) => value(&handle.requests()),
        ("clock", None, &Method::GET) => Ok(json!({ "now": handle.now() })),
        ("clock", None, &Method::POST) => set_clock(&handle, body),
        ("health" | "payments" | "faults" | "release" | "truth" | "requests" | "clock", _, _) => {
            Err(Wrong::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not for {path}")))
        }
        _ => Err(Wrong::new(StatusCode::NOT_FOUND, format!("nothing is at {path}; see /control/health"))),
    };
    let (status, body) = match answered {
        Ok(value) => (StatusCode::OK, value),
        Err(Wrong { status, error }) => (status, json!({ "error": error })),
    };
    full(status, "application/json", body.to_string())
}

/// What is wrong with a request.
struct Wrong {
    status: StatusCode,
    error: String,
}

impl Wrong {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }
}

impl From<SeedError> for Wrong {
    fn from(error: SeedError) -> Self {
        let status = match error {
            SeedError::Taken { .. } | SeedError::Full => StatusCode::CONFLICT,
            SeedError::Invalid { .. } | SeedError::UnknownMerchant => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<PlanError> for Wrong {
    fn from(error: PlanError) -> Self {
        let status = match error {
            PlanError::Full | PlanError::Door { .. } => StatusCode::CONFLICT,
            PlanError::Invalid { .. } => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

type Answered = Result<serde_json::Value, Wrong>;

fn value(told: &impl Serialize) -> Answered {
    serde_json::to_value(told)
        .map_err(|error| Wrong::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// One, or a list. The list is tried first by its bracket, so that an error speaks of the right one.
fn one_or_many<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, Wrong> {
    let wrong = |error: serde_json::Error| Wrong::new(StatusCode::BAD_REQUEST, error.to_string());
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        serde_json::from_slice(body).map_err(wrong)
    } else {
        serde_json::from_slice(body).map(|one| vec![one]).map_err(wrong)
    }
}

fn seed(handle: &Handle, body: &[u8]) -> Answered {
    let seeds: Vec<Seed> = one_or_many(body)?;
    let mut payments = Vec::with_capacity(seeds.len());
    for (at, seed) in seeds.into_iter().enumerate() {
        let identity = handle.seed(seed).map_err(|error| {
            let wrong = Wrong::from(error);
            Wrong { error: format!("payment {at}: {} (those before it are seeded)", wrong.error), ..wrong }
        })?;
        payments.push(identity);
    }
    Ok(json!({ "payments": payments }))
}

async fn plan(handle: &Handle, body: &[u8]) -> Answered {
    let faults: Vec<Fault> = one_or_many(body)?;
    let mut ids = Vec::with_capacity(faults.len());
    for fault in faults {
        ids.push(handle.plan(fault).await?);
    }
    Ok(json!({ "ids": ids }))
}

async fn clear_all(handle: &Handle) -> Answered {
    let cleared = handle.faults().len();
    handle.clear_faults().await?;
    Ok(json!({ "cleared": cleared }))
}

async fn clear(handle: &Handle, id: &str) -> Answered {
    let id = id
        .parse()
        .map_err(|_| Wrong::new(StatusCode::BAD_REQUEST, "the number of a fault is a whole number"))?;
    match handle.clear_fault(id).await? {
        Some(_) => Ok(json!({ "cleared": 1 })),
        None => Err(Wrong::new(StatusCode::NOT_FOUND, "no fault has this number")),
    }
}

/// What to do with the clock.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClockOrder {
    Set(Timestamp),
    AdvanceMs(i64),
    Freeze(Yes),
    Run(Yes),
}

/// `true`, and nothing else: `{"freeze": false}` would not say what to do.
#[derive(Debug, Deserialize)]
#[serde(try_from = "bool")]
struct Yes;

impl TryFrom<bool> for Yes {
    type Error = &'static str;

    fn try_from(yes: bool) -> Result<Self, Self::Error> {
        yes.then_some(Self).ok_or("say freeze or run, with true")
    }
}

fn set_clock(handle: &Handle, body: &[u8]) -> Answered {
    let order = serde_json::from_slice(body)
        .map_err(|error| Wrong::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    match order {
        ClockOrder::Set(now) => handle.set_now(now),
        ClockOrder::AdvanceMs(ms) => handle.shift(SignedDuration::from_millis(ms)),
        ClockOrder::Freeze(Yes) => handle.freeze(),
        ClockOrder::Run(Yes) => handle.run(),
    }
    Ok(json!({ "now": handle.now() }))
}
