"""Merge weights read as data ratios."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from aftermix.errors import SearchError


def convert_weights(weights: Mapping[str, float], data_vectors: Collection[str]) -> dict[str, float]:
    """Share of each dataset in a mixture, in tokens: `r_i = max(a_i, 0) / sum_j max(a_j, 0)`.

    Source: OptiMer, section 4.2; docs/mixture.md. The instruction vector has no data and is not among `data_vectors`.
    Raises :class:`SearchError` when no data vector has a weight above zero.

    >>> convert_weights({"it": 0.6, "ja": 0.3, "math": 0.1, "code": -0.2}, ["ja", "math", "code"])
    {'code': 0.0, 'ja': 0.75, 'math': 0.25}
    """
    kept = {name: max(weights[name], 0.0) for name in sorted(data_vectors)}
    total = sum(kept.values())
    if total <= 0:
        shown = ", ".join(f"{name} {weights[name]:.3f}" for name in kept) or "no data vectors"
        raise SearchError(
            "ratios",
            f"every data vector has a weight of 0 or below ({shown})",
            "No mixture of this data is asked for: search other ranges, or train on other data.",
        )
    return {name: round(weight / total, 12) for name, weight in kept.items()}
