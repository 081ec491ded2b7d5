"""Jobs, as the tests look at them and take hold of them."""

from typing import Any

from whatsnext import Job, Project, Server

from support.servers import RunningServer


def jobs_of(server: RunningServer, project: Project) -> list[dict[str, Any]]:
    """All jobs of a project, in the order of their ids."""
    return server.get("/jobs", project_id=project.id, limit=1000).raise_for_status().json()


def statuses(server: RunningServer, project: Project) -> dict[str, str]:
    """The status of each job of a project, by the job's name."""
    return {job["name"]: job["status"] for job in jobs_of(server, project)}


def added(project: Project, *names: str, task: str = "train", priority: int = 0) -> list[Job]:
    """Adds jobs to a project and returns handles of them, as a program holds that remembers their ids.

    The published library gives such handles out only where it claims a job; `_bind_server` is what it does there.
    """
    jobs = [Job(name=name, task=task, parameters={}, priority=priority) for name in names]
    ids = project.extend_queue(jobs)
    assert len(ids) == len(names), f"all of {names} are added, and their ids returned: {ids}"
    for job, job_id in zip(jobs, ids, strict=True):
        job.id = job_id
        job._bind_server(project._server)
    return jobs


def through(server: Server, job: Job) -> Job:
    """The same job, held through another server."""
    handle = Job(name=job.name, task=job.task, parameters=job.parameters, id=job.id)
    handle._bind_server(server)
    return handle
