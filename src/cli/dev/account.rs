//! Whom PostgreSQL runs as: whoever runs `whatsnext dev`, except that PostgreSQL refuses root.

use std::{
    fs::{self, Metadata},
    os::unix::fs::{MetadataExt as _, lchown},
    path::Path,
};

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Uid, User, getegid, geteuid};

/// Accounts that may run PostgreSQL in root's place, the best first.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// A user of this machine, with the one group that it has here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    user: Uid,
    group: Gid,
}

impl Account {
    /// Whoever runs this.
    pub(super) fn own() -> Self {
        Self { user: geteuid(), group: getegid() }
    }

    /// Whom PostgreSQL runs as.
    pub(super) fn for_postgres() -> anyhow::Result<Self> {
        let own = Self::own();
        if !own.is_root() {
            return Ok(own);
        }
        if !cfg!(target_os = "linux") {
            bail!("PostgreSQL refuses to run as root: run `whatsnext dev` as an ordinary user");
        }
        for name in UNPRIVILEGED {
            if let Some(user) = User::from_name(name).context("cannot look up accounts")? {
                return Ok(Self { user: user.uid, group: user.gid });
            }
        }
        bail!("PostgreSQL refuses to run as root, and there is no account `postgres` or `nobody`: run `whatsnext dev` as an ordinary user")
    }

    pub(super) fn is_root(self) -> bool {
        self.user.is_root()
    }

    /// User and group, if they are not those that this process has.
    pub(super) fn to_become(self) -> Option<(Uid, Gid)> {
        (self != Self::own()).then_some((self.user, self.group))
    }

    /// Its name, or its number if it has none.
    pub(super) fn name(self) -> String {
        name_of(self.user)
    }

    /// Whether something belongs to it.
    pub(super) fn owns(self, metadata: &Metadata) -> bool {
        metadata.uid() == self.user.as_raw()
    }

    /// Gives it a folder that this process has just made. A symbolic link is not followed, so nobody can put something else in the folder's place.
    pub(super) fn take(self, folder: &Path) -> anyhow::Result<()> {
        match self.to_become() {
            None => Ok(()),
            Some((user, group)) => lchown(folder, Some(user.as_raw()), Some(group.as_raw()))
                .with_context(|| format!("cannot give {} to {}", folder.display(), self.name())),
        }
    }

    /// Whether it can get to what is in a folder, as far as owners and modes say. The path must be absolute and without symbolic links.
    pub(super) fn reaches(self, folder: &Path) -> bool {
        self.to_become().is_none() || folder.ancestors().all(|part| fs::metadata(part).is_ok_and(|metadata| self.may_pass(&metadata)))
    }

    fn may_pass(self, metadata: &Metadata) -> bool {
        let bit = match metadata {
            _ if self.owns(metadata) => 0o100,
            _ if metadata.gid() == self.group.as_raw() => 0o010,
            _ => 0o001,
        };
        metadata.mode() & bit != 0
    }
}

/// The name of whoever something belongs to.
pub(super) fn owner(metadata: &Metadata) -> String {
    name_of(Uid::from_raw(metadata.uid()))
}

fn name_of(user: Uid) -> String {
    User::from_uid(user).ok().flatten().map_or_else(|| format!("user {user}"), |user| user.name)
}
