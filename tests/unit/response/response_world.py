"""A world of items whose log-likelihoods are nearly parabolas in the weights, as those of merged models are."""

from __future__ import annotations

import numpy as np

from aftermix.response.margins import ChoiceItems
from aftermix.response.measurements import TaskMeasurements
from aftermix.response.surface.coordinates import Floats, MergePoints


class ParabolaWorld:
    """Four-choice items in tasks of their own, over `dimensions` vectors; every vector helps its task and costs others.

    The truth at any point can be asked, so that a test knows what a merge would have scored.
    """

    def __init__(self, *, dimensions: int = 2, tasks: int = 2, items: int = 150, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.tasks = {f"task{number}": self._build_task(dimensions, number, items) for number in range(tasks)}

    def _build_task(self, dimensions: int, number: int, items: int) -> tuple[Floats, ...]:
        requests = 4 * items
        level = self.rng.normal(-20, 1.5, requests)
        line = self.rng.normal(0, 0.6, (dimensions, requests))
        curve = self.rng.normal(0, 0.3, (dimensions, dimensions, requests))
        gold = self.rng.integers(0, 4, items)
        right = np.arange(items) * 4 + gold
        line[number % dimensions, right] += 3.0
        curve[:, :, right] -= 1.5
        return level, line, curve, gold.astype(np.float64)

    def measure(self, weights: Floats) -> dict[str, TaskMeasurements]:
        """All tasks at the merges of `weights` (N, D)."""
        measured = {}
        for name, (level, line, curve, gold) in self.tasks.items():
            bent = np.einsum("nd,ne,der->nr", weights, weights, curve)
            likelihood = (level + weights @ line + bent).astype(np.float32)
            items = len(gold)
            scores = likelihood.reshape(len(weights), items, 4).argmax(axis=2) == gold
            choices = ChoiceItems(np.arange(0, 4 * items + 1, 4), gold.astype(np.int64), np.ones(4 * items))
            shares = np.full(items, 1 / items)
            measured[name] = TaskMeasurements(
                "choice", scores.astype(np.float32), shares, np.arange(items), likelihood, choices
            )
        return measured


def place_merges(weights: Floats) -> MergePoints:
    """Merges of `weights` (N, D) without settings."""
    return MergePoints(weights, np.zeros((len(weights), 0), dtype=np.int64))


def list_design(dimensions: int, count: int, *, seed: int = 1) -> Floats:
    """The base, each vector alone, then random merges in the unit box: (count, dimensions)."""
    rng = np.random.default_rng(seed)
    fixed = np.concatenate([np.zeros((1, dimensions)), np.eye(dimensions)])
    return np.concatenate([fixed, rng.uniform(0, 1, (count - len(fixed), dimensions))])
