//! A scene: a stage at noon, a worker, and rows of a table that are played on it all at once.
//!
//! What every story promises is checked in one place, when the curtain falls: [`Scene::close`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::amqp::Stopped;
use cancel_worker::clock::Clock;
use cancel_worker::domain::intent::{Api, Kind};
use cancel_worker::memory::SetBacks;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use jsonschema::Validator;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use paywall_simulator::{
    Endpoint, Fault, FaultKind, Identity, PaymentState, PaymentTruth, Seed, SimulatorConfig,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::verdicts::ready_for;
use crate::support::Context;
use crate::support::stage::{Stage, Taken, Working, said};

/// Many stories at once on a loaded machine: a reply that is only slow must not be taken for none.
const CALM: &str = r#"
[gateway]
call_timeout = "3s"
connect_timeout = "2s"
[inquiry]
quiet = "3s"
"#;

/// `gateway.call_timeout` of every scene, and `inquiry.quiet`.
pub(crate) const QUIET: Duration = Duration::from_secs(3);

/// Over it where calls are counted of many rows at once: a call that is only slow is one too many. A hang and the quiet
/// time after it still end long before patience does.
pub(crate) const CALMER: &str = "gateway.call_timeout = '8s'\ninquiry.quiet = '8s'";

/// A reply that comes after we have stopped waiting for it, and before an absence counts.
pub(crate) const TOO_SLOW: FaultKind = FaultKind::Delay { ms: 3_500 };

/// Numbers with which an inquiry that tells nothing is soon given up.
pub(crate) const SOON_UNRESOLVED: &str = "inquiry.age_max = '7s'";

static OUTCOME_SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let text = include_str!("../../../schemas/cancel-outcome.v1.json");
    let schema = serde_json::from_str(text).expect("the schema is JSON");
    jsonschema::draft202012::new(&schema).expect("the schema is a schema")
});

/// A stage with clocks that a test can set, and a worker on it.
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    pub(crate) clock: Clock,
    ahead: Arc<Mutex<SignedDuration>>,
    bodies: Mutex<BTreeMap<String, Vec<u8>>>,
    working: Option<Working>,
}

impl Scene {
    /// A scene at noon with a worker. `tuning` is TOML laid over the numbers of a quick story.
    pub(crate) async fn open(t: &Context, tuning: &str) -> Result<Scene> {
        let mut scene = Scene::without_worker(t, tuning, None).await?;
        scene.work().await?;
        Ok(scene)
    }

    /// The same before anybody works, with a simulator of the test's choice. It is noon at the gateway, so that no
    /// story crosses a midnight that it does not tell of.
    pub(crate) async fn without_worker(
        t: &Context,
        tuning: &str,
        simulator: Option<SimulatorConfig>,
    ) -> Result<Scene> {
        let tuning = overlaid(CALM, tuning)?;
        let stage = match simulator {
            None => Stage::new(t, &tuning).await?,
            Some(simulator) => Stage::with_simulator(t, &tuning, simulator).await?,
        };
        let ahead = Arc::new(Mutex::new(SignedDuration::ZERO));
        let machine = Clock::system();
        let read = Arc::clone(&ahead);
        let clock = Clock::from_fn(move || machine.now() + *read.lock().expect("nobody panics with it"));
        let scene = Scene { stage, clock, ahead, bodies: Mutex::default(), working: None };
        scene.set_local_time(12, 0, 0);
        Ok(scene)
    }

    /// Starts the worker, and waits until it takes letters: what comes while it looks whether it may is taken out for a
    /// moment, and is a suspect when it comes again.
    pub(crate) async fn work(&mut self) -> Result<()> {
        self.working = Some(self.stage.work_by(self.clock.clone())?);
        self.stage.wait_for_consumers().await
    }

    /// Sets everybody's clock to this time of today in the gateway's zone; it runs on from there.
    pub(crate) fn set_local_time(&self, hour: i8, minute: i8, second: i8) {
        let machine = Clock::system().now();
        let today = machine.to_zoned(zone()).date();
        let wanted = today.at(hour, minute, second, 0).to_zoned(zone()).expect("a time of day").timestamp();
        *self.ahead.lock().expect("nobody panics with it") = wanted.duration_since(machine);
        self.stage.simulator.set_now(wanted);
    }

    /// The gateway's day today.
    pub(crate) fn today(&self) -> Date {
        self.clock.now().to_zoned(zone()).date()
    }

    /// An intent about this payment, requested now.
    pub(crate) fn cancellation(&self, kind: Kind, payment: Value) -> Value {
        json!({
            "intentId": Uuid::new_v4(),
            "kind": kind.as_str(),
            "requestedAt": self.clock.now().to_string(),
            "reference": { "order": "O-1" },
            "payment": payment,
        })
    }

    /// Publishes an intent; a second time it is a second copy.
    pub(crate) async fn publish(&self, cancellation: &Value) -> Result<()> {
        self.remember(cancellation)?;
        self.stage.publish(cancellation).await
    }

    /// Notes the bytes of an intent that is published in another way.
    pub(crate) fn remember(&self, cancellation: &Value) -> Result<()> {
        self.bodies
            .lock()
            .expect("nobody panics with it")
            .insert(id_of(cancellation).to_owned(), serde_json::to_vec(cancellation)?);
        Ok(())
    }

    /// What the simulator knows of a payment.
    pub(crate) fn truth(&self, id: &str) -> PaymentTruth {
        self.stage.simulator.truth_of(id).unwrap_or_else(|| panic!("nobody knows a payment {id}"))
    }

    /// Waits for the last word about every one of these subjects.
    pub(crate) async fn ends_of(&self, subjects: &[String]) -> Result<BTreeMap<String, Value>> {
        let ended = |events: &[Value]| {
            let ended: BTreeSet<&str> = events
                .iter()
                .filter(|event| is_end(event))
                .filter_map(|event| event["subject"].as_str())
                .collect();
            subjects.iter().all(|subject| ended.contains(subject.as_str()))
        };
        let waited = self.stage.ledger.wait_for("end of all", ended).await;
        let events = self.stage.ledger.events();
        if waited.is_err() {
            let open: Vec<String> = subjects
                .iter()
                .filter(|subject| !events.iter().any(|event| is_end(event) && event["subject"] == ***subject))
                .map(|subject| format!("{subject}: {:?}", heard(&events, subject)))
                .collect();
            anyhow::bail!("no end of {open:#?}");
        }
        Ok(subjects
            .iter()
            .filter_map(|subject| {
                let end = events.iter().rev().find(|event| is_end(event) && event["subject"] == **subject)?;
                Some((subject.clone(), end.clone()))
            })
            .collect())
    }

    /// Stops the worker, and holds everything that was told to what is promised of every story: the events satisfy
    /// their schema, their ids follow from their content, no subject has two different ends, whoever was given up or
    /// left unresolved lies in the dead letters once with its own bytes, and nothing is left on its way.
    pub(crate) async fn close(mut self) -> Result<Curtain> {
        let mut stale_requests = 0;
        if let Some(working) = self.working.take() {
            let gateway = working.gateway.clone();
            let stopped = working.stop().await?;
            stale_requests = Api::ALL.into_iter().map(|api| gateway.stale_requests(api)).sum();
            ensure!(stopped == Stopped::Drained, "the worker gave back: {stopped:?}");
        }
        self.nothing_is_on_its_way().await?;
        let dead = self.stage.dead_letters().await?;
        let events = self.stage.ledger.events();
        let mut complaints = complaints_about_events(&events);
        complaints.extend(complaints_about_dead_letters(
            &events,
            &dead,
            &self.bodies.lock().expect("nobody panics with it"),
        ));
        ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
        Ok(Curtain { scene: self, events, dead, stale_requests })
    }

    async fn nothing_is_on_its_way(&self) -> Result<()> {
        let left = self.on_their_way().await?;
        ensure!(left.is_empty(), "letters are left: {left:?}");
        Ok(())
    }

    /// Waits until no letter is ready anywhere on its way.
    pub(crate) async fn until_nothing_is_on_its_way(&self) -> Result<()> {
        const ASK_EVERY: Duration = Duration::from_millis(100);
        let waiting = async {
            let mut ticks = tokio::time::interval(ASK_EVERY);
            while !self.on_their_way().await?.is_empty() {
                ticks.tick().await;
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(crate::support::stage::PATIENCE, waiting).await {
            Ok(done) => done,
            Err(_late) => self.nothing_is_on_its_way().await,
        }
    }

    /// The queues in which letters are ready that are on their way to an end, and how many.
    async fn on_their_way(&self) -> Result<Vec<(String, u32)>> {
        let prefix = self.stage.topology().prefix().to_owned();
        let on_its_way = ["intents.", "delay.", "returns.", "rescue", "isolation", "announcements"];
        let mut left = Vec::new();
        for queue in self.stage.topology().queues() {
            let Some(name) = queue.name.strip_prefix(&format!("{prefix}.")) else { continue };
            if on_its_way.iter().any(|part| name.starts_with(part)) {
                let depth = self.depth(&queue.name).await?;
                if depth > 0 {
                    left.push((queue.name.clone(), depth));
                }
            }
        }
        Ok(left)
    }

    /// How many messages are ready in a queue.
    pub(crate) async fn depth(&self, queue: &str) -> Result<u32> {
        let channel = self.stage.connection().create_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
        channel.close(200, "looked".into()).await?;
        Ok(found.message_count())
    }

    /// Sets the worker's clock, and nobody else's, back by this much.
    pub(crate) fn set_back(&self, by: SignedDuration) {
        *self.ahead.lock().expect("nobody panics with it") -= by;
    }

    /// Waits until so many letters have been put into delay queues.
    pub(crate) async fn wait_for_waits(&self, letters: u64) -> Result<()> {
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        let working = self.working.as_ref().context("somebody works")?;
        let gone = || working.delays.figures(self.clock.now()).values().map(|tier| tier.gone).sum::<u64>();
        let waiting = async {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            while gone() < letters {
                ticks.tick().await;
            }
        };
        let waited = tokio::time::timeout(crate::support::stage::PATIENCE, waiting).await;
        waited.with_context(|| format!("{} letters wait, and not {letters}", gone()))
    }

    /// What letters have told the worker of its clock.
    pub(crate) fn early_letters(&self) -> Arc<SetBacks> {
        self.working.as_ref().map(|working| Arc::clone(&working.set_backs)).unwrap_or_default()
    }

    /// Waits until a queue is so deep. A broker tells nobody when a queue grows, so it is asked again and again.
    pub(crate) async fn wait_for_depth(&self, queue: &str, depth: u32) -> Result<()> {
        const ASK_EVERY: Duration = Duration::from_millis(25);
        let waiting = async {
            let mut ticks = tokio::time::interval(ASK_EVERY);
            while self.depth(queue).await? != depth {
                ticks.tick().await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(crate::support::stage::PATIENCE, waiting)
            .await
            .with_context(|| format!("{queue} never holds {depth}"))?
    }
}

/// A scene after its worker has stopped: nothing changes any more.
pub(crate) struct Curtain {
    pub(crate) scene: Scene,
    pub(crate) events: Vec<Value>,
    pub(crate) dead: Vec<Taken>,
    /// Requests that died with a connection that had carried others before: calls that the gateway may never have seen.
    pub(crate) stale_requests: u64,
}

impl Curtain {
    /// Everything that was said of a subject, each thing once, in the order of its decisions.
    pub(crate) fn heard(&self, subject: &str) -> Vec<String> {
        heard(&self.events, subject)
    }

    /// The last thing said of a subject.
    pub(crate) fn end(&self, subject: &str) -> &Value {
        self.events
            .iter()
            .rev()
            .find(|event| is_end(event) && event["subject"] == *subject)
            .unwrap_or_else(|| panic!("nothing was said of {subject}"))
    }

    /// The one dead letter of an intent.
    pub(crate) fn dead_letter(&self, intent_id: &str) -> &Taken {
        self.dead
            .iter()
            .find(|dead| dead.headers.get("cancel-intent-id").map(String::as_str) == Some(intent_id))
            .unwrap_or_else(|| panic!("{intent_id} is not among the dead letters"))
    }
}

/// The gateway's zone.
pub(crate) fn zone() -> TimeZone {
    TimeZone::get("Europe/Istanbul").expect("the zone is bundled")
}

/// The id of an intent.
pub(crate) fn id_of(cancellation: &Value) -> &str {
    cancellation["intentId"].as_str().expect("an intent has an id")
}

fn is_end(event: &Value) -> bool {
    event["data"]["terminal"] == true
        || matches!(event["data"]["status"].as_str(), Some("given_up" | "unresolved"))
}

fn heard(events: &[Value], subject: &str) -> Vec<String> {
    let mut ids = BTreeSet::new();
    let mut of_it: Vec<&Value> = events
        .iter()
        .filter(|event| event["subject"] == *subject)
        .filter(|event| ids.insert(event["id"].as_str().unwrap_or_default()))
        .collect();
    of_it.sort_by_key(|event| event["data"]["decidedAt"].as_str().unwrap_or_default());
    of_it.into_iter().map(said).collect()
}

fn complaints_about_events(events: &[Value]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut ends: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for event in events {
        for error in OUTCOME_SCHEMA.iter_errors(event) {
            complaints.push(format!("at '{}' of {event}: {error}", error.instance_path()));
        }
        let data = &event["data"];
        let (intent_id, status) = (data["intentId"].as_str(), data["status"].as_str());
        let (Some(intent_id), Some(status)) = (intent_id, status) else {
            complaints.push(format!("an event without intentId or status: {event}"));
            continue;
        };
        let item =
            data["item"]["merchantUniqueCode"].as_str().map(|code| format!("/{code}")).unwrap_or_default();
        let namespace = Uuid::parse_str(intent_id).expect("the schema says so");
        let id = Uuid::new_v5(&namespace, format!("{status}{item}").as_bytes());
        if event["id"] != id.to_string() {
            complaints.push(format!("the id of {event} is not {id}"));
        }
        if event["subject"] != format!("{intent_id}{item}") {
            complaints.push(format!("the subject of {event} is another's"));
        }
        if data["terminal"] == true {
            ends.entry(event["subject"].as_str().unwrap_or_default()).or_default().insert(status);
        }
    }
    for (subject, statuses) in ends.into_iter().filter(|(_, statuses)| statuses.len() > 1) {
        complaints.push(format!("{subject} has two different ends: {statuses:?}"));
    }
    complaints
}

fn complaints_about_dead_letters(
    events: &[Value],
    dead: &[Taken],
    bodies: &BTreeMap<String, Vec<u8>>,
) -> Vec<String> {
    let mut complaints = Vec::new();
    // Two copies of one intent are two letters, and each tells its own end.
    let mut announced: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["data"]["item"].is_null()) {
        let is_dead = matches!(event["data"]["status"].as_str(), Some("given_up" | "unresolved"))
            || event["data"]["reason"]["code"] == "invalid_intent";
        if is_dead {
            announced.entry(event["data"]["intentId"].as_str().unwrap_or_default()).or_default().push(event);
        }
    }
    let mut letters: BTreeMap<&str, Vec<&Taken>> = BTreeMap::new();
    // Of these two nobody is told.
    let is_told = |letter: &&Taken| {
        !matches!(letter.headers["cancel-reason"].as_str(), "intent_id_reused" | "wrong_lane")
    };
    for letter in dead.iter().filter(is_told) {
        if let Some(intent_id) = letter.headers.get("cancel-intent-id") {
            letters.entry(intent_id).or_default().push(letter);
        }
    }
    let intent_ids: BTreeSet<&str> = announced.keys().chain(letters.keys()).copied().collect();
    for intent_id in intent_ids {
        let told = announced.get(intent_id).map(Vec::as_slice).unwrap_or_default();
        let lie_there = letters.get(intent_id).map(Vec::as_slice).unwrap_or_default();
        if told.len() != lie_there.len() {
            complaints.push(format!(
                "{} dead letters of {intent_id}, of which is told {:?}",
                lie_there.len(),
                told.iter().copied().map(said).collect::<Vec<_>>()
            ));
            continue;
        }
        for letter in lie_there {
            let against = |event: &&Value| complaints_about_dead_letter(event, letter, bodies.get(intent_id));
            let fewest = told.iter().map(against).min_by_key(Vec::len);
            complaints.extend(fewest.unwrap_or_default());
        }
    }
    complaints
}

/// Contract §4.
fn complaints_about_dead_letter(event: &Value, letter: &Taken, body: Option<&Vec<u8>>) -> Vec<String> {
    let mut complaints = Vec::new();
    let data = &event["data"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let number = |value: &Value| value.as_i64().map(|number| number.to_string());
    let mut must_be = |name: &str, wanted: Option<String>| {
        let is = letter.headers.get(name).cloned();
        if is != wanted {
            complaints.push(format!("{name} of the dead letter of {event} is {is:?} and not {wanted:?}"));
        }
    };
    must_be("cancel-reason", text(&data["reason"]["code"]));
    must_be("cancel-kind", text(&data["kind"]));
    must_be("cancel-attempt", number(&data["attempts"]));
    must_be("cancel-evidence", text(&data["reason"]["evidence"]));
    must_be("cancel-http-status", number(&data["reason"]["gateway"]["httpStatus"]));
    must_be("cancel-error-code", number(&data["reason"]["gateway"]["errorCode"]));
    must_be("cancel-client-message", text(&data["reason"]["gateway"]["clientMessage"]));
    must_be("cancel-fault", text(&data["reason"]["gateway"]["fault"]));
    must_be("cancel-due", None);
    let is_malformed = data["reason"]["code"] == "invalid_intent";
    let known_to_all = ["cancel-detail", "cancel-dead-at", "cancel-first-seen", "cancel-worker"];
    let known_to_read = ["cancel-phase", "cancel-doubt"];
    let wanted = known_to_all.iter().chain(known_to_read.iter().filter(|_| !is_malformed));
    for name in wanted {
        if letter.headers.get(*name).is_none_or(String::is_empty) {
            complaints.push(format!("{name} of the dead letter of {event} is missing"));
        }
    }
    for name in ["cancel-dead-at", "cancel-first-seen"] {
        if letter.headers.get(name).is_some_and(|text| text.parse::<Timestamp>().is_err()) {
            complaints.push(format!("{name} of the dead letter of {event} is no time"));
        }
    }
    let routing_key = format!(
        "{}.{}",
        data["kind"].as_str().unwrap_or_default(),
        data["reason"]["code"].as_str().unwrap_or_default()
    );
    if letter.routing_key != routing_key {
        complaints.push(format!("the dead letter of {event} has the routing key {}", letter.routing_key));
    }
    if body != Some(&letter.body) {
        complaints.push(format!("the dead letter of {event} has other bytes than the intent"));
    }
    complaints
}

/// The second piece of TOML laid over the first, every key written out.
fn overlaid(first: &str, second: &str) -> Result<String> {
    fn flatten(path: &str, value: toml::Value, keys: &mut BTreeMap<String, toml::Value>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                    flatten(&path, value, keys);
                }
            }
            value => {
                keys.insert(path.to_owned(), value);
            }
        }
    }
    let mut keys = BTreeMap::new();
    for piece in [first, second] {
        flatten("", toml::Value::Table(toml::from_str(piece)?), &mut keys);
    }
    Ok(keys.into_iter().map(|(key, value)| format!("{key} = {value}\n")).collect())
}

/// One row of a table: a payment of one kind, what goes wrong, and what must be told and true in the end.
pub(crate) struct Row {
    name: String,
    kind: Kind,
    seed: Option<Seed>,
    faults: Vec<Fault>,
    edits: Vec<(&'static str, Value)>,
    says: Vec<&'static str>,
    calls: Option<u64>,
    looks: Option<Looks>,
    attempts: Option<u64>,
    state: Option<PaymentState>,
    evidence: Option<&'static str>,
    payment_status: Option<Value>,
    copies: usize,
}

/// Rows that are published: each with its intent and its payment's id.
pub(crate) struct Cast(Vec<(Row, Value, String)>);

impl Cast {
    /// The intents' ids, in the order of the rows.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.0.iter().map(|(_, cancellation, _)| id_of(cancellation).to_owned()).collect()
    }
}

/// Whether the gateway was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looks {
    /// Not once.
    None,
    /// At least once.
    Some,
}

impl Row {
    /// A row about this payment.
    pub(crate) fn new(name: impl Into<String>, kind: Kind, seed: impl Into<Seed>) -> Row {
        Row { seed: Some(seed.into()), ..Row::about_nobody(name, kind) }
    }

    /// A row about a payment that the gateway does not know.
    pub(crate) fn about_nobody(name: impl Into<String>, kind: Kind) -> Row {
        Row {
            name: name.into(),
            kind,
            seed: None,
            faults: Vec::new(),
            edits: Vec::new(),
            says: Vec::new(),
            calls: None,
            looks: None,
            attempts: None,
            state: None,
            evidence: None,
            payment_status: None,
            copies: 1,
        }
    }

    /// The first call that is not struck yet is struck by this, before its effect.
    pub(crate) fn struck(self, what: FaultKind) -> Row {
        self.fault_on_call(Fault::new(what))
    }

    /// The same after its effect.
    pub(crate) fn struck_after_effect(self, what: FaultKind) -> Row {
        self.fault_on_call(Fault::new(what).after_effect())
    }

    /// The payment and the intent are this merchant's.
    pub(crate) fn of_merchant(mut self, merchant: &str) -> Row {
        let name = match &mut self.seed {
            Some(Seed::Physical(seed)) => &mut seed.merchant,
            Some(Seed::VirtualPos(seed)) => &mut seed.merchant,
            Some(Seed::Apm(seed)) => &mut seed.merchant,
            None => return self.with("/merchant", json!(merchant)),
        };
        merchant.clone_into(name);
        self.with("/merchant", json!(merchant))
    }

    /// A fault of the row's own endpoint.
    pub(crate) fn fault_on_call(mut self, fault: Fault) -> Row {
        self.faults.push(fault.on(endpoint_of(self.kind)));
        self
    }

    /// A fault of every inquiry about the payment.
    pub(crate) fn fault_on_inquiry(mut self, fault: Fault) -> Row {
        self.faults.extend(inquiries_of(self.kind).iter().map(|endpoint| fault.clone().on(*endpoint)));
        self
    }

    /// A fault of an endpoint that the row names.
    pub(crate) fn fault(mut self, fault: Fault) -> Row {
        self.faults.push(fault);
        self
    }

    /// Lays a value over the intent, by a JSON pointer; null takes the field away.
    pub(crate) fn with(mut self, pointer: &'static str, value: Value) -> Row {
        self.edits.push((pointer, value));
        self
    }

    /// Published so often.
    pub(crate) fn copies(self, copies: usize) -> Row {
        Row { copies, ..self }
    }

    /// What is said of it, in this order.
    pub(crate) fn says<const N: usize>(self, says: [&'static str; N]) -> Row {
        Row { says: says.to_vec(), ..self }
    }

    /// How many calls of its endpoint come in.
    pub(crate) fn calls(self, calls: u64) -> Row {
        Row { calls: Some(calls), ..self }
    }

    /// Whether the gateway is asked.
    pub(crate) fn looks(self, looks: Looks) -> Row {
        Row { looks: Some(looks), ..self }
    }

    /// `attempts` of the end.
    pub(crate) fn attempts(self, attempts: u64) -> Row {
        Row { attempts: Some(attempts), ..self }
    }

    /// What the payment is in the end.
    pub(crate) fn leaves(self, state: PaymentState) -> Row {
        Row { state: Some(state), ..self }
    }

    /// `reason.evidence` of the end.
    pub(crate) fn evidence(self, evidence: &'static str) -> Row {
        Row { evidence: Some(evidence), ..self }
    }

    /// `paymentStatus` of the end: scheme, type and status by name; `None` for null.
    pub(crate) fn payment_status(self, status: Option<(&str, &str, &str)>) -> Row {
        let status = status.map_or(Value::Null, |(scheme, kind, name)| json!([scheme, kind, name]));
        Row { payment_status: Some(status), ..self }
    }

    fn check(&self, curtain: &Curtain, cancellation: &Value, id: &str) -> Vec<String> {
        let heard = curtain.heard(id_of(cancellation));
        let mut wrong = Vec::new();
        let mut must_be = |what: &str, is: String, wanted: String| {
            if is != wanted {
                wrong.push(format!("{}: {what} is {is} and not {wanted}", self.name));
            }
        };
        must_be("what is said", format!("{heard:?}"), format!("{:?}", self.says));
        if heard.len() != self.says.len() {
            return wrong;
        }
        let end = curtain.end(id_of(cancellation));
        let data = &end["data"];
        must_be("the reference", data["reference"].to_string(), cancellation["reference"].to_string());
        if let Some(attempts) = self.attempts {
            must_be("attempts", data["attempts"].to_string(), attempts.to_string());
        }
        if let Some(evidence) = self.evidence {
            must_be("evidence", data["reason"]["evidence"].to_string(), json!(evidence).to_string());
        }
        if let Some(wanted) = &self.payment_status {
            let status = &data["paymentStatus"];
            let is = match status.is_null() {
                true => Value::Null,
                false => json!([status["scheme"], status["type"]["name"], status["name"]]),
            };
            must_be("paymentStatus", is.to_string(), wanted.to_string());
        }
        let truth = curtain.scene.stage.simulator.truth_of(id);
        let calls = truth.as_ref().map_or(0, |truth| truth.calls_of(endpoint_of(self.kind)));
        if let Some(wanted) = self.calls {
            must_be("the number of calls", calls.to_string(), wanted.to_string());
        }
        if let Some(looks) = self.looks {
            let is = match truth.as_ref().map_or(0, PaymentTruth::inquiries_total) {
                0 => Looks::None,
                _ => Looks::Some,
            };
            must_be("whether it was asked", format!("{is:?}"), format!("{looks:?}"));
        }
        if let (Some(state), Some(truth)) = (self.state, &truth) {
            must_be("the truth", format!("{:?}", truth.state), format!("{state:?}"));
        }
        if let Some(truth) = &truth {
            must_be("money moved more than once", (truth.effects.cancels > 1).to_string(), false.to_string());
        }
        wrong
    }
}

impl Scene {
    /// Plays rows all at once to their ends, stops, and holds every row to what it says.
    pub(crate) async fn play(self, rows: Vec<Row>) -> Result<Curtain> {
        let cast = self.publish_rows(rows).await?;
        self.finish(cast).await
    }

    /// The same in two acts: while the gateway's clock stands, until each row is accepted; then it runs, and they end.
    /// However busy the machine is, what is under way is seen under way.
    pub(crate) async fn play_in_two_acts(self, rows: Vec<Row>) -> Result<Curtain> {
        self.stage.simulator.freeze();
        let cast = self.publish_rows(rows).await?;
        self.all_accepted(&cast.ids()).await?;
        self.stage.simulator.run();
        self.finish(cast).await
    }

    /// Waits until each of these intents is told as accepted.
    pub(crate) async fn all_accepted(&self, ids: &[String]) -> Result<()> {
        let accepted = |events: &[Value]| {
            let of = |id: &String| {
                events.iter().any(|event| event["subject"] == **id && event["data"]["status"] == "accepted")
            };
            ids.iter().all(of)
        };
        self.stage.ledger.wait_for("word that all are accepted", accepted).await?;
        Ok(())
    }

    /// Publishes rows all at once.
    pub(crate) async fn publish_rows(&self, rows: Vec<Row>) -> Result<Cast> {
        let mut played = Vec::new();
        for row in rows {
            let (cancellation, id) = self.prepare(&row).await?;
            played.push((row, cancellation, id));
        }
        for (row, cancellation, _) in &played {
            for _ in 0..row.copies {
                self.publish(cancellation).await?;
            }
        }
        Ok(Cast(played))
    }

    /// Another merchant gets an answer of each of these endpoints, so that none is taken to be down for a minute, however
    /// many calls of the first fail. (What is published in the moment in which a lane is paused can come again as
    /// `redelivered`, which counts as a call.)
    pub(crate) async fn another_merchant_is_answered(&self, kinds: &[Kind]) -> Result<()> {
        let of_another = |kind: &Kind| {
            Row::new(format!("{kind} of another"), *kind, ready_for(*kind)).of_merchant("other")
        };
        let cast = self.publish_rows(kinds.iter().map(of_another).collect()).await?;
        self.ends_of(&cast.ids()).await?;
        Ok(())
    }

    /// Waits for the ends of published rows, stops, and holds every row to what it says.
    pub(crate) async fn finish(self, Cast(played): Cast) -> Result<Curtain> {
        let subjects: Vec<String> =
            played.iter().map(|(_, cancellation, _)| id_of(cancellation).to_owned()).collect();
        if let Err(error) = self.ends_of(&subjects).await {
            let names: Vec<String> = played
                .iter()
                .map(|(row, cancellation, _)| format!("{} is {}", id_of(cancellation), row.name))
                .collect();
            return Err(error.context(names.join("\n")));
        }
        self.copies_have_ended(&played).await?;
        let curtain = self.close().await?;
        let wrong: Vec<String> =
            played.iter().flat_map(|(row, cancellation, id)| row.check(&curtain, cancellation, id)).collect();
        ensure!(wrong.is_empty(), "{}\n{} stale requests", wrong.join("\n"), curtain.stale_requests);
        Ok(curtain)
    }

    /// Every copy of an intent tells its end by itself.
    async fn copies_have_ended(&self, played: &[(Row, Value, String)]) -> Result<()> {
        let wanted: Vec<(&str, usize)> =
            played.iter().map(|(row, cancellation, _)| (id_of(cancellation), row.copies)).collect();
        let all = |events: &[Value]| {
            wanted.iter().all(|(subject, copies)| {
                events.iter().filter(|event| is_end(event) && event["subject"] == **subject).count()
                    >= *copies
            })
        };
        self.stage.ledger.wait_for("end of every copy", all).await?;
        Ok(())
    }

    /// Seeds the row's payment, plans its faults, and writes its intent.
    async fn prepare(&self, row: &Row) -> Result<(Value, String)> {
        let identity = match &row.seed {
            Some(seed) => self.stage.simulator.seed(seed.clone())?,
            None => stranger(row.kind),
        };
        for fault in &row.faults {
            self.stage.simulator.plan(fault.clone().of(&identity.id)).await?;
        }
        let mut cancellation = self.cancellation(row.kind, payment_of(row.kind, &identity, self.today()));
        for (pointer, value) in &row.edits {
            lay(&mut cancellation, pointer, value.clone());
        }
        Ok((cancellation, identity.id))
    }
}

/// A payment that nobody knows.
fn stranger(kind: Kind) -> Identity {
    let id = Uuid::new_v4();
    let code = Some(format!("NOBODY-{}", id.simple()));
    match kind {
        Kind::AsyncCancel | Kind::SyncCancelRollback => {
            Identity { id: id.to_string(), payment_request_id: Some(id), ..Identity::default() }
        }
        Kind::TransactionCancel | Kind::ApmProvisionCancel => Identity {
            id: id.to_string(),
            unique_code: Some(id.to_string()),
            merchant_unique_code: code,
            ..Identity::default()
        },
        Kind::BatchCancel => Identity {
            id: code.clone().unwrap_or_default(),
            merchant_unique_code: code,
            ..Identity::default()
        },
    }
}

/// The `payment` of an intent of this kind.
pub(crate) fn payment_of(kind: Kind, identity: &Identity, today: Date) -> Value {
    let date = identity.date.unwrap_or(today).to_string();
    match kind {
        Kind::AsyncCancel | Kind::SyncCancelRollback => {
            json!({ "paymentRequestId": identity.payment_request_id })
        }
        Kind::TransactionCancel => json!({ "uniqueCode": identity.unique_code, "date": date }),
        Kind::ApmProvisionCancel => json!({
            "uniqueCode": identity.unique_code,
            "merchantUniqueCode": identity.merchant_unique_code,
        }),
        Kind::BatchCancel => {
            json!({ "payments": [{ "merchantUniqueCode": identity.merchant_unique_code, "date": date }] })
        }
    }
}

/// The endpoint that a kind calls.
pub(crate) fn endpoint_of(kind: Kind) -> Endpoint {
    match kind {
        Kind::AsyncCancel => Endpoint::AsyncCancel,
        Kind::SyncCancelRollback => Endpoint::CancelRollback,
        Kind::TransactionCancel => Endpoint::TransactionCancel,
        Kind::ApmProvisionCancel => Endpoint::ApmProvisionCancel,
        Kind::BatchCancel => Endpoint::BatchCancel,
    }
}

/// The endpoints that a kind asks.
pub(crate) fn inquiries_of(kind: Kind) -> &'static [Endpoint] {
    match kind {
        Kind::AsyncCancel | Kind::SyncCancelRollback => {
            &[Endpoint::PhysicalActivities, Endpoint::PhysicalInquiry]
        }
        Kind::TransactionCancel => &[Endpoint::PrivateQueryByUniqueCode],
        Kind::ApmProvisionCancel => &[Endpoint::ApmQuery],
        Kind::BatchCancel => &[Endpoint::PrivateQuery],
    }
}

fn lay(cancellation: &mut Value, pointer: &str, value: Value) {
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let parent =
        cancellation.pointer_mut(parent).and_then(Value::as_object_mut).expect("a pointer into an object");
    match value {
        Value::Null => parent.remove(field),
        value => parent.insert(field.to_owned(), value),
    };
}
