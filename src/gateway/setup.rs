//! What the configuration must have for a gateway: addresses and keys that HTTP can carry, and a client for them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use reqwest::Client;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::authorities;
use crate::config::{self, Invalid, KeyPair};
use crate::domain::intent::{Api, MerchantName};
use crate::web::resolver::Resolver;
use crate::web::{self, Built};

/// An idle connection is kept so long: shorter than servers usually keep theirs, since a request on a connection
/// that the server is just closing ends in doubt.
pub(super) const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// The most idle connections that are kept for each address.
const POOL_IDLE_PER_HOST_MAX: usize = 32;

/// A merchant's keys as header values, each marked as sensitive.
pub(super) struct MerchantKeys {
    pub(super) private: Option<[HeaderValue; 2]>,
    pub(super) public: Option<[HeaderValue; 2]>,
}

/// The keys of all merchants, unless there is a mistake in them or in the addresses.
pub(super) fn check(
    settings: &config::Gateway,
    merchants: &BTreeMap<MerchantName, config::Merchant>,
) -> Result<BTreeMap<MerchantName, MerchantKeys>, Error> {
    let mut mistakes = Vec::new();
    for (api, url) in &settings.urls {
        if let Err(fault) = config::check_gateway_url(url, settings.plain_http) {
            mistakes.push(InvalidSetting { key: url_key(*api), fault });
        }
    }
    let keys = keys_of(merchants, &mut mistakes);
    if mistakes.is_empty() { Ok(keys) } else { Err(Error::Settings(InvalidSettings(mistakes))) }
}

/// The keys of all merchants, as HTTP carries them.
pub(super) fn keys(
    merchants: &BTreeMap<MerchantName, config::Merchant>,
) -> Result<BTreeMap<MerchantName, MerchantKeys>, InvalidSettings> {
    let mut mistakes = Vec::new();
    let keys = keys_of(merchants, &mut mistakes);
    if mistakes.is_empty() { Ok(keys) } else { Err(InvalidSettings(mistakes)) }
}

fn keys_of(
    merchants: &BTreeMap<MerchantName, config::Merchant>,
    mistakes: &mut Vec<InvalidSetting>,
) -> BTreeMap<MerchantName, MerchantKeys> {
    let mut keys = BTreeMap::new();
    for (name, merchant) in merchants {
        let private = header_values(merchant.private.as_ref(), name, "private", mistakes);
        let public = header_values(merchant.public.as_ref(), name, "public", mistakes);
        keys.insert(name.clone(), MerchantKeys { private, public });
    }
    keys
}

/// The client with the gateway's own limits.
pub(super) fn client(settings: &config::Gateway) -> Result<Client, Error> {
    // A connection still being made at the call's deadline could not be told from a request that was sent, so the
    // making ends a little earlier.
    let connect_timeout = settings.connect_timeout.min(settings.call_timeout - settings.call_timeout / 10);
    let authorities = settings.ca_file.as_deref().map_or(Ok(Vec::new()), authorities::read)?;
    let built = web::client(&authorities, |builder| {
        builder
            .connect_timeout(connect_timeout)
            .dns_resolver(Resolver::new(connect_timeout - connect_timeout / 10))
            // We unfold replies ourselves, within bounds on both sides.
            .gzip(false)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_IDLE_PER_HOST_MAX)
    });
    let https = |(_, url): &(&Api, &Url)| url.scheme() == "https";
    match (built, settings.urls.iter().find(https)) {
        (Ok(Built::Whole(client)), _) | (Ok(Built::PlainOnly(client)), None) => Ok(client),
        (Ok(Built::PlainOnly(_)), Some((api, _))) => Err(Error::NoCertificates { key: url_key(*api) }),
        (Err(web::Error::NoTlsProvider), _) => Err(Error::NoTlsProvider),
        (Err(web::Error::Client), _) => Err(Error::Client),
    }
}

fn header_values(
    pair: Option<&KeyPair>,
    merchant: &MerchantName,
    name: &str,
    mistakes: &mut Vec<InvalidSetting>,
) -> Option<[HeaderValue; 2]> {
    let KeyPair { key, client } = pair?;
    let mut value = |secret: &SecretString, part: &str| {
        let value = HeaderValue::from_str(secret.expose_secret()).ok();
        if value.is_none() {
            let fault = Invalid::new("has characters that no HTTP header can carry", "write the key alone");
            mistakes.push(InvalidSetting { key: format!("merchants.{merchant}.{name}_{part}"), fault });
        }
        value.map(|mut value| {
            value.set_sensitive(true);
            value
        })
    };
    let (key, client) = (value(key, "key"), value(client, "client"));
    Some([key?, client?])
}

fn url_key(api: Api) -> String {
    format!("gateway.{api}_url")
}

/// Why there is no gateway to talk to. Names keys of the configuration, never their values.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration's addresses or keys cannot be used.
    #[error("{0}")]
    Settings(InvalidSettings),
    /// The file of authorities cannot be used.
    #[error(transparent)]
    CaFile(#[from] authorities::Error),
    /// The process has not chosen its TLS implementation: a fault of our own.
    #[error("no TLS provider is installed; install rustls's ring provider first thing in main")]
    NoTlsProvider,
    /// An https address, on a machine that trusts nobody.
    #[error(
        "{key} is https, but this machine has no CA certificates; install its ca-certificates package, or name a \
         PEM file in gateway.tls.ca_file or in the environment variable SSL_CERT_FILE"
    )]
    NoCertificates {
        /// The address's key.
        key: String,
    },
    /// The HTTP client cannot be built for another reason.
    #[error("the HTTP client cannot be built")]
    Client,
}

/// All mistakes of the configuration that the gateway found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSettings(pub Vec<InvalidSetting>);

impl fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let parting = if index == 0 { "" } else { "; " };
            write!(f, "{parting}{mistake}")?;
        }
        Ok(())
    }
}

/// One mistake of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {fault}")]
pub struct InvalidSetting {
    /// The key's full name.
    pub key: String,
    /// What is wrong with its value.
    pub fault: Invalid,
}
