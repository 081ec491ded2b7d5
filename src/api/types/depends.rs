//! What a job depends on.

use std::{borrow::Cow, fmt};

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json, value::RawValue};

use crate::api::extract::FromText;

/// The jobs that a job depends on, in a request: an object with their ids as names. The values (their names) are not looked at.
///
/// The published command line numbers them instead: `{"0": "17", "1": "18"}` for jobs 17 and 18. No job has the id 0, so a name "0" tells.
#[derive(Debug, Clone, Default)]
pub struct Depends(Vec<i64>);

impl Serialize for Depends {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|id| (id, "")))
    }
}

impl Depends {
    /// The ids, ascending.
    pub fn into_ids(self) -> Vec<i64> {
        self.0
    }
}

impl<'de> Deserialize<'de> for Depends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Depends;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with job ids as names")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Depends, A::Error> {
                let mut given = Vec::new();
                while let Some((id, name)) = entries.next_entry::<String, String>()? {
                    given.push((id, name));
                }
                let numbered = given.iter().any(|(position, _)| position == "0");
                let mut ids = Vec::with_capacity(given.len());
                for (name, value) in &given {
                    let id = if numbered { value } else { name };
                    ids.push(job_id(id).ok_or_else(|| de::Error::custom(format_args!("{id:?} is not a job's id")))?);
                }
                ids.sort_unstable();
                match ids.windows(2).find(|pair| pair[0] == pair[1]) {
                    Some(twice) => Err(de::Error::custom(format_args!("job {} is there twice", twice[0]))),
                    None => Ok(Depends(ids)),
                }
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

fn job_id(text: &str) -> Option<i64> {
    i64::from_text(text).ok()
}

documented!(Depends, "depends", depends());

/// The jobs that a job depends on, in an answer: their ids, and their names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DependsOn(pub Box<RawValue>);

documented!(DependsOn, "depends_on", depends());

fn depends() -> MetaSchema {
    MetaSchema {
        additional_properties: Some(Box::new(String::schema_ref())),
        example: Some(json!({"17": "preprocess"})),
        ..MetaSchema::new("object")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depends_on(text: &str) -> Result<Vec<i64>, String> {
        serde_json::from_str::<Depends>(text).map(Depends::into_ids).map_err(|error| error.to_string())
    }

    #[test]
    fn depends_is_read_by_id_and_as_the_published_command_line_numbers_it() {
        assert_eq!(depends_on(r#"{"18":"b","17":"a"}"#), Ok(vec![17, 18]));
        assert_eq!(depends_on(r#"{"0":"18","1":"17"}"#), Ok(vec![17, 18]));
        assert_eq!(depends_on("{}"), Ok(vec![]));
        for text in [r#"{"x":"a"}"#, r#"{"17":"a","017":"a"}"#, r#"{"0":"x"}"#, r#"{"17":1}"#, "[17]", r#"{"9223372036854775808":"a"}"#] {
            assert!(depends_on(text).is_err(), "{text}");
        }
    }
}
