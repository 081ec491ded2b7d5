"""What schemathesis cannot know of a request: the names in `depends` are ids of jobs, and who asks to wait is kept waiting.

OpenAPI 3.0 has no words for the names in an object. Left alone, most jobs with dependencies would be refused for a name
that is no number, and the graph of dependencies would hardly be reached.
"""

import zlib
from typing import Any

import schemathesis

# test_schemathesis.py makes this many first.
JOBS = 100


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Gives dependencies in a body of jobs the ids of jobs, always the same for the same name."""
    if not isinstance(body, dict):
        return body
    body = with_ids(body)
    if isinstance(body.get("jobs"), list):
        body["jobs"] = [with_ids(job) for job in body["jobs"]]
    return body


def with_ids(job: Any) -> Any:
    depends = job.get("depends") if isinstance(job, dict) else None
    if not isinstance(depends, dict) or not all(isinstance(name, str) for name in depends.values()):
        return job
    return job | {"depends": {an_id(name): value for name, value in depends.items()}}


def an_id(name: str) -> str:
    return name if name.isdigit() else str(1 + zlib.crc32(name.encode(errors="replace")) % JOBS)


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, _: Any) -> None:
    """Lets nobody wait: a claim that may wait for a minute is answered at once."""
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("wait_seconds"), int) and 0 < body["wait_seconds"] <= 60:
        case.body = body | {"wait_seconds": 0}
