//! Connections that a load balancer announces: the PROXY protocol's header comes first.

use std::{io, net::SocketAddr};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::access::proxy_protocol::{MAX_V2, Parsed, parse};

/// Reads the header. Returns whose connection it is, which is the peer's own if the header says so, and what came after the header.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] if there is no header: who must send one may not leave it out.
pub(super) async fn read(stream: &mut TcpStream, peer: SocketAddr) -> io::Result<(SocketAddr, Bytes)> {
    let mut read = BytesMut::with_capacity(MAX_V2);
    loop {
        match parse(&read) {
            Parsed::Header { source, consumed } => {
                read.advance(consumed);
                return Ok((source.unwrap_or(peer), read.freeze()));
            }
            Parsed::Invalid => return Err(io::Error::new(io::ErrorKind::InvalidData, "the connection does not begin with a PROXY header")),
            Parsed::NeedMore => {
                if stream.read_buf(&mut read).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}
