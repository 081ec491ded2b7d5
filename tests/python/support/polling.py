"""Waiting for something that another process does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(what: str, condition: Callable[[], T], seconds: float = 20) -> T:
    """Asks again and again until the condition holds, and returns what it said; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} seconds in vain: {what}; the last answer was {answer!r}")
        time.sleep(0.05)
