//! `publish`: intents from JSON lines, confirmed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use super::Failure;
use super::amqp_args::{AmqpArgs, Target, chain};
use crate::amqp::PublishSession;
use crate::domain::intent::Kind;
use crate::wire::envelope::{Address, Headers, Message, Messages};
use crate::wire::intent::{Known, decode, read_known};
use crate::wire::outcome::LETTER_CONTENT_TYPE;

/// Publish intents from JSON lines, confirmed.
///
/// Each line is one intent; its kind is its routing key. All lines are checked before the first is published. The
/// command ends with 0 only if the broker has confirmed every one. If it ends otherwise, publish the same lines
/// again: an intentId names one wish, however often its bytes arrive.
#[derive(Debug, Args)]
pub(super) struct Publish {
    #[command(flatten)]
    amqp: AmqpArgs,
    /// The file with the lines; - reads standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Publish lines that are no valid intents too, under the kind that they name
    #[arg(long)]
    unchecked: bool,
}

impl Publish {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let Target { broker, topology } = self.amqp.target()?;
        let lines = read(&self.file).await?;
        let mut messages = Vec::new();
        let mut mistakes = Vec::new();
        for (number, line) in lines {
            match message(line, self.unchecked) {
                Ok(message) => messages.push(message),
                Err(problem) => mistakes.push(format!("line {number}: {problem}")),
            }
        }
        if !mistakes.is_empty() {
            return Err(Failure::input(format!("nothing was published:\n{}", mistakes.join("\n"))));
        }
        let count = messages.len();
        let session = PublishSession::open(&broker, &topology)
            .await
            .map_err(|error| Failure::unavailable(chain(&error)))?;
        let mut messages = messages.into_iter();
        let published = match messages.next() {
            None => Ok(()),
            Some(first) => session.publisher().publish(Messages::new(first, messages)).await,
        };
        session.close().await;
        published.map_err(|error| Failure::unavailable(chain(&error)))?;
        println!("{count} intents published and confirmed.");
        Ok(ExitCode::SUCCESS)
    }
}

async fn read(file: &Path) -> Result<Vec<(usize, String)>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::input(format!("failed to read {}: {}", file.display(), error.kind()))
    };
    if file == Path::new("-") {
        lines(BufReader::new(tokio::io::stdin())).await.map_err(failed)
    } else {
        let file = tokio::fs::File::open(file).await.map_err(failed)?;
        lines(BufReader::new(file)).await.map_err(failed)
    }
}

async fn lines(reader: impl AsyncBufRead + Unpin) -> std::io::Result<Vec<(usize, String)>> {
    let mut lines = reader.lines();
    let mut read = Vec::new();
    let mut number = 0;
    while let Some(line) = lines.next_line().await? {
        number += 1;
        if !line.trim().is_empty() {
            read.push((number, line));
        }
    }
    Ok(read)
}

fn message(line: String, unchecked: bool) -> Result<Message, String> {
    let Known { kind, .. } = read_known(line.as_bytes());
    // Without a kind it is a mistake in every lane; the lane here only says in which words.
    let checked = decode(line.as_bytes(), kind.unwrap_or(Kind::AsyncCancel));
    if let (Err(malformed), false) = (checked, unchecked) {
        return Err(malformed.fault.to_string());
    }
    let kind =
        kind.ok_or_else(|| "no kind can be read, so there is no routing key to publish it with".to_owned())?;
    Ok(Message {
        address: Address::Intents,
        routing_key: kind.as_str().to_owned(),
        headers: Headers::new(),
        content_type: LETTER_CONTENT_TYPE,
        message_id: None,
        body: Bytes::from(line),
    })
}
