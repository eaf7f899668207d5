//! Addresses: of the broker, of its management API, of the gateway, of callbacks and of telemetry.

use url::{Host, Url};

use super::PlainHttp;
use super::mistakes::Invalid;
use super::values::{self, Value};

/// The broker's addresses: one, or a list. A comma in plain text separates only where an address follows it,
/// because a password may contain one.
pub(super) fn split(value: Value) -> Result<Vec<Value>, Invalid> {
    if let Value::Text(_) = value {
        return Ok(vec![value]);
    }
    if let Value::Plain(plain) = &value
        && !plain.trim_start().starts_with('[')
    {
        let mut addresses: Vec<String> = Vec::new();
        for part in plain.split(',') {
            let begins = ["amqp://", "amqps://"].iter().any(|scheme| part.trim_start().starts_with(scheme));
            match addresses.last_mut() {
                Some(last) if !begins => {
                    last.push(',');
                    last.push_str(part);
                }
                Some(_) | None => addresses.push(part.to_owned()),
            }
        }
        return Ok(addresses.into_iter().map(|address| Value::Plain(address.trim().to_owned())).collect());
    }
    values::list(value)
        .map_err(|_| Invalid::new("is no address", "write one address in quotes, or a list of them"))
}

fn url(value: Value, remedy: &str) -> Result<(String, Url), Invalid> {
    let text = values::text(value)?;
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    let parsed =
        Url::parse(&text).ok().filter(|url| fits && url.host_str().is_some_and(|host| !host.is_empty()));
    parsed.map(|url| (text, url)).ok_or_else(|| Invalid::new("is no address", remedy))
}

/// The parameters that a broker's address can have, behind its `?`.
pub const AMQP_PARAMETERS: [&str; 5] =
    ["heartbeat", "frame_max", "channel_max", "connection_timeout", "auth_mechanism"];

/// The first unknown parameter of a broker's address; `?` if it does not look like a name, and may be a misplaced secret.
pub fn unknown_amqp_parameter(address: &str) -> Option<String> {
    let url = Url::parse(address).ok()?;
    let unknown = url.query_pairs().find(|(name, _)| !AMQP_PARAMETERS.contains(&&**name))?.0;
    let is_name =
        (1..=32).contains(&unknown.len()) && unknown.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    Some(if is_name { unknown.into_owned() } else { "?".to_owned() })
}

/// An address of the broker.
pub(super) fn amqp_url(value: Value) -> Result<String, Invalid> {
    let remedy = "write it as amqps://user:password@host:5671/vhost, what is special in it escaped with %";
    let (text, url) = url(value, remedy)?;
    if let Some(name) = unknown_amqp_parameter(&text) {
        let remedy = format!("write {}", values::names(AMQP_PARAMETERS.into_iter()));
        return Err(Invalid::new(format!("has the parameter `{name}`, which is not known"), remedy));
    }
    match url.scheme() {
        "amqp" | "amqps" => Ok(text),
        _ => Err(Invalid::new("begins with neither amqp:// nor amqps://", remedy)),
    }
}

/// The management API's address, which may carry user and password.
pub(super) fn management_url(value: Value) -> Result<String, Invalid> {
    let remedy = "write it as https://user:password@host:15671";
    let (text, url) = url(value, remedy)?;
    http_only(&url)?;
    no_query(&url)?;
    Ok(text)
}

/// The base address of one of the gateway's APIs.
pub(super) fn gateway_url(value: Value, plain_http: PlainHttp) -> Result<Url, Invalid> {
    let (_, url) = url(value, "write it as https://host, with a path if there is one")?;
    check_gateway_url(&url, plain_http)?;
    Ok(url)
}

/// The rule for such an address: where plain HTTP may go, and that paths can follow it.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_gateway_url(url: &Url, plain_http: PlainHttp) -> Result<(), Invalid> {
    http_only(url)?;
    no_query(url)?;
    no_user(url)?;
    if url.scheme() == "http" && plain_http == PlainHttp::Loopback && !is_loopback(url) {
        let remedy = "write https://, or set gateway.allow_http if this network may read the keys";
        return Err(Invalid::new("is plain http to another machine", remedy));
    }
    Ok(())
}

/// Where spans and metrics are sent.
pub(super) fn otlp_endpoint(value: Value) -> Result<Url, Invalid> {
    let (_, url) = url(value, "write it as http://host:4318")?;
    http_only(&url)?;
    no_query(&url)?;
    no_user(&url)?;
    Ok(url)
}

/// Where the gateway reports the end of a batch.
pub(super) fn callback_url(value: Value) -> Result<Url, Invalid> {
    let (_, url) = url(value, "write it as https://host/path")?;
    if url.scheme() != "https" {
        return Err(Invalid::new("is not https", "write an address that begins with https://"));
    }
    no_user(&url)?;
    if url.fragment().is_some() {
        return Err(Invalid::new("has a fragment", "leave out the # and what follows"));
    }
    Ok(url)
}

fn http_only(url: &Url) -> Result<(), Invalid> {
    if matches!(url.scheme(), "http" | "https") {
        return Ok(());
    }
    let remedy = "write an address that begins with https://";
    Err(Invalid::new("begins with neither https:// nor http://", remedy))
}

fn no_query(url: &Url) -> Result<(), Invalid> {
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Invalid::new("has a query or a fragment", "leave out the ? or # and what follows"));
    }
    Ok(())
}

fn no_user(url: &Url) -> Result<(), Invalid> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Invalid::new("has a user or a password", "leave out what is before the @"));
    }
    Ok(())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
