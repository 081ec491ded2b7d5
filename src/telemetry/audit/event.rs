//! What a line says, in the words of the Elastic Common Schema (<https://www.elastic.co/docs/reference/ecs>).

use std::{net::IpAddr, sync::LazyLock};

use chrono::{DateTime, SecondsFormat, Utc};
use nix::unistd::gethostname;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// Something that happened. Nothing in it is a secret or a value that somebody sent, but for the request's id.
#[derive(Debug, Clone, Serialize)]
pub struct Event<'a> {
    /// What was done, or tried: an operation's id, or a name of ours.
    #[serde(rename = "event.action")]
    pub action: &'a str,
    /// What it is about.
    #[serde(rename = "event.category")]
    pub category: [Category; 1],
    /// In which way.
    #[serde(rename = "event.type")]
    pub kind: [Kind; 1],
    /// What came of it.
    #[serde(rename = "event.outcome")]
    pub outcome: Outcome,
    /// Why somebody was kept out, where the action does not say it: a word of ours.
    #[serde(rename = "event.reason", skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Who did it: `user:7`, `key:ID`, `configuration:2` (the second of `api_keys`), `anybody`, `os:1000`.
    #[serde(rename = "user.id", skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The key with which it was done.
    #[serde(rename = "whatsnext.key.id", skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The id of the key that somebody presented, whether it was right or not.
    #[serde(rename = "whatsnext.claimed_key.id", skip_serializing_if = "Option::is_none")]
    pub claimed_key: Option<String>,
    /// In place of the key a token of it was sent.
    #[serde(rename = "whatsnext.by_token", skip_serializing_if = "is_false")]
    pub by_token: bool,
    /// From where; the first address of the network where refusals of a whole /64 are counted.
    #[serde(rename = "source.ip", skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The request's id, as it is in the answer and in the log. Its sender may have chosen it.
    #[serde(rename = "http.request.id", skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// The request's method.
    #[serde(rename = "http.request.method", skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// The answer's status.
    #[serde(rename = "http.response.status_code", skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The path as the document has it, without values.
    #[serde(rename = "whatsnext.route", skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    /// The trace that the request belongs to (W3C Trace Context).
    #[serde(rename = "trace.id", skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// What it was done to: ids that servers gave out.
    #[serde(rename = "whatsnext.target", skip_serializing_if = "Map::is_empty")]
    pub target: Map<String, Value>,
    /// How many keys the configuration has (`api_keys`), where that was changed.
    #[serde(rename = "whatsnext.configured_keys", skip_serializing_if = "Option::is_none")]
    pub configured_keys: Option<usize>,
    /// How many of these there were, besides those that have lines of their own.
    #[serde(rename = "whatsnext.audit.folded", skip_serializing_if = "Option::is_none")]
    pub folded: Option<u64>,
    /// What they were counted by. A line that names neither an address nor a user is of all others of that kind.
    #[serde(rename = "whatsnext.audit.folded_by", skip_serializing_if = "Option::is_none")]
    pub folded_by: Option<FoldedBy>,
    /// How many lines are missing before this one because they could not be written.
    #[serde(rename = "whatsnext.audit.lost", skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// How many bytes at the end of the file were no whole line and were cut off when the log was opened.
    #[serde(rename = "whatsnext.audit.torn_bytes", skip_serializing_if = "Option::is_none")]
    pub torn_bytes: Option<u64>,
    /// The last line of the chain in the files that were removed since they were old (`audit_retention_days`).
    #[serde(rename = "whatsnext.audit.removed_to", skip_serializing_if = "Option::is_none")]
    pub removed_to: Option<u64>,
    /// When the first of what is counted happened.
    #[serde(rename = "event.start", skip_serializing_if = "Option::is_none", serialize_with = "time")]
    pub since: Option<DateTime<Utc>>,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// What the queue is for.
    Api,
    /// Whether somebody is who they say.
    Authentication,
    /// Keys, tokens, users, grants, limits.
    Iam,
    /// Settings.
    Configuration,
    /// A process.
    Process,
}

/// In which way something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Something was changed.
    Change,
    /// Something was made.
    Creation,
    /// Something was deleted.
    Deletion,
    /// Somebody was kept out.
    Denied,
    /// Something began.
    Start,
    /// Something ended.
    End,
    /// Nothing changed.
    Info,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was not.
    Failure,
    /// It may have been done, but nobody was there to be told, or the server failed.
    Unknown,
}

/// What refusals are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FoldedBy {
    /// Of strangers.
    Address,
    /// Of those who have shown a key that is right, also one of the configuration.
    Key,
}

impl Event<'_> {
    /// Something of which nothing else is known.
    pub fn new(action: &str, category: Category, kind: Kind, outcome: Outcome) -> Event<'_> {
        Event {
            action,
            category: [category],
            kind: [kind],
            outcome,
            reason: None,
            user: None,
            key: None,
            claimed_key: None,
            by_token: false,
            source: None,
            request_id: None,
            method: None,
            status: None,
            route: None,
            trace: None,
            target: Map::new(),
            configured_keys: None,
            folded: None,
            folded_by: None,
            lost: None,
            torn_bytes: None,
            removed_to: None,
            since: None,
        }
    }

    /// Somebody was kept out.
    pub fn refusal(action: &str) -> Event<'_> {
        match action {
            AUTHENTICATION_FAILED => Event::new(action, Category::Authentication, Kind::Start, Outcome::Failure),
            action => Event::new(action, Category::Api, Kind::Denied, Outcome::Failure),
        }
    }

    /// As an object of JSON, which has no line ends and no control characters in it.
    pub(super) fn to_json(&self, now: DateTime<Utc>) -> Vec<u8> {
        #[derive(Serialize)]
        struct Line<'a> {
            #[serde(rename = "@timestamp")]
            timestamp: String,
            #[serde(rename = "ecs.version")]
            version: &'static str,
            #[serde(rename = "event.kind")]
            kind: &'static str,
            #[serde(rename = "event.dataset")]
            dataset: &'static str,
            #[serde(rename = "host.name")]
            host: &'static str,
            #[serde(rename = "process.pid")]
            process: u32,
            #[serde(flatten)]
            event: &'a Event<'a>,
        }
        let timestamp = rfc3339(now);
        let (host, process) = (HOST.as_str(), std::process::id());
        let line = Line { timestamp, version: "8.17.0", kind: "event", dataset: "whatsnext.audit", host, process, event: self };
        serde_json::to_vec(&line).expect("an event is plain data")
    }
}

/// Somebody was not who they said, or did not say who they are.
pub const AUTHENTICATION_FAILED: &str = "authentication_failed";

/// Somebody may not do that, or may not know that it is there.
pub const PERMISSION_DENIED: &str = "permission_denied";

/// The machine's name.
static HOST: LazyLock<String> = LazyLock::new(|| gethostname().unwrap_or_default().to_string_lossy().into_owned());

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn time<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(rfc3339).serialize(serializer)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_it_an_event_is_one_line() {
        let event = Event { request_id: Some("a\"b\\c\n{\"event.action\":\"forged\"}\u{1b}[2J\u{85}\u{2028}"), ..Event::refusal("x") };
        let json = event.to_json(Utc::now());
        assert!(json.iter().all(|byte| !byte.is_ascii_control()), "{}", String::from_utf8_lossy(&json));
        let read: Value = serde_json::from_slice(&json).expect("it is JSON");
        assert_eq!((&read["event.action"], read["http.request.id"].as_str()), (&Value::from("x"), event.request_id));
    }

    #[test]
    fn every_line_says_which_process_on_which_machine_wrote_it() {
        let json = Event::refusal("x").to_json(Utc::now());
        let read: Value = serde_json::from_slice(&json).expect("it is JSON");
        let host = gethostname().expect("a name").to_string_lossy().into_owned();
        assert!(!host.is_empty());
        assert_eq!((&read["host.name"], &read["process.pid"]), (&Value::from(host), &Value::from(std::process::id())));
    }

    #[test]
    fn every_field_of_ours_is_in_the_readme() {
        // These and the chain's, which are written by hand.
        let sources = [include_str!("event.rs"), include_str!("chain.rs")].concat();
        let documented = include_str!("../../../README.md");
        let mut names: Vec<_> =
            sources.split(['"', '\\']).filter(|text| text.starts_with("whatsnext.") && *text != "whatsnext.audit").collect();
        names.sort_unstable();
        names.dedup();
        assert!(names.contains(&"whatsnext.audit.folded_by") && names.contains(&"whatsnext.audit.hash"), "{names:?}");
        for name in names.into_iter().filter(|name| name.len() > "whatsnext.".len()) {
            assert!(documented.contains(&format!("`{name}`")), "{name} is not in README.md");
        }
    }
}
