"""The gain of a round: its merge against the base that its experts were trained from, on the same test items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aftermix.errors import EvaluationError
from aftermix.jobs.mixture.baselines import BASE
from aftermix.jobs.paired.run_scores import locate_winner_items
from aftermix.jobs.search.score_cache import ScoreCache
from aftermix.runs.item_scores import is_whole
from aftermix.runs.journal import read_items_file
from aftermix.runs.reader import read_run
from aftermix.runs.trials import average_scores
from aftermix.search.intervals import Interval, bootstrap_mean, subtract_items

CONFIDENCE = 0.9
"""Two-sided: a lower end above 0 is a one-sided test at 5 %."""


@dataclass(frozen=True)
class RoundGain:
    """Scores of both, and their paired difference."""

    base: float
    merge: float
    gain: float
    interval: Interval

    @property
    def is_sure(self) -> bool:
        """True where the lower end of the interval is above 0."""
        return self.interval[0] > 0


def measure_gain(run: Path) -> RoundGain:
    """The gain of the winner of `run` over its base, by the objective; of several, by their mean.

    Raises :class:`EvaluationError` for a task that has a score of the whole alone, whose items cannot be paired.
    """
    read = read_run(run)
    best = read.best
    assert best is not None  # noqa: S101 - the caller has finished it
    shares: dict[str, float] = {}
    for objective in best.objective:
        for task, share in objective.tasks.items():
            shares[task] = shares.get(task, 0.0) + share / len(best.objective)

    ours = read_items_file(locate_winner_items(read, "test"), noun="the test item scores of the winner")
    theirs = read_items_file(ScoreCache(run, ()).locate(BASE, "test"), noun="the test item scores of the base")
    whole = [task for task in shares if is_whole({task: ours[task]})]
    if whole:
        found = f"task '{whole[0]}' is scored as a whole, so that no gain can be paired item by item"
        raise EvaluationError("evaluate.tasks", found, "Leave it out of `search.objective`.")

    differences = subtract_items(ours, theirs)
    interval = bootstrap_mean(differences, weights=shares, seed=read.config.search.seed, confidence=CONFIDENCE)
    scores = [_weigh(average_scores(items), shares) for items in (theirs, ours, differences)]
    gain = scores[2]
    return RoundGain(scores[0], scores[1], gain, (min(interval[0], gain), max(interval[1], gain)))


def _weigh(scores: Mapping[str, float], shares: Mapping[str, float]) -> float:
    return sum(share * scores[task] for task, share in shares.items())
