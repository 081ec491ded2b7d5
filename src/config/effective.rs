//! What was loaded, to be shown and compared.

use std::fmt;

use ::config::{Map, Value};

use super::Settings;

/// Settings that must never be shown. Each can come from a file named by `NAME_file` instead.
pub(super) const SECRETS: [&str; 5] = ["database_password", "database_url", "redis_url", "api_keys", "audit_key"];

/// What was loaded: the settings, and the table they were made of (for `serve --check`).
pub struct Effective {
    /// The settings.
    pub settings: Settings,
    /// Names in `.env` that look like misspelt settings, with what was probably meant. Other programs read that file too, so they are no error.
    pub suspects: Vec<(String, String)>,
    pub(super) table: Map<String, Value>,
}

impl Effective {
    /// The names of the settings that are something else in `other`, in the order of the alphabet. A secret that comes from a file is compared by what was
    /// in the file.
    pub fn differing<'a>(&'a self, other: &Self) -> Vec<&'a str> {
        let is_file_of_secret = |name: &str| name.strip_suffix("_file").is_some_and(|name| SECRETS.contains(&name));
        let is_other = |(name, value): &(&String, &Value)| other.table.get(*name).map(ToString::to_string) != Some(value.to_string());
        let names = self.table.iter().filter(is_other).map(|(name, _)| name.as_str()).filter(|name| !is_file_of_secret(name));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names
    }
}

/// The settings as TOML, secrets masked.
impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.table.keys().collect();
        names.sort();
        for name in names {
            let value = self.table[name].to_string();
            if SECRETS.contains(&name.as_str()) {
                writeln!(f, "{name} = {:?}", masked(name, &value))?;
            } else if value.parse::<f64>().is_ok() || value == "true" || value == "false" {
                writeln!(f, "{name} = {value}")?;
            } else {
                writeln!(f, "{name} = {value:?}")?;
            }
        }
        Ok(())
    }
}

/// As it is displayed: the table has the secrets in it.
impl fmt::Debug for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whether a setting's value must not be seen by others. A URL without a password is none.
pub fn is_secret(name: &str, value: &str) -> bool {
    SECRETS.contains(&name) && masked(name, value) != value
}

/// A URL keeps what an operator needs to recognise it; anything else is hidden whole.
fn masked(name: &str, value: &str) -> String {
    const MASK: &str = "********";
    // Several hosts make no URL: the first goes before the others.
    let Some((first, others)) = split_hosts(value) else { return MASK.to_owned() };
    match url::Url::parse(&first) {
        _ if value.is_empty() => String::new(),
        Ok(mut url) if name.ends_with("_url") && url.has_host() => {
            if url.password().is_some() && url.set_password(Some(MASK)).is_err() {
                return MASK.to_owned();
            }
            url.set_query(None);
            let end = url[..url::Position::AfterPort].len();
            let mut shown = url.to_string();
            shown.insert_str(end, others);
            shown
        }
        _ => MASK.to_owned(),
    }
}

/// A URL with the first of its hosts only, and the others: `redis+cluster://u:p@a:1/x` and `,b:2` of `redis+cluster://u:p@a:1,b:2/x`. Nothing if there
/// is any doubt what is a host and what may be of a password.
fn split_hosts(url: &str) -> Option<(String, &str)> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let hosts = url.rfind('@').map_or(start, |at| at + 1);
    let end = url[hosts..].find(['/', '?', '#']).map_or(url.len(), |at| hosts + at);
    let comma = url[hosts..end].find(',').map_or(end, |at| hosts + at);
    let is_clear = url[comma..end].chars().all(|c| c.is_ascii_alphanumeric() || "-_.:[], ".contains(c));
    let is_clear = is_clear && !url.get(start..hosts)?.contains(['/', '?', '#']);
    is_clear.then(|| (format!("{}{}", &url[..comma], &url[end..]), &url[comma..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn loaded(flags: &[(&str, &str)]) -> Effective {
        let flags = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(&Sources { flags, ..Sources::default() }).expect("it loads")
    }

    #[test]
    fn settings_that_differ_are_named_and_their_values_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("it is written");
            path.display().to_string()
        };
        let one = file("one", "canary");
        let before = loaded(&[("audit_key_file", &one), ("port", "8000")]);
        assert_eq!(loaded(&[("audit_key_file", &file("two", "canary\n"))]).differing(&before), Vec::<&str>::new(), "the same elsewhere");
        let after = loaded(&[("audit_key_file", &file("one", "another canary")), ("port", "8001"), ("docs", "off"), ("host", "127.0.0.1")]);
        assert_eq!(after.differing(&before), ["audit_key", "docs", "port"]);
    }

    #[test]
    fn secrets_are_masked_when_shown() {
        let loaded = loaded(&[
            ("database_password", "canary-1"),
            ("database_url", "postgres://user:canary-2@db:5432/whatsnext"),
            ("redis_url", "redis://:canary-3@cache:6379/0"),
            ("api_keys", "canary-4"),
        ]);
        let shown = loaded.to_string();
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("db:5432/whatsnext") && shown.contains("cache:6379"), "{shown}");
        assert!(!format!("{:?} {loaded:?}", loaded.settings).contains("canary"));
    }

    #[test]
    fn a_url_without_a_password_is_no_secret() {
        assert!(is_secret("database_password", "x") && is_secret("api_keys", "x") && is_secret("audit_key", "x"));
        assert!(is_secret("redis_url", "redis://:x@cache/0") && is_secret("database_url", "postgres://u:x@db/whatsnext"));
        assert!(!is_secret("redis_url", "redis://cache:6379/0") && !is_secret("port", "1") && !is_secret("database_password", ""));
    }

    #[test]
    fn the_password_of_several_hosts_is_masked_too() {
        assert_eq!(masked("redis_url", "redis+cluster://u:canary@a:1,b,[::1]:3"), "redis+cluster://u:********@a:1,b,[::1]:3");
        let sentinels = "rediss+sentinel://:canary@a,b:2/m/0?sentinel_password=canary";
        assert_eq!(masked("redis_url", sentinels), "rediss+sentinel://:********@a,b:2/m/0");
        assert_eq!(masked("redis_url", "redis+cluster://a:1,b:2"), "redis+cluster://a:1,b:2");
        for odd in [
            "redis+cluster://u:can/ary@a,b",
            "redis+cluster://u:c@nary/1,2@a,b",
            "redis+cluster://u:canary,a",
            "redis+cluster://u:can?ary@a,b",
        ] {
            let shown = masked("redis_url", odd);
            assert!(!shown.contains("can") && !shown.contains("nary"), "{shown}");
        }
    }
}
