//! A client of HTTPS, down to the connection: from an address of the test's choice, and with every failure for the test to see.

use std::{net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpSocket;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate for `localhost`, and its key.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
    der: CertificateDer<'static>,
}

impl Identity {
    pub(crate) fn make() -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        Self { certificate: cert.pem(), key: signing_key.serialize_pem(), der: cert.der().clone() }
    }
}

/// Where to connect, from where, and who must be there.
#[derive(Clone)]
pub(crate) struct Https {
    to: SocketAddr,
    from: [u8; 4],
    config: Arc<ClientConfig>,
}

/// An answer with its body.
pub(crate) type Answer = Response<Bytes>;

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Https {
    pub(crate) fn new(to: SocketAddr, identity: &Identity) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(identity.der.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        Self { to, from: [127, 0, 0, 1], config: Arc::new(config.with_root_certificates(roots).with_no_client_auth()) }
    }

    /// The same, from another address of this machine.
    pub(crate) fn from(&self, from: [u8; 4]) -> Self {
        Self { from, ..self.clone() }
    }

    /// A connection that requests are sent over one after the other.
    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        let stream = self.stream(b"http/1.1").await?;
        let (sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender })
    }

    /// One GET over HTTP/2.
    pub(crate) async fn get_by_http_2(&self, path: &str) -> Result<Answer, Failure> {
        let stream = self.stream(b"h2").await?;
        let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(format!("https://localhost{path}")).body(Full::<Bytes>::default())?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    async fn stream(&self, protocol: &[u8]) -> Result<TlsStream<tokio::net::TcpStream>, Failure> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((self.from, 0)))?;
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        let mut config = (*self.config).clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?)
    }
}

/// An open connection.
pub(crate) struct Connection {
    sender: conn::http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    /// This one, or a new one if the other side has said that no more requests are to be sent over it.
    pub(crate) async fn or_else(mut self, https: &Https) -> Result<Self, Failure> {
        if self.sender.ready().await.is_ok() { Ok(self) } else { https.connect().await }
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Result<Answer, Failure> {
        let request = Request::builder().method(method).uri(path).header("host", "localhost").header("content-type", "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request.body(Full::from(body))?).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }
}
