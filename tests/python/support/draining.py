"""Workers in processes of their own. `Client.work()` sets signal handlers, so it must run in a main thread."""

import multiprocessing
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

from whatsnext import Client, Project, Server
from whatsnext.api.client import CLIFormatter

from support.servers import HOST

START_SECONDS = 60
WORK_SECONDS = 120


@dataclass(frozen=True)
class Worker:
    """What a worker process did."""

    client_id: str
    executed: int


def drain(ports: list[int], project_id: int, script: Path) -> list[Worker]:
    """Starts a worker for each of these ports, all at the same moment, and waits until each finds the queue empty."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(len(ports)), context.Queue()
    processes = [
        context.Process(target=_work, args=(barrier, results, port, project_id, script), daemon=True) for port in ports
    ]
    for process in processes:
        process.start()
    try:
        return [results.get(timeout=START_SECONDS + WORK_SECONDS) for _ in processes]
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()


def _work(barrier: Barrier, results: multiprocessing.Queue, port: int, project_id: int, script: Path) -> None:
    client = Client(
        entity="a lab", name=f"worker at {port}", description="", project=Project(project_id, Server(HOST, port)),
        formatter=CLIFormatter(executable=str(script)), available_cpu=1,
    )  # fmt: skip
    barrier.wait(START_SECONDS)
    results.put(Worker(client.id, client.work()))
