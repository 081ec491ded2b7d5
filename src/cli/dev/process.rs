//! Programs as children of `whatsnext dev`: each with a log, in a process group of its own (so that Ctrl-C reaches only `whatsnext dev`, which stops them in
//! order), and tied to the life of `whatsnext dev` by [`super::tether`].

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::account::Account;

/// How often something is asked that cannot be waited for.
const INTERVAL: Duration = Duration::from_millis(25);

/// How much of a log's end is shown, in lines, and read, in bytes.
const TAIL: usize = 12;
const TAIL_BYTES: u64 = 8 * 1024;

/// A program to be started.
pub(super) struct Program<'a> {
    /// As the user is told of it.
    pub(super) name: String,
    /// The file.
    pub(super) file: &'a Path,
    /// What it is given.
    pub(super) arguments: Vec<OsString>,
    /// What is different in its environment: variables that are set, or not there.
    pub(super) environment: Vec<(String, Option<String>)>,
    /// The folder that it works in.
    pub(super) folder: &'a Path,
    /// Whom it runs as.
    pub(super) account: Account,
    /// Where its output goes.
    pub(super) log: PathBuf,
    /// What asks it to end, and how long it may take before the next one is sent. The first is also sent when `whatsnext dev` dies.
    pub(super) ending: &'static [(Signal, Duration)],
}

impl Program<'_> {
    fn command(&self, me: &Path) -> anyhow::Result<Command> {
        let signal = self.ending.first().map_or(Signal::SIGTERM, |(signal, _)| *signal);
        let log = new_log(&self.log).with_context(|| format!("cannot write the log {}", self.log.display()))?;
        let mut command = Command::new(me);
        command.args(["tether", "--parent", &std::process::id().to_string(), "--signal", signal.as_str()]);
        if let Some((user, group)) = self.account.to_become() {
            command.args(["--user", &user.to_string(), "--group", &group.to_string()]);
        }
        command.arg("--").arg(self.file).args(&self.arguments).current_dir(self.folder).process_group(0);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let errors = log.try_clone().with_context(|| format!("cannot write the log {}", self.log.display()))?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        Ok(command)
    }

    fn spawn(&self, me: &Path) -> anyhow::Result<Watched> {
        let child = self.command(me)?.spawn().with_context(|| format!("cannot start {}", self.name))?;
        Ok(Watched { child, ending: self.ending })
    }
}

/// This program's own file.
pub(super) fn me() -> anyhow::Result<PathBuf> {
    env::current_exe().context("cannot find the program's own file")
}

/// What a log held before is kept, once, beside it.
fn new_log(path: &Path) -> io::Result<File> {
    if path.exists() {
        fs::rename(path, path.with_extension("previous.log"))?;
    }
    File::create(path)
}

/// The end of a log, as the end of a sentence.
fn tail(log: &Path) -> String {
    let text = last_bytes(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    match &lines[lines.len().saturating_sub(TAIL)..] {
        [] => format!("its log {} is empty", log.display()),
        lines => format!("the last lines of {}:\n  {}", log.display(), lines.join("\n  ")),
    }
}

/// A log may be long.
fn last_bytes(log: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A program that should have run on.
#[derive(Debug, thiserror::Error)]
#[error("{name} ended by itself ({status}), so all of it was stopped; {}", tail(log))]
pub(super) struct Death {
    name: String,
    status: ExitStatus,
    log: PathBuf,
}

/// All that was started, in stages: what is in a later one needs what is in the earlier ones.
pub(super) struct Processes {
    me: PathBuf,
    stages: Vec<Stage>,
    deaths: mpsc::UnboundedSender<Death>,
}

/// Programs that may be stopped together: each has a task that waits for it.
#[derive(Clone, Default)]
struct Stage {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Processes {
    /// None yet. The receiver gets every program that ends without having been told to.
    pub(super) fn new() -> anyhow::Result<(Self, mpsc::UnboundedReceiver<Death>)> {
        let (deaths, receiver) = mpsc::unbounded_channel();
        Ok((Self { me: me()?, stages: Vec::new(), deaths }, receiver))
    }

    /// Starts a stage.
    ///
    /// Must be called on the thread that `main` runs on: for Linux a child's parent is the thread that started it, and one that ends takes the child along.
    pub(super) fn start(&mut self, programs: &[Program<'_>]) -> anyhow::Result<()> {
        let stage = self.new_stage();
        for program in programs {
            let (child, stop, deaths) = (program.spawn(&self.me)?, stage.stop.clone(), self.deaths.clone());
            let (name, log) = (program.name.clone(), program.log.clone());
            stage.tasks.spawn(async move {
                if let Some(status) = child.watch(stop).await {
                    // Nobody listens once everything is being stopped, and then it is no news.
                    let _ = deaths.send(Death { name, status, log });
                }
            });
        }
        Ok(())
    }

    /// Runs a program that ends by itself, on the thread that `main` runs on.
    ///
    /// # Errors
    ///
    /// If it cannot be started, or fails.
    pub(super) async fn run(&mut self, program: &Program<'_>) -> anyhow::Result<()> {
        let stage = self.new_stage();
        let (child, stop) = (program.spawn(&self.me)?, stage.stop);
        let (done, ended) = oneshot::channel();
        stage.tasks.spawn(async move {
            if let Some(status) = child.watch(stop).await {
                // Nobody listens once everything is being stopped.
                let _ = done.send(status);
            }
        });
        let status = ended.await.with_context(|| format!("{} was stopped", program.name))?;
        anyhow::ensure!(status.success(), "{} failed ({status}); {}", program.name, tail(&program.log));
        Ok(())
    }

    fn new_stage(&mut self) -> Stage {
        let stage = Stage::default();
        self.stages.push(stage.clone());
        stage
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Stops all of them, the last stage first, and returns when they have ended.
    pub(super) async fn stop(self) {
        for Stage { stop, tasks } in self.stages.into_iter().rev() {
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
    }
}

/// A child, in the hands of the one task that waits for it: so its process id is never used after it was given back.
struct Watched {
    child: Child,
    ending: &'static [(Signal, Duration)],
}

impl Watched {
    /// Waits until it ends, and ends it when told to. None if it was told to.
    async fn watch(mut self, stop: CancellationToken) -> Option<ExitStatus> {
        tokio::select! {
            status = self.child.wait() => status.ok(),
            () = stop.cancelled() => {
                self.end().await;
                None
            }
        }
    }

    async fn end(&mut self) {
        for (signal, patience) in self.ending {
            let Some(process) = self.process() else { return };
            // It fails only if the process has ended, which the next line finds out.
            let _ = kill(process, *signal);
            if timeout(*patience, self.child.wait()).await.is_ok() {
                return;
            }
        }
        if let Some(process) = self.process() {
            let _ = killpg(process, Signal::SIGKILL);
            let _ = self.child.wait().await;
        }
    }

    /// None once it was waited for.
    fn process(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
    }
}

/// Asks again and again until the answer is yes.
///
/// # Errors
///
/// If it is still no when the time is up, with the end of the program's log.
pub(super) async fn until_ready(name: &str, log: &Path, patience: Duration, ready: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    anyhow::ensure!(until(patience, ready).await, "{name} does not answer after {} s; {}", patience.as_secs(), tail(log));
    Ok(())
}

/// Asks again and again until the answer is yes; false if it is still no when the time is up.
pub(super) async fn until(patience: Duration, mut ready: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !ready().await {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(INTERVAL).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown_however_long_it_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("some.log");
        assert!(tail(&log).ends_with("some.log is empty"));
        let lines: Vec<String> = (0..100_000).map(|number| format!("line {number}")).collect();
        fs::write(&log, lines.join("\n")).expect("it is written");
        let tail = tail(&log);
        assert!(tail.contains("line 99988\n") && tail.ends_with("line 99999") && !tail.contains("line 99987\n"), "{tail}");
    }

    #[test]
    fn the_log_of_the_run_before_is_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("redis.log");
        fs::write(&log, "before").expect("it is written");
        new_log(&log).expect("it is made");
        assert_eq!(fs::read_to_string(folder.path().join("redis.previous.log")).expect("it is kept"), "before");
        assert_eq!(fs::read_to_string(&log).expect("it is there"), "");
    }
}
