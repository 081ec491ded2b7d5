//! Status words.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json};

use crate::{
    api::extract::FromText,
    queue::{jobs, projects},
};

/// Implements a status word: capitals in answers, any case in requests.
macro_rules! status_word {
    ($wrapper:ident, $component:literal, $status:path, $about:literal, $words:expr) => {
        #[doc = $about]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $wrapper(pub $status);

        impl Serialize for $wrapper {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.0.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $wrapper {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
            }
        }

        impl FromText for $wrapper {
            fn from_text(text: &str) -> Result<Self, String> {
                text.parse().map(Self).map_err(|error: <$status as std::str::FromStr>::Err| error.to_string())
            }
        }

        documented!(
            $wrapper,
            component $component,
            MetaSchema { description: Some($about), enum_items: $words, ..MetaSchema::new("string") }
        );
    };
}

status_word!(
    JobStatus,
    "JobStatus",
    jobs::Status,
    "Where a job stands.",
    jobs::Status::ALL.iter().map(|status| json!(status.as_str())).collect()
);
status_word!(
    ProjectStatus,
    "ProjectStatus",
    projects::Status,
    "Whether a project gives out jobs.",
    vec![json!("ACTIVE"), json!("ARCHIVED")]
);
