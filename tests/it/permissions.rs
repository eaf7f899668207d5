//! What the broker lets us do, told before work is taken.

use anyhow::{Context as _, Result};
use cancel_worker::amqp::declare::apply;
use cancel_worker::amqp::preflight::{Finding, Object, Problem, Requirements, inspect};
use cancel_worker::amqp::topology::{Permissions, Who};
use cancel_worker::amqp::{Broker, Timeouts, Topology};
use cancel_worker::config::{Amqp, AmqpTls, Declare};
use cancel_worker::domain::retry::Tier;
use url::Url;

use crate::support::Context;

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

pub(crate) async fn the_least_permissions_of_a_worker_are_enough_and_one_less_is_told(
    t: Context,
) -> Result<()> {
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
    assert_eq!(finding.object, Object::Exchange(format!("{}.announce", t.prefix())));
    assert!(matches!(finding.problem, Problem::NotPermitted { doing: "publish to" }), "{finding}");
    assert!(finding.mend.contains("rabbitmqctl set_permissions -p / USER"), "{finding}");
    assert_eq!(permissions(&deaf, &topology).await?.len(), topology.consumed_from().len());

    for name in ["enough", "less", "deaf"] {
        let delete = ["delete_user", &format!("{}-{name}", t.prefix())];
        t.broker().ctl(&delete).await.context("as before")??;
    }
    Ok(())
}
