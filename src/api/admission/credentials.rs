//! The key of a request, in one of the three ways to give one.

use std::{borrow::Cow, str};

use poem::http::{HeaderMap, HeaderName, header};

use crate::api::Error;

/// The header of the key's own.
pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The longest text that may be a key.
const MAX_LENGTH: usize = 512;

/// What a request presents, if anything: the text of a key, not looked at yet.
///
/// # Errors
///
/// 400, if two different keys are presented. One that cannot be read is [`None`] inside: it is no key.
pub(super) fn presented(headers: &HeaderMap) -> Result<Option<Option<Cow<'_, str>>>, Error> {
    let own = headers.get_all(API_KEY).iter().map(|value| text(value.as_bytes()));
    let authorization = headers.get_all(header::AUTHORIZATION).iter().map(|value| authorization(value.as_bytes()));
    let mut all = own.chain(authorization);
    let Some(first) = all.next() else { return Ok(None) };
    match all.all(|other| other == first) {
        true => Ok(Some(first)),
        false => Err(Error::bad_request("Two different keys were given: send one, in one header.")),
    }
}

/// The key of an `Authorization` header: a bearer token, or the password of Basic credentials (RFC 7617) with any user name.
fn authorization(value: &[u8]) -> Option<Cow<'_, str>> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = (&value[..space], value[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return text(rest);
    }
    if !scheme.eq_ignore_ascii_case(b"basic") || rest.len() > MAX_LENGTH * 2 {
        return None;
    }
    let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, rest).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    text(&decoded[colon + 1..]).map(|text| text.into_owned().into())
}

fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let is_text = (1..=MAX_LENGTH).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    str::from_utf8(value).ok().filter(|_| is_text).map(Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    fn read(headers: &[(HeaderName, &str)]) -> Result<Option<Option<String>>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header's value"));
        }
        presented(&map).map(|found| found.map(|text| text.map(Cow::into_owned))).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_is_found_in_each_of_the_three_places() {
        let found = Ok(Some(Some("KEY".to_owned())));
        // any:KEY
        let basic = "Basic YW55OktFWQ==";
        for headers in [
            &[(API_KEY, "KEY")][..],
            &[(header::AUTHORIZATION, "Bearer KEY")],
            &[(header::AUTHORIZATION, "bearer  KEY")],
            &[(header::AUTHORIZATION, basic)],
            &[(API_KEY, "KEY"), (header::AUTHORIZATION, basic)],
        ] {
            assert_eq!(read(headers), found, "{headers:?}");
        }
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn what_is_no_key_is_told_from_none_and_two_keys_are_refused() {
        let long = "x".repeat(MAX_LENGTH + 1);
        for wrong in ["", " ", "a b", "k\u{e9}y", &long] {
            assert_eq!(read(&[(API_KEY, wrong)]), Ok(Some(None)), "{wrong:?}");
        }
        for wrong in ["Digest x", "Bearer", "Basic !!!", "Basic S0VZ", "Negotiate abc"] {
            assert_eq!(read(&[(header::AUTHORIZATION, wrong)]), Ok(Some(None)), "{wrong:?}");
        }
        assert!(read(&[(API_KEY, "one"), (API_KEY, "two")]).is_err());
        assert!(read(&[(API_KEY, "one"), (header::AUTHORIZATION, "Bearer two")]).is_err());
        assert!(read(&[(API_KEY, "one"), (header::AUTHORIZATION, "Digest x")]).is_err());
    }
}
