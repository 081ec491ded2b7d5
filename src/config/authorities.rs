//! Files with certificates that are trusted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// A file does not hold certificates to trust.
#[derive(Debug, thiserror::Error)]
#[error("{path} must hold the certificates of the authorities that are trusted, in PEM form ({reason})")]
pub struct AuthoritiesError {
    path: PathBuf,
    reason: String,
}

/// The content of a file of authorities that a setting names, and the authorities.
///
/// # Errors
///
/// [`AuthoritiesError`] if it cannot be read, or as [`authorities`].
pub fn read_authorities(path: &Path) -> Result<(Vec<u8>, RootCertStore), AuthoritiesError> {
    let content = fs::read(path).map_err(|error| AuthoritiesError { path: path.to_owned(), reason: error.to_string() })?;
    let authorities = authorities(path, &content)?;
    Ok((content, authorities))
}

/// The authorities that are in a file with this content.
///
/// # Errors
///
/// [`AuthoritiesError`] if there is none in it, or one that cannot be used.
pub fn authorities(path: &Path, content: &[u8]) -> Result<RootCertStore, AuthoritiesError> {
    let wrong = |reason: String| AuthoritiesError { path: path.to_owned(), reason };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(content) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        store.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(wrong("there is none".to_owned()));
    }
    Ok(store)
}
