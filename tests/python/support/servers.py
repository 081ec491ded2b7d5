"""Real servers: `whatsnext migrate` and `whatsnext serve` of the binary under test."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import httpx

from support.polling import until

HOST = "127.0.0.1"

START_SECONDS = 30

# A server finishes the requests in flight first; its own limit for that (shutdown_timeout_seconds) is 30 seconds.
STOP_SECONDS = 40


@dataclass
class Settings:
    """With what, and where, the binary runs."""

    binary: Path
    database_url: str
    redis_url: str
    folder: Path
    # A key that may do everything. `migrate` makes one.
    key: str = ""
    # Keys of the configuration.
    api_keys: str = ""

    def environment(self) -> dict[str, str]:
        """Only what is named here: nothing that the developer's shell happens to have reaches the server."""
        kept = {name: os.environ[name] for name in ("PATH", "LLVM_PROFILE_FILE") if name in os.environ}
        return kept | {
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            # The database's name is nobody else's.
            "REDIS_KEY_PREFIX": self.database_url.rsplit("/", 1)[1],
            "RATE_LIMIT_PER_MINUTE": "0",
            "AUTH_FAILURES_PER_MINUTE": "0",
            "API_KEYS": self.api_keys,
        }

    def migrate(self) -> None:
        """Makes the schema and the key."""
        self.run("migrate")
        self.key = self.run("keys", "create", "--name", "tests", "--role", "admin").splitlines()[-1]

    @property
    def headers(self) -> dict[str, str]:
        """What a request is authenticated with."""
        return {"X-API-Key": self.key}

    def run(self, *arguments: str) -> str:
        """Runs a command of the binary to its end and returns what it printed."""
        done = subprocess.run(
            [self.binary, *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        command = " ".join(["whatsnext", *arguments])
        assert done.returncode == 0, f"`{command}` exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout


@dataclass
class RunningServer:
    """A `whatsnext serve` that is ready."""

    port: int
    process: subprocess.Popen
    log: Path
    headers: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def get(self, path: str, **parameters: object) -> httpx.Response:
        """A plain GET, for what no client under test reads."""
        return httpx.get(f"{self.url}{path}", params=parameters, headers=self.headers, timeout=30)


# Those of this moment, for the log lines that a failed test shows.
RUNNING: list[RunningServer] = []


@contextmanager
def running_server(settings: Settings, name: str) -> Iterator[RunningServer]:
    """Starts a server on a free port and stops it as an operator does: SIGTERM, then exit code 0."""
    log = settings.folder / f"{name}.log"
    with log.open("wb") as output:
        server = _start(settings, output, log)
    RUNNING.append(server)
    try:
        yield server
    finally:
        RUNNING.remove(server)
        _stop(server)


def _start(settings: Settings, output: IO[bytes], log: Path) -> RunningServer:
    for _ in range(3):  # Another process can take the port between its being found free and the server's binding it.
        port = _free_port()
        command = [settings.binary, "serve", "--port", str(port)]
        process = subprocess.Popen(
            command,
            cwd=settings.folder,
            env=settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        server = RunningServer(port, process, log, settings.headers)
        try:
            if until(f"{server.url} is ready", partial(_is_ready_or_gone, server), START_SECONDS) == "ready":
                return server
        except BaseException:
            process.kill()
            raise
    raise AssertionError(f"`whatsnext serve` exited with {process.returncode}:\n{log.read_text()}")


def _is_ready_or_gone(server: RunningServer) -> str | None:
    if server.process.poll() is not None:
        return "gone"
    try:
        answer = httpx.get(f"{server.url}/readyz", timeout=5)
    except httpx.TransportError:
        return None
    return "ready" if answer.status_code == 200 and answer.json()["status"] == "ready" else None


def _stop(server: RunningServer) -> None:
    server.process.send_signal(signal.SIGTERM)
    try:
        code = server.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.process.kill()
        raise AssertionError(f"the server did not stop within {STOP_SECONDS} seconds of SIGTERM") from None
    assert code == 0, f"a server exits with 0 after SIGTERM, this one with {code}:\n{server.log.read_text()[-5000:]}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]
