//! What can go wrong in the queue.

use std::{fmt, sync::Arc};

use crate::postgres::{self, WorkError};

/// A result of the queue.
pub type Result<T> = std::result::Result<T, Error>;

/// Something that is addressed by an id or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are what they say")]
pub enum Thing {
    Project(i64),
    ProjectNamed(String),
    Task(i64),
    TaskNamed(String),
    Job(i64),
    Client(String),
    Attempt { job: i64, number: i32 },
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Project(id) => write!(f, "project {id}"),
            Self::ProjectNamed(name) => write!(f, "project named {name:?}"),
            Self::Task(id) => write!(f, "task {id}"),
            Self::TaskNamed(name) => write!(f, "task named {name:?}"),
            Self::Job(id) => write!(f, "job {id}"),
            Self::Client(id) => write!(f, "client {id:?}"),
            Self::Attempt { job, number } => write!(f, "attempt {number} of job {job}"),
        }
    }
}

/// Why something was not done. All but the last are the caller's to mend, and their texts are for the caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the request is about does not exist.
    #[error("There is no {0}.")]
    NotFound(Thing),
    /// A client that is to claim, or to be alive, and does not exist.
    #[error("There is no client {0:?}; register it first: POST /clients/register.")]
    Unregistered(String),
    /// A name that is taken already.
    #[error("There is already a {0}: choose another name.")]
    NameTaken(Thing),
    /// A request that names a project which does not exist.
    #[error("There is no project {0}.")]
    UnknownProject(i64),
    /// A task that is not the project's.
    #[error("Project {project} has no task {task}.")]
    UnknownTask {
        /// The project.
        project: i64,
        /// The task.
        task: i64,
    },
    /// A dependency that is not the project's.
    #[error("Project {project} has no job {job} to depend on.")]
    UnknownDependency {
        /// The project.
        project: i64,
        /// The job that was to be depended on.
        job: i64,
    },
    /// A dependency that would make a job wait for itself.
    #[error("Job {0} would wait for itself: these dependencies are circular.")]
    Circular(i64),
    /// Jobs and tasks stay in the project in which they were made.
    #[error("The {0} cannot be moved to project {1}: make a new one there.")]
    OtherProject(Thing, i64),
    /// Only the status was to change, and something else would.
    #[error(
        "This key may only report a job's status: send the job back as it was read, with another status. To change more it lacks the scope submit."
    )]
    OnlyStatus,
    /// A client that somebody else registered.
    #[error(
        "The client {0:?} was registered with another key, and only that key, its successors and its user's keys may speak for it: choose another \
         id, or have an administrator delete it, so that it can be registered anew."
    )]
    OthersClient(String),
    /// An archived project where an active one is needed.
    #[error("Project {0} is archived: set its status to ACTIVE first.")]
    Archived(i64),
    /// A job that others wait for cannot go.
    #[error("Job {waiting} ({name:?}) still waits for {for_what}: delete that job first, or take the dependency from it.")]
    Waited {
        /// What was to be deleted: "job 5", "a job of task 7".
        for_what: String,
        /// The job that waits.
        waiting: i64,
        /// Its name.
        name: String,
    },
    /// An attempt that is over; whoever reports for it must not work on the job any more.
    #[error(
        "Attempt {number} of job {job} is over ({status}): stop working on it. The job is {job_status}, its last attempt is {current}."
    )]
    Stale {
        /// The job.
        job: i64,
        /// The attempt that was reported for.
        number: i32,
        /// How it ended.
        status: &'static str,
        /// The job's attempt now.
        current: i32,
        /// The job's status now.
        job_status: &'static str,
    },
    /// A job's status does not allow what is asked.
    #[error("Job {job} is {status}: {hint}.")]
    NotNow {
        /// The job.
        job: i64,
        /// Its status.
        status: &'static str,
        /// What could be done.
        hint: &'static str,
    },
    /// Somebody holds it for longer than one may wait for that.
    #[error("Somebody is changing {0}, or deleting it, and it takes a while. Try again in a moment.")]
    Held(Thing),
    /// The same request is being done for somebody else.
    #[error("A request with this Idempotency-Key is being done right now. Try again in a moment.")]
    InFlight,
    /// A key that was used for another request.
    #[error("was used for another request before: choose a new one")]
    OtherRequest,
    /// A page of a list would be too large to hold.
    #[error("a page may have at most {0} bytes, and this one has more: ask for fewer")]
    PageTooLarge(usize),
    /// The server failed to do what was asked, of which its log tells.
    #[error("the task that did this has ended")]
    Unserved,
    /// What went wrong with something that was done for several callers at once.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// The database failed. The text is for the log.
    #[error(transparent)]
    Database(postgres::Error),
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        match error {
            postgres::Error::TooLarge { limit, .. } => Self::PageTooLarge(limit),
            error => Self::Database(error),
        }
    }
}

impl WorkError for Error {
    fn database(&self) -> Option<&postgres::Error> {
        match self {
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

impl Error {
    /// Whether the database failed in a way that passes. What was sent to it may have been done.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) => error.is_transient(),
            Self::Shared(error) => error.is_transient(),
            _ => false,
        }
    }

    /// Whether it is certain that nothing was done.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Database(error) => error.is_refusal(),
            Self::Shared(error) => error.is_refusal(),
            Self::Unserved => false,
            _ => true,
        }
    }

    /// Translates a refusal by the constraint `name`; any other error stays what it is.
    pub(super) fn on_constraint(error: postgres::Error, name: &str, translated: Self) -> Self {
        if error.constraint() == Some(name) { translated } else { Self::Database(error) }
    }
}
