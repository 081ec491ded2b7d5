//! Which trace a request belongs to: W3C Trace Context (<https://www.w3.org/TR/trace-context/>), as far as a server needs it that asks nobody else.

use std::{
    fmt::{self, Display, Formatter},
    hash::{BuildHasher as _, RandomState},
};

use poem::http::{HeaderMap, HeaderValue};

/// The header that says it.
const TRACEPARENT: &str = "traceparent";

/// How long it is in the version that there is.
const LENGTH: usize = 55;

/// The trace that a request belongs to, and its own part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) id: u128,
    /// This request's span.
    pub(super) span: u64,
    /// The span of who sent it, if they said so.
    pub(super) parent: Option<u64>,
    /// Whether it is to be exported.
    pub(super) is_sampled: bool,
}

impl Trace {
    /// What the one `traceparent` says, if it is valid; otherwise a trace that begins here.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut lines = headers.get_all(TRACEPARENT).iter().map(HeaderValue::as_bytes);
        let given = lines.next().filter(|_| lines.next().is_none()).and_then(parse);
        match given {
            Some((id, parent, is_sampled)) => Self { id, span: number(), parent: Some(parent), is_sampled },
            None => Self { id: u128::from(number()) << 64 | u128::from(number()), span: number(), parent: None, is_sampled: true },
        }
    }

    /// The trace's id as it is written.
    pub(super) fn id(&self) -> impl Display + use<> {
        Hex(self.id.to_be_bytes())
    }

    /// The span's id as it is written.
    pub(super) fn span_id(&self) -> impl Display + use<> {
        Hex(self.span.to_be_bytes())
    }
}

/// Bytes in hexadecimal. Each request writes two of them, and numbers would take three times as long.
struct Hex<const BYTES: usize>([u8; BYTES]);

impl<const BYTES: usize> Display for Hex<BYTES> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digit = |half: u8| char::from_digit(half.into(), 16).map_or(b'0', |digit| digit as u8);
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        f.write_str(str::from_utf8(&text[..2 * BYTES]).expect("digits are ASCII"))
    }
}

/// Trace, parent, and whether it is sampled. Of versions to come only what is in this one is read.
fn parse(text: &[u8]) -> Option<(u128, u64, bool)> {
    let is_long = text.len() > LENGTH;
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let known = str::from_utf8(known).ok()?;
    let mut parts = known.split('-');
    let version = hex(parts.next()?, 2)?;
    let (trace, parent, flags) = (hex(parts.next()?, 32)?, hex(parts.next()?, 16)?, hex(parts.next()?, 2)?);
    let is_version = version != 0xff && (!is_long || (version > 0 && rest.starts_with(b"-")));
    let parent = u64::try_from(parent).ok()?;
    (is_version && parts.next().is_none() && trace != 0 && parent != 0).then_some((trace, parent, flags & 1 == 1))
}

/// A number of so many digits, in small letters.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// Another one each time, and never 0. The standard library's hash keys are random and differ with each call, which costs no call of the system.
fn number() -> u64 {
    RandomState::new().hash_one(0).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn of(lines: &[&str]) -> Trace {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(TRACEPARENT, HeaderValue::from_str(line).expect("a value"));
        }
        Trace::of(&headers)
    }

    #[test]
    fn a_valid_traceparent_is_taken() {
        for (line, is_sampled) in [
            (format!("00-{TRACE}-00f067aa0ba902b7-01"), true),
            (format!("00-{TRACE}-00f067aa0ba902b7-00"), false),
            (format!("00-{TRACE}-00f067aa0ba902b7-ff"), true),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01"), true),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01-what-the-future-will-bring"), true),
        ] {
            let trace = of(&[&line]);
            assert_eq!((trace.id().to_string().as_str(), trace.parent), (TRACE, Some(0x00f0_67aa_0ba9_02b7)), "{line}");
            assert_eq!(trace.is_sampled, is_sampled, "{line}");
            assert!(trace.span != 0 && trace.span != 0x00f0_67aa_0ba9_02b7 && trace.span_id().to_string().len() == 16);
        }
    }

    #[test]
    fn anything_else_begins_a_trace() {
        let valid = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let upper = valid.to_uppercase();
        let long = format!("{valid}-{}", "x".repeat(60_000));
        for lines in [
            &[][..],
            &[""],
            &[&valid, &valid],
            &[&upper],
            &[&long],
            &[&valid[..54]],
            &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"],
            &["ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x"],
            &["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x"],
            &["00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01"],
            &["00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01"],
            &["00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
            &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0-"],
        ] {
            let trace = of(lines);
            assert!(trace.parent.is_none() && trace.is_sampled && trace.id().to_string() != TRACE, "{lines:?}");
        }
    }

    #[test]
    fn no_two_are_the_same() {
        let traces: Vec<Trace> = (0..10_000).map(|_| of(&[])).collect();
        let distinct = |of: fn(&Trace) -> u128| traces.iter().map(of).collect::<HashSet<_>>().len();
        assert_eq!((distinct(|trace| trace.id), distinct(|trace| trace.span.into())), (10_000, 10_000));
        assert!(traces.iter().all(|trace| trace.id >> 64 != 0 && trace.id().to_string().len() == 32));
    }
}
