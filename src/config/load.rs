//! Where settings come from, and which source wins.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use ::config::{Config, ConfigError, Environment, File, FileFormat, Map, Value};

use super::{
    effective::{Effective, SECRETS},
    files::{self, TomlFile},
};

const DEFAULTS: &str = include_str!("../../deploy/config/default.toml");

/// The sources besides the embedded defaults, weakest first. There are secrets in them, so they are not `Debug`.
#[derive(Default)]
pub struct Sources {
    /// A TOML file (`--config`).
    pub file: Option<PathBuf>,
    /// A `.env` file; skipped if it does not exist.
    pub dotenv: Option<PathBuf>,
    /// The environment's variables.
    pub environment: Vec<(String, String)>,
    /// Flags, as setting and value.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The process's own environment and `.env` in its working directory.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { file, dotenv: Some(PathBuf::from(".env")), environment: environment.collect(), flags }
    }
}

/// Why the configuration cannot be used. Each says what to change and where, and repeats no value: whatever was set may be a secret in the wrong place. (What
/// is of the right kind and cannot be used all the same, [`super::Refusal`] and others repeat, where it can be none.)
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that was named cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A setting that does not exist.
    #[error("unknown setting `{name}` in {place}{}", hint(.nearest))]
    Unknown {
        /// The name that was given.
        name: String,
        /// Where it was given.
        place: String,
        /// The existing setting that is most like it.
        nearest: Option<String>,
    },
    /// Both a secret and the file to read it from were given.
    #[error("both `{name}` and `{name}_file` are set: keep one of them")]
    TwoSources {
        /// The secret.
        name: &'static str,
    },
    /// A file that holds a secret cannot be read.
    #[error("{name}_file: cannot read {file}: {source}")]
    UnreadableSecret {
        /// The secret.
        name: &'static str,
        /// The file, or words for what may be none.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// There is nothing in a file that was to hold a secret.
    #[error("{name}_file: {path} is empty: put the secret into it, or do not set {name}_file")]
    EmptySecret {
        /// The secret.
        name: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// `.env` is not a list of NAME=VALUE lines.
    #[error("{path} is not a list of NAME=VALUE lines: look at line {line} (what stands there is not repeated here)")]
    NotDotenv {
        /// The file.
        path: PathBuf,
        /// Where what is wrong begins.
        line: usize,
    },
    /// A file that is not TOML, or has something in it that is no setting's value.
    #[error("{path}, line {line}, column {column}: {what} (what stands there is not repeated here)")]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where: the line, from 1.
        line: usize,
        /// And the character of the line, from 1.
        column: usize,
        /// What is wrong there.
        what: String,
    },
    /// A value of the wrong kind.
    #[error("`{name}` cannot be what it is set to, which is not repeated here: {expected}")]
    Value {
        /// The setting.
        name: String,
        /// What it may be.
        expected: String,
    },
    /// Something else that the library for configuration does not take.
    #[error("the settings cannot be put together")]
    Other,
}

fn hint(name: &Option<String>) -> String {
    name.as_ref().map(|name| format!(": did you mean `{name}`?")).unwrap_or_default()
}

/// Loads the configuration.
///
/// # Errors
///
/// See [`Error`]; the text never contains a secret's value.
pub fn load(sources: &Sources) -> Result<Effective, Error> {
    let defaults = table(File::from_str(DEFAULTS, FileFormat::Toml))?;
    let mut suspects = Vec::new();
    let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));

    if let Some(path) = &sources.file {
        let text = files::read(path)?;
        let file = TomlFile::new(path, &text)?;
        for name in file.names() {
            known(&defaults, name, &path.display().to_string())?;
        }
        file.check_values()?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    if let Some(path) = sources.dotenv.as_deref().filter(|path| path.exists()) {
        let variables = files::dotenv(path)?;
        for (name, _) in &variables {
            let name = name.to_lowercase();
            if !defaults.contains_key(&name)
                && let Some(meant) = closest(&defaults, &name)
            {
                suspects.push((name, meant));
            }
        }
        builder = builder.add_source(variables_of(&defaults, &variables));
    }
    builder = builder.add_source(variables_of(&defaults, &sources.environment));
    for (name, _) in &sources.flags {
        known(&defaults, name, "the command line")?;
    }
    builder = builder.add_source(variables_of(&defaults, &sources.flags));

    let mut config = builder.build().map_err(invalid)?;
    for name in SECRETS {
        config = from_file(config, &defaults, name)?;
    }
    let table = config.cache.clone().into_table().map_err(invalid)?;
    let settings = config.try_deserialize().map_err(invalid)?;
    Ok(Effective { settings, suspects, table })
}

/// Puts the content of `NAME_file`, without its line end, in the place of `NAME`.
fn from_file(config: Config, defaults: &Map<String, Value>, name: &'static str) -> Result<Config, Error> {
    let path = config.get_string(&format!("{name}_file")).map_err(invalid)?;
    if path.is_empty() {
        return Ok(config);
    }
    let default = defaults.get(name).map(ToString::to_string).unwrap_or_default();
    if config.get_string(name).map_err(invalid)? != default {
        return Err(Error::TwoSources { name });
    }
    let secret = files::secret(name, Path::new(&path))?;
    Config::builder().add_source(config).set_override(name, secret).and_then(|builder| builder.build()).map_err(invalid)
}

/// Those of the variables that are settings, whether written in upper or in lower case.
fn variables_of(defaults: &Map<String, Value>, variables: &[(String, String)]) -> Environment {
    let settings: HashMap<String, String> = variables
        .iter()
        .filter(|(name, _)| *name == name.to_uppercase() || *name == name.to_lowercase())
        .map(|(name, value)| (name.to_lowercase(), value.clone()))
        .filter(|(name, _)| defaults.contains_key(name))
        .collect();
    Environment::default().source(Some(settings))
}

fn known(defaults: &Map<String, Value>, name: &str, place: &str) -> Result<(), Error> {
    if defaults.contains_key(name) {
        return Ok(());
    }
    Err(Error::Unknown { name: name.to_owned(), place: place.to_owned(), nearest: closest(defaults, name) })
}

/// The setting most like `name`, if any is like it at all.
fn closest(defaults: &Map<String, Value>, name: &str) -> Option<String> {
    defaults
        .keys()
        .map(|known| (strsim::jaro_winkler(known, &name.to_lowercase()), known))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known.clone())
}

fn table(source: File<::config::FileSourceString, FileFormat>) -> Result<Map<String, Value>, Error> {
    let config = Config::builder().add_source(source).build().map_err(invalid)?;
    config.cache.into_table().map_err(invalid)
}

/// Leaves out what the library says of values.
fn invalid(error: ConfigError) -> Error {
    match error {
        ConfigError::Type { key: Some(name), expected, .. } => {
            let expected = format!("it must be {}", expected.replace("an signed", "a signed"));
            Error::Value { name, expected }
        }
        ConfigError::At { key: Some(name), .. } => Error::Value { expected: documented(&name), name },
        _ => Error::Other,
    }
}

/// What stands before a setting in the defaults, which for those with a choice says what there is to choose from.
fn documented(name: &str) -> String {
    let is_it = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(" ="));
    let before: Vec<&str> = DEFAULTS.lines().take_while(|line| !is_it(line)).collect();
    let comment: Vec<&str> = before.iter().rev().map_while(|line| line.strip_prefix("# ")).collect();
    comment.into_iter().rev().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::config::{DatabaseTls, LogFormat};

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("it can be written");
        file
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_source_beats_the_one_before_it() {
        let toml = file("port = 1\ndatabase_port = 1\ndatabase_pool_size = 1\nhost = \"from-file\"\n");
        let dotenv = file("DATABASE_PORT=2\ndatabase_pool_size=2\nhost=from-dotenv\n");
        let loaded = load(&Sources {
            file: Some(toml.path().to_owned()),
            dotenv: Some(dotenv.path().to_owned()),
            environment: pairs(&[("DATABASE_POOL_SIZE", "3"), ("HOST", "from-environment"), ("PATH", "/bin")]),
            flags: pairs(&[("host", "from-flag")]),
        })
        .expect("it loads")
        .settings;
        assert_eq!((loaded.port, loaded.database_port, loaded.database_pool_size), (1, 2, 3));
        assert_eq!(loaded.host, "from-flag");
    }

    #[test]
    fn the_settings_of_the_python_server_work_as_they_are() {
        let dotenv = file(
            "# .env file\ndatabase_hostname=db\ndatabase_port=5433\ndatabase_user=u\ndatabase_password=p\ndatabase_name=n\n\
             api_keys=key1,key2,key3\nrate_limit_per_minute=100  # 0 = disabled\ncors_origins=https://your-app.com\n\
             cors_allow_credentials=false\ncors_allow_methods=*\ncors_allow_headers=*\n",
        );
        let loaded = load(&Sources { dotenv: Some(dotenv.path().to_owned()), ..Sources::default() }).expect("it loads").settings;
        assert_eq!((loaded.database_hostname.as_str(), loaded.database_port), ("db", 5433));
        assert_eq!(loaded.api_keys.expose_secret(), "key1,key2,key3");
        assert_eq!(loaded.rate_limit_per_minute, 100);
    }

    #[test]
    fn a_misspelt_setting_in_a_file_is_an_error_that_names_the_right_one() {
        let toml = file("databse_hostname = \"db\"\n");
        let error = load(&Sources { file: Some(toml.path().to_owned()), ..Sources::default() }).expect_err("it is refused");
        assert!(error.to_string().contains("did you mean `database_hostname`?"), "{error}");
    }

    #[test]
    fn a_misspelt_setting_in_dotenv_is_only_suspected() {
        let dotenv = file("DATABSE_HOSTNAME=db\nCOMPOSE_PROJECT=x\n");
        let loaded = load(&Sources { dotenv: Some(dotenv.path().to_owned()), ..Sources::default() }).expect("it loads");
        assert_eq!(loaded.suspects, pairs(&[("databse_hostname", "database_hostname")]));
    }

    #[test]
    fn a_secret_can_come_from_a_file_but_not_from_two_places() {
        let secret = file("s3cret\n");
        let path = secret.path().display().to_string();
        let loaded = load(&Sources { environment: pairs(&[("DATABASE_PASSWORD_FILE", &path)]), ..Sources::default() });
        assert_eq!(loaded.expect("it loads").settings.database_password.expose_secret(), "s3cret");

        let both = pairs(&[("DATABASE_PASSWORD_FILE", &path), ("DATABASE_PASSWORD", "other")]);
        let error = load(&Sources { environment: both, ..Sources::default() }).expect_err("it is refused");
        assert!(matches!(error, Error::TwoSources { name: "database_password" }), "{error}");
    }

    #[test]
    fn a_file_for_a_secret_must_have_one() {
        let load = |path: &str| load(&Sources { environment: pairs(&[("AUDIT_KEY_FILE", path)]), ..Sources::default() });
        for empty in ["", "\n", " \r\n\t\n"] {
            let empty = file(empty);
            let error = load(&empty.path().display().to_string()).expect_err("it is refused").to_string();
            assert!(error.contains("audit_key_file") && error.contains(&*empty.path().to_string_lossy()), "{error}");
        }
        let error = load("/nonexistent/key").expect_err("it is refused").to_string();
        assert!(error.starts_with("audit_key_file: cannot read /nonexistent/key: "), "{error}");
        assert_eq!(load("").expect("no file is named").settings.audit_key.expose_secret(), "");
    }

    #[test]
    fn values_of_the_wrong_kind_are_named_and_not_repeated() {
        let of_flags = |name, value| load(&Sources { flags: pairs(&[(name, value)]), ..Sources::default() });
        let of_file = |name, value| {
            let toml = file(&format!("{name} = {value}\n"));
            load(&Sources { file: Some(toml.path().to_owned()), ..Sources::default() })
        };
        for (name, expected) in [
            ("port", "integer"),
            ("database_pool_size", "integer"),
            ("lease_seconds", "integer"),
            ("retention_days", "floating point"),
            ("disable_auth", "boolean"),
            ("database_tls", "disable, prefer, require"),
            ("database_pooler", "none, or transaction"),
            ("redis_failure", "degrade"),
            ("forwarded_by", "x-forwarded-for, forwarded"),
            ("docs", "public, key"),
            ("log_format", "text or json"),
            ("audit_failure", "continue"),
        ] {
            for error in [of_flags(name, "canary"), of_file(name, "\"canary\"")] {
                let error = error.expect_err("it is refused");
                let shown = format!("{error} {error:?}");
                assert!(shown.contains(&format!("`{name}`")) && shown.contains(expected) && !shown.contains("canary"), "{name}: {shown}");
            }
        }
        let error = of_flags("port", "70000").expect_err("it is refused").to_string();
        assert!(error.contains("`port`") && error.contains("16 bit") && !error.contains("70000"), "{error}");
        let loaded = load(&Sources { flags: pairs(&[("database_tls", "verify-full"), ("log_format", "json")]), ..Sources::default() });
        let loaded = loaded.expect("it loads").settings;
        assert_eq!((loaded.database_tls, loaded.log_format), (DatabaseTls::VerifyFull, LogFormat::Json));
    }
}
