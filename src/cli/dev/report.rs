//! What the user is told, on standard output.

use std::{
    borrow::Cow,
    io::{self, Write as _},
    path::Path,
    process,
};

use super::{
    account::Account,
    folder::Folder,
    servers::Ports,
    stores::{DATABASE, PORT, Stores, USER},
};

/// Says a line. All goes on if nobody listens any more (`whatsnext dev | head`).
pub(super) fn say(line: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

/// Where everything is, and what to do with it.
pub(super) fn servers(folder: &Folder, stores: &Stores, ports: Ports) {
    let urls: Vec<String> = ports.urls().collect();
    let (first, last) = (&urls[0], &urls[urls.len() - 1]);
    let list = urls.iter().map(|url| format!("  API      {url}   documentation: {url}/docs   {url}/redoc\n")).collect::<String>();
    say(&format!(
        "
WhatsNext is ready.

{list}  Key      in {key}: it may do everything. More of them: POST /keys
{stores}

Try it:

{example}

Ctrl-C, or `kill {process}`, stops all of it.",
        process = process::id(),
        key = quoted(&folder.key()),
        stores = where_stores_are(folder, stores),
        example = example(&folder.key(), first, last),
    ));
}

/// Where the stores are.
pub(super) fn stores(folder: &Folder, stores: &Stores) {
    let urls: String = stores.urls().iter().map(|(name, url)| format!("  {name}={url}\n")).collect();
    say(&format!(
        "
PostgreSQL and Redis are ready.

{urls}
  (also in {file}, while they run)
{stores}

Ctrl-C, or `kill {process}`, stops both.",
        process = process::id(),
        file = folder.urls().display(),
        stores = where_stores_are(folder, stores),
    ));
}

/// That PostgreSQL's data had to go to another place.
pub(super) fn elsewhere(data: &Path, account: Account) {
    say(&format!(
        "\nPostgreSQL runs as {}, who cannot get to this folder: its data is in {}, and goes only if you delete that too.",
        account.name(),
        data.display()
    ));
}

fn where_stores_are(folder: &Folder, stores: &Stores) -> String {
    format!(
        "  psql     psql -h {database} -p {PORT} -U {USER} {DATABASE}
  Redis    redis-cli -s {redis}
  Data     {data}   (the next run finds it; delete it to begin again)
  Logs     {logs}",
        database = quoted(&stores.database),
        redis = quoted(&stores.redis),
        data = folder.path().display(),
        logs = folder.logs().display(),
    )
}

/// A project, a task and a job by way of one server, and the job fetched from another. May be tried again: the project's name has the time in it.
fn example(key: &Path, first: &str, last: &str) -> String {
    let id = r#"sed 's/^{"id":\([0-9]*\).*/\1/'"#;
    let curl = r#"curl -fsS -H "X-API-Key: $key""#;
    let post = format!("{curl} -H 'Content-Type: application/json'");
    let key = quoted(key);
    format!(
        r#"  key=$(cat {key})
  name=demo-$(date +%s)
  project=$({post} {first}/projects -d "{{\"name\":\"$name\"}}" | {id})
  task=$({post} {first}/tasks -d "{{\"name\":\"train\",\"project_id\":$project}}" | {id})
  {post} {first}/jobs -d "{{\"name\":\"first\",\"project_id\":$project,\"task_id\":$task,\"parameters\":{{\"lr\":0.1}}}}"
  {curl} {last}/projects/$project/fetch_job"#
    )
}

/// As a shell reads it.
fn quoted(path: &Path) -> Cow<'_, str> {
    let text = path.to_string_lossy();
    match text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+,@".contains(&byte)) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_a_shell_would_change_them() {
        assert_eq!(quoted(Path::new("/a/b-c_d.e")), "/a/b-c_d.e");
        assert_eq!(quoted(Path::new("/it's here")), r"'/it'\''s here'");
    }
}
