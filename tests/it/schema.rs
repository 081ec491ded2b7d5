//! The schema, its migrations, and every statement against it.

use std::{collections::BTreeSet, path::Path, process::Stdio};

use whatsnext::postgres::{migrate, query::ALL, types::Type};

use crate::support::{TestDatabase, program};

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
