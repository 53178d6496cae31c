"""The result in plain words: the winner's test score, and what it gained on the best baseline, if anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aftermix.report.number_format import MINUS, Scale
from aftermix.runs.records import Baseline, Best, ObjectiveRecord, Scores

NAME = "utility"
UTILITY = Scale(1.0, 2, "in utility", "Utility is what the mixture was chosen by; scores of tasks stand beside it.")


@dataclass(frozen=True)
class Judged:
    """A result whose objectives are what decided, their names and their unit."""

    best: Best
    names: tuple[str, ...]
    scale: Scale


def judged(best: Best, *, names: tuple[str, ...], scale: Scale) -> Judged:
    """The utility where winner and all baselines have one on the test items, else the objective as it is."""
    tests = [_by_utility(scores) for scores in (best.test, *(one.test for one in best.baselines))]
    apart = [one.difference and _by_utility(one.difference) for one in best.baselines]
    if None in tests:
        return Judged(best, names, scale)

    compared = zip(best.baselines, tests[1:], apart, strict=True)
    baselines = tuple(one.model_copy(update={"test": test, "difference": gap}) for one, test, gap in compared)
    return Judged(best.model_copy(update={"test": tests[0], "baselines": baselines}), (NAME,), UTILITY)


def _by_utility(scores: Scores) -> Scores | None:
    found = scores.utility
    if found is None or found.value is None:
        return None
    return scores.model_copy(update={"objective": (found.value,), "interval": (found.interval,)})


Standing = Literal["better", "level", "worse", "unknown"]
BADGES: dict[Standing, str] = {
    "better": "Better than the best baseline",
    "level": "Within noise of the best baseline",
    "worse": "Worse than the best baseline",
    "unknown": "Not compared",
}


@dataclass(frozen=True)
class Verdict:
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


def objective_names(objectives: Sequence[ObjectiveRecord], count: int) -> tuple[str, ...]:
    """A name for each of `count` objectives: the user's, else its tasks.

    >>> objective_names([ObjectiveRecord(tasks={"gsm8k": 1.0}), ObjectiveRecord(name="chat")], 2)
    ('gsm8k', 'chat')
    """
    if count == 1:
        return ((objectives[0].name if objectives else None) or "objective",)
    numbered = enumerate(objectives, 1)
    described = [record.name or " + ".join(record.tasks) or f"objective {place}" for place, record in numbered]
    missing = [f"objective {place}" for place in range(len(described) + 1, count + 1)]
    return tuple([*described, *missing][:count])


def verdicts(best: Best, *, scale: Scale) -> tuple[Verdict, ...]:
    """The verdict on every objective."""
    count = len(best.test.objective)
    names = objective_names(best.objective, count)
    return tuple(_verdict(best, place, names[place] if count > 1 else "", scale) for place in range(count))


def best_baseline(best: Best, objective: int) -> Baseline | None:
    """The baseline with the highest test score on `objective`."""
    return max(best.baselines, key=lambda baseline: baseline.test.objective[objective], default=None)


def standing(interval: tuple[float, float] | None) -> Standing:
    """The standing that the interval of the paired difference, winner minus baseline, allows one to claim.

    >>> standing((0.01, 0.05)), standing((-0.01, 0.05)), standing((-0.05, -0.01)), standing(None)
    ('better', 'level', 'worse', 'unknown')
    """
    if interval is None:
        return "unknown"
    low, high = interval
    return "better" if low > 0 else "worse" if high < 0 else "level"


def headline(judged: Sequence[Verdict]) -> str:
    """The result in one sentence: the only objective's own, or how many of several stand how."""
    if len(judged) == 1:
        return judged[0].headline

    words = {"better": "better than", "level": "within noise of", "worse": "worse than", "unknown": "not compared with"}
    counts = [(words[kind], sum(verdict.standing == kind for verdict in judged)) for kind in BADGES]
    if len({verdict.standing for verdict in judged}) == 1:
        return f"The merge is {words[judged[0].standing]} the best baseline on all {len(judged)} objectives."
    parts = [f"{word} the best baseline on {count}" for word, count in counts if count]
    return f"Of {len(judged)} objectives, the merge is {' and '.join(parts)}."


def _verdict(best: Best, place: int, name: str, scale: Scale) -> Verdict:
    baseline = best_baseline(best, place)
    difference = baseline.difference if baseline else None
    interval = difference.interval_of(place) if difference else None
    judged = standing(interval)
    score = scale.text(best.test.objective[place])
    start = f"{name}: the merge" if name else "The merge"

    # A run without paired differences still tells the plain one, which has no interval.
    gap = difference.objective[place] if difference else None
    if baseline and gap is None:
        gap = best.test.objective[place] - baseline.test.objective[place]

    return Verdict(
        objective=name,
        standing=judged,
        headline=f"{start} scores {_with_unit(score, scale)} on test items, {_compared(judged, gap, scale)}.",
        score=score,
        interval=scale.between(best.test.interval_of(place)),
        baseline=baseline.name if baseline else "",
        baseline_score=scale.text(baseline.test.objective[place]) if baseline else "",
        baseline_interval=scale.between(baseline.test.interval_of(place)) if baseline else "",
        difference=scale.signed(difference.objective[place]) if difference else "",
        difference_interval=scale.signed_between(interval),
        advice=_advice(judged, baseline),
    )


def _compared(judged: Standing, gap: float | None, scale: Scale) -> str:
    if gap is None:
        return "and no baseline was measured beside it"
    if judged == "level":
        return "level with the best baseline within noise"
    side = "above" if gap >= 0 else "below"
    return f"{scale.signed(gap).lstrip('+' + MINUS)} {side} the best baseline"


def _advice(judged: Standing, baseline: Baseline | None) -> str:
    if baseline is None:
        return "Without baselines nobody can say whether the search gained anything."
    if judged == "level":
        return (
            f"The interval of the difference includes 0, so these test items cannot tell the winner from "
            f"“{baseline.name}”, which needs no search. More test items would narrow it."
        )
    if judged == "worse":
        return f"The search did not pay on this objective: “{baseline.name}” scores higher on the same test items."
    if judged == "unknown":
        return "The run holds no interval for this difference, so it cannot be told from noise."
    return ""


def _with_unit(score: str, scale: Scale) -> str:
    return f"{score} {scale.unit}" if scale.unit else score
