//! The scenarios, by what goes wrong.

mod brokers;
mod connections;
mod crashes;
mod gateway;
mod letters;
mod time;

use std::future::Future;
use std::pin::Pin;

use anyhow::Result;

use super::audit::Audit;
use super::stage::Play;

/// What a scenario needs of its broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Any broker, which it shares with others.
    Broker,
    /// A broker that it may stop, kill and alarm, and that nobody else uses meanwhile.
    BrokerOfItsOwn,
    /// Three nodes that are one broker, of which it may kill and cut off one.
    Cluster,
}

type Run = fn(Play) -> Pin<Box<dyn Future<Output = Result<Audit>> + Send>>;

/// A scenario.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What goes wrong, in one sentence.
    pub(crate) what: &'static str,
    pub(crate) needs: Needs,
    pub(crate) run: Run,
}

/// A scenario by the path of its function, whose last part is its name.
macro_rules! scenario {
    ($needs:ident, $room:ident::$name:ident, $what:literal) => {
        Scenario {
            name: stringify!($name),
            what: $what,
            needs: Needs::$needs,
            run: |play| Box::pin($room::$name(play)),
        }
    };
}

/// All of them.
pub(crate) fn all() -> Vec<Scenario> {
    vec![
        scenario!(Broker, crashes::killed_at_random, "SIGKILL of the worker at random moments"),
        scenario!(Broker, crashes::killed_when_delivered, "SIGKILL after delivery, before any call"),
        scenario!(
            Broker,
            crashes::killed_in_the_call_before_its_effect,
            "SIGKILL in the call, nothing has happened yet"
        ),
        scenario!(
            Broker,
            crashes::killed_in_the_call_after_its_effect,
            "SIGKILL in the call, its effect is there"
        ),
        scenario!(Broker, crashes::killed_before_publishing, "SIGKILL after the reply, nothing is announced"),
        scenario!(
            Broker,
            crashes::killed_before_the_confirm,
            "SIGKILL after the announcement, no confirm has come"
        ),
        scenario!(Broker, crashes::killed_before_the_ack, "SIGKILL after the confirm, no ack has gone out"),
        scenario!(Broker, crashes::killed_after_the_ack, "SIGKILL right after an ack"),
        scenario!(
            Broker,
            crashes::two_workers_and_one_killed,
            "two workers on the same lanes, one of them killed"
        ),
        scenario!(Broker, crashes::terminated_under_load, "SIGTERM under load"),
        scenario!(
            BrokerOfItsOwn,
            brokers::terminated_during_an_alarm,
            "SIGTERM while the broker has an alarm"
        ),
        scenario!(
            BrokerOfItsOwn,
            brokers::broker_restarted,
            "the broker is stopped in order and starts again"
        ),
        scenario!(BrokerOfItsOwn, brokers::broker_killed, "SIGKILL of the broker, which starts again"),
        scenario!(BrokerOfItsOwn, brokers::broker_alarmed, "the broker has a memory alarm for a while"),
        scenario!(Cluster, brokers::cluster_node_killed, "SIGKILL of one of three nodes, which starts again"),
        scenario!(
            Cluster,
            brokers::cluster_node_cut_off,
            "one of three nodes is cut off from the others, not from its clients"
        ),
        scenario!(Broker, connections::consuming_cut, "the consuming connection is reset at both ends"),
        scenario!(
            Broker,
            connections::consuming_cut_at_the_broker,
            "… at the broker's end, the worker is not told"
        ),
        scenario!(
            Broker,
            connections::consuming_cut_at_the_worker,
            "… at the worker's end, the broker is not told"
        ),
        scenario!(
            Broker,
            connections::consuming_stalled_to_the_broker,
            "no ack comes through, nobody is told"
        ),
        scenario!(
            Broker,
            connections::consuming_stalled_to_the_worker,
            "no delivery comes through, nobody is told"
        ),
        scenario!(
            Broker,
            connections::consuming_half_closed_to_the_broker,
            "the broker hears the consumer's end (FIN)"
        ),
        scenario!(
            Broker,
            connections::consuming_half_closed_to_the_worker,
            "the consumer hears the broker's end (FIN)"
        ),
        scenario!(Broker, connections::publishing_cut, "the publishing connection is reset at both ends"),
        scenario!(
            Broker,
            connections::publishing_cut_at_the_broker,
            "… at the broker's end, the worker is not told"
        ),
        scenario!(
            Broker,
            connections::publishing_cut_at_the_worker,
            "… at the worker's end, the broker is not told"
        ),
        scenario!(
            Broker,
            connections::publishing_stalled_to_the_broker,
            "nothing published comes through, nobody is told"
        ),
        scenario!(
            Broker,
            connections::publishing_stalled_to_the_worker,
            "no confirm comes through, nobody is told"
        ),
        scenario!(
            Broker,
            connections::publishing_half_closed_to_the_broker,
            "the broker hears the publisher's end (FIN)"
        ),
        scenario!(
            Broker,
            connections::publishing_half_closed_to_the_worker,
            "the publisher hears the broker's end (FIN)"
        ),
        scenario!(Broker, letters::queue_deleted, "somebody deletes one of the worker's queues"),
        scenario!(Broker, letters::outcomes_unbound, "somebody unbinds the exchange of the outcomes"),
        scenario!(Broker, letters::ledger_unbound, "no ledger is bound for a while"),
        scenario!(
            Broker,
            letters::one_of_three_ledgers_full,
            "one of three ledgers reads nothing, its queue is full"
        ),
        scenario!(Broker, letters::published_twice, "every intent is published twice"),
        scenario!(Broker, time::midnight, "the payments' day ends under load"),
        scenario!(Broker, gateway::gateway_resets, "calls are reset before and after their effect"),
        scenario!(
            Broker,
            gateway::gateway_hangs,
            "calls hang, or have their effect when nobody waits any more"
        ),
        scenario!(Broker, gateway::gateway_storms_of_5xx, "storms of 500, 502, 503 and 504"),
        scenario!(Broker, gateway::gateway_storms_of_429, "storms of 429, with and without Retry-After"),
        scenario!(Broker, gateway::gateway_refuses_connections, "the gateway's ports are closed for a while"),
        scenario!(
            Broker,
            gateway::gateway_talks_garbage,
            "replies that nobody can read, or that contradict themselves"
        ),
        scenario!(Broker, gateway::inquiry_down, "calls end in doubt while nothing that could tell answers"),
        scenario!(
            Broker,
            gateway::one_merchant_locked_out,
            "the keys of one of two merchants are not accepted"
        ),
    ]
}
