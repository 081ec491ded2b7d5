//! The values of the API that are more than a number or a string: how each is read, written and documented.

use std::{borrow::Cow, fmt};

use chrono::{DateTime, Utc};
use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json, value::RawValue};

use super::extract::FromText;
use crate::queue::{jobs, projects};

/// Makes a type that serde reads and writes one of the document's, with a schema of its own.
macro_rules! documented {
    // A schema of its own name, which all uses refer to.
    ($type:ty, component $name:literal, $schema:expr) => {
        documented!(@ $type, $name, MetaSchemaRef::Reference($name.to_owned()), |registry: &mut Registry| {
            registry.create_schema::<$type, _>($name.to_owned(), |_| $schema);
        });
    };
    ($type:ty, $name:literal, $schema:expr $(, absent $absent:expr)?) => {
        documented!(@ $type, $name, MetaSchemaRef::Inline(Box::new($schema)), |_: &mut Registry| {} $(, absent $absent)?);
    };
    (@ $type:ty, $name:literal, $schema_ref:expr, $register:expr $(, absent $absent:expr)?) => {
        impl Type for $type {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                $name.into()
            }

            fn schema_ref() -> MetaSchemaRef {
                $schema_ref
            }

            fn register(registry: &mut Registry) {
                $register(registry);
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(std::iter::once(self))
            }
        }

        impl ToJSON for $type {
            fn to_json(&self) -> Option<Value> {
                serde_json::to_value(self).ok()
            }
        }

        impl ParseFromJSON for $type {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                serde_json::from_value(value.unwrap_or_default()).map_err(ParseError::custom)
            }
        }

        impl super::extract::Absent for $type {
            $(fn absent() -> Option<Self> {
                $absent
            })?
        }
    };
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Whole<const MIN: i64, const MAX: i64>(i64);

/// How many things a page has at most.
pub type Limit = Whole<1, 1000>;
/// How many things to pass over.
pub type Skip = Whole<0, { i64::MAX }>;
/// CPUs or accelerators.
pub type Amount = Whole<0, { i32::MAX as i64 }>;
/// Higher is sooner. Not the least number of 32 bits, which has no negative.
pub type Priority = Whole<{ -(i32::MAX as i64) }, { i32::MAX as i64 }>;
/// 0 or 1.
pub type Flag = Whole<0, 1>;

impl<const MIN: i64, const MAX: i64> Whole<MIN, MAX> {
    /// The number, if it is in range.
    pub fn new(number: i64) -> Result<Self, String> {
        match (MIN..=MAX).contains(&number) {
            true => Ok(Self(number)),
            false if MAX == i64::MAX => Err(format!("must be at least {MIN}")),
            false => Err(format!("must be from {MIN} to {MAX}")),
        }
    }

    /// The number.
    pub fn get(self) -> i64 {
        self.0
    }

    /// The number; for those ranges that fit.
    pub fn get_i32(self) -> i32 {
        i32::try_from(self.0).expect("the range fits in 32 bits")
    }
}

/// A number of the database's, whose constraints keep it in range.
impl<const MIN: i64, const MAX: i64> From<i32> for Whole<MIN, MAX> {
    fn from(stored: i32) -> Self {
        Self(stored.into())
    }
}

impl<const MIN: i64, const MAX: i64> FromText for Whole<MIN, MAX> {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::new(i64::from_text(text)?)
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(i64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The project whose things are listed. The document says that it is required; that it is missing is for the operation to answer (400, not 422).
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct OwnerId(Option<i64>);

impl OwnerId {
    /// The id, if it was given.
    pub fn get(self) -> Option<i64> {
        self.0
    }
}

impl FromText for OwnerId {
    fn from_text(text: &str) -> Result<Self, String> {
        i64::from_text(text).map(|id| Self(Some(id)))
    }
}

documented!(OwnerId, "owner_id", MetaSchema::new_with_format("integer", "int64"), absent Some(OwnerId(None)));

fn range(min: i64, max: i64) -> MetaSchema {
    let format = if i32::try_from(min).is_ok() && i32::try_from(max).is_ok() { "int32" } else { "int64" };
    #[expect(clippy::cast_precision_loss, reason = "the document holds limits as floating point; super::document makes them whole again")]
    let bound = |number: i64| (number != i64::MIN && number != i64::MAX).then_some(number as f64);
    MetaSchema { minimum: bound(min), maximum: bound(max), ..MetaSchema::new_with_format("integer", format) }
}

/// How many jobs a page has at most: as [`Limit`], or exactly 10,000, which the published command line asks for where it counts jobs by status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct JobLimit(i64);

impl JobLimit {
    /// What `status` and `queue stats` of the published command line send.
    const PUBLISHED: i64 = 10_000;

    /// The default.
    pub fn ten() -> Self {
        Self(10)
    }

    /// The number.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl FromText for JobLimit {
    fn from_text(text: &str) -> Result<Self, String> {
        match i64::from_text(text)? {
            Self::PUBLISHED => Ok(Self(Self::PUBLISHED)),
            number => Limit::new(number).map(|limit| Self(limit.get())),
        }
    }
}

impl<'de> Deserialize<'de> for JobLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_text(&i64::deserialize(deserializer)?.to_string()).map_err(de::Error::custom)
    }
}

documented!(JobLimit, "job_limit", {
    let either = [range(1, 1000), range(JobLimit::PUBLISHED, JobLimit::PUBLISHED)];
    MetaSchema { any_of: either.map(|range| MetaSchemaRef::Inline(Box::new(range))).to_vec(), ..MetaSchema::ANY }
});
documented!(Limit, "limit", range(1, 1000));
documented!(Skip, "skip", range(0, i64::MAX));
documented!(Amount, "amount", range(0, i64::from(i32::MAX)));
documented!(Priority, "priority", range(-i64::from(i32::MAX), i64::from(i32::MAX)));
documented!(Flag, "flag", range(0, 1));

/// A text of `MIN` to `MAX` characters without NUL, which PostgreSQL cannot store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Text<const MIN: usize, const MAX: usize>(String);

/// What people call a thing.
pub type Name = Text<1, 255>;
/// Something to read.
pub type Prose = Text<0, 65536>;

impl<const MIN: usize, const MAX: usize> Text<MIN, MAX> {
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

fn text(min: usize, max: usize) -> MetaSchema {
    let min_length = (min > 0).then_some(min);
    MetaSchema { min_length, max_length: Some(max), ..MetaSchema::new("string") }
}

documented!(Name, "name", text(1, 255));
documented!(Prose, "prose", text(0, 65536));

/// A time in UTC with exactly six fractional digits, which is what Python 3.10 reads.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp(pub DateTime<Utc>);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.format("%Y-%m-%dT%H:%M:%S%.6f+00:00"))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DateTime::deserialize(deserializer).map(Self)
    }
}

documented!(
    Timestamp,
    "timestamp",
    MetaSchema { example: Some(json!("2026-01-31T09:30:00.000000+00:00")), ..MetaSchema::new_with_format("string", "date-time") }
);

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

/// A job's parameters: any JSON object, given back to the letter. What could not be given back to every client as it came is refused: numbers
/// that no double holds, NUL, unpaired surrogates, a name twice in one object, nesting deeper than serde_json reads (128).
#[derive(Debug, Clone)]
pub struct Parameters(pub Box<RawValue>);

impl Serialize for Parameters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        if !raw.get().starts_with('{') {
            return Err(de::Error::custom("must be a JSON object"));
        }
        // The inner error's position is one in the parameters, which the outer place does not know of.
        let sound = serde_json::from_str::<Sound>(raw.get()).map_err(|error| without_position(&error));
        sound.map(|Sound| Self(raw)).map_err(de::Error::custom)
    }
}

fn without_position(error: &serde_json::Error) -> String {
    error.to_string().split(" at line ").next().unwrap_or_default().to_owned()
}

documented!(
    Parameters,
    "parameters",
    MetaSchema {
        additional_properties: Some(Box::new(MetaSchemaRef::Inline(Box::new(MetaSchema::ANY)))),
        example: Some(json!({"lr": 0.01, "epochs": 10})),
        ..MetaSchema::new("object")
    }
);

/// Reads any JSON and keeps nothing: only whether it is sound.
struct Sound;

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Sound;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_bool<E>(self, _: bool) -> Result<Sound, E> {
                Ok(Sound)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Sound, E> {
                Ok(Sound)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Sound, E> {
                Ok(Sound)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Sound, E> {
                Ok(Sound)
            }

            fn visit_unit<E>(self) -> Result<Sound, E> {
                Ok(Sound)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Sound, E> {
                match text.contains('\0') {
                    true => Err(E::custom("must not contain the NUL character")),
                    false => Ok(Sound),
                }
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Sound, A::Error> {
                while items.next_element::<Sound>()?.is_some() {}
                Ok(Sound)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Sound, A::Error> {
                let mut names = std::collections::HashSet::new();
                while let Some(name) = entries.next_key::<String>()? {
                    self.visit_str(&name)?;
                    entries.next_value::<Sound>()?;
                    if let Some(twice) = names.replace(name) {
                        return Err(de::Error::custom(format_args!("has the name {twice:?} twice")));
                    }
                }
                Ok(Sound)
            }
        }

        impl Copy for Visitor {}
        impl Clone for Visitor {
            fn clone(&self) -> Self {
                *self
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

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
    use proptest::prelude::*;

    use super::*;

    fn parameters(text: &str) -> Result<String, String> {
        serde_json::from_str::<Parameters>(text).map(|parameters| parameters.0.get().to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn parameters_come_back_to_the_letter() {
        for text in [r#"{"b":1.0,"a":1e3,"c":[1.10,-0.0,12345678901234567890123456789]}"#, r#"{ "ü" : "\u00fc" }"#, "{}"] {
            assert_eq!(parameters(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn parameters_that_could_not_come_back_are_refused() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        for text in
            ["[]", "1", "null", "\"x\"", r#"{"a":1e400}"#, r#"{"a":-1e400}"#, r#"{"a":"\u0000"}"#, r#"{"a\u0000":1}"#, r#"{"a":"\ud800"}"#]
        {
            assert!(parameters(text).is_err(), "{text}");
        }
        assert!(parameters(&deep).is_err(), "10,000 levels");
        assert!(parameters(r#"{"a":{"b":1,"b":2}}"#).expect_err("twice").contains(r#"has the name "b" twice"#));
    }

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

    #[test]
    fn times_have_six_digits_and_a_numeric_offset() {
        let time = Timestamp(DateTime::from_timestamp(0, 5_000).expect("a time"));
        assert_eq!(serde_json::to_string(&time).expect("it is written"), "\"1970-01-01T00:00:00.000005+00:00\"");
    }

    proptest! {
        #[test]
        fn any_json_object_that_serde_writes_is_sound(names in proptest::collection::btree_map("[^\u{0}]{0,8}", any::<f64>(), 0..8)) {
            let object: serde_json::Map<String, Value> =
                names.into_iter().map(|(name, number)| (name, Value::from(number))).collect();
            let text = serde_json::to_string(&object).expect("it is written");
            prop_assert_eq!(parameters(&text), Ok(text));
        }

        #[test]
        fn a_whole_number_is_read_from_text_as_from_json(number in any::<i64>()) {
            let from_text = Priority::from_text(&number.to_string()).ok();
            let from_json = serde_json::from_str::<Priority>(&number.to_string()).ok();
            prop_assert_eq!(from_text, from_json);
            prop_assert_eq!(from_text.is_some(), number.abs() <= i64::from(i32::MAX));
        }
    }
}
