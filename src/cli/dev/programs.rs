//! Finds PostgreSQL and Redis on this machine.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tokio::process::Command;

/// Where Debian, and what follows it, keeps PostgreSQL's programs, a folder for each version: they are not in PATH.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Redis's server. Valkey is what some distributions have in its place.
const REDIS: [&str; 2] = ["redis-server", "valkey-server"];

/// The programs that were found.
pub(super) struct Programs {
    /// At least one.
    postgres: Vec<Postgres>,
    /// The Redis server.
    pub(super) redis: PathBuf,
}

/// One version of PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Postgres {
    /// As in 15; data made by one cannot be used by another.
    pub(super) major: u32,
    folder: PathBuf,
}

/// What the machine lacks.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot find {missing}: install PostgreSQL and Redis (Debian and Ubuntu: `apt-get install postgresql redis-server`, Fedora: `dnf install \
     postgresql-server redis`, Alpine: `apk add postgresql redis`, macOS: `brew install postgresql redis`), or put their programs in PATH"
)]
pub(super) struct Missing {
    missing: String,
}

impl Programs {
    /// Looks in PATH, and for PostgreSQL also where Debian keeps it.
    ///
    /// # Errors
    ///
    /// [`Missing`] if one of them is not there.
    pub(super) async fn find() -> Result<Self, Missing> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
        let postgres = installations(folders.iter().cloned().chain(versions(Path::new(DEBIAN)))).await;
        let redis = REDIS.iter().find_map(|name| folders.iter().map(|folder| folder.join(name)).find(|file| is_program(file)));
        match (postgres.is_empty(), redis) {
            (false, Some(redis)) => Ok(Self { postgres, redis }),
            (true, Some(_)) => Err(missing(&format!("PostgreSQL's `postgres` and `initdb` in PATH or {DEBIAN}/*/bin"))),
            (false, None) => Err(missing("`redis-server` in PATH")),
            (true, None) => {
                Err(missing(&format!("PostgreSQL's `postgres` and `initdb` in PATH or {DEBIAN}/*/bin, nor `redis-server` in PATH")))
            }
        }
    }

    /// The newest PostgreSQL.
    pub(super) fn newest_postgres(&self) -> &Postgres {
        self.postgres.iter().max_by_key(|postgres| postgres.major).expect("at least one was found")
    }

    /// The PostgreSQL that can use data of this version.
    pub(super) fn postgres(&self, major: u32) -> Option<&Postgres> {
        self.postgres.iter().find(|postgres| postgres.major == major)
    }
}

impl Postgres {
    pub(super) fn server(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    /// None if the folder does not have both programs.
    async fn in_folder(folder: PathBuf) -> Option<Self> {
        let mut found = Self { major: 0, folder };
        if !is_program(&found.server()) || !is_program(&found.initdb()) {
            return None;
        }
        let output = Command::new(found.server()).arg("--version").output().await.ok()?;
        found.major = major(&String::from_utf8_lossy(&output.stdout))?;
        Some(found)
    }
}

fn missing(what: &str) -> Missing {
    Missing { missing: what.to_owned() }
}

async fn installations(folders: impl Iterator<Item = PathBuf>) -> Vec<Postgres> {
    let mut found = Vec::new();
    for folder in folders {
        found.extend(Postgres::in_folder(folder).await);
    }
    found
}

fn versions(parent: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(parent).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path().join("bin")))
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// From `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`, or `17beta1`: 15, or 17.
fn major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 17beta1"), Some(17));
        assert_eq!(major("something else"), None);
    }

    #[test]
    fn data_is_used_by_its_own_version_and_made_by_the_newest() {
        let version = |major| Postgres { major, folder: PathBuf::new() };
        let programs = Programs { postgres: vec![version(14), version(17), version(15)], redis: PathBuf::new() };
        assert_eq!(programs.newest_postgres().major, 17);
        assert_eq!(programs.postgres(15), Some(&version(15)));
        assert_eq!(programs.postgres(16), None);
    }
}
