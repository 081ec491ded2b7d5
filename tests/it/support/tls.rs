//! Certificates of a test's own, and TLS with them.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

/// An authority that nobody else knows.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// A certificate and its key, in files.
pub(crate) struct Pair {
    pub(crate) folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // OpenSSL takes a certificate for its own authority if they have the same name.
        params.distinguished_name.push(DnType::CommonName, "An authority of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("authority.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// The file with its certificate.
    pub(crate) fn file(&self) -> String {
        self.folder.path().join("authority.pem").display().to_string()
    }

    /// A certificate for these names and addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |_| {})
    }

    /// A certificate that expired long ago.
    pub(crate) fn issue_expired(&self, names: &[&str]) -> Pair {
        self.issue_with(names, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1))
    }

    /// A certificate that is not like others.
    pub(crate) fn issue_with(&self, names: &[&str], adjust: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        adjust(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair { folder: tempfile::tempdir().unwrap() };
        std::fs::write(pair.certificate(), certificate.pem()).unwrap();
        std::fs::write(pair.key(), key.serialize_pem()).unwrap();
        pair
    }

    /// What a client needs that trusts this authority, and shows a certificate if it has one.
    pub(crate) fn client(&self, shown: Option<&Pair>, protocols: &[&str]) -> TlsConnector {
        self.client_of(&[&TLS12, &TLS13], shown, protocols)
    }

    /// The same, which speaks only these versions of TLS.
    pub(crate) fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        shown: Option<&Pair>,
        protocols: &[&str],
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = match shown {
            Some(pair) => builder.with_client_auth_cert(pair.chain(), pair.private_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

impl Pair {
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Puts another pair into the files of this one.
    pub(crate) fn replace_by(&self, other: &Self) {
        std::fs::copy(other.certificate(), self.certificate()).unwrap();
        std::fs::copy(other.key(), self.key()).unwrap();
    }

    /// The certificate as a peer shows it.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_file(self.certificate()).unwrap()]
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(self.key()).unwrap()
    }
}

/// Speaks TLS to a server that calls itself `localhost`.
pub(crate) async fn connect(connector: &TlsConnector, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// A certificate for a name, and the authority that made it.
pub(crate) struct Tls {
    pub(crate) authority: Authority,
    pub(super) acceptor: TlsAcceptor,
}

impl Tls {
    /// Made anew.
    pub(crate) fn new(name: &str) -> Self {
        let authority = Authority::new();
        let pair = authority.issue(&[name]);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = builder.with_single_cert(pair.chain(), pair.private_key()).unwrap();
        Self { authority, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }
}
