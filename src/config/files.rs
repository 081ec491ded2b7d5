//! Files of settings. What is wrong with one is told by its place, never by its text: that may be a secret's.

use std::{
    cell::Cell,
    fs,
    io::{self, Read},
    path::Path,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::load::Error;

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })
}

/// The secret `name` that a file holds, without its line end.
pub(super) fn secret(name: &'static str, path: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(path).map_err(|source| {
        // Somebody may have set the secret where its file should be.
        let is_shown = path.is_absolute();
        let file = if is_shown {
            path.display().to_string()
        } else {
            "what it is set to (not repeated here: it does not begin with /, and may be the secret)".to_owned()
        };
        Error::UnreadableSecret { name, file, source }
    })?;
    match text.trim_end_matches(['\r', '\n']) {
        // It would be as if there were none: no seal on the audit log, no key that lets anybody in.
        secret if secret.trim().is_empty() => Err(Error::EmptySecret { name, path: path.to_owned() }),
        secret => Ok(secret.to_owned()),
    }
}

/// A TOML file of settings.
pub(super) struct TomlFile<'a> {
    path: &'a Path,
    text: &'a str,
    table: Spanned<DeTable<'a>>,
}

impl<'a> TomlFile<'a> {
    /// Reads the text of one.
    pub(super) fn new(path: &'a Path, text: &'a str) -> Result<Self, Error> {
        // The messages are toml's own words; its error has the line as well, and shows it.
        let table = DeTable::parse(text).map_err(|error| wrong(path, text, error.span().map_or(0, |span| span.start), error.message()))?;
        Ok(Self { path, text, table })
    }

    /// The names of what is set.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.table.get_ref().keys().map(|name| name.get_ref().as_ref())
    }

    /// Whether each value is one that a setting can have.
    pub(super) fn check_values(&self) -> Result<(), Error> {
        for value in self.table.get_ref().values() {
            let is_simple = match value.get_ref() {
                DeValue::String(_) | DeValue::Boolean(_) => true,
                DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).is_ok(),
                DeValue::Float(number) => {
                    let text = number.as_str();
                    text.parse::<f64>().is_ok_and(|number| !number.is_infinite() || text.contains("inf"))
                }
                DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => false,
            };
            if !is_simple {
                let what = "a setting is text, a number that is not too large, true or false";
                return Err(wrong(self.path, self.text, value.span().start, what));
            }
        }
        Ok(())
    }
}

fn wrong(path: &Path, text: &str, at: usize, what: &str) -> Error {
    let before = String::from_utf8_lossy(&text.as_bytes()[..at.min(text.len())]);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    Error::NotToml { path: path.to_owned(), line, column, what: what.to_owned() }
}

/// The variables that a `.env` file sets.
pub(super) fn dotenv(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let (text, given) = (read(path)?, Cell::new(0));
    let lines = Lines { rest: text.as_bytes(), given: &given };
    let variable = |variable: dotenvy::Result<(String, String)>| {
        variable.map_err(|error| {
            // What is wrong ends with the line that was given last, and may have begun some lines earlier.
            let length = if let dotenvy::Error::LineParse(part, _) = error { part.lines().count().max(1) } else { 1 };
            Error::NotDotenv { path: path.to_owned(), line: (given.get() + 1_usize).saturating_sub(length).max(1) }
        })
    };
    dotenvy::from_read_iter(lines).map(variable).collect()
}

/// Gives a text away line by line, so that it is known how far its reader has come.
struct Lines<'a> {
    rest: &'a [u8],
    given: &'a Cell<usize>,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let line = self.rest.iter().position(|byte| *byte == b'\n').map_or(self.rest.len(), |end| end + 1);
        let length = line.min(buffer.len());
        let (now, rest) = self.rest.split_at(length);
        buffer[..length].copy_from_slice(now);
        self.rest = rest;
        if length > 0 && length == line {
            self.given.set(self.given.get() + 1);
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("it can be written");
        file
    }

    fn toml_error(text: &str) -> Option<String> {
        let path = Path::new("whatsnext.toml");
        let read = TomlFile::new(path, text).and_then(|file| file.check_values());
        read.err().map(|error| format!("{error} {error:?}"))
    }

    fn dotenv_error(text: &str) -> Option<String> {
        dotenv(file(text).path()).err().map(|error| format!("{error} {error:?}"))
    }

    #[test]
    fn what_is_no_toml_is_told_by_its_place() {
        for (text, place) in [
            ("port = 1\ndatabase_password = \"s3\"canary\"\n", "line 2, column 25: "),
            ("api_keys = \"canary\"\n\napi_keys = \"canary\"\n", "line 3, column 1: duplicate key"),
            ("# ä\napi_keys = \"ä\" canary", "line 2, column 16: "),
            ("canary", "line 1, column "),
            ("api_keys = [\"canary\"]", "line 1, column 12: a setting is text"),
            ("[api_keys]\ncanary = \"canary\"\n", "line 1, column 1: a setting is text"),
            ("port = 99999999999999999999", "line 1, column 8: a setting is text"),
            ("retention_days = 1e999", "line 1, column 18: a setting is text"),
        ] {
            let error = toml_error(text).expect("it is refused");
            assert!(error.starts_with("whatsnext.toml") && error.contains(place), "{text:?}: {error}");
            assert!(!error.contains("canary"), "{text:?}: {error}");
        }
        assert_eq!(toml_error("a = 1\nb = \"x\"\nc = true\nd = 1_0.5\ne = 0x10\nf = inf\n"), None);
    }

    #[test]
    fn what_is_no_line_of_dotenv_is_told_by_its_number() {
        for (text, line) in [
            ("PORT=1\n\n# canary\ncanary canary\nHOST=x\n", 4),
            ("PORT=1\nDATABASE_PASSWORD=canary'\nHOST=x\n", 2),
            ("PORT=1\nDATABASE_PASSWORD=\"canary\nHOST=x\n", 2),
            ("DATABASE_PASSWORD=canary canary\n", 1),
            ("A='1\n2'\nDATABASE_PASSWORD=\"a\ncanary\"canary canary\n", 3),
            ("canary", 1),
        ] {
            let error = dotenv_error(text).expect("it is refused");
            assert!(error.contains(&format!("line {line} ")), "line {line} of {text:?}: {error}");
            assert!(!error.contains("canary"), "{text:?}: {error}");
        }
        assert_eq!(dotenv(file("A=1\nexport B='x y' # z\n").path()).expect("it is read").len(), 2);
    }

    proptest! {
        /// Whatever is broken, and wherever.
        #[test]
        fn no_error_repeats_a_value(before in "[a-z\"'=\\[\\]{}.,#\\\\\n 0-9-]{0,12}", after in "[a-z\"'=\\[\\]{}.,#\\\\\n 0-9-]{0,12}") {
            let text = format!("api_keys = {before}CANARY{after}\n");
            for error in [toml_error(&text), dotenv_error(&text), toml_error(&format!("x = 1\n{text}{text}"))].into_iter().flatten() {
                prop_assert!(!error.contains("CANARY"), "{}", error);
            }
        }
    }
}
