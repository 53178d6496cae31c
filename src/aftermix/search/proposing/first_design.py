"""The first merges of a search by response: what spans the space, what practice holds for good, and what lies between.

Base and single vectors fix level, line and curvature of each direction; they may lie outside the ranges, where they are
observed and never chosen. Priors and scattered points stand where good merges are.
"""

from __future__ import annotations

from collections.abc import Iterator

from aftermix.runs.trials import Point, Suggestion
from aftermix.search.priors import list_first_points
from aftermix.search.proposing.candidates import scatter_points
from aftermix.search.space import SearchSpace

PRIORS = 4
"""Priors that stand before the single vectors: a short design begins with them."""


def count_first_design(space: SearchSpace) -> int:
    """Merges of a first design unless the file says otherwise: `max(2 d + 2, 8)` in `d` dimensions."""
    return max(2 * space.dimensions + 2, 8)


def list_first_design(space: SearchSpace, count: int, *, seed: int, with_axes: bool = True) -> list[Suggestion]:
    """The first `count` points, all different, with what each is: `base`, `prior`, `single` or `startup`.

    A method that divides by the sum of the weights has no merge at the base, and jumps where a weight becomes 0: it is
    searched without base and single vectors (`with_axes` False).
    """
    listed: list[Suggestion] = []
    for suggestion in _walk_design(space, count, seed, with_axes):
        if len(listed) == count:
            break
        if suggestion.point not in [other.point for other in listed]:
            listed.append(suggestion)
    return listed


def _walk_design(space: SearchSpace, count: int, seed: int, with_axes: bool) -> Iterator[Suggestion]:
    start = space.choose_start()
    nothing = {name: (low if low == high else 0.0) for name, (low, high) in space.bounds.items()}
    priors = list_first_points(space)

    if with_axes:
        yield Suggestion(nothing, "base", start)
    yield from (_name_point(point, "prior") for point in priors[:PRIORS])
    for name in space.searched_weights if with_axes else ():
        low, high = space.bounds[name]
        alone = min(1.0, high) if high > 0 else low
        yield Suggestion(nothing | {name: alone}, "single", start)

    # Every choice of every setting is seen once; then the space is filled, of which a tenth may meet what is there.
    yield from (_name_point(point, "prior") for point in priors[PRIORS:] if point.settings != start)
    yield from (_name_point(point, "startup") for point in scatter_points(space, 2 * count, seed=seed, key="design"))


def _name_point(point: Point, origin: str) -> Suggestion:
    return Suggestion(point.weights, origin, point.settings)
