//! One step at the broker.

use std::time::Duration;

use lapin::types::ShortString;

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

/// A name as AMQP carries it.
pub(super) fn short(name: &str) -> Result<ShortString, Error> {
    ShortString::try_new(name).map_err(|_| Error::NameTooLong { name: name.to_owned() })
}
