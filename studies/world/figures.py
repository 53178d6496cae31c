"""Means and 95 % t-intervals over seeds, paired differences, tables in Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """Mean of one figure over seeds; `half` is half the width of its 95 % interval, None for a single seed."""

    value: float
    half: float | None

    def shown(self, digits: int = 1, *, sign: bool = False) -> str:
        """`45.2 ± 1.3`.

        >>> Mean(45.23, 1.31).shown(), Mean(0.5, None).shown(2, sign=True)
        ('45.2 ± 1.3', '+0.50')
        """
        rounded = round(self.value, digits) + 0.0  # no minus before a zero
        value = f"{rounded:{'+' if sign else ''}.{digits}f}"
        return value if self.half is None else f"{value} ± {self.half:.{digits}f}"

    @property
    def is_apart_from_zero(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.half is not None and abs(self.value) > self.half


def mean(values: Sequence[float]) -> Mean:
    """Mean and `t(0.975, n - 1) * s / sqrt(n)`, the values being independent seeds."""
    from scipy.stats import t

    if len(values) == 1:
        return Mean(values[0], None)
    quantile = float(t.ppf(0.975, len(values) - 1))
    return Mean(statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values)))


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Mean:
    """Mean of `ours - theirs`, seed by seed: the same experts and items are behind both."""
    return mean([a - b for a, b in zip(ours, theirs, strict=True)])


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right.

    >>> print(table(["a", "b"], [["x", "1"]]))
    | a | b |
    |---|---:|
    | x | 1 |
    """
    rule = "|---|" + "---:|" * (len(columns) - 1)
    return "\n".join([_row(columns), rule, *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
