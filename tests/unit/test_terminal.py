"""Lines that carry a path reach a pipe and a narrow terminal as they are."""

from __future__ import annotations

import io

from rich.console import Console

from aftermix.terminal import print_line


def test_a_path_is_neither_folded_nor_read_as_markup() -> None:
    buffer = io.StringIO()
    place = f"/a [b]place[/b] of :smile: {'very ' * 20}long name"
    print_line(Console(file=buffer, width=20), f"Losses at {place}", style="table.title")
    assert buffer.getvalue() == f"Losses at {place}\n"
