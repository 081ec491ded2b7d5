//! Requests that are answered before their bodies are there.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::support::{Server, TestDatabase};

/// A server that refuses whoever has no key.
async fn server(database: &TestDatabase) -> Server {
    Server::start_with(database, &[("disable_auth", "false")]).await
}

fn head(framing: &str) -> String {
    format!("POST /projects HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n{framing}\r\n\r\n")
}

async fn begun(server: SocketAddr, framing: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(head(framing).as_bytes()).await.unwrap();
    stream
}

/// The status of the next answer, which is read to its end.
async fn answer(stream: &mut TcpStream) -> String {
    let read = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("the answer is there to be read"));
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("its length").parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("all of the answer is there to be read");
        head["http/1.1 ".len()..][..3].to_owned()
    };
    timeout(Duration::from_secs(5), read).await.expect("an answer")
}

/// Reads until the server closes the connection; returns what it said.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    // It may be reset: it was being written to.
    timeout(Duration::from_secs(5), stream.read_to_end(&mut said)).await.expect("the server closes the connection").ok();
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_refusal_can_be_read_before_the_body_is_sent_and_the_connection_goes_on() {
    let database = TestDatabase::new().await;
    let server = server(&database).await;
    let body = "x".repeat(10 * 1024);
    for (framing, body) in [("content-length: 10240", body.clone()), ("transfer-encoding: chunked", format!("2800\r\n{body}\r\n0\r\n\r\n"))]
    {
        let mut stream = begun(server.address, framing).await;
        assert_eq!(answer(&mut stream).await, "401", "{framing}");
        let (first, second) = body.split_at(5000);
        for part in [first, second] {
            sleep(Duration::from_millis(50)).await;
            stream.write_all(part.as_bytes()).await.expect("the server reads on");
        }
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
        assert_eq!(answer(&mut stream).await, "200", "{framing}: the connection goes on");
    }
    server.stop().await;
}

/// As most clients do: they write all of it, and then look.
#[tokio::test]
async fn a_refusal_can_be_read_after_a_body_that_nobody_wanted() {
    let database = TestDatabase::new().await;
    let server = server(&database).await;
    for length in [1, 20_000, 60_000] {
        let mut stream = begun(server.address, &format!("content-length: {length}")).await;
        for piece in vec![b'x'; length].chunks(10_000) {
            stream.write_all(piece).await.expect("the server reads on");
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(answer(&mut stream).await, "401", "{length}");
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
        assert_eq!(answer(&mut stream).await, "200", "{length}: the connection goes on");
    }
    server.stop().await;
}

#[tokio::test]
async fn bodies_without_end_are_cut_soon_after_the_answer() {
    let database = TestDatabase::new().await;
    let server = server(&database).await;
    let lengths = ["content-length: 1000000000", "transfer-encoding: chunked"];
    // One byte after the other, never idle; and as fast as it goes.
    for (framing, piece, pause) in [
        (lengths[0], "x".to_owned(), Duration::from_millis(20)),
        (lengths[1], "1\r\nx\r\n".to_owned(), Duration::from_millis(20)),
        (lengths[0], "x".repeat(10_000), Duration::ZERO),
    ] {
        let mut stream = begun(server.address, framing).await;
        assert_eq!(answer(&mut stream).await, "401", "{framing}");
        let start = Instant::now();
        let (mut reader, mut writer) = stream.split();
        let written = async {
            while writer.write_all(piece.as_bytes()).await.is_ok() {
                sleep(pause).await;
            }
        };
        let mut said = Vec::new();
        let cut = async {
            tokio::select! {
                () = written => {}
                _ = reader.read_to_end(&mut said) => {}
            }
        };
        timeout(Duration::from_secs(3), cut).await.unwrap_or_else(|_| panic!("{framing}: it goes on for {:?}", start.elapsed()));
        assert!(said.is_empty(), "{framing}: {}", String::from_utf8_lossy(&said));
    }
    server.stop().await;
}

/// Else a body would be read as requests: of whoever is behind a proxy with the sender.
#[tokio::test]
async fn what_is_in_a_body_is_never_a_request() {
    let database = TestDatabase::new().await;
    let server = server(&database).await;
    let hidden = "GET /livez HTTP/1.1\r\nhost: t\r\n\r\n".repeat(3000);
    let mut stream = begun(server.address, &format!("content-length: {}", hidden.len() + 100_000)).await;
    assert_eq!(answer(&mut stream).await, "401");
    stream.write_all(hidden.as_bytes()).await.ok();
    assert_eq!(until_closed(&mut stream).await, "");

    // Who waits to be told to go on is not told so after a refusal, and nothing that follows is a request.
    let mut stream = begun(server.address, "expect: 100-continue\r\ncontent-length: 1000").await;
    assert_eq!(answer(&mut stream).await, "401");
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n").await.ok();
    assert_eq!(until_closed(&mut stream).await, "");
    server.stop().await;
}
