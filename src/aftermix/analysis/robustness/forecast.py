"""Losses around the base: along each vector, over pairs of vectors, and at the offsets that a merge would add.

A merge at coefficients `a_k` is `base + sum_k a_k v_k`. An expert bears merging where its own loss stays low along its
vector short of 1 and beyond, where two vectors have low joint losses over a wide region, and where offsets of the size
of other vectors raise it little. Source of the offsets: MergOPT, `(K a - 1) z` around the expert, with `a` from
{0.1, ..., 0.6}, `K` from {1, ..., 7} and `z` Laplace distributed with location 0, elementwise; the scale of `z` is the
mean magnitude of the entries of the expert's own vector (the paper trains with 5e-4), so that the draws are as large as
the vectors at hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np

from aftermix.analysis.geometry import Floats
from aftermix.progress import counter
from aftermix.seeds import generator

# K vectors and their domains, C coefficients

LINE = tuple(round(0.1 * step, 1) for step in range(13))
"""Coefficients along one vector."""
GRID = (0.0, 0.3, 0.6, 0.9, 1.2)
"""Coefficients of each of two vectors."""
MOST_PAIRS = 6
MERGE_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
MOST_EXPERTS = 7
DRAWS = 8


@dataclass(frozen=True)
class OffsetDraw:
    """One imagined merge: the weight of all of so many experts."""

    number: int
    weight: float
    experts: int

    @property
    def factor(self) -> float:
        """`K a - 1`, by which the noise is multiplied."""
        return self.experts * self.weight - 1


class LossProbe(Protocol):
    """A living model around the base, whose losses can be asked for."""

    def probe_loss(self, domain: str, weights: Mapping[str, float], draw: OffsetDraw | None = None) -> float:
        """Mean loss of `domain` at `base + sum of weight * vector`, in nats a token.

        With a `draw` noise of it is added, of the scale of the vector of `domain`.
        """


@dataclass(frozen=True)
class RobustnessForecast:
    """Losses in nats a token, by domain in order of name."""

    domains: tuple[str, ...]
    line_KCK: Floats
    """Along the vector of the first index, at each of `LINE`: the loss of the domain of the last index."""
    pairs: Mapping[tuple[str, str], Floats]
    """(C, C) sum of both losses at coefficients of `GRID` of the first (rows) and the second vector."""
    draws: tuple[OffsetDraw, ...]
    drawn_KD: Floats
    """Loss of each expert at home at each draw."""
    scales_K: Floats
    """Scale of the noise."""

    def list_own(self, place: int) -> Floats:
        """(C,) loss of a domain along its own vector."""
        return np.asarray(self.line_KCK[place, :, place])

    def find_best(self, place: int) -> float:
        """The coefficient of `LINE` at which a domain's own loss is lowest."""
        return LINE[int(np.argmin(self.list_own(place)))]

    def compute_gain(self, place: int) -> float:
        """Fall of a domain's own loss from the base to its expert."""
        own = self.list_own(place)
        return float(own[0] - own[LINE.index(1.0)])

    def compute_rises(self, place: int) -> Floats:
        """(D,) rise of an expert's loss at home at each draw."""
        return np.asarray(self.drawn_KD[place] - self.list_own(place)[LINE.index(1.0)])

    def compute_cost_elsewhere(self, place: int) -> float:
        """Mean rise of the other domains' losses at the expert; NaN for a single domain."""
        others = [other for other in range(len(self.domains)) if other != place]
        at_expert = self.line_KCK[place, LINE.index(1.0)] - self.line_KCK[place, 0]
        return float(at_expert[others].mean()) if others else math.nan


def draw_offsets(*, seed: int, count: int = DRAWS) -> tuple[OffsetDraw, ...]:
    """Weights and numbers of experts of `count` imagined merges; the same for every expert."""
    raw = generator(seed, "robustness").bit_generator.random_raw(2 * count)
    pairs = zip(raw[::2].tolist(), raw[1::2].tolist(), strict=True)
    return tuple(
        OffsetDraw(number, MERGE_WEIGHTS[one % len(MERGE_WEIGHTS)], 1 + other % MOST_EXPERTS)
        for number, (one, other) in enumerate(pairs)
    )


def measure_robustness(
    probe: LossProbe, domains: Sequence[str], *, scales: Mapping[str, float], seed: int = 0
) -> RobustnessForecast:
    """Ask `probe` for all losses; `scales` of the noise by domain.

    Of many vectors the first `MOST_PAIRS` pairs are mapped.
    """
    draws = draw_offsets(seed=seed)
    pairs = list(combinations(domains, 2))[:MOST_PAIRS]
    total = len(domains) ** 2 * len(LINE) + 2 * len(pairs) * len(GRID) ** 2 + len(domains) * len(draws)

    with counter(label="Robustness", total=total, unit="loss") as done:

        def ask(domain: str, weights: Mapping[str, float], draw: OffsetDraw | None = None) -> float:
            loss = probe.probe_loss(domain, weights, draw)
            done(domain)
            return loss

        line = [[[ask(domain, {vector: c}) for domain in domains] for c in LINE] for vector in domains]
        mapped = {
            (one, other): np.array(
                [[sum(ask(domain, {one: a, other: b}) for domain in (one, other)) for b in GRID] for a in GRID]
            )
            for one, other in pairs
        }
        drawn = [[ask(name, {name: 1.0}, draw) for draw in draws] for name in domains]

    return RobustnessForecast(
        domains=tuple(domains),
        line_KCK=np.array(line),
        pairs=mapped,
        draws=draws,
        drawn_KD=np.array(drawn),
        scales_K=np.array([scales[name] for name in domains]),
    )
