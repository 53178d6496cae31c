"""lm-eval, datasets and transformers without their log lines and progress bars."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import datasets
from transformers.utils import logging as transformers_logging

LOGGERS = ("lm_eval", "datasets", "transformers", "huggingface_hub", "accelerate")
LONGEST_LINE = 300
"""Characters of a warning that are told."""


class HeardWarnings:
    """Warnings of lm-eval that the user has yet to be told: each kind once, with its number.

    Warnings are of one kind that differ only in names in quotes or brackets, in numbers, and after their first line.
    """

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._told: set[str] = set()

    def hear(self, text: str) -> None:
        """Count one warning."""
        line = text.strip().partition("\n")[0].strip()
        kind = re.sub(r"\[[^]]*\]|'[^']*'|\d+|(?<=metric )\S+", "", line)
        self._first.setdefault(kind, line[:LONGEST_LINE])
        self._counts[kind] += 1

    def take_lines(self) -> list[str]:
        """A line for each kind that was not told before; they count as told."""
        new = [kind for kind in self._counts if kind not in self._told]
        lines = [f"lm-eval warns: {self._first[kind]}{self._describe_count(kind)}" for kind in new]
        self._told |= set(new)
        self._counts.clear()
        return lines

    def _describe_count(self, kind: str) -> str:
        return f" ({self._counts[kind]} times like this)" if self._counts[kind] > 1 else ""


class _Listener(logging.Handler):
    """Handler that counts warnings, and hands errors on to whatever handled them before."""

    def __init__(self, heard: HeardWarnings, before: list[logging.Handler]) -> None:
        super().__init__(logging.WARNING)
        self.heard, self.before = heard, before

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            self.heard.hear(record.getMessage())
            return
        for handler in self.before:
            handler.handle(record)
        logging.getLogger().callHandlers(record)


@contextmanager
def _listening(heard: HeardWarnings) -> Iterator[None]:
    logger = logging.getLogger("lm_eval")
    handlers, propagates = logger.handlers, logger.propagate
    logger.setLevel(logging.WARNING)
    logger.handlers, logger.propagate = [_Listener(heard, handlers)], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagates


@contextmanager
def quiet(heard: HeardWarnings | None = None) -> Iterator[None]:
    """Let only errors of the evaluation libraries through, and no bars; everything is restored on leaving.

    What lm-eval warns of is counted in `heard`, to be told in fewer lines.
    """
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    datasets_bars = not datasets.utils.are_progress_bars_disabled()
    transformers_bars = transformers_logging.is_progress_bar_enabled()

    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    try:
        with _listening(heard) if heard is not None else nullcontext():
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if datasets_bars:
            datasets.enable_progress_bars()
        if transformers_bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
