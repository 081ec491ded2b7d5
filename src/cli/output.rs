//! What commands print on standard output.

use serde::Serialize;

/// A line.
#[expect(clippy::print_stdout, reason = "this is a command's output")]
pub(super) fn line(text: &str) {
    println!("{text}");
}

/// JSON, in lines for people.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Lines in columns under a heading.
pub(super) fn table<const COLUMNS: usize>(heading: &[&str; COLUMNS], rows: &[[String; COLUMNS]]) {
    let widths: Vec<usize> = (0..COLUMNS)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).chain([heading[column].len()]).max().unwrap_or(0))
        .collect();
    let aligned = |row: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = row.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    line(&aligned(&mut heading.iter().copied()));
    for row in rows {
        line(&aligned(&mut row.iter().map(String::as_str)));
    }
}

/// What somebody should know, beside a command's output.
#[expect(clippy::print_stderr, reason = "this is what standard error is for")]
pub(super) fn warn(text: &str) {
    eprintln!("whatsnext: {text}");
}
