"""What winner and baselines of a run are compared by."""

from __future__ import annotations

from typing import Any

from aftermix.report.number_format import POINTS
from aftermix.report.verdict import UTILITY_NAME, UTILITY_SCALE, judge_objectives, judge_result
from aftermix.runs.records import BestRecord


def measured(mean: float, utility: float | None, *, half: float = 0.5) -> dict[str, Any]:
    interval = None if utility is None else [utility - half, utility + half]
    found = {"value": utility, "interval": interval}
    return {"objective": [mean], "interval": [[mean - 0.1, mean + 0.1]], "tasks": {}, "utility": found}


def result(*, winner: float | None = 0.8) -> BestRecord:
    """By its mean score the winner loses against `uniform`, by utility it wins."""
    values = {
        "winner": {"trial": None},
        "weights": {"ja": 1.0},
        "objective": ({"name": "mean score", "tasks": {"gsm8k": 1.0}},),
        "search": None,
        "select": measured(0.5, winner),
        "test": measured(0.5, winner),
        "baselines": [
            {"name": "uniform", "test": measured(0.6, 0.3), "difference": measured(-0.1, 0.5, half=0.2)},
            {"name": "base", "test": measured(0.4, 0.1), "difference": None},
        ],
    }
    return BestRecord.model_validate(values)


def test_a_mixture_is_judged_by_its_utility() -> None:
    found = judge_result(result(), names=("mean score",), scale=POINTS)
    assert (found.names, found.scale) == ((UTILITY_NAME,), UTILITY_SCALE)
    (verdict,) = judge_objectives(found.best, scale=found.scale)
    assert (verdict.standing, verdict.baseline, verdict.difference) == ("better", "uniform", "+0.50")
    assert verdict.headline == "The merge scores 0.80 in utility on test items, 0.50 above the best baseline."
    assert found.best.baselines[1].difference is None


def test_a_utility_without_a_value_leaves_the_objective() -> None:
    best = result(winner=None)
    found = judge_result(best, names=("mean score",), scale=POINTS)
    assert (found.best, found.names, found.scale) == (best, ("mean score",), POINTS)
    (verdict,) = judge_objectives(found.best, scale=found.scale)
    assert (verdict.baseline, verdict.difference) == ("uniform", "\N{MINUS SIGN}10.0")
