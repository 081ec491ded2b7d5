//! The schema, its migrations, and every statement against it.

mod plans;
mod rules;

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use refinery::{Runner, Target, load_sql_migrations};
use tokio::time::{Instant, sleep, timeout};
use whatsnext::postgres::{migrate, query::ALL, types::Type};

use crate::support::{TestDatabase, eventually, program, waiting_for_locks};
use rules::{BAD, EXCEPTIONS, FIRST, GOOD, statements, violations};

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let database = TestDatabase::new().await;
    let client = database.connect().await;
    for query in ALL {
        #[expect(clippy::disallowed_methods, reason = "the test looks at each statement once")]
        let prepared = client.prepare(query.sql).await;
        let prepared = prepared.unwrap_or_else(|error| panic!("{}: {error:?}", query.name));
        // Behind a pooler they are told by their numbers alone.
        assert!(prepared.params().iter().all(|kind| Type::from_oid(kind.oid()).is_some()), "{}: {:?}", query.name, prepared.params());
    }
}

#[test]
fn every_file_is_listed_and_says_what_it_is() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/queries");
    let mut files = BTreeSet::new();
    for sub in std::fs::read_dir(&folder).unwrap() {
        for file in std::fs::read_dir(sub.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(&folder).unwrap().with_extension("");
            files.insert(name.display().to_string());
            let text = std::fs::read_to_string(&path).unwrap();
            let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("--")).collect();
            assert!(!header.is_empty(), "{} begins with what it does", path.display());
            let statement: String = text.lines().skip(header.len()).collect();
            assert!(!statement.contains("select *") && !statement.contains(';'), "{}: one statement, its columns named", path.display());
            for parameter in (1..=9).map(|n| format!("${n}")) {
                let (used, told) = (statement.contains(&parameter), header.iter().any(|line| line.contains(&parameter)));
                assert_eq!(used, told, "{}: the header says what {parameter} is", path.display());
            }
        }
    }
    let listed: BTreeSet<String> = ALL.iter().map(|query| query.name.to_owned()).collect();
    assert_eq!(listed.len(), ALL.len(), "each is listed once");
    assert_eq!(listed, files, "the list in src/postgres/query.rs and the files in sql/queries are the same");
}

#[tokio::test]
async fn several_processes_may_migrate_at_once() {
    let database = TestDatabase::empty().await;
    let started: Vec<_> = (0..4).map(|_| program(&database).arg("migrate").stdout(Stdio::piped()).spawn().unwrap()).collect();
    let mut applied = 0;
    for process in started {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        applied += usize::from(String::from_utf8(output.stdout).unwrap().starts_with("Applied"));
    }
    assert_eq!(applied, 1, "one of them did it, the others found it done");
    migrate::verify(&database.database()).await.expect("the schema is the newest");
}

#[tokio::test]
async fn a_server_refuses_a_schema_that_it_does_not_know() {
    let database = TestDatabase::empty().await;
    let refusal = || {
        let output = program(&database).arg("serve").env("PORT", "0").output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refusal();
    assert!(said.contains("at version 0") && said.contains("run `whatsnext migrate`"), "{said}");

    assert!(program(&database).arg("migrate").stdout(Stdio::null()).status().unwrap().success());
    database
        .connect()
        .await
        .execute(
            "insert into refinery_schema_history (version, name, applied_on, checksum) values (999, 'later', '2027-01-01T00:00:00Z', '0')",
            &[],
        )
        .await
        .unwrap();
    let said = refusal();
    assert!(said.contains("at version 999") && said.contains("run the version of whatsnext that migrated it"), "{said}");
}

/// All versions, as files.
fn versions() -> Vec<refinery::Migration> {
    let mut versions = load_sql_migrations(Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/migrations")).expect("the versions can be read");
    versions.sort_by_key(refinery::Migration::version);
    versions
}

/// Brings a database to an older version.
async fn bring_to(database: &TestDatabase, version: i32) {
    let mut client = database.connect().await;
    Runner::new(&versions()).set_target(Target::Version(version)).run_async(&mut client).await.expect("the older versions are applied");
}

#[test]
fn versions_keep_to_the_rules_for_servers_that_work_meanwhile() {
    let versions = versions();
    let numbers: Vec<i32> = versions.iter().map(refinery::Migration::version).collect();
    assert_eq!(numbers, (1..=migrate::newest()).collect::<Vec<_>>(), "no version is left out");
    let mut wrong = Vec::new();
    for version in versions.iter().filter(|version| version.version() >= FIRST) {
        wrong.extend(violations(version.version(), version.sql().unwrap()));
    }
    assert!(wrong.is_empty(), "expected no version to break a rule of sql/README.md:\n{}", wrong.join("\n"));
    for (of, start, why) in EXCEPTIONS {
        let version = versions.iter().find(|version| version.version() == *of).expect("the exception's version");
        let is_there = statements(version.sql().unwrap()).iter().any(|statement| statement.starts_with(start));
        assert!(is_there && !why.is_empty(), "V{of} has no statement `{start}…`: the exception is of no more use");
    }
}

#[test]
fn the_rules_find_what_they_are_for() {
    // A version of which nothing is an exception.
    let next = migrate::newest() + 1;
    for bad in BAD {
        assert!(!violations(next, bad).is_empty(), "expected a rule against: {bad}");
    }
    for good in GOOD {
        assert_eq!(violations(next, good), Vec::<String>::new(), "expected no rule against: {good}");
    }
    // Before there were rules nobody kept to them.
    let versions = versions();
    assert!(violations(4, versions[3].sql().unwrap()).len() > 3);
}

/// PostgreSQL itself says which tables it writes anew.
#[tokio::test]
async fn no_version_rewrites_a_table() {
    let database = TestDatabase::empty().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create table rewrites (version integer, name text);
             create function note_rewrite() returns event_trigger language plpgsql as $$
             begin
                 insert into rewrites
                 select coalesce(max(version), 0) + 1, pg_event_trigger_table_rewrite_oid()::regclass::text
                 from refinery_schema_history;
             end $$;
             create event trigger note_rewrite on table_rewrite execute function note_rewrite();",
        )
        .await
        .unwrap();
    bring_to(&database, migrate::newest()).await;
    let rows = client.query("select distinct version, name from rewrites order by version, name", &[]).await.unwrap();
    let rewrites: Vec<(i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let (before, since): (Vec<_>, Vec<_>) = rewrites.into_iter().partition(|(version, _)| *version < FIRST);
    assert_eq!(before, [(4, "jobs".to_owned())], "it is seen when it happens");
    assert_eq!(since, [], "the rules hold since");
}

/// What `sql/README.md` announces of V5.
fn announced() -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/README.md")).unwrap();
    let (_, announced) = readme.split_once("### Announced").expect("what is announced");
    let block = announced.split("```").nth(1).and_then(|block| block.strip_prefix("sql")).expect("statements");
    block.split(';').map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty()).collect()
}

/// All that V5 makes: the index, whether it is whole, the column's default, whose the sequence is.
async fn made_by_v5(client: &tokio_postgres::Client) -> (String, bool, String, String) {
    let sql = "select pg_get_indexdef(indexrelid), indisvalid, \
               (select pg_get_expr(adbin, adrelid) from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum \
                where adrelid = 'attempts'::regclass and attname = 'sequence'), \
               pg_get_serial_sequence('attempts', 'sequence') \
               from pg_index where indexrelid = 'attempts_held_idx'::regclass";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

/// What operators of large tables run before a version leaves that version nothing to build, and the same in the end.
#[tokio::test]
async fn what_is_announced_can_be_done_before() {
    let (plain, database) = (TestDatabase::empty().await, TestDatabase::empty().await);
    bring_to(&plain, 5).await;
    bring_to(&database, 4).await;
    let client = database.connect().await;
    let attempts = "insert into attempts (job_id, number, client_id, status, cpu, accelerators) values ($1, 1, 'node', 'CLAIMED', 1, 0)";
    client.execute(attempts, &[&1_i64]).await.unwrap();
    // Once more changes nothing.
    for statement in announced().iter().chain(&announced()) {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let index = async || client.query_one("select 'attempts_held_idx'::regclass::oid", &[]).await.unwrap().get::<_, u32>(0);
    let before = index().await;
    bring_to(&database, 5).await;
    assert_eq!(index().await, before, "expected that the version did not build it anew");
    assert_eq!(made_by_v5(&client).await, made_by_v5(&plain.connect().await).await, "expected the same with and without what is announced");
    // A server of the version before works on it, and what it claims is in order.
    client.execute(attempts, &[&2_i64]).await.unwrap();
    client.execute(attempts, &[&3_i64]).await.unwrap();
    let rows = client.query("select sequence from attempts order by job_id", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [0, 1, 2]);
}

/// Building an index can be broken off, and leaves one that nothing uses.
#[tokio::test]
async fn an_index_that_is_not_whole_is_not_taken_for_one() {
    let database = TestDatabase::empty().await;
    bring_to(&database, 4).await;
    let client = database.connect().await;
    let migrate = || directly(&database).arg("migrate").output().unwrap();
    for spoil in [
        "update pg_index set indisvalid = false where indexrelid = 'attempts_held_idx'::regclass",
        "drop index attempts_held_idx; create index attempts_held_idx on attempts (client_id) where ended_at is null",
    ] {
        for statement in announced() {
            client.batch_execute(&statement).await.unwrap();
        }
        client.batch_execute(spoil).await.unwrap();
        let output = migrate();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("drop index concurrently attempts_held_idx"), "{spoil}: {said}");
        let held = "select count(*) from pg_class where relname = 'attempts_live_idx'";
        assert_eq!(client.query_one(held, &[]).await.unwrap().get::<_, i64>(0), 1, "what servers use is still there");
        client.batch_execute("drop index attempts_held_idx").await.unwrap();
    }
    assert!(migrate().status.success());
}

/// The program by the direct way to PostgreSQL, whatever way servers have: time-outs for locks are said in a session, of which a pooler has none.
fn directly(database: &TestDatabase) -> Command {
    let mut command = program(database);
    command.env("DATABASE_URL", database.url()).env("DATABASE_POOLER", "none");
    command
}

/// What has to be changed is in use for a while: others work on, and in the end it is changed.
#[tokio::test]
async fn a_migration_lets_others_by_while_it_waits() {
    let database = TestDatabase::empty().await;
    bring_to(&database, 3).await;
    let (mut reader, worker, watcher) = (database.connect().await, database.connect().await, database.connect().await);
    let report = reader.transaction().await.unwrap();
    report.query_one("select count(*) from jobs", &[]).await.unwrap();
    let mut migrate = directly(&database);
    migrate.args(["migrate", "--lock-timeout", "300ms", "--patience", "1m"]).stdout(Stdio::piped());
    let process = migrate.spawn().unwrap();
    let (mut waited, mut longest) = (0, Duration::ZERO);
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        waited += waiting_for_locks(&watcher).await;
        let began = Instant::now();
        // Queues behind who waits for the table.
        let answered = timeout(Duration::from_secs(5), worker.query_one("select count(*) from jobs", &[])).await;
        answered.expect("others wait no longer than it does").unwrap();
        longest = longest.max(began.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(waited > 0, "it tried");
    assert!(longest < Duration::from_millis(1500), "others wait no longer than it does: {longest:?}");
    report.rollback().await.unwrap();
    let output = tokio::task::spawn_blocking(|| process.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said == format!("{}.\n", applied_from(4)), "{said}");
    migrate::verify(&database.database()).await.expect("the schema is the newest");
}

/// What is printed of all versions from this one on.
fn applied_from(version: i32) -> String {
    match migrate::newest() {
        newest if newest == version => format!("Applied version {version}"),
        newest => format!("Applied versions {version} to {newest}"),
    }
}

#[tokio::test]
async fn a_migration_gives_up_and_says_what_to_do() {
    let database = TestDatabase::empty().await;
    bring_to(&database, 3).await;
    let mut reader = database.connect().await;
    let report = reader.transaction().await.unwrap();
    report.query_one("select count(*) from jobs", &[]).await.unwrap();
    let run = |patience: &'static str| {
        let mut migrate = directly(&database);
        migrate.args(["migrate", "--lock-timeout", "100ms", "--patience", patience]);
        tokio::task::spawn_blocking(move || migrate.output().unwrap())
    };
    let began = Instant::now();
    // Who comes later waits for its turn, and fails in its own time.
    let (first, second) = tokio::join!(run("1s"), run("0s"));
    for output in [first.unwrap(), second.unwrap()] {
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("pg_stat_activity") && said.contains("Version 3 is in force"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    report.rollback().await.unwrap();
    let held = database.connect().await;
    eventually("nothing of it is left waiting", || async { waiting_for_locks(&held).await == 0 }).await;
    assert!(program(&database).arg("migrate").stdout(Stdio::null()).status().unwrap().success(), "it is as if nothing had been tried");
}
