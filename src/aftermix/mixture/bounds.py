"""Limits of the mixtures that are allowed: a lowest and a highest share of each domain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aftermix.errors import MixtureError, Problem, join_place, refuse_if_any
from aftermix.mixture.simplex import Floats, check_distinct, refuse_unknown_names

# C candidates, K domains

TOLERANCE = 1e-9
HALVINGS = 60


@dataclass(frozen=True)
class ShareBounds:
    """The part of the simplex between `low_K` and `high_K`; it has a point."""

    domains: tuple[str, ...]
    low_K: Floats
    high_K: Floats

    @classmethod
    def build(
        cls,
        domains: Sequence[str],
        *,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        fixed: Mapping[str, float] | None = None,
        largest_shares: Mapping[str, float] | None = None,
        tokens: Mapping[str, float] | None = None,
        budget_tokens: float | None = None,
        max_epochs: float | None = None,
    ) -> ShareBounds:
        """Join all limits on shares.

        `bounds` is (lowest, highest) by domain, `fixed` one share by domain, `largest_shares` what the data of every
        domain is enough for. With `max_epochs`, no domain is repeated more often over a training of `budget_tokens`:
        `share_k * budget_tokens <= max_epochs * tokens_k`.

        Raises :class:`MixtureError` for unknown domains, limits outside [0, 1] or crossed, a domain with no tokens, and
        limits that no mixture meets.
        """
        names = check_distinct(domains, where="domains")
        if len(names) < 2:
            raise MixtureError("domains", f"expected two domains or more, found {len(names)}", "Add one.")
        limits = dict.fromkeys(names, (0.0, 1.0)) | _collect_limits(names, bounds or {}, fixed or {})
        low_K, high_K = np.array([limits[name] for name in names], dtype=np.float64).T

        # Then what the data of the domains is enough for.
        caps_K = _cap_epochs(names, tokens, budget_tokens, max_epochs)
        if largest_shares is not None:
            caps_K = np.minimum(caps_K, _order_largest(names, largest_shares))
        capped_K = np.minimum(high_K, caps_K)
        _refuse_impossible(names, low_K, capped_K, capped=max_epochs is not None or largest_shares is not None)
        return cls(names, low_K, capped_K)

    @property
    def free(self) -> int:
        """Domains whose share is not fixed."""
        return int((self.high_K - self.low_K > TOLERANCE).sum())

    def admits(self, weights_CK: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """(C,) whether each mixture lies within the limits."""
        inside_CK = (weights_CK >= self.low_K - TOLERANCE) & (weights_CK <= self.high_K + TOLERANCE)
        return np.asarray(inside_CK.all(axis=1))

    def nearest(self, weights_CK: Floats) -> Floats:
        """(C, K) the nearest allowed mixture of each row, in Euclidean distance."""
        return move_between(weights_CK, self.low_K, self.high_K)


def move_between(weights_CK: Floats, low: Floats, high: Floats) -> Floats:
    """(C, K) the nearest mixture of each row between `low` and `high`, (K,) or (C, K), in Euclidean distance.

    Formula: `clip(w - t, low, high)` with the `t` that makes the sum 1, found by halving.
    """
    below_C = (weights_CK - high).min(axis=1) - 1
    above_C = (weights_CK - low).max(axis=1) + 1
    for _ in range(HALVINGS):
        middle_C = (below_C + above_C) / 2
        sums_C = np.clip(weights_CK - middle_C[:, None], low, high).sum(axis=1)
        below_C = np.where(sums_C > 1, middle_C, below_C)
        above_C = np.where(sums_C > 1, above_C, middle_C)
    return np.asarray(np.clip(weights_CK - above_C[:, None], low, high))


def _collect_limits(
    names: Sequence[str], bounds: Mapping[str, tuple[float, float]], fixed: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    refuse_unknown_names(bounds, names, where="bounds")
    refuse_unknown_names(fixed, names, where="fixed")

    problems = [
        Problem(
            join_place("bounds", name),
            f"expected 0 <= lowest <= highest <= 1, found {low:g} and {high:g}",
            "Correct them.",
        )
        for name, (low, high) in bounds.items()
        if not 0 <= low <= high <= 1
    ]
    problems += [
        Problem(join_place("fixed", name), f"expected a share from 0 to 1, found {share:g}", "Correct it.")
        for name, share in fixed.items()
        if not 0 <= share <= 1
    ]
    problems += [
        Problem(join_place("fixed", name), "a share that is fixed has bounds too", "Keep one of them.")
        for name in fixed
        if name in bounds
    ]

    refuse_if_any(problems)
    return {**bounds, **{name: (share, share) for name, share in fixed.items()}}


def _cap_epochs(
    names: Sequence[str], tokens: Mapping[str, float] | None, budget_tokens: float | None, max_epochs: float | None
) -> Floats:
    if max_epochs is None:
        return np.ones(len(names))
    if tokens is None or budget_tokens is None:
        found = "a cap on epochs without the tokens of each domain and of the training"
        raise MixtureError("max_epochs", found, "Give `tokens` and `budget_tokens`.")
    for where, number in (("max_epochs", max_epochs), ("budget_tokens", budget_tokens)):
        if not (math.isfinite(number) and number > 0):
            raise MixtureError(where, f"expected a number above 0, found {number:g}", "Correct it.")

    refuse_unknown_names(tokens, names, where="tokens")
    _refuse_without_data(names, tokens)
    return np.array([min(1.0, max_epochs * tokens[name] / budget_tokens) for name in names])


def _order_largest(names: Sequence[str], largest_shares: Mapping[str, float]) -> Floats:
    refuse_unknown_names(largest_shares, names, where="largest_shares")
    _refuse_without_data(names, largest_shares)
    return np.array([min(1.0, largest_shares[name]) for name in names])


def _refuse_without_data(names: Sequence[str], amounts: Mapping[str, float]) -> None:
    """Refuse a domain that has nothing to give: no tokens, or no share that its tokens are enough for."""
    empty = [name for name in names if not (math.isfinite(amounts.get(name, 0)) and amounts.get(name, 0) > 0)]
    refuse_if_any(
        [
            Problem(f"domain '{name}'", f"expected tokens above 0, found {amounts.get(name, 0):g}", "Give it data.")
            for name in empty
        ]
    )


def _refuse_impossible(names: Sequence[str], low_K: Floats, high_K: Floats, *, capped: bool) -> None:
    remedy = "Widen the bounds, allow more epochs or plan fewer tokens." if capped else "Widen the bounds."
    crossed = [
        Problem(f"domain '{name}'", f"has at least {low:.4g} of the mixture but data for {high:.4g}", remedy)
        for name, low, high in zip(names, low_K, high_K, strict=True)
        if low > high + TOLERANCE
    ]
    refuse_if_any(crossed)
    if low_K.sum() > 1 + TOLERANCE:
        raise MixtureError("bounds", f"the lowest shares sum to {low_K.sum():.4g}, above 1", remedy)
    if high_K.sum() < 1 - TOLERANCE:
        raise MixtureError("bounds", f"the highest shares sum to {high_K.sum():.4g}, below 1", remedy)
