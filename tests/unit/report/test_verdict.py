"""What winner and baselines of a run are compared by."""

from __future__ import annotations

from pathlib import Path

from aftermix.report.number_format import POINTS
from aftermix.report.verdict import UTILITY_NAME, UTILITY_SCALE, judge_objectives, judge_result
from aftermix.runs.reader import RunResult, read_best
from aftermix.runs.records import BaselineRecord, MixtureScoresRecord, ScoresRecord, UtilityScore

FIXTURE = Path(__file__).parents[2] / "data" / "runs-0a1294b"


def measured(mean: float, utility: float | None, *, half: float = 0.5) -> MixtureScoresRecord:
    interval = None if utility is None else (utility - half, utility + half)
    return MixtureScoresRecord(
        objective=(mean,),
        interval=((mean - 0.1, mean + 0.1),),
        tasks={},
        utility=UtilityScore(value=utility, interval=interval),
        capabilities={},
    )


def baseline(name: str, test: ScoresRecord, difference: ScoresRecord | None) -> BaselineRecord:
    return BaselineRecord(
        name=name, kind="mixture", method="task_arithmetic", density=None, weights={}, test=test, difference=difference
    )


def result(*, winner: float | None = 0.8) -> RunResult:
    """By its mean score the winner loses against `uniform`, by utility it wins."""
    baselines = (
        baseline("uniform", measured(0.6, 0.3), measured(-0.1, 0.5, half=0.2)),
        baseline("base", measured(0.4, 0.1), None),
    )
    scores = {"search": None, "select": measured(0.5, winner), "test": measured(0.5, winner)}
    return read_best(FIXTURE / "mixture").model_copy(update=scores | {"baselines": baselines})


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
