//! `whatsnext keys`: who may come in.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::Utc;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{ConfigArguments, audit::Recorder, output};
use crate::{
    access::{Grants, Key, KeyHash, KeyId, Keys, NewKey, Role, Store},
    api::keys::KeyData,
    config::{MAX_REQUESTS, Settings},
    postgres::{Database, Page, migrate},
    redis::Redis,
    telemetry::audit::Kind,
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key. It is printed alone on the last line of standard output, and cannot be asked for again.
    Create(Create),
    /// List keys.
    List {
        /// Only this user's.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a key, without its secret.
    Show {
        /// Its id: what stands between `wn_` and the next `_`.
        id: KeyId,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Replace a key by a new one for the same user, with the same grants, limit and expiry. The new one is printed as `create` does.
    Rotate {
        /// The old key's id.
        id: KeyId,
        /// For how long the old key is good: 30m, 1h, 7d …
        #[arg(long, default_value = "0s", value_name = "TIME", value_parser = humantime::parse_duration)]
        grace: Duration,
        /// Print JSON before the key.
        #[arg(long)]
        json: bool,
    },
    /// End a key for good: from the next request on, on every server.
    Revoke {
        /// The key's id.
        id: KeyId,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// What people call it.
    #[arg(long)]
    name: String,
    /// reader, worker, submitter, maintainer, admin
    #[arg(long, value_parser = role)]
    role: Role,
    /// A project in which the role holds, by its id; may be given several times. Without it, in all.
    #[arg(long = "project", value_name = "ID")]
    projects: Vec<i64>,
    /// Requests a minute, 0 for no limit. Without it, the servers' setting.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_REQUESTS)))]
    rate_limit: Option<u32>,
    /// After which time it ends: 12h, 90d … Without it, never.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    /// The user whose key it is.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Print JSON before the key.
    #[arg(long)]
    json: bool,
}

pub(super) fn role(text: &str) -> Result<Role, String> {
    serde_json::from_value(text.into()).map_err(|_| "is none of reader, worker, submitter, maintainer, admin".to_owned())
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = arguments.config.load_for_stores()?;
    let keys = open(&settings).await?;
    match &arguments.command {
        Command::Create(create) => {
            let target = |made: Option<&(Key, KeyData)>| ids(None, made);
            let made = Recorder::open(&settings)?.records(("create_key", Kind::Creation), target, create_key(&keys, create)).await?;
            print(&made, create.json)
        }
        Command::Rotate { id, grace, json } => {
            let rotate = async {
                let key = Key::generate(KeyId::make());
                let info = keys.rotate(*id, &key, &KeyHash::of(&key), *grace).await?;
                Ok((key, info.into()))
            };
            let target = |made: Option<&(Key, KeyData)>| ids(Some(*id), made);
            print(&Recorder::open(&settings)?.records(("rotate_key", Kind::Change), target, rotate).await?, *json)
        }
        Command::Show { id, json } => shown(&[keys.store.get(*id).await?.into()], *json, true),
        Command::Revoke { id, json } => {
            let revoke = async { Ok(keys.revoke(*id).await?.into()) };
            let target = |_: Option<&KeyData>| ids(Some(*id), None);
            shown(&[Recorder::open(&settings)?.records(("revoke_key", Kind::Change), target, revoke).await?], *json, true)
        }
        Command::List { user, json } => {
            let user = match user {
                Some(name) => Some(keys.store.user_named(name).await?.id),
                None => None,
            };
            shown(&all(&keys, user).await?, *json, false)
        }
    }
}

/// The keys, after a look whether the database is the one that this program knows.
pub(super) async fn open(settings: &Settings) -> anyhow::Result<Keys> {
    let database = Database::new(settings)?;
    migrate::verify(&database).await?;
    let redis = Redis::new(settings)?;
    // What is changed is copied there.
    redis.connect().await;
    Ok(Keys::new(Store::new(database), redis))
}

async fn create_key(keys: &Keys, create: &Create) -> anyhow::Result<(Key, KeyData)> {
    let Create { name, role, projects, rate_limit, expires, user, .. } = create;
    let grants = match projects.as_slice() {
        [] => Grants::All(*role),
        projects => Grants::Only(projects.iter().map(|project| (*project, *role)).collect()),
    };
    ensure!((1..=255).contains(&name.chars().count()), "--name must have 1 to 255 characters");
    ensure!(grants.is_short(), "a key can have at most {} projects", Grants::MAX_PROJECTS);
    let user_id = match user {
        Some(name) => Some(keys.store.user_named(name).await.context("--user")?.id),
        None => None,
    };
    let expires_at = expires.map(|time| chrono::Duration::from_std(time).map(|time| Utc::now() + time)).transpose();
    let expires_at = expires_at.context("--expires is too far away")?;
    let new = NewKey { name: name.clone(), user_id, grants, rate_limit: *rate_limit, expires_at };
    let key = Key::generate(KeyId::make());
    let info = keys.add(&key, &KeyHash::of(&key), &new).await?;
    Ok((key, info.into()))
}

async fn all(keys: &Keys, user: Option<i64>) -> anyhow::Result<Vec<KeyData>> {
    const PAGE: i64 = 1000;
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = keys.store.list(user, Page { after: after.as_str(), skip: 0, limit: PAGE }).await?;
        let Some(last) = page.items.last() else { return Ok(found) };
        after = last.id.to_string();
        found.extend(page.items.into_iter().map(KeyData::from));
    }
}

/// What a change was made to, and what was made.
fn ids(changed: Option<KeyId>, made: Option<&(Key, KeyData)>) -> Vec<(&'static str, Value)> {
    let made = made.map(|(key, _)| ("made", key.id()));
    changed.map(|id| ("key_id", id)).into_iter().chain(made).map(|(name, id)| (name, id.to_string().into())).collect()
}

/// Tells of a key and then prints it, alone on its line.
fn print((key, data): &(Key, KeyData), json: bool) -> anyhow::Result<()> {
    match json {
        true => output::json(data)?,
        false => output::line(&format!("Key {} ({}). Keep it secret; it cannot be shown again:", key.id(), data.name())),
    }
    output::line(key.expose());
    Ok(())
}

fn shown(keys: &[KeyData], json: bool, alone: bool) -> anyhow::Result<()> {
    match (json, keys) {
        (true, [key]) if alone => output::json(key),
        (true, keys) => output::json(&keys),
        (false, keys) => {
            let lines = keys.iter().map(KeyData::columns).collect::<Vec<_>>();
            output::table(&["ID", "NAME", "USER", "GRANTS", "LIMIT", "STATE", "LAST USED"], &lines);
            Ok(())
        }
    }
}
