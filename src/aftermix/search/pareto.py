"""The trade-off between several objectives: which points no other beats, and which is nearest to having it all."""

from __future__ import annotations

import math
from collections.abc import Sequence

ObjectivePoint = Sequence[float]
"""One value per objective; larger is better."""


def find_front(points: Sequence[ObjectivePoint]) -> list[int]:
    """Indices of the points that no other dominates (at least as good everywhere and better somewhere).

    >>> find_front([(1, 0), (0, 1), (0.4, 0.4), (0.3, 0.4)])
    [0, 1, 2]
    """
    return [index for index, point in enumerate(points) if not any(_dominates(other, point) for other in points)]


def _dominates(one: ObjectivePoint, other: ObjectivePoint) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def measure_spans(points: Sequence[ObjectivePoint]) -> tuple[float, ...]:
    """Width of the range of each objective over `points`."""
    return tuple(max(column) - min(column) for column in zip(*points, strict=True))


def measure_distances_to_ideal(points: Sequence[ObjectivePoint], *, scale: Sequence[float]) -> list[float]:
    """Euclidean distance of each point to the ideal one, which has the best value of every objective.

    Formula: `sqrt(sum_k ((ideal_k - f_k) / scale_k)^2)`; an objective of scale 0 does not count.
    """
    ideal = [max(column) for column in zip(*points, strict=True)]
    return [
        math.hypot(
            *((best - value) / width for best, value, width in zip(ideal, point, scale, strict=True) if width > 0)
        )
        for point in points
    ]
