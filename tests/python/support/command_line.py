"""The published command line, as its users run it: the executables that pip installed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.servers import HOST

EXECUTABLES = Path(sys.executable).parent


class CommandLine:
    """`whatsnext` in a folder with a `.whatsnext` file that names a server and a project."""

    def __init__(self, folder: Path, port: int, project: str = "", executable: str = "whatsnext") -> None:
        self.folder = folder
        self.port = port
        self.executable = EXECUTABLES / executable
        folder.mkdir(parents=True, exist_ok=True)
        self.run("init", "--server", HOST, "--port", str(port), "--project", project)

    def environment(self, path: Path | None = None) -> dict[str, str]:
        """A home without anything in it, and lines that are never folded."""
        found = os.environ["PATH"]
        return {
            "PATH": f"{path}:{found}" if path else found,
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "COLUMNS": "1000",
            "NO_COLOR": "1",
            "NO_PROXY": HOST,
        }

    def command(self, *arguments: str) -> list[str]:
        return [str(self.executable), *arguments]

    def run(self, *arguments: str, exit_code: int = 0, path: Path | None = None) -> str:
        """Runs a command, which must end with this exit code, and returns what it printed."""
        done = subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment(path),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        printed = done.stdout + done.stderr
        command = " ".join([self.executable.name, *arguments])
        assert done.returncode == exit_code, f"`{command}` exited with {done.returncode}, not {exit_code}:\n{printed}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Runs a command with `--json` and returns what it printed, read."""
        return json.loads(self.run(*arguments, "--json"))

    def added(self, *arguments: str) -> int:
        """Runs a command that makes something, and returns the id that it prints: `… (ID: 17)`."""
        printed = self.run(*arguments)
        return int(printed.split("(ID: ")[1].split(")")[0])
