"""Lines and bars for whoever asked: a library prints nothing by itself.

Lines go to the logger `aftermix`. Within :func:`shown`, which the command line enters, they come out on standard error
and bars are drawn; a notebook has both without asking.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from aftermix.progress.place import is_notebook

LOGGER = logging.getLogger("aftermix")
LOGGER.addHandler(logging.NullHandler())  # without any, Python itself would print warnings


class _LineHandler(logging.Handler):
    """Writes lines on standard error, beside the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(record.getMessage(), file=sys.stderr)


_askers: list[_LineHandler] = []
"""Those who asked for bars and lines and still want them; the first of them writes the lines."""


@contextmanager
def shown() -> Iterator[None]:
    """Draw bars, and write the lines of `aftermix` on standard error, while the block lasts."""
    handler, level, propagates = _LineHandler(), LOGGER.level, LOGGER.propagate
    if not _askers:
        LOGGER.addHandler(handler)
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
    _askers.append(handler)
    try:
        yield
    finally:
        _askers.remove(handler)
        if not _askers:
            LOGGER.removeHandler(handler)
            LOGGER.setLevel(level)
            LOGGER.propagate = propagates


def is_shown() -> bool:
    """True if bars are drawn: somebody asked for them, or this is a notebook."""
    return bool(_askers) or is_notebook()


def say(line: str) -> None:
    """Tell what is going on, in one line."""
    _tell(logging.INFO, line)


def warn(line: str) -> None:
    """Tell what the user should know, in one line."""
    _tell(logging.WARNING, line)


def _tell(level: int, line: str) -> None:
    if is_notebook() and not _askers:
        with shown():
            LOGGER.log(level, "%s", line)
    else:
        LOGGER.log(level, "%s", line)
