//! How statements are planned: once a connection, by what is known of the tables in that moment.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;
use whatsnext::postgres::query::ALL;

use crate::support::{Server, TestDatabase, eventually};

/// A queue of which all is done: many rows, and in the indexes of what is ready, due or alive none.
const DONE: &str = "
    insert into projects (name, description, status) select 'p' || n, '', 'ACTIVE' from generate_series(1, 20) n;
    insert into tasks (project_id, name, required_cpu, required_accelerators) 
        select 1 + n % 20, 't' || n, 1, 0 from generate_series(1, 100) n;
    insert into clients (id, name, entity, available_cpu, available_accelerators) select 'c' || n, 'c', 'e', 4, 0 from generate_series(1, 300) n;
    insert into jobs (project_id, task_id, name, parameters, status, priority, unmet)
        select 1 + (n + 1) % 20, 1 + n % 100, 'j', '{}', 'COMPLETED', 0, 0 from generate_series(1, 20000) n;
    insert into attempts (job_id, number, client_id, status, cpu, accelerators, lease_seconds, lease_expires_at, ended_at)
        select n, 1, 'c' || (1 + n % 300), 'COMPLETED', 1, 0, 60, now(), now() from generate_series(1, 20000) n;
    insert into dependencies (project_id, job_id, depends_on) select 1, n, n - 1 from generate_series(2, 8000) n;
    set plan_cache_mode = force_generic_plan;
    set jit = off;";

/// Those that read a whole index, or a whole table, and should.
const WHOLE: &[(&str, &str)] = &[
    ("attempts/expired", "looks at all leases that run"),
    ("graph/detach_task", "takes what many jobs have"),
    ("jobs/due", "takes the first that are due"),
    ("jobs/list", "counts all jobs"),
    ("jobs/next_due", "takes the first that is not due"),
    ("projects/stats", "counts the leases that run"),
    ("projects/totals", "counts the leases that run"),
];

/// What of the large tables a plan reads without looking for it, by the column that the index begins with.
fn whole(plan: &Value, leading: &dyn Fn(&str) -> String) -> Vec<String> {
    let text = |key: &str| plan[key].as_str().unwrap_or_default();
    let mut found = Vec::new();
    match text("Node Type") {
        "Seq Scan" if ["jobs", "attempts", "dependencies"].contains(&text("Relation Name")) => {
            found.push(format!("all of {}", text("Relation Name")));
        }
        "Index Scan" | "Index Only Scan" | "Bitmap Index Scan"
            if ["jobs_", "attempts_", "dependencies_"].iter().any(|large| text("Index Name").starts_with(large)) =>
        {
            let (index, condition) = (text("Index Name"), text("Index Cond"));
            let column = leading(index);
            // `(id = $1)`, or `((id = $1) AND …)`, or `(ROW(…) >= …)` behind an equality with the first column.
            if !condition.trim_start_matches('(').starts_with(&format!("{column} ")) && !condition.contains(&format!("({column} = ")) {
                found.push(format!("{index} for {condition:?}"));
            }
        }
        _ => {}
    }
    found.extend(plan["Plans"].as_array().into_iter().flatten().flat_map(|plan| whole(plan, leading)));
    found
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test looks at each statement once")]
async fn no_plan_reads_an_index_that_was_empty() {
    let database = TestDatabase::new().await;
    let client = database.connect().await;
    client.batch_execute(DONE).await.unwrap();
    client.batch_execute("vacuum analyze").await.unwrap();
    let sql = "select i.relname, a.attname from pg_index x join pg_class i on i.oid = x.indexrelid \
               join pg_attribute a on a.attrelid = x.indrelid and a.attnum = x.indkey[0]";
    let columns: Vec<(String, String)> = client.query_typed(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    let leading = |index: &str| columns.iter().find(|(name, _)| name == index).map(|(_, column)| column.clone()).unwrap_or_default();
    let mut read = Vec::new();
    for query in ALL.iter().filter(|query| !query.name.starts_with("schema/")) {
        let parameters = vec!["null"; client.prepare(query.sql).await.unwrap().params().len()].join(", ");
        let call = if parameters.is_empty() { "seen".to_owned() } else { format!("seen ({parameters})") };
        let text = format!("prepare seen as {};\nexplain (format json) execute {call};\ndeallocate seen", query.sql);
        let answer = client.simple_query(&text).await.unwrap_or_else(|error| panic!("{}: {error:?}", query.name));
        let rows = answer.iter().filter_map(|message| if let SimpleQueryMessage::Row(row) = message { row.get(0) } else { None });
        let plan: Value = serde_json::from_str(&rows.collect::<String>()).unwrap();
        let found = whole(&plan[0]["Plan"], &leading);
        if !found.is_empty() {
            read.push((query.name, found));
        }
    }
    let unexpected: Vec<_> = read.iter().filter(|(name, _)| !WHOLE.iter().any(|(whole, _)| whole == name)).collect();
    assert!(unexpected.is_empty(), "these look for what they need, and do not read all of it: {unexpected:#?}");
    let names: Vec<&str> = read.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, WHOLE.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "each exception is one");
}

/// Without autovacuum, so that it can only have been the server.
#[tokio::test]
async fn servers_tell_the_planner_of_tables_that_grow() {
    let database = TestDatabase::new().await;
    let mut client = database.connect().await;
    client.batch_execute("alter table jobs set (autovacuum_enabled = false)").await.unwrap();
    let server = Server::start(&database).await;
    let (project, task) = server.api.project_with_task("p").await;
    let reader = database.connect().await;
    let pages = async || reader.query_typed("select relpages from pg_class where relname = 'jobs'", &[]).await.unwrap()[0].get::<_, i32>(0);
    let mut grow = async |to: i32| {
        let sql = "insert into jobs (project_id, task_id, name, parameters, status, priority, unmet) \
                   select $1, $2, 'j', '{}', 'COMPLETED', 0, 0 from generate_series(1, $3)";
        let transaction = client.transaction().await.unwrap();
        // Nobody tells the planner of a table that is half as large as it will be.
        transaction.batch_execute("lock table jobs in share update exclusive mode").await.unwrap();
        transaction.execute(sql, &[&project, &task, &to]).await.unwrap();
        transaction.commit().await.unwrap();
    };
    grow(5_000).await;
    eventually("it knows of 5,000 jobs", async || pages().await > 30).await;
    let known = pages().await;
    // Half as many more: nothing to learn. Five times as many: there is.
    grow(2_500).await;
    timeout(Duration::from_millis(2500), eventually("it learns of what it need not", async || pages().await > known)).await.unwrap_err();
    grow(20_000).await;
    eventually("it knows of 27,500 jobs", async || pages().await > 4 * known).await;
    server.stop().await;
}
