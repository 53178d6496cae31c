"""Standard output, and other libraries kept quiet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console


def open_table_console(width: int) -> Console:
    """Standard output; as wide as it is, or `width` where it is a pipe, whose eighty columns would fold wide rows."""
    return Console() if sys.stdout.isatty() else Console(width=width)


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
