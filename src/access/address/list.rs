//! The elements of a list header, from the right.

/// A part of a header's line, between commas.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Element<'a> {
    /// All of it, without the white space around it.
    Whole(&'a [u8]),
    /// Not all of it could be looked at.
    Cut,
}

/// Goes through a line's elements from the right, and takes what it looks at from the bytes that are left.
///
/// Commas inside of quoted strings (RFC 9110, section 5.6.4) do not count, if there can be any. Which quotation mark begins a string and
/// which ends it is told from the right, where the proxies wrote: in what is well-formed this is the same as from the left, and it cannot
/// be upset by what comes before.
pub(super) struct FromTheRight<'a, 'b> {
    /// Not looked at yet; `None` after the first element of the line.
    rest: Option<&'a [u8]>,
    quoted: bool,
    bytes: &'b mut usize,
}

impl<'a, 'b> FromTheRight<'a, 'b> {
    pub(super) fn new(line: &'a [u8], quoted: bool, bytes: &'b mut usize) -> Self {
        Self { rest: Some(line), quoted, bytes }
    }
}

impl<'a> Iterator for FromTheRight<'a, '_> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let rest = self.rest.take()?;
        let mut start = rest.len();
        let mut inside = false;
        while let Some(at) = start.checked_sub(1) {
            let Some(left) = self.bytes.checked_sub(1) else { return Some(Element::Cut) };
            *self.bytes = left;
            match rest[at] {
                b',' if !inside => {
                    self.rest = Some(&rest[..at]);
                    break;
                }
                b'"' if self.quoted && !(inside && is_escaped(&rest[..at])) => inside = !inside,
                _ => {}
            }
            start = at;
        }
        Some(Element::Whole(trim(&rest[start..])))
    }
}

/// Whether what follows is escaped by an odd number of backslashes. As many as an element can sensibly have are counted: what has more is
/// no address however it is cut.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take(64).take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Without the optional white space of RFC 9110, section 5.6.3, which is less than what Rust calls white space.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn elements(line: &[u8], quoted: bool, mut bytes: usize) -> Vec<Element<'_>> {
        FromTheRight::new(line, quoted, &mut bytes).collect()
    }

    fn whole(line: &str) -> Vec<&str> {
        let elements = elements(line.as_bytes(), true, 1000).into_iter();
        elements.map(|element| if let Element::Whole(element) = element { str::from_utf8(element).unwrap() } else { "CUT" }).collect()
    }

    #[test]
    fn elements_come_from_the_right() {
        assert_eq!(whole("a, b ,\tc"), ["c", "b", "a"]);
        assert_eq!(whole(""), [""]);
        assert_eq!(whole(",a,,"), ["", "", "a", ""]);
        assert_eq!(whole("\u{a0}a\u{b}"), ["\u{a0}a\u{b}"]);
    }

    #[test]
    fn commas_inside_of_strings_do_not_count() {
        assert_eq!(whole(r#"a="1,2";b="x\",y", c"#), ["c", r#"a="1,2";b="x\",y""#]);
        assert_eq!(whole(r#"a="\\", b"#), ["b", r#"a="\\""#]);
        assert_eq!(elements(br#"a="1,2""#, false, 1000), [Element::Whole(b"2\""), Element::Whole(b"a=\"1")]);
    }

    #[test]
    fn a_quotation_mark_that_is_never_closed_changes_nothing_to_the_right_of_it() {
        for before in ["\"", "a=\"", "\\\"", "for=1;x=\"\\"] {
            let line = format!("{before}, for=\"[::1]:1\", for=_b");
            assert_eq!(whole(&line)[..2], ["for=_b", "for=\"[::1]:1\""], "{line}");
        }
    }

    #[test]
    fn an_element_that_is_too_far_left_is_cut_not_shortened() {
        assert_eq!(elements(b"11.2.3.4,5", false, 9), [Element::Whole(b"5"), Element::Cut]);
        assert_eq!(elements(b"11.2.3.4,5", false, 10), [Element::Whole(b"5"), Element::Whole(b"11.2.3.4")]);
        assert_eq!(elements(b"1", false, 0), [Element::Cut]);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic_or_lose_anything(line: Vec<u8>, quoted: bool, bytes in 0_usize..200) {
            for element in elements(&line, quoted, bytes) {
                if let Element::Whole(element) = element {
                    prop_assert!(element.is_empty() || line.windows(element.len()).any(|part| part == element));
                }
            }
            let plain: Vec<_> = line.split(|byte| *byte == b',').rev().map(|part| Element::Whole(trim(part))).collect();
            prop_assert_eq!(elements(&line, false, line.len()), plain);
        }

        #[test]
        fn nothing_before_a_comma_changes_what_is_after_it(before: Vec<u8>) {
            let line = [&before[..], br#",for="a\\,\"b";by=c , d"#].concat();
            let found = elements(&line, true, 10_000);
            prop_assert_eq!(&found[..2], &[Element::Whole(b"d"), Element::Whole(br#"for="a\\,\"b";by=c"#)]);
        }
    }
}
