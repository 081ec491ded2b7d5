//! `whatsnext openapi`

use crate::{
    app::App,
    config::{Sources, load},
};

/// Prints the document. It does not depend on how a server is configured, so the defaults will do.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub(super) fn run() -> anyhow::Result<()> {
    let app = App::build(load(&Sources::default())?.settings)?;
    println!("{}", serde_json::to_string_pretty(&app.document())?);
    Ok(())
}
