//! `whatsnext migrate`

use super::ConfigArguments;
use crate::postgres::migrate;

#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub(super) async fn run(arguments: &ConfigArguments) -> anyhow::Result<()> {
    let effective = arguments.load([])?;
    let applied = migrate::run(&effective.settings).await?;
    match applied.as_slice() {
        [] => println!("The schema is up to date: version {}.", migrate::newest()),
        [only] => println!("Applied version {only}."),
        [first, .., last] => println!("Applied versions {first} to {last}."),
    }
    Ok(())
}
