//! What an error of the HTTP client says: which fault it is, and in which words a person is told of it.
//!
//! Errors are read by their types, never by their texts: those carry addresses.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpInfo;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

use crate::domain::fault::Fault;

/// How an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    /// As one word.
    pub(crate) fault: Fault,
    /// What it was, for the person who must fix it. Ours; holds neither addresses nor anything that came.
    pub(crate) detail: &'static str,
}

impl Failure {
    /// A failure of this kind.
    pub(crate) const fn new(fault: Fault, detail: &'static str) -> Failure {
        Failure { fault, detail }
    }
}

/// The deadline passed before the whole reply was there.
pub(crate) const LATE: Failure =
    Failure::new(Fault::Timeout, "there was no whole reply within gateway.call_timeout");

/// Why a request was not answered; `None` if it was never one that could be sent.
///
/// The client says of an error that it is of the connection only for what failed before the connection was handed to the
/// request: name, socket, TLS, and the connect timeout over all three. Whatever fails later may have been read.
pub(crate) fn of_request(error: &reqwest::Error) -> Option<Failure> {
    if error.is_builder() {
        None
    } else if error.is_connect() {
        Some(of_connecting(error))
    } else {
        Some(of_waiting(error))
    }
}

/// Our end of the connection that a request was sent on when it failed.
pub(crate) fn local_end(error: &reqwest::Error) -> Option<SocketAddr> {
    let connected = find::<legacy::Error>(error)?.connect_info()?;
    let mut extras = hyper::http::Extensions::new();
    connected.get_extras(&mut extras);
    extras.get::<HttpInfo>().map(HttpInfo::local_addr)
}

/// Why a reply's body did not come whole.
pub(crate) fn of_body(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        return LATE;
    }
    match io_kind(error) {
        Some(
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe,
        ) => Failure::new(Fault::Reset, "the connection was reset within the reply"),
        Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
            Failure::new(Fault::Unreadable, "the reply's body is not HTTP")
        }
        _ended => Failure::new(Fault::Truncated, "the connection was closed within the reply"),
    }
}

/// Why there was no connection.
fn of_connecting(error: &reqwest::Error) -> Failure {
    // Before the time-out of the whole: that one would say that it took too long to connect.
    if error.is_dns() {
        let detail = match find::<NameServersSilent>(error) {
            Some(NameServersSilent) => "no name server answered in time",
            None => "the name of the host cannot be resolved",
        };
        return Failure::new(Fault::Dns, detail);
    }
    if let Some(error) = find_tls(error) {
        return Failure::new(Fault::Tls, of_tls(error));
    }
    if error.is_timeout() {
        let detail = "the connection was not made within gateway.connect_timeout";
        return Failure::new(Fault::ConnectTimeout, detail);
    }
    let unreachable = |detail| Failure::new(Fault::Unreachable, detail);
    match io_kind(error) {
        Some(io::ErrorKind::ConnectionRefused) => {
            Failure::new(Fault::ConnectRefused, "nobody takes connections at that port")
        }
        // A socket is connected or refused; to be reset or closed is left to what comes after it.
        Some(
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof,
        ) => Failure::new(Fault::Tls, "the other side hung up while TLS was being agreed"),
        Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown) => {
            unreachable("this machine has no way into that network")
        }
        Some(io::ErrorKind::HostUnreachable) => unreachable("no way leads to that host"),
        Some(io::ErrorKind::PermissionDenied) => unreachable("this machine may not connect there"),
        Some(io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse) => {
            unreachable("this machine has no free port or no address to connect from")
        }
        _other => unreachable("the connection cannot be made"),
    }
}

/// Why nothing came back on a connection that there was.
fn of_waiting(error: &reqwest::Error) -> Failure {
    if error.is_timeout() {
        return LATE;
    }
    if find_tls(error).is_some() {
        return Failure::new(Fault::Closed, "the other side ended TLS before a reply");
    }
    if let Some(error) = find::<hyper::Error>(error) {
        if error.is_parse_too_large() {
            return Failure::new(Fault::TooLarge, "the headers of the reply are too large");
        }
        if error.is_parse() {
            return Failure::new(Fault::Unreadable, "what came is not HTTP");
        }
    }
    match io_kind(error) {
        Some(
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe,
        ) => Failure::new(Fault::Reset, "the connection was reset before a reply"),
        Some(io::ErrorKind::InvalidData) => Failure::new(Fault::Unreadable, "what came is not HTTP"),
        _ended => Failure::new(Fault::Closed, "the connection was closed before a reply"),
    }
}

/// Why TLS was not agreed, and what fixes it.
#[allow(clippy::wildcard_enum_match_arm, reason = "enums of other people, which grow")]
fn of_tls(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer => {
                "the certificate was not issued by an authority that is trusted; gateway.tls.ca_file can name one"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the certificate is for another host name than the address's"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet; a clock, here or there, may be wrong"
            }
            CertificateError::Revoked => "the certificate has been revoked",
            _ => "the certificate cannot be accepted",
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server at that port speaks no TLS"
        }
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the other side does not serve the address's host name"
        }
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired | AlertDescription::BadCertificate,
        ) => "the other side asks for a client certificate, and we have none",
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(_) => {
            "the other side speaks no version of TLS, or no algorithm, that is still safe"
        }
        rustls::Error::AlertReceived(_) => "the other side refuses to speak TLS with us",
        _ => "TLS cannot be agreed",
    }
}

/// The resolver had no answer in time: what else would be taken for a connection that takes too long.
#[derive(Debug, thiserror::Error)]
#[error("no name server answered in time")]
pub(super) struct NameServersSilent;

/// The first error of this type among an error and what is behind it.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    behind(error).find_map(|error| error.downcast_ref::<E>())
}

/// An error of TLS hides within one of input and output.
fn find_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    behind(error).find_map(|error| error.downcast_ref::<rustls::Error>())
}

/// What the system said: the kind of the innermost error of input and output.
fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    behind(error).filter_map(|error| error.downcast_ref::<io::Error>()).last().map(io::Error::kind)
}

/// An error and everything behind it, what is within errors of input and output included: those name only what is
/// behind that.
fn behind<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error: &'a (dyn Error + 'static) = *error;
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match within {
            Some(within) => Some(within as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}
