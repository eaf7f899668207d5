//! `outcomes`: what is announced, as it is announced.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::amqp_args::{AmqpArgs, Target, chain};
use super::output::{remark, say};
use super::terminal::{shown, shown_json};
use super::{Failure, stop_signal};
use crate::amqp::browse::{Passing, Tail};
use crate::amqp::{Broker, Topology};
use crate::clock::Clock;

/// Follow outcome events as they are announced, until a signal comes or --count of them were seen.
///
/// It consumes from a queue of its own, bound to the exchange PREFIX.taps and deleted when the command ends; so it
/// never counts as a ledger. When the connection is lost it connects again, and says from when to when it may have missed
/// events.
#[derive(Debug, Args)]
pub(super) struct Outcomes {
    #[command(flatten)]
    amqp: AmqpArgs,
    /// Which events: a topic pattern over KIND.STATUS
    #[arg(long, default_value = "#", value_name = "PATTERN")]
    only: String,
    /// End after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// A line for people, or the event as it is
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How long it waits before it connects again: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Outcomes {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let Target { broker, topology } = self.amqp.target()?;
        let stop = stop_signal();
        tokio::pin!(stop);
        // Somebody who has just asked wants to know at once that there is no broker.
        let opening = Tail::open(&broker, &topology, &self.only).await;
        let mut tail = opening.map_err(|error| Failure::unavailable(chain(&error)))?;
        remark(format_args!("listening to {} at {broker}", topology.taps()));
        let mut seen = 0;
        while self.count.is_none_or(|count| seen < count) {
            let passing = tokio::select! {
                _ = &mut stop => break,
                passing = tail.next() => passing,
            };
            let why = match passing {
                Ok(Some(passing)) => {
                    seen += 1;
                    self.print(&passing)?;
                    continue;
                }
                Ok(None) => "the broker has ended the listening".to_owned(),
                Err(error) => chain(&error),
            };
            tokio::select! {
                _ = &mut stop => return Ok(ExitCode::SUCCESS),
                again = self.listen_again(&broker, &topology, &why) => {
                    std::mem::replace(&mut tail, again).close().await;
                }
            }
        }
        tail.close().await;
        Ok(ExitCode::SUCCESS)
    }

    fn print(&self, passing: &Passing) -> Result<(), Failure> {
        match self.format {
            Format::Json => say!("{}", shown_json(&passing.body)),
            Format::Text => say!("{}", shown(&line(passing))),
        }
        Ok(())
    }

    /// Tries until the broker is there again, and says what may have been missed.
    async fn listen_again(&self, broker: &Broker, topology: &Topology, why: &str) -> Tail {
        let clock = Clock::system();
        let lost_at = clock.now();
        remark(format_args!(
            "{}; what is announced from {lost_at} on is missed, until we listen again",
            shown(why)
        ));
        let mut pause = PAUSE_MIN;
        let mut told = why.to_owned();
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            match Tail::open(broker, topology, &self.only).await {
                Ok(tail) => {
                    remark(format_args!(
                        "listening again to {} at {broker}; outcomes that were announced between {lost_at} and {} may \
                         have been missed",
                        topology.taps(),
                        clock.now()
                    ));
                    return tail;
                }
                Err(error) => {
                    let text = chain(&error);
                    if text != told {
                        remark(format_args!("not yet: {}", shown(&text)));
                        told = text;
                    }
                }
            }
        }
    }
}

/// Time, kind and status, subject, reason, attempts, reference.
pub(super) fn line(passing: &Passing) -> String {
    let Some(event) = crate::wire::outcome::read_summary(&passing.body) else {
        return format!("(not an outcome event, routing key {})", passing.routing_key);
    };
    let reason = event.reason.map(|reason| format!(" {reason}")).unwrap_or_default();
    let payment_status = event.payment_status.map(|name| format!(" [{name}]")).unwrap_or_default();
    // The publisher may have written it over many lines.
    let reference = event.reference.map(|it| format!(" {}", shown_json(it.as_bytes()))).unwrap_or_default();
    format!(
        "{} {} {}{reason}{payment_status} {} (attempts {}){reference}",
        event.time, event.kind, event.status, event.subject, event.attempts
    )
}
