//! The look through AMQP, thing by thing. Slower than declaring everything at once, and it finds all that differs, not
//! only the first: each thing has a channel of its own, since a channel ends with the first thing that is wrong.
//!
//! A declaration of what is there compares: its answer names the first argument that differs. It needs the permission
//! to configure, and sees no policy and no binding.

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use lapin::{Channel, Connection};

use super::compare::{NOT_SET, kind_found, object_of};
use crate::amqp::connect::{Broker, Timeouts};
use crate::amqp::declare::{
    bind, declare_exchange, declare_queue, depth, look_at_exchange, may_bind, may_declare_exchange,
    may_declare_queue,
};
use crate::amqp::error::Error;
use crate::amqp::finding::{BrokerObject, Finding, Target};
use crate::amqp::reply_code::{
    ACCESS_REFUSED, CONNECTION_FORCED, INTERNAL_ERROR, NOT_FOUND, PRECONDITION_FAILED, RESOURCE_ERROR,
    RESOURCE_LOCKED,
};
use crate::amqp::step::with_channel;
use crate::amqp::topology::{Binding, Exchange, Publishers, Queue, Topology};

/// How many exchanges, queues or bindings are looked at at the same time.
const AT_ONCE: usize = 16;

/// What is done about what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// It is declared.
    Declaring,
    /// Nothing; it is told.
    Looking,
    /// Nothing; it is told only if we may not declare it.
    Asking,
}

/// What AMQP could tell.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) findings: Vec<Finding>,
    /// Exchanges and queues that are there, and that we may not compare.
    pub(super) not_compared: Vec<Finding>,
    /// Exchanges and queues that are missing, and that we may declare.
    pub(super) to_declare: Vec<BrokerObject>,
}

/// One thing, found as it was looked at.
enum Found {
    /// As it must be.
    Right,
    /// Missing, and ours to declare.
    ToDeclare,
    /// Something that the broker says against it.
    Wrong(Said),
}

/// What the broker said against one thing, and which.
struct Said {
    number: u16,
    text: String,
}

/// Looks at every exchange and queue; declaring, or asking whether that may be done, at every binding too.
///
/// # Errors
/// When the broker cannot be asked.
pub(super) async fn look(
    broker: &Broker,
    connection: &Connection,
    topology: &Topology,
    place: &Target,
    doing: Doing,
) -> Result<Looked, Error> {
    let look = Look { broker, connection, doing };
    let mut looked = Looked::default();
    let exchanges = topology.exchanges();
    let all = at_once(exchanges.iter().map(|exchange| look.of_exchange(exchange).boxed())).await?;
    for (exchange, found) in exchanges.iter().zip(all) {
        looked.add(place, BrokerObject::Exchange(exchange.name.clone()), found, |argument, found| {
            let expected = exchange_expected(exchange, argument);
            place.exchange_differs(&exchange.name, argument, found, expected)
        });
    }
    let queues = topology.queues();
    let all = at_once(queues.iter().map(|queue| look.of_queue(queue).boxed())).await?;
    for (queue, found) in queues.iter().zip(all) {
        looked.add(place, BrokerObject::Queue(queue.name.clone()), found, |argument, found| {
            let is = kind_found(queue, argument, found);
            place.queue_differs(&queue.name, is, argument, found, queue_expected(queue, argument))
        });
    }
    match doing {
        Doing::Looking => return Ok(looked),
        Doing::Declaring | Doing::Asking => {}
    }
    let bindings = topology.bindings();
    let all = at_once(bindings.iter().map(|binding| look.of_binding(binding).boxed())).await?;
    for (binding, found) in bindings.iter().zip(all) {
        let object = object_of(binding);
        match found {
            Found::Right | Found::ToDeclare => {}
            Found::Wrong(Said { number: ACCESS_REFUSED, .. }) => {
                looked.findings.push(place.not_permitted(object, "declare"));
            }
            // One of its ends is not there.
            Found::Wrong(Said { .. }) => looked.findings.push(place.missing(object)),
        }
    }
    // A worker that declares must be allowed to.
    looked.findings.append(&mut looked.not_compared);
    Ok(looked)
}

impl Looked {
    fn add(
        &mut self,
        place: &Target,
        object: BrokerObject,
        found: Found,
        differs: impl FnOnce(&str, &str) -> Finding,
    ) {
        let Said { number, text } = match found {
            Found::Right => return,
            Found::ToDeclare => return self.to_declare.push(object),
            Found::Wrong(said) => said,
        };
        match number {
            NOT_FOUND => self.findings.push(place.missing(object)),
            ACCESS_REFUSED => self.not_compared.push(place.not_permitted(object, "declare")),
            PRECONDITION_FAILED | RESOURCE_LOCKED => match inequivalent(&text) {
                Some((argument, found)) => self.findings.push(differs(argument, &found)),
                None => self.findings.push(differs("declaration", &text)),
            },
            _ => self.findings.push(differs("declaration", &text)),
        }
    }
}

/// All of them, in their order, as many at the same time as is polite.
async fn at_once<'a, T>(
    looks: impl Iterator<Item = BoxFuture<'a, Result<T, Error>>>,
) -> Result<Vec<T>, Error> {
    // A list first: nothing runs before it is polled, so it is only the order of the turns.
    let looks: Vec<_> = looks.collect();
    stream::iter(looks).buffered(AT_ONCE).try_collect().await
}

/// One look at one broker.
struct Look<'a> {
    broker: &'a Broker,
    connection: &'a Connection,
    doing: Doing,
}

impl Look<'_> {
    async fn of_exchange(&self, exchange: &Exchange) -> Result<Found, Error> {
        let step = self.broker.timeouts.step;
        self.of(
            async |channel| look_at_exchange(&channel, &exchange.name, step).await,
            async |channel| may_declare_exchange(&channel, exchange, step).await,
            async |channel| declare_exchange(&channel, exchange, step).await,
        )
        .await
    }

    async fn of_queue(&self, queue: &Queue) -> Result<Found, Error> {
        let Timeouts { step, declare, .. } = self.broker.timeouts;
        self.of(
            async |channel| depth(&channel, &queue.name, step).await.map(drop),
            async |channel| may_declare_queue(&channel, queue, step).await,
            async |channel| declare_queue(&channel, queue, declare).await,
        )
        .await
    }

    /// Looks whether something is there, and compares it by declaring it; or asks whether it may be declared, where it is not
    /// there.
    async fn of(
        &self,
        look: impl AsyncFnOnce(Channel) -> Result<(), Error>,
        ask: impl AsyncFnOnce(Channel) -> Result<(), Error>,
        declare: impl AsyncFnOnce(Channel) -> Result<(), Error>,
    ) -> Result<Found, Error> {
        let there = match self.doing {
            // A declaration would make what is not there.
            Doing::Looking | Doing::Asking => self.alone(look).await,
            Doing::Declaring => Ok(()),
        };
        match (self.doing, there) {
            (_, Ok(())) => said_against(found(self.alone(declare).await)?, Found::Right),
            (Doing::Asking, Err(error)) if is_not_there(&error) => {
                said_against(self.alone(ask).await, Found::ToDeclare)
            }
            (Doing::Asking | Doing::Looking | Doing::Declaring, error) => said_against(error, Found::Right),
        }
    }

    async fn of_binding(&self, binding: &Binding) -> Result<Found, Error> {
        let step = self.broker.timeouts.step;
        let binding_it = self.alone(async |channel| match self.doing {
            Doing::Declaring | Doing::Looking => bind(&channel, binding, step).await,
            Doing::Asking => match may_bind(&channel, binding, step).await {
                // One of its ends is declared with it.
                Err(error) if is_not_there(&error) => Ok(()),
                asked => asked,
            },
        });
        said_against(binding_it.await, Found::Right)
    }

    /// Does one thing by a channel of its own.
    async fn alone<T>(&self, work: impl AsyncFnOnce(Channel) -> Result<T, Error>) -> Result<T, Error> {
        with_channel(self.connection, self.broker.timeouts.step, work).await
    }
}

/// What the broker said against it, if it did.
fn said_against(tried: Result<(), Error>, if_nothing: Found) -> Result<Found, Error> {
    let Err(error) = tried else { return Ok(if_nothing) };
    match error.said() {
        Some((number, text)) if !is_passing(number, &text) => Ok(Found::Wrong(Said { number, text })),
        Some(_) | None => Err(error),
    }
}

/// Whether the broker says that there is no such thing, and not only that it cannot be reached.
fn is_not_there(error: &Error) -> bool {
    error.said().is_some_and(|(number, text)| number == NOT_FOUND && !is_passing(number, &text))
}

/// What is declared is there: that it is not found means that it cannot be reached, which passes by itself.
fn found(declared: Result<(), Error>) -> Result<Result<(), Error>, Error> {
    match declared {
        Err(error) if error.said().is_some_and(|(number, _)| number == NOT_FOUND) => Err(error),
        declared => Ok(declared),
    }
}

/// Whether what the broker says passes by itself. A broker that has just started says *not found* of a queue that is
/// there, too: that its process is stopped, or that its node is down.
fn is_passing(number: u16, text: &str) -> bool {
    match number {
        CONNECTION_FORCED | RESOURCE_ERROR | INTERNAL_ERROR => true,
        NOT_FOUND => !["no queue ", "no exchange "].iter().any(|nothing| text.contains(nothing)),
        _ => false,
    }
}

/// The argument that differs and what it is, out of the broker's sentence: `PRECONDITION_FAILED - inequivalent arg
/// 'x-message-ttl' for queue 'q' in vhost '/': received '5000' but current is '9000'`.
fn inequivalent(text: &str) -> Option<(&str, String)> {
    let (_, rest) = text.split_once("inequivalent arg '")?;
    let (argument, rest) = rest.split_once('\'')?;
    let (_, current) = rest.rsplit_once(" but current is ")?;
    let current = match current.strip_prefix("the value '") {
        Some(value) => value.split_once("' of type '").map_or(value, |(value, _)| value),
        None if current == "none" => NOT_SET,
        None => current.trim_matches('\''),
    };
    Some((argument, current.to_owned()))
}

fn queue_expected(queue: &Queue, argument: &str) -> String {
    match argument {
        "x-queue-type" => queue.kind.as_str().to_owned(),
        "durable" => "true".to_owned(),
        "auto_delete" | "exclusive" => "false".to_owned(),
        "declaration" => "accepted".to_owned(),
        _ => {
            let declared = queue.arguments.iter().find(|(name, _)| *name == argument);
            declared.map_or_else(|| NOT_SET.to_owned(), |(_, value)| value.to_string())
        }
    }
}

fn exchange_expected(exchange: &Exchange, argument: &str) -> String {
    match argument {
        "type" => exchange.kind.as_str().to_owned(),
        "durable" => "true".to_owned(),
        "auto_delete" => "false".to_owned(),
        "internal" => (exchange.publishers == Publishers::Broker).to_string(),
        "alternate-exchange" => exchange.alternate.clone().unwrap_or_else(|| NOT_SET.to_owned()),
        "declaration" => "accepted".to_owned(),
        _ => NOT_SET.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_and_cannot_be_reached_for_a_moment_is_not_missing() {
        for (number, said, expected) in [
            (404, "NOT_FOUND - no queue 'q' in vhost '/'", false),
            (404, "NOT_FOUND - no exchange 'e' in vhost '/'", false),
            (404, "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor", true),
            (
                404,
                "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible",
                true,
            ),
            (
                541,
                "INTERNAL_ERROR - Cannot declare a queue 'queue 'q' in vhost '/'' on node 'rabbit@b'",
                true,
            ),
            (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", true),
            (403, "ACCESS_REFUSED - configure access to queue 'q' in vhost '/' refused", false),
            (406, "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q' in vhost '/'", false),
        ] {
            assert_eq!(is_passing(number, said), expected, "{said}");
        }
    }

    #[test]
    fn the_argument_and_what_it_is_are_read_out_of_the_brokers_sentence() {
        for (said, found) in [
            ("received '5000' but current is '9000'", "9000"),
            ("received the value '5000' of type 'long' but current is none", NOT_SET),
            ("received none but current is the value 'it's' of type 'longstr'", "it's"),
            ("received 'true' but current is 'false'", "false"),
        ] {
            let text =
                format!("PRECONDITION_FAILED - inequivalent arg 'x-arg' for queue 'q' in vhost '/': {said}");
            assert_eq!(inequivalent(&text), Some(("x-arg", found.to_owned())), "{text}");
        }
        assert_eq!(inequivalent("RESOURCE_LOCKED - cannot obtain exclusive access"), None);
    }
}
