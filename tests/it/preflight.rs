//! No letter is taken while the broker does not fit: what is wrong is named, with the queue, the argument and the
//! command that fixes it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cancel_worker::amqp::declare::delete_all;
use cancel_worker::amqp::preflight::{Finding, Note, Problem, Requirements, Unseen, apply, inspect};
use cancel_worker::amqp::topology::{Argument, Permissions, QueueKind, Who};
use cancel_worker::amqp::{Broker, Error, Session, Settings, Timeouts, Topology};
use cancel_worker::config::{Amqp, AmqpTls, Declare};
use cancel_worker::domain::intent::Kind;
use cancel_worker::domain::retry::{Tier, Tiers};
use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use url::Url;

use crate::process::cancellations::{Cancellation, Course};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::{Ended, Process};
use crate::support::stage::Stage;

/// The longest that a letter is in hand, in these tests.
const HANDLING_MAX: Duration = Duration::from_secs(190);

const DONE: i32 = 0;
const UNAVAILABLE: i32 = 69;

/// A topology at the broker that is right, until a test has changed it.
struct House {
    topology: Topology,
    channel: Channel,
    connection: lapin::Connection,
    amqp: Amqp,
    tiers: Tiers,
}

impl House {
    /// For a worker that declares what is missing.
    async fn new(t: &Context) -> Result<House> {
        House::of(t, Declare::Missing).await
    }

    async fn of(t: &Context, declare: Declare) -> Result<House> {
        let house = House::fresh(t, declare).await?;
        apply(&Broker::new(&house.amqp, "test", Timeouts::default())?, &house.topology).await?;
        Ok(house)
    }

    /// Where nothing is declared yet.
    async fn fresh(t: &Context, declare: Declare) -> Result<House> {
        let tiers = ["1s", "5s"]
            .map(|name| (name, name.trim_end_matches('s').parse().unwrap_or_default()))
            .map(|(name, seconds)| Tier { length: Duration::from_secs(seconds), name: name.to_owned() });
        let tiers = Tiers::try_new(tiers.to_vec()).context("two tiers")?;
        let topology = Topology::new(t.prefix(), tiers.as_slice());
        t.on_cleanup(
            topology.queues().iter().map(|queue| queue.name.clone()),
            topology.exchanges().iter().map(|exchange| exchange.name.clone()),
        );
        let amqp = Amqp {
            urls: vec![t.amqp_url().into()],
            management_url: t.broker().management_url().map(SecretString::from),
            prefix: t.prefix().to_owned(),
            declare,
            tls: AmqpTls::default(),
        };
        let connection = t.connect().await?;
        let channel = connection.create_channel().await?;
        Ok(House { topology, channel, connection, amqp, tiers })
    }

    fn name(&self, rest: &str) -> String {
        format!("{}.{rest}", self.topology.prefix())
    }

    /// Declares a queue anew, as somebody might who knows better.
    async fn redeclare_queue(&self, rest: &str, change: impl FnOnce(&mut FieldTable)) -> Result<()> {
        let name = self.name(rest);
        let queue = self.topology.queues().iter().find(|queue| queue.name == name).context("ours")?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text(queue.kind.as_str()));
        for (name, value) in &queue.arguments {
            let value = match value {
                Argument::Int(value) => AMQPValue::LongLongInt(*value),
                Argument::Text(value) => text(value),
            };
            arguments.insert((*name).into(), value);
        }
        change(&mut arguments);
        self.delete_queue(rest).await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.as_str().into(), durable, arguments).await?;
        Ok(())
    }

    async fn delete_queue(&self, rest: &str) -> Result<()> {
        self.channel.queue_delete(self.name(rest).as_str().into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }

    async fn redeclare_exchange(&self, rest: &str, kind: ExchangeKind, internal: bool) -> Result<()> {
        self.delete_exchange(rest).await?;
        let options = ExchangeDeclareOptions { durable: true, internal, ..ExchangeDeclareOptions::default() };
        let name = self.name(rest);
        self.channel.exchange_declare(name.as_str().into(), kind, options, FieldTable::default()).await?;
        Ok(())
    }

    async fn delete_exchange(&self, rest: &str) -> Result<()> {
        let name = self.name(rest);
        self.channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await?;
        Ok(())
    }

    fn settings(&self) -> Result<Settings> {
        let lanes = BTreeMap::from([(Kind::AsyncCancel, 1)]);
        let settings = Settings::new(&self.amqp, "test", &lanes, &self.tiers, Timeouts::default())?;
        Ok(settings.for_handling_of(HANDLING_MAX))
    }

    /// What a worker that starts says against this broker: everything at once.
    async fn refused(&self) -> Result<Vec<Finding>> {
        match Session::open(&self.settings()?, 1, 0).await {
            Ok(_) => bail!("work is taken"),
            Err(Error::Unfit { findings }) => Ok(findings),
            Err(error) => Err(error.into()),
        }
    }

    /// That a worker refuses because of just this, and tells what fixes it; and that a look from outside tells the
    /// same.
    async fn refused_for(&self, object: &str, argument: &str, found: &str, fix: &str) -> Result<()> {
        let findings = self.refused().await?;
        let [finding] = findings.as_slice() else { bail!("{findings:#?}") };
        told_as(finding, object, argument, found, fix);
        let settings = self.settings()?;
        let report = inspect(settings.broker(), settings.topology(), settings.requirements()).await?;
        assert_eq!(report.findings, findings);
        Ok(())
    }

    /// That a worker takes work.
    async fn takes_work(&self) -> Result<()> {
        Session::open(&self.settings()?, 1, 0).await?.close().await;
        Ok(())
    }

    /// What could not be checked.
    async fn unseen(&self) -> Result<Vec<Unseen>> {
        let settings = self.settings()?;
        Ok(inspect(settings.broker(), settings.topology(), settings.requirements()).await?.unseen)
    }
}

fn told_as(finding: &Finding, object: &str, argument: &str, found: &str, fix: &str) {
    let told = finding.to_string();
    assert_eq!(finding.object.to_string(), object, "{told}");
    assert_eq!((finding.argument().as_str(), finding.found()), (argument, found), "{told}");
    assert!(told.contains(fix), "{fix:?} is not in {told}");
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// The command that deletes a quorum queue of ours.
fn deleting(queue: &str) -> String {
    format!("`rabbitmqctl delete_queue {queue} -p /`, then `cancel-worker topology apply`")
}

/// The management API as the tests use it: to set what they find out about. `None` where there is none.
struct Management {
    url: Url,
    client: reqwest::Client,
}

impl Management {
    fn of(t: &Context) -> Result<Option<Management>> {
        let Some(url) = t.broker().management_url() else {
            println!("preflight: not tested, nobody says where the management API is");
            return Ok(None);
        };
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(15)).build()?;
        Ok(Some(Management { url: url.parse()?, client }))
    }

    fn at(&self, path: &[&str]) -> Result<Url> {
        let mut url = self.url.clone();
        url.path_segments_mut()
            .ok()
            .context("an address with a path")?
            .pop_if_empty()
            .push("api")
            .extend(path);
        Ok(url)
    }

    async fn put(&self, path: &[&str], body: &Value) -> Result<()> {
        let request = self.client.put(self.at(path)?).header("content-type", "application/json");
        request.body(body.to_string()).send().await?.error_for_status()?;
        Ok(())
    }

    async fn delete(&self, path: &[&str]) -> Result<()> {
        self.client.delete(self.at(path)?).send().await?.error_for_status()?;
        Ok(())
    }

    async fn set(&self, list: &str, name: &str, pattern: &str, definition: Value) -> Result<()> {
        let apply_to = if definition.get("alternate-exchange").is_some() { "exchanges" } else { "queues" };
        let pattern = format!("^{}$", pattern.replace('.', "\\."));
        let body =
            json!({ "pattern": pattern, "definition": definition, "apply-to": apply_to, "priority": 7 });
        self.put(&[list, "/", name], &body).await
    }

    async fn clear(&self, list: &str, name: &str) -> Result<()> {
        self.delete(&[list, "/", name]).await
    }

    /// Waits until the broker has counted this queue with this operator policy.
    async fn counted(&self, queue: &str, operator_policy: &str) -> Result<()> {
        let counting = async {
            loop {
                let row =
                    self.client.get(self.at(&["queues", "/", queue])?).send().await?.error_for_status()?;
                let row: Value = serde_json::from_slice(&row.bytes().await?)?;
                if row["operator_policy"] == operator_policy {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), counting).await.context("it is never counted")?
    }
}

/// Whether the broker knows this policy key: 3.11.15 and later, 3.12 and later.
fn knows_consumer_timeout(t: &Context) -> bool {
    !["3.10.", "3.11."].iter().any(|old| t.broker().version().starts_with(old))
}

broker_test!(a_right_topology_is_worked_with);
async fn a_right_topology_is_worked_with(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    house.takes_work().await
}

broker_test!(a_lane_of_the_wrong_type_is_refused);
async fn a_lane_of_the_wrong_type_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let lane = house.name("intents.async_cancel");
    house
        .redeclare_queue("intents.async_cancel", |arguments| {
            *arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), text("classic"));
        })
        .await?;
    let findings = house.refused().await?;
    let by_type = findings.iter().find(|it| it.argument() == "x-queue-type").context("the type is named")?;
    let fix =
        format!("`rabbitmqctl delete_queue {lane} --if-empty -p /`, then `cancel-worker topology apply`");
    assert!(
        by_type.to_string().contains(&format!("queue `{lane}`")) && by_type.fix.contains(&fix),
        "{by_type}"
    );
    assert_eq!(by_type.expected(), "quorum");
    Ok(())
}

broker_test!(a_low_delivery_limit_is_refused);
async fn a_low_delivery_limit_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let queue = house.name("returns.async_cancel");
    house
        .redeclare_queue("returns.async_cancel", |arguments| {
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(20));
        })
        .await?;
    house.refused_for(&format!("queue `{queue}`"), "x-delivery-limit", "20", &deleting(&queue)).await
}

broker_test!(a_queue_that_drops_its_head_is_refused);
async fn a_queue_that_drops_its_head_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let queue = house.name("announcements");
    house
        .redeclare_queue("announcements", |arguments| {
            arguments.insert("x-overflow".into(), text("drop-head"));
        })
        .await?;
    house.refused_for(&format!("queue `{queue}`"), "x-overflow", "drop-head", &deleting(&queue)).await
}

broker_test!(a_delay_that_leads_elsewhere_is_refused);
async fn a_delay_that_leads_elsewhere_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let (queue, elsewhere) = (house.name("delay.5s"), house.name("unrouted"));
    house
        .redeclare_queue("delay.5s", |arguments| {
            arguments.insert("x-dead-letter-exchange".into(), text(&elsewhere));
        })
        .await?;
    house
        .refused_for(&format!("queue `{queue}`"), "x-dead-letter-exchange", &elsewhere, &deleting(&queue))
        .await
}

broker_test!(a_delay_that_leads_nowhere_is_refused);
async fn a_delay_that_leads_nowhere_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let queue = house.name("delay.1s");
    house
        .redeclare_queue("delay.1s", |arguments| {
            let kept = ["x-queue-type", "x-message-ttl", "x-overflow", "x-delivery-limit"];
            let all = std::mem::take(arguments);
            for (name, value) in all.inner().iter().filter(|(name, _)| kept.contains(&name.as_str())) {
                arguments.insert(name.clone(), value.clone());
            }
        })
        .await?;
    let findings = house.refused().await?;
    let finding = findings.iter().find(|it| it.argument() == "x-dead-letter-exchange").context("named")?;
    told_as(finding, &format!("queue `{queue}`"), "x-dead-letter-exchange", "not set", &deleting(&queue));
    assert_eq!(finding.expected(), house.name("returns"));
    Ok(())
}

broker_test!(dead_lettering_at_most_once_is_refused);
async fn dead_lettering_at_most_once_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let queue = house.name("intents.batch_cancel");
    house
        .redeclare_queue("intents.batch_cancel", |arguments| {
            arguments.insert("x-dead-letter-strategy".into(), text("at-most-once"));
        })
        .await?;
    house
        .refused_for(&format!("queue `{queue}`"), "x-dead-letter-strategy", "at-most-once", &deleting(&queue))
        .await
}

broker_test!(a_delay_that_loses_the_way_home_is_refused);
async fn a_delay_that_loses_the_way_home_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let queue = house.name("delay.1s");
    house
        .redeclare_queue("delay.1s", |arguments| {
            arguments.insert("x-dead-letter-routing-key".into(), text("async_cancel"));
        })
        .await?;
    let (object, argument) = (format!("queue `{queue}`"), "x-dead-letter-routing-key");
    house.refused_for(&object, argument, "async_cancel", &deleting(&queue)).await
}

broker_test!(a_delay_of_another_length_is_refused);
async fn a_delay_of_another_length_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let queue = house.name("delay.5s");
    house
        .redeclare_queue("delay.5s", |arguments| {
            arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(9_000));
        })
        .await?;
    house.refused_for(&format!("queue `{queue}`"), "x-message-ttl", "9000", &deleting(&queue)).await
}

broker_test!(an_exchange_of_another_type_is_refused);
async fn an_exchange_of_another_type_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let exchange = house.name("outcomes");
    house.delete_exchange("outcomes").await?;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), text(&house.name("unrouted")));
    house
        .channel
        .exchange_declare(exchange.as_str().into(), ExchangeKind::Direct, options, arguments)
        .await?;
    let findings = house.refused().await?;
    let finding = findings.iter().find(|it| it.argument() == "type").context("the type is named")?;
    let fix = format!("/api/exchanges/%2F/{exchange}`, then `cancel-worker topology apply`");
    told_as(finding, &format!("exchange `{exchange}`"), "type", "direct", &fix);
    Ok(())
}

broker_test!(intents_without_an_alternate_are_refused);
async fn intents_without_an_alternate_are_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let exchange = house.name("intents");
    house.redeclare_exchange("intents", ExchangeKind::Topic, false).await?;
    let (object, fix) = (format!("exchange `{exchange}`"), format!("/api/exchanges/%2F/{exchange}`"));
    house.only_by_declaring(&object, "alternate-exchange", "not set", &fix).await
}

broker_test!(returns_that_clients_may_publish_to_are_refused);
async fn returns_that_clients_may_publish_to_are_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let exchange = house.name("returns");
    house.redeclare_exchange("returns", ExchangeKind::Topic, false).await?;
    let (object, fix) = (format!("exchange `{exchange}`"), format!("/api/exchanges/%2F/{exchange}`"));
    house.only_by_declaring(&object, "internal", "false", &fix).await
}

impl House {
    /// As [`refused_for`](House::refused_for), where the bindings went with an exchange and were declared again.
    async fn only_by_declaring(&self, object: &str, argument: &str, found: &str, fix: &str) -> Result<()> {
        let findings = self.refused().await?;
        let [finding] = findings.as_slice() else { bail!("{findings:#?}") };
        told_as(finding, object, argument, found, fix);
        Ok(())
    }
}

broker_test!(a_missing_target_of_dead_lettering_is_refused_by_a_worker_that_declares_nothing);
async fn a_missing_target_of_dead_lettering_is_refused_by_a_worker_that_declares_nothing(
    t: Context,
) -> Result<()> {
    let house = House::of(&t, Declare::Nothing).await?;
    let exchange = house.name("returns");
    house.delete_exchange("returns").await?;
    let (object, fix) = (format!("exchange `{exchange}`"), "`cancel-worker topology apply` declares it");
    house.refused_for(&object, "presence", "missing", fix).await
}

broker_test!(a_missing_stream_is_refused_by_a_worker_that_declares_nothing);
async fn a_missing_stream_is_refused_by_a_worker_that_declares_nothing(t: Context) -> Result<()> {
    let house = House::of(&t, Declare::Nothing).await?;
    let stream = house.name("dead-letters.log");
    house.delete_queue("dead-letters.log").await?;
    let (object, fix) = (format!("queue `{stream}`"), "`cancel-worker topology apply` declares it");
    house.refused_for(&object, "presence", "missing", fix).await
}

broker_test!(what_is_missing_is_declared_by_a_worker_that_may);
async fn what_is_missing_is_declared_by_a_worker_that_may(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    house.delete_queue("dead-letters.log").await?;
    house.delete_exchange("taps").await?;
    house.takes_work().await?;
    let settings = house.settings()?;
    let report = inspect(settings.broker(), settings.topology(), settings.requirements()).await?;
    assert_eq!(report.findings, []);
    Ok(())
}

broker_test!(what_a_worker_would_declare_is_no_finding_and_is_not_declared_by_a_look);
async fn what_a_worker_would_declare_is_no_finding_and_is_not_declared_by_a_look(t: Context) -> Result<()> {
    let house = House::fresh(&t, Declare::Missing).await?;
    let settings = house.settings()?;
    let (exchanges, queues) = (house.topology.exchanges().len(), house.topology.queues().len());
    // A second look finds the same, so the first has declared nothing.
    for _ in 0..2 {
        let report = inspect(settings.broker(), settings.topology(), settings.requirements()).await?;
        assert_eq!(report.findings, []);
        assert_eq!(report.notes, [Note::ToDeclare { exchanges, queues }]);
    }
    house.takes_work().await
}

broker_test!(what_a_worker_would_be_refused_on_a_fresh_broker_is_found_without_declaring_anything);
async fn what_a_worker_would_be_refused_on_a_fresh_broker_is_found_without_declaring_anything(
    t: Context,
) -> Result<()> {
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let house = House::fresh(&t, Declare::Missing).await?;
    let all = house.topology.permissions(Who::Worker(Declare::Missing));
    let owner = Broker::new(&house.amqp, "test", Timeouts::default())?;
    let only = |rest: &str| all.configure.replace("\\.", &format!("\\.{rest}"));
    for fewer in [
        Permissions { configure: "^$".to_owned(), ..all.clone() },
        Permissions { configure: only("(?!taps|rescue)"), ..all.clone() },
        Permissions { write: only("(?!rescue)"), ..all.clone() },
        Permissions { write: only("(?!announce$)"), ..all.clone() },
        Permissions { read: only("(?!returns)"), ..all.clone() },
    ] {
        let house = House::fresh(&t, Declare::Missing).await?;
        let (user, house) = as_user(&t, house, &management, &fewer).await?;
        let settings = house.settings()?;
        let looked = inspect(settings.broker(), settings.topology(), settings.requirements()).await;
        let refused = house.refused().await;
        management.delete(&["users", &user]).await?;
        let named = |findings: &[Finding]| {
            let all = findings.iter().filter(|it| it.problem != Problem::Missing);
            all.map(|it| (it.object.clone(), it.argument())).collect::<BTreeSet<_>>()
        };
        let (looked, refused) = (named(&looked?.findings), named(&refused?));
        assert!(!looked.is_empty(), "{fewer:?}");
        assert_eq!(looked, refused, "{fewer:?}");
        // Some of it was declared before the rest was refused.
        delete_all(&owner, &house.topology).await?;
    }
    Ok(())
}

broker_test!(a_missing_binding_is_refused_by_a_worker_that_declares_nothing);
async fn a_missing_binding_is_refused_by_a_worker_that_declares_nothing(t: Context) -> Result<()> {
    let house = House::of(&t, Declare::Nothing).await?;
    if Management::of(&t)?.is_none() {
        return Ok(());
    }
    let (source, destination) = (house.name("announce"), house.name("outcomes"));
    house
        .channel
        .exchange_unbind(
            destination.as_str().into(),
            source.as_str().into(),
            "".into(),
            Default::default(),
            FieldTable::default(),
        )
        .await?;
    let object = format!("binding `{source}` -> `{destination}`");
    house.refused_for(&object, "presence", "missing", "`cancel-worker topology apply` declares it").await
}

broker_test!(a_lane_that_is_not_bound_is_bound_by_a_worker_that_declares);
async fn a_lane_that_is_not_bound_is_bound_by_a_worker_that_declares(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let (lane, intents) = (house.name("intents.async_cancel"), house.name("intents"));
    house
        .channel
        .queue_unbind(
            lane.as_str().into(),
            intents.as_str().into(),
            "async_cancel".into(),
            FieldTable::default(),
        )
        .await?;
    house.takes_work().await?;
    let unbound: Vec<Finding> = {
        let settings = house.settings()?;
        inspect(settings.broker(), settings.topology(), settings.requirements()).await?.findings
    };
    assert_eq!(unbound, []);
    Ok(())
}

broker_test!(a_hostile_policy_is_refused_by_its_name);
async fn a_hostile_policy_is_refused_by_its_name(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let (queue, name) = (house.name("delay.5s"), format!("{}-hostile", t.prefix()));
    management.set("policies", &name, &queue, json!({ "max-length": 10 })).await?;
    let told = house
        .refused_for(
            &format!("queue `{queue}`"),
            &format!("max-length (policy `{name}`)"),
            "10",
            &format!("`rabbitmqctl clear_policy -p / {name}`"),
        )
        .await;
    management.clear("policies", &name).await?;
    told?;
    house.takes_work().await
}

broker_test!(everything_that_a_policy_can_change_is_refused);
async fn everything_that_a_policy_can_change_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let (queue, name) = (house.name("returns.batch_cancel"), format!("{}-hostile", t.prefix()));
    let definition = json!({
        "message-ttl": 1_000, "expires": 100_000, "max-length": 10, "max-length-bytes": 1_000, "overflow": "drop-head",
        "dead-letter-exchange": "elsewhere", "dead-letter-routing-key": "x", "delivery-limit": 5,
    });
    management.set("policies", &name, &queue, definition.clone()).await?;
    let told = house.refused().await;
    management.clear("policies", &name).await?;
    let mut told: Vec<String> = told?.iter().map(Finding::argument).collect();
    told.sort();
    let mut expected: Vec<String> = definition
        .as_object()
        .context("an object")?
        .keys()
        .map(|key| format!("{key} (policy `{name}`)"))
        .collect();
    expected.sort();
    assert_eq!(told, expected);
    Ok(())
}

broker_test!(a_policy_that_changes_nothing_of_ours_stops_nobody);
async fn a_policy_that_changes_nothing_of_ours_stops_nobody(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let (queue, name) = (house.name("delay.5s"), format!("{}-harmless", t.prefix()));
    let definition =
        json!({ "delivery-limit": 2_000_000, "overflow": "reject-publish", "message-ttl": 5_000 });
    management.set("policies", &name, &queue, definition).await?;
    let took = house.takes_work().await;
    management.clear("policies", &name).await?;
    took
}

broker_test!(an_operator_policy_is_refused_by_its_name);
async fn an_operator_policy_is_refused_by_its_name(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let (queue, name) = (house.name("intents.async_cancel"), format!("{}-operator", t.prefix()));
    management.set("operator-policies", &name, &queue, json!({ "message-ttl": 60_000 })).await?;
    management.counted(&queue, &name).await?;
    let told = house
        .refused_for(
            &format!("queue `{queue}`"),
            &format!("message-ttl (operator policy `{name}`)"),
            "60000",
            &format!("`rabbitmqctl clear_operator_policy -p / {name}`"),
        )
        .await;
    management.clear("operator-policies", &name).await?;
    told
}

broker_test!(a_policy_on_an_exchange_is_refused_by_its_name);
async fn a_policy_on_an_exchange_is_refused_by_its_name(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let (exchange, name) = (house.name("announce"), format!("{}-exchange", t.prefix()));
    management.set("policies", &name, &exchange, json!({ "alternate-exchange": "amq.fanout" })).await?;
    let told = house
        .refused_for(
            &format!("exchange `{exchange}`"),
            &format!("alternate-exchange (policy `{name}`)"),
            "amq.fanout",
            &format!("`rabbitmqctl clear_policy -p / {name}`"),
        )
        .await;
    management.clear("policies", &name).await?;
    told
}

broker_test!(a_policy_with_too_short_a_consumer_timeout_is_refused);
async fn a_policy_with_too_short_a_consumer_timeout_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    if !knows_consumer_timeout(&t) {
        println!("preflight: not tested, RabbitMQ {} knows no such policy", t.broker().version());
        return Ok(());
    }
    let (queue, name) = (house.name("returns.async_cancel"), format!("{}-impatient", t.prefix()));
    management.set("policies", &name, &queue, json!({ "consumer-timeout": 120_000 })).await?;
    let told = house
        .refused_for(
            &format!("queue `{queue}`"),
            &format!("consumer-timeout (policy `{name}`)"),
            "120000",
            "190000 or more",
        )
        .await;
    management.set("policies", &name, &queue, json!({ "consumer-timeout": 190_000 })).await?;
    let took = house.takes_work().await;
    management.clear("policies", &name).await?;
    told?;
    took
}

broker_test!(a_queue_with_too_short_a_consumer_timeout_is_refused);
async fn a_queue_with_too_short_a_consumer_timeout_is_refused(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    if Management::of(&t)?.is_none() {
        return Ok(());
    }
    let queue = house.name("isolation");
    house
        .redeclare_queue("isolation", |arguments| {
            arguments.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(60_000));
        })
        .await?;
    house.refused_for(&format!("queue `{queue}`"), "x-consumer-timeout", "60000", &deleting(&queue)).await
}

broker_test!(the_brokers_own_consumer_timeout_is_said_not_to_be_seen);
async fn the_brokers_own_consumer_timeout_is_said_not_to_be_seen(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    if Management::of(&t)?.is_none() {
        return Ok(());
    }
    let unseen = house.unseen().await?;
    let timeout = unseen.iter().find(|it| it.what == "the broker's own consumer_timeout");
    let timeout = timeout.context("it is said")?;
    assert!(timeout.why.contains("at least 190000 ms"), "{timeout}");
    Ok(())
}

/// A user with these permissions, and the house as he finds it.
async fn as_user(
    t: &Context,
    house: House,
    management: &Management,
    permissions: &Permissions,
) -> Result<(String, House)> {
    let user = format!("{}-user", t.prefix());
    let Permissions { configure, write, read } = permissions;
    management.put(&["users", &user], &json!({ "password": "secret", "tags": "" })).await?;
    let permissions = json!({ "configure": configure, "write": write, "read": read });
    management.put(&["permissions", "/", &user], &permissions).await?;
    let mut url = Url::parse(t.amqp_url())?;
    url.set_username(&user).ok().context("a user can be set")?;
    url.set_password(Some("secret")).ok().context("a password can be set")?;
    let amqp = Amqp { urls: vec![url.as_str().into()], ..house.amqp.clone() };
    Ok((user, House { amqp, ..house }))
}

broker_test!(a_missing_permission_is_refused_with_the_least_that_is_needed);
async fn a_missing_permission_is_refused_with_the_least_that_is_needed(t: Context) -> Result<()> {
    let house = House::of(&t, Declare::Nothing).await?;
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let least = house.topology.permissions(Who::Worker(Declare::Nothing));
    let fewer = Permissions { write: least.write.replace("isolation", "x"), ..least.clone() };
    let (user, house) = as_user(&t, house, &management, &fewer).await?;
    let told = house
        .refused_for(
            &format!("exchange `{}`", house.name("isolation")),
            "permission to publish to it",
            "refused",
            &format!("`rabbitmqctl set_permissions -p / USER '^$' '{}' '{}'`", least.write, least.read),
        )
        .await;
    management.delete(&["users", &user]).await?;
    told
}

broker_test!(a_worker_that_declares_must_be_allowed_to);
async fn a_worker_that_declares_must_be_allowed_to(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let fewer = house.topology.permissions(Who::Worker(Declare::Nothing));
    let needed = house.topology.permissions(Who::Worker(Declare::Missing));
    let (user, house) = as_user(&t, house, &management, &fewer).await?;
    let told = house.refused().await;
    management.delete(&["users", &user]).await?;
    let told = told?;
    assert!(told.iter().all(|it| it.argument() == "permission to declare it"), "{told:#?}");
    let objects: Vec<String> = told.iter().map(|it| it.object.to_string()).collect();
    assert!(objects.contains(&format!("queue `{}`", house.name("rescue"))), "{objects:?}");
    assert!(told[0].fix.contains(&format!("USER '{}'", needed.configure)), "{}", told[0]);
    assert!(!told[0].to_string().contains(&user), "{}", told[0]);
    Ok(())
}

broker_test!(all_that_is_wrong_is_told_at_once);
async fn all_that_is_wrong_is_told_at_once(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    for (queue, argument) in [("delay.1s", "x-message-ttl"), ("rescue", "x-delivery-limit")] {
        house
            .redeclare_queue(queue, |arguments| {
                arguments.insert(argument.into(), AMQPValue::LongLongInt(7));
            })
            .await?;
    }
    house.redeclare_exchange("taps", ExchangeKind::Direct, false).await?;
    let told: Vec<(String, String)> =
        house.refused().await?.iter().map(|it| (it.object.to_string(), it.argument())).collect();
    for (object, argument) in [
        (format!("queue `{}`", house.name("delay.1s")), "x-message-ttl"),
        (format!("queue `{}`", house.name("rescue")), "x-delivery-limit"),
        (format!("exchange `{}`", house.name("taps")), "type"),
    ] {
        assert!(told.contains(&(object, argument.to_owned())), "{told:?}");
    }
    // What is missing besides was declared all the same.
    house.delete_queue("unrouted").await?;
    house.refused().await?;
    let channel = house.connection.create_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(house.name("unrouted").as_str().into(), passive, FieldTable::default()).await?;
    Ok(())
}

broker_test!(without_a_management_api_it_is_said_what_was_not_checked);
async fn without_a_management_api_it_is_said_what_was_not_checked(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let gone = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let urls = [
        (None, "amqp.management_url is not set"),
        (Some(format!("http://canary:canary@{gone}")), "is not to be reached"),
        (Some(format!("http://canary:canary@{}", silent.local_addr()?)), "did not answer in time"),
    ];
    for (url, why) in urls {
        let amqp = Amqp { management_url: url.map(SecretString::from), ..house.amqp.clone() };
        let lanes = BTreeMap::from([(Kind::AsyncCancel, 1)]);
        let settings = Settings::new(&amqp, "test", &lanes, &house.tiers, Timeouts::default())?;
        let report = inspect(settings.broker(), settings.topology(), settings.requirements()).await?;
        assert_eq!(report.findings, []);
        let [unseen] = report.unseen.as_slice() else { bail!("{report:?}") };
        assert!(unseen.what.contains("policies") && unseen.why.contains(why), "{unseen}");
        assert!(!unseen.to_string().contains("canary"), "{unseen}");
        Session::open(&settings, 1, 0).await?.close().await;
    }
    Ok(())
}

broker_test!(a_person_who_looks_needs_no_permission_of_a_worker);
async fn a_person_who_looks_needs_no_permission_of_a_worker(t: Context) -> Result<()> {
    let house = House::new(&t).await?;
    let settings = house.settings()?;
    let requirements = Requirements { worker: None, ..settings.requirements().clone() };
    let report = inspect(settings.broker(), settings.topology(), &requirements).await?;
    assert_eq!(report.findings, []);
    Ok(())
}

/// The configuration of a stage with the management API in it.
fn with_management(t: &Context, more: &str) -> Option<String> {
    let url = t.broker().management_url()?;
    Some(format!("[amqp]\nmanagement_url = \"{url}\"\n{more}"))
}

/// An intent whose cancel succeeds, and its id.
async fn cancellation(stage: &Stage) -> Result<String> {
    let cancellation = Cancellation::new(stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.publish(&cancellation.intent).await?;
    cancellation.intent["intentId"].as_str().map(str::to_owned).context("an intent has an id")
}

broker_test!(a_worker_refuses_at_its_start_and_begins_by_itself_when_it_is_fixed);
async fn a_worker_refuses_at_its_start_and_begins_by_itself_when_it_is_fixed(t: Context) -> Result<()> {
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let tuning = with_management(&t, "").context("as before")?;
    let stage = Stage::new(&t, &tuning).await?;
    let name = format!("{}-hostile", t.prefix());
    let lane = format!("{}.intents.transaction_cancel", t.prefix());
    management.set("policies", &name, &lane, json!({ "message-ttl": 3_600_000 })).await?;
    let subject = cancellation(&stage).await?;

    let process = Process::work(&stage, &[])?;
    let refused = process.stderr.event("topology_incompatible").await?;
    assert!(process.stderr.events("generation_started").is_empty(), "{}", process.stderr.text());
    assert!(stage.ledger.events().is_empty());
    management.clear("policies", &name).await?;
    process.stderr.event("generation_started").await?;
    let end = stage.ledger.end_of(&subject).await?;

    assert_eq!(end["data"]["status"], "cancelled");
    assert_eq!(refused["object"], format!("queue `{lane}`"));
    assert_eq!(refused["argument"], format!("message-ttl (policy `{name}`)"));
    assert_eq!((&refused["found"], &refused["expected"]), (&json!("3600000"), &json!("not set")));
    let fix = refused["fix"].as_str().unwrap_or_default();
    assert!(fix.contains(&format!("`rabbitmqctl clear_policy -p / {name}`")), "{fix}");
    let ended = process.stop_by("TERM").await?;
    assert_eq!(ended.code, Some(DONE));
    nothing_secret(&t, &ended)
}

broker_test!(a_worker_that_refuses_ends_with_0_on_a_signal);
async fn a_worker_that_refuses_ends_with_0_on_a_signal(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let lane = format!("{}.rescue", t.prefix());
    let channel = stage.connection().create_channel().await?;
    channel.queue_delete(lane.as_str().into(), QueueDeleteOptions::default()).await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(lane.as_str().into(), durable, FieldTable::default()).await?;
    let process = Process::work(&stage, &[])?;
    process.stderr.event("topology_incompatible").await?;
    assert_eq!(process.stop_by("TERM").await?.code, Some(DONE));
    Ok(())
}

broker_test!(a_policy_that_comes_while_letters_are_taken_stops_that_until_it_goes);
async fn a_policy_that_comes_while_letters_are_taken_stops_that_until_it_goes(t: Context) -> Result<()> {
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let tuning = with_management(&t, "").context("as before")?;
    let stage = Stage::new(&t, &tuning).await?;
    let process = Process::work(&stage, &[])?;
    process.stderr.event("generation_started").await?;
    let name = format!("{}-late", t.prefix());
    let queue = format!("{}.dead-letters", t.prefix());
    management.set("policies", &name, &queue, json!({ "max-length": 1 })).await?;

    process.stderr.event("generation_ended").await?;
    let subject = cancellation(&stage).await?;
    let told = process.stderr.event("topology_incompatible").await?;
    assert_eq!(told["argument"], format!("max-length (policy `{name}`)"));
    management.clear("policies", &name).await?;

    assert_eq!(stage.ledger.end_of(&subject).await?["data"]["status"], "cancelled");
    assert_eq!(process.stderr.events("generation_started").len(), 2);
    process.stop_by("TERM").await?;
    Ok(())
}

/// Runs a command of this stage to its end.
async fn run(stage: &Stage, arguments: &[&str]) -> Result<Ended> {
    let config = NamedTempFile::new()?;
    std::fs::write(config.path(), stage.toml())?;
    let path = config.path().to_str().context("a path of ours is text")?;
    Process::start(&[arguments, &["--config", path]].concat(), &[])?.ended().await
}

fn nothing_secret(t: &Context, ended: &Ended) -> Result<()> {
    let url = Url::parse(t.broker().management_url().context("asked before")?)?;
    let (user, password) = (url.username(), url.password().unwrap_or_default());
    for secret in [format!("{user}:{password}"), format!("{user}@"), format!(":{password}@")] {
        for text in [&ended.stdout, &ended.stderr.text()] {
            ensure!(!text.contains(&secret), "{secret:?} is in {text}");
        }
    }
    Ok(())
}

broker_test!(check_verify_and_diff_tell_the_same_in_words);
async fn check_verify_and_diff_tell_the_same_in_words(t: Context) -> Result<()> {
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let tuning = with_management(&t, "").context("as before")?;
    let stage = Stage::new(&t, &tuning).await?;
    let (check, verify, diff) =
        (&["check", "--broker"][..], &["topology", "verify"][..], &["topology", "diff"][..]);
    for command in [check, verify, diff] {
        let ended = run(&stage, command).await?;
        assert_eq!(ended.code, Some(DONE), "{command:?}: {}{}", ended.stdout, ended.stderr.text());
        assert!(
            ended.stdout.contains("the broker's own consumer_timeout could not be checked"),
            "{command:?}"
        );
        nothing_secret(&t, &ended)?;
    }
    let name = format!("{}-hostile", t.prefix());
    let queue = format!("{}.dead-letters", t.prefix());
    management.set("policies", &name, &queue, json!({ "max-length": 5 })).await?;
    let (checked, verified, compared) =
        (run(&stage, check).await?, run(&stage, verify).await?, run(&stage, diff).await?);
    management.clear("policies", &name).await?;

    let command = format!("`rabbitmqctl clear_policy -p / {name}`");
    let sentence =
        format!("queue `{queue}`: policy `{name}` sets `max-length` to 5, and it must be not set. ");
    for ended in [&checked, &verified] {
        assert_eq!(ended.code, Some(UNAVAILABLE));
        let line = ended.stdout.lines().find(|line| line.starts_with(&sentence)).context("it is told")?;
        assert!(line.contains(&command), "{line}");
    }
    assert_eq!(compared.code, Some(DONE));
    let [head, row] = compared.stdout.lines().take(2).collect::<Vec<_>>()[..] else { bail!("no table") };
    assert_eq!(head.split_whitespace().collect::<Vec<_>>(), ["NAME", "ARGUMENT", "EXPECTED", "FOUND", "FIX"]);
    for cell in [&*queue, &*name, "max-length", "not set", "5", &*command] {
        assert!(row.contains(cell), "{cell:?} is not in {row}");
    }
    for ended in [&checked, &verified, &compared] {
        nothing_secret(&t, ended)?;
    }
    Ok(())
}

broker_test!(one_policy_on_all_queues_is_one_finding_and_its_name_does_nothing_to_a_terminal);
async fn one_policy_on_all_queues_is_one_finding_and_its_name_does_nothing_to_a_terminal(
    t: Context,
) -> Result<()> {
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let house = House::new(&t).await?;
    let url = t.broker().management_url().context("asked before")?;
    let name = format!("{}-\u{1b}cevil\u{7}\u{9b}2J'", t.prefix());
    let pattern = format!("^{}\\.", t.prefix().replace('.', "\\."));
    let definition = json!({ "max-length": 7, "max-length-bytes": 9000 });
    let policy = json!({ "pattern": pattern, "definition": definition, "apply-to": "queues", "priority": 7 });
    management.put(&["policies", "/", &name], &policy).await?;
    let target = ["--url", t.amqp_url(), "--prefix", t.prefix(), "--management-url", url];
    let verified = Process::start(&[&["topology", "verify"], &target[..]].concat(), &[])?.ended().await;
    let compared = Process::start(&[&["topology", "diff"], &target[..]].concat(), &[])?.ended().await;
    management.clear("policies", &name).await?;
    let (verified, compared) = (verified?, compared?);

    let told: Vec<&str> = verified.stdout.lines().filter(|line| line.contains("evil")).collect();
    let [line] = told.as_slice() else { bail!("{}", verified.stdout) };
    for words in
        ["sets `max-length` to 7", "sets `max-length-bytes` to 9000", "\\033cevil\\007\\302\\2332J\\''`"]
    {
        assert!(line.contains(words), "{words:?} is not in {line}");
    }
    // A stream cannot have such a limit.
    for queue in house.topology.queues().iter().filter(|queue| queue.kind == QueueKind::Quorum) {
        assert_eq!(line.matches(&format!("`{}`", queue.name)).count(), 1, "{}: {line}", queue.name);
    }
    assert!(
        verified.stderr.text().contains("2 differences"),
        "{}{}",
        verified.stdout,
        verified.stderr.text()
    );
    for text in [verified.stdout, verified.stderr.text(), compared.stdout, compared.stderr.text()] {
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
    Ok(())
}

broker_test!(a_queue_that_is_limited_is_told_with_its_limit_without_a_management_api_too);
async fn a_queue_that_is_limited_is_told_with_its_limit_without_a_management_api_too(
    t: Context,
) -> Result<()> {
    for (argument, limit) in [("x-max-length", 10), ("x-max-length-bytes", 5_000)] {
        let house = House::new(&t).await?;
        let house = House { amqp: Amqp { management_url: None, ..house.amqp.clone() }, ..house };
        house
            .redeclare_queue("rescue", |arguments| {
                arguments.insert(argument.into(), AMQPValue::LongLongInt(limit));
            })
            .await?;
        let queue = house.name("rescue");
        let object = format!("queue `{queue}`");
        house.refused_for(&object, argument, &limit.to_string(), &deleting(&queue)).await?;
        house.delete_queue("rescue").await?;
    }
    Ok(())
}

broker_test!(the_management_api_can_be_named_on_the_command_line);
async fn the_management_api_can_be_named_on_the_command_line(t: Context) -> Result<()> {
    let Some(management) = Management::of(&t)? else { return Ok(()) };
    let house = House::new(&t).await?;
    let url = t.broker().management_url().context("asked before")?;
    let (name, queue) = (format!("{}-hostile", t.prefix()), house.name("unrouted"));
    management.set("policies", &name, &queue, json!({ "expires": 1_000_000 })).await?;
    let target = ["topology", "verify", "--url", t.amqp_url(), "--prefix", t.prefix()];
    let named = Process::start(&[&target[..], &["--management-url", url]].concat(), &[])?.ended().await;
    let from_environment = Process::start(&target, &[("RABBITMQ_MANAGEMENT_URL", url)])?.ended().await;
    management.clear("policies", &name).await?;
    for ended in [named?, from_environment?] {
        assert_eq!(ended.code, Some(UNAVAILABLE));
        assert!(ended.stdout.contains(&format!("policy `{name}` sets `expires`")), "{}", ended.stdout);
        nothing_secret(&t, &ended)?;
    }
    Ok(())
}
