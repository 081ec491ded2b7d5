//! Binding the address.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, lookup_host};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Why the server cannot listen. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else listens there.
    #[error("port {port} of {host} is in use: stop what uses it, or set another port")]
    InUse {
        /// The configured host.
        host: String,
        /// The configured port.
        port: u16,
    },
    /// The address cannot be used.
    #[error("cannot listen on {host}:{port}: {source}")]
    Address {
        /// The configured host.
        host: String,
        /// The configured port.
        port: u16,
        /// Why.
        source: io::Error,
    },
}

/// Listens on an address; port 0 takes any that is free. With `reuse_port` several processes may share one port.
///
/// # Errors
///
/// [`ListenError`].
pub async fn listen(host: &str, port: u16, reuse_port: bool) -> Result<TcpListener, ListenError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { host: host.to_owned(), port },
        _ => ListenError::Address { host: host.to_owned(), port, source },
    };
    let bare = host.trim_matches(['[', ']']);
    let address = lookup_host((bare, port)).await.and_then(|mut found| found.next().ok_or_else(|| io::ErrorKind::NotFound.into()));
    bind(address.map_err(failed)?, reuse_port).map_err(failed)
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
