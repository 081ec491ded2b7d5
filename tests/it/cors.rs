//! What is said to pages of other origins.

use reqwest::Method;
use whatsnext::app::App;

use crate::support::{Json, Server, TestDatabase};

const OWN: &str = "https://jobs.example.org";

async fn ask(server: &Server, method: Method, path: &str, origin: &str, more: &[(&str, &str)]) -> Json {
    let headers: Vec<_> = [("origin", origin)].into_iter().chain(more.iter().copied()).collect();
    server.api.send_with(method, path, &headers, Vec::new()).await
}

const PREFLIGHT: [(&str, &str); 2] = [("access-control-request-method", "DELETE"), ("access-control-request-headers", "x-api-key")];

#[tokio::test]
async fn nothing_is_said_to_anybody_by_default() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    for origin in [OWN, "null", "http://localhost"] {
        for (method, more) in [(Method::GET, &[][..]), (Method::OPTIONS, &PREFLIGHT[..])] {
            let answer = ask(&server, method, "/projects", origin, more).await;
            let said = answer.headers.keys().find(|name| name.as_str().starts_with("access-control") || name.as_str() == "vary");
            assert_eq!(said, None, "{origin}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn origins_are_compared_to_the_letter() {
    let database = TestDatabase::new().await;
    let flags = [("cors_origins", "https://jobs.example.org, http://localhost:5173"), ("disable_auth", "false")];
    let server = Server::start_with(&database, &flags).await;
    for path in ["/livez", "/projects", "/nowhere", "/jobs/%zz"] {
        let answer = ask(&server, Method::GET, path, OWN, &[]).await;
        assert_eq!(answer.header("access-control-allow-origin"), OWN, "{path}: whatever comes of it can be read");
        assert_eq!(answer.header("vary"), "Origin");
        assert!(answer.header("access-control-expose-headers").contains("Retry-After"), "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), "");
    }
    for origin in [
        "https://jobs.example.org.evil.example",
        "https://evil.example",
        "http://jobs.example.org",
        "https://jobs.example.org:444",
        "https://JOBS.example.org",
        "https://jobs.example.org/",
        "null",
        "*",
        "",
    ] {
        for (method, more) in [(Method::GET, &[][..]), (Method::OPTIONS, &PREFLIGHT[..])] {
            let answer = ask(&server, method, "/livez", origin, more).await;
            let said = answer.headers.keys().find(|name| name.as_str().starts_with("access-control"));
            assert_eq!((said, answer.header("vary")), (None, "Origin"), "{origin:?}: a cache must not give it what is another's");
        }
    }
    let twice = ask(&server, Method::GET, "/livez", OWN, &[("origin", "https://evil.example")]).await;
    assert_eq!(twice.header("access-control-allow-origin"), "", "two origins are none");
    server.stop().await;
}

#[tokio::test]
async fn preflights_are_answered_without_a_key_and_remembered() {
    let database = TestDatabase::new().await;
    let server =
        Server::start_with(&database, &[("cors_origins", OWN), ("cors_allow_credentials", "true"), ("disable_auth", "false")]).await;
    let answer = ask(&server, Method::OPTIONS, "/jobs/1", OWN, &PREFLIGHT).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), OWN);
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    assert_eq!(answer.header("access-control-allow-methods"), "DELETE, GET, HEAD, POST, PUT");
    assert_eq!(answer.header("access-control-max-age"), "7200");
    let headers = answer.header("access-control-allow-headers").to_lowercase();
    for header in ["authorization", "x-api-key", "idempotency-key", "content-type"] {
        assert!(headers.contains(header), "{header} in {headers}");
    }
    server.stop().await;
}

#[tokio::test]
async fn everybody_means_everybody_without_credentials() {
    let database = TestDatabase::new().await;
    let flags = [("cors_origins", "*"), ("cors_allow_methods", "GET"), ("cors_allow_headers", "X-API-Key")];
    let server = Server::start_with(&database, &flags).await;
    let answer = ask(&server, Method::OPTIONS, "/projects", "https://evil.example", &PREFLIGHT).await;
    assert_eq!((answer.header("access-control-allow-origin"), answer.header("vary")), ("*", ""));
    assert_eq!((answer.header("access-control-allow-methods"), answer.header("access-control-allow-headers")), ("GET", "X-API-Key"));
    assert_eq!(answer.header("access-control-allow-credentials"), "");
    server.stop().await;
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_at_start() {
    let database = TestDatabase::new().await;
    for (flags, sentence) in [
        (&[("cors_origins", "*"), ("cors_allow_credentials", "true")][..], "name the origins, or leave credentials out"),
        (&[("cors_origins", "https://a.example, *"), ("cors_allow_credentials", "true")], "name the origins, or leave credentials out"),
        (&[("cors_origins", "jobs.example.org")], "`jobs.example.org` is no origin"),
        (&[("cors_origins", "https://jobs.example.org/")], "is no origin"),
        (&[("cors_origins", "https://*.example.org")], "is no origin"),
        (&[("cors_origins", "null")], "`null` is no origin"),
        (&[("cors_origins", OWN), ("cors_allow_methods", "GET POST")], "cors_allow_methods: `GET POST` is no method"),
        (&[("cors_origins", OWN), ("cors_allow_headers", "X API")], "cors_allow_headers: `X API` is no name of a header"),
    ] {
        let refused = App::build(database.settings(flags)).err().unwrap_or_else(|| panic!("{flags:?} is refused"));
        assert!(refused.to_string().contains(sentence), "{flags:?}: {refused}");
    }
}
