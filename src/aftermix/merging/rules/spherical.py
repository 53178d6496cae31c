"""Means of models along the sphere: SLERP between two, the Karcher mean of any number.

Both act on one tensor of each model, flattened, as a vector with a direction and a length. Both are sums of the models
with coefficients that follow from their inner products, so nothing but the Gram matrix has to be known beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from aftermix.merging.rules.surveys import Combiner, Matrix, combine_by_coefficients, compute_norms_and_cosines

PARALLEL = 0.9995
"""Cosine beyond which (either sign) SLERP is linear interpolation, as the field's tools have it."""
CANCELLED = 1e-6
"""Sum of weights below which :func:`nuslerp` goes half the way."""
COLLINEAR = 1e-16
"""Squared sine up to which two directions are one line for :func:`nuslerp`."""
UNDIRECTED = 1e-30
"""Of the longest: what is shorter counts as zero, since no float32 coefficient could make it as long as the mean."""


def slerp(inner: Matrix, weights: Sequence[float]) -> Combiner:
    """Spherical linear interpolation between two models.

    Formula: with `t = w_2 / (w_1 + w_2)` and the angle `theta` between `x_1` and `x_2`,
    `(sin((1 - t) theta) x_1 + sin(t theta) x_2) / sin(theta)` (Shoemake, 1985). Where they are nearly parallel or
    antipodal (`|cos theta| > 0.9995`), or one of them is zero and has no direction, `(1 - t) x_1 + t x_2`. `inner` is
    the Gram matrix of the models in use: one of them alone is itself. The caller makes sure that the weights do not
    sum to zero; outside [0, 1], t extrapolates along the circle.
    """
    if len(weights) == 1:
        return combine_by_coefficients([1.0])
    share = weights[1] / (weights[0] + weights[1])

    norms, cosines = compute_norms_and_cosines(inner)
    cosine = float(cosines[0, 1])
    if abs(cosine) > PARALLEL or not norms.all():
        return combine_by_coefficients([1.0 - share, share])

    angle = math.acos(cosine)
    return combine_by_coefficients(
        [math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)]
    )


def nuslerp(inner: Matrix, weights: Sequence[float]) -> Combiner:
    """Spherical linear interpolation of models or vectors, on the sphere however near they are.

    Formula for two: that of :func:`slerp`, with the weighted mean only where `1 - cos^2 theta <= 1e-16`. One that is
    zero stands at a right angle to the other. Source: mergekit's `nuslerp` of flattened tensors, which takes two.
    Departure: of more, each is joined to the result of those before it in order of name, at its share of the weights so
    far (1/2 where they cancel).
    """
    coefficients, total = np.zeros(len(weights)), 0.0
    for place, weight in enumerate(weights):
        total += weight
        share = 1.0 if place == 0 else weight / total if abs(total) >= CANCELLED else 0.5
        kept, added = _turn_towards(inner, coefficients, place, share)
        coefficients *= kept
        coefficients[place] = added
    return combine_by_coefficients([float(coefficient) for coefficient in coefficients])


def _turn_towards(inner: Matrix, coefficients: Matrix, place: int, share: float) -> tuple[float, float]:
    """Factors of the sum with `coefficients` and of the model at `place`, between which a point is taken at `share`."""
    if not coefficients.any():
        return 0.0, share
    length = math.sqrt(max(float(coefficients @ inner @ coefficients), 0.0)) * math.sqrt(float(inner[place, place]))
    cosine = min(max(float(inner[place] @ coefficients) / length, -1.0), 1.0) if length else 0.0
    if 1 - cosine**2 <= COLLINEAR:
        return 1.0 - share, share
    angle = math.acos(cosine)
    return math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)


def karcher(
    inner: Matrix,
    weights: Sequence[float],
    *,
    max_iterations: Annotated[int, Field(ge=1)] = 10,
    tolerance: Annotated[float, Field(gt=0)] = 1e-5,
) -> Combiner:
    """The Riemannian (Karcher) mean of the models' directions, with the weighted mean of their norms as its length.

    Formula: with `a_i = w_i / sum w` and unit vectors `u_i`, the point m of the sphere where `sum_i a_i log_m(u_i)`
    is zero, found by `m <- exp_m(sum_i a_i log_m(u_i))` from the normalised mean until that step is shorter than
    `tolerance` (radians) or after `max_iterations`. The result is `sum_i a_i |x_i| m`. Source: Karcher (1977). A model
    whose tensor is zero (to 1e-30 of the longest) has no direction and counts for the length alone; one opposite to m
    has no logarithm and is passed over. Where the directions cancel out, the search begins at the first of them. All in
    coefficients of the models, float64. The caller makes sure that the weights do not sum to zero.
    """
    if len(weights) == 1:
        return combine_by_coefficients([1.0])
    shares = np.array(weights) / sum(weights)
    norms, cosines = compute_norms_and_cosines(inner)
    directed = norms > norms.max() * UNDIRECTED
    if not directed.any():
        return combine_by_coefficients([0.0] * len(weights))

    mean = _find_mean_direction(cosines, np.where(directed, shares, 0.0), max_iterations, tolerance)
    units = np.divide(mean, norms, out=np.zeros_like(mean), where=directed)
    return combine_by_coefficients([float(c) for c in units * (shares @ norms)])


def _find_mean_direction(cosines: Matrix, shares: Matrix, max_iterations: int, tolerance: float) -> Matrix:
    """Coefficients of the unit vectors in their Karcher mean; `shares` are 0 for what has no direction."""

    def measure_length(coefficients: Matrix) -> float:
        return math.sqrt(max(float(coefficients @ cosines @ coefficients), 0.0))

    # Directions that cancel out have no mean to begin at; the first of them is as good as any.
    total = float(shares.sum())
    shares = shares / total if total else shares
    first = np.zeros_like(shares)
    first[np.flatnonzero(np.diagonal(cosines))[0]] = 1.0
    mean = shares / measure_length(shares) if measure_length(shares) >= tolerance else first

    for _ in range(max_iterations):
        towards = np.clip(cosines @ mean, -1.0, 1.0)
        angles = np.arccos(towards)
        used = (angles >= tolerance) & (angles <= math.pi - tolerance)
        pulls = np.where(used, shares * angles / np.where(used, np.sin(angles), 1.0), 0.0)

        # What is left of the pull in the tangent plane, and the point that far along the sphere.
        step = pulls - float(pulls @ towards) * mean
        distance = measure_length(step)
        if distance < tolerance:
            break
        mean = math.cos(distance) * mean + math.sin(distance) / distance * step
        mean = mean / measure_length(mean)
    return mean
