"""The server that :mod:`support.forked` forks from: `python fork_server.py SOCKET`, with the number of a socket.

It loads the libraries and the product once. For each request (JSON of `arguments`, `folder` and `environment`; four
file descriptors: three standard streams and one for news) it forks a keeper, which forks the process that runs the
code, writes the process's number to the news, waits, and writes its exit code. It ends with the process that holds
the other end of the socket.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
import traceback
from typing import Any

LIBRARIES = (
    "accelerate",
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
    "optuna",
    "scipy.optimize",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llama.tokenization_llama",
)
REQUEST_BYTES = 2**20


def main(handle: int) -> None:
    """Serve until the other end of the socket `handle` is closed."""
    load_code()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers leave no zombies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and with them the server
    with socket.socket(fileno=handle) as connection:
        while True:
            content, streams, *_ = socket.recv_fds(connection, REQUEST_BYTES, 4)
            if not content:
                return
            if os.fork() == 0:
                connection.close()
                keep_process(json.loads(content), streams)
            for stream in streams:
                os.close(stream)


def load_code() -> None:
    """Import what commands need; children share it, and need not look through it for garbage."""
    import aftermix

    gc.disable()
    for library in LIBRARIES:
        importlib.import_module(library)
    for module in pkgutil.walk_packages(aftermix.__path__, "aftermix."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()
    gc.enable()


def keep_process(request: dict[str, Any], streams: list[int]) -> None:
    """Fork the process of `request`, tell its number and in the end its exit code, and end."""
    *standard, news = streams
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        os.close(news)
        run_request(request, standard)
    for stream in standard:
        os.close(stream)

    os.write(news, f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    os.write(news, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def run_request(request: dict[str, Any], standard: list[int]) -> None:
    """Run the code as `python -c CODE ARGUMENTS` would, and end with its exit code."""
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for target, stream in enumerate(standard):
            os.dup2(stream, target)
            os.close(stream)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        program, *arguments = request["arguments"]
        sys.argv, sys.path[0] = ["-c", *arguments], ""
        code = run_program(program)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_program(program: str) -> int:
    """Return the exit code of `program`; what it raises is told as Python would."""
    try:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main(int(sys.argv[1]))
