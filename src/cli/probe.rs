//! `whatsnext probe`: for health checks where there is no curl, as in a container that holds this program alone.
//!
//! It speaks as the settings say that the server is spoken to: over TLS, or behind a PROXY header. Of the server's certificate it believes whatever is shown:
//! it asks no other machine than its own, and a certificate that ends is no reason to stop a server.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rustls::{
    ClientConfig, ClientConnection, SignatureScheme, StreamOwned,
    client::ResolvesClientCert,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    sign::CertifiedKey,
    version::TLS13,
};

use super::ConfigArguments;
use crate::{
    access::TrustedProxies,
    config::{ForwardedBy, Settings, any_server},
};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much is read of an answer for its first line.
const LONGEST: usize = 16 * 1024;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Ask whether requests should be sent to it (/readyz), and not whether it lives (/livez).
    #[arg(long)]
    ready: bool,
    /// A certificate to show, for a server with tls_client_ca_file (PEM). Without one such a server lives if it asks for it, and whether it is ready is not known.
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

/// Fails unless the server of these settings answers 200 on this machine.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = arguments.config.load()?;
    let host = match settings.host.trim_matches(['[', ']']) {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    let path = if arguments.ready { "/readyz" } else { "/livez" };
    let place = format!("{host}, port {}", settings.port);
    let address = (host, settings.port).to_socket_addrs()?.next().with_context(|| format!("there is no {host}"))?;
    ensure!(is_of_this_machine(address), "{host} is no address of this machine: no server of these settings can be there");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("nobody listens at {place}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let no_answer = || format!("no answer from {place}");
    if is_announced(&settings, &stream)? {
        // Its own connection, and nobody else's.
        stream.write_all(b"PROXY UNKNOWN\r\n").with_context(no_answer)?;
    }
    let answer = match settings.has_tls() {
        false => ask(&mut stream, path).with_context(no_answer)?,
        true => match ask_over_tls(stream, path, arguments)? {
            Secure::Answered(answer) => answer.with_context(no_answer)?,
            Secure::Refused if arguments.ready => {
                bail!("{path} at {place} is for those with a certificate of tls_client_ca_file: give one with --certificate and --key")
            }
            // It lives: it has shown its certificate, signed, and asked for one.
            Secure::Refused => return Ok(()),
        },
    };
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    ensure!(answer.starts_with("HTTP/1."), "what answers at {place} is no server of this kind");
    if status != "200" {
        bail!("{path} at {place} says {status}");
    }
    Ok(())
}

/// Whether a server could listen at this address here.
fn is_of_this_machine(mut address: SocketAddr) -> bool {
    address.set_port(0);
    TcpListener::bind(address).is_ok()
}

/// Whether the server takes a connection from here for one of a proxy that announces whose it is.
fn is_announced(settings: &Settings, stream: &TcpStream) -> anyhow::Result<bool> {
    let proxies: TrustedProxies = settings.trusted_proxies.parse().context("trusted_proxies")?;
    Ok(settings.forwarded_by == ForwardedBy::ProxyProtocol && proxies.contains(stream.local_addr()?.ip()))
}

/// Sends a request. Returns the first line of the answer, with what came together with it.
fn ask(stream: &mut (impl Read + Write), path: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    stream.flush()?;
    let (mut answer, mut part) = (Vec::new(), [0; 512]);
    while !answer.contains(&b'\n') && answer.len() < LONGEST {
        match stream.read(&mut part)? {
            0 => break,
            length => answer.extend_from_slice(&part[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// What came of asking over TLS.
enum Secure {
    Answered(io::Result<String>),
    /// The server wants a certificate, and there is none to show.
    Refused,
}

fn ask_over_tls(mut stream: TcpStream, path: &str, arguments: &Arguments) -> anyhow::Result<Secure> {
    let provider = Arc::new(ring::default_provider());
    // Of 1.3, in which it is said what is missing when a certificate is.
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13])?;
    let builder = builder.dangerous().with_custom_certificate_verifier(any_server(provider));
    let asked = Arc::new(Asked::default());
    let config = match (&arguments.certificate, &arguments.key) {
        (Some(certificate), Some(key)) => {
            let unread = |file: &PathBuf| format!("there is nothing to be shown in {}", file.display());
            let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).with_context(|| unread(certificate))?;
            let private = PrivateKeyDer::from_pem_file(key).with_context(|| unread(key))?;
            builder.with_client_auth_cert(chain, private).context("--certificate, --key")?
        }
        _ => builder.with_client_cert_resolver(asked.clone()),
    };
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::from(stream.peer_addr()?.ip()))?;
    if let Err(error) = shake_hands(&mut connection, &mut stream) {
        return Ok(Secure::Answered(Err(error)));
    }
    if asked.0.load(Ordering::Relaxed) {
        // What ends the handshake is not sent: it would say that there is no certificate, and be a refusal in the server's audit log.
        return Ok(Secure::Refused);
    }
    Ok(Secure::Answered(ask(&mut StreamOwned::new(connection, stream), path)))
}

/// The handshake, up to all that the server says in it, which its certificate's key has signed. This side's last words are made but not sent.
fn shake_hands(connection: &mut ClientConnection, stream: &mut TcpStream) -> io::Result<()> {
    while connection.is_handshaking() {
        while connection.wants_write() {
            connection.write_tls(stream)?;
        }
        if connection.read_tls(stream)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        connection.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
    Ok(())
}

/// Shows no certificate, and notes that one was asked for.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl ResolvesClientCert for Asked {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}
