"""The crew: workers that are kept busy, tasks that are given back when a worker is lost, and an account of both."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from aftermix.errors import EvaluationError
from aftermix.workers.answers import is_out_of_memory
from aftermix.workers.executor import LogLine, WorkerEvent, WorkerExecutor

LOST_ATTEMPTS = 3
"""Workers that one task may cost before it has failed, and times that a worker may be lost before it is open."""
LOGGER = logging.getLogger("aftermix")


@dataclass(frozen=True)
class LostAttempt:
    """A try at a task that cost its worker."""

    label: str
    """Name of the task, for people."""
    worker: int
    attempt: int
    """From 1."""
    reason: str


@dataclass(frozen=True)
class TaskOutcome:
    """End of a task: the value or the error of its last try, and the worker that made it."""

    worker: int
    attempt: int
    value: Any = None
    error: Exception | None = None


@dataclass
class _Task:
    key: Hashable
    label: str
    payload: Any
    lost: list[LostAttempt] = field(default_factory=list)
    outcome: TaskOutcome | None = None


@dataclass
class _Place:
    """State of one worker."""

    is_open: bool = False
    task: _Task | None = None
    deadline: float | None = None
    lost_opening: int = 0


class WorkerCrew:
    """Workers behind one queue of tasks, which are begun in the order in which they are submitted.

    The same task on any worker gives the same value, so that it may be tried again: where a worker dies, answers no
    more within `timeout_s` of its begin, or is out of memory, its task goes back to the head of the queue and another
    worker takes its place. A task that costs three workers has failed. `note` is told of every lost try.
    """

    def __init__(
        self,
        executor: WorkerExecutor,
        workers: int,
        *,
        timeout_s: float | None = None,
        note: Callable[[LostAttempt], None] = lambda _: None,
    ) -> None:
        self._executor = executor
        self._timeout_s = timeout_s
        self._note = note
        self._queue: deque[_Task] = deque()
        self._tasks: dict[Hashable, _Task] = {}
        self._places = {number: _Place() for number in range(workers)}
        self._told: set[str] = set()
        self._has_begun = False

    def submit(self, key: Hashable, payload: Any, *, label: str) -> None:
        """Queue the task `payload`, unless one of this `key` is there already. The first one has all workers start."""
        if not self._has_begun:
            self._has_begun = True
            for number in self._places:
                self._executor.start(number)
        if key not in self._tasks:
            self._tasks[key] = task = _Task(key, label, payload)
            self._queue.append(task)
            self._hand_out()

    def take(self, key: Hashable) -> TaskOutcome:
        """Wait for the end of the task `key`, which is forgotten with it.

        Raises what opening a worker raised, and :class:`EvaluationError` where workers die before they are open.
        """
        task = self._tasks[key]
        while task.outcome is None:
            self._hand_out()
            for event in self._executor.wait(self._find_wait()):
                self._receive(event)
            self._end_overdue()
        del self._tasks[key]
        return task.outcome

    def close(self) -> None:
        """End all workers, whatever they do."""
        self._executor.close()

    def _hand_out(self) -> None:
        for number, place in self._places.items():
            if self._queue and place.is_open and place.task is None:
                place.task = self._queue.popleft()
                place.deadline = None if self._timeout_s is None else monotonic() + self._timeout_s
                self._executor.send(number, place.task.payload)

    def _find_wait(self) -> float | None:
        """Seconds to the next deadline; None where there is none."""
        deadlines = [place.deadline for place in self._places.values() if place.deadline is not None]
        return max(0.0, min(deadlines) - monotonic()) if deadlines else None

    def _receive(self, event: WorkerEvent) -> None:
        if event.kind != "opened":  # which tells what was told when the run opened the same models
            self._tell(event.lines)
        place = self._places[event.number]
        task = place.task
        if event.kind == "lost":
            self._replace(event.number, event.reason)
        elif not place.is_open:
            if event.error is not None:
                raise event.error
            place.is_open, place.lost_opening = True, 0
        elif task is not None and event.error is not None and is_out_of_memory(event.error):
            self._executor.kill(event.number)  # a fresh process, whose memory is whole
            self._replace(event.number, f"ran out of memory ({event.error or 'no more is known'})")
        elif task is not None:
            task.outcome = TaskOutcome(event.number, len(task.lost) + 1, event.value, event.error)
            place.task = place.deadline = None

    def _tell(self, lines: Sequence[LogLine]) -> None:
        """Repeat what a worker told, once whichever tells it."""
        for level, line in lines:
            if line not in self._told:
                self._told.add(line)
                LOGGER.log(level, "%s", line)

    def _end_overdue(self) -> None:
        now = monotonic()
        for number, place in self._places.items():
            if place.deadline is not None and place.deadline <= now:
                self._executor.kill(number)
                self._replace(number, f"did not answer within {self._timeout_s:g} s (`evaluate.timeout_s`)")

    def _replace(self, number: int, reason: str) -> None:
        """Give the task of a lost worker back, and start another worker in its place."""
        place = self._places[number]
        task = place.task
        fresh = self._places[number] = _Place()
        if not place.is_open:
            fresh.lost_opening = place.lost_opening + 1
            if fresh.lost_opening == LOST_ATTEMPTS:
                found = f"{LOST_ATTEMPTS} times it was lost before it had opened its models: it {reason}"
                raise EvaluationError(f"worker {number}", found, "Free memory, or lower `evaluate.workers`.")
        if task is not None:
            self._give_back(task, LostAttempt(task.label, number, len(task.lost) + 1, reason))
        self._executor.start(number)

    def _give_back(self, task: _Task, lost: LostAttempt) -> None:
        task.lost.append(lost)
        self._note(lost)
        if len(task.lost) < LOST_ATTEMPTS:
            LOGGER.warning("%s: worker %d %s; another takes it up", task.label, lost.worker, lost.reason)
            self._queue.appendleft(task)
            return
        reasons = "; ".join(f"worker {each.worker} {each.reason}" for each in task.lost)
        remedy = "Lower `evaluate.batch_size`, raise `evaluate.timeout_s`, or free memory."
        error = EvaluationError(task.label, f"cost {LOST_ATTEMPTS} workers: {reasons}", remedy)
        task.outcome = TaskOutcome(lost.worker, lost.attempt, error=error)
