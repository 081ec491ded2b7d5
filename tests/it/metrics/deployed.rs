//! What `deploy/` makes of the metrics: alert rules and a dashboard.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
};

use regex::Regex;
use serde_json::Value;

use super::scrape::{busy, promtool};

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(deployed(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

/// All matches of a pattern's first group.
fn found<'a>(pattern: &str, text: &'a str) -> BTreeSet<&'a str> {
    Regex::new(pattern).expect("a pattern").captures_iter(text).map(|found| found.get(1).expect("a group").as_str()).collect()
}

/// All expressions of a dashboard, wherever they stand.
fn expressions(of: &Value, found: &mut Vec<String>) {
    match of {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str().filter(|_| ["expr", "query"].contains(&name.as_str())) {
                    Some(text) => found.push(text.to_owned()),
                    None => expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_metric_that_rules_and_dashboard_name_is_told() {
    let (_database, _process, scraper) = busy().await;
    let scrape = scraper.scrape().await;
    let told = scrape.names();

    let dashboard: Value = serde_json::from_str(&read("grafana/whatsnext.json")).expect("the dashboard is JSON");
    let mut of_dashboard = Vec::new();
    expressions(&dashboard, &mut of_dashboard);
    assert!(of_dashboard.len() > 30, "the expressions are found");
    let labels = Regex::new(r#"\b(status|outcome|reason|way|job|class)(?:!=|=)"([^"]+)""#).expect("a pattern");
    for (place, text) in [("prometheus/rules.yml", read("prometheus/rules.yml")), ("grafana/whatsnext.json", of_dashboard.join("\n"))] {
        let named = found(r"\b((?:whatsnext|process)_\w+)", &text);
        assert!(named.len() > 15, "the names are found: {named:?}");
        let unknown: Vec<_> = named.difference(&told).collect();
        assert!(unknown.is_empty(), "expected deploy/{place} to name what is told, but not {unknown:?}; there are {told:?}");
        // Whatever a label is asked for must be one.
        for (label, value) in labels.captures_iter(&text).map(|found| (found[1].to_owned(), found[2].to_owned())) {
            let is_told = scrape.text.contains(&format!("{label}=\"{value}\"")) || (label == "job" && value == "whatsnext");
            assert!(is_told, "deploy/{place} asks for {label}=\"{value}\", which is never told");
        }
    }
    for expression in of_dashboard.iter().filter(|expression| expression.contains("_")) {
        parse(expression);
    }
}

/// Where the README names many together, it ends what they begin with in an ellipsis.
#[tokio::test]
async fn every_metric_that_is_told_is_in_the_readme() {
    let (_database, _process, scraper) = busy().await;
    let readme = read("../README.md");
    let named = found(r"`((?:whatsnext|process)_\w*…?)`", &readme);
    let is_named =
        |name: &str| named.iter().any(|pattern| pattern.strip_suffix('…').map_or(*pattern == name, |start| name.starts_with(start)));
    let scrape = scraper.scrape().await;
    let told = scrape.names();
    let unnamed: Vec<_> = told.iter().filter(|name| !is_named(name)).collect();
    assert!(unnamed.is_empty(), "expected README.md to name {unnamed:?}");
}

/// Lets Prometheus read an expression of the dashboard, with Grafana's variables filled in.
fn parse(expression: &str) {
    if expression.starts_with("label_values") {
        return;
    }
    let filled = expression.replace("$__rate_interval", "5m").replace("$instance", ".*");
    let mut file = tempfile::Builder::new().suffix(".yml").tempfile().expect("a file");
    let rule = serde_json::json!({"groups": [{"name": "g", "rules": [{"record": "r", "expr": filled}]}]});
    write!(file, "{rule}").expect("it is written");
    promtool(&["check", "rules", file.path().to_str().expect("UTF-8")], "");
}

#[test]
fn the_alert_rules_hold_and_each_is_tested() {
    promtool(&["check", "rules", deployed("prometheus/rules.yml").to_str().expect("UTF-8")], "");
    promtool(&["test", "rules", deployed("prometheus/rules.test.yml").to_str().expect("UTF-8")], "");
    let (rules, tests) = (read("prometheus/rules.yml"), read("prometheus/rules.test.yml"));
    let alerts = found(r"(?m)^ +- alert: (\w+)$", &rules);
    assert!(alerts.len() >= 15, "{alerts:?}");
    assert_eq!(alerts, found(r"(?s)alertname: (\w+)\n +exp_alerts:\n +- exp_labels", &tests), "each fires in a test");
}
