//! Nothing leaks: what is secret, and what the gateway says in words, is in no log line, no event, no header and no dead
//! letter, at the level at which everything is told.

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use paywall_simulator::{Fault, FaultKind, Merchant, SimulatorConfig};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::cancellations::{Cancellation, Course, audit};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::Process;
use crate::support::stage::{Stage, Taken, intent};

/// Every secret begins with this, and ends with what it is.
const CANARY: &str = "canary-4f8a-";

/// A card number where the gateway writes codes, or a publisher a field's name.
const CARD: &str = "5555444433331111";

const KINDS: [Kind; 4] =
    [Kind::AsyncCancel, Kind::TransactionCancel, Kind::ApmProvisionCancel, Kind::BatchCancel];

/// The four keys of a merchant, each a canary of its own.
fn keys(merchant: &str) -> [(&'static str, String); 4] {
    ["private_key", "private_client", "public_key", "public_client"]
        .map(|key| (key, format!("{CANARY}{merchant}-{}", key.replace('_', "-"))))
}

fn merchant(name: &str) -> Merchant {
    let [private_key, private_client, public_key, public_client] =
        keys(name).map(|(_, value)| SecretString::from(value));
    Merchant { name: name.to_owned(), private_key, private_client, public_key, public_client }
}

/// The keys of a merchant whom the simulator lets in, and of one whom it does not; budgets that end soon, so that every
/// path is walked to its end.
fn tuning(log: &str) -> String {
    let section = |name: &str| {
        let keys = keys(name).map(|(key, value)| format!("{key} = \"{value}\"\n")).concat();
        format!("[merchants.{name}]\n{keys}")
    };
    format!(
        "[telemetry]\nlog = \"{log}\"\n[retry]\nage_max = \"3s\"\n[inquiry]\nage_max = \"3s\"\n\
         [batch]\ncallback_url = \"https://ledger.example/{CANARY}callback?token={CANARY}token\"\n{}{}",
        section("default"),
        section("stranger")
    )
}

/// Answers that say a canary wherever one can be said.
fn answers() -> Vec<FaultKind> {
    let raw = |status: u16, headers: &[(&str, &str)], body: String| FaultKind::Raw {
        status,
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), format!("{CANARY}{value}")))
            .collect(),
        body,
    };
    let said = |name: &str| format!("{CANARY}{name}");
    let everywhere = [("x-request-id", "header"), ("set-cookie", "cookie"), ("server", "server")];
    let physical = json!({
        "succeeded": false, "failed": true, "clientMessage": said("client-message"), "message": said("message"),
        "errorCode": 0, "result": { "paymentRequestId": said("id"), "cardNumber": said("card") },
        said("field"): said("value"),
    });
    let known = json!({
        "succeeded": false, "failed": true, "clientMessage": "System.ValidationError", "message": said("message"),
    });
    let payment = json!({
        "ErrorCode": 4, "Result": false, "Message": said("message"), "ErrorCodeType": 1,
        "Body": { "UniqueCode": said("unique-code"), "Amount": said("amount"), "Currency": said("currency"),
                  "Result": false, "PaymentResults": [{ "MerchantUniqueCode": said("code"), "Status": 2,
                  "Message": said("message") }] },
    });
    let success = json!({
        "ErrorCode": 0, "Result": true, "Message": said("message"),
        "Body": { "UniqueCode": said("unique-code"), "Result": true, "ApmTransactionId": said("apm") },
    });
    let card_for_a_code = json!({
        "succeeded": false, "failed": true, "Result": null, "clientMessage": format!("Card.{CARD}"),
        "errorCode": CARD.parse::<i64>().unwrap_or_default(), "ErrorCodeType": CARD, CARD: CARD,
    });
    vec![
        raw(400, &everywhere, card_for_a_code.to_string()),
        raw(200, &everywhere, said("not-json")),
        raw(200, &everywhere, physical.to_string()),
        raw(200, &everywhere, known.to_string()),
        raw(200, &everywhere, payment.to_string()),
        raw(200, &everywhere, success.to_string()),
        raw(200, &[("content-encoding", "gzip")], said("encoded")),
        raw(302, &[("location", "location")], said("body")),
        raw(401, &[("www-authenticate", "challenge")], said("body")),
        raw(404, &everywhere, said("body")),
        raw(429, &[("retry-after", "retry-after")], said("body")),
        raw(500, &everywhere, format!("<html>{CANARY}page</html>")),
        raw(503, &[("retry-after", "retry-after")], said("body")),
    ]
}

/// Letters that cannot be read, with canaries in values and in headers.
async fn publish_malformed(stage: &Stage) -> Result<Vec<Vec<u8>>> {
    let good = || intent(Kind::AsyncCancel, json!({ "paymentRequestId": uuid::Uuid::new_v4() }));
    let mut bad_id = good();
    bad_id["payment"]["paymentRequestId"] = format!("{CANARY}letter-id").into();
    let mut bad_time = good();
    bad_time["requestedAt"] = format!("{CANARY}letter-time").into();
    let mut unknown_field = good();
    unknown_field["comment"] = format!("{CANARY}letter-comment").into();
    let mut unknown_merchant = good();
    unknown_merchant["merchant"] = format!("{CANARY}LETTER").into();
    let mut card_for_a_name = good();
    card_for_a_name["payment"][CARD] = "1".into();
    let truncated = format!("{{\"intentId\": \"{CANARY}letter-truncated");
    let bodies: Vec<Vec<u8>> = [bad_id, bad_time, unknown_field, unknown_merchant, card_for_a_name]
        .iter()
        .map(|letter| letter.to_string().into_bytes())
        .chain([truncated.into_bytes()])
        .collect();
    let mut headers = FieldTable::default();
    for name in ["traceparent", "tracestate", "cancel-evidence", "cancel-client-message", "authorization"] {
        headers.insert(name.into(), AMQPValue::LongString(format!("{CANARY}letter-header").into()));
    }
    let channel = stage.connection().create_channel().await?;
    for body in &bodies {
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers.clone());
        let exchange = format!("{}.intents", stage.topology().prefix());
        let options = BasicPublishOptions::default();
        channel
            .basic_publish(exchange.as_str().into(), "async_cancel".into(), options, body, properties)
            .await?;
    }
    Ok(bodies)
}

fn assert_clean(what: &str, text: &str) -> Result<()> {
    let found = text.lines().find(|line| line.contains(CANARY) || line.contains(CARD));
    ensure!(found.is_none(), "{what} shows a secret: {}", found.unwrap_or_default());
    Ok(())
}

async fn nothing_leaks(t: Context, log: &str) -> Result<()> {
    let simulator = SimulatorConfig { merchants: vec![merchant("default")], ..SimulatorConfig::default() };
    let stage = Stage::with_simulator(&t, &tuning(log), simulator).await?;
    let audit = audit(&t, &stage).await?;
    let worker = Process::work(&stage, &[("CANCEL_WORKER_LOG", "trace")])?;
    let mut cancellations = Vec::new();
    for kind in KINDS {
        // Success; doubt; locked out; and every answer, also to the looks that follow it.
        cancellations.push(Cancellation::new(&stage, kind, Course::AtOnce)?);
        let in_doubt = Cancellation::new(&stage, kind, Course::AtOnce)?;
        let reset = Fault::new(FaultKind::Reset).on(in_doubt.endpoint).of(&in_doubt.payments[0].1);
        stage.simulator.plan(reset.after_effect()).await?;
        cancellations.push(in_doubt);
        let mut of_a_stranger = Cancellation::new(&stage, kind, Course::AtOnce)?;
        of_a_stranger.intent["merchant"] = "stranger".into();
        cancellations.push(of_a_stranger);
        for answer in answers() {
            let cancellation = Cancellation::new(&stage, kind, Course::AtOnce)?;
            for (_, id) in &cancellation.payments {
                stage.simulator.plan(Fault::new(answer.clone()).of(id).until_cleared()).await?;
            }
            cancellations.push(cancellation);
        }
    }
    for cancellation in &cancellations {
        stage.publish(&cancellation.intent).await?;
    }
    let malformed = publish_malformed(&stage).await?;
    for cancellation in &cancellations {
        cancellation.ended(&stage, 1).await?;
    }
    stage
        .ledger
        .wait_for("word of what cannot be read", |events| {
            let invalid = |event: &&Value| event["data"]["reason"]["code"] == "invalid_intent";
            // All but the one whose id cannot be read.
            events.iter().filter(invalid).count() == malformed.len() - 1
        })
        .await?;
    let ended = worker.stop_by("TERM").await?;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr.text());

    let paths: std::collections::BTreeSet<String> = stage
        .ledger
        .events()
        .iter()
        .filter_map(|event| event["data"]["status"].as_str().map(str::to_owned))
        .collect();
    for status in ["cancelled", "rejected", "given_up", "unresolved", "accepted"] {
        ensure!(paths.contains(status), "no intent took the path to {status}: {paths:?}");
    }
    let log_text = ended.stderr.text();
    ensure!(log_text.contains("Gateway called.") && log_text.contains("Inquiry made."), "all is told");
    assert_clean("a log line", &log_text)?;
    assert_clean("standard output", &ended.stdout)?;
    let address: url::Url = stage.url().parse()?;
    let credentials = format!("{}:{}@", address.username(), address.password().unwrap_or_default());
    ensure!(!log_text.contains(&credentials), "a log line shows the credentials of the broker's address");
    for Taken { routing_key, headers, body } in stage.take_all(&audit).await? {
        assert_clean("an outcome", &String::from_utf8(body)?)?;
        assert_clean("an outcome's envelope", &format!("{routing_key} {headers:?}"))?;
    }
    let dead = stage.dead_letters().await?;
    ensure!(dead.len() > malformed.len(), "more than the malformed ones lie in the dead letters");
    for Taken { routing_key, headers, body } in dead {
        assert_clean("a dead letter's envelope", &format!("{routing_key} {headers:?}"))?;
        let is_own = malformed.contains(&body)
            || cancellations
                .iter()
                .any(|cancellation| cancellation.intent.to_string().as_bytes() == body.as_slice());
        ensure!(is_own, "a dead letter's body is the intent's own, byte for byte");
    }
    Ok(())
}

broker_test!(nothing_secret_is_in_json_logs_or_messages);
async fn nothing_secret_is_in_json_logs_or_messages(t: Context) -> Result<()> {
    nothing_leaks(t, "json").await
}

broker_test!(nothing_secret_is_in_text_logs_or_messages);
async fn nothing_secret_is_in_text_logs_or_messages(t: Context) -> Result<()> {
    nothing_leaks(t, "text").await
}

/// Who tries to log in with a wrong password. Operators are told the name.
const USER: &str = "somebody-else";

/// The broker's address with a user whom it does not let in, the password a canary.
fn with_wrong_password(url: &str) -> Result<String> {
    let mut url: url::Url = url.parse()?;
    url.set_username(USER).ok().context("it has a host")?;
    url.set_password(Some(&format!("{CANARY}password"))).ok().context("it has a host")?;
    Ok(url.into())
}

broker_test!(a_broker_that_is_down_is_told_without_the_password);
async fn a_broker_that_is_down_is_told_without_the_password(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    // Nobody listens there any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let url = with_wrong_password(&format!("amqp://{closed}/%2f"))?;
    for log in ["json", "text"] {
        let environment = [
            ("CANCEL_WORKER_LOG", "trace"),
            ("CANCEL_WORKER__TELEMETRY__LOG", log),
            ("CANCEL_WORKER__AMQP__URL", &url),
        ];
        let worker = Process::work(&stage, &environment)?;
        let told =
            |line: &str| line.contains("Broker cannot be reached") && line.contains(&closed.to_string());
        worker.stderr.wait_for("word of the broker", told).await?;
        let ended = worker.stop_by("TERM").await?;
        assert_clean("a log line", &ended.stderr.text())?;
    }
    Ok(())
}

broker_test!(what_may_not_be_meant_so_in_an_address_is_told_at_the_start);
async fn what_may_not_be_meant_so_in_an_address_is_told_at_the_start(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    // Addresses for documentation, of which nobody answers.
    let urls = format!(
        "amqp://somebody:{CANARY}one@192.0.2.1:5672/, amqps://somebody:{CANARY}two@192.0.2.2/vh?frame_max=1000000, \
         amqp://somebody:{CANARY}three@127.0.0.1:9/vh?frame_max=4096"
    );
    let management = format!("http://somebody:{CANARY}four@192.0.2.1:15672");
    let environment = [
        ("CANCEL_WORKER__AMQP__URL", urls.as_str()),
        ("CANCEL_WORKER__AMQP__MANAGEMENT_URL", management.as_str()),
    ];
    let worker = Process::work(&stage, &environment)?;
    worker.stderr.event("started").await?;
    let ended = worker.stop_by("TERM").await?;

    let told = |event: &str| -> Vec<Value> {
        let lines = ended.stderr.events(event);
        lines.iter().map(|line| json!([line["level"], line["key"], line["number"]])).collect()
    };
    assert_eq!(told("virtual_host_empty"), [json!(["warn", "amqp.url", 1])]);
    assert_eq!(told("frame_max_not_used"), [json!(["warn", "amqp.url", 2])]);
    let clear = [json!(["warn", "amqp.url", 1]), json!(["warn", "amqp.management_url", 1])];
    assert_eq!(told("password_in_the_clear"), clear);
    assert_eq!(ended.code, Some(0), "a worker that waits for a broker ends at once");
    assert_clean("a log line", &ended.stderr.text())
}

broker_test!(a_password_that_the_broker_refuses_is_told_without_it);
async fn a_password_that_the_broker_refuses_is_told_without_it(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let url = with_wrong_password(stage.url())?;
    let quiet = [("CANCEL_WORKER_LOG", "trace"), ("CANCEL_WORKER__AMQP__URL", &url)];
    let worker = Process::work(&stage, &quiet)?;
    let refused = worker.stderr.event("login_refused").await?;
    let ended = worker.stop_by("TERM").await?;
    let why = refused["why"].as_str().unwrap_or_default();
    ensure!(why.contains("ACCESS_REFUSED"), "it says what is wrong: {why}");
    assert_eq!((&refused["level"], &refused["user.name"]), (&json!("error"), &json!(USER)));
    assert_eq!(ended.stderr.events("login_refused").len(), 1, "once a minute");
    assert_eq!(ended.code, Some(0));
    assert_clean("a log line", &ended.stderr.text())?;

    for command in [&["publish"][..], &["outcomes"], &["topology", "verify"], &["topology", "apply"]] {
        let arguments = [command, &["--url", &url, "--prefix", t.prefix()]].concat();
        let mut process = Process::start(&arguments, &[])?;
        process.say("").await?;
        let ended = process.ended().await?;
        assert_eq!(ended.code, Some(69), "{command:?}");
        let text = ended.stderr.text();
        ensure!(text.contains("ACCESS_REFUSED"), "{command:?} says what is wrong: {text}");
        assert_clean(&format!("{command:?}"), &format!("{}\n{text}", ended.stdout))?;
    }
    Ok(())
}
