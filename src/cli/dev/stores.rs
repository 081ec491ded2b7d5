//! How to reach the two stores, as URLs and as settings.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::{
    config::{self, Settings, Sources},
    postgres::{Database, create_database, migrate},
};

/// PostgreSQL's port: a part of its socket's name, and otherwise of no meaning.
pub(super) const PORT: u16 = 5432;

/// PostgreSQL's superuser.
pub(super) const USER: &str = "postgres";

/// The database that every PostgreSQL has, to connect to when another one is to be made.
const MAINTENANCE: &str = "postgres";

/// WhatsNext's database.
pub(super) const DATABASE: &str = "whatsnext";

/// What stands for itself in a URL's host.
const HOST: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// And in its path.
const PATH: &AsciiSet = &HOST.remove(b'/');

/// The two stores, which listen on Unix sockets.
pub(super) struct Stores {
    /// The folder of PostgreSQL's socket.
    pub(super) database: PathBuf,
    /// Redis's socket.
    pub(super) redis: PathBuf,
}

impl Stores {
    /// The URLs under the names of their settings. They have no characters that a shell would take for something else.
    pub(super) fn urls(&self) -> [(&'static str, String); 3] {
        [
            ("DATABASE_URL", database_url(&self.database, DATABASE)),
            ("ADMIN_DATABASE_URL", database_url(&self.database, MAINTENANCE)),
            ("REDIS_URL", redis_url(&self.redis)),
        ]
    }

    /// The settings of a server, all that say which stores to use among them: whatever else is set, it cannot lead a server to other ones.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let settings = [
            ("database_url", database_url(&self.database, DATABASE)),
            ("database_url_file", String::new()),
            ("database_password", String::new()),
            ("database_password_file", String::new()),
            ("redis_url", redis_url(&self.redis)),
            ("redis_url_file", String::new()),
        ];
        settings.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// What a server has for its settings.
    pub(super) fn server_settings(&self) -> anyhow::Result<Settings> {
        load(self.settings())
    }

    /// Makes WhatsNext's database if it is not there.
    pub(super) async fn create_database(&self) -> anyhow::Result<()> {
        let database = Database::new(&maintenance(&self.database)?)?;
        create_database(&database).await.context("cannot make the database")
    }

    /// Brings the schema up to date.
    pub(super) async fn migrate(&self) -> anyhow::Result<()> {
        migrate::run(&self.server_settings()?, migrate::Patience::default())
            .await
            .context("cannot bring the database's schema up to date")
            .map(drop)
    }
}

/// The settings with which PostgreSQL's maintenance database is reached.
pub(super) fn maintenance(sockets: &Path) -> anyhow::Result<Settings> {
    load(vec![("database_url".to_owned(), database_url(sockets, MAINTENANCE)), ("database_pool_size".to_owned(), "1".to_owned())])
}

/// The settings with which Redis is reached.
pub(super) fn redis(socket: &Path) -> anyhow::Result<Settings> {
    load(vec![("redis_url".to_owned(), redis_url(socket))])
}

fn load(flags: Vec<(String, String)>) -> anyhow::Result<Settings> {
    Ok(config::load(&Sources { flags, ..Sources::default() })?.settings)
}

fn database_url(sockets: &Path, name: &str) -> String {
    format!("postgres://{USER}@{}:{PORT}/{name}", percent_encode(sockets.as_os_str().as_bytes(), HOST))
}

fn redis_url(socket: &Path) -> String {
    format!("redis+unix://{}", percent_encode(socket.as_os_str().as_bytes(), PATH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_urls_hold_any_path_and_nothing_that_a_shell_would_change() {
        let stores = Stores { database: PathBuf::from("/a b/$c'd"), redis: PathBuf::from("/a b/#%?/redis.sock") };
        let urls = stores.urls().map(|(_, url)| url);
        assert_eq!(urls[0], "postgres://postgres@%2Fa%20b%2F%24c%27d:5432/whatsnext");
        assert_eq!(urls[2], "redis+unix:///a%20b/%23%25%3F/redis.sock");
    }

    #[test]
    fn every_setting_is_one() {
        let stores = Stores { database: PathBuf::from("/a"), redis: PathBuf::from("/b") };
        load(stores.settings()).expect("they are known");
    }
}
