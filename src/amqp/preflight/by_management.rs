//! The look through the management API: one request a list, all at the same time.

use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::time::{Instant, sleep};

use super::compare::{Expected, Policies};
use crate::amqp::finding::Report;
use crate::management::{Management, Names, NotSeen, QueuePolicies, QueueRow};

/// How long the management API may take for all of its lists.
const MANAGEMENT_MAX: Duration = Duration::from_secs(10);

/// How long the statistics of new queues are waited for, where only they tell which operator policy applies: the broker
/// counts every five seconds.
const STATISTICS_MAX: Duration = Duration::from_secs(12);
const STATISTICS_ASKED_EVERY: Duration = Duration::from_millis(500);

/// Whether the bindings are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bindings {
    Asked,
    NotAsked,
}

/// Whether the look waits until the broker has counted queues that are new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statistics {
    WaitedFor,
    AsTheyAre,
}

const BY_MANAGEMENT: &str = "what policies change, bindings, and consumer timeouts";

/// What is said where there is no management API.
pub(super) fn nothing() -> Report {
    let mut report = Report::default();
    report.add_unseen(BY_MANAGEMENT, "amqp.management_url is not set, and AMQP does not tell");
    report
}

/// All that the management API shows.
pub(super) async fn look(
    management: &Management,
    vhost: &str,
    expected: &Expected<'_>,
    bindings: Bindings,
    statistics: Statistics,
) -> Report {
    let topology = expected.topology;
    let begun = Instant::now();
    let deadline = begun + MANAGEMENT_MAX;
    let queue_names = Names::new(topology.queues().iter().map(|queue| queue.name.as_str()));
    let exchange_names = Names::new(topology.exchanges().iter().map(|exchange| exchange.name.as_str()));
    let asked = (bindings == Bindings::Asked).then(|| management.bindings(vhost, deadline));
    let (queues, counted, exchanges, bindings, policies, operator_policies, flags) = tokio::join!(
        management.queues(vhost, &queue_names, deadline),
        management.queue_policies(vhost, &queue_names, deadline),
        management.exchanges(vhost, &exchange_names, deadline),
        OptionFuture::from(asked),
        management.policies(vhost, deadline),
        management.operator_policies(vhost, deadline),
        management.feature_flags(deadline),
    );
    let mut report = Report::default();
    let queues = match queues {
        Ok(queues) => queues,
        Err(why) => {
            // Then nothing else of it is worth a line of its own.
            report.add_unseen(BY_MANAGEMENT, format!("{why} ({management})"));
            return report;
        }
    };
    report.add(expected.queues(&queues));
    let mut counted = seen(&mut report, "operator policies of queues", counted).unwrap_or_default();
    let policies = seen(&mut report, "what policies set", policies);
    let operator_policies = seen(&mut report, "what operator policies set", operator_policies);
    // Where there is no operator policy, none applies.
    if !operator_policies.as_ref().is_some_and(Vec::is_empty) {
        let uncounted = |counted: &[QueuePolicies]| {
            let mut without = expected.without_statistics(counted);
            without.retain(|name| queues.iter().any(|row| row.name == *name));
            without.len()
        };
        while statistics == Statistics::WaitedFor
            && uncounted(&counted) > 0
            && begun.elapsed() < STATISTICS_MAX
        {
            sleep(STATISTICS_ASKED_EVERY).await;
            let deadline = Instant::now() + MANAGEMENT_MAX;
            let newer = management.queue_policies(vhost, &queue_names, deadline).await;
            counted = newer.unwrap_or(counted);
        }
        if let without @ 1.. = uncounted(&counted) {
            let what = format!("operator policies of {without} queues");
            report.add_unseen(what, "the broker has no statistics of them");
        }
    }
    let applied = Policies {
        now: &queues,
        counted: &counted,
        policies: policies.as_deref(),
        operator_policies: operator_policies.as_deref(),
    };
    report.add(expected.queue_policies(&applied));
    if let Some(exchanges) = seen(&mut report, "what policies change about exchanges", exchanges) {
        report.add(expected.exchanges(&exchanges));
        if let Some(policies) = &policies {
            report.add(expected.exchange_policies(&exchanges, policies));
        }
    }
    if let Some(bindings) = bindings.and_then(|bindings| seen(&mut report, "bindings", bindings)) {
        report.add(expected.bindings(&bindings));
    }
    // That a queue of a kind is there proves the feature. So nothing is said where only administrators may see it.
    if let Ok(flags) = flags {
        report.add(expected.flags(&flags));
    }
    consumer_timeouts(&mut report, expected, &queues, &applied);
    report
}

/// What cannot be seen of how long the broker waits for an ack.
fn consumer_timeouts(
    report: &mut Report,
    expected: &Expected<'_>,
    queues: &[QueueRow],
    applied: &Policies<'_>,
) {
    match expected.handling_max {
        None => report.add_unseen("consumer timeouts", "how long a letter may be in hand is in the configuration"),
        Some(_) if expected.all_have_their_consumer_timeout(queues, applied) => {}
        Some(handling_max) => report.add_unseen(
            "the broker's own consumer_timeout",
            format!(
                "no API tells it; `rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).'` does, and it must \
                 be at least {} ms (RabbitMQ's default is 1800000)",
                handling_max.as_millis()
            ),
        ),
    }
}

fn seen<T>(report: &mut Report, what: &str, list: Result<T, NotSeen>) -> Option<T> {
    match list {
        Ok(list) => Some(list),
        Err(why) => {
            report.add_unseen(what, why);
            None
        }
    }
}
