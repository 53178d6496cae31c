"""Models of any origin beside the winner: who is ahead is told first, by page, cell and terminal; scores and costs."""

from __future__ import annotations

from collections.abc import Callable
from html import unescape
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aftermix.report.console.search import print_result
from aftermix.report.context import build_context
from aftermix.report.notebook.run_summary import summarise_run
from aftermix.report.page import write_report
from aftermix.report.sections.compared import build_compared_section
from aftermix.runs.reader import read_best, read_run

Json = dict[str, Any]


def compare(best: Json, name: str, gap: float, half: float | None = 0.01, **changed: Any) -> Json:
    """A row that scores `gap` below the winner in every objective; an interval `half` to either side."""
    count = len(best["test"]["objective"])
    test = {**best["test"], "objective": [value - gap for value in best["test"]["objective"]]}
    interval = [None if half is None else [gap - half, gap + half]] * count
    cost = {"tokens_trained": 2_000_000, "tokens_evaluated": 1_500, "seconds": 754.0}
    return {
        "name": name,
        "ratios": {"ja": 0.5, "math": 0.5},
        "trained": [],
        "instruction": {"vector": "it", "weight": 0.6, "tuned": True},
        "note": "one training",
        "test": test,
        "difference": {"objective": [gap] * count, "interval": interval},
        "cost": cost,
    } | changed


@pytest.fixture
def contest(make_run: Any, edit_json: Any) -> Callable[..., Path]:
    """A run with the rows that `build` makes of its result."""

    def make(build: Callable[[Json], list[Json]], **options: Any) -> Path:
        run: Path = make_run(trials=12, **options)
        edit_json(run / "best.json", lambda best: best.update(compared=build(best)))
        return run

    return make


def draw(run: Path) -> str:
    stream = StringIO()
    print_result(run, console=Console(file=stream, width=220))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (
            lambda best: [compare(best, "datamix", -0.021)],
            "A rival beats the merge on the same test items: 'datamix' by 2.1 points (one training). The merge scores",
        ),
        (
            lambda best: [compare(best, "datamix", -0.004, note="mean of 3 trainings")],
            "A rival scores above the merge within noise: 'datamix' by 0.4 points (mean of 3 trainings). The merge",
        ),
        (
            lambda best: [compare(best, "datamix", -0.004, half=None, note=None)],
            "A rival scores above the merge, with no interval to tell it from noise: 'datamix' by 0.4 points. ",
        ),
        (
            lambda best: [compare(best, "old", -0.02, note=None), compare(best, "new", -0.03), compare(best, "x", 0.2)],
            "2 rivals beat the merge on the same test items: 'new' by 3.0 points (one training), 'old' by 2.0 points. ",
        ),
        (
            lambda best: [compare(best, "old", -0.02, note=None), compare(best, "new", -0.003)],
            "A rival beats the merge on the same test items: 'old' by 2.0 points. A rival scores above the merge "
            "within noise: 'new' by 0.3 points (one training). The merge",
        ),
    ],
    ids=["beaten", "noise", "unknown", "several", "both"],
)
def test_a_rival_ahead_is_the_first_thing_told(
    contest: Callable[..., Path], build: Callable[[Json], list[Json]], told: str
) -> None:
    run = contest(build)
    assert build_context(read_run(run)).headline.startswith(told)
    page = unescape(write_report(run).read_text(encoding="utf-8"))
    assert page.split("<h1>")[1].startswith(told)
    assert told in unescape(summarise_run(read_run(run)))
    assert draw(run).startswith(told.split(" The ")[0].rstrip())


@pytest.mark.parametrize("gap", [0.0, 0.004, 0.2])
def test_a_rival_that_is_not_ahead_is_a_row_alone(contest: Callable[..., Path], gap: float) -> None:
    run = contest(lambda best: [compare(best, "datamix", gap)])
    assert build_context(read_run(run)).headline.startswith("The merge scores ")
    assert draw(run).lstrip().startswith("Test items, in points")


def test_each_objective_is_told_by_its_name(contest: Callable[..., Path]) -> None:
    run = contest(lambda best: [compare(best, "datamix", -0.02)], objectives=2)
    lead = "A rival beats the merge on the same test items in gsm8k only: 'datamix' by 2.0 points (one training)."
    assert build_context(read_run(run)).headline.startswith(lead)


def test_scores_and_costs_stand_in_one_row(contest: Callable[..., Path]) -> None:
    untrained = {"note": "not trained: no data ratios follow from the winner's weights", "ratios": None}
    untrained |= {"test": None, "difference": None, "instruction": None, "cost": {"tokens_trained": 0}}
    untrained["cost"] |= {"tokens_evaluated": 0, "seconds": 0.0}

    def build(best: Json) -> list[Json]:
        merge = {"weights": {"it": 0.25, "ja": 0.5}, "instruction": None, "note": None}
        finished = {"model": "/models/old", "instruction": None, "note": None}
        rows = [compare(best, "datamix", -0.02), compare(best, "by-hand", 0.02, **merge)]
        rows += [compare(best, "old", 0.1, **finished), compare(best, "found", 0.0, **untrained)]
        for row in rows[1:3]:
            del row["ratios"], row["trained"]
        rows[2]["cost"] = {**rows[2]["cost"], "tokens_trained": None}
        return rows

    run = contest(build)
    section = build_compared_section(build_context(read_run(run)).judged)
    assert section is not None
    assert section.columns[:2] == ("mean", "winner minus it")
    assert section.columns[-3:] == ("tokens trained", "tokens evaluated", "time")
    assert section.lead == (
        "4 models on the winner's own 1,200 test items, paired by item. One training is one draw: its interval is over "
        "items, and knows nothing of other seeds."
    )
    origins = {row.name: row.origin for row in section.rows}
    assert origins == {
        "winner": "dare_linear",
        "datamix": "trained: ja 0.50, math 0.50; one training; it at 0.6, tuned",
        "by-hand": "it 0.25, ja 0.50",
        "old": "/models/old",
        "found": "not trained: no data ratios follow from the winner's weights",
    }
    cells = {row.name: row.cells for row in section.rows}
    assert cells["datamix"][1] == "-2.0 [-3.0, -1.0]"
    assert cells["datamix"][-3:] == ("2,000,000", "1.5 K", "12 min 34 s")
    assert cells["old"][-3] == "not known"
    assert cells["found"][:2] == ("", "")
    assert cells["winner"][-3] == "2,500,000,000 by experts"

    page = unescape(write_report(run).read_text(encoding="utf-8").replace("<wbr>", ""))
    assert '<a href="#compared">Compared models</a>' in page
    assert origins["datamix"] in page
    assert "Compared models, on the same test items" in draw(run)


def test_a_run_without_rivals_is_as_it_was(make_run: Any) -> None:
    run = make_run(trials=12)
    assert read_best(run).compared is None
    assert "#compared" not in write_report(run).read_text(encoding="utf-8")
    assert "Compared models" not in draw(run)
