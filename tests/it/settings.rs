//! Settings that are wrong, at start and while a server works: what is said of them, and that no secret is.

mod repeated;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use whatsnext::{
    app::{App, Reloaded},
    config::{Sources, load},
};

use crate::support::{Process, TestDatabase, audit_lines, eventually, program};

/// What became of settings that were read again.
fn reloads(folder: &Path) -> Vec<String> {
    let lines = audit_lines(folder);
    let lines = lines.iter().filter(|line| line["event.action"] == "reload_settings");
    lines.map(|line| line["event.outcome"].as_str().unwrap().to_owned()).collect()
}

/// Runs a command that ends by itself. Returns whether all was well, and what it said.
fn said(command: &mut Command) -> (bool, String) {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let (end, ended) = mpsc::channel::<()>();
    // A server that starts although it should not fails the test, and does not keep it waiting.
    let watch = thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(20)) == Err(RecvTimeoutError::Timeout) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(end);
    watch.join().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.success(), text)
}

/// Each command that reads settings.
const COMMANDS: [&[&str]; 6] = [&["serve"], &["serve", "--check"], &["probe"], &["migrate"], &["keys", "list"], &["users", "list"]];

/// Settings files with a secret in them, each broken in another way, and where.
const BROKEN: [(&str, &str); 6] = [
    ("database_password = \"s3\"canary\"\n", "line 1, column "),
    ("api_keys = \"canary\"\napi_keys = \"canary\"\n", "line 2, column 1"),
    ("port = 1\naudit_key = canary\n", "line 2, column "),
    ("api_keys = [\"canary\"]\n", "line 1, column 12"),
    ("database_pool_size = \"canary\"\n", "`database_pool_size`"),
    ("database_tls = \"canary\"\n", "`database_tls`"),
];

#[tokio::test]
async fn a_broken_file_is_told_by_its_place_and_no_secret_of_it_is_repeated() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let (file, dotenv) = (folder.path().join("whatsnext.toml"), folder.path().join(".env"));
    let refused = |arguments: &[&str], more: &[&str], place: &str| {
        let mut command = program(&database);
        // Which would go before the files.
        command.env_remove("DATABASE_URL").current_dir(folder.path());
        command.args(&arguments[..1]).args(more).args(&arguments[1..]);
        let (is_good, said) = said(&mut command);
        assert!(!is_good && said.contains(place), "{arguments:?} says where: expected {place:?} in {said}");
        assert!(!said.contains("canary"), "{arguments:?}: {said}");
    };
    for (text, place) in BROKEN {
        fs::write(&file, text).unwrap();
        for arguments in COMMANDS {
            refused(arguments, &["--config", file.to_str().unwrap()], place);
        }
    }
    for text in ["PORT=1\nDATABASE_PASSWORD=canary'\n", "\nDATABASE_PASSWORD=canary canary\n", "# x\ncanary canary\n"] {
        fs::write(&dotenv, text).unwrap();
        for arguments in COMMANDS {
            refused(arguments, &[], "line 2 ");
        }
    }
    fs::remove_file(&dotenv).unwrap();
    // What only the stores' own code reads.
    for url in
        ["postgres://u:canary@db:canary/x", "canary://u:canary@db", "host=db password='canary", "postgres://u:canary@db/x?canary=canary"]
    {
        fs::write(&file, format!("database_url = \"{url}\"\n")).unwrap();
        refused(&["serve"], &["--config", file.to_str().unwrap()], "database_url");
    }
    for url in ["redis://:canary@cache:canary/0", "redis+cluster://:canary@", "redis+sentinel://:canary@a/m?canary", "canary"] {
        let mut command = program(&database);
        let (is_good, said) = said(command.arg("serve").env("REDIS_URL", url));
        assert!(!is_good && said.contains("redis_url") && !said.contains("canary"), "{said}");
    }
}

#[tokio::test]
async fn a_file_that_was_broken_changes_nothing_and_the_log_repeats_no_secret() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let (file, audit) = (folder.path().join("whatsnext.toml"), folder.path().join("audit"));
    fs::write(&file, "backoff_seconds = 10\n").unwrap();
    let with_file = |command: &Command| {
        let mut command = Command::new(command.get_program());
        command.args(["serve", "--config"]).arg(&file);
        command
    };
    let environment = [("AUDIT_LOG_DIR", audit.to_str().unwrap()), ("LOG_FILTER", "debug")];
    let process = Process::start_by(&database, with_file, &environment).await;
    let mut expected = Vec::new();
    for (text, place) in BROKEN {
        fs::write(&file, text).unwrap();
        process.signal(Signal::SIGHUP);
        expected.push("failure");
        eventually(&format!("it says that it cannot read what is broken at {place}"), || async { reloads(&audit) == expected }).await;
        process.api.get("/projects").await.expect(200);
    }
    fs::write(&file, "backoff_seconds = 10\n").unwrap();
    expected.push("success");
    eventually("it reads what was mended", || async { reloads(&audit) == expected }).await;
    let log = process.terminate().await;
    for (_, place) in BROKEN {
        assert!(log.contains(place), "expected {place} in {log}");
    }
    assert!(!log.contains("canary"), "{log}");
}

#[tokio::test]
async fn a_server_does_not_start_with_a_secret_that_is_not_there() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let (empty, audit) = (folder.path().join("secret"), folder.path().join("audit"));
    fs::write(&empty, " \n").unwrap();
    let nowhere = folder.path().join("nowhere");
    for name in ["database_password", "database_url", "redis_url", "api_keys", "audit_key"] {
        for (file, why) in [(&empty, "is empty"), (&nowhere, "cannot read")] {
            let mut command = program(&database);
            command.arg("serve").env("PORT", "0").env("AUDIT_LOG_DIR", &audit);
            command.env_remove(name.to_uppercase()).env(format!("{}_FILE", name.to_uppercase()), file);
            let (is_good, said) = said(&mut command);
            let (setting, file) = (format!("{name}_file"), file.display().to_string());
            assert!(!is_good && said.contains(&setting) && said.contains(&file) && said.contains(why), "{name}: {said}");
        }
    }
    assert!(!audit.exists(), "no audit log was begun, least of all one without a seal");
}

#[tokio::test]
async fn a_file_of_keys_that_is_empty_for_a_moment_takes_no_key_away() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let (file, audit) = (folder.path().join("keys"), folder.path().join("audit"));
    fs::write(&file, "one\n").unwrap();
    let settings = [("DISABLE_AUTH", "false"), ("API_KEYS_FILE", file.to_str().unwrap()), ("AUDIT_LOG_DIR", audit.to_str().unwrap())];
    let process = Process::start_with(&database, &settings).await;
    fs::write(&file, "").unwrap();
    process.signal(Signal::SIGHUP);
    eventually("it says that there is nothing in it", || async { reloads(&audit) == ["failure"] }).await;
    process.api.with_key("one").get("/projects").await.expect(200);
    fs::write(&file, "two\n").unwrap();
    eventually("it reads what is there again", || async { reloads(&audit) == ["failure", "success"] }).await;
    process.api.with_key("two").get("/projects").await.expect(200);
    let log = process.terminate().await;
    assert!(log.contains(&format!("api_keys_file: {} is empty", file.display())), "{log}");
}

#[tokio::test]
async fn limits_that_no_window_can_hold_are_refused_by_all_who_set_them() {
    let database = TestDatabase::new().await;
    for name in ["rate_limit_per_minute", "report_limit_per_minute", "auth_failures_per_minute"] {
        let mut command = program(&database);
        let (is_good, said) = said(command.arg("serve").env("PORT", "0").env(name.to_uppercase(), "10000001"));
        assert!(!is_good && said.contains(&format!("{name} is 10000001: it must be from 0 to 10000000")), "{said}");
    }
    let create = |limit: &str| {
        let mut command = program(&database);
        said(command.args(["keys", "create", "--name", "k", "--role", "admin", "--rate-limit", limit]))
    };
    let (is_good, said) = create("10000001");
    assert!(!is_good && said.contains("--rate-limit") && said.contains("10000000"), "{said}");
    let (is_good, said) = create("10000000");
    assert!(is_good, "{said}");
}

/// Room for a pool is taken at once: this much would end the process in the middle.
#[tokio::test]
async fn a_pool_that_cannot_be_is_refused_by_all_who_would_make_it() {
    const SIZE: &str = "4000000000000000000";
    let database = TestDatabase::new().await;
    let create = ["keys", "create", "--name", "k", "--role", "admin"];
    let commands = COMMANDS.into_iter().filter(|arguments| arguments[0] != "probe").chain([&create[..]]);
    for arguments in commands {
        let (is_good, said) = said(program(&database).args(arguments).env("PORT", "0").env("DATABASE_POOL_SIZE", SIZE));
        let expected = format!("whatsnext: database_pool_size is {SIZE}: it must be from 1 to 10000\n");
        assert!(!is_good && said.ends_with(&expected), "{arguments:?}: expected {expected:?} last in {said:?}");
    }
}

#[tokio::test]
async fn a_database_url_that_speaks_of_tls_is_refused_and_a_store_elsewhere_without_it_is_warned_of() {
    let database = TestDatabase::new().await;
    let checked = |name: &str, url: &str| said(program(&database).args(["serve", "--check"]).env(name, url));
    let (is_good, said) = checked("DATABASE_URL", "postgres://u:canary@db/x?sslmode=require");
    assert!(
        !is_good && said.contains("database_url has `sslmode`") && said.contains("set database_tls") && !said.contains("canary"),
        "{said}"
    );
    let (is_good, said) = checked("DATABASE_URL", "host=db.example user=u password=canary");
    assert!(is_good && said.contains("# warning: the database is on another machine") && !said.contains("canary"), "{said}");
    let (is_good, said) = checked("REDIS_URL", "redis://:canary@cache.example/0");
    assert!(is_good && said.contains("# warning: Redis is on another machine") && !said.contains("canary"), "{said}");
    let (is_good, said) = checked("REDIS_URL", "rediss://:canary@cache.example/0");
    assert!(is_good && !said.contains("# warning: Redis"), "{said}");
}

/// The certificate's files are also looked at every two seconds, but by a server that runs: here none does.
#[tokio::test]
async fn settings_that_are_read_again_take_the_certificate_with_them() {
    let (database, authority) = (TestDatabase::new().await, crate::support::Authority::new());
    let pair = authority.issue(&["localhost"]);
    let next = authority.issue_with(&["localhost"], |params| params.not_after = rcgen::date_time_ymd(2200, 1, 1));
    let [certificate, key] = [pair.certificate(), pair.key()].map(|file| file.display().to_string());
    let flags = || database.flags(&[("tls_cert_file", &certificate), ("tls_key_file", &key)]);
    let read = || load(&Sources { flags: flags(), ..Sources::default() });
    let started = read().expect("the settings are sound");
    let app = App::build(started.settings.clone()).expect("a server");
    let tls = app.tls().expect("it speaks HTTPS");
    let asked_once = async || {
        let (mut asked, told) = ([Some(())].into_iter(), std::cell::RefCell::new(Vec::new()));
        app.reload().run(&started, async || asked.next().flatten(), read, |what| told.borrow_mut().push(what)).await;
        told.into_inner()
    };
    let before = tls.certificate().1;
    fs::copy(next.key(), pair.key()).unwrap();
    assert_eq!(asked_once().await, [Reloaded::NotAll], "half of a pair");
    assert_eq!(tls.certificate().1, before);
    pair.replace_by(&next);
    assert_eq!(asked_once().await, [Reloaded::All]);
    assert!(
        tls.certificate().1.to_string().starts_with("2200-01-01"),
        "expected the new certificate, got one that ends {}",
        tls.certificate().1
    );
}
