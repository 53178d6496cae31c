"""By what a run's models are compared: a search's objective, or a mixture's utility."""

from __future__ import annotations

from dataclasses import dataclass

from aftermix.report.number_format import Scale
from aftermix.runs.reader import Best, Scores

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
