"""Runs made at commit 0a1294b open, report and go on: tests/data/runs-0a1294b/README.md says how they were made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import run_cli

FIXTURE = Path(__file__).parents[1] / "data" / "runs-0a1294b"
PLACE = "/OLD-RUNS"
"""Stands in the text files of the fixture for the folder that holds it."""
COMMANDS = {"search": "search", "mixture": "mixture", "tree": "mixture"}
FURTHER = {"search": "search-8.yaml", "mixture": "mixture-further.yaml", "tree": "tree-further.yaml"}
KNOWN = {
    "search": (
        "The merge scores 35.0 points on test items, level with the best baseline within noise.",
        "dare_ties: a 0.90, b 0.15, c 0.15; density 0.8",
        '<section id="shares">',
    ),
    "mixture": (
        "The merge scores 1.94 in utility on test items, level with the best baseline within noise.",
        "task_arithmetic: a 0.50, b 0.05, c 0.95",
        "The winner is the neighbour 1.",
        '<section id="verification">',
        '<section id="landscape">',
    ),
    "tree": (
        "The merge scores 0.17 in utility on test items, level with the best baseline within noise.",
        "task_arithmetic: a 0.50, b 0.06, c 0.46, d 0.49",
        "top down, 2 groups of at most 7 points",
        "Group left:",
    ),
}
UNFINISHED = {
    "search": "4 of 6 trials have ended.",
    "mixture": "5 of 8 trials have ended.",
    "tree": "1 of 2 groups have been searched.",
}
NEAR = {"search": 1e-6, "mixture": 1e-3, "tree": 1e-3}
"""How far numbers may be from those of another kind of CPU: a mixture's winner is where a fitted surrogate is largest.
Scores are counts of right answers, so that every bound holds them to the item."""

Journals = dict[Path, list[bytes]]


@pytest.fixture
def old_runs(tmp_path: Path) -> Iterator[Path]:
    """A copy of the fixture whose files name the place where it lies."""
    folder = Path(shutil.copytree(FIXTURE, tmp_path / "old"))
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if PLACE.encode() in content and b"\0" not in content:
            path.write_bytes(content.replace(PLACE.encode(), str(folder).encode()))
    yield folder
    shutil.rmtree(folder)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def journals_of(run: Path) -> Journals:
    """The whole lines of every journal of `run`, of the groups of a tree too."""
    return {path.relative_to(run): path.read_bytes().splitlines(True) for path in run.rglob("trials.jsonl")}


def items_of(run: Path) -> dict[Path, bytes]:
    """What was recorded of every measurement, and the split."""
    return {path.relative_to(run): path.read_bytes() for path in run.rglob("items/**/*.json")}


def without_seconds(lines: list[bytes]) -> list[dict[str, Any]]:
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def assert_close(found: Any, expected: Any, near: float, place: str = "") -> None:
    """The same structure, names, texts and whole numbers; other numbers within `near`."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), place
        for key, value in expected.items():
            assert_close(found[key], value, near, f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, value in enumerate(expected):
            assert_close(found[number], value, near, f"{place}[{number}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=near, abs=near), place
    else:
        assert found == expected, place


def assert_kept(run: Path, before: Journals, items: dict[Path, bytes]) -> None:
    """Every recorded trial has its bytes, and so have its items and the split."""
    after = journals_of(run)
    for name, lines in before.items():
        assert after[name][: len(lines)] == lines, name
    now = items_of(run)
    assert {name: now.get(name) for name in items} == items


def assert_result(run: Path, expected: dict[str, Any], near: float) -> None:
    """Winner, weights, ratios and scores in `best.json` are as expected, and the model is there."""
    best = read(run / "best.json")
    assert_close({key: best[key] for key in expected}, expected, near)
    assert (run / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_finished_run_reports_and_goes_on_as_it_did_then(old_runs: Path, name: str) -> None:
    run, expected = old_runs / name, read(old_runs / "expected.json")[name]
    best, before, items = read(run / "best.json"), journals_of(run), items_of(run)
    assert run_cli("report", run) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert [text for text in KNOWN[name] if text not in page] == []

    assert run_cli(COMMANDS[name], old_runs / "world" / FURTHER[name], "--resume", run) == 0
    assert_kept(run, before, items)
    new = without_seconds(journals_of(run)[Path("trials.jsonl")][6:]) if name == "search" else []
    assert_close(new, expected.pop("trials", []), NEAR[name])
    assert_result(run, expected, NEAR[name])
    if name == "tree":
        # Its groups are finished: what goes on is only that the experts of the groups are written.
        assert (run / "experts" / "left" / "model.safetensors").is_file()
        assert read(run / "best.json")["ratios"] == best["ratios"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_run_says_so_and_ends_as_the_one_that_was_left_alone(old_runs: Path, name: str) -> None:
    run, alone = old_runs / "killed" / name, old_runs / name
    before, items = journals_of(run), items_of(run)
    assert not (run / "best.json").exists()
    assert run_cli("report", run) == 0
    assert f"This search is unfinished: {UNFINISHED[name]}" in (run / "report.html").read_text(encoding="utf-8")

    assert run_cli(COMMANDS[name], "--resume", run) == 0
    assert_kept(run, before, items)
    after, theirs = journals_of(run), journals_of(alone)
    assert after.keys() == theirs.keys()
    for journal, lines in theirs.items():
        assert_close(without_seconds(after[journal]), without_seconds(lines), NEAR[name], str(journal))
    best = read(alone / "best.json")
    assert_result(run, {key: best[key] for key in ("winner", "weights", "ratios", "select", "test")}, NEAR[name])
