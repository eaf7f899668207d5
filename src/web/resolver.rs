//! Names become addresses, within a deadline of their own: else name servers that say nothing could not be told from a
//! host that says nothing.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::failure::NameServersSilent;

/// Asks the machine's own resolver, and waits so long at most.
///
/// A question that nobody waits for any more still holds a thread until the machine gives up on it. So the same name is
/// asked for once at a time, and a name whose servers are silent takes no thread from the others.
#[derive(Clone)]
pub(crate) struct Resolver {
    within: Duration,
    running: Arc<Mutex<HashMap<String, Shared<BoxFuture<'static, Found>>>>>,
}

type Found = Result<Vec<SocketAddr>, Arc<io::Error>>;

/// The name could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("the name cannot be resolved")]
struct NotResolved(#[source] Arc<io::Error>);

impl Resolver {
    /// A resolver that waits so long at most.
    pub(crate) fn new(within: Duration) -> Resolver {
        Resolver { within, running: Arc::default() }
    }

    /// The running question for this name, or a new one.
    fn ask(&self, name: &str) -> Shared<BoxFuture<'static, Found>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asking) = running.get(name) {
            return asking.clone();
        }
        let (asked, all) = (name.to_owned(), Arc::clone(&self.running));
        // A task of its own: it goes on when nobody waits for it any more.
        let task = tokio::spawn(async move {
            // The port is the address's own, whichever is said here.
            let found = lookup_host((asked.as_str(), 0)).await.map(Iterator::collect).map_err(Arc::new);
            all.lock().unwrap_or_else(PoisonError::into_inner).remove(&asked);
            found
        });
        let asking =
            task.map(|ended| ended.unwrap_or_else(|error| Err(Arc::new(error.into())))).boxed().shared();
        running.insert(name.to_owned(), asking.clone());
        asking
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (within, asking) = (self.within, self.ask(name.as_str()));
        Box::pin(async move {
            match timeout(within, asking).await {
                Ok(Ok(found)) => Ok(Box::new(found.into_iter()) as Addrs),
                Ok(Err(error)) => Err(NotResolved(error).into()),
                Err(_elapsed) => Err(NameServersSilent.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fault::Fault;
    use crate::web::failure;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    #[tokio::test]
    async fn a_name_is_asked_for_once_at_a_time_and_forgotten_when_it_is_answered() {
        let resolver = Resolver::new(Duration::from_secs(20));
        let all = (0..10).map(|_| resolver.resolve(name("localhost")));
        let running = resolver.running.lock().expect("nobody panics with it").len();
        let answers = futures_util::future::join_all(all).await;
        assert!(running <= 1);
        for answer in answers {
            assert!(answer.expect("every machine knows itself").all(|address| address.ip().is_loopback()));
        }
        assert!(resolver.running.lock().expect("nobody panics with it").is_empty());
    }

    #[tokio::test]
    async fn name_servers_that_are_silent_are_told_as_such_and_not_as_a_slow_connection() {
        let _already_there = rustls::crypto::ring::default_provider().install_default();
        // Whatever the machine's name servers are like: this question is never answered.
        let resolver = Resolver::new(Duration::from_millis(10));
        let silent = futures_util::future::pending().boxed().shared();
        resolver
            .running
            .lock()
            .expect("nobody panics with it")
            .insert("nonexistent.invalid".to_owned(), silent);
        let client = reqwest::Client::builder()
            .dns_resolver(resolver)
            .connect_timeout(Duration::from_secs(20))
            .no_proxy()
            .build()
            .expect("a client");
        let error = client.get("http://nonexistent.invalid").send().await.expect_err("nobody is there");
        let failure = failure::of_request(&error).expect("it could be sent");
        assert_eq!((failure.fault, failure.detail), (Fault::Dns, "no name server answered in time"));
    }
}
