//! The one place that builds HTTP clients, for the two rooms that speak HTTP as clients: `gateway/` and
//! `management/`, and that reads what their errors mean. What must hold for both is said here; their time limits are
//! their own.

pub(crate) mod failure;
pub(crate) mod resolver;

use reqwest::{Certificate, Client, ClientBuilder};
use rustls::crypto::CryptoProvider;

/// A client, and whom it can trust.
pub(crate) enum Built {
    /// It can speak to http and https addresses.
    Whole(Client),
    /// This machine trusts no authority at all, so it can speak to http addresses only.
    PlainOnly(Client),
}

/// Why there is no client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Error {
    /// The process has not chosen its TLS implementation: a fault of our own.
    NoTlsProvider,
    /// It cannot be built for another reason.
    Client,
}

/// A client with these limits, which trusts `authorities` beside those that the machine trusts.
///
/// No retry, no redirect, no proxy: what is tried again was decided, and an answer comes from whom was asked.
/// HTTP/1.1 only: a connection carries one exchange at a time, so that one that breaks leaves one call in doubt, not
/// all that run.
pub(crate) fn client(
    authorities: &[Certificate],
    limits: impl Fn(ClientBuilder) -> ClientBuilder,
) -> Result<Built, Error> {
    if CryptoProvider::get_default().is_none() {
        return Err(Error::NoTlsProvider);
    }
    let builder = || {
        limits(
            Client::builder()
                .http1_only()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                .user_agent(concat!("cancel-worker/", env!("CARGO_PKG_VERSION"))),
        )
    };
    if let Ok(client) = builder().tls_certs_merge(authorities.to_vec()).build() {
        return Ok(Built::Whole(client));
    }
    // What fails with the machine's certificates and works without them is a machine that has none.
    let client = builder().tls_certs_only(authorities.to_vec()).build().map_err(|_| Error::Client)?;
    Ok(if authorities.is_empty() { Built::PlainOnly(client) } else { Built::Whole(client) })
}
