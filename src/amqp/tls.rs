//! TLS to the broker: the authorities that we trust, and our own certificate.

use std::fs;
use std::io;
use std::path::Path;

use lapin::ErrorKind;
use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::SettingsError;
use super::tls_trouble::{Identity, Trouble, Trust, is_hung_up, trouble_of};
use crate::config::AmqpTls;

const CA_FILE: &str = "ca_file";
const CLIENT_CERT_FILE: &str = "client_cert_file";
const CLIENT_KEY_FILE: &str = "client_key_file";

/// How TLS is spoken, made once: the files are read at the start of the process.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) connector: RustlsConnector,
    trust: Trust,
    identity: Identity,
}

impl Tls {
    /// From the files of `[amqp.tls]`.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub(super) fn new(files: &AmqpTls) -> Result<Tls, SettingsError> {
        let identity = match (&files.client_cert_file, &files.client_key_file) {
            (Some(cert), Some(key)) => Some((certificates(CLIENT_CERT_FILE, cert)?, private_key(key)?)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(SettingsError::HalfIdentity),
        };
        let (roots, trust) = match &files.ca_file {
            // Where an authority is named, a certificate of any other is not the broker's.
            Some(path) => {
                let roots = certificates(CA_FILE, path)?;
                for (at, root) in roots.iter().enumerate() {
                    RootCertStore::empty()
                        .add(root.clone())
                        .map_err(|_| SettingsError::BadCertificate { key: CA_FILE, number: at + 1 })?;
                }
                (RustlsConnectorConfig::default().with_parsable_certificates(roots), Trust::File)
            }
            None => {
                let roots = RustlsConnectorConfig::new_with_native_certs()
                    .map_err(|source| SettingsError::NoAuthorities { source })?;
                (roots, Trust::Machine)
            }
        };
        let known = if identity.is_some() { Identity::Certificate } else { Identity::None };
        let connector = match identity {
            Some((chain, key)) => roots.connector_with_single_cert(chain, key).map_err(refused_identity)?,
            None => roots
                .connector_with_no_client_auth()
                .map_err(|source| SettingsError::NoAuthorities { source })?,
        };
        Ok(Tls { connector, trust, identity: known })
    }

    /// What is wrong, as far as this error tells, and what fixes it. `None`: nothing that has to do with TLS.
    pub(super) fn trouble(&self, error: &lapin::Error) -> Option<Trouble> {
        let ErrorKind::IOError(error) = error.kind() else { return None };
        // Typed, never by its text.
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => Some(trouble_of(error, self.trust, self.identity)),
            // A broker need not wait for us to read why it hangs up.
            None if is_hung_up(error) => Some(match self.identity {
                Identity::Certificate => Trouble::HungUpOnUs,
                Identity::None => Trouble::HungUp,
            }),
            None => None,
        }
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, SettingsError> {
    fs::read(path).map_err(|source| SettingsError::File { key, source })
}

/// The certificates in a file: at least one.
fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let pem = read(key, path)?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(SettingsError::NoCertificate { key }),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, SettingsError> {
    let pem = read(CLIENT_KEY_FILE, path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| SettingsError::NoPrivateKey)
}

/// What is wrong with our own certificate and key. The library words it as if the broker had sent them.
fn refused_identity(error: io::Error) -> SettingsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InconsistentKeys(_)) => SettingsError::ForeignKey,
        Some(rustls::Error::InvalidCertificate(_)) => {
            SettingsError::BadCertificate { key: CLIENT_CERT_FILE, number: 1 }
        }
        // An algorithm that this TLS does not know.
        Some(_) => SettingsError::NoPrivateKey,
        None => SettingsError::NoAuthorities { source: error },
    }
}
