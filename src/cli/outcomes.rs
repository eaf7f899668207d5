//! `outcomes`: what is announced, as it is announced.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::amqp_args::{AmqpArgs, Target, chain};
use super::{Failure, stop_signal};
use crate::amqp::browse::{Passing, Tail};

/// Follow outcome events as they are announced, until a signal comes or --count of them were seen.
///
/// It listens at the taps, with a queue of its own that goes when it goes; so it never stands in for a ledger.
#[derive(Debug, Args)]
pub(super) struct Outcomes {
    #[command(flatten)]
    amqp: AmqpArgs,
    /// Which events: a topic pattern over KIND.STATUS
    #[arg(long, default_value = "#", value_name = "PATTERN")]
    only: String,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// A line for people, or the event as it is
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

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
        let unavailable = |error: crate::amqp::Error| Failure::unavailable(chain(&error));
        let mut tail = Tail::open(&broker, &topology, &self.only).await.map_err(unavailable)?;
        eprintln!("listening to {} at {broker}", topology.taps());
        let mut seen = 0;
        while self.count.is_none_or(|count| seen < count) {
            let passing = tokio::select! {
                _ = &mut stop => break,
                passing = tail.next() => passing.map_err(unavailable)?,
            };
            let Some(passing) = passing else {
                return Err(Failure::unavailable("the broker has ended the listening"));
            };
            seen += 1;
            match self.format {
                Format::Json => println!("{}", String::from_utf8_lossy(&passing.body)),
                Format::Text => println!("{}", line(&passing)),
            }
        }
        tail.close().await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Time, kind and status, subject, reason, attempts.
fn line(passing: &Passing) -> String {
    let Some(event) = crate::wire::outcome::read_summary(&passing.body) else {
        return format!("(not an outcome event, routing key {})", passing.routing_key);
    };
    let reason = event.reason.map(|reason| format!(" {reason}")).unwrap_or_default();
    let payment_status = event.payment_status.map(|name| format!(" [{name}]")).unwrap_or_default();
    format!(
        "{} {} {}{reason}{payment_status} {} (attempts {})",
        event.time, event.kind, event.status, event.subject, event.attempts
    )
}
