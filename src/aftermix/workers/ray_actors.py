"""Workers as actors of Ray, each with its share of the cluster's GPUs. Ray is imported here alone, when it is used."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Mapping
from typing import Any

from aftermix.errors import EvaluationError, describe_cause
from aftermix.workers.answers import WorkerAnswer, answer_call
from aftermix.workers.executor import WorkerEvent, Workplace

ADDRESS = "RAY_ADDRESS"
"""Ray's own environment variable: `HOST:PORT` of a cluster."""
CONNECT_S = 10.0
"""Seconds in which a cluster's port has to answer."""


class RayCluster:
    """A connection to the cluster that :data:`ADDRESS` names, or one that runs on this machine alone."""

    def __init__(self, *, cpus: int) -> None:
        import ray

        address = os.environ.get(ADDRESS)
        refuse_unreachable(address)
        self._is_ours = not ray.is_initialized()
        if not self._is_ours:
            return
        options: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False, "configure_logging": False}
        try:
            if address:
                ray.init(address=address, log_to_driver=False, configure_logging=False)
            else:
                ray.init(address="local", num_cpus=cpus, **options)
        except Exception as error:
            cause = describe_cause(error).partition(" Traceback")[0]
            raise _build_refusal(address, cause.rstrip(": "), answers=bool(address)) from error

    def count_resources(self) -> Mapping[str, float]:
        """Resources of the cluster in all: `CPU`, `GPU` and more."""
        import ray

        resources: Mapping[str, float] = ray.cluster_resources()
        return resources

    def close(self) -> None:
        """Leave the cluster; one of this machine alone ends with that."""
        import ray

        if self._is_ours:
            ray.shutdown()


def refuse_unreachable(address: str | None) -> None:
    """Raise :class:`EvaluationError` where no cluster listens at `address`: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit() or "://" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise _build_refusal(address, error.strerror or str(error)) from error


def _build_refusal(address: str | None, cause: str, *, answers: bool = False) -> EvaluationError:
    where = f"{ADDRESS}={address}" if address else "a cluster of this machine"
    remedy = "Start one by `ray start --head`, correct the address, or leave `cluster` out."
    if answers:
        remedy = "Something answers there: look whether it is Ray of the same version, and set its `RAY_AUTH_TOKEN`."
    return EvaluationError("evaluate.cluster", f"expected a cluster of Ray at {where}, found none ({cause})", remedy)


class _RayWorker:
    """Server in an actor, as a worker process is one."""

    def __init__(self) -> None:
        self._run: Any = None

    def identify(self) -> int:
        """Number of its process."""
        return os.getpid()

    def open(self, content: bytes) -> WorkerAnswer:
        """Open the workplace."""

        def open_place() -> None:
            opens, plan = pickle.loads(content)  # noqa: S301 - from the process that started this one
            self._run = opens(plan)

        return answer_call(open_place)

    def answer(self, content: bytes) -> WorkerAnswer:
        """Answer one task."""
        return answer_call(lambda: self._run(pickle.loads(content)))  # noqa: S301 - likewise


class RayExecutor:
    """Actors that work in one workplace."""

    def __init__(self, place: Workplace, cluster: RayCluster, *, gpus: int, leaves: bool = True) -> None:
        import ray

        self._leaves = leaves
        self.place = place
        self._cluster = cluster
        self._make = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)(_RayWorker)
        self._actors: dict[int, Any] = {}
        self._waiting: dict[int, Any] = {}
        self._opened: set[int] = set()

    def find_process(self, number: int) -> int:
        """The process of worker `number`."""
        import ray

        return int(ray.get(self._actors[number].identify.remote()))

    def start(self, number: int) -> None:
        """Make the actor `number` anew."""
        self.kill(number)
        environment = dict(self.place.environments[number])
        actor = self._make.options(runtime_env={"env_vars": environment} if environment else None).remote()
        self._actors[number] = actor
        self._waiting[number] = actor.open.remote(pickle.dumps((self.place.open, self.place.plan)))

    def send(self, number: int, task: Any) -> None:
        """Call the actor `number`."""
        self._waiting[number] = self._actors[number].answer.remote(pickle.dumps(task))

    def wait(self, timeout_s: float | None) -> list[WorkerEvent]:
        """Answers that are there."""
        import ray

        numbers = {reference: number for number, reference in self._waiting.items()}
        if not numbers:
            return []
        ready, _ = ray.wait(list(numbers), num_returns=1, timeout=timeout_s)
        if ready:  # with it all others that are there: none of them is overdue
            ready, _ = ray.wait(list(numbers), num_returns=len(numbers), timeout=0)
        return [self._receive(numbers[reference], reference) for reference in ready]

    def kill(self, number: int) -> None:
        """Kill the actor `number`, if there is one."""
        import ray

        actor = self._actors.pop(number, None)
        self._waiting.pop(number, None)
        self._opened.discard(number)
        if actor is not None:
            ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """Kill all of them, and leave the cluster unless others stay there."""
        for number in list(self._actors):
            self.kill(number)
        if self._leaves:
            self._cluster.close()

    def _receive(self, number: int, reference: Any) -> WorkerEvent:
        import ray

        del self._waiting[number]
        try:
            answer: WorkerAnswer = ray.get(reference)
        except ray.exceptions.RayError as error:
            self.kill(number)
            return WorkerEvent(number, "lost", reason=f"was lost ({_shorten(error)})")
        event = answer.build_event(number, is_open=number in self._opened)
        self._opened.add(number)
        return event


def _shorten(error: Exception) -> str:
    """The kind of loss, and Ray's first line on it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
