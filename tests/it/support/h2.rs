//! HTTP/2, frame by frame: a client that does what no library would.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::connect;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW: u16 = 4;

/// How long anything may take until a frame comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// A request without a body.
    pub(crate) fn get(stream: u32, path: &str) -> Self {
        let block = head("GET", path, &[]);
        Self::new(HEADERS, END_HEADERS | END_STREAM, stream, block)
    }

    /// The end of a stream by the client.
    pub(crate) fn reset(stream: u32) -> Self {
        const CANCEL: u32 = 8;
        Self::new(RST_STREAM, 0, stream, CANCEL.to_be_bytes())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// A block of headers, uncompressed.
pub(crate) fn head(method: &str, path: &str, others: &[(&str, &str)]) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    let mut block = Vec::new();
    for (name, value) in fields.iter().chain(others) {
        block.push(0);
        for text in [name, value] {
            text_of(text, &mut block);
        }
    }
    block
}

/// RFC 7541, 5.2.
fn text_of(text: &str, block: &mut Vec<u8>) {
    match u8::try_from(text.len()) {
        Ok(length @ 0..127) => block.push(length),
        _ => {
            block.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            block.push(u8::try_from(rest).unwrap());
        }
    }
    block.extend(text.as_bytes());
}

/// A connection.
pub(crate) struct H2(TlsStream<TcpStream>);

impl H2 {
    /// Connects, and lets the server send so many bytes of each answer.
    pub(crate) async fn connect(connector: &TlsConnector, address: SocketAddr, window: u32) -> Self {
        let mut connection = Self(connect(connector, address).await.expect("the server accepts"));
        assert_eq!(connection.0.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut settings = INITIAL_WINDOW.to_be_bytes().to_vec();
        settings.extend(window.to_be_bytes());
        first.extend(Frame::new(SETTINGS, 0, 0, settings).bytes());
        connection.send_bytes(&first).await.expect("the server reads");
        connection
    }

    pub(crate) async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.send_bytes(&frame.bytes()).await
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// The next frame; nothing once the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read()).await.expect("expected a frame, or the end of the connection")
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of a stream, or the end.
    pub(crate) async fn next_of(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.stream == stream {
                return Some(frame);
            }
        }
    }

    /// An answer's body, if all of it comes.
    pub(crate) async fn body_of(&mut self, stream: u32) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let frame = self.next_of(stream).await?;
            match frame.kind {
                DATA => body.extend(&frame.payload),
                RST_STREAM => return None,
                _ => {}
            }
            if frame.ends_stream() {
                return Some(body);
            }
        }
    }

    /// Whatever lies below.
    pub(crate) fn stream(&mut self) -> &mut TlsStream<TcpStream> {
        &mut self.0
    }
}
