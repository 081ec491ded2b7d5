//! What an operator should know of a configuration before it serves.

use std::net::{IpAddr, SocketAddr};

use secrecy::ExposeSecret;

use super::{Docs, Settings};

/// How long a claim may wait.
const LONGEST_WAIT_SECONDS: u32 = 60;

/// The most requests a minute that a limit can let in. A window of it notes each.
pub const MAX_REQUESTS: u32 = 10_000_000;

/// From how many characters on nobody finds a key of `api_keys` by trying.
pub const LONG_KEY: usize = 32;

/// A configuration with which the server does not start.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// A batch could never come in.
    #[error("in_flight_limit_bytes is {limit}, and a batch may have {batch} (batch_limit_bytes): make it at least twice as large")]
    InFlight {
        /// The configured limit.
        limit: usize,
        /// The largest body.
        batch: usize,
    },
    /// A number that makes no sense, or that is too large.
    #[error("{name} is {value}: it must be from {least} to {most}")]
    Range {
        /// The setting.
        name: &'static str,
        /// What it is.
        value: i64,
        /// The least that it may be.
        least: i64,
        /// The most.
        most: i64,
    },
    /// How long jobs are kept cannot be less than nothing.
    #[error("retention_days is {0}: it must be a number of days, or 0 to keep finished jobs for ever")]
    Retention(f64),
    /// Not an address where metrics could be told.
    #[error("metrics_bind is `{0}`: it must be an address and a port like 127.0.0.1:9464, or \"\" for nowhere")]
    MetricsBind(String),
    /// A certificate without its key, a key without its certificate, or authorities for clients and neither.
    #[error("tls_cert_file and tls_key_file are to be set together, and before tls_client_ca_file")]
    HalfOfTls,
    /// What is sent could be read and changed on the way.
    #[error(
        "`{host}` is not a loopback address and this is plain HTTP: what is sent could be read on the way. Set tls_cert_file and \
         tls_key_file, or put a proxy that does TLS in front and set allow_plaintext=true, or listen on 127.0.0.1"
    )]
    Plaintext {
        /// The configured host.
        host: String,
    },
}

impl Settings {
    /// Whether the server may start like this at all.
    ///
    /// # Errors
    ///
    /// The first [`Refusal`] that applies.
    pub fn refuse_unsafe(&self) -> Result<(), Refusal> {
        self.refuse_out_of_range()?;
        let (limit, batch) = (self.in_flight_limit_bytes, self.batch_limit_bytes.max(self.body_limit_bytes));
        if limit < 2 * batch {
            return Err(Refusal::InFlight { limit, batch });
        }
        if !(0.0..=365_000.0).contains(&self.retention_days) {
            return Err(Refusal::Retention(self.retention_days));
        }
        self.metrics_address()?;
        let [certificate, key, clients] =
            [&self.tls_cert_file, &self.tls_key_file, &self.tls_client_ca_file].map(|file| !file.as_os_str().is_empty());
        if certificate != key || (clients && !certificate) {
            return Err(Refusal::HalfOfTls);
        }
        if !self.has_tls() && !self.allow_plaintext && !is_loopback(&self.host) {
            return Err(Refusal::Plaintext { host: self.host.clone() });
        }
        Ok(())
    }

    /// Whether the numbers can be, which whoever goes to the stores must know, also without serving.
    ///
    /// # Errors
    ///
    /// [`Refusal::Range`].
    pub fn refuse_out_of_range(&self) -> Result<(), Refusal> {
        let requests = i64::from(MAX_REQUESTS);
        let [connections, pool] = [self.max_connections, self.database_pool_size].map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        for (name, value, least, most) in [
            ("max_connections", connections, 1, 1_000_000),
            // Room for all of them is taken at once.
            ("database_pool_size", pool, 1, 10_000),
            ("lease_seconds", i64::from(self.lease_seconds), 1, 86_400),
            ("max_attempts", i64::from(self.max_attempts), 1, 1000),
            ("backoff_seconds", i64::from(self.backoff_seconds), 0, 86_400),
            ("fetch_job_lease_seconds", i64::from(self.fetch_job_lease_seconds), 0, 86_400 * 365),
            ("rate_limit_per_minute", i64::from(self.rate_limit_per_minute), 0, requests),
            ("report_limit_per_minute", i64::from(self.report_limit_per_minute), 0, requests),
            ("auth_failures_per_minute", i64::from(self.auth_failures_per_minute), 0, requests),
        ] {
            if !(least..=most).contains(&value) {
                return Err(Refusal::Range { name, value, least, most });
            }
        }
        Ok(())
    }
}

/// Combinations that work but carry a risk, each as one sentence. (What there is to say of the stores, their own modules say.)
pub fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |applies: bool, text: &str| {
        if applies {
            warnings.push(text.to_owned());
        }
    };
    warn(settings.disable_auth, "disable_auth=true: everybody who reaches this port may read, change and delete everything");
    warn(
        !settings.api_keys.expose_secret().is_empty(),
        "api_keys is set: such keys may do everything, and each server has to be told of changes. Make keys with `whatsnext keys create --name NAME \
         --role admin` instead",
    );
    let keys = settings.api_keys.expose_secret().split(',').map(str::trim);
    warn(
        keys.into_iter().any(|key| !key.is_empty() && key.chars().count() < LONG_KEY),
        "api_keys has keys of less than 32 characters, which could be found by trying: wrong keys from their owner's address keep all of api_keys out",
    );
    warn(settings.rate_limit_per_minute == 0, "rate_limit_per_minute=0: nothing limits how many requests a key or an address may send");
    warn(settings.report_limit_per_minute == 0, "report_limit_per_minute=0: nothing limits how many heartbeats and reports a key may send");
    warn(settings.auth_failures_per_minute == 0, "auth_failures_per_minute=0: nothing limits how many keys an address may try");
    warn(
        settings.trusted_proxies.split(',').any(|network| network.trim().ends_with("/0")),
        "trusted_proxies trusts everybody: whoever sends a request chooses the address that it is limited by",
    );
    warn(
        settings.cors_origins.split(',').any(|origin| origin.trim() == "*"),
        "cors_origins=*: every web page that somebody opens may send requests from their network, and read what needs no key",
    );
    warn(
        settings.allow_plaintext && !settings.has_tls() && !is_loopback(&settings.host),
        "allow_plaintext=true: nothing but a proxy in front protects what is sent",
    );
    warn(
        settings.metrics_address().is_ok_and(|address| address.is_some_and(|address| !address.ip().is_loopback())),
        "metrics_bind is not a loopback address: whoever reaches it learns how much there is to do and how it goes, without a key",
    );
    warn(
        settings.client_timeout_seconds <= LONGEST_WAIT_SECONDS,
        "client_timeout_seconds is no longer than a claim may wait, which is 60: a client that waits so long without a heartbeat is taken for gone, and gets nothing",
    );
    warn(settings.audit_log_dir.as_os_str().is_empty(), "audit_log_dir is empty: nobody will be able to say who did what");
    warn(settings.docs == Docs::Public, "docs=public: everybody may read the API's documentation");
    warnings
}

impl Settings {
    /// Where metrics are told.
    ///
    /// # Errors
    ///
    /// [`Refusal::MetricsBind`] if it is no address.
    pub fn metrics_address(&self) -> Result<Option<SocketAddr>, Refusal> {
        let text = self.metrics_bind.as_str();
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| Refusal::MetricsBind(text.to_owned())) }
    }
}

/// Whether a host is this machine.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn settings(flags: &[(&str, &str)]) -> Settings {
        let flags = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(&Sources { flags, ..Sources::default() }).expect("the defaults load").settings
    }

    #[test]
    fn the_defaults_are_safe_and_nothing_is_to_be_said_of_them() {
        assert_eq!(settings(&[]).refuse_unsafe(), Ok(()));
        assert_eq!(warnings(&settings(&[])), Vec::<String>::new());
    }

    #[test]
    fn whoever_waits_is_not_to_be_taken_for_gone() {
        let warned =
            |seconds| warnings(&settings(&[("client_timeout_seconds", seconds)])).iter().any(|warning| warning.contains("client_timeout"));
        assert_eq!([warned("60"), warned("61")], [true, false]);
    }

    #[test]
    fn plain_http_off_loopback_needs_to_be_asked_for() {
        assert_eq!(settings(&[("host", "0.0.0.0")]).refuse_unsafe(), Err(Refusal::Plaintext { host: "0.0.0.0".to_owned() }));
        assert_eq!(settings(&[("host", "0.0.0.0"), ("allow_plaintext", "true")]).refuse_unsafe(), Ok(()));
        assert_eq!(settings(&[("host", "::1")]).refuse_unsafe(), Ok(()));
        let tls = [("host", "0.0.0.0"), ("tls_cert_file", "c.pem"), ("tls_key_file", "k.pem")];
        assert_eq!(settings(&tls).refuse_unsafe(), Ok(()));
        assert_eq!(settings(&tls[..2]).refuse_unsafe(), Err(Refusal::HalfOfTls));
        assert_eq!(settings(&tls[2..]).refuse_unsafe(), Err(Refusal::HalfOfTls));
        assert_eq!(settings(&[("tls_client_ca_file", "a.pem")]).refuse_unsafe(), Err(Refusal::HalfOfTls));
    }

    #[test]
    fn metrics_are_told_nowhere_unless_an_address_is_given() {
        let address = |text| settings(&[("metrics_bind", text)]).metrics_address();
        assert_eq!(address(""), Ok(None));
        assert_eq!(address("127.0.0.1:9464"), Ok(Some(([127, 0, 0, 1], 9464).into())));
        assert_eq!(settings(&[("metrics_bind", "9464")]).refuse_unsafe(), Err(Refusal::MetricsBind("9464".to_owned())));
        let warned = |text| warnings(&settings(&[("metrics_bind", text)])).iter().any(|warning| warning.contains("metrics_bind"));
        assert!(warned("0.0.0.0:9464") && !warned("[::1]:9464"));
    }

    #[test]
    fn numbers_of_connections_that_cannot_be_are_refused() {
        for (name, good, bad) in [("max_connections", "1", "0"), ("database_pool_size", "10000", "10001"), ("database_pool_size", "1", "0")]
        {
            assert_eq!(settings(&[(name, good)]).refuse_unsafe(), Ok(()), "{name} = {good}");
            assert!(matches!(settings(&[(name, bad)]).refuse_unsafe(), Err(Refusal::Range { .. })), "{name} = {bad}");
        }
    }

    #[test]
    fn limits_that_no_window_can_hold_are_refused() {
        for name in ["rate_limit_per_minute", "report_limit_per_minute", "auth_failures_per_minute"] {
            assert_eq!(settings(&[(name, "10000000")]).refuse_unsafe(), Ok(()), "{name}");
            let refusal = settings(&[(name, "10000001")]).refuse_unsafe().expect_err("it is refused").to_string();
            assert_eq!(refusal, format!("{name} is 10000001: it must be from 0 to 10000000"));
        }
        assert_eq!(MAX_REQUESTS, crate::limits::window::MAX_LIMIT);
    }
}
