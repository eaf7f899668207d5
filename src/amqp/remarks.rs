//! What is worth a warning about the broker's addresses, though the worker works with them.

use std::net::IpAddr;

use lapin::uri::AMQPUri;
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

use super::connect::CONSUME_FRAME_BYTES_MAX;
use crate::config::Amqp;
use crate::telemetry::events;

/// Tells what may not be meant so: a virtual host without a name, a frame larger than we agree to, a password that
/// everybody between here and there can read. Addresses are named by their key and number, and never shown.
pub fn tell(amqp: &Amqp) {
    for (at, url) in amqp.urls.iter().enumerate() {
        let number = at + 1;
        let Ok(parsed) = Url::parse(url.expose_secret()) else { continue };
        if parsed.path() == "/" {
            events::virtual_host_empty(number);
        }
        let wished = url.expose_secret().parse::<AMQPUri>().ok().and_then(|uri| uri.query.frame_max);
        if let Some(wished) = wished.filter(|wished| *wished > CONSUME_FRAME_BYTES_MAX) {
            events::frame_max_not_used(number, wished, CONSUME_FRAME_BYTES_MAX);
        }
        if parsed.scheme() == "amqp" && shows_a_password(&parsed) {
            events::password_in_the_clear("amqp.url", number);
        }
    }
    let management = amqp.management_url.as_ref().map(SecretString::expose_secret);
    if let Some(Ok(url)) = management.map(Url::parse)
        && url.scheme() == "http"
        && shows_a_password(&url)
    {
        events::password_in_the_clear("amqp.management_url", 1);
    }
}

fn shows_a_password(url: &Url) -> bool {
    url.password().is_some() && !is_loopback(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        // Of an address that is not the web's, an IPv4 address is a name.
        Some(Host::Domain(name)) => match name.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => name.eq_ignore_ascii_case("localhost"),
        },
        None => true,
    }
}
