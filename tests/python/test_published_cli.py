"""The published command line (whatsnext 0.0.2, unmodified): `whatsnext` at one server, `wnxt` at the other."""

import json
from pathlib import Path

import pytest
import yaml
from whatsnext import Project, Server

from support.command_line import CommandLine
from support.jobs import added, jobs_of, statuses
from support.servers import HOST, RunningServer


class TestSetUp:
    def test_init_writes_what_the_other_commands_read(self, cli: CommandLine, name: str) -> None:
        written = yaml.safe_load((cli.folder / ".whatsnext").read_text())
        assert written == {"server": {"host": HOST, "port": cli.port}, "project": name}
        assert "No tasks found" not in cli.run("tasks", "ls"), "the project's task is listed without naming the project"

    def test_status_counts_jobs_and_clients(
        self, cli: CommandLine, other_cli: CommandLine, project: Project, there: Server, name: str
    ) -> None:
        added(project, "one", "two")
        project.fetch_job()
        assert there.register_client("status-client", "a machine", "a lab", available_cpu=3)
        told = cli.json("status")
        assert told["server"] == {"url": f"http://{HOST}:{cli.port}", "status": "connected"}
        assert told["project"] == {"name": name, "id": project.id, "status": "ACTIVE"}
        assert told["queue"] == {"total": 2, "by_status": {"QUEUED": 1, "PENDING": 1}}
        assert told["clients"]["active"] >= 1 and told["clients"]["total"] >= told["clients"]["active"]
        printed = other_cli.run("status")
        assert "Server: connected" in printed and "Queue Summary: 2 total jobs" in printed
        assert "PENDING: 1 | QUEUED: 1" in printed

    def test_test_auth_passes_every_step(self, cli: CommandLine, other_cli: CommandLine) -> None:
        for side in (cli, other_cli):
            printed = side.run("test-auth")
            for line in ("Server is reachable", "Database is connected", "Full API access confirmed"):
                assert f"OK - {line}" in printed
            assert "WARN" not in printed and "Authentication test passed!" in printed


class TestProjects:
    def test_a_project_lives_its_whole_life(self, cli: CommandLine, other_cli: CommandLine, name: str) -> None:
        mine = f"{name} of the command line"
        number = cli.added("projects", "create", mine, "--description", "for the table")
        assert "for the table" in other_cli.run("projects", "ls", "--limit", "1000")
        shown = other_cli.json("projects", "show", mine)
        assert (shown["id"], shown["description"], shown["status"]) == (number, "for the table", "ACTIVE")
        assert other_cli.json("projects", "show", str(number))["name"] == mine, "a project is found by its id, too"

        cli.run("projects", "archive", mine)
        assert other_cli.json("projects", "show", mine)["status"] == "ARCHIVED"
        listed = [project["name"] for project in other_cli.json("projects", "ls", "--limit", "1000")]
        assert mine not in listed and name in listed, "only the active ones are listed"
        archived = other_cli.json("projects", "ls", "--status", "archived", "--limit", "1000")
        assert mine in [project["name"] for project in archived]

        cli.run("projects", "delete", "--force", mine)
        other_cli.run("projects", "show", mine, exit_code=1)

    def test_show_counts_the_jobs(self, other_cli: CommandLine, project: Project, name: str) -> None:
        added(project, "one", "two")
        project.fetch_job().set_status("COMPLETED")
        printed = other_cli.run("projects", "show", name)
        assert "COMPLETED: 1" in printed and "PENDING: 1" in printed

    def test_a_name_is_given_once(self, cli: CommandLine, name: str) -> None:
        cli.run("projects", "create", name, exit_code=1)


class TestTasks:
    def test_a_task_lives_its_whole_life(self, cli: CommandLine, other_cli: CommandLine, project: Project) -> None:
        number = cli.added("tasks", "create", "simulate", "--cpu", "4", "--accelerators", "1")
        listed = {task["name"]: task for task in other_cli.json("tasks", "ls")}
        assert set(listed) == {"train", "simulate"}
        simulate = listed["simulate"]
        assert (simulate["id"], simulate["required_cpu"], simulate["required_accelerators"]) == (number, 4, 1)
        assert (listed["train"]["required_cpu"], listed["train"]["required_accelerators"]) == (1, 0), "the defaults"
        assert other_cli.json("tasks", "show", str(number)) == simulate
        assert "Required CPUs:       4" in cli.run("tasks", "show", str(number))

        added(project, "a job", task="simulate")
        other_cli.run("tasks", "delete", "--force", str(number))
        assert [task["name"] for task in cli.json("tasks", "ls")] == ["train"]
        assert project.queue == [], "a task's jobs go with it"
        cli.run("tasks", "delete", "--force", str(number), exit_code=1)

    def test_show_finds_a_task_by_its_name(self, other_cli: CommandLine) -> None:
        assert other_cli.json("tasks", "show", "train")["name"] == "train"

    def test_a_name_is_given_once_in_a_project(self, cli: CommandLine) -> None:
        cli.run("tasks", "create", "train", exit_code=1)


class TestQueue:
    def test_ls_lists_filters_and_limits(
        self, cli: CommandLine, other_cli: CommandLine, project: Project, name: str
    ) -> None:
        cli.run("tasks", "create", "evaluate")
        added(project, "one", "two", "three")
        added(project, "four", task="evaluate")
        project.fetch_job().set_status("RUNNING")

        def names(*arguments: str) -> list[str]:
            return [job["name"] for job in other_cli.json("queue", "ls", *arguments)]

        assert names() == ["one", "two", "three", "four"], "in the order of ids"
        assert names("--status", "running") == ["one"]
        assert names("--status", "all", "--task", "evaluate") == ["four"]
        assert names("--limit", "2") == ["one", "two"]
        printed = other_cli.run("queue", "ls")
        assert f"Queue: {name}" in printed and "Showing 4 job(s)" in printed and "RUNNING" in printed

    def test_stats_counts_by_status_and_by_task(
        self, cli: CommandLine, other_cli: CommandLine, project: Project
    ) -> None:
        added(project, *[f"job {number}" for number in range(12)])
        project.fetch_job().set_status("FAILED")
        task = str(project.queue[0]["task_id"])
        told = other_cli.json("queue", "stats")
        assert told == {"total": 12, "by_status": {"PENDING": 11, "FAILED": 1}, "by_task": {task: 12}}, (
            "all, not a page of them"
        )
        assert "Total Jobs: 12" in cli.run("queue", "stats")

    def test_clear_tells_how_many_it_deleted(self, cli: CommandLine, other_cli: CommandLine, project: Project) -> None:
        added(project, "one", "two", "three")
        project.fetch_job()
        assert "Cleared 2 job(s)" in other_cli.run("queue", "clear", "--force")
        assert [job["status"] for job in cli.json("queue", "ls")] == ["QUEUED"], "what was given out stays"


class TestJobs:
    def test_add_takes_parameters_of_every_kind(self, cli: CommandLine, other_cli: CommandLine) -> None:
        given = ["lr=0.01", "epochs=-10", "verbose=true", "path=a=b c", "big=12345678901234567890"]
        parameters = [argument for value in given for argument in ("--param", value)]
        number = cli.added("jobs", "add", "train", "--name", "with parameters", "--priority", "7", *parameters)
        shown = other_cli.json("jobs", "show", str(number))["job"]
        assert (shown["name"], shown["priority"], shown["status"]) == ("with parameters", 7, "PENDING")
        assert shown["parameters"] == {
            "lr": 0.01, "epochs": -10, "verbose": True, "path": "a=b c", "big": 12345678901234567890,
        }  # fmt: skip
        printed = cli.run("jobs", "show", str(number))
        assert "Priority:    7" in printed and "path: a=b c" in printed

    def test_add_without_a_name_takes_the_tasks(self, cli: CommandLine) -> None:
        number = cli.added("jobs", "add", "train")
        assert cli.json("jobs", "show", str(number))["job"]["name"] == "train"

    def test_add_takes_several_dependencies(self, cli: CommandLine, other_cli: CommandLine, project: Project) -> None:
        parents = [cli.added("jobs", "add", "train", "--name", name) for name in ("left", "middle", "right")]
        wanted = [argument for parent in parents for argument in ("--depends", str(parent))]
        child = other_cli.added("jobs", "add", "train", "--name", "child", *wanted)

        told = cli.json("jobs", "deps", str(child))
        assert {(parent["job_id"], parent["job_name"], parent["status"]) for parent in told.pop("dependencies")} == {
            (parents[0], "left", "PENDING"), (parents[1], "middle", "PENDING"), (parents[2], "right", "PENDING"),
        }  # fmt: skip
        assert told == {
            "job_id": child, "job_name": "child", "status": "PENDING", "all_completed": False, "has_failed": False,
        }  # fmt: skip
        assert "Dependencies (3):" in other_cli.run("jobs", "deps", str(child))
        assert f"PENDING middle (ID: {parents[1]})" in other_cli.run("jobs", "show", str(child))

        for _ in parents:
            project.fetch_job().set_status("COMPLETED")
        told = other_cli.json("jobs", "deps", str(child))
        assert (told["all_completed"], told["has_failed"]) == (True, False)
        assert project.fetch_job().name == "child"

    def test_add_refuses_a_dependency_that_there_is_not(self, cli: CommandLine, project: Project) -> None:
        cli.run("jobs", "add", "train", "--depends", "9223372036854775807", exit_code=1)
        assert project.queue == []

    @pytest.mark.parametrize("suffix", ["yaml", "json"])
    def test_add_batch_reads_a_file(
        self, cli: CommandLine, other_cli: CommandLine, second: RunningServer, project: Project, suffix: str
    ) -> None:
        parent = cli.added("jobs", "add", "train", "--name", "parent")
        jobs = [
            {"name": "one", "task": "train", "parameters": {"lr": 0.01, "layers": [1, 2]}, "priority": 5},
            {"task": "train", "depends": {str(parent): "parent"}},
            {"name": "of no task", "task": "no such task"},
        ]
        dump = yaml.safe_dump if suffix == "yaml" else json.dumps
        file = cli.folder / f"batch.{suffix}"
        file.write_text(dump({"jobs": jobs}))
        assert "Added 2 job(s)" in other_cli.run("jobs", "add-batch", str(file))
        _, one, other = jobs_of(second, project)
        assert (one["name"], one["parameters"], one["priority"]) == ("one", {"lr": 0.01, "layers": [1, 2]}, 5)
        assert (other["name"], other["parameters"], other["depends"]) == ("train", {}, {str(parent): "parent"})

    def test_add_batch_adds_all_or_nothing(self, cli: CommandLine, project: Project, tmp_path: Path) -> None:
        jobs = [
            {"name": "good", "task": "train"},
            {"name": "bad", "task": "train", "depends": {"9223372036854775807": ""}},
        ]
        file = tmp_path / "batch.json"
        file.write_text(json.dumps({"jobs": jobs}))
        cli.run("jobs", "add-batch", str(file), exit_code=1)
        assert project.queue == []

    def test_retry_is_for_failed_and_blocked_jobs(
        self, cli: CommandLine, other_cli: CommandLine, project: Project, second: RunningServer
    ) -> None:
        parent = cli.added("jobs", "add", "train", "--name", "parent")
        child = cli.added("jobs", "add", "train", "--name", "child", "--depends", str(parent))
        cli.run("jobs", "retry", str(parent), exit_code=1)
        project.fetch_job().set_status("FAILED")
        assert cli.json("jobs", "deps", str(child))["has_failed"] is True

        other_cli.run("jobs", "retry", str(child))
        assert statuses(second, project)["child"] == "BLOCKED", "what it depends on has still failed"
        other_cli.run("jobs", "retry", str(parent))
        assert statuses(second, project) == {"parent": "PENDING", "child": "PENDING"}

    def test_delete_deletes_what_nobody_waits_for(
        self, cli: CommandLine, other_cli: CommandLine, project: Project
    ) -> None:
        parent = cli.added("jobs", "add", "train", "--name", "parent")
        child = cli.added("jobs", "add", "train", "--name", "child", "--depends", str(parent))
        other_cli.run("jobs", "delete", "--force", str(parent), exit_code=1)
        other_cli.run("jobs", "delete", "--force", str(child))
        other_cli.run("jobs", "delete", "--force", str(parent))
        assert project.queue == []
        for command in ("show", "deps", "retry"):
            cli.run("jobs", command, str(parent), exit_code=1)


class TestClients:
    def test_clients_are_listed_shown_deactivated_and_deleted(
        self, cli: CommandLine, other_cli: CommandLine, here: Server
    ) -> None:
        assert here.register_client("cli-client", "a machine", "a lab", "in a corner", available_cpu=8)

        def listed(*arguments: str) -> list[str]:
            return [client["id"] for client in other_cli.json("clients", "ls", "--limit", "1000", *arguments)]

        assert "cli-client" in listed()
        assert "a machine" in cli.run("clients", "ls", "--limit", "1000")
        shown = other_cli.json("clients", "show", "cli-client")
        assert (shown["entity"], shown["description"], shown["available_cpu"]) == ("a lab", "in a corner", 8)
        assert "Active:         Yes" in cli.run("clients", "show", "cli-client")

        cli.run("clients", "deactivate", "cli-client")
        assert "cli-client" not in listed() and "cli-client" in listed("--all")
        assert "Active:         No" in cli.run("clients", "show", "cli-client")

        other_cli.run("clients", "delete", "--force", "cli-client")
        assert "cli-client" not in listed("--all")
        for command in ("show", "deactivate"):
            cli.run("clients", command, "cli-client", exit_code=1)
