//! What is wrong where TLS to the broker does not come about, and what fixes it.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

/// How many of the names in a broker's certificate are told.
const NAMES_TOLD_MAX: usize = 5;

/// Which authorities may have issued the broker's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Those of `amqp.tls.ca_file`, and no others.
    File,
    /// Those that this machine knows.
    Machine,
}

/// Whether we have a certificate of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    Certificate,
    None,
}

/// Why a TLS connection does not come about. Says what is wrong, and what fixes it: a key, a part of the address, or
/// something at the broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The broker's certificate is of another authority than ours.
    #[error("the broker's certificate was not issued by an authority in amqp.tls.ca_file")]
    NotOurAuthority,
    /// The broker's certificate is of an authority that this machine does not know.
    #[error(
        "the broker's certificate was not issued by an authority that this machine knows: amqp.tls.ca_file must name \
         the broker's own"
    )]
    UnknownAuthority,
    /// The broker's certificate has expired.
    #[error("the broker's certificate has expired: it must be renewed at the broker")]
    Expired,
    /// The broker's certificate is not valid yet.
    #[error("the broker's certificate is not valid yet: a clock, here or there, may be wrong")]
    NotValidYet,
    /// The broker's certificate is for other names than the one in the address.
    #[error(
        "the broker's certificate is not for the host in amqp.url{0}: the address must use a name that it is for"
    )]
    WrongName(Names),
    /// The broker's certificate is wrong in another way.
    #[error("the broker's certificate cannot be accepted")]
    BadCertificate,
    /// The broker asks for a certificate, and we have none.
    #[error(
        "the broker asks for a client certificate: amqp.tls.client_cert_file and amqp.tls.client_key_file must name one"
    )]
    WantsCertificate,
    /// The broker does not know the authority of our certificate.
    #[error(
        "the broker does not know the authority that issued our certificate: amqp.tls.client_cert_file must be one of \
         an authority that it trusts"
    )]
    OurAuthorityUnknown,
    /// Our certificate has expired.
    #[error("our certificate has expired: amqp.tls.client_cert_file must be renewed")]
    OursExpired,
    /// The broker refuses our certificate.
    #[error("the broker does not accept our certificate, amqp.tls.client_cert_file")]
    OursRefused,
    /// The broker refuses to speak TLS with us.
    #[error("the broker refuses to speak TLS with us")]
    Refused,
    /// The port speaks no TLS.
    #[error(
        "this port speaks no TLS: amqp.url must name the broker's TLS port (5671 as a rule), or begin with amqp://"
    )]
    NoTlsThere,
    /// The port speaks TLS, and we did not.
    #[error(
        "this port speaks TLS: amqp.url must begin with amqps://, or name the broker's plain port (5672 as a rule)"
    )]
    TlsThere,
    /// The broker hung up, and we have shown no certificate.
    #[error(
        "the broker hung up: it is starting or stopping, or it asks for a client certificate \
         (amqp.tls.client_cert_file)"
    )]
    HungUp,
    /// The broker hung up, and we have shown a certificate.
    #[error(
        "the broker hung up: it is starting or stopping, or it does not accept our certificate \
         (amqp.tls.client_cert_file)"
    )]
    HungUpOnUs,
    /// Anything else.
    #[error("TLS with the broker failed")]
    Other,
}

/// What an error of TLS means, and what fixes it.
#[allow(clippy::wildcard_enum_match_arm, reason = "enums of other people, which grow")]
pub(super) fn trouble_of(error: &rustls::Error, trust: Trust, identity: Identity) -> Trouble {
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer => match trust {
                Trust::File => Trouble::NotOurAuthority,
                Trust::Machine => Trouble::UnknownAuthority,
            },
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Trouble::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Trouble::NotValidYet
            }
            CertificateError::NotValidForName => Trouble::WrongName(Names::default()),
            CertificateError::NotValidForNameContext { presented, .. } => {
                Trouble::WrongName(Names::of(presented))
            }
            _ => Trouble::BadCertificate,
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Trouble::NoTlsThere,
        rustls::Error::AlertReceived(alert) => match (alert, identity) {
            (AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure, Identity::None) => {
                Trouble::WantsCertificate
            }
            (AlertDescription::UnknownCA, Identity::Certificate) => Trouble::OurAuthorityUnknown,
            (AlertDescription::CertificateExpired, Identity::Certificate) => Trouble::OursExpired,
            (
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
                | AlertDescription::HandshakeFailure,
                Identity::Certificate,
            ) => Trouble::OursRefused,
            // A register of numbers, not an enum.
            (_, _) => Trouble::Refused,
        },
        _ => Trouble::Other,
    }
}

/// Names that a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names(Vec<String>);

impl Names {
    fn of(presented: &[String]) -> Names {
        // The library tells a host name as `DnsName("host")`.
        let bare = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
        Names(presented.iter().take(NAMES_TOLD_MAX).map(bare).collect())
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, ", it is for {}", self.0.join(", "))
    }
}

/// The other side ended the connection without a word that we could read.
pub(super) fn is_hung_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: rustls::Error, identity: Identity, expected: Trouble) {
        assert_eq!(trouble_of(&error, Trust::File, identity), expected, "{error:?}");
    }

    #[test]
    fn what_is_wrong_with_the_brokers_certificate_is_told_apart() {
        let check = |error, expected| {
            check(rustls::Error::InvalidCertificate(error), Identity::None, expected);
        };
        check(CertificateError::UnknownIssuer, Trouble::NotOurAuthority);
        check(CertificateError::Expired, Trouble::Expired);
        check(CertificateError::NotValidYet, Trouble::NotValidYet);
        check(CertificateError::NotValidForName, Trouble::WrongName(Names::default()));
        check(CertificateError::Revoked, Trouble::BadCertificate);
    }

    #[test]
    fn an_alert_speaks_of_our_certificate_only_where_we_have_one() {
        use AlertDescription as Alert;
        for (alert, without, with) in [
            (Alert::CertificateRequired, Trouble::WantsCertificate, Trouble::OursRefused),
            // So says TLS 1.2.
            (Alert::HandshakeFailure, Trouble::WantsCertificate, Trouble::OursRefused),
            (Alert::UnknownCA, Trouble::Refused, Trouble::OurAuthorityUnknown),
            (Alert::CertificateExpired, Trouble::Refused, Trouble::OursExpired),
            (Alert::BadCertificate, Trouble::Refused, Trouble::OursRefused),
            (Alert::ProtocolVersion, Trouble::Refused, Trouble::Refused),
        ] {
            check(rustls::Error::AlertReceived(alert), Identity::None, without);
            check(rustls::Error::AlertReceived(alert), Identity::Certificate, with);
        }
    }

    #[test]
    fn a_server_that_answers_in_another_protocol_speaks_no_tls() {
        let error = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        check(error, Identity::None, Trouble::NoTlsThere);
    }

    #[test]
    fn the_names_that_a_certificate_is_for_are_told_but_not_all_of_many() {
        let names: Vec<String> = (0..9).map(|number| format!("DnsName(\"host-{number}\")")).collect();
        let text = Trouble::WrongName(Names::of(&names)).to_string();
        assert!(text.contains("host-3, host-4:") && !text.contains("host-5"), "{text}");
    }
}
