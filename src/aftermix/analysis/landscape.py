"""What surrogates promise over the simplex: a surface for three or four domains, and a slice along each domain.

Nothing here knows a surrogate: `expected` and `banded` are handed in. The first quantity is the utility, the others
are the capabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb

import numpy as np

from aftermix.analysis.geometry import Floats

# N measured points, C candidates, K domains, Q quantities

Expected = Callable[[Floats], Floats]
"""(C, K) mixtures to (C, Q) values."""
Banded = Callable[[Floats], tuple[Floats, Floats, Floats]]
"""(C, K) mixtures to (C, Q) values, and the low and the high end of what a measurement there will give."""

SURFACE_STEPS = {3: 48, 4: 18}
"""Parts that a share is divided into, by number of domains: about 1,200 mixtures each."""
SLICE_POINTS = 33
NEAR = 0.1
"""Total variation distance within which a measured point is near a slice."""


def simplex_lattice(domains: int, steps: int) -> Floats:
    """Every mixture of `domains` whose shares are multiples of 1 / `steps`, in lexicographic order.

    >>> simplex_lattice(2, 2).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    """
    # Bars between stars: the gaps between `domains - 1` bars among `steps` stars are the shares.
    bars = np.array(list(combinations(range(steps + domains - 1), domains - 1))).reshape(-1, domains - 1)
    ends = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, steps + domains - 1)))
    found = (np.diff(ends, axis=1) - 1) / steps
    assert len(found) == comb(steps + domains - 1, domains - 1)  # noqa: S101 - the count of such mixtures
    return np.asarray(found)


def along(center_K: Floats, domain: int, shares_C: Floats) -> Floats:
    """(C, K) mixtures with `shares_C` of one domain, the others in proportion to `center_K` (even where it has none).

    >>> along(np.array([0.5, 0.3, 0.2]), 0, np.array([0.0, 0.5, 1.0])).round(2).tolist()
    [[0.0, 0.6, 0.4], [0.5, 0.3, 0.2], [1.0, 0.0, 0.0]]
    """
    others_K = np.delete(center_K, domain)
    parts_K = others_K / others_K.sum() if others_K.sum() > 0 else np.full(len(others_K), 1 / len(others_K))
    return np.insert((1 - shares_C)[:, None] * parts_K, domain, shares_C, axis=1)


def reach(center_K: Floats, domain: int, low_K: Floats, high_K: Floats) -> tuple[float, float]:
    """Lowest and highest share of `domain` at which :func:`along` stays between `low_K` and `high_K`.

    The allowed mixtures are convex and `center_K` is one of them, so all shares between are allowed too.
    """
    parts_K = along(center_K, domain, np.zeros(1))[0]
    low, high = float(low_K[domain]), float(high_K[domain])
    for place, part in enumerate(parts_K):
        if place != domain and part > 0:
            high = min(high, 1 - float(low_K[place]) / float(part))
            low = max(low, 1 - float(high_K[place]) / float(part))
    center = float(center_K[domain])
    return min(max(low, 0.0), center), max(min(high, 1.0), center)


def near_slice(points_NK: Floats, center_K: Floats, domain: int) -> list[int]:
    """Rows of `points_NK` within `NEAR` of the slice along `domain`."""
    apart_N = np.abs(points_NK - along(center_K, domain, points_NK[:, domain])).sum(axis=1) / 2
    return [int(row) for row in np.flatnonzero(apart_N <= NEAR + 1e-9)]


def surface_record(expected: Expected, *, domains: int) -> dict[str, object] | None:
    """Mixtures that cover the simplex, and what is expected of them; None unless there are three domains or four."""
    if domains not in SURFACE_STEPS:
        return None
    shares_CK = simplex_lattice(domains, SURFACE_STEPS[domains])
    return {"shares": rounded(shares_CK), "values": rounded(expected(shares_CK))}


def slice_records(
    banded: Banded, *, center_K: Floats, low_K: Floats, high_K: Floats, points_NK: Floats
) -> list[dict[str, object]]:
    """For each domain whose share is free, the line through `center_K`: shares, values with their band, near points."""
    found: list[dict[str, object]] = []
    for domain in range(len(center_K)):
        low, high = reach(center_K, domain, low_K, high_K)
        if high - low < 1e-6:
            continue
        # The optimum itself is one of the points, so that the line passes through its value.
        shares_C = np.unique(np.append(np.linspace(low, high, SLICE_POINTS), center_K[domain]))
        mean_CQ, low_CQ, high_CQ = banded(along(center_K, domain, shares_C))
        found.append(
            {
                "domain": domain,
                "shares": rounded(shares_C),
                "values": rounded(mean_CQ),
                "low": rounded(low_CQ),
                "high": rounded(high_CQ),
                "near": near_slice(points_NK, center_K, domain),
            }
        )
    return found


def rounded(values: Floats) -> list[object]:
    """Values with six digits, as lists; what is not finite is null.

    >>> rounded(np.array([1 / 3, -np.inf]))
    [0.333333, None]
    """
    if values.ndim > 1:
        return [rounded(row) for row in values]
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]
