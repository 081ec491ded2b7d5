//! `whatsnext tether`, for [`super::process`]: becomes another program, which ends when `whatsnext dev` does, however that ends.
//!
//! Linux sends a process the signal of its choice when its parent dies. A process can only choose for itself and loses its choice when it changes user, so
//! this runs between fork and exec. Rust's own way to do that (`pre_exec`) is unsafe; a step of one's own is not, and it works with no helper installed.
//! Where there is no such signal, a `whatsnext dev` that is killed by SIGKILL leaves what it started, and the next one says how to stop it.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, bail};
use clap::Args;
use nix::{sys::signal::Signal, unistd};

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// The process id of `whatsnext dev`.
    #[arg(long)]
    parent: i32,
    /// The signal to get when the parent dies.
    #[arg(long)]
    signal: Signal,
    /// The user to become.
    #[arg(long, requires = "group")]
    user: Option<u32>,
    /// The group to become, and the only one.
    #[arg(long, requires = "user")]
    group: Option<u32>,
    /// The program and what it is given.
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// Returns only if the program cannot be started.
pub(in crate::cli) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let (Some(user), Some(group)) = (arguments.user, arguments.group) {
        change_user(user.into(), group.into()).context("cannot change to the user of PostgreSQL")?;
    }
    tie(arguments.signal)?;
    // The parent may have died before the signal was chosen.
    if unistd::getppid().as_raw() != arguments.parent {
        bail!("`whatsnext dev` has ended");
    }
    let (program, rest) = arguments.program.split_first().context("no program was given")?;
    Err(Command::new(program).args(rest).exec()).with_context(|| format!("cannot start {}", program.display()))
}

#[cfg(target_os = "linux")]
fn change_user(user: unistd::Uid, group: unistd::Gid) -> nix::Result<()> {
    unistd::setgroups(&[])?;
    unistd::setgid(group)?;
    unistd::setuid(user)
}

#[cfg(target_os = "linux")]
fn tie(signal: Signal) -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(signal).context("cannot tie the program to its parent")
}

#[cfg(not(target_os = "linux"))]
fn change_user(_: unistd::Uid, _: unistd::Gid) -> nix::Result<()> {
    Err(nix::errno::Errno::ENOSYS)
}

#[cfg(not(target_os = "linux"))]
fn tie(_: Signal) -> anyhow::Result<()> {
    Ok(())
}
