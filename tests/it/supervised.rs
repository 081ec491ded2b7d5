//! What service managers and containers ask of the process.

use std::{
    io::{Read as _, Write as _},
    process::Output,
};

use nix::sys::signal::Signal;
use tokio::{
    net::UnixDatagram,
    time::{Duration, timeout},
};

use crate::support::{Authority, Process, Server, TestDatabase, audit_lines, free_port, program};

/// `Type=notify` and `WatchdogSec=`, as systemd's side of it.
#[tokio::test]
async fn the_service_manager_is_told_of_readiness_life_and_the_end() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let told = async || {
        let mut text = [0; 256];
        let length = timeout(Duration::from_secs(10), manager.recv(&mut text)).await.expect("it tells something").unwrap();
        String::from_utf8_lossy(&text[..length]).trim_end().to_owned()
    };
    let environment =
        [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000"), ("DRAIN_DELAY_SECONDS", "1"), ("LOG_FILTER", "debug")];
    let process = Process::start_with(&database, &environment).await;
    assert_eq!(told().await, "READY=1");
    for _ in 0..5 {
        assert_eq!(told().await, "WATCHDOG=1");
    }
    process.signal(Signal::SIGTERM);
    while told().await != "STOPPING=1" {}
    for _ in 0..3 {
        assert_eq!(told().await, "WATCHDOG=1", "it lives until it has stopped");
    }
    let (status, log) = process.end().await;
    assert!(status.success(), "{log}");
}

/// The health check of the container.
#[tokio::test]
async fn probe_says_whether_the_server_lives_and_is_ready() {
    let database = TestDatabase::new().await;
    let process = Process::start_with(&database, &[("DRAIN_DELAY_SECONDS", "5")]).await;
    let probe = |more: &'static [&'static str], host: &'static str, port: u16| {
        let mut command = program(&database);
        command.arg("probe").args(more).env("HOST", host).env("PORT", port.to_string());
        async move { tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap() }
    };
    let said = |output: Output| (output.status.success(), String::from_utf8(output.stderr).unwrap());
    let port = process.address().port();
    assert_eq!(said(probe(&[], "0.0.0.0", port).await), (true, String::new()));
    assert_eq!(said(probe(&["--ready"], "127.0.0.1", port).await), (true, String::new()));
    process.signal(Signal::SIGTERM);
    crate::support::eventually("/readyz answers 503", || async { process.api.try_get("/readyz").await == Some(503) }).await;
    let (is_ready, why) = said(probe(&["--ready"], "127.0.0.1", port).await);
    assert!(!is_ready && why.contains("/readyz at 127.0.0.1") && why.contains("says 503"), "{why}");
    assert!(said(probe(&[], "127.0.0.1", port).await).0, "it lives until it has stopped");
    let (lives, why) = said(probe(&[], "127.0.0.1", free_port()).await);
    assert!(!lives && why.contains("nobody listens"), "{why}");
    // What another machine says would tell nothing of this one (the address is of RFC 5737: nobody's).
    let (lives, why) = said(probe(&[], "192.0.2.1", port).await);
    assert!(!lives && why.contains("192.0.2.1 is no address of this machine"), "{why}");
}

/// The same for a server that speaks TLS, expects a PROXY header from this machine, or both.
#[tokio::test]
async fn probe_speaks_as_the_server_is_spoken_to() {
    let (database, authority, of_clients) = (TestDatabase::new().await, Authority::new(), Authority::new());
    let (pair, member) = (authority.issue(&["elsewhere.example"]), of_clients.issue(&["probe"]));
    let files = [pair.certificate(), pair.key(), member.certificate(), member.key()].map(|file| file.display().to_string());
    let [certificate, key, shown, its_key] = files.each_ref().map(String::as_str);
    let (tls, clients) = ([("TLS_CERT_FILE", certificate), ("TLS_KEY_FILE", key)], [("TLS_CLIENT_CA_FILE", &*of_clients.file())]);
    let announced = [("FORWARDED_BY", "proxy-protocol"), ("TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.0/8")];
    let of_others = [("FORWARDED_BY", "proxy-protocol"), ("TRUSTED_PROXIES", "10.0.0.0/8")];
    let probe = async |more: &[&str], environment: &[(&str, &str)], port: u16| {
        let mut command = program(&database);
        command.arg("probe").args(more).envs(environment.iter().copied()).env("PORT", port.to_string());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let good = (true, String::new());
    for environment in [&tls[..], &announced, &of_others, &[tls, announced].concat()] {
        let process = Process::start_listening(&database, environment).await;
        let port = process.address().port();
        assert_eq!(probe(&[], environment, port).await, good, "{environment:?}");
        assert_eq!(probe(&["--ready"], environment, port).await, good, "{environment:?}");
        process.signal(Signal::SIGTERM);
        assert!(process.end().await.0.success());
        assert!(!probe(&[], environment, port).await.0, "nobody is there: {environment:?}");
    }

    // Nobody comes in without a certificate: that much can be learned without one, and all else with one.
    let (audit, metrics) = (tempfile::tempdir().unwrap(), format!("127.0.0.1:{}", free_port()));
    let noted = [("AUDIT_LOG_DIR", audit.path().to_str().unwrap()), ("METRICS_BIND", metrics.as_str())];
    let environment = [&tls[..], &clients, &noted].concat();
    let process = Process::start_listening(&database, &environment).await;
    let port = process.address().port();
    for _ in 0..3 {
        assert_eq!(probe(&[], &environment, port).await, good);
    }
    let (is_ready, why) = probe(&["--ready"], &environment, port).await;
    assert!(!is_ready && why.contains("tls_client_ca_file") && why.contains("--certificate"), "{why}");
    assert_eq!(probe(&["--ready", "--certificate", shown, "--key", its_key], &environment, port).await, good);
    let (lives, why) = probe(&["--certificate", certificate, "--key", key], &environment, port).await;
    assert!(!lives && why.contains("no answer from"), "a certificate of another authority: {why}");
    // As it is after the setting was taken out of a file, before the server is started again.
    assert_eq!(probe(&[], &tls, port).await, good);
    let refused = async || {
        let text = reqwest::get(format!("http://{metrics}/metrics")).await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix("whatsnext_http_certificates_refused_total ")).unwrap().to_owned()
    };
    assert_eq!(refused().await, "1", "who shows nothing because they only ask whether the server lives is not refused");
    process.terminate().await;
    let failed: Vec<_> = audit_lines(audit.path()).into_iter().filter(|line| line["event.action"] == "authentication_failed").collect();
    let [failed] = failed.as_slice() else { panic!("expected the one with a certificate of another authority: {failed:#?}") };
    assert_ne!(failed["event.reason"], "client_certificate_missing", "{failed}");

    // Who takes connections and says nothing does not live.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (lives, why) = probe(&[], &environment, silent.local_addr().unwrap().port()).await;
    assert!(!lives && why.contains("no answer from"), "{why}");
}

/// A proxy that keeps connections is told with each answer that a server which stops is to get no more requests over this one.
#[tokio::test]
async fn a_server_that_stops_closes_its_connections_one_by_one() {
    let database = TestDatabase::new().await;
    let process = Process::start_with(&database, &[("DRAIN_DELAY_SECONDS", "3")]).await;
    assert_eq!(process.api.get("/livez").await.header("connection"), "");
    process.signal(Signal::SIGTERM);
    crate::support::eventually("/readyz answers 503", || async { process.api.try_get("/readyz").await == Some(503) }).await;
    for path in ["/livez", "/projects", "/nowhere"] {
        assert_eq!(process.api.get(path).await.header("connection"), "close", "{path}");
    }
}

/// A proxy that has just connected has perhaps sent a request already; it is answered, also if nobody has accepted the connection yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_connected_when_a_server_stops_is_still_answered() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    server.api.get("/livez").await.expect(200);
    let mut connections: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(server.address).unwrap()).collect();
    server.begin_stop();
    for connection in &mut connections {
        connection.write_all(b"POST /projects HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    }
    let answers = tokio::task::spawn_blocking(move || {
        let answer = |mut connection: std::net::TcpStream| {
            let mut answer = String::new();
            connection.read_to_string(&mut answer).map(|_| answer)
        };
        connections.into_iter().map(answer).collect::<Vec<_>>()
    });
    for answer in answers.await.unwrap() {
        let answer = answer.expect("the connection is not reset").to_lowercase();
        assert!(answer.starts_with("http/1.1 422"), "{answer}");
    }
    server.stop().await;
}
