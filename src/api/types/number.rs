//! Whole numbers in a range.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use crate::{api::extract::FromText, config::MAX_REQUESTS};

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
/// Requests a minute, or seconds.
pub type Count = Whole<0, { MAX_REQUESTS as i64 }>;
/// How often a job is tried.
pub type Tries = Whole<1, 1000>;
/// Seconds between two attempts.
pub type Backoff = Whole<0, 86_400>;
/// Seconds that a lease lasts: a day at most.
pub type LeaseSeconds = Whole<1, 86_400>;
/// Seconds to wait for a job.
pub type WaitSeconds = Whole<0, 60>;
/// How many jobs to claim at once.
pub type Many = Whole<1, 100>;
/// An attempt's number: 1, 2, 3 …
pub type AttemptNumber = Whole<1, { i32::MAX as i64 }>;
/// What a program exits with.
pub type ExitCode = Whole<{ i32::MIN as i64 }, { i32::MAX as i64 }>;
/// For how many seconds a token is good: from a minute to a day.
pub type Lifetime = Whole<60, 86_400>;
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
    pub fn get_u32(self) -> u32 {
        u32::try_from(self.0).expect("the range fits in 32 bits and has nothing below zero")
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

documented!(impl [const MIN: i64, const MAX: i64] Whole<MIN, MAX>, "whole", range(MIN, MAX));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_whole_number_is_read_from_text_as_from_json(number in any::<i64>()) {
            let from_text = Priority::from_text(&number.to_string()).ok();
            let from_json = serde_json::from_str::<Priority>(&number.to_string()).ok();
            prop_assert_eq!(from_text, from_json);
            prop_assert_eq!(from_text.is_some(), number.abs() <= i64::from(i32::MAX));
        }
    }
}
