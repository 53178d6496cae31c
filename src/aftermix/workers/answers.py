"""Answers of a worker: a value or an error, with the lines that were told on the way. They are pickled and sent."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from aftermix.workers.executor import LogLine, WorkerEvent

LOGGER = logging.getLogger("aftermix")
OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")
"""Names of the errors of Python and of PyTorch."""
ErrorLink = bytes | tuple[str, str]


@dataclass(frozen=True)
class WorkerAnswer:
    """Answer to one task, or to the wish to open."""

    value: Any
    error: tuple[ErrorLink, ...]
    """The exception and those that it came from, outermost first; empty where there is none."""
    lines: tuple[LogLine, ...]

    def build_event(self, number: int, *, is_open: bool) -> WorkerEvent:
        """The answer as news of worker `number`, which was open already (`is_open`) or was to open."""
        if self.error:
            return WorkerEvent(number, "raised", error=join_error(self.error), lines=self.lines)
        return WorkerEvent(number, "returned" if is_open else "opened", value=self.value, lines=self.lines)


class _LineKeeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[LogLine] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage()))


def answer_call(call: Callable[[], Any]) -> WorkerAnswer:
    """The value of `call` or what it raised, and the lines that the product told meanwhile."""
    keeper, level = _LineKeeper(), LOGGER.level
    LOGGER.addHandler(keeper)
    LOGGER.setLevel(logging.INFO)
    try:
        value, error = call(), None
    except Exception as raised:
        value, error = None, raised
    finally:
        LOGGER.removeHandler(keeper)
        LOGGER.setLevel(level)
    return WorkerAnswer(value, () if error is None else split_error(error), tuple(keeper.lines))


def split_error(error: BaseException) -> tuple[ErrorLink, ...]:
    """`error` and those that it came from, each pickled, or as name and text where it cannot be.

    Pickling an exception drops what it came from, which its text for the user tells.
    """
    links: list[ErrorLink] = []
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and not any(link is each for each in seen):
        seen.append(link)
        links.append(_pickle_error(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return tuple(links)


def join_error(links: tuple[ErrorLink, ...]) -> Exception:
    """The exception of :func:`split_error`, with the others as its causes."""
    errors = [_restore_error(link) for link in links]
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    first = errors[0]
    return first if isinstance(first, Exception) else RuntimeError(str(first))


def is_out_of_memory(error: BaseException) -> bool:
    """True for an error that says that memory, of the machine or of a device, did not suffice."""
    return type(error).__name__ in OUT_OF_MEMORY


def _pickle_error(error: BaseException) -> ErrorLink:
    try:
        content = pickle.dumps(error)
        if type(pickle.loads(content)) is type(error) and str(pickle.loads(content)) == str(error):  # noqa: S301 - ours
            return content
    except Exception:  # noqa: S110 - a stranger's exception may raise anything when it is made anew
        pass
    return type(error).__name__, str(error)


def _restore_error(link: ErrorLink) -> BaseException:
    if isinstance(link, bytes):
        try:
            restored: BaseException = pickle.loads(link)  # noqa: S301 - written by our own worker
            return restored
        except Exception as error:  # a class that only the worker could import
            return RuntimeError(f"an error of a worker that cannot be told here ({error})")
    name, text = link
    made: BaseException = type(name, (Exception,), {})(text)
    return made
