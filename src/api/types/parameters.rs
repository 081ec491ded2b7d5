//! What a job is run with.

use std::{borrow::Cow, fmt};

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json, value::RawValue};

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
        check_sound(&raw).map_err(de::Error::custom)?;
        Ok(Self(raw))
    }
}

/// Whether JSON can be given back to every client as it came.
pub(super) fn check_sound(raw: &RawValue) -> Result<(), String> {
    // The inner error's position is one in this value, which the outer place does not know of.
    let without_position = |error: serde_json::Error| error.to_string().split(" at line ").next().unwrap_or_default().to_owned();
    serde_json::from_str::<Sound>(raw.get()).map(|Sound| ()).map_err(without_position)
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

    proptest! {
        #[test]
        fn any_json_object_that_serde_writes_is_sound(names in proptest::collection::btree_map("[^\u{0}]{0,8}", any::<f64>(), 0..8)) {
            let object: serde_json::Map<String, Value> =
                names.into_iter().map(|(name, number)| (name, Value::from(number))).collect();
            let text = serde_json::to_string(&object).expect("it is written");
            prop_assert_eq!(parameters(&text), Ok(text));
        }
    }
}
