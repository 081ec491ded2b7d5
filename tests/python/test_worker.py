"""The published client's workers: they claim, run real programs and report, alone and several at once."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from whatsnext import Client, EmptyQueueError, Job, Project, Server
from whatsnext.api.client import CLIFormatter

from support.command_line import CommandLine
from support.draining import drain
from support.jobs import added, jobs_of, statuses
from support.polling import until
from support.servers import RunningServer

# Notes its job's name in a file of that name, which must not be there yet, and exits as the job says.
PROGRAM = """#!/bin/sh
set -eC
while [ $# -gt 0 ]; do
    case "$1" in
        --name) name="$2" ;;
        --exit) exit_code="$2" ;;
    esac
    shift 2
done
mkdir -p "{notes}"
echo "$name" >> "{notes}.order"
: > "{notes}/$name"
exit "${{exit_code:-0}}"
"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """The folder with a file for each job that was run."""
    return tmp_path / "notes"


@pytest.fixture
def program(tmp_path: Path, notes: Path) -> Path:
    """A real program to run as a job."""
    file = tmp_path / "program"
    file.write_text(PROGRAM.format(notes=notes))
    file.chmod(0o755)
    return file


@pytest.fixture
def new_client(program: Path) -> Callable[..., Client]:
    """Makes a client that runs the program."""

    def make(project: Project, **more: object) -> Client:
        formatter = CLIFormatter(executable=str(program))
        return Client(entity="a lab", name="a worker", description="", project=project, formatter=formatter, **more)

    return make


def runnable(name: str, exit_code: int = 0, priority: int = 0, task: str = "train") -> Job:
    return Job(name, task, {"name": name, "exit": exit_code}, priority=priority)


def run_in_order(notes: Path) -> list[str]:
    return notes.with_suffix(".order").read_text().splitlines()


class TestWork:
    def test_a_job_that_succeeds_is_completed_and_one_that_fails_is_failed(
        self,
        project: Project,
        elsewhere: Project,
        second: RunningServer,
        new_client: Callable[..., Client],
        notes: Path,
    ) -> None:
        assert len(project.extend_queue([runnable("good"), runnable("bad", 3), runnable("good too")])) == 3
        assert new_client(elsewhere).work() == 3, "a failure does not stop the worker"
        assert statuses(second, project) == {"good": "COMPLETED", "bad": "FAILED", "good too": "COMPLETED"}
        assert run_in_order(notes) == ["good", "bad", "good too"], "each was really run"

    def test_a_program_that_cannot_be_started_fails_the_job(self, project: Project, elsewhere: Project) -> None:
        added(project, "a job")
        formatter = CLIFormatter(executable="/no/such/program")
        client = Client("a lab", "a worker", "", elsewhere, formatter)
        assert client.work() == 1
        assert [job["status"] for job in project.queue] == ["FAILED"]

    def test_a_worker_registers_and_signs_off(
        self, project: Project, second: RunningServer, new_client: Callable[..., Client]
    ) -> None:
        client = new_client(project, available_cpu=6, available_accelerators=1)
        shown = second.get(f"/clients/{client.id}").raise_for_status().json()
        assert (shown["is_active"], shown["available_cpu"], shown["available_accelerators"]) == (1, 6, 1)
        assert client.work() == 0, "there is nothing to do"
        assert second.get(f"/clients/{client.id}").json()["is_active"] == 0

    def test_children_run_after_their_parents_and_not_after_failed_ones(
        self,
        project: Project,
        elsewhere: Project,
        here: Server,
        second: RunningServer,
        new_client: Callable[..., Client],
        notes: Path,
    ) -> None:
        ids = project.extend_queue(
            [runnable("grandchild", priority=9), runnable("child", priority=5), runnable("parent"),
             runnable("bad", 1), runnable("of the bad", priority=9)]
        )  # fmt: skip
        grandchild, child, parent, bad, of_the_bad = (Job(str(number), "train", {}, id=number) for number in ids)
        for job, parents in [(grandchild, [child]), (child, [parent]), (of_the_bad, [bad])]:
            job._bind_server(here)
            job.set_depends_to(parents)
        assert new_client(elsewhere).work() == 4
        assert run_in_order(notes) == ["parent", "child", "grandchild", "bad"]
        assert statuses(second, project)["of the bad"] == "BLOCKED"

    def test_a_worker_leaves_what_is_too_large_for_it(
        self,
        project: Project,
        elsewhere: Project,
        cli: CommandLine,
        second: RunningServer,
        new_client: Callable[..., Client],
    ) -> None:
        cli.run("tasks", "create", "large", "--cpu", "4")
        assert project.extend_queue([runnable("large", task="large", priority=9), runnable("small")])
        assert new_client(elsewhere, available_cpu=2).work() == 1
        assert statuses(second, project) == {"large": "PENDING", "small": "COMPLETED"}
        assert new_client(elsewhere, available_cpu=4).work() == 1
        assert statuses(second, project) == {"large": "COMPLETED", "small": "COMPLETED"}


class TestManyWorkers:
    def test_threads_at_two_servers_are_given_each_job_exactly_once(
        self, project: Project, elsewhere: Project, second: RunningServer
    ) -> None:
        threads, jobs = 8, 200
        ids = project.extend_queue([Job(f"job {number}", "train", {}) for number in range(jobs)])
        assert len(ids) == jobs
        barrier = Barrier(threads)

        def fetch_all(number: int) -> list[int]:
            side = [project, elsewhere][number % 2]
            fetched = []
            barrier.wait(30)
            while True:
                try:
                    job = side.fetch_job()
                except EmptyQueueError:
                    return fetched
                fetched.append(job.id)
                job.set_status("COMPLETED")

        with ThreadPoolExecutor(threads) as pool:
            given = Counter(job_id for fetched in pool.map(fetch_all, range(threads)) for job_id in fetched)
        twice = {job_id: times for job_id, times in given.items() if times > 1}
        assert not twice, f"no job is given out twice: {twice}"
        assert set(given) == set(ids), "every job is given out"
        assert Counter(statuses(second, project).values()) == {"COMPLETED": jobs}

    def test_processes_at_two_servers_run_each_job_exactly_once(
        self, project: Project, first: RunningServer, second: RunningServer, program: Path, notes: Path
    ) -> None:
        names = [f"job-{number}" for number in range(60)]
        assert len(project.extend_queue([runnable(name) for name in names])) == len(names)
        workers = drain([first.port, second.port] * 2, project.id, program)
        assert sum(worker.executed for worker in workers) == len(names), f"{workers} ran {len(names)} jobs together"
        assert sorted(run_in_order(notes)) == sorted(names), "each program was started once"
        assert Counter(job["status"] for job in jobs_of(first, project)) == {"COMPLETED": len(names)}
        active = {
            worker.client_id: second.get(f"/clients/{worker.client_id}").json()["is_active"] for worker in workers
        }
        assert set(active.values()) == {0} and len(active) == 4, f"all four signed off: {active}"


class TestCommandLine:
    @pytest.fixture
    def path(self, program: Path, tmp_path: Path) -> Path:
        """A folder for PATH in which `python` is the program: the command line's worker runs that, and nothing else."""
        folder = tmp_path / "path"
        folder.mkdir()
        (folder / "python").symlink_to(program)
        return folder

    def test_worker_once_runs_one_job(
        self, project: Project, other_cli: CommandLine, first: RunningServer, path: Path, notes: Path
    ) -> None:
        assert project.extend_queue([runnable("one"), runnable("bad", 1, priority=-1), runnable("three", priority=-2)])
        assert "Completed: one" in other_cli.run("worker", "--once", path=path)
        assert statuses(first, project) == {"one": "COMPLETED", "bad": "PENDING", "three": "PENDING"}
        assert "Failed: bad (exit code: 1)" in other_cli.run("worker", "--once", path=path)
        assert statuses(first, project) == {"one": "COMPLETED", "bad": "FAILED", "three": "PENDING"}
        assert run_in_order(notes) == ["one", "bad"]

    def test_worker_once_says_that_the_queue_is_empty(self, other_cli: CommandLine) -> None:
        assert "No jobs in queue" in other_cli.run("worker", "--once", exit_code=1)

    def test_worker_once_leaves_what_is_too_large_for_it(self, project: Project, cli: CommandLine, path: Path) -> None:
        cli.run("tasks", "create", "large", "--cpu", "4")
        assert project.extend_queue([runnable("large", task="large")])
        cli.run("worker", "--once", "--cpus", "2", path=path, exit_code=1)
        assert "Completed: large" in cli.run("worker", "--once", "--cpus", "4", path=path)

    def test_a_worker_waits_for_jobs_until_it_is_told_to_stop(
        self, project: Project, other_cli: CommandLine, first: RunningServer, path: Path
    ) -> None:
        worker_name = f"worker-{os.getpid()}-{project.id}"
        command = other_cli.command("worker", "--poll-interval", "1", "--name", worker_name)
        environment = other_cli.environment(path)
        with subprocess.Popen(
            command, cwd=other_cli.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as worker:
            try:
                until("the worker registers", lambda: worker_name in first.get("/clients", limit=1000).text)
                assert project.append_queue(runnable("late"))
                until("the job is completed", lambda: statuses(first, project) == {"late": "COMPLETED"})
                worker.send_signal(signal.SIGTERM)
                printed, _ = worker.communicate(timeout=30)
            finally:
                worker.kill()
        assert worker.returncode == 0 and "Processed 1 job(s)" in printed, printed
        assert worker_name not in first.get("/clients", limit=1000).text, "it signed off"
