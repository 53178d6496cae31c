"""The result in plain words: the winner's test score, and what it gained on the best baseline, if anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aftermix.report.number_format import MINUS, ScoreScale
from aftermix.runs.reader import RunResult
from aftermix.runs.records import BaselineRecord, ComparedRecord, ObjectiveRecord, ScoresRecord

UTILITY_NAME = "utility"
UTILITY_SCALE = ScoreScale(
    1.0, 2, "in utility", "Utility is what the mixture was chosen by; scores of tasks stand beside it."
)


@dataclass(frozen=True)
class JudgedResult:
    """A result whose objectives are what decided, their names and their unit."""

    best: RunResult
    names: tuple[str, ...]
    scale: ScoreScale


def judge_result(best: RunResult, *, names: tuple[str, ...], scale: ScoreScale) -> JudgedResult:
    """The utility where winner and all baselines have one on the test items, else the objective as it is."""
    rivals = tuple(_judge_rival(row) for row in best.compared or ())
    tests = [_replace_objective(scores) for scores in (best.test, *(baseline.test for baseline in best.baselines))]
    differences = [baseline.difference and _replace_objective(baseline.difference) for baseline in best.baselines]
    if None in tests or None in rivals:
        return JudgedResult(best, names, scale)

    compared = zip(best.baselines, tests[1:], differences, strict=True)
    baselines = tuple(baseline.model_copy(update={"test": test, "difference": gap}) for baseline, test, gap in compared)
    judged = {"test": tests[0], "baselines": baselines} | ({"compared": rivals} if rivals else {})
    return JudgedResult(best.model_copy(update=judged), (UTILITY_NAME,), UTILITY_SCALE)


def _judge_rival(row: ComparedRecord) -> ComparedRecord | None:
    """The row with its utility in place of the objective; as it is without scores, None where it has no utility."""
    if row.test is None or row.difference is None:
        return row
    test, difference = _replace_objective(row.test), _replace_objective(row.difference)
    return (
        None if test is None or difference is None else row.model_copy(update={"test": test, "difference": difference})
    )


def _replace_objective(scores: ScoresRecord) -> ScoresRecord | None:
    utility = scores.utility
    if utility is None or utility.value is None:
        return None
    return scores.model_copy(update={"objective": (utility.value,), "interval": (utility.interval,)})


Standing = Literal["better", "level", "worse", "unknown"]
BADGES: dict[Standing, str] = {
    "better": "Better than the best baseline",
    "level": "Within noise of the best baseline",
    "worse": "Worse than the best baseline",
    "unknown": "Not compared",
}


@dataclass(frozen=True)
class ObjectiveVerdict:
    """One objective's result; `advice` is empty where the winner is simply better."""

    objective: str
    standing: Standing
    headline: str
    score: str
    interval: str
    baseline: str
    baseline_score: str
    baseline_interval: str
    difference: str
    difference_interval: str
    advice: str

    @property
    def badge(self) -> str:
        """The standing in a few words."""
        if self.standing == "unknown" and self.baseline:
            return "Difference without an interval"
        return BADGES[self.standing]


def name_objectives(objectives: Sequence[ObjectiveRecord], count: int) -> tuple[str, ...]:
    """A name for each of `count` objectives: the user's, else its tasks.

    >>> records = [ObjectiveRecord(name=name, tasks={"gsm8k": 1.0}, floors={}) for name in (None, "chat")]
    >>> name_objectives(records, 2)
    ('gsm8k', 'chat')
    """
    if count == 1:
        return ((objectives[0].name if objectives else None) or "objective",)
    numbered = enumerate(objectives, 1)
    described = [record.name or " + ".join(record.tasks) or f"objective {place}" for place, record in numbered]
    missing = [f"objective {place}" for place in range(len(described) + 1, count + 1)]
    return tuple([*described, *missing][:count])


def judge_objectives(best: RunResult, *, scale: ScoreScale) -> tuple[ObjectiveVerdict, ...]:
    """The verdict on every objective."""
    count = len(best.test.objective)
    names = name_objectives(best.objective, count)
    return tuple(_judge_objective(best, place, names[place] if count > 1 else "", scale) for place in range(count))


def find_best_baseline(best: RunResult, objective: int) -> BaselineRecord | None:
    """The baseline with the highest test score on `objective`."""
    return max(best.baselines, key=lambda baseline: baseline.test.objective[objective], default=None)


def judge_standing(interval: tuple[float, float] | None) -> Standing:
    """The standing that the interval of the paired difference, winner minus baseline, allows one to claim.

    >>> [judge_standing(interval) for interval in ((0.01, 0.05), (-0.01, 0.05), (-0.05, -0.01), None)]
    ['better', 'level', 'worse', 'unknown']
    """
    if interval is None:
        return "unknown"
    low, high = interval
    return "better" if low > 0 else "worse" if high < 0 else "level"


def compose_headline(verdicts: Sequence[ObjectiveVerdict]) -> str:
    """The result in one sentence: the only objective's own, or how many of several stand how."""
    if len(verdicts) == 1:
        return verdicts[0].headline

    words = {"better": "better than", "level": "within noise of", "worse": "worse than", "unknown": "not compared with"}
    counts = [(words[kind], sum(verdict.standing == kind for verdict in verdicts)) for kind in BADGES]
    if len({verdict.standing for verdict in verdicts}) == 1:
        return f"The merge is {words[verdicts[0].standing]} the best baseline on all {len(verdicts)} objectives."
    parts = [f"{word} the best baseline on {count}" for word, count in counts if count]
    return f"Of {len(verdicts)} objectives, the merge is {' and '.join(parts)}."


def _judge_objective(best: RunResult, place: int, name: str, scale: ScoreScale) -> ObjectiveVerdict:
    baseline = find_best_baseline(best, place)
    difference = baseline.difference if baseline else None
    interval = difference.interval_of(place) if difference else None
    standing = judge_standing(interval)
    score = scale.format(best.test.objective[place])
    start = f"{name}: the merge" if name else "The merge"

    # A run without paired differences still tells the plain one, which has no interval.
    gap = difference.objective[place] if difference else None
    if baseline and gap is None:
        gap = best.test.objective[place] - baseline.test.objective[place]

    return ObjectiveVerdict(
        objective=name,
        standing=standing,
        headline=f"{start} scores {_append_unit(score, scale)} on test items, {_describe_gap(standing, gap, scale)}.",
        score=score,
        interval=scale.format_interval(best.test.interval_of(place)),
        baseline=baseline.name if baseline else "",
        baseline_score=scale.format(baseline.test.objective[place]) if baseline else "",
        baseline_interval=scale.format_interval(baseline.test.interval_of(place)) if baseline else "",
        difference=scale.format_signed(difference.objective[place]) if difference else "",
        difference_interval=scale.format_signed_interval(interval),
        advice=_compose_advice(standing, baseline),
    )


def _describe_gap(standing: Standing, gap: float | None, scale: ScoreScale) -> str:
    if gap is None:
        return "and no baseline was measured beside it"
    if standing == "level":
        return "level with the best baseline within noise"
    side = "above" if gap >= 0 else "below"
    return f"{scale.format_signed(gap).lstrip('+' + MINUS)} {side} the best baseline"


def _compose_advice(standing: Standing, baseline: BaselineRecord | None) -> str:
    if baseline is None:
        return "Without baselines nobody can say whether the search gained anything."
    if standing == "level":
        return (
            f"The interval of the difference includes 0, so these test items cannot tell the winner from "
            f"“{baseline.name}”, which needs no search. More test items would narrow it."
        )
    if standing == "worse":
        return f"The search did not pay on this objective: “{baseline.name}” scores higher on the same test items."
    if standing == "unknown":
        return "The run holds no interval for this difference, so it cannot be told from noise."
    return ""


def _append_unit(score: str, scale: ScoreScale) -> str:
    return f"{score} {scale.unit}" if scale.unit else score
