//! RabbitMQ's management API, read only: its lists as plain data. What AMQP cannot tell (policies, bindings, the
//! arguments of what others have declared) is told here, if our user may see it.
//!
//! One request a list, bounded in time and size, filtered at the broker where it can: a virtual host may hold
//! thousands of queues that are not ours. The address carries a password; it leaves this room only towards the broker.

mod rows;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::time::Duration;

use reqwest::{Certificate, Client};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};
use url::Url;

pub use rows::{Arguments, BindingRow, ExchangeRow, FlagRow, PolicyRow, QueuePolicies, QueueRow, Scalar};

use crate::config::AmqpTls;
use crate::web::{self, Built};

/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A longer list is not read: some 40,000 bindings.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How often a list is asked for that is answered with 500. RabbitMQ does so where something of it is deleted while it is put
/// together (seen with 3.10), and the next answer is whole.
const TRIES_MAX: usize = 4;

/// The pause before the next try.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How many queues or exchanges are asked for at once. A topology has fewer.
const PAGE_LEN_MAX: usize = 500;

/// The management API of one broker, seen by one user.
#[derive(Clone)]
pub struct Management {
    client: Client,
    base: Url,
}

/// Host and port, and never the user or the password.
impl fmt::Display for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.base.port().map(|port| format!(":{port}")).unwrap_or_default();
        write!(f, "{}://{}{port}", self.base.scheme(), self.base.host_str().unwrap_or("?"))
    }
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Management({self})")
    }
}

/// Why the management API cannot be asked at all. Names keys, never values.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an address.
    #[error("amqp.management_url: the address is not of the form http[s]://user:password@host:port")]
    Url,
    /// The authority's file cannot be read.
    #[error("amqp.tls.ca_file: the file cannot be read")]
    File(#[source] std::io::Error),
    /// The authority's file is no certificate.
    #[error("amqp.tls.ca_file: the file holds no certificate in PEM form")]
    NotPem,
    /// An https address, on a machine that trusts nobody.
    #[error(
        "amqp.management_url is https, but this machine has no CA certificates; name one in amqp.tls.ca_file"
    )]
    NoCertificates,
    /// The HTTP client cannot be built: a fault of our own.
    #[error("the HTTP client cannot be built")]
    Client,
}

/// Why a list was not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSeen {
    /// Nobody takes connections there, or TLS failed.
    #[error("the management API is not to be reached")]
    NotReached,
    /// It was not there in time.
    #[error("the management API did not answer in time")]
    Late,
    /// It answered, but not with a list.
    #[error("{}", refused(*.http_status))]
    Refused {
        /// What it answered.
        http_status: u16,
    },
    /// The list is too long to be read.
    #[error("the list is longer than {} MiB", BODY_BYTES_MAX / 1024 / 1024)]
    TooLong,
    /// The list cannot be understood.
    #[error("the answer of the management API cannot be read")]
    NotReadable,
}

fn refused(http_status: u16) -> String {
    let why = match http_status {
        401 => ": it does not accept our user, or the user may not see this (it needs the tag `management`)",
        403 | 404 => ": the user may not see this virtual host, or it is not there",
        _ => "",
    };
    format!("the management API answered with {http_status}{why}")
}

impl Management {
    /// The API at this address, which may carry user and password. Over https the authority of `[amqp.tls]` is trusted
    /// beside those of the machine. Connects to nothing yet.
    ///
    /// # Errors
    /// What is wrong with address or file.
    pub fn new(url: &SecretString, tls: &AmqpTls) -> Result<Management, Error> {
        let base = Url::parse(url.expose_secret()).map_err(|_| Error::Url)?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(Error::Url);
        }
        let authorities = match &tls.ca_file {
            Some(path) => {
                let pem = fs::read(path).map_err(Error::File)?;
                Certificate::from_pem_bundle(&pem).map_err(|_| Error::NotPem)?
            }
            None => Vec::new(),
        };
        match web::client(&authorities, |builder| builder.connect_timeout(CONNECT_MAX)) {
            Ok(Built::Whole(client)) => Ok(Management { client, base }),
            Ok(Built::PlainOnly(client)) if base.scheme() == "http" => Ok(Management { client, base }),
            Ok(Built::PlainOnly(_)) => Err(Error::NoCertificates),
            Err(web::Error::NoTlsProvider | web::Error::Client) => Err(Error::Client),
        }
    }

    /// The queues of these names, with the policy that applies to each *now*. Operator policies are not among what the
    /// broker tells without its statistics.
    ///
    /// # Errors
    /// Why the list was not seen.
    pub async fn queues(
        &self,
        vhost: &str,
        names: &Names,
        deadline: Instant,
    ) -> Result<Vec<QueueRow>, NotSeen> {
        let query = [("disable_stats", "true")];
        self.page("queues", vhost, names, &query, deadline).await
    }

    /// The policies of both kinds that apply to the queues of these names, and what they say together: as of the
    /// broker's last statistics, which are some five seconds old. A queue younger than that has none.
    ///
    /// # Errors
    /// Why the list was not seen.
    pub async fn queue_policies(
        &self,
        vhost: &str,
        names: &Names,
        deadline: Instant,
    ) -> Result<Vec<QueuePolicies>, NotSeen> {
        let query = [("columns", "name,policy,operator_policy,effective_policy_definition")];
        self.page("queues", vhost, names, &query, deadline).await
    }

    /// The exchanges of these names, with the policy that applies to each now.
    ///
    /// # Errors
    /// Why the list was not seen.
    pub async fn exchanges(
        &self,
        vhost: &str,
        names: &Names,
        deadline: Instant,
    ) -> Result<Vec<ExchangeRow>, NotSeen> {
        let query = [("columns", "name,type,durable,auto_delete,internal,arguments,policy")];
        self.page("exchanges", vhost, names, &query, deadline).await
    }

    /// All bindings of the virtual host: the API cannot filter them.
    ///
    /// # Errors
    /// Why the list was not seen.
    pub async fn bindings(&self, vhost: &str, deadline: Instant) -> Result<Vec<BindingRow>, NotSeen> {
        let query = [("columns", "source,destination,destination_type,routing_key")];
        self.list(&["bindings", vhost], &query, deadline).await
    }

    /// All policies of the virtual host.
    ///
    /// # Errors
    /// Why the list was not seen.
    pub async fn policies(&self, vhost: &str, deadline: Instant) -> Result<Vec<PolicyRow>, NotSeen> {
        self.list(&["policies", vhost], &[], deadline).await
    }

    /// All operator policies of the virtual host.
    ///
    /// # Errors
    /// Why the list was not seen.
    pub async fn operator_policies(&self, vhost: &str, deadline: Instant) -> Result<Vec<PolicyRow>, NotSeen> {
        self.list(&["operator-policies", vhost], &[], deadline).await
    }

    /// The broker's feature flags. Before 4.0 only administrators may see them.
    ///
    /// # Errors
    /// Why the list was not seen.
    pub async fn feature_flags(&self, deadline: Instant) -> Result<Vec<FlagRow>, NotSeen> {
        self.list(&["feature-flags"], &[("columns", "name,state")], deadline).await
    }

    async fn page<T: DeserializeOwned>(
        &self,
        what: &str,
        vhost: &str,
        names: &Names,
        query: &[(&str, &str)],
        deadline: Instant,
    ) -> Result<Vec<T>, NotSeen> {
        let page_len = PAGE_LEN_MAX.to_string();
        let paging = [("page", "1"), ("page_size", &*page_len), ("use_regex", "true"), ("name", &*names.0)];
        let page: Page<T> = self.list(&[what, vhost], &[query, &paging].concat(), deadline).await?;
        if page.filtered_count > PAGE_LEN_MAX { Err(NotSeen::TooLong) } else { Ok(page.items) }
    }

    async fn list<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        deadline: Instant,
    ) -> Result<T, NotSeen> {
        let mut url = self.base.clone();
        // It was checked to be a base.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let body = timeout_at(deadline, self.get_whole(url)).await.map_err(|_| NotSeen::Late)??;
        serde_json::from_slice(&body).map_err(|_| NotSeen::NotReadable)
    }

    async fn get_whole(&self, url: Url) -> Result<Vec<u8>, NotSeen> {
        for _ in 1..TRIES_MAX {
            match self.get(url.clone()).await {
                Err(NotSeen::Refused { http_status: 500 }) => sleep(TRY_AGAIN_AFTER).await,
                got => return got,
            }
        }
        self.get(url).await
    }

    /// The error texts of the client are dropped on purpose: they carry addresses.
    async fn get(&self, url: Url) -> Result<Vec<u8>, NotSeen> {
        let not_seen = |error: reqwest::Error| {
            if error.is_timeout() { NotSeen::Late } else { NotSeen::NotReached }
        };
        // User and password of the address become a header that is marked as sensitive.
        let mut response = self.client.get(url).send().await.map_err(not_seen)?;
        let http_status = response.status().as_u16();
        if http_status != 200 {
            return Err(NotSeen::Refused { http_status });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(not_seen)? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(NotSeen::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Which queues or exchanges are asked for, as the pattern that the broker filters by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(String);

impl Names {
    /// Just these.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Names {
        let names: Vec<String> = names.into_iter().map(escaped).collect();
        Names(format!("^({})$", names.join("|")))
    }
}

/// A text as a regular expression that means just it.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if !(c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A part of a list, as the API gives it.
#[derive(Debug, Deserialize)]
struct Page<T> {
    items: Vec<T>,
    filtered_count: usize,
}
