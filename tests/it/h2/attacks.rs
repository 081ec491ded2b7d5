//! What no client would send: the connection ends, memory stays flat, and others are served.

use std::{cell::Cell, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use crate::support::{Authority, Frame, H2, Pair, Process, Server, TestDatabase, connect, eventually, h2::*};

/// How much a server may grow under any of this.
const GROWTH: u64 = 64 * 1024 * 1024;

/// Descriptors that a server may come to have besides its clients' connections: those to its stores.
const STORES: usize = 20;

/// How long an honest client waits at most, on a machine that is busy with the attack.
const PATIENCE: Duration = Duration::from_secs(2);

/// A process of the real program that speaks HTTPS.
struct Target {
    process: Process,
    connector: TlsConnector,
    _pair: Pair,
    _database: TestDatabase,
}

impl Target {
    async fn start(environment: &[(&str, &str)]) -> Self {
        let (database, authority) = (TestDatabase::new().await, Authority::new());
        let pair = authority.issue(&["localhost"]);
        let [certificate, key] = [pair.certificate(), pair.key()].map(|file| file.display().to_string());
        let own = [("TLS_CERT_FILE", certificate.as_str()), ("TLS_KEY_FILE", key.as_str())];
        let process = Process::start_listening(&database, &[&own, environment].concat()).await;
        Self { process, connector: authority.client(None, &["h2"]), _pair: pair, _database: database }
    }

    async fn connect(&self) -> H2 {
        H2::connect(&self.connector, self.process.address(), 65_535).await
    }

    /// Does this on many connections while somebody else sends requests, each of which is answered soon. The server holds one descriptor for each of them,
    /// and has not grown afterwards.
    async fn endures(&self, what: &str, count: usize, attack: impl AsyncFn(H2)) {
        let (before, open) = (self.process.resident_bytes(), self.process.descriptors());
        let most_open = Cell::new(0);
        let mut honest = self.connect().await;
        let honest = async {
            for n in 0..u32::MAX {
                let start = Instant::now();
                honest.send(&Frame::get(2 * n + 1, "/projects")).await.expect("the honest connection stays");
                let body = timeout(PATIENCE, honest.body_of(2 * n + 1)).await;
                let body = body.unwrap_or_else(|_| panic!("{what}: others wait longer than {PATIENCE:?}"));
                assert_eq!(body.as_deref(), Some(&b"[]"[..]), "{what}: others are served");
                most_open.set(most_open.get().max(self.process.descriptors()));
                tokio::time::sleep(Duration::from_millis(20)).await;
                assert!(start.elapsed() < PATIENCE + Duration::from_secs(1));
            }
        };
        let attacks = futures_util::future::join_all((0..count).map(async |_| attack(self.connect().await).await));
        tokio::select! {
            _ = timeout(Duration::from_secs(60), attacks) => {}
            () = honest => {}
        }
        let grown = self.process.resident_bytes().saturating_sub(before);
        assert!(grown < GROWTH, "{what}: expected memory to stay flat, it grew by {grown} bytes");
        let most = open + count + 1 + STORES;
        assert!(most_open.get() <= most, "{what}: expected at most {most} descriptors, {} were open", most_open.get());
        eventually("all descriptors of the attack are closed", || async { self.process.descriptors() <= open + STORES }).await;
    }
}

/// Sends the same again and again until the server ends the connection; returns how many bytes that took. Reads what it says, or does not.
async fn until_it_ends(mut connection: H2, words: &[u8], reads: bool) -> usize {
    let mut sent = 0;
    let stream = connection.stream();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            written = timeout(Duration::from_secs(10), stream.write(words)) => match written {
                Ok(Ok(length)) => sent += length,
                // It ends, or it takes no more.
                Ok(Err(_)) | Err(_) => return sent,
            },
        }
        if reads {
            while let Ok(read) = timeout(Duration::ZERO, stream.read(&mut buffer)).await {
                match read {
                    Ok(0) | Err(_) => return sent,
                    Ok(_) => {}
                }
            }
        }
        assert!(sent < 100_000_000, "the server goes on for ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_taken_back_at_once_end_the_connection() {
    let target = Target::start(&[]).await;
    target
        .endures("rapid reset", 20, async |mut connection| {
            let mut stream = 1;
            for _ in 0..100 {
                let mut words = Vec::new();
                for _ in 0..200 {
                    words.extend(Frame::get(stream, "/projects").bytes());
                    words.extend(Frame::reset(stream).bytes());
                    stream += 2;
                }
                if connection.send_bytes(&words).await.is_err() {
                    return;
                }
            }
            // All of it may have been on its way before the server came to read any.
            let ended = timeout(Duration::from_secs(10), async { while connection.next().await.is_some() {} }).await;
            assert!(ended.is_ok(), "20,000 requests were taken back and the connection is still there");
        })
        .await;
}

/// How many streams a server says to be wrong before it ends the connection; `WRONG_STREAMS` there.
const WRONG: usize = 64;

/// A request that is none: what RFC 9113 (8.3.1) wants of it is not there.
fn malformed(stream: u32) -> Frame {
    let path = [&[0, 5][..], b":path", &[1], b"/"].concat();
    Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, path)
}

/// Waits for what the server says of a stream. Returns whether it is that the stream was wrong: if not, it has ended the connection, because of too much of that.
async fn is_reset(connection: &mut H2, stream: u32) -> bool {
    const ENHANCE_YOUR_CALM: [u8; 4] = 11_u32.to_be_bytes();
    loop {
        match connection.next().await {
            Some(Frame { kind: RST_STREAM, stream: of, .. }) if of == stream => return true,
            Some(Frame { kind: GOAWAY, payload, .. }) => {
                assert_eq!(payload[4..8], ENHANCE_YOUR_CALM, "{payload:?}");
                return false;
            }
            Some(_) => {}
            None => panic!("expected a word about stream {stream}, or GOAWAY, and not just the end"),
        }
    }
}

/// Whoever makes a server take streams back makes it work for nothing, as with those that it takes back itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_a_server_must_reset_end_the_connection() {
    let target = Target::start(&[]).await;
    target
        .endures("malformed requests", 20, async |mut connection| {
            let (mut stream, mut wrong) = (1, 0);
            loop {
                if connection.send(&malformed(stream)).await.is_err() || !is_reset(&mut connection, stream).await {
                    break;
                }
                (stream, wrong) = (stream + 2, wrong + 1);
                assert!(wrong <= WRONG, "{wrong} streams were wrong and the connection is still there");
            }
            assert_eq!(wrong, WRONG, "expected to be borne with until then");
        })
        .await;
    target
        .endures("bodies that are shorter than they say", 20, async |mut connection| {
            let others = [("content-type", "application/json"), ("content-length", "100")];
            let block = head("POST", "/projects", &others);
            let (mut stream, mut wrong) = (1, 0);
            loop {
                let request = [Frame::new(HEADERS, END_HEADERS, stream, block.clone()), Frame::new(DATA, END_STREAM, stream, [b'{'])];
                let words: Vec<u8> = request.iter().flat_map(Frame::bytes).collect();
                if connection.send_bytes(&words).await.is_err() || !is_reset(&mut connection, stream).await {
                    break;
                }
                (stream, wrong) = (stream + 2, wrong + 1);
                assert!(wrong <= WRONG, "{wrong} bodies were too short and the connection is still there");
            }
            assert_eq!(wrong, WRONG, "expected to be borne with until then");
        })
        .await;
    target
        .endures("malformed requests, not reading", 20, async |mut connection| {
            let (mut stream, mut rounds) = (1, 0);
            loop {
                let words: Vec<u8> = (0..200).flat_map(|n| malformed(stream + 2 * n).bytes()).collect();
                stream += 400;
                if connection.send_bytes(&words).await.is_err() {
                    break;
                }
                rounds += 1;
                assert!(rounds < 1000, "200,000 requests were none and the connection is still there");
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_end_end_the_connection() {
    let target = Target::start(&[]).await;
    let field = head("GET", "/projects", &[("x-filler", &"x".repeat(4000))]);
    target
        .endures("CONTINUATION flood", 20, async |mut connection| {
            connection.send(&Frame::new(HEADERS, END_STREAM, 1, field.clone())).await.unwrap();
            let sent = until_it_ends(connection, &Frame::new(CONTINUATION, 0, 1, field.clone()).bytes(), true).await;
            assert!(sent < 1_000_000, "it took {sent} bytes");
        })
        .await;
    target
        .endures("empty CONTINUATION frames", 20, async |mut connection| {
            connection.send(&Frame::new(HEADERS, END_STREAM, 1, head("GET", "/projects", &[]))).await.unwrap();
            let sent = until_it_ends(connection, &Frame::new(CONTINUATION, 0, 1, []).bytes(), true).await;
            assert!(sent < 1_000_000, "it took {sent} bytes");
        })
        .await;
    // One list that is too large is refused, and the connection goes on.
    let mut connection = target.connect().await;
    let block = head("GET", "/projects", &[("x-filler", &"x".repeat(10_000)), ("x-more", &"x".repeat(10_000))]);
    let (first, rest) = block.split_at(16_000);
    connection.send(&Frame::new(HEADERS, END_STREAM, 1, first)).await.unwrap();
    connection.send(&Frame::new(CONTINUATION, END_HEADERS, 1, rest)).await.unwrap();
    let refused = connection.next_of(1).await.expect("an answer");
    // RFC 7541: `:status`, and "431" by Huffman's code.
    assert_eq!((refused.kind, &refused.payload[..]), (HEADERS, &[0x48, 0x83, 0x69, 0x90, 0xff][..]));
    connection.send(&Frame::get(3, "/livez")).await.unwrap();
    assert!(connection.body_of(3).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_that_ask_for_nothing_keep_nobody_waiting() {
    let target = Target::start(&[("HEADER_TIMEOUT_SECONDS", "2"), ("WRITE_TIMEOUT_SECONDS", "2")]).await;
    let floods = [
        ("PING", Frame::new(PING, 0, 0, [0; 8])),
        ("SETTINGS", Frame::new(SETTINGS, 0, 0, [0, 4, 0, 0, 255, 255])),
        ("RST_STREAM of nothing", Frame::reset(99)),
        ("WINDOW_UPDATE", Frame::new(WINDOW_UPDATE, 0, 0, 1_u32.to_be_bytes())),
        ("PRIORITY", Frame::new(2, 0, 1, [0, 0, 0, 3, 1])),
        ("a kind that nobody knows", Frame::new(99, 0, 0, [0; 100])),
    ];
    for (name, frame) in floods {
        let words = frame.bytes().repeat(100);
        for reads in [false, true] {
            let what = format!("flood of {name}, {}", if reads { "reading" } else { "not reading" });
            target
                .endures(&what, 8, async |connection| {
                    // Whoever asks for nothing is idle, whatever they send; whoever does not read takes no more.
                    let ended = timeout(Duration::from_secs(15), flood(connection, &words, reads)).await;
                    assert!(ended.is_ok(), "{what}: it goes on");
                })
                .await;
        }
    }
}

/// Sends until the server ends the connection.
async fn flood(mut connection: H2, words: &[u8], reads: bool) {
    let (mut reader, mut writer) = tokio::io::split(connection.stream());
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        while reads && matches!(reader.read(&mut buffer).await, Ok(1..)) {}
        if !reads {
            std::future::pending::<()>().await;
        }
    };
    let write = async {
        while writer.write_all(words).await.is_ok() {
            // As fast as this machine can would be all that it does.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

/// As over HTTP/1.1: nobody in front may see another host than the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_names_its_host_once() {
    let target = Target::start(&[]).await;
    let mut connection = target.connect().await;
    // RFC 7541, appendix A: `:status: 200` and `:status: 400`.
    let cases =
        [(vec![], 0x88), (vec![("host", "localhost")], 0x88), (vec![("host", "other")], 0x8c), (vec![("host", "localhost"); 2], 0x8c)];
    for (n, (hosts, status)) in (0..).zip(cases) {
        let stream = 2 * n + 1;
        connection.send(&Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, head("GET", "/projects", &hosts))).await.unwrap();
        let answer = connection.next_of(stream).await.expect("an answer");
        assert_eq!((answer.kind, answer.payload.first()), (HEADERS, Some(&status)), "{hosts:?}");
        connection.body_of(stream).await.expect("its body");
    }
}

/// Bodies that never come, on as many streams as there may be and more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_limited_for_each_connection_and_address() {
    let database = TestDatabase::new().await;
    let authority = Authority::new();
    let flags = [("max_connections_per_address", "150")];
    let server = Server::start_with_tls(&database, &authority.issue(&["localhost"]), &flags).await;
    let connector = authority.client(None, &["h2"]);
    let open = |stream| {
        let others = [("content-type", "application/json"), ("content-length", "100")];
        Frame::new(HEADERS, END_HEADERS, stream, head("POST", "/projects", &others)).bytes()
    };
    let refused = 7_u32.to_be_bytes();
    let mut connections = Vec::new();
    let mut taken = 0;
    for _ in 0..2 {
        let mut connection = H2::connect(&connector, server.address, 65_535).await;
        let words: Vec<u8> = (0..130).flat_map(|n| open(2 * n + 1)).collect();
        connection.send_bytes(&words).await.unwrap();
        connection.send(&Frame::new(PING, 0, 0, [7; 8])).await.unwrap();
        let mut rejected = 0;
        loop {
            let frame =
                timeout(Duration::from_secs(5), connection.next()).await.expect("the PING is answered").expect("the connection stays");
            match frame.kind {
                RST_STREAM => {
                    assert_eq!(frame.payload, refused, "as undone");
                    rejected += 1;
                }
                PING if frame.flags == ACK => break,
                _ => {}
            }
        }
        // Those beyond a connection's number are refused before the PING is seen, those beyond an address's may be soon after.
        while let Ok(Some(frame)) = timeout(Duration::from_millis(500), connection.next()).await {
            rejected += usize::from(frame.kind == RST_STREAM && frame.payload == refused);
        }
        taken += 130 - rejected;
        connections.push(connection);
    }
    assert_eq!(taken, 148, "150 places, of which two are the connections'");
    let stream = TcpStream::connect(server.address).await.unwrap();
    assert!(connector.connect("localhost".try_into().unwrap(), stream).await.is_err(), "the address has all that it may");
    // Somebody else comes in.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    connector.connect("localhost".try_into().unwrap(), stream).await.expect("another address");
    drop(connections);
    eventually("the places are free again", || async { connect(&connector, server.address).await.is_ok() }).await;
    server.stop().await;
}

/// Nothing that a client sends but a request keeps a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_requests_end() {
    let (database, authority) = (TestDatabase::new().await, Authority::new());
    let server = Server::start_with_tls(&database, &authority.issue(&["localhost"]), &[("header_timeout_seconds", "1")]).await;
    let connector = authority.client(None, &["h2"]);
    let silent = async {
        let mut stream = connect(&connector, server.address).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.ok();
    };
    let idle = async {
        let mut connection = H2::connect(&connector, server.address, 65_535).await;
        connection.send(&Frame::get(1, "/livez")).await.unwrap();
        connection.body_of(1).await.expect("an answer");
        let mut goodbye = false;
        while let Some(frame) = connection.next().await {
            goodbye |= frame.kind == GOAWAY;
        }
        assert!(goodbye, "it is told that the connection ends");
    };
    let trickling = async {
        let mut connection = H2::connect(&connector, server.address, 65_535).await;
        connection.send(&Frame::new(HEADERS, END_STREAM, 1, head("GET", "/livez", &[]))).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(connection.stream());
        let write = async {
            while writer.write_all(&Frame::new(CONTINUATION, 0, 1, [0, 1, b'x', 1, b'y']).bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        tokio::select! {
            () = write => {}
            _ = async { reader.read_to_end(&mut Vec::new()).await } => {}
        }
    };
    let start = Instant::now();
    timeout(Duration::from_secs(8), async { tokio::join!(silent, idle, trickling) }).await.expect("they end");
    assert!(start.elapsed() >= Duration::from_secs(1), "nobody was cut who had just come");
    server.stop().await;
}
