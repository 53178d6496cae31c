"""A measured mixture as `best.json` tells it: scores by task and capability and the utility, each with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aftermix.jobs.mixture.problem import Setting
from aftermix.mixture.simplex import Floats
from aftermix.mixture.utility import Utility
from aftermix.runs.trials import ItemScores, mean_scores
from aftermix.search.intervals import CONFIDENCE, RESAMPLES
from aftermix.search.objective import Objectives
from aftermix.search.summary import compare, summarise
from aftermix.seeds import generator

# D draws, M capabilities

BATCH = 100
"""Resamples whose items are held in memory at once."""


@dataclass(frozen=True)
class Scoring:
    """Scorer of measured mixtures by the utility: item scores in, summaries with intervals out."""

    setting: Setting
    objectives: Objectives
    utility: Utility

    @property
    def seed(self) -> int:
        """Of the bootstrap."""
        return self.setting.mixture.seed

    def scores(self, items: ItemScores) -> Floats:
        """(1, M) capability scores."""
        return self.setting.scores([mean_scores(items)])

    def summary(self, items: ItemScores) -> dict[str, Any]:
        """The summary of a search, and `utility` and `capabilities`, each with a 95% bootstrap interval over items."""
        told = summarise(items, objectives=self.objectives, seed=self.seed)
        drawn_DM, value_1M = self._drawn(items), self.scores(items)

        capabilities = {
            name: {"score": float(value_1M[0, m]), "interval": interval(drawn_DM[:, m], float(value_1M[0, m]))}
            for m, name in enumerate(self.setting.capabilities)
        }

        value = float(self.utility.values(value_1M)[0])
        return told | {
            "utility": with_interval(value, self.utility.values(drawn_DM)),
            "capabilities": capabilities,
        }

    def difference(self, ours: ItemScores, theirs: ItemScores) -> dict[str, Any]:
        """Ours minus theirs, paired by item."""
        told = compare(ours, theirs, objectives=self.objectives, seed=self.seed)
        value = float(self.utility.values(self.scores(ours))[0] - self.utility.values(self.scores(theirs))[0])

        # The same draws of items on both sides: an item's difficulty cancels.
        with np.errstate(invalid="ignore"):
            drawn_D = self.utility.values(self._drawn(ours)) - self.utility.values(self._drawn(theirs))
        return told | {"utility": with_interval(value, drawn_D)}

    def _drawn(self, items: ItemScores) -> Floats:
        """(D, M) capability scores of resampled items, resampled within each task."""
        means = {task: _resampled_means(np.asarray(scores), self.seed, task) for task, scores in items.items()}
        groups = self.setting.capabilities.values()
        return np.stack([np.mean([means[task] for task in group], axis=0) for group in groups], axis=1)


def with_interval(value: float, drawn_D: Floats) -> dict[str, Any]:
    """`{"value", "interval"}`; null where an expression has no value."""
    return {"value": value if np.isfinite(value) else None, "interval": interval(drawn_D, value)}


def interval(drawn_D: Floats, value: float) -> list[float] | None:
    """The middle 95% of the draws that have a value, widened by a rounding error where `value` would lie outside."""
    finite_D = drawn_D[np.isfinite(drawn_D)]
    if not len(finite_D) or not np.isfinite(value):
        return None

    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(finite_D, [tail, 1 - tail])
    return [min(float(low), value), max(float(high), value)]


def as_json(utility: Utility) -> dict[str, Any]:
    """The resolved utility; weights sum to 1."""
    return {
        "weights": dict(utility.weights),
        "expression": utility.expression.text if utility.expression else None,
        "normalisation": utility.normalisation,
        "floors": dict(utility.floors),
        "left_out": list(utility.left_out),
    }


def noise(pairs: Mapping[str, tuple[Floats, Floats]], names: list[str]) -> dict[str, Any]:
    """Noise of a measurement, from two of one mixture on different items: `sqrt(mean(d^2) / 2)` by capability.

    `pairs` holds (M,) scores on search and on select items by mixture.
    """
    differences = np.array([one_M - other_M for one_M, other_M in pairs.values()]).reshape(-1, len(names))
    spread_M = np.sqrt(np.mean(differences**2, axis=0) / 2) if len(pairs) else np.zeros(0)
    return {"points": list(pairs), "sd": {name: float(sd) for name, sd in zip(names, spread_M, strict=False)}}


def _resampled_means(scores: Floats, seed: int, task: str) -> Floats:
    draw = generator(seed, "mixture bootstrap", task)
    batches = [scores[draw.integers(len(scores), size=(BATCH, len(scores)))].mean(axis=1) for _ in _batches()]
    return np.concatenate(batches)


def _batches() -> range:
    return range(0, RESAMPLES, BATCH)
