//! A load balancer with the configuration that is shipped.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::{Https, Identity, free_port, within};

/// Which one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Nginx,
    Haproxy,
    Caddy,
}

/// A running balancer. Stopped when it is dropped.
pub(super) struct Balancer {
    pub(super) https: Https,
    child: Child,
    #[expect(dead_code, reason = "it is there as long as the balancer is")]
    folder: tempfile::TempDir,
}

impl Balancer {
    /// Starts one before these servers, and waits until requests come through.
    pub(super) async fn start(kind: Kind, servers: &[SocketAddr]) -> Self {
        let (folder, identity, port) = (tempfile::tempdir().expect("a folder"), Identity::make(), free_port());
        let place = folder.path().to_owned();
        let path = |name: &str| place.join(name).display().to_string();
        fs::write(path("cert.pem"), &identity.certificate).expect("the certificate is written");
        fs::write(path("key.pem"), &identity.key).expect("the key is written");
        fs::write(path("both.pem"), format!("{}{}", identity.certificate, identity.key)).expect("both are written");
        let mut command = match kind {
            Kind::Nginx => {
                let changes = [
                    ("listen 443", format!("listen 127.0.0.1:{port}")),
                    ("/etc/ssl/whatsnext/fullchain.pem", path("cert.pem")),
                    ("/etc/ssl/whatsnext/privkey.pem", path("key.pem")),
                ];
                fs::write(path("whatsnext.conf"), shipped("nginx/whatsnext.conf", servers, &changes)).expect("it is written");
                // What Debian's nginx.conf has around it, without its folders.
                let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|of| format!("{of}_temp_path {};\n", path(of)));
                let around = format!(
                    "daemon off;\npid {};\nerror_log stderr;\nworker_processes 2;\nevents {{}}\nhttp {{\naccess_log off;\n{}include {};\n}}\n",
                    path("pid"),
                    temporary.concat(),
                    path("whatsnext.conf")
                );
                fs::write(path("nginx.conf"), around).expect("it is written");
                let mut command = Command::new("/usr/sbin/nginx");
                command.args(["-c", &path("nginx.conf"), "-p", &path("")]);
                command
            }
            Kind::Haproxy => {
                let changes = [
                    ("bind :443", format!("bind 127.0.0.1:{port}")),
                    ("/etc/haproxy/whatsnext.pem", path("both.pem")),
                    ("    log /dev/log local0\n    user haproxy\n    group haproxy\n", String::new()),
                ];
                fs::write(path("haproxy.cfg"), shipped("haproxy/haproxy.cfg", servers, &changes)).expect("it is written");
                let mut command = Command::new("/usr/sbin/haproxy");
                command.args(["-db", "-f", &path("haproxy.cfg")]);
                command
            }
            Kind::Caddy => {
                let changes = [
                    ("\nqueue.example.org {\n", format!("\nhttps://localhost:{port} {{\n\tbind 127.0.0.1\n")),
                    ("/etc/caddy/fullchain.pem", path("cert.pem")),
                    ("/etc/caddy/privkey.pem", path("key.pem")),
                    ("\tauto_https ", "\tadmin off\n\tauto_https ".to_owned()),
                ];
                fs::write(path("Caddyfile"), shipped("caddy/Caddyfile", servers, &changes)).expect("it is written");
                let mut command = Command::new("/usr/bin/caddy");
                command.args(["run", "--adapter", "caddyfile", "--config", &path("Caddyfile")]);
                command.env("HOME", path("")).env("XDG_DATA_HOME", path("data")).env("XDG_CONFIG_HOME", path("config"));
                command
            }
        };
        let log = fs::File::create(path("log")).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("{kind:?} cannot be started ({error}): run deploy/test.sh, which installs it"));
        let https = Https::new(SocketAddr::from(([127, 0, 0, 1], port)), &identity);
        let balancer = Self { https, child, folder };
        within(Duration::from_secs(10), &format!("{kind:?} answers, see {}", path("log")), async || {
            let Ok(mut connection) = balancer.https.connect().await else { return false };
            connection.send("GET", "/livez", &[], String::new()).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        balancer
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Fails only if it has ended. With its master killed, nginx's workers would go on.
        let id = nix::unistd::Pid::from_raw(self.child.id().try_into().expect("a process id"));
        let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A shipped file, with its example addresses and these words replaced, each of which must be there.
fn shipped(file: &str, servers: &[SocketAddr], changes: &[(&str, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let servers = servers.iter().zip(11..).map(|(server, host)| (format!("10.0.0.{host}:8000"), server.to_string()));
    let changes = servers.chain(changes.iter().map(|(from, to)| ((*from).to_owned(), to.clone())));
    changes.fold(text, |text, (from, to)| {
        assert!(text.contains(&from), "{file} has {from:?}");
        text.replace(&from, &to)
    })
}
