"""Standard output, and transformers kept quiet and off the clock."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from rich.console import Console


def open_table_console(width: int) -> Console:
    """Standard output; as wide as it is, or `width` where it is a pipe, whose eighty columns would fold wide rows.

    With `NO_COLOR` in the environment, whatever its value, text has neither colours nor any other style.
    """
    styles: dict[str, Any] = {"color_system": None} if os.environ.get("NO_COLOR") else {}
    return Console(**styles) if sys.stdout.isatty() else Console(width=width, **styles)


def print_line(console: Console, text: str, *, style: str | None = None) -> None:
    """Print `text` as it is on one line: a path that is folded, or read as markup, can be copied no more."""
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Let only errors of transformers through, and no progress bar but ours; everything is restored on leaving."""
    from transformers.utils import logging

    transformers_logging: Any = logging  # its functions carry no types
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


@dataclass(frozen=True)
class _TemplateClock:
    """Clock in the place of `datetime` where transformers answers a template's `strftime_now`."""

    tell: Callable[[], datetime]

    def now(self, _: tzinfo | None = None) -> datetime:
        return self.tell()


@contextmanager
def set_template_date(date: str | None, *, refuse: Callable[[], Exception] | None = None) -> Iterator[None]:
    """Give chat templates midnight of `date` (`2026-11-28`) within the block.

    Without one, a template that asks gets the exception that `refuse` builds, or, without that, the clock's day.
    transformers passes no function to a template, so its own is given another clock. Not for several threads at once.
    """
    from transformers.utils import chat_template_utils

    def tell() -> datetime:
        if date is not None:
            return datetime.fromisoformat(date)
        raise refuse() if refuse is not None else AssertionError

    library: Any = chat_template_utils
    original = library.datetime
    if date is not None or refuse is not None:
        library.datetime = _TemplateClock(tell)
    try:
        yield
    finally:
        library.datetime = original
