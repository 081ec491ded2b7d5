//! The rules of `sql/README.md` for versions that come while servers work, as a check of their text.
//!
//! It knows statements by how they begin and looks for words in them. It is stricter than PostgreSQL where telling the difference would take a parser; what is
//! right all the same is listed as an exception, with the reason.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;

/// The first version that had to keep to the rules. Before it there were no servers to work meanwhile.
pub(super) const FIRST: i32 = 5;

/// Statements that break a rule and are right all the same: the version, how the statement begins, and why.
pub(super) const EXCEPTIONS: &[(i32, &str, &str)] = &[
    (
        5,
        "alter table attempts alter column sequence set default nextval(",
        "a default for what comes: rows that are there have theirs by then",
    ),
    (5, "create index if not exists attempts_held_idx on attempts ", "announced in sql/README.md: it is there already"),
    (5, "drop index attempts_live_idx", "what it was for, attempts_held_idx begins with"),
    (5, "do ''", "looks into the catalogue whether the index is whole, and changes nothing"),
];

/// What is never right on a table that was there before, and why not. `%` stands for the table's name.
const REFUSED: &[(&str, &str)] = &[
    (r"^create (unique )?index", "an index keeps out all writes while it is built: sql/README.md says how to do without"),
    (r"concurrently", "a version is one transaction, in which nothing is done concurrently"),
    (r"^alter table .* type ", "another type rewrites the table, or looks at every row"),
    (r"^alter table .* add (column )?.*generated .* stored", "a stored column rewrites the table"),
    (r"^alter table .* add (column )?.*generated .* as identity", "numbers for all rows rewrite the table"),
    (r"^alter table .* add (column )?\w+ (big|small)?serial", "numbers for all rows rewrite the table"),
    (
        r"^alter table .* default [^,]*(random|clock_timestamp|nextval|timeofday|uuid_generate)",
        "a default that differs from row to row rewrites the table",
    ),
    (
        r"^alter table .* add (column )?\w+ [^,]* (check|unique|primary key|references)\b",
        "looks at every row, with everybody kept out: add it as a constraint that is not valid yet",
    ),
    (
        r"^alter table .* set not null",
        "looks at every row, with everybody kept out: add a check that is not valid yet, validate it in the next version",
    ),
    (r"^alter table .* (drop|rename) ", "servers of the version before still use what is dropped or renamed"),
    (r"^alter table .* set (tablespace|logged|unlogged|access method)", "rewrites the table"),
    (r"^drop (table|view|function|type|sequence|index|trigger)", "servers of the version before may still use it"),
    (r"^(update|delete from|insert into|merge into) ", "changes many rows in one transaction: let servers do it bit by bit"),
    (r"^(truncate|cluster|vacuum|reindex|lock)\b", "keeps everybody out"),
    (r"^(begin|start|commit|rollback|end|savepoint)\b", "a version is one transaction already"),
    (r"^(do|with|call)\b", "what it does stands where this check does not look: say it in statements of their own"),
    (r"^set |set_config", "`whatsnext migrate` says how long is waited for what"),
];

/// Every constraint that is added to a table that was there before must be of these kinds.
static IS_CHEAP_CONSTRAINT: LazyLock<Regex> = LazyLock::new(|| pattern(r"not valid|using index"));
static CONSTRAINT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^alter table .* add_constraint "));
static NOT_NULL: LazyLock<Regex> = LazyLock::new(|| pattern(r"^alter table .* add (column )?\w+ [^,]*not null"));
static WITH_DEFAULT: LazyLock<Regex> = LazyLock::new(|| pattern(r"not null[^,]* default|default [^,]*not null"));
static ALTERED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^alter table (if exists )?(only )?\w+ "));
static CREATED: LazyLock<Regex> = LazyLock::new(|| pattern(r"^create table (if not exists )?(\w+)"));
static TABLE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:alter table|create (?:unique )?index .*? on|create (?:or replace )?(?:constraint )?trigger .*? on|update|delete from|insert into|merge into|truncate|drop table|lock(?: table)?)(?: if exists| only)* (\w+)",
    )
});

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern")
}

/// What is wrong with a version's text; nothing if it keeps to the rules.
pub(super) fn violations(version: i32, sql: &str) -> Vec<String> {
    let statements = statements(sql);
    let new: BTreeSet<&str> = statements.iter().filter_map(|statement| Some(CREATED.captures(statement)?.get(2)?.as_str())).collect();
    let (mut wrong, mut changed) = (Vec::new(), BTreeSet::new());
    for statement in &statements {
        let table = TABLE.captures(statement).map(|found| found[1].to_owned());
        if table.as_deref().is_some_and(|table| new.contains(table)) {
            continue;
        }
        if EXCEPTIONS.iter().any(|(of, start, _)| *of == version && statement.starts_with(start)) {
            continue;
        }
        changed.extend(table);
        let clauses = clauses(statement);
        wrong.extend(clauses.iter().filter_map(|clause| rule_of(clause)).map(|why| format!("V{version}: `{statement}`: {why}")));
    }
    if changed.len() > 1 {
        wrong.push(format!("V{version}: changes {changed:?}: one table that was there before in a version, so that none is locked while another is waited for"));
    }
    wrong
}

fn rule_of(statement: &str) -> Option<&'static str> {
    if let Some(refused) = REFUSED.iter().find(|(text, _)| pattern(text).is_match(statement)) {
        return Some(refused.1);
    }
    if CONSTRAINT.is_match(statement) && !IS_CHEAP_CONSTRAINT.is_match(statement) {
        return Some("looks at every row, with everybody kept out: add it `not valid`, and validate it in the next version");
    }
    if NOT_NULL.is_match(statement) && !WITH_DEFAULT.is_match(statement) {
        return Some("servers of the version before do not write this column: give it a default");
    }
    None
}

/// Each change of a table that makes several at once, as a statement of its own.
fn clauses(statement: &str) -> Vec<String> {
    let Some(found) = ALTERED.find(statement) else { return vec![statement.to_owned()] };
    let (mut clauses, mut depth) = (vec![String::new()], 0);
    for letter in statement[found.end()..].chars() {
        depth += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if letter == ',' && depth == 0 {
            clauses.push(String::new());
        } else if let Some(clause) = clauses.last_mut() {
            clause.push(letter);
        }
    }
    // A constraint is no column.
    clauses.iter().map(|clause| format!("{}{}", found.as_str(), clause.trim().replace("add constraint", "add_constraint"))).collect()
}

/// The statements of a text in small letters and on one line each, without comments and without what stands in quotes.
pub(super) fn statements(sql: &str) -> Vec<String> {
    let quoted = pattern(r"(?s)--[^\n]*|/\*.*?\*/|\$\$.*?\$\$|'(?:[^']|'')*'");
    let bare =
        quoted.replace_all(sql, |found: &regex::Captures<'_>| if found[0].starts_with(['-', '/']) { " " } else { "''" }).to_lowercase();
    let statements = bare.split(';').map(|statement| statement.split_whitespace().collect::<Vec<_>>().join(" "));
    statements.filter(|statement| !statement.is_empty()).collect()
}

/// Each rule has an example that breaks it, and next to it how the same is done.
pub(super) const BAD: &[&str] = &[
    "create index jobs_name_idx on jobs (name);",
    "create unique index if not exists jobs_name_key on jobs (name);",
    "create index concurrently jobs_name_idx on jobs (name);",
    "alter table jobs alter column attempt type bigint;",
    "alter table jobs alter attempt set data type bigint;",
    "alter table jobs add column late boolean generated always as (priority > 3) stored;",
    "alter table jobs add column number bigint generated always as identity;",
    "alter table jobs add column number bigserial;",
    "alter table jobs add column token uuid default gen_random_uuid();",
    "alter table jobs add column seen_at timestamptz not null default clock_timestamp();",
    "alter table jobs add column size integer constraint jobs_size_check check (size > 0);",
    "alter table jobs add column twin bigint references jobs;",
    "alter table jobs add column label text not null;",
    "alter table jobs add constraint jobs_name_check check (name <> '');",
    "alter table jobs add constraint jobs_name_key unique (name);",
    "alter table jobs add constraint a_check check (name <> '') not valid, add constraint b_check check (attempt < 9);",
    "alter table jobs alter column project_id set not null;",
    "alter table jobs drop column attempt;",
    "alter table jobs rename column attempt to number;",
    "alter table jobs rename to work;",
    "alter table jobs set unlogged;",
    "drop table submissions;",
    "drop index jobs_task_idx;",
    "/* all */ update jobs\nset name = 'x; not a statement' -- of all\n;",
    "insert into job_counts select project_id, status, 1 from jobs;",
    "do $$ begin update jobs set name = 'x'; end $$;",
    "do language plpgsql 'begin update jobs set name = ''x''; end';",
    "do $body$ begin update jobs set name = 'x'; end $body$;",
    "with done as (update jobs set name = 'x' returning id) select count(*) from done;",
    "call rename_jobs();",
    "truncate submissions;",
    "lock table jobs;",
    "begin;",
    "set lock_timeout = 0;",
    "select set_config('lock_timeout', '0', false);",
    "alter table jobs add column a text; alter table attempts add column b text;",
];

pub(super) const GOOD: &[&str] = &[
    "create table labels (job_id bigint not null, label text not null); create index labels_idx on labels (label); insert into labels values (1, 'a');",
    "alter table jobs add column label text;",
    "alter table jobs add column label text not null default 'none';",
    "alter table jobs add column label text default 'random; update jobs';",
    "alter table jobs add column seen_at timestamptz not null default now();",
    "alter table jobs add constraint jobs_name_check check (name <> '') not valid;",
    "alter table jobs add column label text, add column size numeric(9, 2) not null default 0;",
    "alter table jobs validate constraint jobs_name_check;",
    "alter table jobs alter column label set default 'x';",
    "alter table jobs set (fillfactor = 70);",
    "create function f() returns trigger language plpgsql as $$ begin update jobs set name = 'x'; return null; end $$;",
    "create trigger jobs_f after insert on jobs for each statement execute function f();",
];
