"""A worker process: opens what it is told to, then answers one task after another over its standard input, a socket."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

from aftermix.workers.answers import answer_call


def main() -> None:
    """Work until the other end of the socket is closed, which ends the process at once, whatever it does."""
    connection: Connection[Any, Any] = Connection(os.dup(0))
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - of a file descriptor
        os.dup2(nothing.fileno(), 0)

    # A thread reads all the time, so that the end of the other process is seen in the middle of a task too.
    messages: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_receive_all, args=(connection, messages), daemon=True).start()
    sys.path[:] = json.loads(messages.get())
    content = messages.get()

    run: Any = None

    def open_place() -> None:
        nonlocal run
        opens, plan = pickle.loads(content)  # noqa: S301 - from the process that started this one
        run = opens(plan)

    connection.send_bytes(pickle.dumps(answer_call(open_place)))
    while True:
        message = messages.get()
        answer = answer_call(lambda held=message: run(pickle.loads(held)))  # type: ignore[misc]  # noqa: S301
        connection.send_bytes(pickle.dumps(answer))


def _receive_all(connection: Connection[Any, Any], messages: SimpleQueue[bytes]) -> None:
    try:
        while True:
            messages.put(connection.recv_bytes())
    finally:
        if os.getpgrp() == os.getpid():  # the processes that an engine started end with it
            os.killpg(0, signal.SIGKILL)
        os._exit(1)
