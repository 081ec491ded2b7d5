//! JSON bodies.

use std::{io, marker::PhantomData};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, combinators::BoxBody};
use poem::{
    Request, RequestBody,
    http::{StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaMediaType, MetaRequest, Registry},
    types::Type,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Segment, Track};
use sha2::{Digest, Sha256};
use tokio::time::timeout_at;

use super::{Context, idempotency::IDEMPOTENCY_KEY, objects::Objects};
use crate::api::{Error, budget::Share};

/// How many bytes over the limit are read, and thrown away, so that the client can read the answer.
const THROWN_AWAY: usize = 64 * 1024 * 1024;

/// How large bodies may be, in bytes. Set by [`crate::api::edge`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Any request but a batch.
    pub single: usize,
    /// A batch.
    pub batch: usize,
}

/// Which of the limits holds.
pub trait Size {
    /// The limit in bytes.
    fn of(limits: &Limits) -> usize;
}

/// An ordinary body.
#[derive(Debug)]
pub struct Single;

/// Many things in one body.
#[derive(Debug)]
pub struct Batch;

impl Size for Single {
    fn of(limits: &Limits) -> usize {
        limits.single
    }
}

impl Size for Batch {
    fn of(limits: &Limits) -> usize {
        limits.batch
    }
}

/// A JSON body, read by serde. Unknown fields are ignored; anything else that is not as documented is refused with its place.
#[derive(Debug)]
pub struct Body<T, S = Single> {
    value: T,
    digest: Option<[u8; 32]>,
    size: PhantomData<S>,
}

impl<T, S> Body<T, S> {
    /// What was sent.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// Of all that the request asks: its operation and its body to the letter. Only for a request with an `Idempotency-Key`.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }
}

impl<'a, T: Type + DeserializeOwned + Send, S: Size> ApiExtractor<'a> for Body<T, S> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = vec![MetaMediaType { content_type: "application/json", schema: T::schema_ref() }];
        Some(MetaRequest { description: None, required: true, content })
    }

    async fn from_request(request: &'a Request, body: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        check_type(request)?;
        let bytes = receive::<S>(request, body).await?;
        let digest = request.headers().contains_key(IDEMPOTENCY_KEY).then(|| digest(request, &bytes));
        Ok(Self { value: parse(&bytes)?, digest, size: PhantomData })
    }
}

/// A JSON body that may be left out.
#[derive(Debug)]
pub struct OptionalBody<T>(Option<T>);

impl<T> OptionalBody<T> {
    /// What was sent, if anything was.
    pub fn into_inner(self) -> Option<T> {
        self.0
    }

    /// What was sent, or what it is if nothing is said.
    pub fn or_default(self) -> T
    where
        T: Default,
    {
        self.0.unwrap_or_default()
    }
}

impl<'a, T: Type + DeserializeOwned + Send> ApiExtractor<'a> for OptionalBody<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        Body::<T>::request_meta().map(|meta| MetaRequest { required: false, ..meta })
    }

    async fn from_request(request: &'a Request, body: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        let bytes = receive::<Single>(request, body).await?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        // Of nothing no type is asked.
        check_type(request)?;
        Ok(Self(Some(parse(&bytes)?)))
    }
}

/// Reads a body in the time that the request has.
async fn receive<S: Size>(request: &Request, body: &mut RequestBody) -> poem::Result<BytesMut> {
    let context = Context::of(request);
    let limit = S::of(context.limits());
    let bytes = timeout_at(context.deadline().instant(), read(body.take()?.into(), limit, context.share())).await;
    Ok(bytes.map_err(|_| too_slow())??)
}

fn digest(request: &Request, body: &[u8]) -> [u8; 32] {
    let path = request.original_uri().path().trim_end_matches('/');
    Sha256::new()
        .chain_update(request.method().as_str())
        .chain_update(" ")
        .chain_update(path)
        .chain_update("\n")
        .chain_update(body)
        .finalize()
        .into()
}

fn check_type(request: &Request) -> Result<(), Error> {
    let coded = request.headers().get(header::CONTENT_ENCODING);
    if coded.is_some_and(|coding| coding.as_bytes() != b"identity") {
        return Err(Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send the body without Content-Encoding."));
    }
    let given = match request.headers().get(header::CONTENT_TYPE) {
        None => return Ok(()),
        Some(given) => given.to_str().unwrap_or_default(),
    };
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send the body as application/json."))
}

fn too_large(limit: usize) -> Error {
    let detail = format!("The request's body is larger than {limit} bytes: send less at once.");
    Error::new(StatusCode::PAYLOAD_TOO_LARGE, detail).closing()
}

fn too_slow() -> Error {
    let detail = "The request's body did not arrive in time.";
    Error::new(StatusCode::REQUEST_TIMEOUT, detail).closing()
}

/// Reads a body up to the limit. What is over it is read and thrown away, up to a larger limit: a client that is still sending would see its connection
/// reset and never read the answer.
async fn read(mut body: BoxBody<Bytes, io::Error>, limit: usize, share: &Share) -> Result<BytesMut, Error> {
    let mut bytes = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::bad_request("The request's body ended early or could not be read.").with_cause(error))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length <= limit {
            share.grow_to(length).map_err(Error::closing)?;
            bytes.extend_from_slice(&data);
        } else if length <= limit.saturating_add(THROWN_AWAY) {
            bytes = BytesMut::new();
        } else {
            break;
        }
    }
    if length <= limit { Ok(bytes) } else { Err(too_large(limit)) }
}

/// Reads JSON; the error knows where it happened.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut track = Track::new();
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(Objects(serde_path_to_error::Deserializer::new(&mut reader, &mut track)));
    let value = value.map_err(|error| {
        let mut loc = vec![Value::from("body")];
        for segment in track.path().iter() {
            match segment {
                Segment::Map { key } => loc.push(Value::from(key.as_str())),
                Segment::Seq { index } => loc.push(Value::from(*index)),
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        explain(loc, &error)
    })?;
    reader.end().map_err(|error| explain(vec![Value::from("body")], &error))?;
    Ok(value)
}

fn explain(mut loc: Vec<Value>, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    if !error.is_data() {
        return Error::invalid(vec![Value::from("body")], "json_invalid", format!("not JSON: {text}"));
    }
    // serde_json puts the position in the text, which says nothing to who sent it from a program.
    let text = in_plain_words(text.split(" at line ").next().unwrap_or_default());
    match text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        Some(field) => {
            loc.push(Value::from(field));
            Error::invalid(loc, "missing", "this field is required")
        }
        None => Error::invalid(loc, "invalid", text),
    }
}

/// What serde says, without the names of Rust's types.
fn in_plain_words(text: &str) -> String {
    let Some((found, expected)) = text.split_once(", expected ") else { return text.to_owned() };
    let expected = match expected {
        "i64" | "i32" => "a whole number",
        other if other.starts_with("struct ") => "an object",
        "a sequence" => "an array",
        "a map" => "an object",
        other => other,
    };
    format!("{found}, expected {expected}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Outer {
        jobs: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Inner {
        name: String,
        priority: i32,
    }

    fn problem(text: &str) -> String {
        parse::<Outer>(text.as_bytes()).expect_err("it is refused").to_string()
    }

    #[test]
    fn an_error_names_its_place() {
        let wrong = r#"{"jobs":[{"name":"a","priority":1},{"name":2,"priority":1}]}"#;
        assert_eq!(problem(wrong), "Invalid request: body.jobs.1.name: invalid type: integer `2`, expected a string.");
        assert_eq!(problem(r#"{"jobs":[{"name":"a"}]}"#), "Invalid request: body.jobs.0.priority: this field is required.");
        assert_eq!(problem("{}"), "Invalid request: body.jobs: this field is required.");
        assert_eq!(problem("{\"jobs\":1}"), "Invalid request: body.jobs: invalid type: integer `1`, expected an array.");
        let fraction = r#"{"jobs":[{"name":"a","priority":1.5}]}"#;
        assert_eq!(
            problem(fraction),
            "Invalid request: body.jobs.0.priority: invalid type: floating point `1.5`, expected a whole number."
        );
    }

    #[test]
    fn an_array_is_not_an_object_with_its_fields_in_order() {
        let expected = "invalid type: sequence, expected an object.";
        assert_eq!(problem(r#"[[["a",1]]]"#), format!("Invalid request: body: {expected}"));
        assert_eq!(problem(r#"{"jobs":[["a",1]]}"#), format!("Invalid request: body.jobs.0: {expected}"));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "{\"jobs\":[]}x", "{\"jobs\":[],\"jobs\":[]}", "\u{0}", "{\"jobs\":[{\"name\":\"\\ud800\",\"priority\":1}]}"]
        {
            assert!(problem(text).starts_with("Invalid request: body"), "{text:?}: {}", problem(text));
        }
    }
}
