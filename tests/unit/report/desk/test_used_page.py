"""The whole script of the mixing desk on the elements of its own page: moved, pressed, copied, and left alone."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.response.response_world import ParabolaWorld

from aftermix.report.notebook.desk_frame import MixingDesk
from aftermix.report.number_format import POINTS
from aftermix.runs.reader import read_run
from support.desk_runs import add_response, needs_node, predict_with_model
from support.report_runs import RunMaker

USE = Path(__file__).parents[3] / "support" / "use_desk.mjs"
TASKS = ("gsm8k", "mgsm")
SEEN = 2
"""Pages that are read before the first action: as it came, and as its script opens it."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = RunMaker(vectors=("it", "ja"), tasks=TASKS, trials=9).write(tmp_path_factory.mktemp("desk") / "run")
    add_response(run, ParabolaWorld(items=40))
    MixingDesk.build(read_run(run)).save(run / "desk.html")
    return run / "desk.html"


def use(page: Path, *actions: dict[str, Any]) -> list[dict[str, Any]]:
    """What the page shows without its script, when it opens, and after each of `actions`."""
    command = ["node", str(USE), str(page)]
    done = subprocess.run(command, input=json.dumps(actions), capture_output=True, text=True, check=True)
    seen: list[dict[str, Any]] = json.loads(done.stdout)
    return seen


@needs_node
def test_a_moved_slider_moves_every_score_and_what_is_copied(page: Path) -> None:
    seen = use(page, {"axis": 0, "value": 0.6149}, {"axis": 1, "value": 0.3}, {"preset": 0})
    raw, opened, _, moved, back = seen
    assert (raw["isHidden"], opened["isHidden"]) == (True, False)
    assert raw["means"] == ["", "", ""]
    assert opened["pressed"] == back["pressed"] == ["winner"]
    assert back["means"] == opened["means"] != moved["means"]

    # A position stands on hundredths, and all that is shown is of it.
    assert moved["values"] == ["0.61", "0.30"]
    assert moved["pressed"] == []
    predicted = predict_with_model(page.parent, [(0.61, 0.3)])
    for mean, interval, score in zip(moved["means"], moved["intervals"], predicted.values(), strict=True):
        assert mean == POINTS.format(float(score.mean_C[0]))
        assert interval == POINTS.format_interval((float(score.low_C[0]), float(score.high_C[0])))
    recipe = yaml.safe_load(moved["recipe"])
    assert {name: vector["weight"] for name, vector in recipe["vectors"].items()} == {"it": 0.61, "ja": 0.3}
    assert moved["command"].endswith(" --weights it=0.61,ja=0.3 -o merged")
    assert moved["spoken"].startswith(f"Predicted: mean {moved['means'][0]}, ")


@needs_node
def test_what_is_not_to_be_relied_on_is_greyed_and_said(page: Path) -> None:
    outside, near = use(page, {"axis": 0, "value": 0.0}, {"preset": 0})[SEEN:]
    assert outside["isUnsure"] is True
    assert outside["state"].startswith("Not to be relied on: it 0.00 is outside its range (0.30 to 1.00)")
    assert outside["state"][:-1] in outside["spoken"]
    assert near["isUnsure"] is False
    assert near["state"] == "Within the ranges, and near measured merges."


@needs_node
def test_a_position_is_copied_or_where_that_is_not_allowed_selected(page: Path) -> None:
    file, command, refused = use(
        page, {"copy": 0, "mayWrite": True}, {"copy": 1, "mayWrite": True}, {"copy": 0, "mayWrite": False}
    )[SEEN:]
    assert file["copied"] == file["recipe"] != ""
    assert file["words"] == ["Copied", "Copy"]
    assert command["copied"] == command["command"] != ""
    assert refused["selected"] == refused["recipe"]
    assert refused["words"][0] == "Selected"


def test_every_control_is_one_of_the_browser_s_own_with_a_name_and_the_page_reads_without_scripts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    # Keyboards and readers of screens reach sliders and buttons that are such by themselves.
    sliders = re.findall(r'<input type="range" id="(desk-axis-\d)" min="[\d.]+" max="[\d.]+" step="any"', text)
    assert sliders == ["desk-axis-0", "desk-axis-1"]
    assert re.findall(r'<label for="(desk-axis-\d)">', text) == sliders
    assert len(re.findall(r'<button type="button" data-(?:preset|copy)=', text)) == 5
    assert re.search(r'id="desk-spoken" role="status" aria-live="polite"', text)
    # Small screens get one column, and no width of their own.
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert re.search(r"@media \(max-width: 860px\) \{\s*\.desk-board \{ grid-template-columns: minmax\(0, 1fr\)", text)
    # Without scripts: no dead controls, the table of three merges, and a word on what is missing.
    assert '<div id="desk-panel" hidden>' in text
    assert re.findall(r'<span class="model">(\w+)</span>', text) == ["winner", "uniform", "base"]
    assert '<noscript><p class="small">With scripts allowed, sliders stand here' in text
