//! A PostgreSQL of a test's own, which speaks TLS and nothing else.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, User, geteuid},
};
use tokio_postgres::NoTls;

use super::{Pair, eventually, free_port};

/// A server on a free port of loopback, in a folder of its own. Stopped when it is dropped.
pub(crate) struct PostgresServer {
    pub(crate) port: u16,
    folder: tempfile::TempDir,
    child: Child,
}

impl PostgresServer {
    /// Starts one that shows this certificate.
    pub(crate) async fn start(pair: &Pair) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().expect("a folder"));
        own(folder.path());
        let data = folder.path().join("data");
        let mut initdb = command("initdb");
        initdb.args(["--auth=trust", "--username=postgres", "--no-sync", "--no-locale", "--encoding=UTF8", "-D"]).arg(&data);
        let made = initdb.output().expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(data.join("pg_hba.conf"), "local all all trust\nhostssl all all 127.0.0.1/32 trust\n").unwrap();
        put(pair, folder.path());
        let mut postgres = command("postgres");
        for (name, value) in [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port.to_string()),
            ("unix_socket_directories", &folder.path().display().to_string()),
            ("fsync", "off"),
            ("ssl", "on"),
            ("ssl_cert_file", &folder.path().join("certificate.pem").display().to_string()),
            ("ssl_key_file", &folder.path().join("key.pem").display().to_string()),
        ] {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        let child = postgres.arg("-D").arg(&data).stderr(Stdio::null()).spawn().expect("postgres starts");
        let server = Self { port, folder, child };
        eventually("PostgreSQL answers", || async { server.ask("select 1").await.is_ok() }).await;
        server
    }

    /// Shows another certificate from now on.
    pub(crate) async fn show(&self, pair: &Pair) {
        let since = self.ask("select pg_conf_load_time()::text").await.expect("it answers");
        put(pair, self.folder.path());
        kill(Pid::from_raw(self.child.id().try_into().expect("a process id")), Signal::SIGHUP).expect("it is there");
        eventually("it has read the certificate", || async {
            self.ask("select pg_conf_load_time()::text").await.is_ok_and(|now| now != since)
        })
        .await;
    }

    /// Asks it something over its socket.
    async fn ask(&self, query: &str) -> Result<String, tokio_postgres::Error> {
        let settings = format!("host={} port={} user=postgres dbname=postgres", self.folder.path().display(), self.port);
        let (client, connection) = tokio_postgres::connect(&settings, NoTls).await?;
        tokio::spawn(connection);
        let text = format!("select ({query})::text");
        Ok(client.query_one(&text, &[]).await?.get(0))
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Fails only if it has ended. SIGQUIT ends it at once, and all of its processes.
        let _ = kill(Pid::from_raw(self.child.id().try_into().unwrap_or_default()), Signal::SIGQUIT);
        let _ = self.child.wait();
    }
}

/// Puts a certificate where the server reads it.
fn put(pair: &Pair, folder: &Path) {
    for (from, name) in [(pair.certificate(), "certificate.pem"), (pair.key(), "key.pem")] {
        let to = folder.join(name);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
        own(&to);
    }
}

/// One of PostgreSQL's programs. It does not run as root.
fn command(name: &str) -> Command {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let program = folders.iter().map(|folder| folder.join(name)).find(|program| program.exists());
    let mut command = Command::new(program.unwrap_or_else(|| panic!("{name} is not installed")));
    command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
    if let Some((user, group)) = somebody() {
        command.uid(user.as_raw()).gid(group.as_raw());
    }
    command
}

fn own(path: &Path) {
    if let Some((user, group)) = somebody() {
        chown(path, Some(user.as_raw()), Some(group.as_raw())).expect("root may");
    }
}

/// Who PostgreSQL's programs run as, if not as this process.
fn somebody() -> Option<(Uid, Gid)> {
    if !geteuid().is_root() {
        return None;
    }
    let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
    user.map(|user| (user.uid, user.gid))
}
