"""Some of the items of a split: their requests, and their scores in a list of all items of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from aftermix.evaluation.requests import LeafRequests
from aftermix.evaluation.scoring.metrics import TaskMetric
from aftermix.runs.item_scores import GroupScores, LeafShare, OptionalScores, WeightedScores

ItemPlaces = Mapping[str, Sequence[int]]
"""Task -> places of items in the order of the split, ascending."""


def take_places(parts: Sequence[LeafRequests], places: Sequence[int]) -> list[LeafRequests]:
    """The requests of the items at `places`; leaves without one are left out."""
    taken = []
    for part, inside in zip(parts, _split_places(parts, places), strict=True):
        if inside:
            items = tuple(part.items[place] for place in inside)
            taken.append(LeafRequests(part.leaf, items, tuple(part.instances[place] for place in inside)))
    return taken


def spread_scores(
    scores: OptionalScores, parts: Sequence[LeafRequests], places: Sequence[int], metric: TaskMetric
) -> list[float | None]:
    """`scores` of the items at `places` as a list of all items of the task, None for the others.

    Leaves that count by weights have them over all items; one without an item at `places` weighs as nothing was seen of
    it, unless leaves count alike.
    """
    spread: list[float | None] = [None] * sum(len(part.items) for part in parts)
    for place, score in zip(places, scores, strict=True):
        spread[place] = score
    if isinstance(scores, WeightedScores):
        weights_of = dict(zip(places, scores.weights, strict=True))
        return WeightedScores(spread, [weights_of.get(place, 0.0) for place in range(len(spread))])
    if not isinstance(scores, GroupScores) or len(parts) == 1:
        return spread

    absent = 1.0 if metric.weighting == "equal" else 0.0
    weights = iter(scores.leaves)
    leaves = [
        LeafShare(len(part.items), next(weights).weight if inside else absent)
        for part, inside in zip(parts, _split_places(parts, places), strict=True)
    ]
    return GroupScores(spread, leaves)


def _split_places(parts: Sequence[LeafRequests], places: Sequence[int]) -> list[list[int]]:
    """For each leaf the places within it."""
    ends = list(accumulate((len(part.items) for part in parts), initial=0))
    return [[place - start for place in places if start <= place < end] for start, end in pairwise(ends)]
