//! How to reach the broker: addresses, TLS, deadlines. Every wait on the client library has one, close included:
//! while the broker has an alarm, even a close can hang for ever.

use std::fmt;
use std::fs;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::ShortString;
use lapin::uri::AMQPUri;
use lapin::{Connect, Connection, ConnectionProperties, ErrorKind};
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::generation::{Fault, Role};
use crate::config::{Amqp, AmqpTls};

/// The heartbeat where the address says nothing: a silent broker is noticed within two.
const HEARTBEAT_S: u16 = 10;

/// The largest frame of a publishing connection: the buffers of the client library are sized by it. The consuming
/// connection keeps the default, since a letter with larger headers would kill it at every delivery.
const PUBLISH_FRAME_BYTES_MAX: u32 = 16_384;

/// How long each wait on the broker may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A connection to be made, handshake included, by address.
    pub connect: Duration,
    /// One answer of the broker: a channel, a prefetch, a consumer, an ack's way to the socket.
    pub step: Duration,
    /// The topology to be declared: many queues at once, when nothing is there yet.
    pub declare: Duration,
    /// A publish to be confirmed.
    pub confirm: Duration,
    /// A connection to be closed.
    pub close: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(5),
            step: Duration::from_secs(10),
            declare: Duration::from_secs(60),
            confirm: Duration::from_secs(30),
            close: Duration::from_secs(5),
        }
    }
}

/// What is wrong with the settings. Nothing that waiting would mend; names keys, never values.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not an AMQP address.
    #[error("amqp.url: address {number} is not of the form amqp[s]://user:password@host:port/vhost")]
    Url {
        /// Which of them, counted from 1.
        number: usize,
    },
    /// No address.
    #[error("amqp.url: at least one address is needed")]
    NoUrl,
    /// A file of `[amqp.tls]` cannot be read.
    #[error("amqp.tls.{key}: the file cannot be read")]
    File {
        /// Which one.
        key: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of `[amqp.tls]` is not what it should be.
    #[error("amqp.tls.{key}: the file is not text in PEM form")]
    NotPem {
        /// Which one.
        key: &'static str,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("amqp.tls: client_cert_file and client_key_file are only of use together")]
    HalfIdentity,
}

/// What can go wrong with one step at the broker. The texts hold no address's password.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The broker did not answer in time.
    #[error("failed to {step}: no answer within {} s", after.as_secs_f32())]
    Late {
        /// What was tried.
        step: String,
        /// The deadline that has passed.
        after: Duration,
    },
    /// The broker or the network said no.
    #[error("failed to {step}")]
    Failed {
        /// What was tried.
        step: String,
        /// What was said.
        #[source]
        source: Fault,
    },
    /// Something is there under one of our names, and it is not what it must be. The broker's text names it, and
    /// the argument that differs.
    #[error(
        "the topology at the broker is not what it must be: {text}. Nothing was changed: `cancel-worker topology \
         verify` lists all differences; what differs must be deleted (when empty) or the configuration be made to \
         fit"
    )]
    Differs {
        /// What the broker says.
        text: String,
    },
    /// A name that AMQP cannot carry: more than 255 bytes.
    #[error("the name `{name}` is longer than 255 bytes")]
    NameTooLong {
        /// The name.
        name: String,
    },
}

/// Where the broker is, and how to speak to it.
#[derive(Clone)]
pub struct Broker {
    name: String,
    endpoints: Vec<Endpoint>,
    tls: OwnedTLSConfig,
    pub(super) timeouts: Timeouts,
}

/// One address. Printing shows host, port and virtual host, and never the user or the password.
#[derive(Clone)]
struct Endpoint(AMQPUri);

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { authority, vhost, .. } = &self.0;
        write!(f, "{}:{} (virtual host {vhost})", authority.host, authority.port)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broker({self})")
    }
}

/// Host, port and virtual host of every address.
impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{endpoint}")?;
        }
        Ok(())
    }
}

impl Broker {
    /// The broker of the configuration. `name` is the worker's instance, which the broker shows to people.
    ///
    /// # Errors
    /// What is wrong with the addresses or the files of `[amqp.tls]`, which are read here.
    pub fn new(amqp: &Amqp, name: &str, timeouts: Timeouts) -> Result<Broker, SettingsError> {
        let endpoints = amqp
            .urls
            .iter()
            .enumerate()
            .map(|(at, url)| Endpoint::parse(url).ok_or(SettingsError::Url { number: at + 1 }))
            .collect::<Result<Vec<Endpoint>, SettingsError>>()?;
        if endpoints.is_empty() {
            return Err(SettingsError::NoUrl);
        }
        Ok(Broker { name: name.to_owned(), endpoints, tls: tls(&amqp.tls)?, timeouts })
    }

    /// Opens a connection at the first address that answers, beginning with number `first`. Says which one it was.
    pub(super) async fn connect(&self, role: Role, first: usize) -> Result<(Connection, usize), Error> {
        let mut failed = None;
        for turn in 0..self.endpoints.len() {
            let at = (first + turn) % self.endpoints.len();
            match self.connect_at(role, at).await {
                Ok(connection) => return Ok((connection, at)),
                Err(error) => failed = Some(error),
            }
        }
        // There is at least one address, so one has failed.
        Err(failed.unwrap_or_else(|| Error::Late { step: "connect".to_owned(), after: Duration::ZERO }))
    }

    /// Opens a connection at one address.
    pub(super) async fn connect_at(&self, role: Role, at: usize) -> Result<Connection, Error> {
        let endpoint = &self.endpoints[at % self.endpoints.len()];
        let mut uri = endpoint.0.clone();
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        match role {
            Role::Publish => uri.query.frame_max = Some(PUBLISH_FRAME_BYTES_MAX),
            Role::Consume => {}
        }
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("cancel-worker {} {role}", self.name).into())
            .with_client_property("role".into(), role.to_string().into());
        let connecting = async {
            let runtime = lapin::runtime::default_runtime()?;
            uri.connect_with_config(properties, self.tls.clone(), runtime).await
        };
        within(format!("connect to {endpoint}"), self.timeouts.connect, connecting).await
    }

    /// The address with this number, as people may see it.
    pub(super) fn shown(&self, at: usize) -> String {
        self.endpoints[at % self.endpoints.len()].to_string()
    }

    /// Closes a connection. That it cannot be closed is no failure: the broker notices by itself.
    pub(super) async fn close(&self, connection: &Connection) {
        let closing = connection.close(200, ShortString::from("done"));
        let _ = within("close a connection", self.timeouts.close, closing).await;
    }
}

impl Endpoint {
    fn parse(url: &SecretString) -> Option<Endpoint> {
        let text = url.expose_secret();
        let mut uri: AMQPUri = text.parse().ok()?;
        // lapin takes an IPv6 address for no address, and connects to localhost.
        if let Ok(url) = Url::parse(text)
            && let Some(Host::Ipv6(address)) = url.host()
        {
            uri.authority.host = address.to_string();
        }
        Some(Endpoint(uri))
    }
}

fn tls(files: &AmqpTls) -> Result<OwnedTLSConfig, SettingsError> {
    let cert_chain = match &files.ca_file {
        Some(path) => {
            let pem = read("ca_file", path)?;
            Some(String::from_utf8(pem).map_err(|_| SettingsError::NotPem { key: "ca_file" })?)
        }
        None => None,
    };
    let identity = match (&files.client_cert_file, &files.client_key_file) {
        (Some(cert), Some(key)) => Some(identity(cert, key)?),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err(SettingsError::HalfIdentity),
    };
    Ok(OwnedTLSConfig { identity, cert_chain })
}

fn identity(cert: &Path, key: &Path) -> Result<OwnedIdentity, SettingsError> {
    Ok(OwnedIdentity::PKCS8 { pem: read("client_cert_file", cert)?, key: read("client_key_file", key)? })
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, SettingsError> {
    fs::read(path).map_err(|source| SettingsError::File { key, source })
}

/// Waits for the broker, but not for ever.
pub(super) async fn within<T>(
    step: impl Into<String>,
    limit: Duration,
    work: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Error::Failed { step: step.into(), source: Fault(error) }),
        Err(_) => Err(Error::Late { step: step.into(), after: limit }),
    }
}

/// A name as AMQP carries it.
pub(super) fn short(name: &str) -> Result<ShortString, Error> {
    ShortString::try_new(name).map_err(|_| Error::NameTooLong { name: name.to_owned() })
}

impl Error {
    /// What the broker itself said, with AMQP's number for it: 404 not found, 406 differs, 403 not allowed.
    pub(super) fn said(&self) -> Option<(u16, String)> {
        let Error::Failed { source, .. } = self else { return None };
        let ErrorKind::ProtocolError(error) = source.0.kind() else { return None };
        Some((error.get_id(), error.get_message().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::Declare;

    fn amqp(urls: &[&str]) -> Amqp {
        Amqp {
            urls: urls.iter().map(|url| SecretString::from(*url)).collect(),
            management_url: None,
            prefix: "cancel".to_owned(),
            declare: Declare::Missing,
            tls: AmqpTls::default(),
        }
    }

    fn broker(urls: &[&str]) -> Result<Broker, SettingsError> {
        Broker::new(&amqp(urls), "test", Timeouts::default())
    }

    #[test]
    fn a_broker_is_printed_without_user_and_password() {
        let broker =
            broker(&["amqp://canary:secret@one:5673/vh", "amqps://canary:secret@two/%2f"]).expect("fine");
        let printed = format!("{broker} {broker:?}");
        assert!(!printed.contains("canary") && !printed.contains("secret"), "{printed}");
        assert!(printed.starts_with("one:5673 (virtual host vh), two:5671 (virtual host /)"), "{printed}");
    }

    #[test]
    fn a_bad_address_is_named_by_its_place_and_not_by_its_text() {
        let error = broker(&["amqp://fine", "http://canary:secret@host"]).expect_err("bad");
        assert_eq!(
            error.to_string(),
            "amqp.url: address 2 is not of the form amqp[s]://user:password@host:port/vhost"
        );
        assert!(matches!(broker(&[]), Err(SettingsError::NoUrl)));
    }

    #[test]
    fn an_ipv6_address_is_not_taken_for_localhost() {
        let broker = broker(&["amqp://[::1]:5672/%2f"]).expect("fine");
        assert_eq!(broker.to_string(), "::1:5672 (virtual host /)");
    }

    #[test]
    fn a_certificate_without_its_key_is_a_mistake() {
        let mut amqp = amqp(&["amqps://host"]);
        amqp.tls.client_cert_file = Some(PathBuf::from("cert.pem"));
        assert!(matches!(Broker::new(&amqp, "test", Timeouts::default()), Err(SettingsError::HalfIdentity)));
    }

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_told_as_such_without_the_password() {
        // Nothing listens on the discard port of the loopback.
        let broker = broker(&["amqp://canary:secret@127.0.0.1:9/%2f"]).expect("fine");
        let error = broker.connect(Role::Consume, 0).await.map(|_| ()).expect_err("nobody there");
        let text = format!("{error} {error:?}");
        assert!(text.contains("connect to 127.0.0.1:9 (virtual host /)"), "{text}");
        assert!(!text.contains("canary") && !text.contains("secret"), "{text}");
    }
}
