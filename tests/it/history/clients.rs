//! Clients as processes of their own, so that they can be killed and stopped as a whole: this test's program, run again for one crowd.

use std::{
    io::Read as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    random::Random,
    workload::Crowd,
    world::{Guard, World},
};

/// What a process of clients is told: the folder of its world, the name of its crowd, and its seed.
const FOLDER: &str = "WHATSNEXT_HISTORY_CROWD_FOLDER";
const NAME: &str = "WHATSNEXT_HISTORY_CROWD_NAME";
const SEED: &str = "WHATSNEXT_HISTORY_CROWD_SEED";

/// A process of clients. Killed when it is dropped.
pub(super) struct Clients {
    child: Child,
    name: String,
    /// The process ends when nobody holds this any more.
    _tether: Option<ChildStdin>,
}

impl Clients {
    /// Starts a crowd in the world of this folder.
    pub(super) fn start(folder: &Path, name: &str, seed: u64) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "history::clients::a_crowd"]);
        command.env(FOLDER, folder).env(NAME, name).env(SEED, seed.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        // Waiting for it would close it otherwise.
        let tether = child.stdin.take();
        Self { child, name: name.to_owned(), _tether: tether }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().expect("a process id")), signal).expect("the process is there");
    }

    /// As `kill -9`.
    pub(super) fn kill(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "expected the clients of {} to live until they are killed", self.name);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has come to its end.
    pub(super) async fn end(mut self) {
        let (name, status) = tokio::task::spawn_blocking(move || (self.name.clone(), self.child.wait().unwrap())).await.unwrap();
        assert!(status.success(), "expected the clients of {name} to end well: {status}");
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test, but what [`Clients::start`] runs.
#[tokio::test]
#[ignore = "the test of histories runs it"]
async fn a_crowd() {
    let folder = std::env::var(FOLDER).expect("this is no test by itself: run `history`, which starts it with a world to work in");
    let (name, seed) = (std::env::var(NAME).unwrap(), std::env::var(SEED).unwrap().parse().unwrap());
    let crowd = Crowd::new(World::open(Path::new(&folder), Guard::Attempt), &name);
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    crowd.run(Random::new(seed)).await;
}
