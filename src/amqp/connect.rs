//! How to reach the broker: addresses, TLS, deadlines. Every wait on the client library has one, close included:
//! while the broker has an alarm, even a close can hang for ever.

use std::fmt;
use std::time::Duration;

use lapin::types::ShortString;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{ConnectionProperties, ErrorKind};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::{Host, Url};

use super::connection::Connection;
use super::error::{Error, SettingsError};
use super::generation::Role;
use super::reply_code;
use super::screen::Limits;
use super::step::within;
use super::tls::Tls;
use super::tls_trouble::{Trouble, is_hung_up};
use crate::config::{Amqp, AmqpTls, unknown_amqp_parameter};

/// The heartbeat where the address says nothing: a silent broker is noticed within two.
pub(super) const HEARTBEAT_S: u16 = 10;

/// The largest frame of a connection that publishes, in bytes: the buffers of the client library are 64 times as large.
const PUBLISH_FRAME_BYTES_MAX: u32 = 16_384;

/// The largest frame of a connection that consumes, in bytes: RabbitMQ's default. The properties of a letter have to
/// fit into one, so there it is not smaller.
pub(super) const CONSUME_FRAME_BYTES_MAX: u32 = 131_072;

/// How much of bodies that are larger than an intent a worker holds at once, in bytes. They are malformed, and dead in
/// no time.
const LARGE_BODIES_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// How long each wait on the broker may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A connection to be made, handshake included, by address.
    pub connect: Duration,
    /// One answer of the broker: a channel, a prefetch, a consumer, an ack's way to the socket.
    pub step: Duration,
    /// The topology to be declared: many queues at once, when nothing is there yet.
    pub declare: Duration,
    /// A publish to be confirmed. The time stands still while the broker says that an alarm blocks us.
    pub confirm: Duration,
    /// The broker's alarm to be over. Shorter than the 30 min after which a broker takes unacked letters back.
    pub blocked: Duration,
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
            blocked: Duration::from_secs(15 * 60),
            close: Duration::from_secs(5),
        }
    }
}

/// Where the broker is, and how to speak to it.
#[derive(Clone)]
pub struct Broker {
    name: String,
    endpoints: Vec<Endpoint>,
    /// Present where an address asks for it.
    tls: Option<Tls>,
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
            .map(|(at, url)| {
                let number = at + 1;
                if let Some(name) = unknown_amqp_parameter(url.expose_secret()) {
                    return Err(SettingsError::UnknownParameter { number, name });
                }
                Endpoint::parse(url).ok_or(SettingsError::Url { number })
            })
            .collect::<Result<Vec<Endpoint>, SettingsError>>()?;
        if endpoints.is_empty() {
            return Err(SettingsError::NoUrl);
        }
        let plain = endpoints.iter().position(|endpoint| endpoint.0.scheme == AMQPScheme::AMQP);
        let tls = match plain {
            Some(at) if amqp.tls != AmqpTls::default() => {
                return Err(SettingsError::PlainAddress { number: at + 1 });
            }
            // Not one of them asks for it: then no authorities need to be known.
            Some(_) if endpoints.iter().all(|endpoint| endpoint.0.scheme == AMQPScheme::AMQP) => None,
            Some(_) | None => Some(Tls::new(&amqp.tls)?),
        };
        Ok(Broker { name: name.to_owned(), endpoints, tls, timeouts })
    }

    /// Opens a connection at the first address that answers, beginning with number `first`. Says which one it was.
    pub(super) async fn connect(&self, role: Role, first: usize) -> Result<(Connection, usize), Error> {
        let mut failed = None;
        for turn in 0..self.endpoints.len() {
            let at = (first + turn) % self.endpoints.len();
            match self.open(role, at, None).await {
                Ok(connection) => return Ok((connection, at)),
                Err(error) => failed = Some(error),
            }
        }
        // There is at least one address, so one has failed.
        Err(failed.unwrap_or_else(|| Error::Late { step: "connect".to_owned(), after: Duration::ZERO }))
    }

    /// Does something by a connection of its own, which knows the number of its address, and closes it.
    pub(super) async fn with_connection<T>(
        &self,
        work: impl AsyncFnOnce(&lapin::Connection, usize) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (connection, at) = self.connect(Role::Consume, 0).await?;
        let done = work(&connection, at).await;
        self.close(&connection).await;
        done
    }

    /// Opens a worker's connection at one address.
    pub(super) async fn connect_at(&self, role: Role, at: usize) -> Result<Connection, Error> {
        self.open(role, at, Some(LARGE_BODIES_BYTES_MAX)).await
    }

    /// Opens a connection at one address. Where not everything that is delivered is acked, `large_bodies_bytes_max` is `None`.
    async fn open(
        &self,
        role: Role,
        at: usize,
        large_bodies_bytes_max: Option<u64>,
    ) -> Result<Connection, Error> {
        let endpoint = &self.endpoints[at % self.endpoints.len()];
        let mut uri = endpoint.0.clone();
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let frame_bytes_max = match role {
            Role::Publish => PUBLISH_FRAME_BYTES_MAX,
            Role::Consume => CONSUME_FRAME_BYTES_MAX,
        };
        // Zero means without a bound.
        let wished = uri.query.frame_max.filter(|frame_max| *frame_max > 0);
        let frame_max = wished.unwrap_or(frame_bytes_max).min(frame_bytes_max);
        uri.query.frame_max = Some(frame_max);
        let limits = Limits { frame_max, large_bodies_bytes_max };
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("cancel-worker {} {role}", self.name).into())
            .with_client_property("role".into(), role.to_string().into());
        let tls = match uri.scheme {
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => self.tls.as_ref().map(|tls| &tls.connector),
        };
        // Boxed: with its TLS handshake it is large, and every future that connects would be as large.
        let connecting = Box::pin(Connection::open(uri, properties, tls, limits));
        let connected = within(format!("connect to {endpoint}"), self.timeouts.connect, connecting).await;
        match connected {
            Err(Error::Failed { step, source })
                if reply_code::of(&source.0) == Some(reply_code::ACCESS_REFUSED) =>
            {
                let user = endpoint.0.authority.userinfo.username.clone();
                Err(Error::LoginRefused { step, user, source })
            }
            Err(Error::Failed { step, source }) => match self.trouble(endpoint, &source.0).await {
                Some(trouble) => Err(Error::Tls { step, trouble, source }),
                None => Err(Error::Failed { step, source }),
            },
            connected => connected,
        }
    }

    /// What this failed connection has to do with TLS, if anything.
    async fn trouble(&self, endpoint: &Endpoint, error: &lapin::Error) -> Option<Trouble> {
        match (&endpoint.0.scheme, &self.tls) {
            (AMQPScheme::AMQPS, Some(tls)) => tls.trouble(error),
            (AMQPScheme::AMQPS, None) => None,
            (AMQPScheme::AMQP, _) if is_no_amqp(error) => {
                let authority = &endpoint.0.authority;
                let asking = speaks_tls((&authority.host, authority.port));
                match tokio::time::timeout(self.timeouts.connect, asking).await {
                    Ok(Ok(true)) => Some(Trouble::TlsThere),
                    Ok(Ok(false) | Err(_)) | Err(_) => None,
                }
            }
            (AMQPScheme::AMQP, _) => None,
        }
    }

    /// How many addresses there are: at least one.
    pub(super) fn addresses_len(&self) -> usize {
        self.endpoints.len()
    }

    /// The address with this number, as people may see it.
    pub(super) fn shown(&self, at: usize) -> String {
        self.endpoints[at % self.endpoints.len()].to_string()
    }

    /// The virtual host of the first address.
    pub fn first_vhost(&self) -> &str {
        self.vhost(0)
    }

    /// The virtual host of the address with this number.
    pub(super) fn vhost(&self, at: usize) -> &str {
        &self.endpoints[at % self.endpoints.len()].0.vhost
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

/// Whether what came back to a greeting in plain AMQP was none.
fn is_no_amqp(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ParsingError(_))
        || matches!(error.kind(), ErrorKind::IOError(error) if is_hung_up(error))
}

/// Whether the port answers a plain AMQP greeting with a TLS alert. The client library does not tell what it could not
/// read, so we greet once more.
async fn speaks_tls(address: (&str, u16)) -> std::io::Result<bool> {
    const GREETING: &[u8] = b"AMQP\0\0\x09\x01";
    const ALERT: u8 = 21;
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(GREETING).await?;
    Ok(stream.read_u8().await? == ALERT)
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
    fn a_parameter_that_nobody_knows_is_named() {
        let known = "amqp://host/vh?heartbeat=5&frame_max=4096&channel_max=9&connection_timeout=1&auth_mechanism=plain";
        assert!(broker(&[known]).is_ok());
        for (url, name) in [
            ("amqp://host/vh?hearbeat=5", "`hearbeat`"),
            ("amqp://host/vh?heartbeat=5&verify=verify_peer", "`verify`"),
            // What does not look like a name may be a secret that slipped.
            ("amqp://host/vh?canary-5", "`?`"),
        ] {
            let error = broker(&["amqp://fine", url]).expect_err("it is not known").to_string();
            assert!(
                error.contains("address 2") && error.contains(name) && !error.contains("canary"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_ipv6_address_is_not_taken_for_localhost() {
        let broker = broker(&["amqp://[::1]:5672/%2f"]).expect("fine");
        assert_eq!(broker.to_string(), "::1:5672 (virtual host /)");
    }

    #[test]
    fn files_for_tls_and_an_address_without_it_are_a_mistake() {
        let mut amqp = amqp(&["amqps://one", "amqp://two"]);
        amqp.tls.ca_file = Some(PathBuf::from("ca.pem"));
        let error = Broker::new(&amqp, "test", Timeouts::default()).expect_err("half of it is plain");
        assert!(matches!(error, SettingsError::PlainAddress { number: 2 }), "{error}");
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
