"""Progress bars in a real kernel: a picture that is replaced in its place, and no control codes."""

from __future__ import annotations

import asyncio
import os
import re

import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from aftermix.progress import bar, open_bar
from aftermix.progress.place import is_notebook

BARS = """
import aftermix.api
from aftermix.progress import bar, counter, open_bar, say
assert list(bar("abc", label="Letters <b>", unit="letter")) == ["a", "b", "c"]
with counter(label="Steps", total=4, done=1, unit="step") as advance:
    advance("loss 0.5")
    say("a line beside it")
with open_bar(desc="gone", total=2, leave=False) as shown:
    shown.update(2)
with open_bar(desc="never", total=2, leave=False, delay=60) as late:
    late.update(1)
assert list(bar(iter(range(3)), label="Unknown")) == [0, 1, 2]
"""
STOPPED = """
for step in bar(range(1000), label="Stopped", unit="step"):
    if step == 7:
        raise KeyboardInterrupt
"""
CONTROL = re.compile(r"[\r\x1b\x08]")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[NotebookNode]:
    """Executed cells: bars of every kind, and one that an interrupt stops."""
    folder = tmp_path_factory.mktemp("kernel")
    book = new_notebook(cells=[new_code_cell(BARS), new_code_cell(STOPPED)])
    places = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    environment = {**os.environ, **{name: str(folder / name) for name in places}}
    client = NotebookClient(book, timeout=120, resources={"metadata": {"path": str(folder)}}, allow_errors=True)
    asyncio.run(client.async_execute(env=environment))
    return list(book.cells)


def list_bars(cell: NotebookNode) -> list[str]:
    """HTML of the bars that a cell shows."""
    return [html for output in cell.outputs if "<progress" in (html := output.get("data", {}).get("text/html", ""))]


def test_a_bar_is_replaced_in_its_place(cells: list[NotebookNode]) -> None:
    shown = list_bars(cells[0])
    assert len(shown) == 3
    assert "<span>Letters &lt;b&gt;</span>" in shown[0]
    assert 'value="3" max="3"' in shown[0]
    assert 'value="2" max="4"' in shown[1]
    assert "loss 0.5" in shown[1]
    assert "<span>Unknown</span><progress aria-label" in shown[2]
    assert "3 it [" in shown[2]


def test_what_was_to_go_is_gone_and_what_was_short_never_shown(cells: list[NotebookNode]) -> None:
    shown = str([output for output in cells[0].outputs if output.output_type == "display_data"])
    assert "gone" not in shown
    assert "never" not in shown


def test_nothing_else_is_written_but_lines(cells: list[NotebookNode]) -> None:
    streams = [output.text for output in cells[0].outputs if output.output_type == "stream"]
    assert streams == ["a line beside it\n"]
    plain = [output.data["text/plain"] for output in cells[0].outputs if "data" in output]
    assert not any(CONTROL.search(text) for text in plain)
    assert re.match(r"Letters <b>: 3/3 \[.*letter/s\]$", plain[0])


def test_a_bar_that_is_stopped_shows_how_far_it_came(cells: list[NotebookNode]) -> None:
    (shown,) = list_bars(cells[1])
    assert 'max="1000"' in shown
    assert cells[1].outputs[-1].ename == "KeyboardInterrupt"


@pytest.mark.usefixtures("shown")
def test_elsewhere_bars_are_those_of_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_notebook()
    assert list(bar("ab", label="Letters", unit="letter")) == ["a", "b"]
    with open_bar(desc="Steps", total=2) as drawn:
        drawn.update(2)
    told = capsys.readouterr().err
    assert "Letters: 100%" in told
    assert "Steps: 100%" in told
