//! Times.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json};

/// A time in UTC with exactly six fractional digits, which is what Python 3.10 reads.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp(pub DateTime<Utc>);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, false))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let time: DateTime<Utc> = DateTime::deserialize(deserializer)?;
        match (1970..=9999).contains(&time.year()) {
            true => Ok(Self(time)),
            false => Err(de::Error::custom("must be a time from 1970 to 9999")),
        }
    }
}

documented!(
    Timestamp,
    "timestamp",
    MetaSchema { example: Some(json!("2026-01-31T09:30:00.000000+00:00")), ..MetaSchema::new_with_format("string", "date-time") }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_six_digits_and_a_numeric_offset() {
        let time = Timestamp(DateTime::from_timestamp(0, 5_000).expect("a time"));
        assert_eq!(serde_json::to_string(&time).expect("it is written"), "\"1970-01-01T00:00:00.000005+00:00\"");
    }
}
