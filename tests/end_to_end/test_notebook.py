"""examples/notebook.ipynb in a real kernel: what cells show, bars without control codes, an interrupt."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

import aftermix

EXAMPLES = Path(__file__).parents[2] / "examples"
POLL_S = 0.005
pytestmark = pytest.mark.whole
CONTROL = re.compile(r"[\r\x1b\x08]")
SEARCH = """
again = aftermix.search(pool, trials=10, output=OUT / "stopped", resume={resume})
"""
WHOLE = """
tables = [shown.trials.filter(regex="^(?!seconds)") for shown in (again, run)]
tables[0].equals(tables[1]), again.best.weights == run.best.weights
"""


@dataclass(frozen=True)
class NotebookSession:
    """The executed notebook, and the cells that were run after it in the same kernel."""

    folder: Path
    cells: list[NotebookNode]
    stops: list[NotebookNode]
    resumed: NotebookNode
    whole: NotebookNode

    def find(self, source: str) -> NotebookNode:
        """The cell that ends with `source`."""
        (cell,) = [cell for cell in self.cells if cell.source.endswith(source)]
        return cell

    def show(self, source: str) -> str:
        """What the cell that ends with `source` shows of its last value, as HTML."""
        (shown,) = [output for output in self.find(source).outputs if output.output_type == "execute_result"]
        return str(shown.data["text/html"])


async def stop_cell(client: NotebookClient, cell: NotebookNode, place: int, moment: Callable[[], bool]) -> None:
    """Run `cell` and interrupt the kernel at `moment`."""
    cell.metadata["tags"] = ["raises-exception"]
    running = asyncio.create_task(client.async_execute_cell(cell, place))
    while not moment():
        assert not running.done(), cell.outputs
        await asyncio.wait({running}, timeout=POLL_S)
    await client.km.interrupt_kernel()
    await running


async def run_session(folder: Path, environment: Mapping[str, str]) -> NotebookSession:
    book = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}})
    run = folder / "../runs/notebook/stopped"
    stops = [new_code_cell(SEARCH.format(resume=resume)) for resume in (False, True)]
    resumed, whole = new_code_cell(SEARCH.format(resume=True)), new_code_cell(WHOLE)

    def has_trials() -> bool:
        journal = run / "trials.jsonl"
        return journal.is_file() and journal.read_bytes().count(b"\n") >= 2

    async with client.async_setup_kernel(env=environment):
        for place, cell in enumerate(list(book.cells)):
            await client.async_execute_cell(cell, place)
        book.cells += [*stops, resumed, whole]
        count = len(book.cells)
        await stop_cell(client, stops[0], count - 4, has_trials)
        await stop_cell(client, stops[1], count - 3, lambda: any((run / "items" / "select").glob("*")))
        assert not (run / "best.json").exists()
        await client.async_execute_cell(resumed, count - 2)
        await client.async_execute_cell(whole, count - 1)
    return NotebookSession(folder, book.cells[: count - 4], stops, resumed, whole)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> NotebookSession:
    top = tmp_path_factory.mktemp("notebook")
    folder = top / "examples"
    folder.mkdir()
    (folder / "demo").symlink_to(EXAMPLES / "demo")
    places = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    return asyncio.run(run_session(folder, {**os.environ, **{name: str(top / name) for name in places}}))


def list_texts(cell: NotebookNode) -> list[str]:
    """Streams and plain texts of a cell."""
    texts = [output.text for output in cell.outputs if output.output_type == "stream"]
    return texts + [output.data.get("text/plain", "") for output in cell.outputs if "data" in output]


def list_bars(cell: NotebookNode) -> list[str]:
    """HTML of the bars that a cell shows."""
    return [html for output in cell.outputs if "<progress" in (html := output.get("data", {}).get("text/html", ""))]


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = [cell for cell in json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"] if "outputs" in cell]
    assert 8 <= len(cells) <= 14
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_every_object_shows_itself(session: NotebookSession) -> None:
    assert "demo/base" in session.show("pool")
    assert "0.50" in session.show("guess")
    assert "continue_dates" in session.show("weights=guess.weights)")
    run = aftermix.open_run(session.folder / "../runs/notebook/search")
    assert run.best is not None
    shown = session.show("run")
    assert "<svg" in shown
    assert f"{run.best.weights['counts']:.2f}" in shown
    assert session.show("run.charts").count("<svg") >= 4
    assert "predicted" in session.show('run.predict({"counts": 0.3, "dates": 0.6})')
    assert "<iframe" in session.show("run.desk()")
    assert "12 points told, 0 open" in session.show("study")
    assert session.find("pool.problems()").outputs[-1].data["text/plain"] == "[]"


def test_no_cell_has_control_codes_or_warnings(session: NotebookSession) -> None:
    for cell in session.cells:
        texts = list_texts(cell) if "outputs" in cell else []
        assert not any(CONTROL.search(text) or "Warning" in text for text in texts), (cell.source, texts)


def test_long_work_has_bars_that_stand_at_their_end(session: NotebookSession) -> None:
    trained = list_bars(session.find("\nexperts"))
    assert [re.search(r"<span>(.*?)</span>", shown)[1] for shown in trained] == ["train counts", "train dates"]  # type: ignore[index]
    assert any('value="10" max="10"' in shown for shown in list_bars(session.find("\nrun")))


def test_an_interrupt_says_how_to_go_on_and_loses_nothing(session: NotebookSession) -> None:
    for cell in session.stops:
        (error,) = [output for output in cell.outputs if output.output_type == "error"]
        assert error.ename == "KeyboardInterrupt"
        told = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
        assert "every finished trial is kept" in told
        assert "resume=True" in told
    (last,) = [output for output in session.whole.outputs if output.output_type == "execute_result"]
    assert last.data["text/plain"] == "(True, True)"


def test_what_the_message_says_goes_on(session: NotebookSession) -> None:
    (error,) = [output for output in session.stops[0].outputs if output.output_type == "error"]
    told = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
    call = re.search(r"aftermix\.search\(.*resume=True\)", told)
    assert call
    run: Any = eval(call[0], {"aftermix": aftermix})  # noqa: S307 - the remedy, as it is written
    assert len(run.trials) == 10
