"""Weights in the coordinates in which a pool's answers are smooth."""

from __future__ import annotations

import json

import numpy as np
from benchmarks.pools import RecordedPool

from aftermix.config import MergeConfig
from aftermix.merging.recipe import MergeRecipe


def divides_by_weights(pool: RecordedPool) -> bool:
    """True where a merge is the same for all weights times one number: the method divides them by their sum."""
    recipe = MergeRecipe.from_config(MergeConfig.model_validate(json.loads(pool.facts["merge"])), for_search=True)
    return recipe.method.divides_by_weights


def shape_weights(pool: RecordedPool, weights_MV: np.ndarray) -> np.ndarray:
    """The weights, or of a method that divides them each vector's share of their sum, without the last one's."""
    if not divides_by_weights(pool):
        return weights_MV.astype(np.float64)
    sums_M1 = weights_MV.sum(axis=1, keepdims=True, dtype=np.float64)
    return (weights_MV / np.where(sums_M1 > 0, sums_M1, 1.0))[:, :-1]


def find_smooth(pool: RecordedPool, weights_MV: np.ndarray) -> np.ndarray:
    """(M,) True for merges that others lie around.

    A method that divides by the weights jumps where one becomes 0: entries that this vector alone keeps are taken whole
    with any other weight. There the base, single vectors and all without one of them stand for themselves.
    """
    return (weights_MV > 0).all(axis=1) | (not divides_by_weights(pool))


def find_recorded(pool: RecordedPool, weights_MV: np.ndarray) -> np.ndarray:
    """(M,) number of the recorded merge that is the same as each, -1 where there is none."""
    known, asked = (shape_weights(pool, np.asarray(each)) for each in (pool.weights_MV, weights_MV))
    none_known, none_asked = (~np.asarray(each).any(axis=1) for each in (pool.weights_MV, weights_MV))
    same = np.isclose(asked[:, None], known[None], atol=1e-6).all(axis=2) & (none_asked[:, None] == none_known)
    return np.where(same.any(axis=1), same.argmax(axis=1), -1)
