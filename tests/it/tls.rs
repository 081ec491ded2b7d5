//! TLS to the stores: real ones, each with a certificate that is right, and with some that are not.

use std::time::Duration;

use whatsnext::{postgres::Database, redis::Redis};

use crate::support::{Authority, PASSWORD, PostgresServer, Process, RedisServer, TestDatabase, free_port, program, within};

/// The names by which tests reach a store.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

#[tokio::test]
async fn postgresql_is_believed_only_with_its_certificate() {
    let (database, authority, other) = (TestDatabase::new().await, Authority::new(), Authority::new());
    let good = authority.issue(&NAMES);
    let postgres = PostgresServer::start(&good).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", postgres.port);
    let answers = async |mode: &str, authority: &str| {
        let flags = [("database_url", url.as_str()), ("database_tls", mode), ("database_ca_file", authority)];
        Database::new(&database.settings(&flags)).expect("the settings are sound").ping().await.is_ok()
    };
    let trusted = authority.file();
    assert!(answers("verify-full", &trusted).await);
    assert!(answers("require", "").await && answers("prefer", "").await, "they look at no certificate");
    assert!(!answers("disable", "").await, "this server takes nobody without TLS");
    assert!(!answers("verify-full", &other.file()).await, "another authority");
    assert!(!answers("verify-full", "").await, "an authority that the system does not know");
    for (what, pair) in [
        ("another name", authority.issue(&["elsewhere.example"])),
        ("expired", authority.issue_expired(&NAMES)),
        ("made by itself", other.issue(&NAMES)),
    ] {
        postgres.show(&pair).await;
        assert!(!answers("verify-full", &trusted).await, "{what}");
        assert!(answers("require", "").await, "{what}: it speaks TLS all the same");
    }
    postgres.show(&good).await;
    assert!(answers("verify-full", &trusted).await);

    // It is believed no longer when that is set while a server works.
    let settings =
        |mode, authority| database.settings(&[("database_url", url.as_str()), ("database_tls", mode), ("database_ca_file", authority)]);
    let running = Database::new(&settings("require", "")).expect("the settings are sound");
    running.ping().await.expect("it looks at no certificate");
    running.reload(&settings("verify-full", "")).await.expect_err("an authority that the system does not know");
    running.ping().await.expect("what was in use stays");
    running.reload(&settings("verify-full", &trusted)).await.expect("an authority that is trusted");
    running.reload(&settings("verify-full", "")).await.expect_err("it is not trusted any more");

    // The whole service.
    let environment = [("DATABASE_URL", url.as_str()), ("DATABASE_TLS", "verify-full"), ("DATABASE_CA_FILE", &trusted)];
    let migrated = program(&database).arg("migrate").envs(environment).output().expect("the program runs");
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let process = Process::start_with(&database, &environment).await;
    process.api.project_with_task("p").await;
}

#[tokio::test]
async fn redis_is_believed_only_with_its_certificate() {
    let (database, authority, other) = (TestDatabase::new().await, Authority::new(), Authority::new());
    let (good, port) = (authority.issue(&NAMES), free_port());
    let redis = RedisServer::start_with_tls(&authority, &good, port).await;
    let url = format!("rediss://:{}@127.0.0.1:{port}/", PASSWORD.1);
    let answers_at = async |url: &str, authority: &str| {
        let redis = Redis::new(&database.settings(&[("redis_url", url), ("redis_ca_file", authority)])).expect("the settings are sound");
        redis.connect().await;
        redis.ping().await.is_ok()
    };
    let answers = async |authority: &str| answers_at(&url, authority).await;
    let trusted = authority.file();
    assert!(answers(&trusted).await);
    assert!(!answers_at(&url.replace("rediss", "redis"), &trusted).await, "nothing but TLS is spoken there");
    assert!(!answers(&other.file()).await, "another authority");
    assert!(!answers("").await, "an authority that the system does not know");
    let careless = format!("{url}#insecure");
    let settings = database.settings(&[("redis_url", careless.as_str()), ("redis_ca_file", &other.file())]);
    if let Ok(redis) = Redis::new(&settings) {
        redis.connect().await;
        assert!(redis.ping().await.is_err(), "no certificate is believed unseen");
    }
    for (what, pair) in [
        ("another name", authority.issue(&["elsewhere.example"])),
        ("expired", authority.issue_expired(&NAMES)),
        ("made by itself", other.issue(&NAMES)),
    ] {
        let [certificate, key] = [pair.certificate(), pair.key()].map(|file| file.display().to_string());
        redis.ask::<()>(&["CONFIG", "SET", "tls-cert-file", &certificate, "tls-key-file", &key]).await.expect("it can be set");
        assert!(!answers(&trusted).await, "{what}");
    }
    let [certificate, key] = [good.certificate(), good.key()].map(|file| file.display().to_string());
    redis.ask::<()>(&["CONFIG", "SET", "tls-cert-file", &certificate, "tls-key-file", &key]).await.expect("it can be set");

    let settings = |authority| database.settings(&[("redis_url", url.as_str()), ("redis_ca_file", authority)]);
    let running = Redis::new(&settings(&trusted)).expect("the settings are sound");
    running.connect().await;
    running.reload(&settings(&trusted), async || {}).await.expect("nothing has changed");
    running.reload(&settings(""), async || {}).await.expect_err("it is not trusted any more");
    running.ping().await.expect("what was in use stays");

    let process = Process::start_with(&database, &[("REDIS_URL", url.as_str()), ("REDIS_CA_FILE", &trusted)]).await;
    within(Duration::from_secs(5), "Redis is up", async || process.api.get("/readyz").await.expect(200)["status"] == "ready").await;

    let flags = [("redis_ca_file", "/nonexistent.pem")];
    let error = Redis::new(&database.settings(&flags)).err().expect("there is no such file").to_string();
    assert!(error.starts_with("redis_ca_file: /nonexistent.pem"), "{error}");
}
