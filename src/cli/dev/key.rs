//! The first key: made once, and kept in the folder where only its owner can read it.

use std::{fs, process::Stdio};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use super::{folder::Folder, process::me, servers, stores::Stores};
use crate::{access::Key, cli::keys::open};

/// Makes a key that may do everything, unless the one that is kept is still good.
pub(super) async fn first(folder: &Folder, stores: &Stores) -> anyhow::Result<()> {
    let keys = open(&stores.server_settings()?).await?;
    let kept = fs::read_to_string(folder.key()).ok().and_then(|text| text.trim().parse::<Key>().ok());
    if let Some(key) = kept
        && keys.store.get(key.id()).await.is_ok_and(|info| info.revoked_at.is_none() && info.successor.is_none())
    {
        return Ok(());
    }
    folder.write(&folder.key(), &format!("{}\n", create(folder, stores).await?.expose()))
}

/// By the command, which records it where the servers record what they do.
async fn create(folder: &Folder, stores: &Stores) -> anyhow::Result<Key> {
    let mut command = Command::new(me()?);
    command.args(["keys", "create", "--name", "dev", "--role", "admin"]).current_dir(folder.path());
    for (name, value) in servers::environment(stores, 0) {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().context("cannot run this program")?;
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "the first key cannot be made: see above");
    let key = String::from_utf8(output.stdout).ok().and_then(|text| text.lines().last()?.parse().ok());
    key.context("`whatsnext keys create` does not say which key it has made")
}
