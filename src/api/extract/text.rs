//! Values in paths and queries.

use std::{ops::Deref, sync::Arc};

use poem::{Request, RequestBody, http::StatusCode};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchemaRef, Registry},
    types::Type,
};
use serde_json::Value;

use crate::api::Error;

/// A value that can stand in a path or a query.
pub trait FromText: Sized {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// What the value must be, as it follows "name: ".
    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for i64 {
    fn from_text(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("must be a whole number".to_owned());
        }
        text.parse().map_err(|_| "must fit in 64 bits".to_owned())
    }
}

impl FromText for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err("must be true or false".to_owned()),
        }
    }
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.contains('\0') {
            true => Err("must not contain the NUL character".to_owned()),
            false => Ok(text.to_owned()),
        }
    }
}

/// The names of a path's parameters, in order: the framework numbers them. Set by [`crate::api::routes`].
#[derive(Debug, Clone)]
pub struct PathNames(pub Arc<[String]>);

/// A part of the path.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T> Deref for Path<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'a, T: Type + FromText + Send> ApiExtractor<'a> for Path<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = true;

    type ParamType = T;
    type ParamRawType = T::RawValueType;

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Path)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(T::schema_ref())
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, options: ExtractParamOptions<T>) -> poem::Result<Self> {
        let number: usize = options.name.trim_start_matches("param").parse().unwrap_or(0);
        let names: &PathNames = request.data().expect("routes set the names");
        let name = names.0.get(number).map_or(options.name, String::as_str);
        let text = request.raw_path_param(options.name).ok_or_else(|| "is not UTF-8".to_owned());
        let value = text.and_then(|text| T::from_text(text));
        // What cannot be an id names nothing. The published command line counts on it: `tasks show` asks for a task by id first and, at 404, by name.
        let nothing = |msg| Error::new(StatusCode::NOT_FOUND, format!("There is nothing here: {name} {msg}."));
        Ok(Self(value.map_err(nothing)?))
    }
}

/// A value of the query.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T> Deref for Query<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What a parameter that is not given stands for, if it need not be given.
pub trait Absent: Sized {
    /// The value, if there is one without a default of the operation's.
    fn absent() -> Option<Self> {
        None
    }
}

impl<T> Absent for Option<T> {
    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl Absent for i64 {}
impl Absent for bool {}
impl Absent for String {}

impl<T: FromText> FromText for Option<T> {
    fn from_text(text: &str) -> Result<Self, String> {
        T::from_text(text).map(Some)
    }
}

impl<'a, T: Type + FromText + Absent + Send> ApiExtractor<'a> for Query<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = T::IS_REQUIRED;

    type ParamType = T;
    type ParamRawType = T::RawValueType;

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(T::schema_ref())
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, options: ExtractParamOptions<T>) -> poem::Result<Self> {
        let refuse = |kind, msg: &str| Error::invalid(vec![Value::from("query"), Value::from(options.name)], kind, msg);
        let query = request.uri().query().unwrap_or_default();
        let mut given = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == options.name).map(|(_, value)| value);
        let value = match (given.next(), given.next()) {
            (Some(text), None) => T::from_text(&text).map_err(|msg| refuse("invalid", &msg))?,
            (Some(_), Some(_)) => return Err(refuse("invalid", "must be given only once").into()),
            (None, _) => match options.default_value {
                Some(default) => default(),
                None => T::absent().ok_or_else(|| refuse("missing", "this parameter is required"))?,
            },
        };
        Ok(Self(value))
    }
}
