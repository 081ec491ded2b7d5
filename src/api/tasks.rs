//! `/tasks`: what jobs are made of.

use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    Error, Tag,
    error::{BadRequest, Conflict, NotFound, Refusal},
    extract::{Body, Caller, Path, Query, Scope},
    jobs::retry,
    paging::{self, ten},
    reply::{Created, Gone, Paged, Reply},
    types::{Amount, Backoff, Limit, Name, OwnerId, Prose, Skip, Timestamp, Tries},
};
use crate::queue::{
    self, projects,
    tasks::{self, Change, Content},
};

/// The operations on tasks.
#[derive(Clone)]
pub struct Api {
    /// The tasks.
    pub tasks: tasks::Store,
    /// Their projects.
    pub projects: projects::Store,
}

/// A task.
#[derive(Debug, Serialize, Object)]
pub struct Task {
    id: i64,
    /// Unique in its project.
    name: Name,
    project_id: i64,
    /// How clients make a command of a job's parameters; the server does not read it.
    command_template: Option<Prose>,
    /// CPUs that a job of this task needs.
    required_cpu: Amount,
    /// Accelerators that a job of this task needs.
    required_accelerators: Amount,
    /// How many attempts may fail before a job of this task has, if the job does not say it; null for what the server says.
    max_attempts: Option<Tries>,
    /// Seconds between the first attempt and the second, and twice as long between each two that follow, if the job does not say it.
    backoff_seconds: Option<Backoff>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// A task, as an update answers it.
#[derive(Debug, Serialize, Object)]
pub struct TaskData {
    data: Task,
}

/// A task to be made.
#[derive(Debug, Deserialize, Object)]
pub struct NewTask {
    /// Unique in its project.
    name: Name,
    project_id: i64,
    /// How clients make a command of a job's parameters; the server does not read it.
    command_template: Option<Prose>,
    /// CPUs that a job of this task needs: 1 if it is not said, so that a client which registered with 0 gets none of them.
    #[oai(default = "one")]
    #[serde(default = "one")]
    required_cpu: Amount,
    /// Accelerators that a job of this task needs.
    #[oai(default = "none")]
    #[serde(default = "none")]
    required_accelerators: Amount,
    /// How many attempts may fail before a job of this task has, if the job does not say it.
    max_attempts: Option<Tries>,
    /// Seconds between the first attempt and the second; twice as long between each two that follow.
    backoff_seconds: Option<Backoff>,
}

/// What to change of a task: what is not given stays as it is.
#[derive(Debug, Deserialize, Object)]
pub struct TaskUpdate {
    /// Unique in its project.
    name: Option<Name>,
    /// The task's own project; a task cannot be moved.
    project_id: Option<i64>,
    /// How clients make a command of a job's parameters; null for none.
    #[serde(default, deserialize_with = "given")]
    #[oai(default)]
    command_template: Given<Prose>,
    /// CPUs that a job of this task needs.
    required_cpu: Option<Amount>,
    /// Accelerators that a job of this task needs.
    required_accelerators: Option<Amount>,
    /// How many attempts may fail before a job of this task has; null for what the server says.
    #[serde(default, deserialize_with = "given")]
    #[oai(default)]
    max_attempts: Given<Tries>,
    /// Seconds between the first attempt and the second; null for what the server says.
    #[serde(default, deserialize_with = "given")]
    #[oai(default)]
    backoff_seconds: Given<Backoff>,
}

/// A field of which null is a value, and absence means: as it is.
type Given<T> = Option<Option<T>>;

fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Given<T>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(super) fn one() -> Amount {
    Amount::new(1).expect("in range")
}

pub(super) fn none() -> Amount {
    Amount::new(0).expect("in range")
}

impl From<tasks::Task> for Task {
    fn from(task: tasks::Task) -> Self {
        Self {
            id: task.id,
            name: task.content.name.into(),
            project_id: task.project_id,
            command_template: task.content.command_template.map(Prose::from),
            required_cpu: task.content.required_cpu.into(),
            required_accelerators: task.content.required_accelerators.into(),
            max_attempts: task.content.retry.max_attempts.map(Tries::from),
            backoff_seconds: task.content.retry.backoff_seconds.map(Backoff::from),
            created_at: Timestamp(task.created_at),
            updated_at: Timestamp(task.updated_at),
        }
    }
}

#[OpenApi(tag = "Tag::Tasks")]
impl Api {
    /// List a project's tasks
    #[oai(path = "/tasks", method = "get", operation_id = "list_tasks")]
    async fn list(
        &self,
        #[oai(scope = "Scope::Read")] caller: Caller,
        /// Whose tasks. Without it the answer is 400.
        project_id: Query<OwnerId>,
        /// At most so many.
        #[oai(default = "ten")]
        limit: Query<Limit>,
        /// Pass over so many.
        #[oai(default = "paging::zero")]
        skip: Query<Skip>,
        /// Only those with a greater id; cheaper than `skip`.
        #[oai(default = "paging::start")]
        after_id: Query<i64>,
    ) -> Result<Paged<Task>, Refusal<BadRequest>> {
        let project_id = project_id.get().ok_or_else(|| Error::bad_request("Say whose tasks: project_id is required."))?;
        caller.check_named(Scope::Read, project_id)?;
        let project = self.projects.get(project_id).await.map_err(|error| match error {
            queue::Error::NotFound(_) => queue::Error::UnknownProject(project_id),
            other => other,
        })?;
        if project.content.status == projects::Status::Archived {
            return Err(queue::Error::Archived(project_id).into());
        }
        let tasks = self.tasks.list(project_id, paging::page(*limit, *skip, *after_id)).await?;
        Ok(Paged(tasks.map(Task::from)))
    }

    /// Make a task
    #[oai(path = "/tasks", method = "post", operation_id = "create_task")]
    async fn create(
        &self,
        #[oai(scope = "Scope::Manage")] caller: Caller,
        body: Body<NewTask>,
    ) -> Result<Created<Task>, Refusal<(BadRequest, Conflict)>> {
        let NewTask { name, project_id, command_template, required_cpu, required_accelerators, max_attempts, backoff_seconds } =
            body.into_inner();
        caller.check_named(Scope::Manage, project_id)?;
        let content = Content {
            name: name.into_string(),
            command_template: command_template.map(Prose::into_string),
            required_cpu: required_cpu.get_i32(),
            required_accelerators: required_accelerators.get_i32(),
            retry: retry(max_attempts, backoff_seconds),
        };
        let task = self.tasks.create(project_id, &content).await?;
        Ok(Created { location: format!("/tasks/{}", task.id), body: task.into() })
    }

    /// Get a task
    #[oai(path = "/tasks/:task_id", method = "get", operation_id = "get_task")]
    async fn get(&self, #[oai(scope = "Scope::Read")] caller: Caller, task_id: Path<i64>) -> Result<Reply<Task>, Refusal<NotFound>> {
        let task = self.tasks.get(*task_id).await?;
        caller.check_on(Scope::Read, task.project_id, || queue::Thing::Task(task.id))?;
        Ok(Reply(task.into()))
    }

    /// Get a task by its name
    #[oai(path = "/tasks/name/:name", method = "get", operation_id = "get_task_by_name")]
    async fn get_by_name(
        &self,
        #[oai(scope = "Scope::Read")] caller: Caller,
        name: Path<String>,
        /// Whose task; without it the oldest of that name.
        project_id: Query<Option<i64>>,
    ) -> Result<Reply<Task>, Refusal<NotFound>> {
        Ok(Reply(self.tasks.get_by_name(&name, *project_id, caller.readable().as_deref()).await?.into()))
    }

    /// Change a task
    ///
    /// A changed requirement holds at once for all its jobs that are not claimed yet.
    #[oai(path = "/tasks/:task_id", method = "put", operation_id = "update_task")]
    async fn update(
        &self,
        #[oai(scope = "Scope::Manage")] caller: Caller,
        task_id: Path<i64>,
        body: Body<TaskUpdate>,
    ) -> Result<Reply<TaskData>, Refusal<(BadRequest, NotFound, Conflict)>> {
        let TaskUpdate { name, project_id, command_template, required_cpu, required_accelerators, max_attempts, backoff_seconds } =
            body.into_inner();
        let change = Change {
            name: name.map(Name::into_string),
            project_id,
            command_template: command_template.map(|template| template.map(Prose::into_string)),
            required_cpu: required_cpu.map(Amount::get_i32),
            required_accelerators: required_accelerators.map(Amount::get_i32),
            max_attempts: max_attempts.map(|tries| tries.map(Tries::get_i32)),
            backoff_seconds: backoff_seconds.map(|seconds| seconds.map(Backoff::get_i32)),
        };
        self.check(&caller, *task_id).await?;
        Ok(Reply(TaskData { data: self.tasks.update(*task_id, &change).await?.into() }))
    }

    /// Delete a task with its jobs
    ///
    /// Refused with 409 while a job of another task waits for one of its jobs.
    #[oai(path = "/tasks/:task_id", method = "delete", operation_id = "delete_task")]
    async fn delete(
        &self,
        #[oai(scope = "Scope::Manage")] caller: Caller,
        task_id: Path<i64>,
    ) -> Result<Gone, Refusal<(NotFound, Conflict)>> {
        self.check(&caller, *task_id).await?;
        self.tasks.delete(*task_id).await?;
        Ok(Gone)
    }
}

impl Api {
    /// Whether a caller may change a task. A task never moves, so what holds of its project now holds when it is changed.
    async fn check(&self, caller: &Caller, task_id: i64) -> Result<(), Error> {
        if caller.readable().is_none() {
            return caller.check(Scope::Manage);
        }
        let task = self.tasks.get(task_id).await?;
        caller.check_on(Scope::Manage, task.project_id, || queue::Thing::Task(task_id))
    }
}
