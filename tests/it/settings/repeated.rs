//! What errors repeat of settings: of each one that there is, so that a new one is looked at as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use whatsnext::{
    app::App,
    config::{Sources, is_secret, load},
    telemetry::audit::Audit,
};

use super::said;
use crate::support::{TestDatabase, program};

/// Each setting has its default here.
const DEFAULTS: &str = include_str!("../../../deploy/config/default.toml");

/// Settings whose values errors repeat, where they are of the right kind and cannot be used all the same.
const REPEATED: [&str; 30] = [
    // Addresses, and who is trusted.
    "host",
    "metrics_bind",
    "trusted_proxies",
    "cors_origins",
    "cors_allow_methods",
    "cors_allow_headers",
    // Numbers that are too large, too small, or do not fit together.
    "batch_limit_bytes",
    "body_limit_bytes",
    "in_flight_limit_bytes",
    "max_connections",
    "database_pool_size",
    "lease_seconds",
    "max_attempts",
    "backoff_seconds",
    "fetch_job_lease_seconds",
    "retention_days",
    "rate_limit_per_minute",
    "report_limit_per_minute",
    "auth_failures_per_minute",
    // Names of files and folders.
    "audit_log_dir",
    "tls_cert_file",
    "tls_key_file",
    "tls_client_ca_file",
    "database_ca_file",
    "redis_ca_file",
    "database_password_file",
    "database_url_file",
    "redis_url_file",
    "api_keys_file",
    "audit_key_file",
];

/// What somebody may have written there, in whatever form.
const TEXTS: [&str; 14] = [
    "canary",
    "/dev/null/canary",
    "canary://u:canary@127.0.0.1:canary/canary",
    "http://u:canary@127.0.0.1:1/canary?canary=canary",
    "https://canary/, canary canary",
    "postgres://u:canary@127.0.0.1:1/x?canary=canary",
    "postgres://u:can/ary@127.0.0.1:1/x?sslmode=canary",
    "host=127.0.0.1 port=1 user=u password='canary",
    "host=127.0.0.1 port=canary user=u password=canary",
    "redis://:canary@127.0.0.1:1/canary",
    "redis+cluster://:canary@",
    "redis+sentinel://:canary@127.0.0.1:1/?sentinel_password=canary&canary",
    "{canary}\u{7f}",
    "whatsnext=canary=canary,[canary",
];

/// Numbers that are no good for some setting, and stand in no text but that of an error that repeats them.
const NUMBERS: [&str; 3] = ["1234567", "98765432", "987654321"];

/// The settings, with their defaults as they are written.
fn settings() -> BTreeMap<&'static str, &'static str> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    DEFAULTS.lines().filter_map(|line| line.split_once(" = ")).filter(|(name, _)| is_name(name)).collect()
}

/// Those that hold secrets: each can come from a file.
fn secrets() -> BTreeSet<&'static str> {
    let settings = settings();
    settings.keys().copied().filter(|name| settings.contains_key(format!("{name}_file").as_str())).collect()
}

/// What is wrong with a server of these settings, if anything is.
fn refusal(flags: &[(&str, &str)]) -> Option<String> {
    let flags: Vec<_> = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let chain = |error: &dyn std::error::Error| {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        causes.fold(format!("{error} {error:?}"), |text, cause| format!("{text}: {cause}"))
    };
    let settings = match load(&Sources { flags, ..Sources::default() }) {
        Ok(effective) => effective.settings,
        Err(error) => return Some(chain(&error)),
    };
    let is_file = settings.audit_log_dir.starts_with("/dev/null");
    if let Err(error) = settings.refuse_unsafe() {
        return Some(chain(&error));
    }
    let errors = [
        App::build(settings.clone()).err().map(|error| chain(&error)),
        is_file.then(|| Audit::open(&settings).err().map(|error| chain(&error))).flatten(),
    ];
    errors.into_iter().flatten().reduce(|text, more| text + "\n" + &more)
}

/// With which others a setting is looked at, where it is not by itself.
fn with(name: &str) -> &'static [(&'static str, &'static str)] {
    match name {
        "tls_cert_file" => &[("tls_key_file", "/dev/null")],
        "tls_key_file" => &[("tls_cert_file", "/dev/null")],
        "tls_client_ca_file" => &[("tls_cert_file", "/dev/null"), ("tls_key_file", "/dev/null")],
        "database_ca_file" => &[("database_tls", "verify-full")],
        "redis_ca_file" => &[("redis_url", "rediss://127.0.0.1:1/0")],
        _ => &[],
    }
}

#[tokio::test]
async fn what_errors_repeat_of_which_settings_is_known() {
    let mut repeated = BTreeSet::new();
    for (name, default) in settings() {
        let values = if default.starts_with('"') { &TEXTS[..] } else { &NUMBERS };
        for value in values.iter().copied().chain(["canary"]) {
            let flags: Vec<_> = with(name).iter().copied().chain([(name, value)]).collect();
            if refusal(&flags).is_some_and(|text| text.contains("canary") || NUMBERS.contains(&value) && text.contains(value)) {
                repeated.insert(name);
            }
        }
    }
    assert_eq!(repeated, BTreeSet::from(REPEATED), "if it is right that errors repeat this one, say so in SECURITY.md too");
    assert!(repeated.is_disjoint(&secrets()));
}

#[test]
fn whatever_sounds_like_a_secret_is_treated_as_one() {
    let secrets = secrets();
    for name in settings().into_keys() {
        let is_one = is_secret(name, "redis://:canary@cache/0");
        assert_eq!(is_one, secrets.contains(name), "{name} is masked if and only if it can come from a file");
        let sounds = ["password", "secret", "token", "pepper", "_url", "_key", "keys"].iter().any(|word| name.contains(word));
        // Of no secret, but where one is, or what the names of keys begin with.
        let is_other = name.ends_with("_file") || name == "redis_key_prefix";
        assert!(is_one || is_other || !sounds, "{name} sounds like a secret and is shown");
    }
}

/// What is said of the file of a secret may name it, unless that is the secret, put where its file's name should be.
#[test]
fn a_secret_in_place_of_its_file_is_not_repeated() {
    for name in secrets() {
        let file = format!("{name}_file");
        let text = refusal(&[(&file, "canary")]).expect("there is no such file");
        assert!(text.contains(&file) && !text.contains("canary"), "{text}");
        let text = refusal(&[(&file, "/dev/null/there-is-none")]).expect("there is no such file");
        assert!(text.contains("/dev/null/there-is-none"), "{text}");
    }
}

/// All that a server that does not come up says of it, also of what is of the right form and leads nowhere.
#[tokio::test]
async fn no_secret_is_repeated_by_a_server_that_does_not_start() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let file = folder.path().join("secret");
    let serve = |name: &str, value: &str| {
        let mut command = program(&database);
        // So that none of them comes up.
        let nowhere = [("DATABASE_HOSTNAME", "/nonexistent"), ("REDIS_URL", "redis://127.0.0.1:1/0"), ("DISABLE_AUTH", "false")];
        command.env_remove("DATABASE_URL").envs(nowhere).env("PORT", "0").env("LOG_FILTER", "debug");
        command.arg("serve").env_remove(name.to_uppercase()).env(name.to_uppercase(), value).current_dir(folder.path());
        if name.ends_with("_file") {
            command.env_remove(name.trim_end_matches("_file").to_uppercase());
        }
        let (is_good, text) = said(&mut command);
        assert!(!is_good && !text.contains("canary"), "{name} = {value:?}: {text}");
    };
    for text in TEXTS {
        fs::write(&file, text).unwrap();
        for name in secrets() {
            serve(name, text);
            serve(&format!("{name}_file"), file.to_str().unwrap());
        }
    }
}
