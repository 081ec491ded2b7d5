use super::*;
use crate::config::{Sources, load};

fn redis(url: &str, prefix: &str) -> Result<Redis, SetupError> {
    let flags = [("redis_url", url), ("redis_key_prefix", prefix)];
    let flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Redis::new(&load(&Sources { flags, ..Sources::default() }).expect("the settings load").settings)
}

#[test]
fn what_cannot_be_used_is_refused_without_its_password() {
    for (url, prefix) in [
        ("redis+cluster://u:canary@h1,h2/3", "wn"),
        ("redis+cluster://u:canary@h1:99999", "wn"),
        ("redis+sentinel://u:canary@h1", "wn"),
        ("redis+sentinel://u:canary@h1/m/x", "wn"),
        ("http://u:canary@h1", "wn"),
        ("redis://h/x", "wn"),
        ("redis://h", "w{n}"),
    ] {
        let error: &dyn std::error::Error = &redis(url, prefix).err().expect("it is refused");
        let told = format!("{error} {:?}", error.source());
        assert!(told.starts_with("redis_") && !told.contains("canary"), "{told}");
    }
    for url in ["redis://h", "redis+cluster://h1,h2:7000", "rediss+sentinel://u:p@h1,h2/m/3?sentinel_password=q"] {
        assert!(redis(url, "wn").is_ok(), "{url}");
    }
}

#[tokio::test]
async fn nothing_is_asked_of_what_is_not_connected() {
    for url in ["redis://127.0.0.1:1", "redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/m"] {
        let redis = redis(url, "wn").expect("it is of the form");
        assert!(redis.attempt("k").is_err() && redis.ping().await.is_err());
        redis.connect().await;
        assert!(redis.early_attempt("k").is_err());
    }
}
