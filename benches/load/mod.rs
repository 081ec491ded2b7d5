//! A lean HTTP client, so that what is measured is the server: one connection, one request at a time, nothing read that is not asked for.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A connection to a server.
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    /// Sent with what is posted.
    key: Option<String>,
}

/// The text of a request, with a body if there is one.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: t\r\n{headers}");
    match body.map(Value::to_string) {
        Some(body) => format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
        None => format!("{head}\r\n"),
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, read: Vec::with_capacity(4096), key: None }
    }

    /// One that sends this key with what is posted.
    pub(crate) async fn open_with(address: SocketAddr, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..Self::open(address).await }
    }

    /// Sends a request; returns the status and the body of the answer.
    pub(crate) async fn ask(&mut self, request: &str) -> (u16, &[u8]) {
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.read.clear();
        loop {
            if let Some(head) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let text = std::str::from_utf8(&self.read[..head]).unwrap();
                let status = text.split(' ').nth(1).unwrap().parse().unwrap();
                let length = text.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next());
                let end = head + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap());
                while self.read.len() < end {
                    self.more().await;
                }
                return (status, &self.read[head + 4..end]);
            }
            self.more().await;
        }
    }

    async fn more(&mut self) {
        assert!(self.stream.read_buf(&mut self.read).await.unwrap() > 0, "the server goes on");
    }

    /// Posts JSON; returns the JSON of an answer with the status that is expected.
    pub(crate) async fn post(&mut self, path: &str, body: &Value, expected: u16) -> Value {
        let key = self.key.clone();
        let headers: Vec<(&str, &str)> = key.iter().map(|key| ("x-api-key", key.as_str())).collect();
        let (status, answer) = self.ask(&request("POST", path, &headers, Some(body))).await;
        assert_eq!(status, expected, "{path}: {}", String::from_utf8_lossy(answer));
        serde_json::from_slice(answer).unwrap()
    }
}
