//! Cross-origin requests (CORS, <https://fetch.spec.whatwg.org/#http-cors-protocol>): which web pages may read answers.
//!
//! No page of another origin may, unless it is named. Nothing is refused here: browsers refuse what the headers do not allow, and others do not ask.

use std::str::FromStr;

use poem::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use url::Url;

use crate::config::Settings;

/// The methods of the API, and what of a request it reads; both if nothing else is configured.
const METHODS: &str = "DELETE, GET, HEAD, POST, PUT";
const READ: &str = "Authorization, Content-Type, Idempotency-Key, If-None-Match, X-API-Key, X-Request-Id";

/// What of an answer a page may read besides what browsers show anyway.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Allow, ETag, Location, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id, X-Total-Count",
);

/// For how many seconds a browser need not ask again. None keeps an answer for longer.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// A setting `cors_…` that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum NotCors {
    /// Every page in the world would act with the credentials that a browser has.
    #[error("cors_origins has `*` and cors_allow_credentials is true: name the origins, or leave credentials out")]
    Everybody,
    /// Not an origin.
    #[error("cors_origins: `{0}` is no origin: write it as https://host or https://host:port, without a path, or * for every page")]
    Origin(String),
    /// Not what the setting takes.
    #[error("{setting}: `{value}` is no {kind}")]
    Word {
        /// The setting.
        setting: &'static str,
        /// A part of what it is set to.
        value: String,
        /// What it should be.
        kind: &'static str,
    },
}

/// Which pages may read what.
#[derive(Debug, Clone)]
pub struct Cors {
    origins: Origins,
    credentials: bool,
    methods: HeaderValue,
    headers: HeaderValue,
}

#[derive(Debug, Clone)]
enum Origins {
    Any,
    These(Vec<HeaderValue>),
}

/// What is to be said to one request.
pub(super) struct Answer<'a> {
    cors: &'a Cors,
    /// The origin that may read the answer.
    origin: Option<HeaderValue>,
    is_preflight: bool,
}

impl Cors {
    /// As configured.
    ///
    /// # Errors
    ///
    /// The first of the settings that cannot be.
    pub fn new(settings: &Settings) -> Result<Self, NotCors> {
        let origins: Vec<&str> = words(&settings.cors_origins).collect();
        let origins = match origins.contains(&"*") {
            true if settings.cors_allow_credentials => return Err(NotCors::Everybody),
            true => Origins::Any,
            false => Origins::These(origins.into_iter().map(origin).collect::<Result<_, _>>()?),
        };
        Ok(Self {
            origins,
            credentials: settings.cors_allow_credentials,
            methods: list::<Method>("cors_allow_methods", &settings.cors_allow_methods, METHODS, "method")?,
            headers: list::<HeaderName>("cors_allow_headers", &settings.cors_allow_headers, READ, "name of a header")?,
        })
    }

    /// What there is to say to this request.
    pub(super) fn answer(&self, method: &Method, headers: &HeaderMap) -> Answer<'_> {
        if matches!(&self.origins, Origins::These(none) if none.is_empty()) {
            return Answer { cors: self, origin: None, is_preflight: false };
        }
        let mut asked = headers.get_all(header::ORIGIN).iter();
        let origin = match (asked.next(), asked.next(), &self.origins) {
            (Some(_), None, Origins::Any) => Some(HeaderValue::from_static("*")),
            (Some(origin), None, Origins::These(origins)) if origins.contains(origin) => Some(origin.clone()),
            _ => None,
        };
        let is_preflight = method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        Answer { cors: self, origin, is_preflight }
    }
}

impl Answer<'_> {
    /// Says it.
    pub(super) fn add_to(self, headers: &mut HeaderMap) {
        // What a cache keeps for one origin must not be given to another.
        if matches!(&self.cors.origins, Origins::These(origins) if !origins.is_empty()) {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = self.origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.cors.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if self.is_preflight {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.cors.methods.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.cors.headers.clone());
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        } else {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// An origin as browsers write it, to the letter.
fn origin(text: &str) -> Result<HeaderValue, NotCors> {
    let is_one = |url: Url| matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text;
    let is_exact = !text.contains('*') && Url::parse(text).is_ok_and(is_one);
    HeaderValue::from_str(text).ok().filter(|_| is_exact).ok_or_else(|| NotCors::Origin(text.to_owned()))
}

/// A list of words as a header; `*` and nothing mean what the API has.
fn list<T: FromStr>(setting: &'static str, configured: &str, own: &str, kind: &'static str) -> Result<HeaderValue, NotCors> {
    let chosen: Vec<&str> = words(configured).collect();
    if chosen.is_empty() || chosen.contains(&"*") {
        return Ok(HeaderValue::from_str(own).expect("the API's own words are ASCII"));
    }
    let wrong = |value: &str| NotCors::Word { setting, value: value.to_owned(), kind };
    if let Some(word) = chosen.iter().find(|word| word.parse::<T>().is_err()) {
        return Err(wrong(word));
    }
    HeaderValue::from_str(&chosen.join(", ")).map_err(|_| wrong(configured))
}
