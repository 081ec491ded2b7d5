//! Where a Unix socket can be. Its whole path must fit into some hundred bytes, and not every file system takes one.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::{fs::MetadataExt as _, net::UnixListener},
    path::{Path, PathBuf},
};

use anyhow::bail;

use super::{account::Account, folder::make};

/// A folder for the sockets of the account's program, best the one with its data, otherwise a short one that belongs to the account alone.
///
/// Nobody else may come in, because who reaches the sockets needs no password.
pub(super) fn folder(data: &Path, account: Account, file_name: &str) -> anyhow::Result<PathBuf> {
    if takes_sockets(data, file_name) {
        return Ok(data.to_owned());
    }
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    let name = format!("whatsnext-{:016x}", hasher.finish());
    let places = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).into_iter().chain([env::temp_dir(), PathBuf::from("/tmp")]);
    for place in places.filter_map(|place| place.canonicalize().ok()).filter(|place| account.reaches(place)) {
        let folder = place.join(&name);
        if is_private(&folder, account) && takes_sockets(&folder, file_name) {
            return Ok(folder);
        }
    }
    bail!(
        "the path {} is too long for a Unix socket, and no shorter folder can be made in XDG_RUNTIME_DIR or the temporary folder: \
         choose a folder with a shorter path with --dir",
        data.display()
    )
}

/// Whether a folder is there, made if need be, that belongs to the account and lets nobody else in.
fn is_private(folder: &Path, account: Account) -> bool {
    let is_new = fs::symlink_metadata(folder).is_err();
    if make(folder, 0o700).is_err() || is_new && account.take(folder).is_err() {
        return false;
    }
    fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_dir() && account.owns(&metadata) && metadata.mode() & 0o077 == 0)
}

/// Tries it, with a name as long as the socket's.
fn takes_sockets(folder: &Path, file_name: &str) -> bool {
    let trial = folder.join("_".repeat(file_name.len()));
    // One may be left of a process that was killed here.
    let _ = fs::remove_file(&trial);
    let taken = UnixListener::bind(&trial).is_ok();
    let _ = fs::remove_file(&trial);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_path_takes_its_own_sockets() {
        let data = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(folder(data.path(), Account::own(), "redis.sock").expect("there is one"), data.path());
    }

    #[test]
    fn a_long_path_gets_a_short_folder_that_is_private_and_always_the_same() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let data = parent.path().join("long".repeat(30));
        fs::create_dir(&data).expect("it is made");
        let short = folder(&data, Account::own(), "redis.sock").expect("there is one");
        assert!(short.as_os_str().len() < 60, "{}", short.display());
        assert_eq!(fs::metadata(&short).expect("it is there").mode() & 0o777, 0o700);
        assert_eq!(folder(&data, Account::own(), "redis.sock").expect("there is one"), short);
        fs::remove_dir(&short).expect("it is empty");
    }
}
