//! The authorities that are trusted for the gateway beside the machine's: `gateway.tls.ca_file`.

use std::fs;
use std::path::Path;

use reqwest::Certificate;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// What is wrong with the file. Names the key, never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("gateway.tls.ca_file: the file cannot be read")]
    File(#[source] std::io::Error),
    /// It holds no certificate, or what looks like one and is none.
    #[error("gateway.tls.ca_file: there is no certificate in the file (PEM, `BEGIN CERTIFICATE`)")]
    NoCertificate,
    /// One of its certificates is none.
    #[error("gateway.tls.ca_file: certificate {number} in the file cannot be read as one")]
    BadCertificate {
        /// Which, counted from 1.
        number: usize,
    },
}

/// The certificates in this file: at least one.
pub(super) fn read(path: &Path) -> Result<Vec<Certificate>, Error> {
    let pem = fs::read(path).map_err(Error::File)?;
    let found: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|_| Error::NoCertificate)?;
    if found.is_empty() {
        return Err(Error::NoCertificate);
    }
    let authority = |(at, certificate): (usize, CertificateDer<'_>)| {
        let bad = || Error::BadCertificate { number: at + 1 };
        let read = Certificate::from_der(&certificate).map_err(|_| bad())?;
        RootCertStore::empty().add(certificate).map_err(|_| bad())?;
        Ok(read)
    };
    found.into_iter().enumerate().map(authority).collect()
}
