//! RFC 9457 problem details, as they are written and as the OpenAPI document describes them.

use poem::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use poem_openapi::{
    Object,
    registry::{MetaMediaType, MetaResponse},
    types::Type,
};
use serde::Serialize;
use serde_json::Value;

use super::reply::protect;
use crate::http::Whole;

/// The media type of problem details.
const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong, as RFC 9457 says it.
#[derive(Debug, Clone, Serialize, Object)]
pub(super) struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// One sentence for people: what is wrong, and what to do about it.
    pub detail: String,
    /// With 422: what is wrong where.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[oai(default)]
    pub errors: Vec<Invalid>,
    /// With 409, where an attempt is over: the number of the job's attempt now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(default)]
    pub current_attempt: Option<i32>,
    /// The request's id, also in the server's log.
    pub request_id: String,
}

/// One invalid value in a request.
#[derive(Debug, Clone, PartialEq, Serialize, Object)]
pub(super) struct Invalid {
    /// The way to the value: `["body", "jobs", 3, "name"]`.
    pub loc: Vec<Value>,
    /// What is wrong with it.
    pub msg: String,
    /// What kind of wrong, for programs: `missing`, `invalid`, `json_invalid`, `out_of_range`.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    pub kind: String,
}

/// A problem that is written, all but the id of the request: some are told to many.
#[derive(Debug, Clone)]
pub(super) struct Written {
    status: StatusCode,
    headers: HeaderMap,
    /// Up to the id.
    body: Vec<u8>,
}

impl Written {
    /// Writes a problem without an id.
    pub(super) fn new(problem: &Problem, status: StatusCode, headers: &[(HeaderName, HeaderValue)]) -> Self {
        let mut body = serde_json::to_vec(problem).expect("a problem is plain data");
        // The id is the last of its fields, and empty.
        body.truncate(body.len() - r#"""}"#.len());
        let mut all = HeaderMap::with_capacity(headers.len() + 6);
        all.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        all.extend(headers.iter().cloned());
        protect(&mut all);
        Self { status, headers: all, body }
    }

    /// The answer to the request with this id.
    pub(super) fn answer(&self, request_id: &str) -> Whole {
        let mut body = Vec::with_capacity(self.body.len() + request_id.len() + 3);
        body.extend_from_slice(&self.body);
        match request_id.bytes().any(|byte| matches!(byte, b'"' | b'\\')) {
            true => serde_json::to_writer(&mut body, request_id).expect("a text can be written"),
            // Ids are printable ASCII, of which nothing else is written in another way.
            false => body.extend([b"\"", request_id.as_bytes(), b"\""].into_iter().flatten()),
        }
        body.push(b'}');
        let mut answer = Whole::new(body.into());
        *answer.status_mut() = self.status;
        *answer.headers_mut() = self.headers.clone();
        answer
    }
}

/// How the document describes a problem with this status.
pub(super) fn problem_meta(status: u16, description: &'static str) -> MetaResponse {
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType { content_type: PROBLEM_JSON, schema: Problem::schema_ref() }],
        headers: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Callers choose ids: any printable ASCII.
    #[test]
    fn the_id_is_a_text_whatever_is_in_it() {
        let problem = Problem {
            kind: "about:blank".to_owned(),
            title: "Conflict".to_owned(),
            status: 409,
            detail: "It is \"so\".".to_owned(),
            errors: Vec::new(),
            current_attempt: Some(2),
            request_id: String::new(),
        };
        let written = Written::new(&problem, StatusCode::CONFLICT, &[]);
        let printable: String = (b' '..=b'~').map(char::from).collect();
        for id in ["", "01a20e15-55a7-7126-bf47-2c8f78d80107", "\"", "\\", "a\"}", &printable] {
            let answer = written.answer(id);
            let read: Value = serde_json::from_slice(answer.body()).expect("it is JSON");
            assert_eq!((&read["request_id"], &read["current_attempt"]), (&Value::from(id), &Value::from(2)), "{id}");
            assert_eq!(answer.status(), StatusCode::CONFLICT);
        }
    }
}
