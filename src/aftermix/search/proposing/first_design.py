"""The first merges of a search by response: what spans the space, what practice holds for good, and what lies between.

A search of many trials begins with a full design: base and single vectors fix level, line and curvature of each
direction; they may lie outside the ranges, where they are observed and never chosen. Priors and scattered points stand
where good merges are. A search of few trials would be over before it proposed anything: its design is the short one, of
the base, two priors that are unlike each other, and scattered points, and leaves the better part to the response.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from aftermix.response.response_model import LEAST_MERGES
from aftermix.runs.trials import Point, Suggestion
from aftermix.search.priors import list_first_points, list_unlike_points
from aftermix.search.proposing.candidates import scatter_points
from aftermix.search.space import SearchSpace

PRIORS = 4
"""Priors that stand before the single vectors of a full design."""
SHORT_SHARE = 0.4
"""Share of the trials that a first design takes at the most, but for the merges that a plane needs."""


def count_full_design(space: SearchSpace) -> int:
    """Merges of a full design: `max(2 d + 2, 8)` in `d` dimensions."""
    return max(2 * space.dimensions + 2, 8)


def count_first_design(space: SearchSpace, trials: int) -> int:
    """Merges of the first design of so many trials unless the file says otherwise.

    The full design, or two fifths of the trials where these are fewer; at least the `d + 1` that a plane through the
    merges needs, and as many as are fitted at all.
    """
    share = max(math.ceil(SHORT_SHARE * trials), space.dimensions + 1, LEAST_MERGES)
    return min(count_full_design(space), share)


def list_first_design(
    space: SearchSpace, count: int, *, seed: int, with_axes: bool = True, is_short: bool = False
) -> list[Suggestion]:
    """The first `count` points, all different, with what each is: `base`, `prior`, `single` or `startup`.

    A method that divides by the sum of the weights has no merge at the base, and jumps where a weight becomes 0: it is
    searched without base and single vectors (`with_axes` False). A design that `is_short` has no single vectors either.
    """
    walk = _walk_short(space, count, seed, with_axes) if is_short else _walk_full(space, count, seed, with_axes)
    listed: list[Suggestion] = []
    for suggestion in walk:
        if len(listed) == count:
            break
        if suggestion.point not in [other.point for other in listed]:
            listed.append(suggestion)
    return listed


def _walk_short(space: SearchSpace, count: int, seed: int, with_base: bool) -> Iterator[Suggestion]:
    if with_base:
        yield _place_base(space)
    yield from _name_points(list_unlike_points(space), "prior")
    yield from _scatter(space, count, seed)


def _walk_full(space: SearchSpace, count: int, seed: int, with_axes: bool) -> Iterator[Suggestion]:
    base, priors = _place_base(space), list_first_points(space)
    if with_axes:
        yield base
    yield from _name_points(priors[:PRIORS], "prior")
    for name in space.searched_weights if with_axes else ():
        low, high = space.bounds[name]
        alone = min(1.0, high) if high > 0 else low
        yield Suggestion(base.weights | {name: alone}, "single", base.settings)

    # Every choice of every setting is seen once.
    yield from _name_points([point for point in priors[PRIORS:] if point.settings != base.settings], "prior")
    yield from _scatter(space, count, seed)


def _place_base(space: SearchSpace) -> Suggestion:
    nothing = dict.fromkeys(space.names, 0.0) | space.held_weights
    return Suggestion(nothing, "base", space.choose_start())


def _scatter(space: SearchSpace, count: int, seed: int) -> Iterator[Suggestion]:
    """Points that fill the space, of which a tenth may meet what is there."""
    yield from _name_points(scatter_points(space, 2 * count, seed=seed, key="design"), "startup")


def _name_points(points: Sequence[Point], origin: str) -> Iterator[Suggestion]:
    yield from (Suggestion(point.weights, origin, point.settings) for point in points)
