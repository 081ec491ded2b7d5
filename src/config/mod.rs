//! Configuration: plain data, loaded once at start.
//!
//! [`Settings`] is what the rest of the program sees. [`load`] makes it of the embedded defaults (`deploy/config/default.toml`, which
//! documents every setting), a TOML file, `.env`, the environment and flags. [`warnings`] names combinations that an operator should know of.

mod authorities;
mod check;
mod effective;
mod files;
mod load;
mod unverified;

use std::{path::PathBuf, time::Duration};

use secrecy::SecretString;
use serde::Deserialize;

pub use authorities::{AuthoritiesError, authorities, read_authorities};
pub use check::{LONG_KEY, MAX_REQUESTS, Refusal, is_loopback, warnings};
pub use effective::{Effective, is_secret};
pub use load::{Error, Sources, load};
pub use unverified::any_server;

/// Everything that can be set. Names, units and defaults are those of `deploy/config/default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "deploy/config/default.toml documents each setting where operators read it")]
pub struct Settings {
    pub host: String,
    pub port: u16,
    pub reuse_port: bool,
    pub allow_plaintext: bool,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub tls_cert_file: PathBuf,
    pub tls_key_file: PathBuf,
    pub tls_client_ca_file: PathBuf,
    pub tls_hsts_seconds: u64,

    pub database_hostname: String,
    pub database_port: u16,
    pub database_user: String,
    pub database_password: SecretString,
    pub database_name: String,
    pub database_url: SecretString,
    pub database_tls: DatabaseTls,
    pub database_ca_file: PathBuf,
    pub database_pool_size: usize,
    pub database_pooler: DatabasePooler,
    pub database_connect_timeout_seconds: u64,
    pub database_checkout_timeout_seconds: u64,
    pub database_statement_timeout_seconds: u64,

    pub redis_url: SecretString,
    pub redis_ca_file: PathBuf,
    pub redis_timeout_milliseconds: u64,
    pub redis_key_prefix: String,
    pub redis_failure: RedisFailure,

    pub lease_seconds: i32,
    pub max_attempts: i32,
    pub backoff_seconds: i32,
    pub fetch_job_lease_seconds: i32,
    pub client_timeout_seconds: u32,
    pub retention_days: f64,

    pub disable_auth: bool,
    pub api_keys: SecretString,
    pub rate_limit_per_minute: u32,
    pub report_limit_per_minute: u32,
    pub auth_failures_per_minute: u32,
    pub trusted_proxies: String,
    pub forwarded_by: ForwardedBy,
    pub cors_origins: String,
    pub cors_allow_credentials: bool,
    pub cors_allow_methods: String,
    pub cors_allow_headers: String,
    pub docs: Docs,

    pub body_limit_bytes: usize,
    pub batch_limit_bytes: usize,
    pub batch_limit_jobs: usize,
    pub in_flight_limit_bytes: usize,
    pub header_timeout_seconds: u64,
    pub request_timeout_seconds: u64,
    pub write_timeout_seconds: u64,
    pub drain_delay_seconds: u64,
    pub shutdown_timeout_seconds: u64,

    pub log_format: LogFormat,
    pub log_filter: String,
    pub audit_log_dir: PathBuf,
    pub audit_failure: AuditFailure,
    pub audit_retention_days: usize,
    pub audit_key: SecretString,

    pub metrics_bind: String,
    pub otlp_endpoint: String,
}

/// How the connection to PostgreSQL is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatabaseTls {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server offers it; the server's certificate is not checked.
    Prefer,
    /// Always encrypted; the server's certificate is not checked.
    Require,
    /// Always encrypted; the certificate must be valid and carry the host's name.
    VerifyFull,
}

/// What stands between the servers and PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabasePooler {
    /// Nothing that matters: a connection is a session.
    None,
    /// A pooler, such as PgBouncer, that gives sessions away for a transaction at a time.
    Transaction,
}

/// Who may read the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Docs {
    /// Everybody.
    Public,
    /// Whoever may read.
    Key,
    /// Nobody: the routes do not exist.
    Off,
}

/// What is done while Redis is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisFailure {
    /// Each server admits its share of the limits.
    Degrade,
    /// Nobody is admitted: 503.
    Deny,
}

/// How trusted proxies tell where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedBy {
    /// In the header `X-Forwarded-For`: addresses, with or without a port.
    #[default]
    XForwardedFor,
    /// In the header `Forwarded`, RFC 7239.
    Forwarded,
    /// Before the first request of each connection: the PROXY protocol, version 1 or 2.
    ProxyProtocol,
}

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is done when a line of the audit log is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditFailure {
    /// The service goes on, and the lines that are lost are counted.
    Continue,
    /// Nobody comes in any more, and the server ends.
    Stop,
}

impl Settings {
    /// Whether the server speaks HTTPS.
    pub fn has_tls(&self) -> bool {
        !self.tls_cert_file.as_os_str().is_empty()
    }

    /// How long a request may take from its first byte to its answer.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds)
    }

    /// How long requests in flight have after the signal to stop.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs(self.shutdown_timeout_seconds)
    }
}
