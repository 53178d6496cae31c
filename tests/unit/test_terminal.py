"""Lines that carry a path reach a pipe and a narrow terminal as they are."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from aftermix.terminal import open_table_console, print_line


def test_a_path_is_neither_folded_nor_read_as_markup() -> None:
    buffer = io.StringIO()
    place = f"/a [b]place[/b] of :smile: {'very ' * 20}long name"
    print_line(Console(file=buffer, width=20), f"Losses at {place}", style="table.title")
    assert buffer.getvalue() == f"Losses at {place}\n"


@pytest.mark.parametrize(("value", "styled"), [(None, True), ("", True), ("1", False), ("0", False)])
def test_without_colours_a_terminal_gets_plain_text(
    monkeypatch: pytest.MonkeyPatch, value: str | None, styled: bool
) -> None:
    """`NO_COLOR`, set and not empty, whatever its value; tables keep their words."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)

    shown = FakeTerminal()
    monkeypatch.setattr("sys.stdout", shown)
    table = Table(title="Winner")
    table.add_column("score", style="bold green")
    table.add_row("61.3")
    open_table_console(80).print(table)
    assert ("\x1b[" in shown.getvalue()) == styled
    assert "61.3" in shown.getvalue()
    assert "Winner" in shown.getvalue()


class FakeTerminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True
