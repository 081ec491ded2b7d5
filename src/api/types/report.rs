//! What clients report: a result, the end of a log, how far they are.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Value, json, value::RawValue};

use super::parameters::check_sound;

/// How many bytes a result, and a log's end, may have.
const LIMIT: usize = 64 * 1024;

/// What came out of a job: any JSON of at most 64 KiB, given back to the letter.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome(pub Box<RawValue>);

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        if raw.get().len() > LIMIT {
            return Err(de::Error::custom(format_args!("must have at most {LIMIT} bytes: store it elsewhere, and say here where")));
        }
        check_sound(&raw).map_err(de::Error::custom)?;
        Ok(Self(raw))
    }
}

documented!(
    Outcome,
    "outcome",
    MetaSchema { description: Some("Any JSON of at most 64 KiB."), example: Some(json!({"accuracy": 0.97})), ..MetaSchema::ANY }
);

/// The last lines that a program wrote: at most 64 KiB. NUL, which PostgreSQL cannot store, becomes U+FFFD: a report must not fail because of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LogTail(pub String);

impl<'de> Deserialize<'de> for LogTail {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.len() > LIMIT {
            true => Err(de::Error::custom(format_args!("must have at most {LIMIT} bytes: send the end of it"))),
            false => Ok(Self(text.replace('\0', "\u{fffd}"))),
        }
    }
}

documented!(LogTail, "log_tail", MetaSchema { max_length: Some(LIMIT), ..MetaSchema::new("string") });

/// How far somebody is: from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fraction(pub f64);

impl<'de> Deserialize<'de> for Fraction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        match (0.0..=1.0).contains(&number) {
            true => Ok(Self(number)),
            false => Err(de::Error::custom("must be from 0 to 1")),
        }
    }
}

documented!(Fraction, "fraction", MetaSchema { minimum: Some(0.0), maximum: Some(1.0), ..MetaSchema::new_with_format("number", "double") });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reported_has_its_limits() {
        let result = |length: usize| serde_json::from_str::<Outcome>(&format!("\"{}\"", "x".repeat(length - 2)));
        assert!(result(LIMIT).is_ok() && result(LIMIT + 1).is_err());
        assert!(serde_json::from_str::<Outcome>(r#"{"a":1e400}"#).is_err(), "what could not be given back");
        let tail = |text: &str| serde_json::from_value::<LogTail>(json!(text));
        assert_eq!(tail("a\0b").expect("it is taken").0, "a\u{fffd}b");
        assert!(tail(&"x".repeat(LIMIT)).is_ok() && tail(&"x".repeat(LIMIT + 1)).is_err());
        for (text, fits) in [("0", true), ("1", true), ("0.5", true), ("-0.1", false), ("1.1", false), ("\"x\"", false)] {
            assert_eq!(serde_json::from_str::<Fraction>(text).is_ok(), fits, "{text}");
        }
    }
}
