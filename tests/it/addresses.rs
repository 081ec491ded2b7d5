//! Very many addresses: what each of them takes of Redis and of the server, and that all of it ends.
//!
//! `WHATSNEXT_TEST_ADDRESSES=1000000 cargo nextest run --test it addresses` is the whole of it, some minutes long.

use futures_util::future::join_all;
use redis::{aio::MultiplexedConnection, cmd, pipe};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use whatsnext::access::{Grants, Role, Token};

use crate::support::{Process, TestDatabase, make_key, store_url};

/// Connections of the proxy that all of them are behind.
const CONNECTIONS: usize = 8;

/// Requests that are sent before the answers are read.
const AT_ONCE: usize = 50;

/// A key of Redis's, with all that belongs to it.
struct Kept {
    name: String,
    ttl_ms: i64,
    bytes: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_addresses_have_room_and_are_forgotten() {
    let addresses: usize = std::env::var("WHATSNEXT_TEST_ADDRESSES").map_or(20_000, |text| text.parse().expect("a number"));
    let database = TestDatabase::new().await;
    let environment = [("DISABLE_AUTH", "false"), ("RATE_LIMIT_PER_MINUTE", "600"), ("TRUSTED_PROXIES", "127.0.0.0/8")];
    let process = Process::start_with(&database, &environment).await;
    // One of each kind of thing that is kept.
    let key = make_key(&database, Grants::All(Role::Reader)).await;
    let api = process.api.with_key(key.expose());
    api.post("/tokens", json!({})).await.expect(201);
    process.api.with_key(Token::generate().expose()).get("/projects").await.problem(401);
    flood(&process, 0..1_000).await;
    let before = process.resident_bytes();

    let share = addresses.div_ceil(CONNECTIONS);
    join_all((0..CONNECTIONS).map(|part| flood(&process, 1_000 + part * share..1_000 + (part + 1) * share))).await;

    let grown = process.resident_bytes().saturating_sub(before);
    assert!(grown < 48 * 1024 * 1024, "{addresses} addresses took {grown} bytes of the server");
    let kept = kept(database.name()).await;
    for Kept { name, ttl_ms, .. } in &kept {
        let longest = match name.rsplit(':').next() {
            Some("proof") => 7 * 24 * 3_600_000,
            Some("tokens") => 3_600_000,
            _ if name.ends_with(":token") => 3_600_000,
            // Whether a Redis that was away has kept its data: one for each server and node.
            _ if name.contains(":seen:") => 24 * 3_600_000,
            _ => 75_000,
        };
        assert!((-2..=longest).contains(ttl_ms) && *ttl_ms != -1, "{name} ends in {ttl_ms} ms");
    }
    let of_addresses: Vec<&Kept> = kept.iter().filter(|kept| kept.name.contains(":{a:")).collect();
    assert!(of_addresses.len() > 10_000, "there are enough of them to judge by: {}", of_addresses.len());
    let bytes: u64 = of_addresses.iter().map(|kept| kept.bytes).sum();
    // Each has a window of requests, and at most one of failures.
    let each = 2 * bytes / of_addresses.len() as u64;
    assert!(each <= 512, "an address takes {each} bytes of Redis, so a million takes {} MB", each);
    api.get("/projects").await.expect(200);
}

/// Sends a request for each of these addresses: without a key, or with a token that nobody has, which counts as a request and as a failure. On a machine with
/// too much to do the server may lose sight of Redis for a while, and tells about tokens that it cannot know.
async fn flood(process: &Process, addresses: std::ops::Range<usize>) {
    let mut stream = TcpStream::connect(process.address()).await.unwrap();
    let mut piece = vec![0; 64 * 1024];
    for start in addresses.clone().step_by(AT_ONCE) {
        let batch = start..(start + AT_ONCE).min(addresses.end);
        let mut requests = String::new();
        for n in batch.clone() {
            let key = if n % 2 == 0 { format!("x-api-key: {}\r\n", Token::generate().expose()) } else { String::new() };
            let address = format!("20.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255);
            requests += &format!("GET /projects HTTP/1.1\r\nhost: t\r\nx-forwarded-for: {address}\r\n{key}\r\n");
        }
        stream.write_all(requests.as_bytes()).await.unwrap();
        let mut answers = String::new();
        // Every answer ends with the problem that it tells.
        while answers.matches("\"request_id\":").count() < batch.len() || !answers.ends_with('}') {
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "the server goes on");
            answers += str::from_utf8(&piece[..read]).unwrap();
        }
        let refused = [401, 503].map(|status| answers.matches(&format!("HTTP/1.1 {status} ")).count());
        assert_eq!(refused.iter().sum::<usize>(), batch.len(), "{answers}");
    }
}

/// All that Redis keeps under a prefix.
async fn kept(prefix: &str) -> Vec<Kept> {
    let client = redis::Client::open(store_url("WHATSNEXT_TEST_REDIS_URL")).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let (mut cursor, mut all) = (0_u64, Vec::new());
    loop {
        let scan = cmd("SCAN").arg(cursor).arg("MATCH").arg(format!("{prefix}:*")).arg("COUNT").arg(2_000).to_owned();
        let (next, names): (u64, Vec<String>) = scan.query_async(&mut redis).await.unwrap();
        all.extend(measured(&mut redis, names).await);
        cursor = next;
        if cursor == 0 {
            return all;
        }
    }
}

async fn measured(redis: &mut MultiplexedConnection, names: Vec<String>) -> Vec<Kept> {
    let mut all = pipe();
    for name in &names {
        all.cmd("PTTL").arg(name).cmd("MEMORY").arg("USAGE").arg(name);
    }
    if names.is_empty() {
        return Vec::new();
    }
    let answers: Vec<Option<i64>> = all.query_async(redis).await.unwrap();
    let pairs = names.into_iter().zip(answers.chunks(2));
    pairs.map(|(name, pair)| Kept { name, ttl_ms: pair[0].unwrap_or(-2), bytes: pair[1].unwrap_or(0).try_into().unwrap() }).collect()
}
