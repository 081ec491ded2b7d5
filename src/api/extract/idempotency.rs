//! The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): who sends a request again says so, and it is done once.

use poem::{Request, RequestBody, http::HeaderName};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchema, MetaSchemaRef, Registry},
};
use serde_json::Value;

use crate::{
    api::{Error, admission::Principal},
    queue::jobs::Once,
};

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long a key may be.
const MAX_LENGTH: usize = 255;

/// The key of a request, if it has one.
#[derive(Debug)]
pub struct IdempotencyKey(Option<String>);

impl IdempotencyKey {
    /// What is to be done once: the request of this caller with this digest, if it has a key.
    pub fn of(self, caller: &Principal, digest: Option<[u8; 32]>) -> Option<Once> {
        let (key, digest) = (self.0?, digest?);
        Some(Once { caller: caller.name(), key, digest })
    }
}

impl<'a> ApiExtractor<'a> for IdempotencyKey {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = false;

    type ParamType = String;
    type ParamRawType = String;

    fn register(_: &mut Registry) {}

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        let schema = MetaSchema { min_length: Some(1), max_length: Some(MAX_LENGTH), ..MetaSchema::new("string") };
        Some(MetaSchemaRef::Inline(Box::new(schema)))
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<String>) -> poem::Result<Self> {
        let mut given = request.headers().get_all(IDEMPOTENCY_KEY).iter();
        let key = match (given.next(), given.next()) {
            (None, _) => return Ok(Self(None)),
            (Some(value), None) => key(value.as_bytes()),
            (Some(_), Some(_)) => None,
        };
        let msg = format!("must be given once, as one text of 1 to {MAX_LENGTH} printable ASCII characters");
        let refused = || Error::invalid(vec![Value::from("header"), Value::from("Idempotency-Key")], "invalid", msg);
        Ok(Self(Some(key.ok_or_else(refused)?)))
    }
}

/// A string of a structured field (RFC 9651), or the same without its quotes.
fn key(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    let value = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
    let is_key = (1..=MAX_LENGTH).contains(&value.len()) && value.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    is_key.then(|| String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_with_and_without_quotes() {
        for text in ["8e03978e", "\"8e03978e\"", "  8e03978e "] {
            assert_eq!(key(text.as_bytes()).as_deref(), Some("8e03978e"), "{text:?}");
        }
        let long = "x".repeat(MAX_LENGTH + 1);
        for text in ["", "\"\"", "   ", "a\tb", "\u{e9}", &long] {
            assert_eq!(key(text.as_bytes()), None, "{text:?}");
        }
    }
}
