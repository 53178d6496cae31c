"""A measured mixture as `best.json` tells it: scores by task and capability and the utility, each with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.mixture.simplex import Floats
from aftermix.mixture.utility import MixtureUtility
from aftermix.runs.item_scores import complete_scores, is_whole
from aftermix.runs.mixture_records import NoiseRecord, UtilityRecord
from aftermix.runs.records import CapabilityScoreRecord, MixtureScoresRecord, ScoresRecord, UtilityScore
from aftermix.runs.trials import ItemScores, average_scores
from aftermix.search.intervals import CONFIDENCE, RESAMPLES, Interval
from aftermix.search.objective import ObjectiveSet
from aftermix.search.summary import compare, summarise
from aftermix.seeds import generator

# D draws, M capabilities, T columns of scores

BATCH = 100
"""Resamples whose items are held in memory at once."""


@dataclass(frozen=True)
class UtilityScorer:
    """Scorer of measured mixtures by the utility: item scores in, summaries with intervals out."""

    problem: MixtureProblem
    objectives: ObjectiveSet
    utility: MixtureUtility

    @property
    def seed(self) -> int:
        """Of the bootstrap."""
        return self.problem.mixture.seed

    def score_items(self, items: ItemScores) -> Floats:
        """(1, T) scores by column of the problem, as the utility takes them."""
        return self.problem.compute_scores([average_scores(items)])

    def score_capabilities(self, items: ItemScores) -> Floats:
        """(1, M) capability scores."""
        return self.utility.score_capabilities(self.score_items(items))

    def measure_worth(self, items: ItemScores) -> float:
        """Utility; NaN where an expression has no value."""
        return float(self.utility.values(self.score_items(items))[0])

    def summarise_items(self, items: ItemScores) -> MixtureScoresRecord:
        """The summary of a search, and `utility` and `capabilities`, each with a 95% bootstrap interval over items."""
        summary = summarise(items, objectives=self.objectives, seed=self.seed)
        value_1T = self.score_items(items)
        drawn_DT = np.full((1, value_1T.shape[1]), np.nan) if is_whole(items) else self._draw_scores(items)
        drawn_DM, value_1M = (self.utility.score_capabilities(scores) for scores in (drawn_DT, value_1T))

        capabilities = {
            name: CapabilityScoreRecord(
                score=float(value_1M[0, m]), interval=compute_interval(drawn_DM[:, m], float(value_1M[0, m]))
            )
            for m, name in enumerate(self.problem.capabilities)
        }

        value = float(self.utility.values(value_1T)[0])
        return MixtureScoresRecord(
            objective=summary.objective,
            interval=summary.interval,
            tasks=summary.tasks,
            utility=attach_interval(value, self.utility.values(drawn_DT)),
            capabilities=capabilities,
        )

    def compare_items(self, ours: ItemScores, theirs: ItemScores) -> ScoresRecord:
        """Ours minus theirs, paired by item."""
        difference = compare(ours, theirs, objectives=self.objectives, seed=self.seed)
        value = float(self.utility.values(self.score_items(ours))[0] - self.utility.values(self.score_items(theirs))[0])

        if is_whole(ours):
            return difference.model_copy(update={"utility": UtilityScore(value=value, interval=None)})

        # The same draws of items on both sides: an item's difficulty cancels.
        with np.errstate(invalid="ignore"):
            drawn_D = self.utility.values(self._draw_scores(ours)) - self.utility.values(self._draw_scores(theirs))
        return difference.model_copy(update={"utility": attach_interval(value, drawn_D)})

    def _draw_scores(self, items: ItemScores) -> Floats:
        """(D, T) scores by column of resampled items, resampled within each task."""
        means = {
            task: _resample_means(np.asarray(complete_scores(scores)), self.seed, task)
            for task, scores in items.items()
        }
        columns = self.problem.columns.values()
        return np.stack([np.mean([means[task] for task in tasks], axis=0) for tasks in columns], axis=1)


def attach_interval(value: float, drawn_D: Floats) -> UtilityScore:
    """A utility with its interval; None where an expression has no value."""
    return UtilityScore(value=value if np.isfinite(value) else None, interval=compute_interval(drawn_D, value))


def compute_interval(drawn_D: Floats, value: float) -> Interval | None:
    """The middle 95% of the draws that have a value, widened by a rounding error where `value` would lie outside."""
    finite_D = drawn_D[np.isfinite(drawn_D)]
    if not len(finite_D) or not np.isfinite(value):
        return None

    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(finite_D, [tail, 1 - tail])
    return min(float(low), value), max(float(high), value)


def describe_utility(utility: MixtureUtility) -> UtilityRecord:
    """The resolved utility; weights sum to 1."""
    return UtilityRecord(
        weights=dict(utility.weights),
        expression=utility.expression.text if utility.expression else None,
        normalisation=utility.normalisation,
        floors=dict(utility.floors),
        left_out=tuple(utility.left_out),
    )


def estimate_noise(pairs: Mapping[str, tuple[Floats, Floats]], names: list[str]) -> NoiseRecord:
    """Noise of a measurement, from two of one mixture on different items: `sqrt(mean(d^2) / 2)` by capability.

    `pairs` holds (M,) scores on search and on select items by mixture.
    """
    differences = np.array([one_M - other_M for one_M, other_M in pairs.values()]).reshape(-1, len(names))
    spread_M = np.sqrt(np.mean(differences**2, axis=0) / 2) if len(pairs) else np.zeros(0)
    by_name = {name: float(sd) for name, sd in zip(names, spread_M, strict=False)}
    return NoiseRecord(points=tuple(pairs), sd=by_name)


def _resample_means(scores: Floats, seed: int, task: str) -> Floats:
    draw = generator(seed, "mixture bootstrap", task)
    batches = [scores[draw.integers(len(scores), size=(BATCH, len(scores)))].mean(axis=1) for _ in _list_batches()]
    return np.concatenate(batches)


def _list_batches() -> range:
    return range(0, RESAMPLES, BATCH)
