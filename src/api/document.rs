//! The OpenAPI document: what poem-openapi makes of the operations, with what it leaves out.
//!
//! poem-openapi writes OpenAPI 3.0. Added here, once for all operations: the answers that every operation can give, the headers of every answer, the
//! scope that it needs (`x-required-scope`), which fields may be null or missing, examples (`examples.json`), and whole numbers where poem-openapi
//! holds floating point.

use std::collections::BTreeSet;

use poem::http::Method;
use poem_openapi::{
    ContactObject, LicenseObject, OpenApi, OpenApiService,
    registry::{MetaApi, MetaHeader, MetaOperation, MetaResponse, Registry},
    types::Type,
};
use serde_json::{Map, Value, json};

use super::{
    extract::SCHEMES,
    problem::{Problem, problem_meta},
    reply::text_header,
};

const EXAMPLES: &str = include_str!("examples.json");

const DESCRIPTION: &str = "A job queue that labs, private clouds and research clusters run for themselves. Projects hold tasks, a job is one task with \
     parameters; machines with free CPUs and GPUs ask what is next and run it.\n\nEvery path answers the same with and without a trailing slash. \
     Everything that goes wrong is answered as problem details (RFC 9457).";

/// The document as JSON, its names in a stable order.
pub fn document<T: OpenApi>(api: T) -> Value {
    let service = OpenApiService::new(Documented(api), "WhatsNext", env!("CARGO_PKG_VERSION"))
        .description(DESCRIPTION)
        .license(LicenseObject::new("MIT OR Apache-2.0").url("https://spdx.org/licenses/"))
        .contact(ContactObject::new().name("The WhatsNext developers"));
    let mut document: Value = serde_json::from_str(&service.spec()).expect("poem-openapi writes JSON");
    document["openapi"] = json!("3.0.3");
    whole_numbers(&mut document);
    lone_references(&mut document);
    scopes(&mut document);
    nulls(&mut document);
    examples(&mut document);
    plain_media_types(&mut document);
    document
}

/// Whether HEAD may be answered by this GET: it needs no more than reading, or nothing.
pub fn is_safe(operation: &MetaOperation) -> bool {
    operation.method == Method::GET && scope(operation).is_none_or(|scope| scope == "read")
}

/// The scope that an operation needs; `None` if it is open to everybody, or to whoever has a key.
fn scope(operation: &MetaOperation) -> Option<&'static str> {
    operation.security.first()?.values().next()?.first().copied()
}

/// Adds to each operation what all share.
struct Documented<T>(T);

impl<T: OpenApi> OpenApi for Documented<T> {
    fn meta() -> Vec<MetaApi> {
        let mut meta = T::meta();
        for operation in meta.iter_mut().flat_map(|api| &mut api.paths).flat_map(|path| &mut path.operations) {
            let shared = shared(operation);
            let responses = &mut operation.responses.responses;
            for response in shared {
                if responses.iter().all(|own| own.status != response.status) {
                    responses.push(response);
                }
            }
            responses.sort_by_key(|response| response.status);
            for response in responses {
                add_headers(response);
            }
        }
        meta
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
        Problem::register(registry);
    }

    fn add_routes(
        self,
        table: &mut std::collections::HashMap<String, std::collections::HashMap<Method, poem::endpoint::BoxEndpoint<'static>>>,
    ) {
        self.0.add_routes(table);
    }
}

/// The answers that an operation can give besides its own.
fn shared(operation: &MetaOperation) -> Vec<MetaResponse> {
    let mut statuses = vec![
        (400, "The request cannot be understood: its percent-encoding, two different keys, or what the detail says."),
        (500, "The server failed; its log says why."),
        (503, "A store is not available, or the answer took too long. Try again after `Retry-After` seconds."),
    ];
    if !operation.security.is_empty() {
        statuses.extend([
            (401, "No key, or not a valid one."),
            (403, "The key is not good for this; the detail says what is missing."),
            (429, "Over the rate limit. Try again after `Retry-After` seconds."),
        ]);
    }
    if !operation.params.is_empty() || operation.request.is_some() {
        statuses.push((422, "A value is missing or invalid; `errors` says which."));
    }
    if operation.request.is_some() {
        statuses.extend([
            (408, "The body did not arrive in time."),
            (413, "The body is too large."),
            (415, "The body is not `application/json`."),
        ]);
    }
    statuses.into_iter().map(|(status, description)| problem_meta(status, description)).collect()
}

fn add_headers(response: &mut MetaResponse) {
    let mut add = |name: &str, description: &str, schema| response.headers.push(text_header(name, description, schema));
    add("X-Request-Id", "The request's id: the one that was sent, or a new one.", String::schema_ref());
    match response.status {
        Some(401) => add("WWW-Authenticate", "How to give a key.", String::schema_ref()),
        Some(429) => {
            add("Retry-After", "Seconds until a request is admitted again.", u32::schema_ref());
            add("RateLimit", "What is left of the limit.", String::schema_ref());
            add("RateLimit-Policy", "The limit.", String::schema_ref());
        }
        Some(503) => {
            let header = text_header("Retry-After", "Seconds after which to try again.", u32::schema_ref());
            response.headers.push(MetaHeader { required: false, ..header });
        }
        _ => {}
    }
}

/// `1000.0` is `1000`: limits are whole numbers.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for name in ["minimum", "maximum"] {
                if let Some(bound) = object.get(name).and_then(Value::as_f64) {
                    #[expect(clippy::cast_possible_truncation, reason = "bounds are whole and below 2^53, or not given")]
                    object.insert(name.to_owned(), json!(bound as i64));
                }
            }
            object.values_mut().for_each(whole_numbers);
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// Scopes belong to OAuth in OpenAPI 3.0; ours are an extension of the operation.
fn scopes(document: &mut Value) {
    for operation in operations(document) {
        let Some(security) = operation.get("security").and_then(Value::as_array) else { continue };
        let scope = security.iter().filter_map(Value::as_object).flat_map(Map::values).find_map(|scopes| scopes.get(0).cloned());
        operation.insert("security".to_owned(), SCHEMES.iter().map(|scheme| json!({ *scheme: [] })).collect());
        if let Some(scope) = scope {
            operation.insert("x-required-scope".to_owned(), scope);
        }
    }
}

/// poem-openapi adds what is said of a field to a reference as if it were a second schema: `allOf: [{$ref}, {description, default}]`. Generators make
/// a class of its own of that. Said of the field itself, it means the same and they do not.
fn lone_references(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Array(parts)) = object.get_mut("allOf") {
                let said: Vec<Value> = parts.extract_if(.., |part| part.get("$ref").is_none()).collect();
                for (name, value) in said.into_iter().filter_map(|part| part.as_object().cloned()).flatten() {
                    object.insert(name, value);
                }
            }
            object.values_mut().for_each(lone_references);
        }
        Value::Array(items) => items.iter_mut().for_each(lone_references),
        _ => {}
    }
}

/// Says which fields may be null and which may be missing.
///
/// poem-openapi knows only "not required". In a request an optional field may be null or missing. In an answer every field is there, null or not,
/// but for those that have a default, which are there only when they say something.
fn nulls(document: &mut Value) {
    let requests = request_schemas(document);
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut).into_iter().flatten();
    for (name, schema) in schemas {
        let required: Vec<Value> = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        let is_answer = !requests.contains(name);
        let mut always = Vec::new();
        let properties = schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten();
        for (name, property) in properties.filter_map(|(name, property)| Some((name, property.as_object_mut()?))) {
            let is_required = required.iter().any(|required| required == name);
            let default = property.get("default").cloned();
            if !is_required && default.as_ref().is_none_or(|default| default.is_null() && !is_answer) {
                property.insert("nullable".to_owned(), json!(true));
            }
            if is_answer || default == Some(Value::Null) {
                property.remove("default");
            }
            if is_required || (is_answer && default.is_none()) {
                always.push(json!(name));
            }
        }
        if let Some(schema) = schema.as_object_mut().filter(|_| !always.is_empty()) {
            schema.insert("required".to_owned(), Value::Array(always));
        }
    }
}

/// The names of the schemas that requests use, directly or inside of others.
fn request_schemas(document: &mut Value) -> BTreeSet<String> {
    let mut open: Vec<String> = operations(document).filter_map(|operation| operation.get("requestBody")).flat_map(references).collect();
    let mut found = BTreeSet::new();
    while let Some(name) = open.pop() {
        let inner = document.pointer(&format!("/components/schemas/{name}")).map(references).unwrap_or_default();
        if found.insert(name) {
            open.extend(inner);
        }
    }
    found
}

/// The names of the schemas that a part of the document refers to.
fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(object) => {
            let own = object.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next()).map(ToOwned::to_owned);
            own.into_iter().chain(object.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

/// Gives schemas their examples.
fn examples(document: &mut Value) {
    let examples: Map<String, Value> = serde_json::from_str(EXAMPLES).expect("examples.json is an object");
    for (name, example) in examples {
        let schema = document.pointer_mut(&format!("/components/schemas/{name}")).and_then(Value::as_object_mut);
        schema.expect("each example has a schema").insert("example".to_owned(), example);
    }
}

/// All operations of a document.
fn operations(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let paths = document.get_mut("paths").and_then(Value::as_object_mut).into_iter().flat_map(|paths| paths.values_mut());
    paths.filter_map(Value::as_object_mut).flat_map(|path| path.values_mut()).filter_map(Value::as_object_mut)
}

/// A media type's name without parameters, as generators expect it.
fn plain_media_types(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Object(content)) = object.get_mut("content") {
                let plain = content.iter().map(|(name, media)| (name.split(';').next().unwrap_or(name).to_owned(), media.clone()));
                *content = plain.collect();
            }
            object.values_mut().for_each(plain_media_types);
        }
        Value::Array(items) => items.iter_mut().for_each(plain_media_types),
        _ => {}
    }
}
