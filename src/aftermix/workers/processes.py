"""Workers as processes of this machine: each a fresh interpreter, joined to this one by a socket.

A process of its own interpreter shares no state with this one, runs whatever script started this one only once, and
can be given its devices before a library looks at them. It ends when its end of the socket closes, so that none is left
when this process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

from aftermix.workers.answers import WorkerAnswer
from aftermix.workers.executor import WorkerEvent, Workplace

COMMAND = "from aftermix.workers.process_worker import main; main()"
END_S = 10.0
"""Seconds for which the end of a killed process is waited for."""
TOLD_CHARACTERS = 300


class LaunchedProcess(Protocol):
    """A process that was launched."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit code, negative for a signal."""

    def kill(self) -> None:
        """End it at once."""


Launch = Callable[[socket.socket, IO[bytes], Mapping[str, str]], LaunchedProcess]
"""Starts :data:`COMMAND` with this socket as its standard input, this file as its standard error, this environment."""


def launch_process(channel: socket.socket, errors: IO[bytes], environment: Mapping[str, str]) -> LaunchedProcess:
    """A fresh interpreter, in a session of its own: Ctrl-C is for the process that waits for it."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        stdin=channel.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=dict(environment),
        start_new_session=True,
    )


@dataclass
class _Worker:
    process: LaunchedProcess
    connection: Connection[Any, Any]
    errors: IO[bytes]
    is_open: bool = False


class ProcessExecutor:
    """Processes of this machine that work in one workplace."""

    def __init__(self, place: Workplace, *, launch: Launch | None = None) -> None:
        self.place = place
        self._launch = launch or launch_process
        self._workers: dict[int, _Worker] = {}

    @property
    def processes(self) -> dict[int, int]:
        """Process by number of the worker."""
        return {number: worker.process.pid for number, worker in self._workers.items()}

    def start(self, number: int) -> None:
        """Launch worker `number` and tell it what to open."""
        self.kill(number)
        ours, theirs = socket.socketpair()
        errors = TemporaryFile()  # noqa: SIM115 - open as long as the worker is
        with theirs:
            environment = {**os.environ, **self.place.environments[number]}
            process = self._launch(theirs, errors, environment)
        worker = _Worker(process, Connection(ours.detach()), errors)
        self._workers[number] = worker
        with contextlib.suppress(OSError):  # one that has died is found by `wait`
            worker.connection.send_bytes(json.dumps(sys.path).encode())
            worker.connection.send_bytes(pickle.dumps((self.place.open, self.place.plan)))

    def send(self, number: int, task: Any) -> None:
        """Send `task` to worker `number`."""
        with contextlib.suppress(OSError):
            self._workers[number].connection.send_bytes(pickle.dumps(task))

    def wait(self, timeout_s: float | None) -> list[WorkerEvent]:
        """Answers that are there, and workers whose end of the socket is closed."""
        by_connection = {worker.connection: number for number, worker in self._workers.items()}
        ready = wait(list(by_connection), timeout_s)
        return [self._receive(by_connection[each]) for each in ready if isinstance(each, Connection)]

    def kill(self, number: int) -> None:
        """Kill worker `number`, if there is one, and wait until it has ended."""
        worker = self._workers.pop(number, None)
        if worker is not None:
            with contextlib.suppress(OSError):  # it has ended already
                worker.process.kill()
            self._end(worker)

    def close(self) -> None:
        """Kill all of them."""
        for worker in self._workers.values():
            with contextlib.suppress(OSError):
                worker.process.kill()
        for number in list(self._workers):
            self.kill(number)

    def _receive(self, number: int) -> WorkerEvent:
        worker = self._workers[number]
        try:
            answer: WorkerAnswer = pickle.loads(worker.connection.recv_bytes())  # noqa: S301 - from our own process
        except (EOFError, OSError):
            del self._workers[number]
            return WorkerEvent(number, "lost", reason=self._end(worker))
        event = answer.build_event(number, is_open=worker.is_open)
        worker.is_open = True
        return event

    def _end(self, worker: _Worker) -> str:
        """Make sure that the process and those that it started have ended, and say how it did."""
        code: int | None = None
        try:
            code = worker.process.wait(0.2)  # it ends by itself where its end of the socket is closed
        except subprocess.TimeoutExpired:
            worker.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(END_S)
        with contextlib.suppress(OSError):  # its session is gone with it, or it never led one
            os.killpg(worker.process.pid, signal.SIGKILL)
        worker.connection.close()
        with worker.errors as errors:
            return _describe_end(code, errors)


def _describe_end(code: int | None, errors: IO[bytes]) -> str:
    """Exit code or signal, and the last line that the process wrote on standard error."""
    if code is None:
        told = "was ended"
    elif code < 0:
        told = f"was ended by {signal.Signals(-code).name}"
    else:
        told = f"ended with exit code {code}"
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 4096))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f"{told} ({lines[-1].strip()[:TOLD_CHARACTERS]})" if lines and code != -signal.SIGKILL else told
