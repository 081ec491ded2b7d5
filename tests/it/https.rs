//! HTTPS in the server: certificates, those of clients too, and what comes before the first request.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, Version, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::version::{TLS12, TLS13};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use whatsnext::app::App;

use crate::support::{Authority, Pair, Server, TestDatabase, connect, eventually, program};

const BOTH: [&str; 2] = ["h2", "http/1.1"];

/// Something that sends one request after the other.
enum Client {
    Http1(conn::http1::SendRequest<Empty<&'static [u8]>>),
    Http2(conn::http2::SendRequest<Empty<&'static [u8]>>),
}

impl Client {
    async fn over(stream: TlsStream<TcpStream>) -> io::Result<Self> {
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = TokioIo::new(stream);
        if is_h2 {
            let (client, connection) = conn::http2::handshake(TokioExecutor::new(), stream).await.map_err(io::Error::other)?;
            tokio::spawn(connection);
            return Ok(Self::Http2(client));
        }
        let (client, connection) = conn::http1::handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self::Http1(client))
    }

    async fn get(&mut self, path: &str) -> io::Result<Response<String>> {
        let request = match self {
            Self::Http1(_) => Request::get(path).header("host", "localhost"),
            Self::Http2(_) => Request::get(format!("https://localhost{path}")),
        };
        let request = request.body(Empty::new()).unwrap();
        let answer = async {
            let answer = match self {
                Self::Http1(client) => client.send_request(request).await?,
                Self::Http2(client) => client.send_request(request).await?,
            };
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Response::from_parts(head, String::from_utf8_lossy(&body).into_owned()))
        };
        timeout(Duration::from_secs(10), answer).await.expect("an answer, or an end").map_err(io::Error::other)
    }
}

async fn get(connector: &TlsConnector, address: SocketAddr, path: &str) -> io::Result<Response<String>> {
    Client::over(connect(connector, address).await?).await?.get(path).await
}

/// Says something to a server and returns what it says until it closes.
async fn said(address: SocketAddr, words: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(words).await.ok();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("the server closes").ok();
    answer
}

#[tokio::test]
async fn both_versions_of_http_come_over_tls_and_nothing_else_does() {
    let (database, authority) = (TestDatabase::new().await, Authority::new());
    let server = Server::start_with_tls(&database, &authority.issue(&["localhost"]), &[]).await;
    for tls in [&TLS12, &TLS13] {
        for (protocols, version) in [(&BOTH[..], Version::HTTP_2), (&BOTH[1..], Version::HTTP_11), (&[], Version::HTTP_11)] {
            let stream =
                connect(&authority.client_of(&[tls], None, protocols), server.address).await.expect("a client of one version of TLS");
            assert_eq!(stream.get_ref().1.protocol_version(), Some(tls.version));
            let answer = Client::over(stream).await.unwrap().get("/projects").await.expect("an answer");
            assert_eq!((answer.status().as_u16(), answer.version(), answer.body().as_str()), (200, version, "[]"));
            assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000");
        }
    }
    assert!(get(&authority.client(None, &["http/1.0"]), server.address, "/livez").await.is_err(), "a protocol that nobody speaks");
    assert!(
        get(&Authority::new().client(None, &BOTH), server.address, "/livez").await.is_err(),
        "an authority that the client does not know"
    );
    let plain = said(server.address, b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert!(!String::from_utf8_lossy(&plain).contains("HTTP/"), "plain HTTP is not spoken there");
    server.stop().await;
}

/// Whose certificate a server shows.
async fn shown(authority: &Authority, address: SocketAddr) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    let stream = connect(&authority.client(None, &BOTH), address).await.expect("the client trusts it");
    stream.get_ref().1.peer_certificates().expect("a certificate").iter().map(|certificate| certificate.clone().into_owned()).collect()
}

#[tokio::test]
async fn a_new_certificate_is_used_and_connections_stay() {
    let (database, authority) = (TestDatabase::new().await, Authority::new());
    let [pair, next] = [(); 2].map(|()| authority.issue(&["localhost"]));
    let first = pair.chain();
    let server = Server::start_with_tls(&database, &pair, &[]).await;
    let mut clients = Vec::new();
    for protocols in [&BOTH[..1], &BOTH[1..]] {
        let stream = connect(&authority.client(None, protocols), server.address).await.unwrap();
        clients.push(Client::over(stream).await.unwrap());
    }
    assert_eq!(shown(&authority, server.address).await, first);
    pair.replace_by(&next);
    eventually("the new certificate is shown", || async { shown(&authority, server.address).await == next.chain() }).await;
    for client in &mut clients {
        assert_eq!(client.get("/projects").await.expect("the connection is still there").status(), 200);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_pair_that_cannot_be_used_changes_nothing() {
    let (database, authority) = (TestDatabase::new().await, Authority::new());
    let pair = authority.issue(&["localhost"]);
    let before = pair.chain();
    let server = Server::start_with_tls(&database, &pair, &[]).await;
    let tls = server.tls.clone().expect("it speaks HTTPS");
    let other = authority.issue(&["localhost"]);
    std::fs::copy(other.key(), pair.key()).unwrap();
    let error = tls.reload().expect_err("the key is not that of the certificate").to_string();
    assert!(error.contains("key.pem") && error.contains("certificate.pem") && error.contains("replace both"), "{error}");
    pair.replace_by(&authority.issue_expired(&["localhost"]));
    assert!(tls.reload().expect_err("it has expired").to_string().contains("expired on 2020-01-01"));
    std::fs::write(pair.certificate(), "-----BEGIN CERTIFICATE-----\n").unwrap();
    tls.reload().expect_err("half a file");
    std::fs::remove_file(pair.certificate()).unwrap();
    tls.reload().expect_err("no file");
    assert_eq!(shown(&authority, server.address).await, before);
    pair.replace_by(&other);
    assert!(tls.reload().expect("it can be used"));
    assert!(!tls.reload().expect("it can be used"), "it is in use already");
    assert_eq!(shown(&authority, server.address).await, other.chain());
    server.stop().await;
}

#[tokio::test]
async fn a_server_does_not_start_with_a_certificate_that_is_none() {
    let (database, authority) = (TestDatabase::new().await, Authority::new());
    let refused = |certificate: &std::path::Path, key: &std::path::Path, clients: &str| {
        let [certificate, key] = [certificate, key].map(|file| file.display().to_string());
        let flags = [("tls_cert_file", certificate.as_str()), ("tls_key_file", key.as_str()), ("tls_client_ca_file", clients)];
        App::build(database.settings(&flags)).err().expect("it is refused").to_string()
    };
    let (good, other) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let expired = authority.issue_expired(&["localhost"]);
    let early = authority.issue_with(&["localhost"], |params| params.not_before = rcgen::date_time_ymd(2100, 1, 1));
    let nowhere = good.folder.path().join("nowhere.pem");
    let name = |pair: &Pair| pair.certificate().display().to_string();

    let error = refused(&nowhere, &good.key(), "");
    assert!(error.starts_with("tls_cert_file: cannot read") && error.contains("nowhere.pem"), "{error}");
    let error = refused(&good.certificate(), &nowhere, "");
    assert!(error.starts_with("tls_key_file: cannot read") && error.contains("nowhere.pem"), "{error}");
    let error = refused(&good.key(), &good.key(), "");
    assert!(error.starts_with("tls_cert_file: ") && error.contains("key.pem must hold the server's certificate"), "{error}");
    let error = refused(&good.certificate(), &good.certificate(), "");
    assert!(error.starts_with("tls_key_file: ") && error.contains("one private key"), "{error}");
    let error = refused(&good.certificate(), &other.key(), "");
    assert!(error.contains(&name(&good)) && error.contains("is not that of the certificate"), "{error}");
    let error = refused(&expired.certificate(), &expired.key(), "");
    assert!(error.contains(&name(&expired)) && error.contains("expired on 2020-01-01") && error.contains("replace it"), "{error}");
    let error = refused(&early.certificate(), &early.key(), "");
    assert!(error.contains(&name(&early)) && error.contains("look at the clock"), "{error}");
    let error = refused(&good.certificate(), &good.key(), &good.key().display().to_string());
    assert!(error.starts_with("tls_client_ca_file: ") && error.contains("key.pem"), "{error}");
}

#[tokio::test]
async fn a_check_says_that_a_certificate_ends_soon_and_refuses_one_that_has() {
    let (database, authority) = (TestDatabase::new().await, Authority::new());
    let day = Duration::from_secs(24 * 60 * 60);
    let ends_in = |days| authority.issue_with(&["localhost"], |params| params.not_after = (SystemTime::now() + day * days).into());
    let check = |pair: &Pair| {
        let mut command = program(&database);
        command.args(["serve", "--check"]).env("TLS_CERT_FILE", pair.certificate()).env("TLS_KEY_FILE", pair.key());
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (output.status.success(), said)
    };
    let (soon, late) = (ends_in(29), ends_in(31));
    let warning = format!("# warning: tls_cert_file: the certificate in {} ends on ", soon.certificate().display());
    let (is_good, said) = check(&soon);
    assert!(is_good && said.contains(&warning), "{said}");
    let (is_good, said) = check(&late);
    assert!(is_good && !said.contains("# warning: tls_cert_file"), "{said}");
    let (is_good, said) = check(&authority.issue_expired(&["localhost"]));
    assert!(!is_good && said.contains("expired on 2020-01-01"), "{said}");
}

#[tokio::test]
async fn only_clients_with_a_certificate_of_the_authority_come_in() {
    let (database, authority) = (TestDatabase::new().await, Authority::new());
    let [of_clients, of_others] = [(); 2].map(|()| Authority::new());
    let file = of_clients.file();
    let pair = authority.issue(&["localhost"]);
    let server = Server::start_with_tls(&database, &pair, &[("tls_client_ca_file", &file)]).await;
    let (member, stranger) = (of_clients.issue(&["node-1"]), of_others.issue(&["node-1"]));
    let expired = of_clients.issue_expired(&["node-1"]);
    for (tls, protocols) in [(&TLS12, &BOTH[..1]), (&TLS12, &BOTH[1..]), (&TLS13, &BOTH[..1]), (&TLS13, &BOTH[1..])] {
        let get = async |shown| get(&authority.client_of(&[tls], shown, protocols), server.address, "/livez").await;
        assert_eq!(get(Some(&member)).await.expect("it is let in").status(), 200);
        assert!(get(None).await.is_err(), "no certificate");
        assert!(get(Some(&stranger)).await.is_err(), "of another authority");
        assert!(get(Some(&expired)).await.is_err(), "expired");
    }
    // Sessions that could be resumed are no way around it.
    let connector = authority.client(Some(&member), &BOTH);
    get(&connector, server.address, "/livez").await.expect("it is let in");
    std::fs::copy(of_others.file(), &file).unwrap();
    assert!(server.tls.as_ref().unwrap().reload().expect("it can be used"));
    assert!(get(&connector, server.address, "/livez").await.is_err(), "its authority is not trusted any more");
    get(&authority.client(Some(&stranger), &BOTH), server.address, "/livez").await.expect("its authority is trusted now");
    server.stop().await;
}

#[tokio::test]
async fn a_load_balancer_announces_connections_before_tls() {
    let (database, authority) = (TestDatabase::new().await, Authority::new());
    let flags = [("trusted_proxies", "127.0.0.1"), ("forwarded_by", "proxy-protocol"), ("header_timeout_seconds", "1")];
    let server = Server::start_with_tls(&database, &authority.issue(&["localhost"]), &flags).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n").await.unwrap();
    let name = "localhost".try_into().unwrap();
    let stream = authority.client(None, &BOTH).connect(name, stream).await.expect("the handshake follows");
    assert_eq!(Client::over(stream).await.unwrap().get("/projects").await.unwrap().status(), 200);
    assert!(get(&authority.client(None, &BOTH), server.address, "/projects").await.is_err(), "nobody announced it");
    server.stop().await;
}

/// Handshakes take place beside each other, each for a time.
#[tokio::test]
async fn handshakes_that_are_never_finished_are_cut_and_keep_nobody_waiting() {
    let (database, authority) = (TestDatabase::new().await, Authority::new());
    let server = Server::start_with_tls(&database, &authority.issue(&["localhost"]), &[("header_timeout_seconds", "2")]).await;
    // The beginning of a ClientHello of 512 bytes.
    let half = [&[22, 3, 1, 2, 0, 1, 0, 1, 252][..], &[3; 100]].concat();
    let slow: Vec<_> = (0..60).map(|n| if n % 2 == 0 { half.clone() } else { Vec::new() }).collect();
    let slow: Vec<_> = slow.into_iter().map(|words| tokio::spawn(async move { said(server.address, &words).await })).collect();
    let connector = authority.client(None, &BOTH);
    for _ in 0..10 {
        assert_eq!(get(&connector, server.address, "/livez").await.expect("others are served").status(), 200);
    }
    assert!(slow.iter().all(|slow| !slow.is_finished()), "the handshakes were open all the time");
    for slow in slow {
        assert_eq!(slow.await.unwrap(), b"", "it is closed without a word");
    }
    server.stop().await;
}

/// What TLS has taken is not yet given to the socket: here it is more than what fits on the way to a client that reads nothing.
#[tokio::test]
async fn a_claim_over_tls_that_its_client_does_not_read_is_put_back() {
    let (database, authority) = (TestDatabase::new().await, Authority::new());
    let pair = authority.issue(&["localhost"]);
    let plain = Server::start_with(&database, &[("body_limit_bytes", "16777216")]).await;
    let server = Server::start_with_tls(&database, &pair, &[("write_timeout_seconds", "1")]).await;
    let (project, task) = plain.api.project_with_task("p").await;
    let large = json!({"name": "j", "project_id": project, "task_id": task, "parameters": {"text": "x".repeat(15_000_000)}});
    plain.api.post("/jobs", large).await.expect(201);
    let mut stream = connect(&authority.client(None, &BOTH[1..]), server.address).await.unwrap();
    stream.write_all(format!("GET /projects/{project}/fetch_job HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes()).await.unwrap();
    let watcher = database.connect().await;
    let stands = async || -> (String, i32) {
        let row = watcher.query_one("select status, attempt from jobs", &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    eventually("the job was claimed and is pending again", || async { stands().await == ("PENDING".to_owned(), 1) }).await;
    drop(stream);
    plain.stop().await;
    server.stop().await;
}
