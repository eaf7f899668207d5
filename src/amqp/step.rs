//! One step at the broker: a wait that has an end, a name as AMQP carries it, a channel for a moment.

use std::time::Duration;

use lapin::types::ShortString;
use lapin::{Channel, Connection};
use tokio::time::Instant;

use super::error::Error;
use super::generation::ClientError;

/// Waits for the broker, but not for ever.
pub(super) async fn within<T>(
    step: impl Into<String>,
    limit: Duration,
    work: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Error::Failed { step: step.into(), source: ClientError(error) }),
        Err(_) => Err(Error::Late { step: step.into(), after: limit }),
    }
}

/// Waits until then; where there is no such time, for ever.
pub(super) async fn sleep_until_if(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A name as AMQP carries it.
pub(super) fn short(name: &str) -> Result<ShortString, Error> {
    ShortString::try_new(name).map_err(|_| Error::NameTooLong { name: name.to_owned() })
}

/// Does something by a channel of its own: a channel ends with the first thing that the broker has something against.
/// Where all went well it is closed; if it cannot be closed, the next use of the connection fails.
pub(super) async fn with_channel<T>(
    connection: &Connection,
    step: Duration,
    work: impl AsyncFnOnce(Channel) -> Result<T, Error>,
) -> Result<T, Error> {
    let channel = within("open a channel", step, connection.create_channel()).await?;
    let done = work(channel.clone()).await?;
    let _ = within("close a channel", step, channel.close(200, "done".into())).await;
    Ok(done)
}
