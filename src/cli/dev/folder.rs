//! The folder that keeps everything, and the lock that makes it one `whatsnext dev`'s.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context as _, anyhow, bail, ensure};

use super::account::{Account, owner};

/// Where everything is kept.
pub(super) struct Folder {
    path: PathBuf,
    /// Held as long as the folder is in use; the system gives it back however the process ends.
    _lock: File,
}

impl Folder {
    /// Makes the folder if it does not exist, and takes it for this process.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let path = made(path).map_err(|error| unusable(path, &error))?;
        let metadata = fs::metadata(&path).map_err(|error| unusable(&path, &error))?;
        ensure!(metadata.is_dir(), "{} is not a folder: move it away, or choose another one with --dir", path.display());
        ensure!(
            Account::own().owns(&metadata),
            "{} belongs to {} and not to {}: run `whatsnext dev` as that user, or choose another folder with --dir",
            path.display(),
            owner(&metadata),
            Account::own().name()
        );
        let lock = locked(&path)?;
        let folder = Self { path, _lock: lock };
        for part in [folder.logs(), folder.redis()] {
            make(&part, 0o700).map_err(|error| unusable(&part, &error))?;
        }
        folder.remove_urls();
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// PostgreSQL's data, or a symbolic link to it.
    pub(super) fn postgres(&self) -> PathBuf {
        self.path.join("postgres")
    }

    /// Redis's data.
    pub(super) fn redis(&self) -> PathBuf {
        self.path.join("redis")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(name).with_added_extension("log")
    }

    /// Lines of the form NAME=VALUE with the URLs of the stores, there while these answer.
    pub(super) fn urls(&self) -> PathBuf {
        self.path.join("stores.env")
    }

    /// A key that may do everything.
    pub(super) fn key(&self) -> PathBuf {
        self.path.join("admin-key")
    }

    /// Writes the URLs.
    pub(super) fn write_urls(&self, urls: &[(&str, String)]) -> anyhow::Result<()> {
        let text: String = urls.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        self.write(&self.urls(), &text)
    }

    /// Writes a file that only its owner may read: whoever sees it sees all of it.
    pub(super) fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        let unfinished = path.with_added_extension("unfinished");
        let written = || {
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?.write_all(text.as_bytes())?;
            fs::rename(&unfinished, path)
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }

    /// They answer no longer, or not yet.
    pub(super) fn remove_urls(&self) {
        // If it is not there, all is well; if it cannot be removed, its content tells no lie that matters.
        let _ = fs::remove_file(self.urls());
    }
}

/// Makes a folder; all is well if it is there.
pub(super) fn make(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result,
    }
}

/// The folder's absolute path, without symbolic links. A new one, or an empty one, is closed to other users. One of root's lets them pass, since PostgreSQL
/// runs as another user; what is in it is closed.
fn made(path: &Path) -> io::Result<PathBuf> {
    let path = absolute(path)?;
    if !path.exists() {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::create_dir(&path)?;
    }
    let path = path.canonicalize()?;
    if path.is_dir() && fs::read_dir(&path)?.next().is_none() {
        let mode = if Account::own().is_root() { 0o711 } else { 0o700 };
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
    }
    Ok(path)
}

fn locked(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.map_err(|error| unusable(folder, &error))?;
    match file.try_lock() {
        Ok(()) => note_process(&mut file).map_err(|error| unusable(folder, &error))?,
        Err(TryLockError::WouldBlock) => {
            let mut process = String::new();
            // It only helps to find the other one.
            let _ = file.read_to_string(&mut process);
            bail!(
                "another `whatsnext dev` (process {}) uses {}: stop it first, or choose another folder with --dir",
                process.trim(),
                folder.display()
            );
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
    Ok(file)
}

fn note_process(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn unusable(folder: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!("cannot use {} ({error}): choose a folder that you may write to with --dir", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_process_own_until_it_is_dropped() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let path = parent.path().join("new/folder");
        let first = Folder::open(&path).expect("it is made");
        let error = Folder::open(&path).err().expect("it is in use").to_string();
        assert!(error.contains("another `whatsnext dev`") && error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        Folder::open(&path).expect("it is free again");
    }

    #[test]
    fn a_folder_that_was_not_empty_keeps_its_mode() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("something"), "").expect("it is written");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o750)).expect("it is ours");
        Folder::open(folder.path()).expect("it is opened");
        assert_eq!(fs::metadata(folder.path()).expect("it is there").permissions().mode() & 0o777, 0o750);
    }

    #[test]
    fn urls_are_readable_by_their_user_only_and_go() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::open(parent.path()).expect("it is opened");
        folder.write_urls(&[("A", "1".to_owned()), ("B", "2".to_owned())]).expect("they are written");
        assert_eq!(fs::read_to_string(folder.urls()).expect("it is there"), "A=1\nB=2\n");
        assert_eq!(fs::metadata(folder.urls()).expect("it is there").permissions().mode() & 0o777, 0o600);
        folder.remove_urls();
        assert!(!folder.urls().exists());
    }
}
