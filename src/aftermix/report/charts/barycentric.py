"""Mixtures as points of a triangle or a tetrahedron: each corner is one domain alone."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

# C mixtures, K domains, D = K - 1 dimensions

Floats = NDArray[np.float64]
TOLERANCE = 1e-12
"""Limits that leave one mixture alone are met by it whatever the rounding."""

TRIANGLE: Floats = np.array([[0, 0], [1, 0], [0.5, sqrt(3) / 2]])
TETRAHEDRON: Floats = np.array([[0, 0, 0], [1, 0, 0], [0.5, sqrt(3) / 2, 0], [0.5, sqrt(3) / 6, sqrt(2 / 3)]])


def project_shares(shares_CK: Floats, corners_KD: Floats) -> Floats:
    """(C, D) the mean of the corners, weighted by the shares.

    >>> project_shares(np.eye(3), TRIANGLE)[1].tolist()
    [1.0, 0.0]
    """
    return np.asarray(shares_CK @ corners_KD)


def invert_projection(points_CD: Floats, corners_KD: Floats) -> Floats:
    """(C, K) the shares whose projection each point is; the inverse of :func:`project_shares`.

    >>> invert_projection(TRIANGLE.mean(axis=0)[None], TRIANGLE).round(3).tolist()
    [[0.333, 0.333, 0.333]]
    """
    square_KK = np.vstack([corners_KD.T, np.ones(len(corners_KD))])
    return np.linalg.solve(square_KK, np.vstack([points_CD.T, np.ones(len(points_CD))])).T


def find_allowed_corners(low_3: Floats, high_3: Floats) -> Floats:
    """(V, 3) the corners, in order, of the mixtures of three domains between the limits; V is 0 where there is none.

    The triangle is cut by one limit after the other (Sutherland and Hodgman, 1974).
    """
    polygon_V3 = np.eye(3)
    for domain in range(3):
        for sign, limit in ((1.0, low_3[domain]), (-1.0, high_3[domain])):
            polygon_V3 = _cut_polygon(polygon_V3, sign * (polygon_V3[:, domain] - limit) + TOLERANCE)
    return polygon_V3


def _cut_polygon(polygon_V3: Floats, inside_V: Floats) -> Floats:
    """The part of a convex polygon where `inside_V`, linear along its edges, is at least 0."""
    corners: list[Floats] = []
    for place in range(len(polygon_V3)):
        here_3, there_3 = polygon_V3[place - 1], polygon_V3[place]
        here, there = inside_V[place - 1], inside_V[place]

        # An edge that crosses the limit is cut there; its far end is kept where it lies inside.
        if (here < 0) != (there < 0):
            corners.append(here_3 + (there_3 - here_3) * here / (here - there))
        if there >= 0:
            corners.append(there_3)
    return np.array(corners).reshape(-1, 3)
