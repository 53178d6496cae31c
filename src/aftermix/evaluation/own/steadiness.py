"""The same model scored twice: a scorer that gives other numbers cannot tell merges from its own noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from aftermix.errors import EvaluationError
from aftermix.evaluation.own.results import OwnResults

TOLERANCE = 1e-6
"""Difference of a score that rounding explains."""
LARGEST_SHARE = 0.5
"""Of a score's standard error: noise above it is no less than what items differ by."""
SEEDED = (
    "Python's, NumPy's and torch's global generators are seeded alike at each call: look for a generator of its own, "
    "for time, or for what it keeps from one call to the next."
)


@dataclass(frozen=True)
class ScoreDifference:
    """Difference of the two scores that one model got in one task."""

    task: str
    largest: float
    """Of an item."""
    of_mean: float
    """Of the task's score: that of the two means, or what the items' differences make of it by chance, if that is
    more."""
    error: float | None
    """Standard error of the score over items; None of a task that is scored whole, which has none."""


def refuse_unsteady(first: OwnResults, second: OwnResults, *, where: str) -> list[str]:
    """Lines on tasks whose scores differ between two calls with one model and the same items.

    Raises :class:`EvaluationError` where the score of a task differs by more than half its standard error.
    """
    lines = []
    for found in measure_differences(first, second):
        if found.largest <= TOLERANCE:
            continue
        size = f"one model got two scores, {found.largest:.2g} apart at most"
        if found.error is not None and found.of_mean > LARGEST_SHARE * found.error:
            told = f"{size}; of the mean {found.of_mean:.2g}, above half its standard error of {found.error:.2g}"
            raise EvaluationError(
                f"{where}: task '{found.task}'", f"expected the same scores twice, found {told}", SEEDED
            )
        lines.append(f"{where}: task '{found.task}': {size}: differences below that tell nothing. {SEEDED}")
    return lines


def measure_differences(first: OwnResults, second: OwnResults) -> Iterator[ScoreDifference]:
    """The differences of every task."""
    for task, result in first.items():
        gaps = [ours - theirs for ours, theirs in zip(result.scores, second[task].scores, strict=True)]
        by_chance = sqrt(fmean(gap * gap for gap in gaps) / len(gaps))
        yield ScoreDifference(
            task=task,
            largest=max(map(abs, gaps)),
            of_mean=max(abs(fmean(gaps)), by_chance),
            error=None if result.is_whole else _find_error(result.scores),
        )


def _find_error(scores: tuple[float, ...]) -> float:
    return stdev(scores) / sqrt(len(scores)) if len(scores) > 1 else 0.0
