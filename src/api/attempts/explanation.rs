//! Why a job does not run, in words and as it is answered.

use poem_openapi::{Enum, Object};
use serde::Serialize;

use super::Attempt;
use crate::{
    api::types::{JobStatus, Timestamp},
    queue::jobs,
};

/// Why a job does not run, or who runs it.
#[derive(Debug, Serialize, Object)]
pub struct Explanation {
    job_id: i64,
    status: JobStatus,
    /// In words: all that it waits for, or how it stands.
    summary: String,
    waits_for: Vec<Wait>,
    /// How many ready jobs of the project are more urgent, if this one is ready; counting stops at 1000.
    ahead: Option<i64>,
    /// Who has it, if somebody does.
    attempt: Option<Attempt>,
}

/// Something that a job waits for.
#[derive(Debug, Serialize, Object)]
pub struct Wait {
    kind: WaitKind,
    /// In words.
    detail: String,
    /// The jobs, if it is jobs.
    jobs: Vec<i64>,
    /// The time, if it is a time.
    until: Option<Timestamp>,
}

/// What a job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase")]
pub enum WaitKind {
    /// For other jobs to complete.
    Jobs,
    /// For its time.
    Time,
    /// For its project to be active.
    Project,
    /// For a client that has what it needs.
    Client,
}

impl From<jobs::Explanation> for Explanation {
    fn from(explanation: jobs::Explanation) -> Self {
        let jobs::Explanation { job_id, status, waits_for, ahead, busy, attempt, failed } = explanation;
        let waits_for: Vec<Wait> = waits_for.into_iter().map(Wait::from).collect();
        let summary = match (ahead, &attempt, &failed) {
            _ if !waits_for.is_empty() => waits_for.iter().map(|wait| wait.detail.as_str()).collect::<Vec<_>>().join(" "),
            (Some(ahead), ..) => {
                let busy = busy.map(|clients| format!(" All clients that are alive and have what it needs ({clients}) are busy."));
                let (before, are) = (so_many_jobs(ahead), if ahead == 1 { "is" } else { "are" });
                format!("It is ready; {before} of the project {are} more urgent.{}", busy.unwrap_or_default())
            }
            (None, Some(attempt), _) => who_has_it(attempt),
            (None, None, Some(attempt)) => why_it_failed(attempt),
            (None, None, None) => format!("It is {status}."),
        };
        Self { job_id, status: JobStatus(status), summary, waits_for, ahead, attempt: attempt.map(Attempt::from) }
    }
}

fn so_many_jobs(count: impl ToString) -> String {
    match count.to_string().as_str() {
        "1" => "1 job".to_owned(),
        count => format!("{count} jobs"),
    }
}

fn who_has_it(attempt: &jobs::Attempt) -> String {
    let number = attempt.number;
    let who = match &attempt.client_id {
        Some(client) => format!("Client {client} has it, in attempt {number}."),
        None => format!("It was fetched, in attempt {number}."),
    };
    match attempt.cancel_requested {
        true => format!("{who} It is to be cancelled: the client is told with its next heartbeat, and its lease is not extended any more."),
        false => who,
    }
}

fn why_it_failed(attempt: &jobs::Attempt) -> String {
    let said = [&attempt.error, &attempt.reason].into_iter().flatten().map(|text| in_a_line(text)).find(|line| !line.is_empty());
    match said {
        Some(said) => format!("It is FAILED. The last attempt, {}, ended with: {said}", attempt.number),
        None => format!("It is FAILED, after attempt {}.", attempt.number),
    }
}

/// How many characters of an error a summary has.
const LINE: usize = 200;

/// A text in one line, and not all of a long one.
fn in_a_line(text: &str) -> String {
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

impl From<jobs::Wait> for Wait {
    fn from(wait: jobs::Wait) -> Self {
        let new = |kind, detail| Self { kind, detail, jobs: Vec::new(), until: None };
        match wait {
            jobs::Wait::Jobs(parents) => {
                let dead = parents.iter().filter(|parent| parent.status.is_dead()).count();
                let detail = match dead {
                    0 => format!("It waits for {} to complete.", so_many_jobs(parents.len())),
                    dead => format!("It waits for {} to complete, of which {dead} cannot without a retry.", so_many_jobs(parents.len())),
                };
                Self { jobs: parents.into_iter().map(|parent| parent.id).collect(), ..new(WaitKind::Jobs, detail) }
            }
            jobs::Wait::Time(time) => {
                let until = Timestamp(time);
                let detail = format!("It waits until {}.", time.format("%Y-%m-%d %H:%M:%S UTC"));
                Self { until: Some(until), ..new(WaitKind::Time, detail) }
            }
            jobs::Wait::Archived => new(WaitKind::Project, "Its project is archived: set it to ACTIVE.".to_owned()),
            jobs::Wait::Client(needs, live) => {
                let jobs::Resources { cpu, accelerators } = needs;
                let detail =
                    format!("It needs {cpu} CPUs and {accelerators} accelerators, which none of the clients that are alive has ({live}).");
                new(WaitKind::Client, detail)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_in_a_line_of_so_many_characters() {
        for (text, line) in
            [("", ""), (" \n\t", ""), ("a", "a"), ("Traceback:\n  File \"x\"\r\n\u{1b}[31mCUDA", "Traceback: File \"x\" [31mCUDA")]
        {
            assert_eq!(in_a_line(text), line, "{text:?}");
        }
        let long = "ü".repeat(LINE);
        assert_eq!(in_a_line(&long), long);
        assert_eq!(in_a_line(&format!("{long}x")), format!("{long}…"));
    }
}
