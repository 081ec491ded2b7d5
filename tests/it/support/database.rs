//! A database for each test, cloned from a migrated template.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio_postgres::{Client, NoTls};
use whatsnext::{
    config::{Settings, Sources, load},
    postgres::{Database, migrate},
};

use super::store_url;

/// The advisory lock under which one of the tests' processes makes the template.
const TEMPLATE_LOCK: i64 = 0x7465_6d70;

/// How many connections to this database wait for a lock.
pub(crate) async fn waiting_for_locks(client: &Client) -> i64 {
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    client.query_one(waiting, &[]).await.expect("pg_stat_activity").get(0)
}

/// A database of the test's own; dropped with it.
pub(crate) struct TestDatabase {
    name: String,
}

/// The name of the template: another one for each text of the migrations.
fn template_name() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/migrations");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("the migrations").map(|file| file.expect("a file").path()).collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        std::fs::read(file).expect("a migration").hash(&mut hasher);
    }
    format!("whatsnext_template_v{}_{:016x}", migrate::newest(), hasher.finish())
}

impl TestDatabase {
    /// A migrated database.
    pub(crate) async fn new() -> Self {
        let admin = admin().await;
        let template = template_name();
        admin.query_one("select pg_advisory_lock($1)", &[&TEMPLATE_LOCK]).await.expect("the lock for the template");
        let made =
            admin.query_opt("select from pg_database where datname = $1 and datistemplate", &[&template]).await.expect("pg_database");
        if made.is_none() {
            admin.batch_execute(&format!("drop database if exists {template} with (force)")).await.expect("an old template is dropped");
            admin.batch_execute(&format!("create database {template}")).await.expect("a template is created");
            // Directly: a template is one only as long as nobody is connected to it.
            let direct = [("database_url", &*url_of(&template)), ("database_pooler", "none")];
            migrate::run(&settings_of(&template, &direct), migrate::Patience::default()).await.expect("the template is migrated");
            admin.batch_execute(&format!("alter database {template} is_template true")).await.expect("it becomes a template");
        }
        admin.query_one("select pg_advisory_unlock($1)", &[&TEMPLATE_LOCK]).await.expect("the lock is given back");
        Self::create(&admin, &format!("template {template}")).await
    }

    /// A database with nothing in it.
    pub(crate) async fn empty() -> Self {
        Self::create(&admin().await, "").await
    }

    async fn create(admin: &Client, how: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Other runs may use the same stores, and processes' ids come again.
        let random = &uuid::Uuid::new_v4().simple().to_string()[..8];
        let name = format!("whatsnext_test_{}_{}_{random}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        admin.batch_execute(&format!("create database {name} {how}")).await.expect("a database is created");
        Self { name }
    }

    /// Settings of a server on this database.
    pub(crate) fn settings(&self, flags: &[(&str, &str)]) -> Settings {
        settings_of(&self.name, flags)
    }

    /// What such a server's settings are made of.
    pub(crate) fn flags(&self, flags: &[(&str, &str)]) -> Vec<(String, String)> {
        flags_of(&self.name, flags)
    }

    /// The library's way to this database.
    pub(crate) fn database(&self) -> Database {
        Database::new(&self.settings(&[])).expect("a pool")
    }

    /// Its name, which no other test's has.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        url_of(&self.name)
    }

    /// What servers are told of it: with `WHATSNEXT_TEST_POOLER_URL` set, by way of the pooler there.
    pub(crate) fn for_servers(&self) -> [(&'static str, String); 2] {
        for_servers(&self.name)
    }

    /// A connection of the test's own.
    pub(crate) async fn connect(&self) -> Client {
        connect(&self.url()).await
    }

    /// Fails unless what [`whatsnext::queue::jobs::graph`] promises is true of every job.
    pub(crate) async fn assert_graph_is_true(&self) {
        let client = self.connect().await;
        let rows = client
            .query(
                "with truth as (
                     select j.id, j.status, j.unmet,
                            count(parent.id) filter (where parent.status <> 'COMPLETED') as unmet_in_truth,
                            coalesce(bool_or(parent.status in ('FAILED', 'BLOCKED', 'CANCELLED')), false) as dead_parent
                     from jobs j
                     left join dependencies d on d.job_id = j.id
                     left join jobs parent on parent.id = d.depends_on
                     group by j.id
                 )
                 select format('job %s is %s with unmet %s; its parents say unmet %s, dead %s', id, status, unmet, unmet_in_truth, dead_parent) as lie
                 from truth
                 where unmet <> unmet_in_truth or (status = 'PENDING' and dead_parent) or (status = 'BLOCKED' and not dead_parent)
                 union all
                 select format('the edge %s -> %s leads to or from nothing', job_id, depends_on)
                 from dependencies d
                 where not exists (select from jobs where id = d.job_id and project_id = d.project_id)
                    or not exists (select from jobs where id = d.depends_on and project_id = d.project_id)
                 union all
                 select format('project %s has %s jobs that are %s, and %s were counted', project_id, there, status, counted)
                 from (
                     select project_id, status, coalesce(sum(one), 0) as there, coalesce(sum(jobs), 0) as counted
                     from (
                         select project_id, status, 1 as one, null as jobs from jobs
                         union all
                         select project_id, status, null, jobs from job_counts
                     ) as each_way
                     group by project_id, status
                 ) as compared
                 where there <> counted
                 union all
                 select format('attempt %s of job %s is %s; the job is %s in attempt %s', a.number, a.job_id, a.status, j.status, j.attempt)
                 from attempts a
                 left join jobs j on j.id = a.job_id
                 where j.id is null or a.number > j.attempt
                    or (a.ended_at is null and (a.number <> j.attempt or j.status not in ('QUEUED', 'RUNNING')))",
                &[],
            )
            .await
            .expect("the graph can be read");
        let lies: Vec<String> = rows.iter().map(|row| row.get("lie")).collect();
        assert!(lies.is_empty(), "expected every count and every BLOCKED to be true:\n{}", lies.join("\n"));
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let name = self.name.clone();
        // The test's own runtime may be on its way out.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { admin().await.batch_execute(&format!("drop database if exists {name} with (force)")).await })
        });
        if !std::thread::panicking() {
            dropped.join().expect("it does not panic").expect("the test's database is dropped");
        }
    }
}

fn settings_of(name: &str, flags: &[(&str, &str)]) -> Settings {
    load(&Sources { flags: flags_of(name, flags), ..Sources::default() }).expect("the settings are sound").settings
}

fn flags_of(name: &str, flags: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = [
        ("redis_url", store_url("WHATSNEXT_TEST_REDIS_URL")),
        ("redis_key_prefix", name.to_owned()),
        ("disable_auth", "true".to_owned()),
        ("rate_limit_per_minute", "0".to_owned()),
    ];
    let flags = for_servers(name).into_iter().chain(own).chain(flags.iter().map(|(name, value)| (*name, (*value).to_owned())));
    flags.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn for_servers(name: &str) -> [(&'static str, String); 2] {
    match std::env::var("WHATSNEXT_TEST_POOLER_URL") {
        Ok(pooler) => [("database_url", on_server(&pooler, name)), ("database_pooler", "transaction".to_owned())],
        Err(_) => [("database_url", url_of(name)), ("database_pooler", "none".to_owned())],
    }
}

fn url_of(name: &str) -> String {
    on_server(&store_url("WHATSNEXT_TEST_DATABASE_URL"), name)
}

fn on_server(url: &str, name: &str) -> String {
    let (server, _) = url.rsplit_once('/').expect("the URL ends with a database");
    format!("{server}/{name}")
}

async fn admin() -> Client {
    connect(&store_url("WHATSNEXT_TEST_DATABASE_URL")).await
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("PostgreSQL answers");
    tokio::spawn(connection);
    client
}
