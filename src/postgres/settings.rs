//! What the settings say of the database.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::ExposeSecret;
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use super::SetupError;
use crate::config::{DatabasePooler, DatabaseTls, Settings, is_loopback};

/// What connection strings say of TLS elsewhere, and which setting says it here.
const TLS_PARAMETERS: [(&str, &str); 2] = [
    ("sslmode", "database_tls (disable, prefer, require or verify-full)"),
    ("sslrootcert", "database_ca_file, with database_tls = \"verify-full\""),
];

/// How long a connection is idle until it is asked whether the other side is still there, how long after that it is asked again, and after how many
/// questions without an answer it is over: half a minute at most until it is noticed that a machine is gone. (Linux gives up as soon as a question was not
/// answered and nothing was heard for [`SILENCE`].)
const IDLE: Duration = Duration::from_secs(15);
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(5);
const QUESTIONS: u32 = 3;

/// After how long without an acknowledgement of what was sent a connection is over.
const SILENCE: Duration = Duration::from_secs(10);

/// What is risky about the way to the database, if anything is.
pub fn warning(settings: &Settings) -> Option<String> {
    let is_remote = connection_config(settings).is_ok_and(|config| is_remote(&config));
    (is_remote && settings.database_tls != DatabaseTls::VerifyFull).then(|| {
        "the database is on another machine and database_tls is not verify-full: whoever sits between can pose as the database".to_owned()
    })
}

/// Whether any of its hosts is another machine. An address says where a host is, whatever its name.
fn is_remote(config: &Config) -> bool {
    let is_elsewhere = |host: &Host| match host {
        Host::Tcp(name) => !is_loopback(name),
        Host::Unix(_) => false,
    };
    match config.get_hostaddrs() {
        [] => config.get_hosts().iter().any(is_elsewhere),
        addresses => addresses.iter().any(|address| !address.is_loopback()),
    }
}

/// What to connect to, with the time-outs that hold for every connection.
pub(super) fn connection_config(settings: &Settings) -> Result<Config, SetupError> {
    let url = settings.database_url.expose_secret();
    let mut config = if url.is_empty() {
        let mut config = Config::new();
        config.host(&settings.database_hostname).port(settings.database_port).user(&settings.database_user).dbname(&settings.database_name);
        config
    } else {
        if let Some((parameter, instead)) = TLS_PARAMETERS.iter().find(|(name, _)| parameters(url).iter().any(|has| has == name)) {
            return Err(SetupError::TlsInUrl { parameter, instead });
        }
        url.parse().map_err(|_| SetupError::Url)?
    };
    if !settings.database_password.expose_secret().is_empty() {
        config.password(settings.database_password.expose_secret());
    }
    if settings.database_pooler == DatabasePooler::None {
        config.options(session(settings));
    }
    config
        .application_name("whatsnext")
        .connect_timeout(Duration::from_secs(settings.database_connect_timeout_seconds))
        .keepalives_idle(IDLE)
        .keepalives_interval(BETWEEN_QUESTIONS)
        .keepalives_retries(QUESTIONS)
        .tcp_user_timeout(SILENCE)
        .ssl_mode(match settings.database_tls {
            DatabaseTls::Disable => SslMode::Disable,
            DatabaseTls::Prefer => SslMode::Prefer,
            DatabaseTls::Require | DatabaseTls::VerifyFull => SslMode::Require,
        });
    if config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) {
        config.ssl_mode(SslMode::Disable);
    }
    Ok(config)
}

/// How long a transaction waits for its next statement. They follow each other within milliseconds: after that the server has vanished without a word, and what it
/// holds, as the clients that it was serving, is for others.
const VANISHED: Duration = Duration::from_secs(5);

/// What holds in every session. A pooler's sessions are its own: there it is for the pooler to say this (`deploy/pgbouncer`).
fn session(settings: &Settings) -> String {
    let timeout = Duration::from_secs(settings.database_statement_timeout_seconds).as_millis();
    // The statements are written so that one plan is right for all values (sql/README.md). Left to itself PostgreSQL plans a claim anew each time, which
    // takes longer than the claim. JIT costs more than it gives for statements that take microseconds. Whoever waited for a lock must see what was done
    // under it, whatever the database's default is.
    let idle = VANISHED.as_millis();
    format!(
        "-c statement_timeout={timeout} -c idle_in_transaction_session_timeout={idle} -c plan_cache_mode=force_generic_plan -c jit=off \
         -c default_transaction_isolation=read\\ committed"
    )
}

/// The names of the parameters of a connection string of either form, as far as it can be read.
fn parameters(text: &str) -> Vec<String> {
    let Some(rest) = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme)) else { return keywords(text) };
    let after_credentials = rest.split_once('@').map_or(rest, |(_, after)| after);
    let query = after_credentials.split_once('?').map_or("", |(_, query)| query);
    let names = query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
    names.map(|name| percent_decode_str(name).decode_utf8_lossy().into_owned()).collect()
}

/// The names in `name = value name = 'val\'ue'`.
fn keywords(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text;
    while let Some((name, value)) = rest.split_once('=') {
        names.push(name.trim().to_owned());
        let value = value.trim_start();
        let (value, is_quoted) = value.strip_prefix('\'').map_or((value, false), |inside| (inside, true));
        let mut is_escaped = false;
        let end = value.find(|c: char| {
            let is_end = !is_escaped && if is_quoted { c == '\'' } else { c.is_whitespace() };
            is_escaped = !is_escaped && c == '\\';
            is_end
        });
        rest = end.map_or("", |end| value[end..].trim_start_matches(|c| is_quoted && c == '\''));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn settings(flags: &[(&str, &str)]) -> Settings {
        let flags = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(&Sources { flags, ..Sources::default() }).expect("the settings load").settings
    }

    #[test]
    fn a_database_elsewhere_without_verified_tls_is_warned_of() {
        let warned = |flags: &[(&str, &str)]| warning(&settings(flags)).is_some_and(|warning| warning.contains("pose as the database"));
        assert!(warned(&[("database_hostname", "db.example.org")]));
        for url in [
            "postgres://u:p@db.example.org/whatsnext",
            "postgresql://u@localhost,db/whatsnext",
            "postgres:///whatsnext?host=db",
            "host=db user=u",
            "user = u host = '/run/postgresql,10.0.0.7'",
            "host=localhost hostaddr=10.0.0.7",
        ] {
            assert!(warned(&[("database_url", url)]), "{url}");
            assert!(!warned(&[("database_url", url), ("database_tls", "verify-full")]), "{url}");
        }
        assert!(!warned(&[]) && !warned(&[("database_hostname", "/run/postgresql")]));
        for url in [
            "postgres://u@localhost/x",
            "postgres://u@[::1]:5433/x",
            "postgres://u@%2Frun%2Fpostgresql/x",
            "postgres:///x?host=/run/postgresql",
            "host=127.0.0.1",
            "host=/run/postgresql user=u",
            "host=db hostaddr=127.0.0.1",
        ] {
            assert!(!warned(&[("database_url", url)]), "{url}");
        }
    }

    #[test]
    fn a_machine_that_is_gone_is_noticed_within_half_a_minute() {
        for url in ["", "postgres://u@db/x", "postgres://u@db/x?keepalives=1&keepalives_idle=7200&tcp_user_timeout=0"] {
            let config = connection_config(&settings(&[("database_url", url)])).expect("it describes a database");
            let (idle, between) = (config.get_keepalives_idle(), config.get_keepalives_interval().expect("it is set"));
            let questions = config.get_keepalives_retries().expect("it is set");
            assert!(config.get_keepalives() && questions > 1, "{url}");
            assert!(idle + between * questions <= Duration::from_secs(30), "{url}: {idle:?}, and {between:?} × {questions}");
            assert!(config.get_tcp_user_timeout().is_some_and(|silence| *silence <= Duration::from_secs(10)), "{url}");
        }
    }

    #[test]
    fn what_is_said_of_tls_in_the_url_is_refused_and_not_overridden() {
        let refused = |url: &str| connection_config(&settings(&[("database_url", url)])).err().map(|error| error.to_string());
        for mode in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
            for url in [
                format!("postgres://u:canary@db/x?sslmode={mode}"),
                format!("postgresql://u:canary@db/x?connect_timeout=3&ssl%6dode={mode}"),
                format!("postgres://db?sslmode={mode}"),
                format!("host=db sslmode={mode}"),
                format!("password='canary\\' canary' sslmode = '{mode}' host=db"),
            ] {
                let error = refused(&url).unwrap_or_else(|| panic!("expected {url} to be refused"));
                assert!(
                    error.contains("database_url has `sslmode`") && error.contains("database_tls") && !error.contains("canary"),
                    "{error}"
                );
            }
        }
        let error = refused("postgres://db/x?sslrootcert=/etc/ca.pem").expect("it is refused");
        assert!(error.contains("database_ca_file"), "{error}");
        for url in [
            "postgres://sslmode=:sslmode=require@db/sslmode=x?application_name=sslmode",
            "host=db password='a sslmode=require' user=sslmode",
            "host=db password=a\\ sslmode=require",
        ] {
            assert_eq!(refused(url), None, "{url}");
        }
    }
}
