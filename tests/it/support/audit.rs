//! Reading audit logs.

use std::path::Path;

use serde_json::Value;

/// The lines of all files in a folder, each chain's in their order. The last one that a server is still writing is none yet.
pub(crate) fn audit_lines(folder: &Path) -> Vec<Value> {
    let mut lines: Vec<Value> = std::fs::read_dir(folder)
        .expect("the folder of the audit log")
        .map(|file| file.expect("a file").path())
        .filter(|file| file.extension().is_some_and(|ending| ending == "jsonl"))
        .flat_map(|file| {
            let text = std::fs::read_to_string(file).expect("a file of the audit log");
            text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(ToOwned::to_owned).collect::<Vec<_>>()
        })
        .map(|line| serde_json::from_str(&line).unwrap_or_else(|error| panic!("each line is JSON: {error}: {line}")))
        .collect();
    lines.sort_by_key(|line| (line["whatsnext.audit.chain"].to_string(), line["whatsnext.audit.line"].as_u64()));
    lines
}
