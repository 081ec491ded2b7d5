//! `whatsnext users`: whose keys there are.

use anyhow::ensure;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::Value;

use super::{
    ConfigArguments,
    audit::Recorder,
    keys::{open, role},
    output,
};
use crate::{
    access::{self, Grants, Keys, Role},
    api::users::User,
    config::Settings,
    postgres::Page,
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
    /// Add a user. What they may do bounds what their keys may do.
    Create {
        /// Unique among all users.
        #[arg(long)]
        name: String,
        #[command(flatten)]
        granted: Granted,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List users.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give a user other grants. Their keys follow, from the next request on.
    Grant {
        /// The user's name.
        name: String,
        #[command(flatten)]
        granted: Granted,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let none of a user's keys in any more.
    Suspend {
        /// The user's name.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let a user's keys in again.
    Resume {
        /// The user's name.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("grants").required(true).multiple(true)))]
struct Granted {
    /// The role in all projects: reader, worker, submitter, maintainer, admin
    #[arg(long, group = "grants", value_parser = role)]
    role: Option<Role>,
    /// A project and the role in it, as in 7=worker; may be given several times.
    #[arg(long = "project", group = "grants", value_name = "ID=ROLE", value_parser = in_project, conflicts_with = "role")]
    projects: Vec<(i64, Role)>,
}

impl Granted {
    fn grants(&self) -> anyhow::Result<Grants> {
        let grants = match self.role {
            Some(role) => Grants::All(role),
            None => Grants::Only(self.projects.iter().copied().collect()),
        };
        ensure!(grants.is_short(), "a user can have at most {} projects", Grants::MAX_PROJECTS);
        Ok(grants)
    }
}

fn in_project(text: &str) -> Result<(i64, Role), String> {
    let (id, name) = text.split_once('=').ok_or("write it as ID=ROLE")?;
    Ok((id.parse().map_err(|_| "the part before = is no project's id")?, role(name)?))
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = arguments.config.load_for_stores()?;
    let keys = open(&settings).await?;
    match &arguments.command {
        Command::Create { name, granted, json } => {
            ensure!((1..=255).contains(&name.chars().count()), "--name must have 1 to 255 characters");
            let grants = granted.grants()?;
            let create = async { Ok(keys.store.add_user(name, &grants).await?) };
            let user = Recorder::open(&settings)?.records(("create_user", Kind::Creation), id, create).await?;
            shown(&[user.into()], *json, true)
        }
        Command::List { json } => shown(&all(&keys).await?, *json, false),
        Command::Grant { name, granted, json } => {
            let grants = granted.grants()?;
            changed(&settings, &keys, name, (Some(&grants), None), *json).await
        }
        Command::Suspend { name, json } => changed(&settings, &keys, name, (None, Some(false)), *json).await,
        Command::Resume { name, json } => changed(&settings, &keys, name, (None, Some(true)), *json).await,
    }
}

async fn changed(
    settings: &Settings,
    keys: &Keys,
    name: &str,
    (grants, active): (Option<&Grants>, Option<bool>),
    json: bool,
) -> anyhow::Result<()> {
    let update = async {
        let id = keys.store.user_named(name).await?.id;
        Ok(keys.update_user(id, grants, active).await?)
    };
    shown(&[Recorder::open(settings)?.records(("update_user", Kind::Change), id, update).await?.into()], json, true)
}

fn id(user: Option<&access::User>) -> Vec<(&'static str, Value)> {
    user.map(|user| ("user_id", user.id.into())).into_iter().collect()
}

async fn all(keys: &Keys) -> anyhow::Result<Vec<User>> {
    const PAGE: i64 = 1000;
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let page = keys.store.users(Page { after, skip: 0, limit: PAGE }).await?;
        let Some(last) = page.items.last() else { return Ok(found) };
        after = last.id;
        found.extend(page.items.into_iter().map(User::from));
    }
}

fn shown(users: &[User], json: bool, alone: bool) -> anyhow::Result<()> {
    match (json, users) {
        (true, [user]) if alone => output::json(user),
        (true, users) => output::json(&users),
        (false, users) => {
            let lines = users.iter().map(User::columns).collect::<Vec<_>>();
            output::table(&["ID", "NAME", "GRANTS", "ACTIVE"], &lines);
            Ok(())
        }
    }
}
