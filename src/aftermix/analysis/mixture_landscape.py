"""Promises of surrogates over the simplex: a surface for three or four domains, and a slice along each domain.

Nothing here knows a surrogate: `expected` and `banded` are handed in. The first quantity is the utility, the others
are the capabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from aftermix.analysis.geometry import Floats

# N measured points, C candidates, K domains, Q quantities

Flags = NDArray[np.bool_]
Expected = Callable[[Floats], Floats]
"""(C, K) mixtures to (C, Q) values."""
Banded = Callable[[Floats], tuple[Floats, Floats, Floats]]
"""(C, K) mixtures to (C, Q) values, and the low and the high end of what a measurement there will give."""

SURFACE_STEPS = {3: 48, 4: 18}
"""Parts that a share is divided into, by number of domains: about 1,200 mixtures each."""
SLICE_POINTS = 33
LEAST_ROOM = 1e-6
"""Between the limits of a share; one with less is fixed."""
NEAR = 0.1
"""Total variation distance within which a measured point is near a slice."""


def list_simplex_lattice(domains: int, steps: int) -> Floats:
    """Every mixture of `domains` whose shares are multiples of 1 / `steps`, in lexicographic order.

    >>> list_simplex_lattice(2, 2).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    # Bars between stars: the gaps between `domains - 1` bars among `steps` stars are the shares.
    bars = np.array(list(combinations(range(steps + domains - 1), domains - 1))).reshape(-1, domains - 1)
    ends = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, steps + domains - 1)))
    shares = (np.diff(ends, axis=1) - 1) / steps
    assert len(shares) == comb(steps + domains - 1, domains - 1)  # noqa: S101 - the count of such mixtures
    return np.asarray(shares)


def mix_along(center_K: Floats, domain: int, shares_C: Floats, fixed_K: Flags | None = None) -> Floats:
    """(C, K) mixtures with `shares_C` of one domain, the others in proportion to `center_K` (even where it has none).

    Domains of `fixed_K` keep their share of `center_K`.

    >>> mix_along(np.array([0.5, 0.3, 0.2]), 0, np.array([0.0, 0.5, 1.0])).round(2).tolist()
    [[0.0, 0.6, 0.4], [0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]
    >>> mix_along(np.array([0.5, 0.3, 0.2]), 0, np.array([0.0]), np.array([False, False, True])).round(2).tolist()
    [[0.0, 0.8, 0.2]]
    """
    moving_K, parts_K, room = _split_others(center_K, domain, fixed_K)
    mixtures_CK = np.where(moving_K, (room - shares_C)[:, None] * parts_K, center_K)
    mixtures_CK[:, domain] = shares_C
    return mixtures_CK


def _split_others(center_K: Floats, domain: int, fixed_K: Flags | None) -> tuple[Flags, Floats, float]:
    """Split into the others that give way to `domain`, their parts, and what is left for it and them."""
    moving_K = np.ones(len(center_K), dtype=np.bool_) if fixed_K is None else ~fixed_K
    moving_K[domain] = False
    held_K = ~moving_K
    held_K[domain] = False
    others_K = np.where(moving_K, center_K, 0.0)
    parts_K = others_K / others_K.sum() if others_K.sum() > 0 else moving_K / max(1, int(moving_K.sum()))
    return moving_K, parts_K, 1 - float(center_K[held_K].sum())


def find_fixed_shares(low_K: Floats, high_K: Floats) -> Flags:
    """(K,) domains whose limits leave one share."""
    return np.asarray(high_K - low_K <= LEAST_ROOM)


def limit_slice(center_K: Floats, domain: int, low_K: Floats, high_K: Floats) -> tuple[float, float]:
    """Lowest and highest share of `domain` at which :func:`mix_along`, with :func:`find_fixed_shares`, is allowed.

    The allowed mixtures are convex and `center_K` is one of them, so all shares between are allowed too.
    """
    moving_K, parts_K, room = _split_others(center_K, domain, find_fixed_shares(low_K, high_K))
    low, high, center = float(low_K[domain]), float(high_K[domain]), float(center_K[domain])
    if not moving_K.any():
        return center, center
    for place in np.flatnonzero(parts_K > 0):
        high = min(high, room - float(low_K[place]) / float(parts_K[place]))
        low = max(low, room - float(high_K[place]) / float(parts_K[place]))
    return min(max(low, 0.0), center), max(min(high, room), center)


def find_near_slice(points_NK: Floats, center_K: Floats, domain: int, fixed_K: Flags | None = None) -> list[int]:
    """Rows of `points_NK` within `NEAR` of the slice along `domain`."""
    apart_N = np.abs(points_NK - mix_along(center_K, domain, points_NK[:, domain], fixed_K)).sum(axis=1) / 2
    return [int(row) for row in np.flatnonzero(apart_N <= NEAR + 1e-9)]


def build_surface(expected: Expected, *, domains: int) -> dict[str, object] | None:
    """Mixtures that cover the simplex, and what is expected of them; None unless there are three domains or four."""
    if domains not in SURFACE_STEPS:
        return None
    shares_CK = list_simplex_lattice(domains, SURFACE_STEPS[domains])
    return {"shares": round_values(shares_CK), "values": round_values(expected(shares_CK))}


def build_slices(
    banded: Banded, *, center_K: Floats, low_K: Floats, high_K: Floats, points_NK: Floats
) -> list[dict[str, object]]:
    """For each domain whose share is free, the line through `center_K`: shares, values with their band, near points."""
    slices: list[dict[str, object]] = []
    fixed_K = find_fixed_shares(low_K, high_K)
    for domain in range(len(center_K)):
        low, high = limit_slice(center_K, domain, low_K, high_K)
        if high - low <= LEAST_ROOM:
            continue
        # The optimum itself is one of the points, so that the line passes through its value.
        shares_C = np.unique(np.append(np.linspace(low, high, SLICE_POINTS), center_K[domain]))
        mean_CQ, low_CQ, high_CQ = banded(mix_along(center_K, domain, shares_C, fixed_K))
        slices.append(
            {
                "domain": domain,
                "shares": round_values(shares_C),
                "values": round_values(mean_CQ),
                "low": round_values(low_CQ),
                "high": round_values(high_CQ),
                "near": find_near_slice(points_NK, center_K, domain, fixed_K),
            }
        )
    return slices


def round_values(values: Floats) -> list[object]:
    """Values with six digits, as lists; what is not finite is null.

    >>> round_values(np.array([1 / 3, -np.inf]))
    [0.333333, None]
    """
    if values.ndim > 1:
        return [round_values(row) for row in values]
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]
