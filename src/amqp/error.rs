//! What can go wrong at the broker, and what with the settings.

use std::time::Duration;

use lapin::ErrorKind;

use super::cause::{Cause, causes};
use super::finding::Finding;
use super::generation::{ClientError, Ended, Role};
use super::tls_trouble::Trouble;
use crate::config::AMQP_PARAMETERS;
use crate::management;

/// What is wrong with the settings. Nothing that waiting would fix; names keys, never values.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not an AMQP address.
    #[error("amqp.url: address {number} is not of the form amqp[s]://user:password@host:port/vhost")]
    Url {
        /// Which of them, counted from 1.
        number: usize,
    },
    /// A parameter of an address that is not known: most likely a typing error.
    #[error("amqp.url: address {number} has the parameter `{name}`, which is not known: there are {}", AMQP_PARAMETERS.join(", "))]
    UnknownParameter {
        /// Which of them, counted from 1.
        number: usize,
        /// The parameter's name, if it looks like one.
        name: String,
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
    /// A file of `[amqp.tls]` holds no certificate.
    #[error("amqp.tls.{key}: there is no certificate in the file (PEM, `BEGIN CERTIFICATE`)")]
    NoCertificate {
        /// Which one.
        key: &'static str,
    },
    /// A file of `[amqp.tls]` holds a certificate that is none.
    #[error("amqp.tls.{key}: certificate {number} in the file cannot be read as one")]
    BadCertificate {
        /// Which file.
        key: &'static str,
        /// Which of its certificates, counted from 1.
        number: usize,
    },
    /// The file for the key holds none that can be used.
    #[error(
        "amqp.tls.client_key_file: there is no private key in the file that can be used (PEM, not encrypted)"
    )]
    NoPrivateKey,
    /// The key is another certificate's.
    #[error(
        "amqp.tls.client_key_file: the key does not belong to the certificate in amqp.tls.client_cert_file"
    )]
    ForeignKey,
    /// No authority is trusted.
    #[error("amqp.tls.ca_file: must name the broker's authority, since this machine knows none of its own")]
    NoAuthorities {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Files for TLS, and an address without it: the files show that TLS was meant.
    #[error(
        "amqp.url: address {number} begins with amqp://, which makes no use of [amqp.tls]: it must be amqps://"
    )]
    PlainAddress {
        /// Which of the addresses, counted from 1.
        number: usize,
    },
    /// The management API's address, or a file that its connections need.
    #[error(transparent)]
    Management(#[from] management::Error),
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
        source: ClientError,
    },
    /// A connection did not come about, because of TLS or of its absence.
    #[error("failed to {step}: {trouble}")]
    Tls {
        /// What was tried.
        step: String,
        /// What is wrong, and what fixes it.
        trouble: Trouble,
        /// What was said.
        #[source]
        source: ClientError,
    },
    /// The broker does not let this user in.
    #[error("failed to {step}: the broker refuses the login of user `{user}`")]
    LoginRefused {
        /// What was tried.
        step: String,
        /// The user.
        user: String,
        /// What was said.
        #[source]
        source: ClientError,
    },
    /// The broker is not as it must be.
    #[error("the broker does not fit: {}", sentences(.findings))]
    Unfit {
        /// All that is wrong.
        findings: Vec<Finding>,
    },
    /// A name that AMQP cannot carry: more than 255 bytes.
    #[error("the name `{name}` is longer than 255 bytes")]
    NameTooLong {
        /// The name.
        name: String,
    },
}

fn sentences(findings: &[Finding]) -> String {
    causes(findings).iter().map(Cause::to_string).collect::<Vec<_>>().join("; ")
}

impl Error {
    /// Whether the broker has something against what was asked. What was asked a moment later on the same channel hears
    /// nothing but that the channel is closed.
    pub(super) fn is_refusal(&self) -> bool {
        let Error::Failed { source, .. } = self else { return false };
        matches!(source.0.kind(), ErrorKind::ProtocolError(_) | ErrorKind::InvalidChannelState(..))
    }

    /// What the broker itself said, with AMQP's number for it: 404 not found, 406 differs, 403 not allowed.
    pub(super) fn said(&self) -> Option<(u16, String)> {
        let Error::Failed { source, .. } = self else { return None };
        let ErrorKind::ProtocolError(error) = source.0.kind() else { return None };
        Some((error.get_id(), error.get_message().to_string()))
    }
}

/// A channel that does not do what it must ends the generation.
impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        let source = if let Error::Failed { source, .. } = error { Some(source) } else { None };
        Ended::ConnectionLost { role: Role::Consume, source }
    }
}
