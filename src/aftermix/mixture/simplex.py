"""Mixtures as points of a simplex: shares of all domains, none below 0, together 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aftermix.errors import MixtureError, ask_meant

# N points, K domains

Floats = NDArray[np.float64]

SUM_TOLERANCE = 0.01
"""Distance that the shares of a point may have from 1 together: published tables round each share to three decimals."""
NEGATIVE_TOLERANCE = 1e-9


def check_simplex(weights: ArrayLike, *, where: str = "weights") -> Floats:
    """`weights` as (N, K) float64 whose rows sum to 1: rows within `SUM_TOLERANCE` of it are divided by their sum.

    Raises :class:`MixtureError` for anything but a table of numbers with two columns or more, and names the first row
    that is off the simplex.

    >>> check_simplex([[0.5, 0.499], [1, 0]]).round(3).tolist()
    [[0.501, 0.499], [1.0, 0.0]]
    """
    weights_NK = check_table(weights, where=where)
    if weights_NK.shape[1] < 2:
        raise MixtureError(where, f"expected two domains or more, found {weights_NK.shape[1]}", "Give one column each.")

    sums_N = weights_NK.sum(axis=1)
    lowest_N = weights_NK.min(axis=1)
    off_N = (np.abs(sums_N - 1) > SUM_TOLERANCE) | (lowest_N < -NEGATIVE_TOLERANCE)
    if off_N.any():
        row = int(off_N.argmax())
        found = f"expected shares of at least 0 that sum to 1, found a sum of {sums_N[row]:.4g}"
        found += f" and a lowest share of {lowest_N[row]:.4g}" if lowest_N[row] < 0 else ""
        raise MixtureError(f"{where}, row {row}", found, "Divide the shares by their sum.")

    clipped_NK = np.maximum(weights_NK, 0.0)
    normalised_NK: Floats = clipped_NK / clipped_NK.sum(axis=1, keepdims=True)
    return normalised_NK


def check_table(values: ArrayLike, *, where: str) -> Floats:
    """`values` as a two-dimensional float64 array without NaN and Inf, at least one row and column."""
    try:
        table = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MixtureError(where, f"expected a table of numbers ({error})", "Give one row for each point.") from error
    if table.ndim != 2 or 0 in table.shape:
        found = f"expected a table (points, columns), found the shape {table.shape}"
        raise MixtureError(where, found, "Give one row for each point.")
    if not np.isfinite(table).all():
        row, column = (int(place[0]) for place in np.nonzero(~np.isfinite(table)))
        found = f"expected finite numbers, found {table[row, column]}"
        raise MixtureError(f"{where}, row {row}, column {column}", found, "Leave points that failed out.")
    return table


def check_distinct(names: Sequence[str], *, where: str) -> tuple[str, ...]:
    """`names` as a tuple; raises :class:`MixtureError` when one stands in it twice."""
    doubled = sorted({name for name in names if list(names).count(name) > 1})
    if doubled:
        raise MixtureError(where, f"expected distinct names, found '{doubled[0]}' twice", "Keep one of them.")
    return tuple(names)


def refuse_unknown_names(names: Mapping[str, object] | Sequence[str], known: Sequence[str], *, where: str) -> None:
    """Raise :class:`MixtureError` when `names` has one that is not `known`."""
    unknown = [name for name in names if name not in known]
    if unknown:
        listed = ", ".join(f"'{name}'" for name in unknown)
        found = f"expected names among {', '.join(known)}, found {listed}"
        raise MixtureError(where, found, ask_meant("Correct the name.", unknown[0], known))


def share_by_tokens(tokens: Mapping[str, float]) -> dict[str, float]:
    """The mixture that takes of each domain as much as there is: `r_k = tokens_k / sum_j tokens_j`.

    Raises :class:`MixtureError` for a domain with no tokens.

    >>> share_by_tokens({"ja": 3e9, "math": 1e9})
    {'ja': 0.75, 'math': 0.25}
    """
    for name, count in tokens.items():
        if not (np.isfinite(count) and count > 0):
            found = f"expected tokens above 0, found {count:g}"
            raise MixtureError(f"domain '{name}'", found, "Give it data, or leave it out of the mixture.")
    total = sum(tokens.values())
    return {name: count / total for name, count in tokens.items()}


def name_shares(weights_K: Floats, domains: Sequence[str]) -> dict[str, float]:
    """One mixture as shares by domain."""
    return dict(zip(domains, map(float, weights_K), strict=True))


def order_shares(shares: Mapping[str, float], domains: Sequence[str], *, where: str) -> Floats:
    """(K,) the mixture `shares` in the order of `domains`; a domain that it does not name has a share of 0.

    Raises :class:`MixtureError` for unknown domains and shares off the simplex.
    """
    refuse_unknown_names(shares, domains, where=where)
    return np.asarray(check_simplex([[shares.get(name, 0.0) for name in domains]], where=where)[0])
