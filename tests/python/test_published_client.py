"""The published library (whatsnext 0.0.2, unmodified): projects, tasks, queues and clients, over two servers."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from whatsnext import EmptyQueueError, Job, Project, Server

from support.jobs import added, jobs_of, statuses
from support.servers import RunningServer


def seconds_ago(moment: datetime) -> float:
    return abs(datetime.now(UTC) - moment) / timedelta(seconds=1)


class TestProjects:
    def test_a_project_made_at_one_server_is_found_by_name_at_the_other(
        self, project: Project, there: Server, name: str
    ) -> None:
        found = there.get_project(name)
        assert found is not None and found.id == project.id
        assert (found.name, found.description, found.status) == (name, "made for a test", "ACTIVE")

    def test_its_times_are_read_by_the_client_and_are_of_now(self, project: Project) -> None:
        assert seconds_ago(project.created_at) < 60, "created_at is the time of making it, with its time zone"
        assert seconds_ago(project.last_updated) < 60

    def test_a_new_description_is_seen_everywhere_and_moves_the_last_update(
        self, project: Project, elsewhere: Project
    ) -> None:
        created, before = project.created_at, project.last_updated
        project.set_description("another one, 日本語")
        assert elsewhere.description == "another one, 日本語"
        assert elsewhere.last_updated > before, "updated_at grows with each change"
        assert elsewhere.created_at == created, "created_at stays"

    def test_list_projects_prints_a_table(
        self, project: Project, there: Server, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        there.list_projects(limit=1000)
        printed = capsys.readouterr().out
        columns = ["id", "name", "description", "status", "created_at", "updated_at"]
        assert [column.strip() for column in printed.splitlines()[1].strip("|").split("|")] == columns
        assert name in printed

    def test_list_projects_says_when_there_is_none(self, here: Server, capsys: pytest.CaptureFixture[str]) -> None:
        here.list_projects(skip=1_000_000)
        assert capsys.readouterr().out == "No projects found.\n"

    def test_a_name_is_given_once(self, project: Project, there: Server, name: str) -> None:
        assert there.append_project(name) is None, "a second project of that name is refused"

    def test_a_project_may_have_a_name_that_a_url_must_escape(self, here: Server, there: Server, name: str) -> None:
        odd = f"ünïcode & 100% +{name}"
        made = here.append_project(odd)
        assert made is not None
        found = there.get_project(odd)
        assert found is not None and (found.id, found.name) == (made.id, odd)
        assert there.delete_project(odd)

    def test_a_deleted_project_is_gone_everywhere(
        self, project: Project, here: Server, there: Server, name: str
    ) -> None:
        added(project, "a job")
        assert there.delete_project(name), "a project with jobs is deleted"
        assert here.get_project(name) is None
        assert not here.delete_project(name), "it is deleted once"


class TestTasks:
    def test_a_tasks_name_is_given_once_in_a_project(self, project: Project, elsewhere: Project) -> None:
        assert not elsewhere.create_task("train"), "the project has it already"
        assert elsewhere.create_task("evaluate")

    def test_two_projects_may_have_tasks_of_the_same_name(self, project: Project, here: Server, name: str) -> None:
        other = here.append_project(f"{name}, too")
        assert other is not None and other.create_task("train")
        assert other.append_queue(Job("a job", "train", {}))
        assert project.queue == [], "the job is the other project's"
        assert here.delete_project(f"{name}, too")


class TestQueue:
    def test_a_job_comes_back_as_it_was_submitted(self, project: Project, elsewhere: Project) -> None:
        parameters = {
            "lr": 1e-3,
            "epochs": 10,
            "big": 2**53 + 1,
            "text": "ü\n\"'",
            "none": None,
            "nested": {"b": [1, {}], "a": ""},
        }
        assert project.append_queue(Job("a job", "train", parameters, priority=-7))
        (listed,) = elsewhere.queue
        assert (listed["name"], listed["priority"], listed["status"]) == ("a job", -7, "PENDING")
        assert listed["parameters"] == parameters
        assert list(listed["parameters"]) == list(parameters), "in the same order"
        fetched = elsewhere.fetch_job()
        assert (fetched.id, fetched.name, fetched.task, fetched.priority) == (listed["id"], "a job", "train", -7)
        assert (fetched.parameters, fetched.status, fetched.depends) == (parameters, "QUEUED", {})

    def test_every_time_has_six_digits_and_a_numeric_offset(self, project: Project, second: RunningServer) -> None:
        added(project, "a job")
        (job,) = jobs_of(second, project)
        for field in ("created_at", "updated_at"):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", job[field]), (
                f"{field} is what Python 3.10's fromisoformat reads: {job[field]}"
            )

    def test_a_job_of_an_unknown_task_is_not_added(self, project: Project) -> None:
        assert not project.append_queue(Job("a job", "no such task", {}))
        assert project.extend_queue([Job("a job", "no such task", {})]) == []
        assert project.queue == []

    def test_many_jobs_are_added_at_once_in_order(self, project: Project, elsewhere: Project) -> None:
        ids = project.extend_queue([Job(f"job {number}", "train", {"number": number}) for number in range(8)])
        assert ids == sorted(set(ids)) and len(ids) == 8, "one id for each, ascending"
        assert [(job["id"], job["parameters"]["number"]) for job in elsewhere.queue] == list(
            zip(ids, range(8), strict=True)
        )

    def test_the_queue_shows_the_ten_oldest_jobs(self, project: Project, elsewhere: Project) -> None:
        ids = project.extend_queue([Job(f"job {number}", "train", {}) for number in range(12)])
        assert [job["id"] for job in elsewhere.queue] == ids[:10]

    def test_pop_queue_removes_by_position(self, project: Project, elsewhere: Project) -> None:
        added(project, "zero", "one", "two")
        assert elsewhere.pop_queue(1)
        assert [job["name"] for job in project.queue] == ["zero", "two"]
        assert project.pop_queue()
        assert [job["name"] for job in elsewhere.queue] == ["two"]
        assert not project.pop_queue(5), "there is no sixth"

    def test_remove_job_removes_by_id_and_only_its_own_projects(
        self, project: Project, here: Server, name: str
    ) -> None:
        (job,) = added(project, "a job")
        other = here.append_project(f"{name}, too")
        assert other is not None
        assert not other.remove_job(job.id), "it is not the other project's"
        assert project.remove_job(job.id)
        assert project.queue == []
        assert not project.remove_job(job.id), "it is removed once"
        assert here.delete_project(f"{name}, too")

    def test_clear_queue_deletes_what_waits_and_keeps_what_runs(
        self, project: Project, elsewhere: Project, second: RunningServer
    ) -> None:
        added(project, "taken", "pending", "pending too")
        project.fetch_job().set_status("RUNNING")
        assert elsewhere.clear_queue() == 2
        assert statuses(second, project) == {"taken": "RUNNING"}
        assert project.clear_queue() == 0, "there is nothing left to clear"


class TestFetching:
    def test_an_empty_queue_is_said_to_be_empty(self, project: Project, elsewhere: Project) -> None:
        for side in (project, elsewhere):
            with pytest.raises(EmptyQueueError):
                side.fetch_job()

    def test_jobs_come_by_priority_and_then_by_age(self, project: Project, elsewhere: Project) -> None:
        for name, priority in [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0)]:
            assert project.append_queue(Job(name, "train", {}, priority=priority))
        sides = [project, elsewhere, project, elsewhere, project]
        assert [side.fetch_job().name for side in sides] == ["b", "d", "a", "e", "c"]
        with pytest.raises(EmptyQueueError):
            elsewhere.fetch_job()

    def test_set_priority_to_changes_the_order(self, project: Project, elsewhere: Project) -> None:
        _, late = added(project, "early", "late")
        late.set_priority_to(1)
        assert elsewhere.fetch_job().name == "late"

    def test_set_status_is_seen_everywhere_and_keeps_the_rest(self, project: Project, elsewhere: Project) -> None:
        assert project.append_queue(Job("a job", "train", {"x": 1}, priority=3))
        job = elsewhere.fetch_job()
        for status in ("RUNNING", "COMPLETED"):
            job.set_status(status)
            (seen,) = project.queue
            assert (seen["status"], seen["priority"], seen["parameters"]) == (status, 3, {"x": 1})

    def test_a_status_is_read_in_any_case(self, project: Project, elsewhere: Project) -> None:
        added(project, "a job")
        project.fetch_job().set_status("completed")
        assert elsewhere.queue[0]["status"] == "COMPLETED"

    def test_a_job_set_pending_again_is_given_out_again(self, project: Project, elsewhere: Project) -> None:
        (job,) = added(project, "a job")
        assert project.fetch_job().id == job.id
        job.set_status("PENDING")
        assert elsewhere.fetch_job().id == job.id


class TestClients:
    def test_a_client_comes_beats_changes_and_goes(self, here: Server, there: Server, second: RunningServer) -> None:
        identity = {"client_id": "test-client_1", "name": "a machine", "entity": "a lab"}
        assert here.register_client(**identity, description="in a corner", available_cpu=8, available_accelerators=2)
        fresh = second.get("/clients/test-client_1").raise_for_status().json()
        expected = {
            "id": "test-client_1", "name": "a machine", "entity": "a lab", "description": "in a corner",
            "available_cpu": 8, "available_accelerators": 2, "is_active": 1,
        }  # fmt: skip
        assert expected.items() <= fresh.items(), f"the client is shown as it registered: {fresh}"

        assert there.client_heartbeat("test-client_1")
        beaten = second.get("/clients/test-client_1").json()
        assert beaten["last_heartbeat"] > fresh["last_heartbeat"], "a heartbeat is noted with its time"

        assert there.update_client_resources("test-client_1", available_cpu=4)
        changed = second.get("/clients/test-client_1").json()
        assert (changed["available_cpu"], changed["available_accelerators"]) == (4, 2), "what is not named stays"

        assert here.deactivate_client("test-client_1")
        assert second.get("/clients/test-client_1").json()["is_active"] == 0

        assert there.register_client(**identity), "a client may come again"
        again = second.get("/clients/test-client_1").json()
        assert (again["is_active"], again["created_at"]) == (1, fresh["created_at"])

    def test_an_unknown_client_is_told_so(self, here: Server) -> None:
        assert not here.client_heartbeat("nobody")
        assert not here.deactivate_client("nobody")
        assert not here.update_client_resources("nobody", available_cpu=1)

    def test_a_malformed_id_is_refused(self, here: Server) -> None:
        assert not here.register_client("a b", "a machine", "a lab")
