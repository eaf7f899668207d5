//! What the broker lets us do, told before work is taken.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::amqp::preflight::{BrokerObject, Finding, Problem, Requirements, apply, inspect};
use cancel_worker::amqp::topology::{Permissions, Who};
use cancel_worker::amqp::{Broker, Timeouts, Topology};
use cancel_worker::config::{Amqp, AmqpTls, Declare};
use cancel_worker::domain::intent::Kind;
use cancel_worker::domain::retry::Tier;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use serde_json::Value;
use tempfile::NamedTempFile;
use url::Url;

use crate::process::cancellations::{Cancellation, Course};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::Process;
use crate::support::stage::Stage;

fn broker(url: &str, prefix: &str) -> Result<Broker> {
    let amqp = Amqp {
        urls: vec![url.into()],
        management_url: None,
        prefix: prefix.to_owned(),
        declare: Declare::Nothing,
        tls: AmqpTls::default(),
    };
    Ok(Broker::new(&amqp, "test", Timeouts::default())?)
}

/// What a worker that declares nothing finds.
async fn permissions(broker: &Broker, topology: &Topology) -> Result<Vec<Finding>> {
    let requirements = Requirements { worker: Some(Declare::Nothing), ..Requirements::default() };
    Ok(inspect(broker, topology, &requirements).await?.findings)
}

/// A user with these permissions, and the address with which it connects. `None` where the broker is not ours to
/// give users to.
async fn user(t: &Context, name: &str, permissions: &Permissions) -> Result<Option<Broker>> {
    let add = ["add_user", name, "secret"];
    let Some(added) = t.broker().ctl(&add).await else { return Ok(None) };
    added?;
    let Permissions { configure, write, read } = permissions;
    let set = ["set_permissions", name, configure, write, read];
    t.broker().ctl(&set).await.context("it was ours a moment ago")??;
    let mut url = Url::parse(t.amqp_url())?;
    url.set_username(name).ok().context("a user can be set")?;
    url.set_password(Some("secret")).ok().context("a password can be set")?;
    Ok(Some(broker(url.as_str(), t.prefix())?))
}

broker_test!(a_worker_that_may_not_declare_works_by_its_first_connections);
async fn a_worker_that_may_not_declare_works_by_its_first_connections(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "amqp.declare = false").await?;
    let least = stage.topology().permissions(Who::Worker(Declare::Nothing));
    let name = format!("{}-undeclaring", t.prefix());
    if user(&t, &name, &least).await?.is_none() {
        println!("permissions: not tested, this broker is not ours to give users to");
        return Ok(());
    }
    let mut url = Url::parse(t.amqp_url())?;
    url.set_username(&name).ok().context("a user can be set")?;
    url.set_password(Some("secret")).ok().context("a password can be set")?;
    // So that channels are opened, refused and opened again in every order.
    for _ in 0..5 {
        let worker = Process::work(&stage, &[("CANCEL_WORKER__AMQP__URL", url.as_str())])?;
        worker.stderr.event("generation_started").await?;
        let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
        stage.publish(&cancellation.intent).await?;
        cancellation.ended(&stage, 1).await.with_context(|| worker.stderr.text())?;
        let ended = worker.stop_by("TERM").await?;
        assert_eq!(ended.code, Some(0));
        for event in ["waiting_for_broker", "generation_ended"] {
            assert_eq!(ended.stderr.events(event), [Value::Null; 0], "{}", ended.stderr.text());
        }
    }
    t.broker().ctl(&["delete_user", &name]).await.context("as before")??;
    Ok(())
}

broker_test!(the_least_permissions_of_a_worker_are_enough_and_one_less_is_told);
async fn the_least_permissions_of_a_worker_are_enough_and_one_less_is_told(t: Context) -> Result<()> {
    let tier = Tier { length: std::time::Duration::from_secs(1), name: "1s".to_owned() };
    let topology = Topology::new(t.prefix(), &[tier]);
    t.on_cleanup(
        topology.queues().iter().map(|queue| queue.name.clone()),
        topology.exchanges().iter().map(|exchange| exchange.name.clone()),
    );
    apply(&broker(t.amqp_url(), t.prefix())?, &topology).await?;
    let least = topology.permissions(Who::Worker(Declare::Nothing));
    let Some(enough) = user(&t, &format!("{}-enough", t.prefix()), &least).await? else {
        println!("permissions: not tested, this broker is not ours to give users to");
        return Ok(());
    };
    let less = Permissions { write: least.write.replace("announce|", ""), ..least.clone() };
    let deaf = Permissions { read: "^$".to_owned(), ..least };
    let less = user(&t, &format!("{}-less", t.prefix()), &less).await?.context("as before")?;
    let deaf = user(&t, &format!("{}-deaf", t.prefix()), &deaf).await?.context("as before")?;

    assert_eq!(permissions(&enough, &topology).await?, []);
    let told = permissions(&less, &topology).await?;
    let [finding] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(finding.object, BrokerObject::Exchange(format!("{}.announce", t.prefix())));
    assert!(matches!(finding.problem, Problem::NotPermitted { doing: "publish to" }), "{finding}");
    assert!(finding.fix.contains("rabbitmqctl set_permissions -p / USER"), "{finding}");
    assert_eq!(permissions(&deaf, &topology).await?.len(), topology.consumed_from().len());

    for name in ["enough", "less", "deaf"] {
        let delete = ["delete_user", &format!("{}-{name}", t.prefix())];
        t.broker().ctl(&delete).await.context("as before")??;
    }
    Ok(())
}

/// The commands that `topology permissions` prints for a role, as the words that a shell makes of them.
async fn printed(t: &Context, role: &str, user: &str) -> Result<Vec<Vec<String>>> {
    let arguments =
        ["topology", "permissions", "--prefix", t.prefix(), "--user", user, "--ledger", t.prefix()];
    let printed = Process::start(&arguments, &[])?.ended().await?.stdout;
    let section = printed.lines().skip_while(|line| !line.starts_with(&format!("# {role}"))).skip(1);
    let commands: Vec<&str> = section.take_while(|line| !line.starts_with('#')).collect();
    ensure!(!commands.is_empty(), "nothing for {role}: {printed}");
    let words = commands.iter().map(|command| {
        let script = format!("printf '%s\\0' {command}");
        let output = Command::new("bash").args(["-c", &script]).output()?;
        let words = String::from_utf8(output.stdout)?;
        Ok(words.split_terminator('\0').map(str::to_owned).collect())
    });
    words.collect()
}

/// A user of this role, made by the printed commands, and its address.
async fn in_the_role(t: &Context, role: &str, name: &str) -> Result<Option<String>> {
    let user = format!("{}-{name}", t.prefix());
    let Some(added) = t.broker().ctl(&["add_user", &user, "secret"]).await else { return Ok(None) };
    added?;
    for command in printed(t, role, &user).await? {
        ensure!(command[0] == "rabbitmqctl", "{command:?}");
        let arguments: Vec<&str> = command[1..].iter().map(String::as_str).collect();
        t.broker().ctl(&arguments).await.context("it was ours a moment ago")??;
    }
    let mut url = Url::parse(t.amqp_url())?;
    url.set_username(&user).ok().context("a user can be set")?;
    url.set_password(Some("secret")).ok().context("a password can be set")?;
    Ok(Some(url.into()))
}

/// Somebody at the broker, each deed on a channel of its own, since a refusal ends it.
struct Somebody(lapin::Connection);

impl Somebody {
    async fn at(url: &str) -> Result<Somebody> {
        Ok(Somebody(lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await?))
    }

    async fn publishes(&self, exchange: &str, key: &str) -> lapin::Result<()> {
        let channel = self.0.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicPublishOptions::default();
        channel
            .basic_publish(exchange.into(), key.into(), options, b"{}", lapin::BasicProperties::default())
            .await?
            .await?;
        channel.close(200, "done".into()).await
    }

    async fn declares(&self, queue: &str) -> lapin::Result<()> {
        let channel = self.0.create_channel().await?;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
        channel.close(200, "done".into()).await
    }

    async fn binds(&self, queue: &str, exchange: &str) -> lapin::Result<()> {
        let channel = self.0.create_channel().await?;
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.into(), exchange.into(), "#".into(), options, FieldTable::default()).await?;
        channel.close(200, "done".into()).await
    }

    async fn takes(&self, queue: &str) -> lapin::Result<()> {
        let channel = self.0.create_channel().await?;
        channel.basic_get(queue.into(), BasicGetOptions::default()).await?;
        channel.close(200, "done".into()).await
    }
}

async fn ends_with_0(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Result<()> {
    let mut process = Process::start(arguments, environment)?;
    process.say(input).await.ok();
    let ended = process.ended().await?;
    ensure!(ended.code == Some(0), "{arguments:?}: {}{}", ended.stdout, ended.stderr.text());
    Ok(())
}

broker_test!(each_role_can_do_its_job_with_the_printed_permissions_and_a_publisher_or_ledger_nothing_more);
async fn each_role_can_do_its_job_with_the_printed_permissions_and_a_publisher_or_ledger_nothing_more(
    t: Context,
) -> Result<()> {
    let Some(declaring) = in_the_role(&t, "worker that declares what", "declaring").await? else {
        println!("permissions: not tested, this broker is not ours to give users to");
        return Ok(());
    };
    let stage = Stage::new(&t, "").await?;
    let name = |rest: &str| format!("{}.{rest}", t.prefix());
    let role = async |role: &str, name: &str| in_the_role(&t, role, name).await?.context("as before");

    // Workers. What is missing is declared by the one that may.
    let config = NamedTempFile::new()?;
    std::fs::write(config.path(), stage.toml())?;
    let path = config.path().to_str().context("a path of ours is text")?;
    let channel = stage.connection().create_channel().await?;
    channel.queue_delete(name("rescue").as_str().into(), QueueDeleteOptions::default()).await?;
    let environment = [("CANCEL_WORKER_CONFIG", path), ("CANCEL_WORKER__AMQP__URL", declaring.as_str())];
    ends_with_0(&["topology", "apply"], &environment, "").await?;
    ends_with_0(&["check", "--broker"], &environment, "").await?;
    let idle = role("worker that declares nothing", "idle").await?;
    let environment = [
        ("CANCEL_WORKER_CONFIG", path),
        ("CANCEL_WORKER__AMQP__URL", idle.as_str()),
        ("CANCEL_WORKER__AMQP__DECLARE", "false"),
    ];
    ends_with_0(&["check", "--broker"], &environment, "").await?;

    let order_system = role("order system", "orders").await?;
    let cancellation = Cancellation::new(&stage, Kind::AsyncCancel, Course::AtOnce)?;
    let at = ["publish", "--url", &order_system, "--prefix", t.prefix()];
    ends_with_0(&at, &[], &cancellation.intent.to_string()).await?;
    let somebody = Somebody::at(&order_system).await?;
    for exchange in
        ["announce", "outcomes", "taps", "dead-letters", "isolation", "rescue", "unrouted", "delay.1s"]
    {
        assert!(somebody.publishes(&name(exchange), "async_cancel").await.is_err(), "{exchange}");
    }
    assert!(somebody.publishes("", &name("intents.async_cancel")).await.is_err(), "the default exchange");
    assert!(somebody.publishes(&name("intents"), "no_kind").await.is_err(), "another key");
    assert!(somebody.declares(&name("intents.own")).await.is_err());
    assert!(somebody.binds(&name("intents.async_cancel"), &name("outcomes")).await.is_err());
    for queue in ["intents.async_cancel", "returns.async_cancel", "dead-letters", "unrouted"] {
        assert!(somebody.takes(&name(queue)).await.is_err(), "{queue}");
    }

    let ledger = Somebody::at(&role("ledger", "ledger").await?).await?;
    let own = format!("ledger.{}", t.prefix());
    for queue in [own.clone(), format!("{own}.more")] {
        ledger.declares(&queue).await?;
        ledger.binds(&queue, &name("outcomes")).await?;
        ledger.takes(&queue).await?;
    }
    for others in ["ledger.other".to_owned(), format!("{own}x"), name("own")] {
        assert!(ledger.declares(&others).await.is_err(), "{others}");
        assert!(ledger.takes(&others).await.is_err(), "{others}");
    }
    for source in ["announce", "taps", "intents", "dead-letters", "returns"] {
        assert!(ledger.binds(&own, &name(source)).await.is_err(), "{source}");
    }
    for exchange in ["outcomes", "announce", "intents", "dead-letters"] {
        assert!(ledger.publishes(&name(exchange), "async_cancel").await.is_err(), "{exchange}");
    }
    for queue in ["intents.async_cancel", "dead-letters", "unrouted"] {
        assert!(ledger.takes(&name(queue)).await.is_err(), "{queue}");
    }

    for queue in [own.clone(), format!("{own}.more")] {
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
    }

    let operator = Somebody::at(&role("operator", "operator").await?).await?;
    operator.declares(&name("lease.dead-letters")).await?;
    t.on_cleanup([name("lease.dead-letters")], Vec::new());
    for queue in ["dead-letters", "unrouted"] {
        operator.takes(&name(queue)).await?;
    }
    for (exchange, key) in [("announce", "x.y"), ("intents", "async_cancel")] {
        operator.publishes(&name(exchange), key).await?;
    }
    assert!(operator.takes(&name("intents.async_cancel")).await.is_err());

    let onlooker = role("onlooker", "onlooker").await?;
    let tail =
        Process::start(&["outcomes", "--url", &onlooker, "--prefix", t.prefix(), "--count", "1"], &[])?;
    tail.stderr.wait_for("listener", |line| line.starts_with("listening")).await?;
    Somebody::at(t.amqp_url()).await?.publishes(&name("taps"), "x.y").await?;
    assert_eq!(tail.ended().await?.code, Some(0));
    assert!(Somebody::at(&onlooker).await?.takes(&name("dead-letters")).await.is_err());

    // A right that is missing is told as that, with the command that gives it.
    let mut publish = Process::start(&["publish", "--url", &onlooker, "--prefix", t.prefix()], &[])?;
    publish.say(&cancellation.intent.to_string()).await?;
    let refused = publish.ended().await?;
    assert_eq!(refused.code, Some(64), "{}", refused.stderr.text());
    let exchange = format!("no permission to publish to exchange `{}`", name("intents"));
    for words in [&*exchange, "rabbitmqctl set_permissions -p / USER '^$'"] {
        assert!(refused.stderr.text().contains(words), "{words:?} is not in {}", refused.stderr.text());
    }

    let monitor = Url::parse(&role("monitor", "monitor").await?)?;
    if let Some(url) = t.broker().management_url() {
        let mut url = Url::parse(url)?;
        url.set_username(monitor.username()).ok().context("a user can be set")?;
        url.set_password(Some("secret")).ok().context("a password can be set")?;
        let environment = [("CANCEL_WORKER_CONFIG", path), ("RABBITMQ_MANAGEMENT_URL", "")];
        let verified =
            Process::start(&["topology", "verify", "--management-url", url.as_str()], &environment)?
                .ended()
                .await?;
        assert_eq!(verified.code, Some(0), "{}{}", verified.stdout, verified.stderr.text());
        assert!(!verified.stdout.contains("management API"), "{}", verified.stdout);
    }

    for name in ["declaring", "idle", "orders", "ledger", "operator", "onlooker", "monitor"] {
        t.broker().ctl(&["delete_user", &format!("{}-{name}", t.prefix())]).await.context("as before")??;
    }
    Ok(())
}
