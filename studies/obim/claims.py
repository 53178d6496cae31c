"""What the paper says is better than what, and whether it is so here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studies.obim.case import Measured
from studies.obim.results import accuracy, bits, minus, names_of
from studies.world.figures import Mean, table


@dataclass(frozen=True)
class Claim:
    """One comparison of the paper: `better` above `worse` by so many points there."""

    better: str
    worse: str
    points: float


def verdict(apart: Mean, *, higher_is_better: bool) -> str:
    """`yes`, `reversed`, or that the interval over seeds holds 0.

    >>> verdict(Mean(1.0, 0.5), higher_is_better=True), verdict(Mean(1.0, 0.5), higher_is_better=False)
    ('yes', 'reversed')
    >>> verdict(Mean(1.0, 2.0), higher_is_better=True)
    'within noise'
    """
    if not apart.is_apart_from_zero:
        return "within noise"
    return "yes" if (apart.value > 0) == higher_is_better else "reversed"


def claims_of(paper: dict[str, float], better: str) -> list[Claim]:
    """That one row is above every other, with the paper's differences."""
    return [Claim(better, name, paper[better] - value) for name, value in paper.items() if name != better]


def claims_table(rows: Sequence[Measured], claims: Sequence[Claim]) -> str:
    """One row a claim, on both figures."""
    known = names_of(rows)
    body = []
    for claim in claims:
        if not {claim.better, claim.worse} <= set(known):
            continue
        by = [minus(rows, claim.better, claim.worse, figure) for figure in (accuracy, bits)]
        verdicts = [verdict(by[0], higher_is_better=True), verdict(by[1], higher_is_better=False)]
        cells = [f"{claim.better} above {claim.worse}", f"{claim.points:+.2f}"]
        body.append([*cells, by[0].shown(sign=True), verdicts[0], by[1].shown(2, sign=True), verdicts[1]])
    return table(["the paper says", "points there", "accuracy here", "so?", "bits here", "so?"], body)


def plainly(rows: Sequence[Measured], claims: Sequence[Claim]) -> str:
    """One sentence: how many of the claims show here, by each figure."""
    known = set(names_of(rows))
    here = [claim for claim in claims if {claim.better, claim.worse} <= known]
    counted = []
    for name, figure, higher in (("accuracy", accuracy, True), ("bits per byte", bits, False)):
        found = [verdict(minus(rows, c.better, c.worse, figure), higher_is_better=higher) for c in here]
        shares = [f"{found.count(word)} {word}" for word in ("yes", "within noise", "reversed") if word in found]
        counted.append(f"by {name}: {', '.join(shares)}")
    return f"Of the paper's {len(here)} comparisons, {'; '.join(counted)}."
