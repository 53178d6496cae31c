"""What a reader may do with hostile input: succeed, or raise one AftermixError, promptly, within the folder it got.

Opens, listings and changes of the file system are watched through the interpreter's audit events; `safe_open`, which
opens files outside of the interpreter, is watched by wrapping it.
"""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aftermix.errors import AftermixError

LIMIT_S = 20
"""A hang: three orders of magnitude above what an input takes, so that a loaded machine does not matter."""
LONGEST_MESSAGE = 20_000
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"),
    *("os.chown", "shutil.rmtree", "shutil.move", "shutil.copyfile"),
}
EXECUTION = {
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class"),
    *("socket.connect", "socket.getaddrinfo"),
}
LIBRARIES = tuple(
    {os.path.realpath(path) for path in (*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix) if path}
    | {os.path.realpath(path) for path in sys.path if path}
    | {"/proc", "/sys", "/dev/null", "/dev/urandom"}
)
"""Where a lazy import and a look at the machine may read."""


class Violation(Exception):  # noqa: N818 - it is what a reader did, not an error of the test
    """A reader did what no input may make it do."""


class _Watch:
    """The paths that are allowed while one input is read."""

    def __init__(self, readable: Sequence[Path], writable: Path | None) -> None:
        self.readable = [os.path.realpath(path) for path in readable]
        self.writable = os.path.realpath(writable) if writable else None
        self.violations: list[str] = []

    def event(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open":
            path, mode, flags = arguments
            writes = bool(flags & WRITING) or any(letter in (mode or "") for letter in "wax+")
            self.path(path, writes=writes, event=name)
        elif name in ("os.listdir", "os.scandir"):
            self.path(arguments[0], writes=False, event=name)
        elif name in CHANGES:
            for path in arguments[: 2 if name in ("os.rename", "os.link") else 1]:
                self.path(path, writes=True, event=name)
        elif name in EXECUTION:
            self.violations.append(f"{name} {arguments!r:.200}")

    def path(self, path: Any, *, writes: bool, event: str) -> None:
        if isinstance(path, int) or path is None:  # a descriptor was opened under a name before
            return
        real = os.path.realpath(os.fsdecode(path))
        if self.writable and _within(real, self.writable):
            return
        if not writes and any(_within(real, place) for place in (*self.readable, *LIBRARIES)):
            return
        if event == "open" and not writes and self.are_weights(os.fsdecode(path)):
            return
        self.violations.append(f"{event} {'for writing ' if writes else ''}{real!r}")

    def are_weights(self, path: str) -> bool:
        """Whether a file, possibly a link to anywhere, stands for weights in a folder that may be read."""
        place = os.path.realpath(os.path.dirname(path))  # noqa: PTH120
        named = path.endswith(".safetensors")
        return named and os.path.isfile(path) and any(_within(place, folder) for folder in self.readable)  # noqa: PTH113


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


_current: _Watch | None = None


def _hook(name: str, arguments: tuple[Any, ...]) -> None:
    if _current is not None:
        watch = _current
        watch.event(name, arguments)


sys.addaudithook(_hook)


def check(
    read: Callable[[], object], *, readable: Sequence[Path], writable: Path | None = None
) -> AftermixError | None:
    """Run `read` on hostile input and return the error with which it was refused, None when it was taken.

    Raises :class:`Violation` for any other exception, a hang, an unreadable message, an open, listing or change outside
    of `readable` (and `writable`), and the start of anything.
    """
    error: AftermixError | None = None
    try:
        with _watched(readable, writable) as watch, _limited():
            read()
    except AftermixError as raised:
        error = raised
        _check_message(str(raised))
    except Violation:
        raise
    except BaseException as other:  # a panic of a native library is no Exception
        if isinstance(other, KeyboardInterrupt | SystemExit):
            raise
        raise Violation(f"{type(other).__name__}: {other!s:.300}") from other
    if watch.violations:
        raise Violation("; ".join(watch.violations))
    return error


def _check_message(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Violation(f"the message cannot be printed: {error}") from error
    if any(not character.isprintable() and character not in "\n\u3000\xa0" for character in text):
        raise Violation(f"the message holds control characters: {text!r:.300}")
    if len(text) > LONGEST_MESSAGE:
        raise Violation(f"the message has {len(text)} characters")


@contextmanager
def _watched(readable: Sequence[Path], writable: Path | None) -> Iterator[_Watch]:
    global _current  # an audit hook cannot be removed, so there is one for the process
    watch = _Watch(readable, writable)
    with _safe_open_recorded(watch):
        _current = watch
        try:
            yield watch
        finally:
            _current = None


@contextmanager
def _safe_open_recorded(watch: _Watch) -> Iterator[None]:
    """Weights may be links out of the folder, so the place of the link counts."""
    owners = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(("aftermix.", "safetensors")) and hasattr(module, "safe_open")
    ]
    originals = [module.safe_open for module in owners]

    def recorded(original: Any) -> Any:
        def opened(file: Any, *arguments: Any, **options: Any) -> Any:
            if not watch.are_weights(os.fspath(file)):
                watch.violations.append(f"safe_open {os.fspath(file)!r}")
            return original(file, *arguments, **options)

        return opened

    for module, original in zip(owners, originals, strict=True):
        module.safe_open = recorded(original)
    try:
        yield
    finally:
        for module, original in zip(owners, originals, strict=True):
            module.safe_open = original


@contextmanager
def _limited() -> Iterator[None]:
    def expired(*_: object) -> None:
        raise Violation(f"no answer within {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
