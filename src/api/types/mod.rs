//! The values of the API that are more than a number or a string: how each is read, written and documented.

/// Makes a type that serde reads and writes one of the document's, with a schema of its own.
macro_rules! documented {
    // A schema of its own name, which all uses refer to.
    // A whole family of types.
    (impl [$($generics:tt)*] $type:ty, $name:literal, $schema:expr) => {
        documented!(@ [$($generics)*] $type, $name, MetaSchemaRef::Inline(Box::new($schema)), |_: &mut Registry| {});
    };
    ($type:ty, component $name:literal, $schema:expr) => {
        documented!(@ [] $type, $name, MetaSchemaRef::Reference($name.to_owned()), |registry: &mut Registry| {
            registry.create_schema::<$type, _>($name.to_owned(), |_| $schema);
        });
    };
    ($type:ty, $name:literal, $schema:expr $(, absent $absent:expr)?) => {
        documented!(@ [] $type, $name, MetaSchemaRef::Inline(Box::new($schema)), |_: &mut Registry| {} $(, absent $absent)?);
    };
    (@ [$($generics:tt)*] $type:ty, $name:literal, $schema_ref:expr, $register:expr $(, absent $absent:expr)?) => {
        impl<$($generics)*> Type for $type {
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

        impl<$($generics)*> ToJSON for $type {
            fn to_json(&self) -> Option<Value> {
                serde_json::to_value(self).ok()
            }
        }

        impl<$($generics)*> ParseFromJSON for $type {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                serde_json::from_value(value.unwrap_or_default()).map_err(ParseError::custom)
            }
        }

        impl<$($generics)*> crate::api::extract::Absent for $type {
            $(fn absent() -> Option<Self> {
                $absent
            })?
        }
    };
}

mod access;
mod depends;
mod number;
mod parameters;
mod report;
mod status;
mod text;
mod time;

pub use access::{Grants, Role, TokenScope};
pub use depends::{Depends, DependsOn};
pub use number::{
    Amount, AttemptNumber, Backoff, Count, ExitCode, Flag, JobLimit, LeaseSeconds, Lifetime, Limit, Many, OwnerId, Priority, Skip, Tries,
    WaitSeconds, Whole,
};
pub use parameters::Parameters;
pub use report::{Fraction, LogTail, Outcome};
pub use status::{JobStatus, ProjectStatus};
pub use text::{ClientId, Line, Name, Prose, Text};
pub use time::Timestamp;
