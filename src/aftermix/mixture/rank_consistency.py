"""Agreement of merged models with trained ones: ranks, and the offset between the two scales.

Each mixture is scored twice on the same items, once merged and once really trained. The rank correlation says whether
merging finds the better mixtures; slope, intercept and mean difference say how far apart the two scales are, which
ranks do not see. Source: MergeMix, sections 4.2 (offset) and 4.3, Table 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, rankdata

from aftermix.errors import MixtureError
from aftermix.mixture.simplex import Floats
from aftermix.seeds import generator

# N mixtures, I items, D draws, M capabilities

DRAWS = 2000
BATCH = 100
"""Draws whose items are held in memory at once."""
CONFIDENCE = 0.95
DECIMALS = 10
"""Scores that differ by rounding alone are one score: ranks must not tell them apart."""
FEWEST = 3
"""Mixtures below which a rank correlation says nothing."""

Items = Mapping[str, ArrayLike]
"""(N, I) scores of each item by task."""
Score = Callable[[Mapping[str, Floats]], Floats]
"""(N,) task means by task to (N,) what is compared: a capability or the utility."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class RankConsistency:
    """Agreement of scores of merged and of trained models over mixtures; None where a side has one value for all."""

    mixtures: int
    spearman: float | None
    interval: Interval | None
    """95% interval of Spearman's correlation."""
    kendall: float | None
    slope: float | None
    """Of the least-squares line `trained = slope * merged + intercept`."""
    intercept: float | None
    offset: float | None
    """Mean of trained minus merged; None, as the line is, where an expression has no value at a mixture."""
    offset_interval: Interval | None
    regret: float | None
    """Best trained score minus the trained score of the mixture that merges rank first."""


def measure_consistency(
    merged: Items, trained: Items, score: Score, *, seed: int = 0, key: str = ""
) -> RankConsistency:
    """Agreement of `score` over mixtures measured twice on the same items.

    `merged` and `trained` hold (N, I) item scores by task, row by row of the same mixtures. The intervals are
    percentile bootstraps (2000 draws, by `seed` and `key`): mixtures are drawn with replacement, and within each task
    items, the same for all mixtures and both sides. Draws of fewer than three different mixtures and those in which a
    side has a single value are left out of the rank's interval, since they have no rank to speak of. Raises
    :class:`MixtureError` for fewer than three mixtures and tables that do not match.
    """
    ours, theirs = _stack_items(merged), _stack_items(trained)
    mixtures = _refuse_unlike(ours, theirs)
    merged_N, trained_N = (
        score({task: table.mean(axis=1) for task, table in side.items()}).round(DECIMALS) for side in (ours, theirs)
    )

    merged_DN, trained_DN, told_D = _resample_scores(ours, theirs, score, mixtures=mixtures, seed=seed, key=key)
    rank = measure_spearman(merged_N, trained_N)
    with np.errstate(invalid="ignore"):  # an expression without a value is minus infinity
        scale = _fit_scale(merged_N, trained_N, (trained_DN - merged_DN).mean(axis=1))

    return RankConsistency(
        mixtures=mixtures,
        spearman=rank,
        interval=None
        if rank is None
        else _widen_interval_of_draws(_correlate_rows(merged_DN[told_D], trained_DN[told_D]), rank),
        kendall=None if rank is None else float(kendalltau(merged_N, trained_N).statistic),
        **scale,
    )


def measure_spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's correlation, ties at their mean rank; None where a side has one value for all.

    >>> measure_spearman([1, 2, 3], [10, 30, 20]), measure_spearman([1, 2, 3], [5, 5, 5])
    (0.5, None)
    """
    correlation = _correlate_rows(np.asarray(first, np.float64)[None], np.asarray(second, np.float64)[None])[0]
    return float(round(correlation, 12)) if np.isfinite(correlation) else None


def _correlate_rows(first_DN: Floats, second_DN: Floats) -> Floats:
    """(D,) correlation of each pair of rows, NaN where a row has one value."""
    ranks = [rankdata(side_DN, axis=1) for side_DN in (first_DN, second_DN)]
    one_DN, other_DN = (side_DN - side_DN.mean(axis=1, keepdims=True) for side_DN in ranks)
    spread_D = np.sqrt((one_DN**2).sum(axis=1) * (other_DN**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((one_DN * other_DN).sum(axis=1) / np.where(spread_D > 0, spread_D, np.nan))


def _resample_scores(
    ours: Mapping[str, Floats], theirs: Mapping[str, Floats], score: Score, *, mixtures: int, seed: int, key: str
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """(D, N) scores of both sides on drawn items, at drawn mixtures; and (D,) whether enough of these differ."""
    means = {
        task: _average_drawn(np.concatenate([ours[task], theirs[task]]), generator(seed, "consistency", key, task))
        for task in ours
    }
    rows_DN = generator(seed, "consistency", key, "mixtures").integers(mixtures, size=(DRAWS, mixtures))
    scored = score({task: found.ravel() for task, found in means.items()}).reshape(DRAWS, 2 * mixtures).round(DECIMALS)
    merged_DN, trained_DN = scored[:, :mixtures], scored[:, mixtures:]
    distinct_D = (np.diff(np.sort(rows_DN, axis=1), axis=1) > 0).sum(axis=1) + 1
    drawn = (np.take_along_axis(side_DN, rows_DN, axis=1) for side_DN in (merged_DN, trained_DN))
    return next(drawn), next(drawn), distinct_D >= FEWEST


def _average_drawn(scores_NI: Floats, draw: np.random.Generator) -> Floats:
    """(D, N) mean over items drawn with replacement, one draw of items for all rows."""
    size = scores_NI.shape[1]
    batches = []
    for _ in range(0, DRAWS, BATCH):
        counts_BI = draw.multinomial(size, np.full(size, 1 / size), size=BATCH)
        batches.append(counts_BI @ scores_NI.T / size)
    return np.concatenate(batches)


def _fit_scale(merged_N: Floats, trained_N: Floats, offset_D: Floats) -> dict[str, Any]:
    """Line, offset and regret; None where scores are not finite, or the line has no slope."""
    if not (np.isfinite(merged_N).all() and np.isfinite(trained_N).all()):
        return dict.fromkeys(("slope", "intercept", "offset", "offset_interval", "regret"))
    centred_N = merged_N - merged_N.mean()
    slope = float(centred_N @ trained_N) / float(centred_N @ centred_N) if np.ptp(merged_N) > 0 else None
    offset = float(np.mean(trained_N - merged_N))
    return {
        "slope": slope,
        "intercept": None if slope is None else float(trained_N.mean() - slope * merged_N.mean()),
        "offset": offset,
        "offset_interval": _widen_interval_of_draws(offset_D, offset),
        "regret": float(trained_N.max() - trained_N[int(merged_N.argmax())]),
    }


def _widen_interval_of_draws(drawn_D: Floats, value: float) -> Interval:
    """The middle 95% of the finite draws, widened where `value` lies outside."""
    finite_D = drawn_D[np.isfinite(drawn_D)]
    if not len(finite_D):
        return value, value
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(finite_D, [tail, 1 - tail])
    return min(float(low), value), max(float(high), value)


def _stack_items(items: Items) -> dict[str, Floats]:
    return {task: np.asarray(scores, dtype=np.float64) for task, scores in items.items()}


def _refuse_unlike(ours: Mapping[str, Floats], theirs: Mapping[str, Floats]) -> int:
    """The number of mixtures of tables that match."""
    shapes = [{task: table.shape for task, table in side.items()} for side in (ours, theirs)]
    if shapes[0] != shapes[1] or any(len(shape) != 2 for shape in shapes[0].values()) or not shapes[0]:
        found = f"expected the same tasks, mixtures and items on both sides, found {shapes[0]} and {shapes[1]}"
        raise MixtureError("consistency", found, "Measure merged and trained models on one split.")
    sizes = {shape[0] for shape in shapes[0].values()}
    if len(sizes) > 1 or min(sizes) < FEWEST:
        found = f"expected at least {FEWEST} mixtures in every task, found {', '.join(map(str, sorted(sizes)))}"
        raise MixtureError("consistency", found, "Train more mixtures.")
    return int(sizes.pop())


def spread_out(weights_NK: Floats, *, first: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """Rows of `weights_NK` in an order whose beginnings lie far apart: `first`, then one by one the farthest.

    The distance of two mixtures is their total variation; the next row is the one whose nearest chosen one is farthest
    away, ties in a seeded order. A larger `count` begins with the rows of a smaller one. Raises :class:`MixtureError`
    when there are fewer than `count`.
    """
    if not 0 < count <= len(weights_NK):
        found = f"expected from 1 to {len(weights_NK)} mixtures, found {count}"
        raise MixtureError("verify", found, "Ask for as many as there are measured points.")
    chosen = list(dict.fromkeys(first))[:count]
    order_N = generator(seed, "verified mixtures").permutation(len(weights_NK))
    while len(chosen) < count:
        apart_N = np.full(len(weights_NK), np.inf)
        for row in chosen:
            apart_N = np.minimum(apart_N, np.abs(weights_NK - weights_NK[row]).sum(axis=1) / 2)
        # Rounded, so that equal distances are equal on every machine.
        apart_N = np.where(np.isin(np.arange(len(apart_N)), chosen), -1.0, apart_N.round(9))
        chosen.append(int(max(order_N, key=lambda row: apart_N[row])))
    return chosen
