"""Schemathesis: what it makes of the document is answered as the document says, with every check, in all phases."""

import json
import os
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from support.command_line import EXECUTABLES
from support.databases import fresh_database
from support.servers import RunningServer, Settings, running_server

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")

# The same seed makes the same requests of the same document. Try others now and then.
SEED = os.environ.get("WHATSNEXT_SCHEMATHESIS_SEED", "20260131")

# The key that the run itself is sent with is one of the configuration: no operation can end it, and it has no tokens. So these have nothing to answer.
OF_THE_OWN_KEY = {"GET /keys/self", "POST /keys/self/revoke", "POST /tokens", "GET /tokens/self", "DELETE /tokens/self"}

LIMIT_SECONDS = 600

CONFIGURED = "the-key-of-schemathesis"


@pytest.fixture(scope="module")
def own(maintenance_url: str, new_settings: Callable[[str], Settings]) -> Iterator[Settings]:
    """A database of its own: the first project there has the id 1, and nobody else's jobs are deleted."""
    with fresh_database(maintenance_url) as url:
        made = new_settings(url)
        made.api_keys = CONFIGURED
        made.migrate()
        yield made


@pytest.fixture(scope="module")
def server(own: Settings) -> Iterator[RunningServer]:
    with running_server(own, "schemathesis") as running:
        fill(running)
        yield running


def fill(server: RunningServer) -> None:
    """Makes what schemathesis.toml names: 32 projects with a task each, 150 jobs in three of them, three clients, users;
    and 80 jobs in another one, which a client has claimed."""

    def post(path: str, body: dict) -> dict:
        return httpx.post(f"{server.url}{path}", json=body, headers=server.headers, timeout=30).raise_for_status().json()

    for number in range(1, 33):
        project = post("/projects", {"name": f"project {number}"})
        task = post("/tasks", {"name": "a named task" if number > 24 else f"task {number}", "project_id": number})
        assert project["id"] == task["id"] == number, "schemathesis.toml counts on these ids"
    for number in (1, 2, 27):
        jobs = [{"name": f"job {n}", "task_id": number, "parameters": {"n": n}, "priority": n} for n in range(50)]
        post(f"/projects/{number}/jobs/batch", {"jobs": jobs})
    for number in range(1, 4):
        user = post("/users", {"name": f"user {number}", "grants": {"all": "reader"}})
        assert user["id"] == number, "schemathesis.toml counts on these ids"
        client = {"id": f"client-{number}", "name": "a machine", "entity": "a lab", "available_cpu": 10_000}
        post("/clients/register", client)
    jobs = [{"name": f"claimed {n}", "task_id": 28, "parameters": {}} for n in range(80)]
    post("/projects/28/jobs/batch", {"jobs": jobs})
    claim = {"client_id": "client-1", "max_jobs": 80, "lease_seconds": 86_400}
    claimed = post("/projects/28/claims", claim)["jobs"]
    assert [job["job"]["id"] for job in claimed] == [*range(151, 231)], "schemathesis.toml counts on these ids"


@dataclass
class Run:
    """A run of schemathesis: how it ended, and what its own report says."""

    exit_code: int
    printed: str
    checks: set[str] = field(default_factory=set)
    # By operation (`GET /jobs`): how often each status was answered.
    statuses: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def read(self, report: Path) -> None:
        for line in report.read_text().splitlines():
            recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
            for case_id, case in recorder.get("cases", {}).items():
                self.checks |= {check["name"] for check in recorder.get("checks", {}).get(case_id, [])}
                operation = f"{case['value']['method']} {case['value']['path']}"
                if response := recorder.get("interactions", {}).get(case_id, {}).get("response"):
                    self.statuses[operation][response["status_code"]] += 1


@pytest.fixture(scope="module")
def document(own: Settings) -> Path:
    file = own.folder / "openapi.json"
    file.write_text(own.run("openapi"))
    return file


@pytest.fixture(scope="module")
def run(own: Settings, server: RunningServer, document: Path, request: pytest.FixtureRequest) -> Run:
    """The one run that all tests here look at."""
    report = own.folder / "report.ndjson"
    configuration = own.folder / "schemathesis.toml"
    keys = [httpx.post(f"{server.url}/keys", json={"name": f"key {n}", "role": "reader"}, headers=server.headers).json() for n in range(40)]
    ids = [key["data"]["id"] for key in keys]
    written = CONFIGURATION.read_text().replace("[\"KEYS\"]", json.dumps(ids[:8])).replace("[\"SPARE KEYS\"]", json.dumps(ids[8:]))
    configuration.write_text(written)
    command = [
        EXECUTABLES / "schemathesis", "--config-file", configuration, "run", document, "--url", server.url,
        "--seed", SEED, "--no-color", "--report", "ndjson", "--report-ndjson-path", report,
    ]  # fmt: skip
    # The path is for schemathesis_hooks.py, the key for schemathesis.toml; a home without .netrc, whose key would be sent.
    environment = os.environ | {"PYTHONPATH": str(CONFIGURATION.parent), "KEY": CONFIGURED, "HOME": str(own.folder)}
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=own.folder, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    seconds = time.monotonic() - start
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nschemathesis, seed {SEED}, {seconds:.0f} seconds: {done.stdout.strip().splitlines()[-1].strip('= ')}")
    run = Run(done.returncode, done.stdout + done.stderr)
    run.read(report)
    return run


def test_every_answer_is_as_documented(run: Run) -> None:
    assert run.exit_code == 0, f"schemathesis exited with {run.exit_code}:\n{run.printed}"


def test_every_check_was_made(run: Run) -> None:
    listed = subprocess.run([EXECUTABLES / "schemathesis", "run", "--help"], capture_output=True, text=True, check=True)
    choices = "".join(listed.stdout.split("--checks")[1].split("[possible values:")[1].split("]")[0].split())
    assert run.checks == set(choices.split(",")) - {"all"}


def test_every_operation_was_also_answered_with_success(run: Run, document: Path) -> None:
    paths = json.loads(document.read_text())["paths"]
    operations = sorted(f"{method.upper()} {path}" for path, methods in paths.items() for method in methods)
    counts = {name: dict(sorted(run.statuses[name].items())) for name in operations}
    never = {name: count for name, count in counts.items() if not any(200 <= status < 300 for status in count)}
    never = {name: count for name, count in never.items() if name not in OF_THE_OWN_KEY}
    assert not never, "a run that sees only refusals of an operation says little about it"
    wrong = {name: count for name, count in counts.items() if any(status >= 500 for status in count)}
    assert not wrong, "nothing is answered with 5xx"
