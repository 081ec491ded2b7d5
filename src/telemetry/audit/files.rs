//! The files of an audit log.
//!
//! A chain's lines are in files named `audit-CHAIN.DATE.LINE.jsonl`, of the day (UTC) on which they were begun and their first line's number: a new one each
//! day. The numbers give their order, so a clock that jumps, also backwards, breaks nothing. `audit-CHAIN.lock` is locked by the process that writes the
//! chain: each takes one that is there and that nobody has. So there are as many chains as there were processes at a time, and a server that was restarted
//! goes on where one has ended. The lock also says that a line was written: a chain that has none any more is not begun anew, but found.
//!
//! A chain is named after the host on which it began and with a random number: those of several hosts, or of before and after everything was taken away, are
//! told apart wherever they are collected.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use chrono::NaiveDate;
use nix::unistd::gethostname;
use uuid::Uuid;

use super::chain::{Head, Link, Seal};

/// The longest line there is, with much to spare: a request's id has at most 128 characters.
pub(super) const LONGEST: u64 = 64 * 1024;

/// For whom files can be read: their owner, and the owner's group, for whoever collects them.
const MODE: u32 = 0o640;

/// How many characters of a host's name are in those of its chains.
const HOST: usize = 40;

/// What is in the lock of a chain that was begun.
const BEGUN: &[u8] = b"This chain was begun. If none of its files is here, they were taken away.\n";

/// A file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) chain: String,
    pub(super) date: NaiveDate,
    pub(super) first: u64,
}

impl Name {
    pub(super) fn in_folder(&self, folder: &Path) -> PathBuf {
        folder.join(format!("audit-{}.{}.{:012}.jsonl", self.chain, self.date, self.first))
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.split('.');
        let (chain, date, first) = (parts.next()?, parts.next()?, parts.next()?);
        (parts.next().is_none() && is_chain(chain)).then_some(())?;
        Some(Self { chain: chain.to_owned(), date: date.parse().ok()?, first: first.parse().ok()? })
    }
}

fn is_chain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// The files in a folder, for each chain in the order of their lines.
pub(super) fn list(folder: &Path) -> io::Result<BTreeMap<String, Vec<Name>>> {
    let mut chains: BTreeMap<String, Vec<Name>> = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        if let Some(name) = entry?.file_name().to_str().and_then(Name::parse) {
            chains.entry(name.chain.clone()).or_default().push(name);
        }
    }
    for files in chains.values_mut() {
        files.sort_by_key(|name| (name.first, name.date));
    }
    Ok(chains)
}

/// The chains in a folder that have a lock.
fn locks(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut chains = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let chain = name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".lock"));
        chains.extend(chain.filter(|chain| is_chain(chain)).map(ToOwned::to_owned));
    }
    Ok(chains)
}

/// The chains in a folder that were begun and of which nothing is left.
pub(super) fn taken_away(folder: &Path) -> io::Result<Vec<String>> {
    // Before the files: one may be begun meanwhile.
    let begun: Vec<String> = locks(folder)?.into_iter().filter(|chain| is_begun(folder, chain)).collect();
    let files = list(folder)?;
    Ok(begun.into_iter().filter(|chain| !files.contains_key(chain)).collect())
}

/// Whether a line of a chain was ever written, as its lock says.
pub(super) fn is_begun(folder: &Path, chain: &str) -> bool {
    fs::metadata(lock_file(folder, chain)).is_ok_and(|lock| lock.len() > 0)
}

/// Whether a file begins with a line of its chain, whole, with the number in its name.
pub(super) fn begins_as_named(folder: &Path, name: &Name, seal: &Seal) -> bool {
    let first = || {
        let mut line = Vec::new();
        let file = open(&name.in_folder(folder), OpenOptions::new().read(true)).ok()?;
        BufReader::new(file.take(LONGEST)).read_until(b'\n', &mut line).ok()?;
        Link::parse(line.strip_suffix(b"\n")?, seal)
    };
    first().is_some_and(|link| link.is_whole && link.chain == name.chain && link.line == name.first)
}

/// A new chain's name.
fn new_name(seal: &Seal) -> String {
    let host = gethostname().unwrap_or_default();
    let host: String = host.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(HOST).collect();
    format!("{}{host}_{}", seal.prefix(), &Uuid::new_v4().simple().to_string()[..8])
}

/// A chain that this process alone writes.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) chain: String,
    pub(super) head: Head,
    /// The file that was written last, if there is one.
    pub(super) last: Option<Name>,
    /// How many bytes at its end were cut off, since they were no whole line.
    pub(super) torn_bytes: u64,
    lock: File,
}

impl Place {
    /// Makes the folder if it is not there, and takes a chain that nobody else has and that can be continued, or begins one.
    pub(super) fn take(folder: &Path, seal: &Seal) -> io::Result<Self> {
        make_folder(folder)?;
        let chains: BTreeSet<String> = list(folder)?.into_keys().chain(locks(folder)?).collect();
        for chain in chains.into_iter().filter(|chain| seal.is_of(chain)) {
            if let Some(place) = Self::go_on(folder, seal, &chain)? {
                return Ok(place);
            }
        }
        loop {
            let chain = new_name(seal);
            let lock = open(&lock_file(folder, &chain), OpenOptions::new().write(true).create_new(true))?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { chain, head: Head::NONE, last: None, torn_bytes: 0, lock }),
                // Another process has found it in this moment and goes on with it.
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Takes this chain if nobody else has it and it can be continued.
    fn go_on(folder: &Path, seal: &Seal, chain: &str) -> io::Result<Option<Self>> {
        let path = lock_file(folder, chain);
        let lock = match open(&path, OpenOptions::new().write(true).create(true).truncate(false)) {
            // Somebody else's, as one that root made.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.exists() => return Ok(None),
            lock => lock?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let is_begun = lock.metadata()?.len() > 0;
        match Self::resume(folder, seal, chain, lock) {
            Ok(Self { last: None, .. }) if is_begun => {
                tracing::error!(chain, lock = %path.display(), "all files of a chain of the audit log were taken away: another one is used");
                Ok(None)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied) => {
                tracing::error!(%error, chain, "a chain of the audit log cannot be continued: another one is used. See `whatsnext audit verify`");
                Ok(None)
            }
            place => place.map(Some),
        }
    }

    /// Says in the lock that there are lines.
    pub(super) fn say_begun(&mut self) -> io::Result<()> {
        if self.lock.metadata()?.len() == 0 {
            self.lock.write_all(BEGUN)?;
        }
        Ok(())
    }

    fn resume(folder: &Path, seal: &Seal, chain: &str, lock: File) -> io::Result<Self> {
        let files = list(folder)?.remove(chain).unwrap_or_default();
        let mut place = Self { chain: chain.to_owned(), head: Head::NONE, last: None, torn_bytes: 0, lock };
        for name in files.into_iter().rev() {
            let mut file = open(&name.in_folder(folder), OpenOptions::new().read(true).write(true))?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "what should be a file of an audit log is none"));
            }
            let length = metadata.len();
            let tail = tail(&mut file, length)?;
            let end = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let torn = (tail.len() - end) as u64;
            let line = tail[..end].strip_suffix(b"\n").map(|lines| lines.rsplit(|byte| *byte == b'\n').next().unwrap_or_default());
            let link = line.map(|line| {
                let link = Link::parse(line, seal).filter(|link| link.chain == chain);
                link.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the last line is none of an audit log"))
            });
            // Nothing is cut off before it is known what from.
            let link = link.transpose()?;
            if torn > 0 {
                file.set_len(length - torn)?;
                place.torn_bytes += torn;
            }
            let Some(link) = link else { continue };
            place.head = Head { line: link.line, hash: link.hash };
            place.last = Some(name);
            return Ok(place);
        }
        Ok(place)
    }
}

/// Makes the folder if it is not there.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)
}

/// The end of a file, in which there is at least one whole line, if there is any in it.
fn tail(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(length.saturating_sub(2 * LONGEST)))?;
    let mut tail = Vec::new();
    file.take(2 * LONGEST).read_to_end(&mut tail)?;
    Ok(tail)
}

/// Opens a file to which lines are added. Returns it with its length.
pub(super) fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let file = open(path, OpenOptions::new().append(true).create(true))?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// Whether some process writes a chain now.
pub(super) fn is_being_written(folder: &Path, chain: &str) -> bool {
    let lock = File::open(lock_file(folder, chain));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

pub(super) fn lock_file(folder: &Path, chain: &str) -> PathBuf {
    folder.join(format!("audit-{chain}.lock"))
}

/// Follows no symbolic link: whoever can make one in the folder would choose what is written to.
fn open(path: &Path, how: &mut OpenOptions) -> io::Result<File> {
    how.mode(MODE).custom_flags(nix::libc::O_NOFOLLOW).open(path)
}
