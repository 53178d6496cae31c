"""Processes that run Python code with everything loaded: forked from a server that imports it once.

Starting Python with torch, transformers and lm-eval takes some eight seconds of a core, most of what a small run
takes. A fork is a process like any other: it can be killed, limited and stopped. What must show how an interpreter
starts (what it imports, which environment it reads) is run by :mod:`subprocess`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Self

from aftermix.workers import processes

COMMAND = "from aftermix.cli import main; main()"
"""The command line."""
WORKER = processes.COMMAND
"""A worker process."""
SERVER_FILE = Path(__file__).with_name("fork_server.py")


@cache
def connect_server(process: int) -> socket.socket:
    """The connection of `process`, this one, to its own server."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, str(SERVER_FILE), str(theirs.fileno())]
        subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    return ours


class ForkedWorker:
    """A worker process from a fork: standard input is `channel`; started as :func:`launch_process` starts one."""

    def __init__(self, channel: socket.socket, errors: IO[bytes], environment: Mapping[str, str]) -> None:
        our_news, their_news = os.pipe()
        self._news = os.fdopen(our_news, "rb")
        with Path(os.devnull).open("wb") as nothing:
            request = {"arguments": [WORKER], "folder": str(Path.cwd()), "environment": dict(environment)}
            streams = [channel.fileno(), nothing.fileno(), errors.fileno(), their_news]
            socket.send_fds(connect_server(os.getpid()), [json.dumps(request).encode()], streams)
        os.close(their_news)
        self.pid = int(self._news.readline())

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, negative for a signal; raise :class:`subprocess.TimeoutExpired` if it still runs."""
        if not select.select([self._news], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(WORKER, timeout or 0.0)
        return int(self._news.readline())

    def kill(self) -> None:
        """Send SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)


class ForkedProcess:
    """`python -c CODE ARGUMENTS` from a fork, with pipes as input and output; used as :class:`subprocess.Popen`."""

    def __init__(self, code: str, *arguments: object, folder: Path | None = None) -> None:
        self.args = [code, *map(str, arguments)]
        self.returncode: int | None = None
        their_input, our_input = os.pipe()
        our_output, their_output = os.pipe()
        our_news, their_news = os.pipe()
        self.stdin, self.stdout = os.fdopen(our_input, "wb"), os.fdopen(our_output, "rb")
        self._errors = TemporaryFile()  # noqa: SIM115
        self._news = os.fdopen(our_news, "rb")

        request = {"arguments": self.args, "folder": str(folder or Path.cwd()), "environment": dict(os.environ)}
        streams = [their_input, their_output, self._errors.fileno(), their_news]
        socket.send_fds(connect_server(os.getpid()), [json.dumps(request).encode()], streams)
        for stream in (their_input, their_output, their_news):
            os.close(stream)
        self.pid = int(self._news.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.returncode is None:
            self.kill()
        self.communicate()

    def wait(self, timeout_s: float | None = None) -> int:
        """Return the exit code, negative for a signal; raise :class:`subprocess.TimeoutExpired` if it still runs."""
        if self.returncode is None:
            if timeout_s is not None and not select.select([self._news], [], [], timeout_s)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout_s)
            self.returncode = int(self._news.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send the signal `number`."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[bytes, bytes]:
        """End its input, and return what it writes to its output from here on, and all of its errors."""
        self.stdin.close()
        output = b"" if self.stdout.closed else self.stdout.read()
        self.wait()
        self.stdout.close()
        self._news.close()
        self._errors.seek(0)
        return output, self._errors.read()


def run_forked(code: str, *arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `code` to its end, with `arguments` in `sys.argv`, in `folder` (default: the present one)."""
    process = ForkedProcess(code, *arguments, folder=folder)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.wait(), output.decode(), errors.decode())
