//! What the system lets a process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Allows this process as many descriptors as the system lets it have: the usual soft limit (1024) is for programs that use `select`, and a connection
/// is a descriptor. Leaves it as it is where that is not allowed.
pub(super) fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open descriptors could not be raised");
    }
}
