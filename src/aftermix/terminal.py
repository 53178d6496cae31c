"""The terminal that tables are printed to."""

from __future__ import annotations

import sys

from rich.console import Console


def table_console(width: int) -> Console:
    """Standard output; as wide as it is, or `width` where it is a pipe, whose eighty columns would fold wide rows."""
    return Console() if sys.stdout.isatty() else Console(width=width)
