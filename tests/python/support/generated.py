"""A client that openapi-python-client writes from the document, and a short way to call it."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from support.command_line import EXECUTABLES

PACKAGE = "generated_whatsnext_client"


class Generated:
    """The package that was generated."""

    def __init__(self, document: Path, folder: Path) -> None:
        # Its formatting would need ruff on the PATH, and nobody reads it.
        (folder / "config.yaml").write_text("post_hooks: []\n")
        done = subprocess.run(
            [EXECUTABLES / "openapi-python-client", "generate", "--fail-on-warning", "--meta", "none",
             "--path", document, "--output-path", folder / PACKAGE, "--config", folder / "config.yaml"],
            cwd=folder, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        self.exit_code = done.returncode
        self.printed = done.stdout + done.stderr
        self.folder = folder / PACKAGE
        sys.path.insert(0, str(folder))

    @property
    def models(self) -> ModuleType:
        return importlib.import_module(f"{PACKAGE}.models")

    def operation(self, operation_id: str) -> ModuleType:
        """The module of an operation: `api/TAG/OPERATION.py`."""
        found = [file for file in self.folder.glob(f"api/*/{operation_id}.py")]
        assert len(found) == 1, f"the operation {operation_id} has one module, not {found}"
        return importlib.import_module(f"{PACKAGE}.api.{found[0].parent.name}.{operation_id}")

    def at(self, url: str, key: str) -> "Calls":
        return Calls(self, url, key)


class Calls:
    """`calls.get_job(17)` calls the operation `get_job` of the generated client; an undocumented status raises.

    The answer has `status_code`, `headers`, `content`, and `parsed`: an object of a generated class.
    """

    def __init__(self, generated: Generated, url: str, key: str) -> None:
        client = importlib.import_module(f"{PACKAGE}.client")
        self._generated = generated
        self.client = client.AuthenticatedClient(url, token=key, raise_on_unexpected_status=True)

    def __getattr__(self, operation_id: str) -> Any:
        call = self._generated.operation(operation_id).sync_detailed
        return lambda *arguments, **more: call(*arguments, client=self.client, **more)
