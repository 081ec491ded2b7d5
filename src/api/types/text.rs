//! Texts of a certain length.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

/// A text of `MIN` to `MAX` characters without NUL, which PostgreSQL cannot store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Text<const MIN: usize, const MAX: usize>(String);

/// What people call a thing.
pub type Name = Text<1, 255>;
/// Something to read.
pub type Prose = Text<0, 65536>;
/// A line to read.
pub type Line = Text<0, 1000>;

impl<const MIN: usize, const MAX: usize> Text<MIN, MAX> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl<const MIN: usize, const MAX: usize> Default for Text<MIN, MAX> {
    fn default() -> Self {
        Self(String::new())
    }
}

impl<const MIN: usize, const MAX: usize> From<String> for Text<MIN, MAX> {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Text<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let length = text.chars().count();
        if text.contains('\0') {
            Err(de::Error::custom("must not contain the NUL character"))
        } else if length < MIN {
            Err(de::Error::custom("must not be empty"))
        } else if length > MAX {
            Err(de::Error::custom(format_args!("must have at most {MAX} characters")))
        } else {
            Ok(Self(text))
        }
    }
}

/// What a client is called by: 1 to 128 letters, digits, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientId(pub String);

impl ClientId {
    /// Whether this can be a client's id.
    pub fn is_one(text: &str) -> bool {
        (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    }
}

impl<'de> Deserialize<'de> for ClientId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match Self::is_one(&text) {
            true => Ok(Self(text)),
            false => Err(de::Error::custom("must be 1 to 128 letters, digits, _ and -")),
        }
    }
}

documented!(ClientId, "client_id", MetaSchema { pattern: Some("^[A-Za-z0-9_-]{1,128}$".to_owned()), ..MetaSchema::new("string") });

fn text(min: usize, max: usize) -> MetaSchema {
    let min_length = (min > 0).then_some(min);
    MetaSchema { min_length, max_length: Some(max), ..MetaSchema::new("string") }
}

documented!(Name, "name", text(1, 255));
documented!(Prose, "prose", text(0, 65536));
documented!(Line, "line", text(0, 1000));
