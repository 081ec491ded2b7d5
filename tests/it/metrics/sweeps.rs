//! What a server does now and then, when that fails.

use super::{STALE, start_with};
use crate::support::{TestDatabase, within};

#[tokio::test]
async fn sweeps_that_fail_are_counted_and_the_log_tells_of_it_once_and_of_its_end() {
    let database = TestDatabase::new().await;
    let (process, scraper) = start_with(&database, &[("LOG_FORMAT", "json")]).await;
    let count = async |outcome: &str| scraper.scrape().await.value("whatsnext_sweeps_total", &[("outcome", outcome)]);
    within(STALE, "sweeps are counted", async || count("ok").await > 0.0).await;
    assert_eq!(count("failed").await, 0.0);
    let client = database.connect().await;
    client.batch_execute("alter table attempts rename to gone").await.unwrap();
    within(STALE, "those that fail are, too", async || count("failed").await >= 3.0).await;
    client.batch_execute("alter table gone rename to attempts").await.unwrap();
    let (failed, done) = (count("failed").await, count("ok").await);
    within(STALE, "they go well again", async || count("ok").await >= done + 10.0).await;
    assert!(count("failed").await <= failed + 1.0, "one may have been under way");
    let log = process.terminate().await;
    let lines = |level: &str, text: &str| {
        let is_it = |line: &&str| line.contains("taking jobs back whose leases have ended") && line.contains(level) && line.contains(text);
        log.lines().filter(is_it).count()
    };
    assert_eq!((lines("WARN", "failed"), lines("INFO", "goes well again")), (1, 1), "{log}");
}
