"""Workplaces without a model: what their workers do is told by the task, and is done for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aftermix import progress
from aftermix.errors import SearchError

Task = tuple[str, int, str]
"""What to do, a number whose square is the value, and a file that tells a second try from a first, or nothing."""


class UnsendableError(Exception):
    """Cannot be made anew from its text."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} of {second}")


def open_squares(plan: Any) -> Callable[[Task], int]:
    """Opens at once; `plan` may say that it raises, or dies."""
    if plan == "refuse":
        raise SearchError("models/base", "expected a model, found none", "Name one.")
    if plan == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return square


def square(task: Task) -> int:
    """Square of the number, unless the task says otherwise; with a file, only a first try does otherwise."""
    kind, number, file = task
    first = not file or not Path(file).exists()
    if file:
        Path(file).touch()
    if first and kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if first and kind == "hang":
        threading.Event().wait()
    if first and kind == "memory":
        raise MemoryError("no room for 12 GB")
    if kind == "leave":
        sys.stderr.write("no CUDA device is left\n")
        sys.stderr.flush()
        os._exit(3)
    if kind == "tell":
        progress.say("two of them are alike")
    if kind == "refuse":
        raise SearchError("trial 3", "expected finite scores, found nan", "Look at it.")
    if kind == "stranger":
        try:
            raise UnsendableError(1, 2)
        except UnsendableError as error:
            raise ValueError("cannot score") from error
    return number * number


def find_process(_: Any) -> int:
    """The process that works."""
    return os.getpid()


def start_child(_: Any) -> int:
    """A process that the worker starts, and that waits for ever."""
    return subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"]).pid


def open_children(plan: Any) -> Callable[[Any], int]:
    """Every task starts a process."""
    del plan
    return start_child


def open_processes(plan: Any) -> Callable[[Any], int]:
    """Every task is answered with the worker's process."""
    del plan
    return find_process
