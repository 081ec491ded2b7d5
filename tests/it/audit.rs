//! The audit log of servers and commands. What each operation leaves in it is in `permissions::audited`, what can be done to lines in
//! `telemetry::audit::tests`.

mod refusals;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use whatsnext::access::{Grants, Key, KeyId, Role};

use crate::support::{Process, TestDatabase, audit_lines, eventually, make_key, program, waiting_for_locks};

fn verify(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whatsnext"));
    let Output { status, stdout, stderr } = command.args(["audit", "verify"]).arg(folder).args(arguments).output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

fn assert_whole(folder: &Path) {
    let (is_whole, said) = verify(folder, &[]);
    assert!(is_whole, "{said}");
}

fn count(lines: &[Value], action: &str) -> usize {
    lines.iter().filter(|line| line["event.action"] == action).count()
}

#[tokio::test]
async fn servers_share_a_folder_are_restarted_and_killed_and_the_log_stays_whole() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let settings = [("AUDIT_LOG_DIR", folder.path().to_str().unwrap())];
    let start = || Process::start_with(&database, &settings);
    let work = async |process: &Process, name: &str| {
        join_all((0..20).map(|n| process.api.post("/projects", json!({"name": format!("{name}-{n}")})))).await
    };
    let (one, two) = (start().await, start().await);
    work(&one, "one").await;
    work(&two, "two").await;
    one.terminate().await;
    let again = start().await;
    work(&again, "again").await;
    eventually("what was done is written", || async { count(&audit_lines(folder.path()), "create_project") == 60 }).await;
    assert_whole(folder.path());
    again.signal(Signal::SIGKILL);
    again.end().await;
    start().await.terminate().await;
    two.terminate().await;
    let (is_whole, said) = verify(folder.path(), &[]);
    assert!(is_whole && said.contains("has not said that it ends"), "{said}");
    assert!(said.contains(": lines 1 to 45 in") && said.contains(": lines 1 to 22 in"), "{said}");

    // What a log said of its last line is still so, until somebody cuts it off.
    let last = said.lines().find_map(|line| line.strip_prefix("  last line: ").filter(|last| last.contains(":45:"))).unwrap().to_owned();
    let chain = last.split(':').next().unwrap();
    assert!(verify(folder.path(), &["--known", &last]).0);
    let file = fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|file| file.to_string_lossy().contains(&format!("audit-{chain}.2")))
        .unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let cut: Vec<&str> = text.lines().collect();
    fs::write(&file, cut[..cut.len() - 1].join("\n") + "\n").unwrap();
    assert!(verify(folder.path(), &[]).0, "nothing else tells of it");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o007, 0, "the world cannot read it");
    let (is_whole, said) = verify(folder.path(), &["--known", &last]);
    assert!(!is_whole && said.contains("line 45 is known to have been there"), "{said}");

    fs::write(&file, text.replacen("\"create_project\"", "\"deleted_project\"", 1)).unwrap();
    let (is_whole, said) = verify(folder.path(), &[]);
    assert!(!is_whole && said.contains(&format!("{}:2: it is not as it was written", file.display())), "{said}");
}

/// As after a power cut: the server was killed, and cannot start at first since the database is not there yet.
#[tokio::test]
async fn a_start_that_fails_does_not_hide_that_a_server_was_killed() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let settings = [("AUDIT_LOG_DIR", folder.path().to_str().unwrap())];
    let killed = Process::start_with(&database, &settings).await;
    eventually("its start is written", || async { count(&audit_lines(folder.path()), "server_started") == 1 }).await;
    killed.signal(Signal::SIGKILL);
    killed.end().await;
    let nowhere = [("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")];
    let failed = program(&database).arg("serve").envs([settings, nowhere].concat()).output().unwrap();
    assert!(!failed.status.success());
    Process::start_with(&database, &settings).await.terminate().await;
    let lines = audit_lines(folder.path());
    let counts = ["server_started", "server_start_failed", "server_stopped"].map(|action| count(&lines, action));
    assert_eq!(counts, [2, 1, 1]);
    let (is_whole, said) = verify(folder.path(), &[]);
    assert!(is_whole && said.contains("has not said that it ends"), "{said}");
}

/// Whatever its client does not wait for may be done all the same.
#[tokio::test]
async fn what_nobody_was_told_of_is_recorded_as_unknown() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let process = Process::start_with(&database, &[("AUDIT_LOG_DIR", folder.path().to_str().unwrap())]).await;
    let mut client = database.connect().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("lock table projects in access exclusive mode").await.unwrap();
    let api = process.api.clone();
    let request = tokio::spawn(async move { api.post("/projects", json!({"name": "p"})).await });
    let watcher = database.connect().await;
    eventually("the request waits in the database", || async { waiting_for_locks(&watcher).await == 1 }).await;
    request.abort();
    eventually("it is recorded", || async { count(&audit_lines(folder.path()), "create_project") == 1 }).await;
    lock.rollback().await.unwrap();
    process.terminate().await;
    let lines = audit_lines(folder.path());
    let line = lines.iter().find(|line| line["event.action"] == "create_project").unwrap();
    assert_eq!((&line["event.outcome"], &line["http.response.status_code"]), (&json!("unknown"), &Value::Null), "{line}");
    assert!(line["http.request.id"].is_string() && line["source.ip"] == "127.0.0.1", "{line}");
}

#[tokio::test]
async fn refusals_are_told_for_a_while_and_then_counted() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let settings = [
        ("DISABLE_AUTH", "false"),
        ("RATE_LIMIT_PER_MINUTE", "30"),
        ("AUTH_FAILURES_PER_MINUTE", "3"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
        ("AUDIT_LOG_DIR", folder.path().to_str().unwrap()),
    ];
    let process = Process::start_with(&database, &settings).await;
    let wrong = Key::generate(KeyId::make());
    let from = async |address: &str, key: &str| {
        let headers = [
            ("x-forwarded-for", address),
            ("x-api-key", key),
            ("x-request-id", "forged\" , id"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ];
        process.api.send_with(Method::GET, "/jobs/17", &headers, Vec::new()).await.status
    };
    let mut told = (0, 0);
    for _ in 0..200 {
        match from("203.0.113.9", wrong.expose()).await {
            401 => told.0 += 1,
            429 => told.1 += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(from("2001:db8::7", "nonsense").await, 401);
    process.terminate().await;

    let lines = audit_lines(folder.path());
    assert_eq!(told.0, 3);
    let sum = |action: &str| {
        let of_kind = lines.iter().filter(|line| line["event.action"] == action && line["source.ip"] == "203.0.113.9");
        of_kind.map(|line| line["whatsnext.audit.folded"].as_u64().unwrap_or(1)).sum::<u64>()
    };
    assert_eq!((sum("authentication_failed"), sum("limit_exceeded")), (told.0, told.1));
    assert!(lines.len() < 16, "{}", lines.len());
    let first = lines.iter().find(|line| line["event.action"] == "authentication_failed").unwrap();
    let expected = json!({
        "event.category": ["authentication"], "event.outcome": "failure", "whatsnext.claimed_key.id": wrong.id().to_string(), "source.ip": "203.0.113.9",
        "http.request.id": "forged\" , id", "http.request.method": "GET", "http.response.status_code": 401, "whatsnext.route": "/jobs/{job_id}",
        "trace.id": "0af7651916cd43dd8448eb211c80319c",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&first[field], value, "{field}: {first}");
    }
    let nonsense = lines.iter().find(|line| line["source.ip"] == "2001:db8::7").unwrap();
    assert!(nonsense["whatsnext.claimed_key.id"].is_null() && nonsense["event.action"] == "authentication_failed", "{nonsense}");
    assert_whole(folder.path());
}

#[tokio::test]
async fn commands_that_change_keys_and_users_are_recorded() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let run = |arguments: &[&str]| {
        let output = program(&database).env("AUDIT_LOG_DIR", folder.path()).args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let id = |printed: &str| printed.lines().last().unwrap()[3..29].to_owned();
    let key = id(&run(&["keys", "create", "--name", "canary", "--role", "admin"]).1);
    let successor = id(&run(&["keys", "rotate", &key]).1);
    assert!(run(&["keys", "revoke", &successor]).0);
    assert!(!run(&["keys", "revoke", &KeyId::make().to_string()]).0, "there is no such key");
    assert!(run(&["users", "create", "--name", "canary", "--role", "reader"]).0);
    assert!(run(&["users", "suspend", "canary"]).0);
    for arguments in [["keys", "list"], ["users", "list"]] {
        assert!(run(&arguments).0);
    }
    let lines = audit_lines(folder.path());
    let told: Vec<Value> =
        lines.iter().map(|line| json!([line["event.action"], line["event.outcome"], line["whatsnext.target"]])).collect();
    let user = &lines[4]["whatsnext.target"]["user_id"];
    assert!(user.is_i64(), "{told:?}");
    assert_eq!(
        told[..3],
        [
            json!(["create_key", "success", {"made": key}]),
            json!(["rotate_key", "success", {"key_id": key, "made": successor}]),
            json!(["revoke_key", "success", {"key_id": successor}]),
        ]
    );
    assert_eq!((&told[3][1], &told[4][0]), (&json!("failure"), &json!("create_user")));
    assert_eq!(told[5], json!(["update_user", "success", {"user_id": user}]));
    assert_eq!(lines.len(), 6, "who only looks changes nothing");
    for line in &lines {
        assert!(line["user.id"].as_str().unwrap().starts_with("os:") && line["event.category"] == json!(["iam"]), "{line}");
        assert!(!line.to_string().contains("canary"), "{line}");
    }
    assert_whole(folder.path());

    // Where it cannot be recorded it is done and said, or not done.
    let nowhere = |failure: &str| {
        let command = ["keys", "create", "--name", "n", "--role", "reader"];
        let output = program(&database).env("AUDIT_LOG_DIR", "/proc/nowhere").env("AUDIT_FAILURE", failure).args(command).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (is_done, said) = nowhere("continue");
    assert!(is_done && said.contains("this will not be recorded: cannot write the audit log in /proc/nowhere"), "{said}");
    let (is_done, said) = nowhere("stop");
    assert!(!is_done && said.contains("cannot write the audit log in /proc/nowhere"), "{said}");
}

/// Whatever is sent, wherever: no secret and no value gets into the audit log or the log, at any level.
#[tokio::test]
async fn no_secret_and_no_value_is_in_any_file() {
    const CANARY: &str = "c4n4ry";
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let seal = folder.path().join("seal");
    fs::write(&seal, format!("{CANARY}-seal")).unwrap();
    let audit = folder.path().join("audit");
    let settings = [
        ("DISABLE_AUTH", "false"),
        ("LOG_FORMAT", "json"),
        ("LOG_FILTER", "trace"),
        ("API_KEYS", "c4n4ry-configured"),
        ("DATABASE_PASSWORD", "c4n4ry-password"),
        ("AUDIT_KEY_FILE", seal.to_str().unwrap()),
        ("AUDIT_LOG_DIR", audit.to_str().unwrap()),
    ];
    let process = Process::start_with(&database, &settings).await;
    let key = make_key(&database, Grants::All(Role::Admin)).await;
    let admin = process.api.with_key(key.expose());
    let wrong = Key::generate(KeyId::make());
    let mut secrets: Vec<String> = vec![CANARY.to_owned(), secret(key.expose()), secret(wrong.expose())];

    let (project, task) = admin.project_with_task(&format!("{CANARY}-project")).await;
    let job = json!({"name": CANARY, "project_id": project, "task_id": task, "parameters": {CANARY: CANARY}, "status": CANARY});
    admin.post("/jobs", job.clone()).await.problem(422);
    let good = json!({"name": CANARY, "project_id": project, "task_id": task, "parameters": {CANARY: CANARY}});
    admin.post("/jobs", good).await.expect(201);
    let made = admin.post("/keys", json!({"name": CANARY, "role": "reader"})).await.expect(201);
    secrets.push(secret(made["key"].as_str().unwrap()));
    let token = admin.post("/tokens", json!({})).await.expect(201)["token"].as_str().unwrap().to_owned();
    secrets.push(token.clone());
    admin.post("/users", json!({"name": CANARY, "grants": {"all": "reader"}})).await.expect(201);
    admin.post("/clients/register", json!({"id": CANARY, "name": CANARY, "entity": CANARY, "available_cpu": 1})).await.expect(201);
    let claimed = admin.post(&format!("/projects/{project}/claims"), json!({"client_id": CANARY})).await.expect(200);
    let attempt = format!("/jobs/{}/attempts/1/complete", claimed["jobs"][0]["job"]["id"]);
    admin.post(&attempt, json!({"result": {CANARY: CANARY}, "log_tail": CANARY})).await.expect(200);
    for path in [
        format!("/projects/name/{CANARY}-project"),
        format!("/clients/{CANARY}"),
        format!("/tasks/{CANARY}"),
        format!("/keys/{}", wrong.expose()),
    ] {
        admin.delete(&path).await;
        process.api.delete(&path).await;
    }
    // Each way to be refused, with a value in every place that takes one.
    for key in [wrong.expose(), token.as_str(), CANARY, &format!("wn_{CANARY}"), "c4n4ry-configured"] {
        for name in ["x-api-key", "authorization"] {
            let key = if name == "authorization" { format!("Bearer {key}") } else { key.to_owned() };
            let headers = [
                (name, key.as_str()),
                ("cookie", CANARY),
                ("user-agent", CANARY),
                ("traceparent", CANARY),
                ("x-forwarded-for", CANARY),
                ("idempotency-key", CANARY),
            ];
            process.api.send_with(Method::POST, &format!("/jobs?{CANARY}={CANARY}"), &headers, CANARY.into()).await;
        }
    }
    let log = process.terminate().await;

    let files: Vec<_> = fs::read_dir(&audit).unwrap().map(|file| file.unwrap().path()).collect();
    let mut texts: Vec<(String, String)> =
        files.iter().map(|file| (file.display().to_string(), fs::read_to_string(file).unwrap())).collect();
    assert!(texts.iter().map(|(_, text)| text.lines().count()).sum::<usize>() > 15, "there is something to look at");
    texts.push(("the log".to_owned(), log));
    for (place, text) in &texts {
        for secret in &secrets {
            let found = text.lines().find(|line| line.contains(secret.as_str()));
            assert!(found.is_none() && !place.contains(secret.as_str()), "{secret} is in {place}: {}", found.unwrap_or_default());
        }
    }
    let (is_whole, said) = verify(&audit, &["--key-file", seal.to_str().unwrap()]);
    assert!(is_whole && said.contains("sealed with the key"), "{said}");
    let last = said.lines().find_map(|line| line.strip_prefix("  last line: ")).unwrap();
    let (is_whole, said) = verify(&audit, &["--known", last]);
    assert!(!is_whole && said.lines().count() == 2 && said.contains("give it with --key-file"), "{said}");
}

/// What of a key's text is secret.
fn secret(key: &str) -> String {
    key.rsplit_once('_').unwrap().1.to_owned()
}

/// A server whose files must not grow larger, so that their disk is as good as full.
async fn cramped(database: &TestDatabase, folder: &Path, failure: &str) -> Process {
    // Blocks of 512 bytes. Ignored, the signal turns into an error.
    let limited = |command: &Command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; ulimit -S -f 12; exec \"$0\" serve"]).arg(command.get_program());
        shell
    };
    let settings = [("AUDIT_LOG_DIR", folder.to_str().unwrap()), ("AUDIT_FAILURE", failure)];
    Process::start_by(database, limited, &settings).await
}

#[tokio::test]
async fn a_full_disk_loses_lines_which_are_counted_and_the_service_goes_on() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let process = cramped(&database, folder.path(), "continue").await;
    for n in 0..50 {
        process.api.post("/projects", json!({"name": n.to_string()})).await.expect(201);
    }
    let written = count(&audit_lines(folder.path()), "create_project");
    assert!((1..50).contains(&written), "{written}");
    assert_whole(folder.path());
    // There is room again.
    let freed = Command::new("prlimit").args(["--fsize=unlimited", "--pid", &process.pid().to_string()]).stdin(Stdio::null()).status();
    assert!(freed.expect("prlimit is there").success());
    process.api.post("/projects", json!({"name": "again"})).await.expect(201);
    let log = process.terminate().await;
    assert!(log.contains("the audit log cannot be written: lines are lost") && log.contains("the audit log is written again"), "{log}");
    let lines = audit_lines(folder.path());
    let lost: u64 = lines
        .iter()
        .filter(|line| line["event.action"] == "audit_lines_lost")
        .map(|line| line["whatsnext.audit.lost"].as_u64().unwrap())
        .sum();
    assert_eq!(lost as usize + count(&lines, "create_project"), 51, "each is written or counted");
    assert_whole(folder.path());
}

#[tokio::test]
async fn a_full_disk_stops_the_service_if_nothing_may_go_unrecorded() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let process = cramped(&database, folder.path(), "stop").await;
    let mut done = 0;
    eventually("nobody comes in any more", || {
        done += 1;
        let made = process.api.try_send(Method::POST, "/projects", json!({"name": done.to_string()}));
        async { made.await != Some(201) }
    })
    .await;
    let (status, log) = process.end().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("whatsnext: lines of the audit log were lost, and audit_failure is stop"), "{log}");
    assert_whole(folder.path());
    // Nor does it start like that.
    let nowhere = program(&database).arg("serve").env("AUDIT_LOG_DIR", "/proc/nowhere").output().unwrap();
    let said = String::from_utf8(nowhere.stderr).unwrap();
    assert!(!nowhere.status.success() && said.contains("cannot write the audit log in /proc/nowhere (audit_log_dir)"), "{said}");
}
