//! `/projects`: projects and their queues.

use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::{
    Error, Tag,
    error::{BadRequest, Conflict, NotFound, Refusal},
    extract::{Body, Caller, Path, Query, Scope},
    paging::{self, ten},
    reply::{Created, Gone, Paged, Reply},
    types::{Limit, Name, ProjectStatus, Prose, Skip, Timestamp},
};
use crate::queue::{
    self, jobs,
    projects::{self, Content, Status},
};

/// The operations on projects.
#[derive(Clone)]
pub struct Api {
    /// The projects.
    pub projects: projects::Store,
    /// Their jobs.
    pub jobs: jobs::Store,
}

/// A project.
#[derive(Debug, Serialize, Object)]
pub struct Project {
    id: i64,
    /// Unique among all projects.
    name: Name,
    description: Prose,
    status: ProjectStatus,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// A project, as an update answers it.
#[derive(Debug, Serialize, Object)]
pub struct ProjectData {
    data: Project,
}

/// How a project stands.
#[derive(Debug, Serialize, Object)]
pub struct ProjectStats {
    /// How many jobs have which status.
    jobs: JobCounts,
    /// For how many seconds the job that has been ready for longest has been so, of the first hundred of each task and priority (fewer, where there are hundreds
    /// of those); null if none is ready.
    oldest_ready_seconds: Option<f64>,
    /// How many clients are alive. They work for all projects.
    live_clients: i64,
    /// How many of the project's jobs are run with a lease.
    leases: i64,
}

/// How many jobs have which status.
#[derive(Debug, Serialize, Object)]
#[serde(rename_all = "UPPERCASE")]
#[oai(rename_all = "UPPERCASE")]
pub struct JobCounts {
    pending: i64,
    queued: i64,
    running: i64,
    completed: i64,
    failed: i64,
    blocked: i64,
    cancelled: i64,
}

impl From<projects::Stats> for ProjectStats {
    fn from(stats: projects::Stats) -> Self {
        let count = |status: jobs::Status| stats.counts.get(status.as_str()).copied().unwrap_or_default();
        Self {
            jobs: JobCounts {
                pending: count(jobs::Status::Pending),
                queued: count(jobs::Status::Queued),
                running: count(jobs::Status::Running),
                completed: count(jobs::Status::Completed),
                failed: count(jobs::Status::Failed),
                blocked: count(jobs::Status::Blocked),
                cancelled: count(jobs::Status::Cancelled),
            },
            oldest_ready_seconds: stats.oldest_ready_seconds,
            live_clients: stats.live_clients,
            leases: stats.leases,
        }
    }
}

/// A project to be made.
#[derive(Debug, Deserialize, Object)]
pub struct NewProject {
    /// Unique among all projects.
    name: Name,
    #[oai(default)]
    #[serde(default)]
    description: Prose,
    #[oai(default = "active")]
    #[serde(default = "active")]
    status: ProjectStatus,
}

/// What a project is to be.
#[derive(Debug, Deserialize, Object)]
pub struct ProjectUpdate {
    /// Unique among all projects.
    name: Name,
    description: Prose,
    status: ProjectStatus,
}

/// How many jobs were deleted.
#[derive(Debug, Serialize, Object)]
pub struct Cleared {
    deleted: i64,
}

fn active() -> ProjectStatus {
    ProjectStatus(Status::Active)
}

fn active_word() -> String {
    Status::Active.as_str().to_owned()
}

impl From<projects::Project> for Project {
    fn from(project: projects::Project) -> Self {
        Self {
            id: project.id,
            name: project.content.name.into(),
            description: project.content.description.into(),
            status: ProjectStatus(project.content.status),
            created_at: Timestamp(project.created_at),
            updated_at: Timestamp(project.updated_at),
        }
    }
}

#[OpenApi(tag = "Tag::Projects")]
impl Api {
    /// List projects
    #[oai(path = "/projects", method = "get", operation_id = "list_projects")]
    async fn list(
        &self,
        #[oai(scope = "Scope::Read")] caller: Caller,
        /// At most so many.
        #[oai(default = "ten")]
        limit: Query<Limit>,
        /// Pass over so many.
        #[oai(default = "paging::zero")]
        skip: Query<Skip>,
        /// Only those with a greater id; cheaper than `skip`.
        #[oai(default = "paging::start")]
        after_id: Query<i64>,
        /// `ACTIVE` or `ARCHIVED`; empty for all.
        #[oai(default = "active_word")]
        status_filter: Query<String>,
    ) -> Result<Paged<Project>, Refusal<BadRequest>> {
        let status = match status_filter.as_str() {
            "" => None,
            word => Some(word.parse().map_err(|error| Error::bad_request(format!("status_filter {error}, or empty for all.")))?),
        };
        let projects = self.projects.list(status, caller.readable().as_deref(), paging::page(*limit, *skip, *after_id)).await?;
        Ok(Paged(projects.map(Project::from)))
    }

    /// Make a project
    #[oai(path = "/projects", method = "post", operation_id = "create_project")]
    async fn create(
        &self,
        #[oai(scope = "Scope::Manage")] _caller: Caller,
        body: Body<NewProject>,
    ) -> Result<Created<Project>, Refusal<Conflict>> {
        let NewProject { name, description, status } = body.into_inner();
        let project = self.projects.create(&content(name, description, status)).await?;
        Ok(Created { location: format!("/projects/{}", project.id), body: project.into() })
    }

    /// Get a project
    #[oai(path = "/projects/:project_id", method = "get", operation_id = "get_project")]
    async fn get(&self, #[oai(scope = "Scope::Read")] _caller: Caller, project_id: Path<i64>) -> Result<Reply<Project>, Refusal<NotFound>> {
        Ok(Reply(self.projects.get(*project_id).await?.into()))
    }

    /// Get a project by its name
    #[oai(path = "/projects/name/:name", method = "get", operation_id = "get_project_by_name")]
    async fn get_by_name(
        &self,
        #[oai(scope = "Scope::Read")] caller: Caller,
        name: Path<String>,
    ) -> Result<Reply<Project>, Refusal<NotFound>> {
        let project = self.projects.get_by_name(&name).await?;
        caller.check_on(Scope::Read, project.id, || queue::Thing::ProjectNamed(name.0))?;
        Ok(Reply(project.into()))
    }

    /// Change a project
    #[oai(path = "/projects/:project_id", method = "put", operation_id = "update_project")]
    async fn update(
        &self,
        #[oai(scope = "Scope::Manage")] _caller: Caller,
        project_id: Path<i64>,
        body: Body<ProjectUpdate>,
    ) -> Result<Reply<ProjectData>, Refusal<(NotFound, Conflict)>> {
        let ProjectUpdate { name, description, status } = body.into_inner();
        let project = self.projects.update(*project_id, &content(name, description, status)).await?;
        Ok(Reply(ProjectData { data: project.into() }))
    }

    /// See how a project stands
    ///
    /// In milliseconds, however many jobs it has.
    #[oai(path = "/projects/:project_id/stats", method = "get", operation_id = "get_project_stats")]
    async fn stats(
        &self,
        #[oai(scope = "Scope::Read")] _caller: Caller,
        project_id: Path<i64>,
    ) -> Result<Reply<ProjectStats>, Refusal<NotFound>> {
        Ok(Reply(self.projects.stats(*project_id).await?.into()))
    }

    /// Delete a project with its tasks and jobs
    #[oai(path = "/projects/:project_id", method = "delete", operation_id = "delete_project")]
    async fn delete(&self, #[oai(scope = "Scope::Manage")] _caller: Caller, project_id: Path<i64>) -> Result<Gone, Refusal<NotFound>> {
        self.projects.delete(*project_id).await?;
        Ok(Gone)
    }

    /// Delete a project, by its name, with its tasks and jobs
    #[oai(path = "/projects/name/:name", method = "delete", operation_id = "delete_project_by_name")]
    async fn delete_by_name(&self, #[oai(scope = "Scope::Manage")] caller: Caller, name: Path<String>) -> Result<Gone, Refusal<NotFound>> {
        let project = self.projects.get_by_name(&name).await?;
        caller.check_on(Scope::Manage, project.id, || queue::Thing::ProjectNamed(name.0))?;
        self.projects.delete(project.id).await?;
        Ok(Gone)
    }

    /// Clear a queue
    ///
    /// Deletes the pending jobs, and the blocked ones that wait for one of them. Jobs that run or have run stay.
    #[oai(path = "/projects/:project_id/queue", method = "delete", operation_id = "clear_queue")]
    async fn clear_queue(
        &self,
        #[oai(scope = "Scope::Submit")] _caller: Caller,
        project_id: Path<i64>,
    ) -> Result<Reply<Cleared>, Refusal<NotFound>> {
        Ok(Reply(Cleared { deleted: self.jobs.clear(*project_id).await? }))
    }
}

fn content(name: Name, description: Prose, status: ProjectStatus) -> Content {
    Content { name: name.into_string(), description: description.into_string(), status: status.0 }
}
