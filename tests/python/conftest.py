"""Two servers on one database and one Redis, for the whole session; projects of their own for the tests."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from whatsnext import Project, Server

from support import servers
from support.command_line import CommandLine
from support.databases import fresh_database
from support.servers import HOST, RunningServer, Settings, running_server


def given(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        pytest.exit(f"{name} is not set; tests/python/run.sh says what the suite needs.", returncode=2)
    return value


@pytest.fixture(scope="session", autouse=True)
def clean_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The libraries read ~/.netrc and proxies from the environment: here they find what the tests put there."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("NO_PROXY", HOST)
        patch.setenv("no_proxy", HOST)
        patch.chdir(home)
        yield home


@pytest.fixture(scope="session")
def new_settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Settings]:
    """Makes the settings of a server on the database with this URL."""

    def make(database_url: str) -> Settings:
        folder = tmp_path_factory.mktemp("server")
        return Settings(Path(given("WHATSNEXT_BIN")).resolve(), database_url, given("WHATSNEXT_TEST_REDIS_URL"), folder)

    return make


@pytest.fixture(scope="session")
def maintenance_url() -> str:
    """Where databases are made and dropped."""
    return given("WHATSNEXT_TEST_DATABASE_URL")


@pytest.fixture(scope="session")
def settings(maintenance_url: str, new_settings: Callable[[str], Settings]) -> Iterator[Settings]:
    """A migrated database, and how to run the binary on it."""
    with fresh_database(maintenance_url) as url:
        made = new_settings(url)
        made.migrate()
        yield made


@pytest.fixture(scope="session", autouse=True)
def key(settings: Settings, clean_home: Path) -> str:
    """The key. The libraries find it in ~/.netrc: this is how the published client authenticates without being told."""
    write_netrc(clean_home, settings.key)
    return settings.key


def write_netrc(home: Path, key: str) -> None:
    (home / ".netrc").write_text(f"machine {HOST} login key password {key}\n")
    (home / ".netrc").chmod(0o600)


@pytest.fixture(scope="session")
def first(settings: Settings) -> Iterator[RunningServer]:
    """One server."""
    with running_server(settings, "first") as server:
        yield server


@pytest.fixture(scope="session")
def second(settings: Settings) -> Iterator[RunningServer]:
    """Another server, on the same database and Redis."""
    with running_server(settings, "second") as server:
        yield server


@pytest.fixture(scope="session")
def here(first: RunningServer) -> Server:
    """The published library, connected to the first server."""
    return Server(HOST, first.port)


@pytest.fixture(scope="session")
def there(second: RunningServer) -> Server:
    """The published library, connected to the second server."""
    return Server(HOST, second.port)


@pytest.fixture
def name() -> str:
    """A name that nothing has."""
    return f"project {uuid.uuid4().hex[:12]}"


@pytest.fixture
def project(here: Server, name: str) -> Iterator[Project]:
    """A project with a task `train`, as the first server shows it; deleted at the end."""
    made = here.append_project(name, "made for a test")
    assert made is not None, "a project with a new name is made"
    assert made.create_task("train"), "a task with a new name is made"
    yield made
    here.delete_project(name)


@pytest.fixture
def elsewhere(project: Project, there: Server) -> Project:
    """The same project, as the second server shows it."""
    return Project(project.id, there)


@pytest.fixture
def cli(tmp_path: Path, first: RunningServer, project: Project, name: str, key: str) -> CommandLine:
    """The published command line, set up for the first server and the project."""
    made = CommandLine(tmp_path / "first", first.port, name)
    write_netrc(made.folder, key)
    return made


@pytest.fixture
def other_cli(tmp_path: Path, second: RunningServer, project: Project, name: str, key: str) -> CommandLine:
    """The published command line under its short name, set up for the second server and the project."""
    made = CommandLine(tmp_path / "second", second.port, name, executable="wnxt")
    write_netrc(made.folder, key)
    return made


LOG_START = pytest.StashKey[dict[Path, int]]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[LOG_START] = {server.log: server.log.stat().st_size for server in servers.RUNNING}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Shows with a failed test what the servers logged meanwhile."""
    report = yield
    if report.failed:
        for server in servers.RUNNING:
            start = item.stash.get(LOG_START, {}).get(server.log, 0)
            written = server.log.read_bytes()[start:][-20_000:].decode(errors="replace")
            report.sections.append((f"log of the server at {server.url}", written))
    return report
