//! PostgreSQL: its data folder, and the server on it.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use uuid::Uuid;

use super::{
    account::{Account, owner},
    folder::{Folder, make},
    process::{Processes, Program, until, until_ready},
    programs::{self, Programs},
    report::say,
    sockets,
    stores::{PORT, USER, maintenance},
};
use crate::postgres::Database;

const NAME: &str = "PostgreSQL";

/// Long enough to recover from a crash.
const START: Duration = Duration::from_secs(120);

/// What a server that was left over may take to end.
const LEFT_OVER: Duration = Duration::from_secs(10);

/// SIGINT ends connections and stops ("fast"), SIGQUIT stops at once and recovers at the next start ("immediate").
const ENDING: &[(Signal, Duration)] = &[(Signal::SIGINT, Duration::from_secs(30)), (Signal::SIGQUIT, Duration::from_secs(5))];

/// Settings of the server. It is on Unix sockets only.
const SETTINGS: [&str; 5] =
    ["listen_addresses=", "unix_socket_permissions=0700", "max_connections=200", "shared_buffers=256MB", "logging_collector=off"];

/// Where root keeps data that PostgreSQL's account could not reach, the best first.
const ELSEWHERE: [&str; 2] = ["/var/lib/whatsnext-dev", "/var/tmp/whatsnext-dev"];

/// A data folder, and the PostgreSQL that can use it.
pub(super) struct Data {
    /// Without symbolic links.
    path: PathBuf,
    programs: programs::Postgres,
    is_elsewhere: bool,
}

impl Data {
    /// Finds the data of an earlier run, or makes an empty data folder.
    pub(super) async fn open(folder: &Folder, programs: &Programs, account: Account, processes: &mut Processes) -> anyhow::Result<Self> {
        if fs::symlink_metadata(folder.postgres()).is_err() {
            say("Making a database (only the first time).");
            create(folder, programs.newest_postgres(), account, processes).await?;
        }
        let data = Self::existing(&folder.postgres(), programs, account)?;
        data.wait_for_left_over().await?;
        Ok(data)
    }

    fn existing(link: &Path, programs: &Programs, account: Account) -> anyhow::Result<Self> {
        let shown = link.display();
        let Ok(path) = link.canonicalize() else {
            bail!("{shown} points to data that is not there: delete {shown} to begin with an empty database");
        };
        let Ok(version) = fs::read_to_string(path.join("PG_VERSION")) else {
            bail!("{shown} is not a data folder of PostgreSQL (it has no PG_VERSION): move it away, or choose another folder with --dir");
        };
        let metadata = fs::metadata(&path).with_context(|| format!("cannot look at {shown}"))?;
        ensure!(
            account.owns(&metadata) && metadata.mode() & 0o700 == 0o700,
            "{shown} cannot be used by {}, whom PostgreSQL runs as: it belongs to {} and has mode {:04o}, so give it to {0} with mode 0700, \
             or choose another folder with --dir",
            account.name(),
            owner(&metadata),
            metadata.mode() & 0o7777
        );
        let version = version.trim();
        let Some(programs) = version.parse().ok().and_then(|major| programs.postgres(major)) else {
            bail!(
                "{shown} was made by PostgreSQL {version}, and what is installed is PostgreSQL {}: install PostgreSQL {version} beside it, \
                 or choose another folder with --dir to begin with an empty database",
                programs.newest_postgres().major
            );
        };
        Ok(Self { is_elsewhere: path != link, path, programs: programs.clone() })
    }

    /// Where the data is, if that is not in the folder itself.
    pub(super) fn elsewhere(&self) -> Option<&Path> {
        self.is_elsewhere.then_some(&self.path)
    }

    /// Starts the server, waits until it answers, and returns the folder of its socket.
    pub(super) async fn start(&self, folder: &Folder, account: Account, processes: &mut Processes) -> anyhow::Result<PathBuf> {
        let sockets = sockets::folder(&self.path, account, &format!(".s.PGSQL.{PORT}"))?;
        let log = folder.log("postgres");
        say(&format!("Starting PostgreSQL {}.", self.programs.major));
        let mut arguments = vec!["-D".into(), self.path.clone().into(), "-p".into(), PORT.to_string().into()];
        let settings = SETTINGS.map(OsString::from).into_iter().chain([sockets_setting(&sockets)]);
        arguments.extend(settings.flat_map(|setting| ["-c".into(), setting]));
        let program = Program {
            name: NAME.to_owned(),
            file: &self.programs.server(),
            arguments,
            environment: Vec::new(),
            // One that its account can certainly be in.
            folder: &self.path,
            account,
            log: log.clone(),
            ending: ENDING,
        };
        processes.start(&[program])?;
        let database = Database::new(&maintenance(&sockets)?)?;
        until_ready(NAME, &log, START, async || database.ping().await.is_ok()).await?;
        Ok(sockets)
    }

    /// A server of a `whatsnext dev` that was killed may still be ending. And the file in which it noted its process id may be left: PostgreSQL would take
    /// any process with that id for it.
    async fn wait_for_left_over(&self) -> anyhow::Result<()> {
        let file = self.path.join("postmaster.pid");
        let Some(process) = noted_process(&file) else { return Ok(()) };
        if !until(LEFT_OVER, async || !file.exists() || !is_alive(process) || self.is_certainly_not(process)).await {
            bail!("a PostgreSQL (process {process}) still runs on {}: stop it with `kill -INT {process}`", self.path.display());
        }
        if file.exists() && is_alive(process) {
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        Ok(())
    }

    /// Whether a process is something other than a server on this data. Such a server works in its data folder.
    fn is_certainly_not(&self, process: Pid) -> bool {
        fs::read_link(format!("/proc/{process}/cwd")).is_ok_and(|folder| folder != self.path)
    }
}

fn noted_process(file: &Path) -> Option<Pid> {
    let process = fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok()?;
    (process > 0).then_some(Pid::from_raw(process))
}

fn is_alive(process: Pid) -> bool {
    kill(process, None) != Err(Errno::ESRCH)
}

/// A list of one folder, quoted since commas and spaces mean something in it.
fn sockets_setting(folder: &Path) -> OsString {
    let mut setting = OsString::from("unix_socket_directories=\"");
    setting.push(folder);
    setting.push("\"");
    setting
}

/// Makes a data folder. It gets its place when it is whole, so that one which was interrupted is never taken for one.
async fn create(folder: &Folder, programs: &programs::Postgres, account: Account, processes: &mut Processes) -> anyhow::Result<()> {
    let place = folder.postgres();
    let unfinished = place.with_added_extension("unfinished");
    let failed = || format!("cannot make {}", unfinished.display());
    remove_unfinished(&unfinished).with_context(failed)?;
    let data = if account.reaches(folder.path()) { unfinished.clone() } else { new_elsewhere()? };
    if data != unfinished {
        symlink(&data, &unfinished).with_context(failed)?;
    }
    make(&data, 0o700).with_context(failed)?;
    account.take(&data)?;
    initdb(folder, programs, account, &data, processes).await?;
    fs::rename(&unfinished, &place).with_context(|| format!("cannot make {}", place.display()))
}

/// Removes what an interrupted run left.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    if let Ok(data) = fs::read_link(path) {
        if data.parent().is_some_and(|parent| ELSEWHERE.iter().any(|known| Path::new(known) == parent)) && data.exists() {
            fs::remove_dir_all(data)?;
        }
        return fs::remove_file(path);
    }
    if path.exists() { fs::remove_dir_all(path) } else { Ok(()) }
}

/// Everybody who can reach the socket may come in, and only through it. The folder of the socket lets nobody else in.
async fn initdb(
    folder: &Folder,
    programs: &programs::Postgres,
    account: Account,
    data: &Path,
    processes: &mut Processes,
) -> anyhow::Result<()> {
    // C.UTF-8 sorts like C and knows letters beyond ASCII; elsewhere than on Linux it may not exist.
    let locale = if cfg!(target_os = "linux") { "C.UTF-8" } else { "C" };
    let arguments = ["--username", USER, "--encoding", "UTF8", "--locale", locale, "--auth-local=trust", "--auth-host=reject", "-D"];
    let program = Program {
        name: "initdb".to_owned(),
        file: &programs.initdb(),
        arguments: arguments.map(OsString::from).into_iter().chain([data.into()]).collect(),
        environment: Vec::new(),
        folder: data,
        account,
        log: folder.log("initdb"),
        ending: ENDING,
    };
    processes.run(&program).await
}

/// The path for data that is kept elsewhere. It never comes up twice: data of a folder that was deleted must not turn up in a new one at the same place.
fn new_elsewhere() -> anyhow::Result<PathBuf> {
    let parent = ELSEWHERE.map(PathBuf::from).into_iter().find(|parent| make(parent, 0o711).is_ok() && is_roots(parent));
    let parent = parent.with_context(|| format!("cannot make {} or {}", ELSEWHERE[0], ELSEWHERE[1]))?;
    Ok(parent.join(Uuid::now_v7().to_string()))
}

/// Whether nobody but root can have put something there.
fn is_roots(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_dir() && Account::own().owns(&metadata) && metadata.mode() & 0o022 == 0)
}
