"""Merges that a strategy may propose: points scattered over the whole space, and points near the good ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats.qmc import Sobol

from aftermix.runs.trials import Point, Setting, Settings
from aftermix.search.space import ChoiceSet, SearchSpace
from aftermix.seeds import generator

SCATTERED, NEAR = 1024, 128
"""Candidates over the whole space, and around each good merge."""
NEAR_SPREAD = 0.08
"""Standard deviation around a good merge, over the width of a range."""


def list_candidates(space: SearchSpace, good: Sequence[Point], *, seed: int, number: int) -> list[Point]:
    """Candidates of batch `number`: scattered ones, then those near the `good` merges."""
    points = scatter_points(space, SCATTERED, seed=seed, key=f"batch {number}")
    for place, centre in enumerate(good):
        points += _scatter_near(space, centre, seed=seed, key=f"batch {number}, place {place}")
    return points


def scatter_points(space: SearchSpace, count: int, *, seed: int, key: str) -> list[Point]:
    """`count` points of a scrambled Sobol sequence over the space (Owen, 1998)."""
    dimensions = len(space.searched_weights) + len(space.settings)
    if not dimensions:
        return [Point({name: low for name, (low, _) in space.bounds.items()})]
    power = max(0, int(np.ceil(np.log2(max(count, 1)))))
    unit = Sobol(dimensions, scramble=True, rng=generator(seed, "candidates", key)).random_base2(power)
    return [place_in_space(space, row) for row in unit[:count].tolist()]


def place_in_space(space: SearchSpace, unit: Sequence[float]) -> Point:
    """The point of the space at coordinates in [0, 1]: those of the searched weights first, then of the settings."""
    weights = {name: low for name, (low, _) in space.bounds.items()}
    for name, share in zip(space.searched_weights, unit, strict=False):
        low, high = space.bounds[name]
        weights[name] = low + share * (high - low)

    settings: Settings = {}
    for (name, kind), share in zip(space.settings.items(), unit[len(space.searched_weights) :], strict=True):
        if isinstance(kind, ChoiceSet):
            settings[name] = kind.values[min(int(share * len(kind.values)), len(kind.values) - 1)]
        else:
            settings[name] = kind.nearest(kind.low + share * (kind.high - kind.low))
    return Point(weights, space.scale_shares(settings))


def _scatter_near(space: SearchSpace, centre: Point, *, seed: int, key: str) -> list[Point]:
    """`NEAR` points about `centre` within the ranges; choices stay as they are there."""
    rng = generator(seed, "candidates", key)
    points = []
    for _ in range(NEAR):
        weights = dict(centre.weights)
        for name in space.searched_weights:
            low, high = space.bounds[name]
            weights[name] += NEAR_SPREAD * (high - low) * float(rng.standard_normal())

        settings: dict[str, Setting] = dict(centre.settings)
        for name, kind in space.settings.items():
            value = settings[name]
            if not isinstance(kind, ChoiceSet) and isinstance(value, int | float):
                moved = value + NEAR_SPREAD * (kind.high - kind.low) * float(rng.standard_normal())
                settings[name] = kind.nearest(moved)

        points.append(Point(space.clip_weights(weights), space.scale_shares(settings)))
    return points
