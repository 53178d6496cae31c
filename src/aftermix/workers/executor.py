"""`WorkerExecutor`: what a crew asks of whatever runs its workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

LogLine = tuple[int, str]
"""Level of the standard library's logging, and text."""
EventKind = Literal["opened", "returned", "raised", "lost"]


@dataclass(frozen=True)
class Workplace:
    """Contents of every worker: `open` is called there with `plan`, and what it returns runs the worker's tasks.

    All three are pickled: `open` is a function of a module, and tasks and results are plain values.
    """

    open: Callable[[Any], Callable[[Any], Any]]
    plan: Any
    environments: tuple[Mapping[str, str], ...]
    """Environment variables of each worker, besides those of this process."""

    @property
    def workers(self) -> int:
        """Number of workers."""
        return len(self.environments)


@dataclass(frozen=True)
class WorkerEvent:
    """News of one worker: it is open, has returned a value, has raised an error, or is no more."""

    number: int
    kind: EventKind
    value: Any = None
    error: Exception | None = None
    reason: str = ""
    """Of a loss, in words."""
    lines: tuple[LogLine, ...] = ()
    """Lines that the product told there."""


class WorkerExecutor(Protocol):
    """Runner of workers, known by their numbers from 0. A worker works at one task at a time."""

    def start(self, number: int) -> None:
        """Start worker `number`, also in place of one that was lost. Its first event says how opening ended."""

    def send(self, number: int, task: Any) -> None:
        """Give a task to a worker that is open and has none."""

    def wait(self, timeout_s: float | None) -> list[WorkerEvent]:
        """Wait for news, at most so long; perhaps there is none. Of a worker that was killed there is none."""

    def kill(self, number: int) -> None:
        """End a worker at once, whatever it does."""

    def close(self) -> None:
        """End all workers at once, and free what they held."""
