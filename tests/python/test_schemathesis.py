"""Schemathesis: what it generates from the document is answered as the document says, with every check and in all phases."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support.command_line import EXECUTABLES
from support.databases import fresh_database
from support.servers import RunningServer, Settings, running_server

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")

# The same seed makes the same requests of the same document. Try others now and then.
SEED = os.environ.get("WHATSNEXT_SCHEMATHESIS_SEED", "20260131")

LIMIT_SECONDS = 600


@pytest.fixture(scope="module")
def own(new_settings: Callable[[str], Settings]) -> Iterator[Settings]:
    """A database of its own: the first project there has the id 1, and nobody else's jobs are deleted."""
    with fresh_database(os.environ["WHATSNEXT_TEST_DATABASE_URL"]) as url:
        made = new_settings(url)
        made.run("migrate")
        yield made


@pytest.fixture(scope="module")
def server(own: Settings) -> Iterator[RunningServer]:
    with running_server(own, "schemathesis") as running:
        fill(running)
        yield running


def fill(server: RunningServer) -> None:
    """Makes what schemathesis.toml names: 26 projects with a task each, 100 jobs in the first two of them, and three clients."""

    def post(path: str, body: dict) -> dict:
        return httpx.post(f"{server.url}{path}", json=body, timeout=30).raise_for_status().json()

    for number in range(1, 27):
        project = post("/projects", {"name": f"project {number}"})
        task = post("/tasks", {"name": f"task {number}", "project_id": number})
        assert project["id"] == task["id"] == number, "schemathesis.toml counts on these ids"
    for number in (1, 2):
        jobs = [{"name": f"job {n}", "task_id": number, "parameters": {"n": n}, "priority": n} for n in range(50)]
        post(f"/projects/{number}/jobs/batch", {"jobs": jobs})
    for number in range(1, 4):
        post("/clients/register", {"id": f"client-{number}", "name": "a machine", "entity": "a lab"})


@pytest.mark.slow
def test_every_answer_is_as_documented(own: Settings, server: RunningServer, capfd: pytest.CaptureFixture[str]) -> None:
    document = own.folder / "openapi.json"
    document.write_text(own.run("openapi"))
    command = [
        EXECUTABLES / "schemathesis", "--config-file", CONFIGURATION, "run", document, "--url", server.url,
        "--seed", SEED, "--no-color",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(CONFIGURATION.parent)}  # for schemathesis_hooks.py
    start = time.monotonic()
    done = subprocess.run(command, cwd=own.folder, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    with capfd.disabled():
        print(f"\nschemathesis, seed {SEED}, {time.monotonic() - start:.0f} seconds: {done.stdout.strip().splitlines()[-1]}")
    print(done.stdout)
    assert done.returncode == 0, f"schemathesis exited with {done.returncode}; it says above what was answered wrongly"
