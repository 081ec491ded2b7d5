//! The import rule of `src/lib.rs`, enforced.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use syn::{UseTree, visit::Visit};

/// The layers, from the top. A module may use those below its own layer, and itself.
const LAYERS: [&[&str]; 8] = [
    &["main"],
    &["cli"],
    &["app"],
    &["api"],
    &["http"],
    &["queue", "access", "limits"],
    &["postgres", "redis"],
    &["config", "measure", "coalesce"],
];

/// May be used by the top four only (by `api` since it knows who did what), and uses nothing but the settings and what was measured.
const TELEMETRY: &str = "telemetry";

/// Crates that only these may know: modules, or single files of one.
const OWNERS: [(&[&str], &[&str]); 7] = [
    (&["poem", "poem_openapi"], &["api", "http", "app"]),
    (&["hyper", "hyper_util", "http_body_util", "socket2"], &["http", "api", "telemetry/otlp"]),
    (&["h2", "tokio_rustls", "x509_cert"], &["http"]),
    (&["tokio_postgres", "deadpool_postgres", "refinery", "tokio_postgres_rustls"], &["postgres"]),
    (&["redis"], &["redis", "limits/store", "access/live"]),
    (&["anyhow", "clap"], &["cli"]),
    (&["config", "dotenvy", "strsim", "toml"], &["config"]),
];

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for file in files() {
        let (own, uses) = (module(&file), uses(&file));
        for used in uses.iter().filter_map(|path| path.strip_prefix("crate::")).map(|path| path.split("::").next().unwrap()) {
            if !may_use(&own, used) {
                wrong.push(format!("{} ({own}) uses {used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "expected imports to go down only:\n{}", wrong.join("\n"));
}

#[test]
fn each_library_has_its_owner() {
    let mut wrong = Vec::new();
    for file in files() {
        let (own, place, uses) = (module(&file), place(&file), uses(&file));
        for (libraries, owners) in OWNERS {
            for library in libraries {
                // A module of ours by the same name, if the file imports or declares that.
                let is_ours = uses.iter().any(|path| path.strip_suffix("::self").unwrap_or(path).ends_with(&format!("::{library}")))
                    || fs::read_to_string(&file).unwrap().contains(&format!("mod {library};"));
                let known = uses.iter().any(|path| {
                    path.strip_prefix("::").unwrap_or(path).split("::").next() == Some(library) && (!is_ours || path.starts_with("::"))
                });
                if known && !owners.contains(&own.as_str()) && !owners.contains(&place.as_str()) {
                    wrong.push(format!("{} knows {library}, which belongs to {owners:?}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "expected each library only where it belongs:\n{}", wrong.join("\n"));
}

/// The features of the queue: projects, tasks, jobs and clients may know each other's models, never each other's stores.
#[test]
fn features_do_not_use_each_others_stores() {
    const FEATURES: [&str; 4] = ["projects", "tasks", "jobs", "clients"];
    for file in files().into_iter().filter(|file| module(file) == "queue") {
        let own = FEATURES.iter().find(|feature| file.components().any(|part| part.as_os_str() == **feature));
        let Some(own) = own else { continue };
        for path in uses(&file) {
            for other in FEATURES.iter().filter(|other| *other != own) {
                assert!(!path.starts_with(&format!("crate::queue::{other}")), "{} uses {path}", file.display());
            }
        }
    }
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = files()
        .into_iter()
        .chain(rust_files(&root().join("tests")))
        .filter_map(|file| {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            (lines > 400).then(|| format!("{}: {lines} lines", file.display()))
        })
        .collect();
    assert!(long.is_empty(), "expected no file over 400 lines:\n{}", long.join("\n"));
}

fn may_use(own: &str, used: &str) -> bool {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    if own == used || own == "lib" {
        return true;
    }
    match (layer(own), layer(used)) {
        (Some(own), Some(used)) => used > own,
        (Some(own), None) => used == TELEMETRY && own <= 3,
        (None, Some(_)) => own == TELEMETRY && ["config", "measure"].contains(&used),
        (None, None) => false,
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files() -> Vec<PathBuf> {
    let files = rust_files(&root().join("src"));
    assert!(files.len() > 30, "the sources are found");
    files
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// A file's path below `src`, without its ending.
fn place(file: &Path) -> String {
    file.strip_prefix(root().join("src")).unwrap().with_extension("").to_str().unwrap().to_owned()
}

/// The top module that a file belongs to.
fn module(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// All paths that a file imports or names, tests inside of it left out. `super::` and `self::` are resolved where they leave the module.
fn uses(file: &Path) -> BTreeSet<String> {
    struct Collector {
        found: BTreeSet<String>,
        depth: usize,
    }

    impl Collector {
        fn add(&mut self, path: &str) {
            let leaving = path.split("::").take_while(|part| *part == "super").count();
            match leaving > self.depth {
                // Out of the top module: its siblings are the crate's.
                true => self.found.insert(format!("crate::{}", path.split("::").skip(leaving).collect::<Vec<_>>().join("::"))),
                false => self.found.insert(path.to_owned()),
            };
        }

        fn tree(&mut self, before: &str, tree: &UseTree) {
            match tree {
                UseTree::Path(path) => self.tree(&format!("{before}{}::", path.ident), &path.tree),
                UseTree::Name(name) => self.add(&format!("{before}{}", name.ident)),
                UseTree::Rename(rename) => self.add(&format!("{before}{}", rename.ident)),
                UseTree::Glob(_) => self.add(before.trim_end_matches(':')),
                UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before, tree)),
            }
        }
    }

    impl<'ast> Visit<'ast> for Collector {
        fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
            let before = if item.leading_colon.is_some() { "::" } else { "" };
            self.tree(before, &item.tree);
        }

        fn visit_path(&mut self, path: &'ast syn::Path) {
            if path.segments.len() > 1 {
                let before = if path.leading_colon.is_some() { "::" } else { "" };
                let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                self.add(&format!("{before}{}", parts.join("::")));
            }
            syn::visit::visit_path(self, path);
        }

        fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
            let is_test = item.attrs.iter().any(|attribute| attribute.path().is_ident("cfg"));
            if !is_test {
                self.depth += 1;
                syn::visit::visit_item_mod(self, item);
                self.depth -= 1;
            }
        }
    }

    let inside = file.strip_prefix(root().join("src")).unwrap();
    let depth = inside.components().count() - usize::from(file.ends_with("mod.rs"));
    let mut collector = Collector { found: BTreeSet::new(), depth: depth.saturating_sub(1) };
    collector.visit_file(&syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap());
    collector.found
}
