//! HTTPS: the server's certificate, which is read again when its files change.
//!
//! TLS 1.2 and 1.3 as rustls has them with ring, HTTP/2 and HTTP/1.1 by ALPN. A connection keeps the certificate that it began with; what is read later is
//! for those that come then. Sessions are resumed only under the certificate, and the authorities for clients, under which they began.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use poem::http::HeaderValue;
use rustls::{
    CertificateError, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_cert::{Certificate, der::Decode as _};
use zeroize::Zeroizing;

use crate::config::{AuthoritiesError, Settings, authorities};

/// How often the files are looked at. What two looks found the same is taken for whole: files are replaced one after the other.
const LOOK: Duration = Duration::from_secs(2);

/// From how long before a certificate's end the log says so, each day.
const REMIND: TimeDelta = TimeDelta::days(14);

/// What ALPN calls HTTP/2.
const H2: &[u8] = b"h2";

/// Why HTTPS cannot be spoken with what the settings name. Each says what to do, and nothing of the key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{name}: cannot read {path}: {source}")]
    Unreadable {
        /// The setting.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No certificate, or something else.
    #[error("tls_cert_file: {0} must hold the server's certificate, then those between it and its authority, in PEM form")]
    NoCertificate(PathBuf),
    /// No key, or one that cannot be used.
    #[error("tls_key_file: {0} must hold one private key in PEM form that is not encrypted (PKCS #8, PKCS #1 or SEC 1)")]
    NoKey(PathBuf),
    /// The key belongs to another certificate.
    #[error("tls_key_file: the key in {key} is not that of the certificate in {certificate}: replace both together")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// It cannot be used for something else.
    #[error("tls_cert_file, tls_key_file: {certificate} and {key} cannot be used: {source}")]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// Nobody would accept it any more.
    #[error("tls_cert_file: the certificate in {path} expired on {since}: replace it and its key (and look at the clock)")]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// When.
        since: DateTime<Utc>,
    },
    /// Nobody would accept it yet.
    #[error("tls_cert_file: the certificate in {path} is valid from {from} on only: look at the clock")]
    Early {
        /// The certificate's file.
        path: PathBuf,
        /// From when.
        from: DateTime<Utc>,
    },
    /// Those who sign clients' certificates.
    #[error("tls_client_ca_file: {0}")]
    Authorities(#[from] AuthoritiesError),
    /// They cannot be used.
    #[error("tls_client_ca_file: {path} cannot be used: {reason}")]
    Clients {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// HTTPS as the settings want it.
pub struct Tls {
    files: Files,
    current: RwLock<Current>,
    hsts: Option<HeaderValue>,
}

/// What is in use.
struct Current {
    config: Arc<ServerConfig>,
    /// Of the files that it was made of.
    digest: [u8; 32],
    ends: DateTime<Utc>,
}

#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    clients: Option<PathBuf>,
}

impl Tls {
    /// Reads the files; nothing if no certificate is set.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if they cannot be used, which is also the case if the certificate has expired.
    pub fn new(settings: &Settings) -> Result<Option<Self>, TlsError> {
        if !settings.has_tls() {
            return Ok(None);
        }
        let clients = Some(&settings.tls_client_ca_file).filter(|file| !file.as_os_str().is_empty()).cloned();
        let files = Files { certificate: settings.tls_cert_file.clone(), key: settings.tls_key_file.clone(), clients };
        let current = RwLock::new(files.read()?.into_current(&files, Utc::now())?);
        let seconds = settings.tls_hsts_seconds;
        let hsts = (seconds > 0).then(|| format!("max-age={seconds}").parse().expect("it is ASCII"));
        Ok(Some(Self { files, current, hsts }))
    }

    /// The file of the certificate in use, and when that ends.
    pub fn certificate(&self) -> (&Path, DateTime<Utc>) {
        (&self.files.certificate, self.current().ends)
    }

    /// Reads the files again; new connections get what is in them. Returns whether that is something else than before.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if they cannot be used. Then everything stays as it was.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let contents = self.files.read()?;
        if contents.digest() == self.current().digest {
            return Ok(false);
        }
        let next = contents.into_current(&self.files, Utc::now())?;
        tracing::info!(file = %self.files.certificate.display(), ends = %next.ends, "a new certificate is in use");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(true)
    }

    /// Looks at the files for ever, and uses what is new in them. Says in the log what is wrong with it, and when the certificate is about to end.
    pub async fn watch(self: &Arc<Self>) {
        let (mut seen, mut refused, mut reminded) = (None, None, None);
        loop {
            sleep(LOOK).await;
            self.remind(&mut reminded);
            let files = self.files.clone();
            let Ok(look) = spawn_blocking(move || files.look()).await else { continue };
            if seen.replace(look) != Some(look) {
                continue;
            }
            // What is refused is tried again: it may have been too early for it. But that is told once.
            let this = self.clone();
            let Ok(taken) = spawn_blocking(move || this.reload()).await else { continue };
            match taken {
                Ok(_) => refused = None,
                Err(error) if refused != Some(look) => {
                    tracing::error!(%error, "the new certificate is not used, the one before stays");
                    refused = Some(look);
                }
                Err(_) => {}
            }
        }
    }

    fn remind(&self, last: &mut Option<Instant>) {
        let ends = self.current().ends;
        let day = Duration::from_secs(24 * 60 * 60);
        if ends - Utc::now() < REMIND && last.is_none_or(|last| last.elapsed() >= day) {
            *last = Some(Instant::now());
            tracing::warn!(file = %self.files.certificate.display(), %ends, "the certificate is about to end or has ended: replace it and its key");
        }
    }

    /// The handshake.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, socket: S) -> io::Result<TlsStream<S>> {
        let config = self.current().config.clone();
        TlsAcceptor::from(config).accept(socket).await
    }

    /// What tells browsers to come by HTTPS only (RFC 6797).
    pub(super) fn hsts(&self) -> Option<&HeaderValue> {
        self.hsts.as_ref()
    }

    fn current(&self) -> std::sync::RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a handshake has failed, in a word, if it is because the client showed no certificate that is good. One that was broken off, or was none, is no
/// attempt to come in.
pub(super) fn uncertified(error: &io::Error) -> Option<&'static str> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::NoCertificatesPresented => Some("client_certificate_missing"),
        rustls::Error::InvalidCertificate(why) => Some(match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "client_certificate_expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "client_certificate_not_valid_yet",
            CertificateError::UnknownIssuer => "client_certificate_of_unknown_authority",
            _ => "client_certificate_invalid",
        }),
        _ => None,
    }
}

/// Whether HTTP/2 was agreed on.
pub(super) fn speaks_h2<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(H2)
}

/// What is in the files.
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    clients: Option<Vec<u8>>,
}

impl Files {
    fn read(&self) -> Result<Contents, TlsError> {
        let read = |name, path: &Path| fs::read(path).map_err(|source| TlsError::Unreadable { name, path: path.to_owned(), source });
        Ok(Contents {
            certificate: read("tls_cert_file", &self.certificate)?,
            key: Zeroizing::new(read("tls_key_file", &self.key)?),
            clients: self.clients.as_deref().map(|path| read("tls_client_ca_file", path)).transpose()?,
        })
    }

    /// What tells one state of the files from another, also that they cannot be read.
    fn look(&self) -> [u8; 32] {
        match self.read() {
            Ok(contents) => contents.digest(),
            Err(error) => Sha256::digest(error.to_string()).into(),
        }
    }
}

impl Contents {
    fn digest(&self) -> [u8; 32] {
        let parts = [&self.certificate, &*self.key, self.clients.as_ref().unwrap_or(&Vec::new())].map(Sha256::digest);
        Sha256::digest(parts.concat()).into()
    }

    fn into_current(self, files: &Files, now: DateTime<Utc>) -> Result<Current, TlsError> {
        let digest = self.digest();
        let no_certificate = || TlsError::NoCertificate(files.certificate.clone());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<_, _>>().map_err(|_| no_certificate())?;
        let ends = validity(chain.first().ok_or_else(no_certificate)?, &files.certificate, now)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| TlsError::NoKey(files.key.clone()))?;

        let unusable = |source| TlsError::Unusable { certificate: files.certificate.clone(), key: files.key.clone(), source };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(unusable)?;
        let builder = match (&files.clients, &self.clients) {
            (Some(path), Some(clients)) => {
                let roots = Arc::new(authorities(path, clients)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                let unusable =
                    |error: rustls::server::VerifierBuilderError| TlsError::Clients { path: path.clone(), reason: error.to_string() };
                builder.with_client_cert_verifier(verifier.map_err(unusable)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { certificate: files.certificate.clone(), key: files.key.clone() },
            source => unusable(source),
        })?;
        config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
        Ok(Current { config: Arc::new(config), digest, ends })
    }
}

/// When a certificate ends, if it is valid now.
fn validity(certificate: &CertificateDer<'_>, path: &Path, now: DateTime<Utc>) -> Result<DateTime<Utc>, TlsError> {
    let certificate = Certificate::from_der(certificate).map_err(|_| TlsError::NoCertificate(path.to_owned()))?;
    let validity = certificate.tbs_certificate.validity;
    let [from, ends] = [validity.not_before, validity.not_after].map(|time| DateTime::<Utc>::from(time.to_system_time()));
    match () {
        () if now > ends => Err(TlsError::Expired { path: path.to_owned(), since: ends }),
        () if now < from => Err(TlsError::Early { path: path.to_owned(), from }),
        () => Ok(ends),
    }
}
