//! `publish`: intents from JSON values, checked, confirmed, and waited for if asked to.

mod input;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::amqp_args::{AmqpArgs, Target, chain};
use super::outcomes::line;
use super::output::{remark, say};
use super::terminal::shown;
use super::{Failure, stop_signal};
use crate::amqp::browse::Tail;
use crate::amqp::{PublishError, PublishSession};
use crate::config;
use crate::wire::envelope::Messages;
use crate::wire::outcome::read_summary;
use input::{Given, intents};

/// Publish intents from JSON values, confirmed.
///
/// One intent a line, or values that span lines; the kind of each is its routing key. All of them are checked, and all
/// mistakes told, before the first is published: two different intents with one intentId are a mistake too. The ids of
/// what the broker has confirmed are printed, one a line. The command ends with 0 only if it has confirmed every one. If
/// it ends otherwise, publish the same bytes again: an intentId names one intent, however often its bytes arrive.
#[derive(Debug, Args)]
pub(super) struct Publish {
    #[command(flatten)]
    amqp: AmqpArgs,
    /// The file with the intents; - reads standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Check the intents, and send nothing; needs no broker
    #[arg(long, conflicts_with_all = ["wait", "unchecked"])]
    dry_run: bool,
    /// Wait so long (30s, 5m) for the ends of what was published, and show them; 69 if some have not ended by then. It
    /// listens at the taps, as `outcomes` does, which needs an onlooker's permissions too
    #[arg(long, value_name = "DURATION", value_parser = config::parse_duration)]
    wait: Option<Duration>,
    /// Publish what is no valid intent too, under the kind that it names
    #[arg(long)]
    unchecked: bool,
}

impl Publish {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        // A wrong address is told before somebody types intents.
        let target = if self.dry_run { None } else { Some(self.amqp.target()?) };
        let given = intents(&read(&self.file).await?, self.unchecked)
            .map_err(|mistakes| Failure::input(format!("nothing was published:\n{}", mistakes.join("\n"))))?;
        let Some(Target { broker, topology }) = target else {
            say!("{} intents are right. Nothing was published.", given.len());
            return Ok(ExitCode::SUCCESS);
        };
        // Before anything is published: no end may pass by unheard.
        let ends = match self.wait {
            Some(wait) => {
                let tail = Tail::open(&broker, &topology, "#").await.map_err(|error| {
                    Failure::unavailable(format!(
                        "nothing was published, since the ends could not be waited for: {}",
                        chain(&error)
                    ))
                })?;
                Some((wait, tail))
            }
            None => None,
        };
        let session = PublishSession::open(&broker, &topology)
            .await
            .map_err(|error| Failure::unavailable(chain(&error)))?;
        let mut messages = given.iter().map(|it| it.message.clone());
        let published = match messages.next() {
            None => Ok(()),
            Some(first) => session.publish(Messages::new(first, messages)).await,
        };
        session.close().await;
        tell(&given, published)?;
        match ends {
            Some((wait, tail)) => wait_for_ends(&given, wait, tail).await,
            None => Ok(ExitCode::SUCCESS),
        }
    }
}

async fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        tokio::io::stdin().read_to_end(&mut bytes).await.map(|_| bytes)
    } else {
        tokio::fs::read(file).await
    };
    read.map_err(|error| Failure::input(format!("failed to read {}: {}", file.display(), error.kind())))
}

/// Prints the ids of what the broker has confirmed; says what it has not.
fn tell(given: &[Given], published: Result<(), PublishError>) -> Result<(), Failure> {
    let confirmed = |refused: &[usize]| -> Result<(), Failure> {
        let taken = given.iter().enumerate().filter(|(index, _)| !refused.contains(index));
        for (_, intent) in taken {
            say!("{}", intent.id.map_or_else(|| "-".to_owned(), |id| id.to_string()));
        }
        Ok(())
    };
    match published {
        Ok(()) => {
            confirmed(&[])?;
            remark(format_args!("{} intents published and confirmed.", given.len()));
            Ok(())
        }
        Err(PublishError::Refused { refused }) => {
            confirmed(&refused)?;
            let lines = refused.iter().filter_map(|index| given.get(*index)).map(|it| it.line.to_string());
            Err(Failure::unavailable(format!(
                "the broker refused {} of {} intents, since a queue is full: publish those again that begin in line {}",
                refused.len(),
                given.len(),
                lines.collect::<Vec<_>>().join(", ")
            )))
        }
        Err(error @ PublishError::NotPermitted { .. }) => Err(Failure::input(chain(&error))),
        Err(
            error @ (PublishError::NoExchange { .. }
            | PublishError::Returned { .. }
            | PublishError::Interrupted(_)
            | PublishError::Unsendable { .. }),
        ) => Err(Failure::unavailable(chain(&error))),
    }
}

/// Shows what is told of these intents until each has ended.
async fn wait_for_ends(given: &[Given], wait: Duration, mut tail: Tail) -> Result<ExitCode, Failure> {
    let mut open: BTreeSet<String> = given.iter().filter_map(|it| it.id).map(|id| id.to_string()).collect();
    let ours = open.clone();
    let deadline = Instant::now() + wait;
    let stop = stop_signal();
    tokio::pin!(stop);
    let why = loop {
        if open.is_empty() {
            tail.close().await;
            return Ok(ExitCode::SUCCESS);
        }
        let heard = tokio::select! {
            signal = &mut stop => break format!("{signal} ended the waiting"),
            heard = timeout_at(deadline, tail.next()) => heard,
        };
        let passing = match heard {
            Ok(Ok(Some(passing))) => passing,
            Ok(Ok(None)) => break "the broker has ended the listening".to_owned(),
            Ok(Err(error)) => break chain(&error),
            Err(_) => break "the time is over".to_owned(),
        };
        let Some(event) = read_summary(&passing.body) else { continue };
        if ours.contains(event.intent_id()) {
            say!("{}", shown(&line(&passing)));
            if event.is_end() {
                open.remove(event.intent_id());
            }
        }
    };
    tail.close().await;
    let ids = open.into_iter().collect::<Vec<_>>();
    Err(Failure::unavailable(format!(
        "{why}. All was published; of {} intents no end was heard:\n{}",
        ids.len(),
        ids.join("\n")
    )))
}
