//! What each operation needs, written down a second time: whoever changes an operation's scope, or adds one, must say so here too.

/// Open to everybody.
const OPEN: [&str; 4] = ["get_root", "check_database", "get_liveness", "get_readiness"];

/// Open to whoever has a key.
const OWN: [&str; 2] = ["get_own_key", "revoke_own_key"];

/// One of these scopes is enough; the first is the one that is missed.
const SCOPES: [(&[&str], &[&str]); 7] = [
    (
        &["read"],
        &[
            "list_projects",
            "get_project",
            "get_project_by_name",
            "get_project_stats",
            "list_tasks",
            "get_task",
            "get_task_by_name",
            "list_jobs",
            "get_job",
            "get_job_dependencies",
            "list_attempts",
            "explain_job",
            "get_attempt",
            "list_clients",
            "get_client",
            "create_token",
        ],
    ),
    (
        &["submit"],
        &["clear_queue", "create_job", "create_jobs", "delete_job", "delete_project_job", "cancel_job", "retry_job", "retry_jobs"],
    ),
    (
        &["work"],
        &[
            "fetch_job",
            "claim_jobs",
            "start_attempt",
            "heartbeat_attempt",
            "complete_attempt",
            "fail_attempt",
            "release_attempt",
            "register_client",
            "update_client",
            "delete_client",
            "client_heartbeat",
            "deactivate_client",
        ],
    ),
    (
        &["manage"],
        &["create_project", "update_project", "delete_project", "delete_project_by_name", "create_task", "update_task", "delete_task"],
    ),
    (
        &["admin"],
        &[
            "list_keys",
            "create_key",
            "get_key",
            "rotate_key",
            "revoke_key",
            "get_key_limit",
            "set_key_limit",
            "reset_key_limit",
            "list_users",
            "create_user",
            "get_user",
            "update_user",
        ],
    ),
    // `work` reports a status, `submit` changes the rest (`a_worker_may_change_a_jobs_status_and_nothing_else`).
    (&["work", "submit"], &["update_job"]),
    // Whatever a token is good for.
    (&["read", "submit", "work", "manage"], &["get_own_token", "delete_own_token"]),
];

/// How many operations are known here.
pub(super) fn count() -> usize {
    OPEN.len() + OWN.len() + SCOPES.iter().map(|(_, operations)| operations.len()).sum::<usize>()
}

/// Any of these scopes is enough: none of them is needed by what is open to everybody, or to whoever has a key.
///
/// # Panics
///
/// For an operation that is not known here: it is new.
pub(super) fn scopes(operation: &str) -> &'static [&'static str] {
    if is_open(operation) || OWN.contains(&operation) {
        return &[];
    }
    let found = SCOPES.iter().find(|(_, operations)| operations.contains(&operation));
    found.unwrap_or_else(|| panic!("{operation} is an operation of which nobody says what it needs: say so here")).0
}

/// Whether it takes no key.
pub(super) fn is_open(operation: &str) -> bool {
    OPEN.contains(&operation)
}
