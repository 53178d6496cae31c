"""Design of the mixtures to measure: points that cover the simplex, for a surrogate to learn from.

Always among them are the uniform mixture, the mixtures that are as much as possible one domain (vertices), and the
priors. Then the finest lattice of equal steps that fits: four domains have exactly 35 points at a step of 1/4. The rest
is filled by a scrambled Halton sequence, turned into Dirichlet mixtures from even to sparse.

Source: MergeMix, section 3.2 (coarse grid and priors, 40 points); docs/mixture.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import gamma, qmc

from aftermix.errors import MixtureError
from aftermix.mixture.bounds import ShareBounds
from aftermix.mixture.simplex import Floats, name_shares, order_shares
from aftermix.seeds import derived_seed

# N points, K domains

CONCENTRATIONS = (1.0, 0.5, 0.25)
"""Of the Dirichlet mixtures, in turn: the lower, the fewer domains carry a mixture."""
APART = 1e-3
"""Points whose shares all differ by less are one point."""
FINEST = 64
MOST_LATTICE_POINTS = 20_000
MOST_DRAWS = 50
"""Draws for each point that is to be filled in, before the room is taken to be used up."""


@dataclass(frozen=True)
class SimplexDesign:
    """Distinct mixtures in the order in which they are to be measured."""

    domains: tuple[str, ...]
    weights_NK: Floats
    kinds: tuple[str, ...]
    """`uniform`, `prior NAME`, `vertex NAME`, `lattice` or `fill`, by point."""
    repeats: tuple[int, ...]
    """Points to measure once more, on other items: how far two measurements differ is the noise."""

    @property
    def mixtures(self) -> list[dict[str, float]]:
        """Shares by domain, for each point."""
        return [name_shares(row_K, self.domains) for row_K in self.weights_NK]


def build_design(
    domains: Sequence[str],
    *,
    points: int = 40,
    priors: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
    bounds: ShareBounds | None = None,
    repeats: int = 3,
) -> SimplexDesign:
    """`points` distinct mixtures of `domains` within `bounds`; `priors` are mixtures by name.

    A domain that a prior does not name has a share of 0 in it. Raises :class:`MixtureError` for a prior off the simplex
    or outside the bounds, bounds of other domains or that leave one mixture only, and fewer points than must be there.

    >>> design = build_design(["a", "b", "c", "d"], priors={"mine": {"a": 0.6, "b": 0.4}})
    >>> len(design.kinds), design.kinds.count("lattice"), design.kinds[:2]
    (40, 30, ('uniform', 'prior mine'))
    """
    limits = bounds or ShareBounds.build(domains)
    if limits.domains != tuple(domains):
        found = f"expected bounds of {', '.join(domains)}, found {', '.join(limits.domains)}"
        raise MixtureError("bounds", found, "Build them from the same domains, in the same order.")
    if limits.free < 2:
        raise MixtureError("bounds", "the bounds leave one mixture only", "Fix fewer shares.")

    chosen = _Chosen()
    chosen.add(_list_fixed_points(limits, priors or {}))
    if len(chosen.kinds) > points:
        found = f"expected at least {len(chosen.kinds)} points (uniform, priors, one for each domain), found {points}"
        raise MixtureError("points", found, "Measure more points, or join domains.")

    chosen.add(("lattice", row_K) for row_K in _fit_finest_lattice(limits, chosen, points))
    chosen.add(_fill(limits, points, seed), most=points)
    if len(chosen.kinds) < points:
        found = f"the bounds have room for {len(chosen.kinds)} distinct points, expected {points}"
        raise MixtureError("points", found, "Widen the bounds, or measure fewer points.")
    return SimplexDesign(
        limits.domains, np.stack(chosen.rows), tuple(chosen.kinds), _choose_anchors(chosen.kinds, repeats)
    )


class _Chosen:
    """Points so far, each once."""

    def __init__(self) -> None:
        self.rows: list[Floats] = []
        self.kinds: list[str] = []

    def has(self, row_K: Floats) -> bool:
        return bool(self.rows) and bool((np.abs(np.array(self.rows) - row_K).max(axis=1) < APART).any())

    def add(self, found: Iterable[tuple[str, Floats]], *, most: int | None = None) -> None:
        for kind, row_K in found:
            if most is not None and len(self.rows) >= most:
                return
            if not self.has(row_K):
                self.rows.append(row_K)
                self.kinds.append(kind)


def _list_fixed_points(limits: ShareBounds, priors: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, Floats]]:
    size = len(limits.domains)
    yield "uniform", limits.nearest(np.full((1, size), 1 / size))[0]
    for name, shares in priors.items():
        prior_K = order_shares(shares, limits.domains, where=f"prior '{name}'")
        if not limits.admits(prior_K[None])[0]:
            outside = np.argmax((prior_K < limits.low_K - 1e-9) | (prior_K > limits.high_K + 1e-9))
            low, high = limits.low_K[outside], limits.high_K[outside]
            found = f"has {prior_K[outside]:.4g} of '{limits.domains[outside]}', expected {low:.4g} to {high:.4g}"
            raise MixtureError(f"prior '{name}'", found, "Correct it, or widen the bounds.")
        yield f"prior {name}", prior_K
    # One that is allowed is taken as it is: the nearest has a rounding error of the others, whose merge is another.
    corners_KK, allowed_K = np.eye(size), limits.admits(np.eye(size))
    corners_KK[~allowed_K] = limits.nearest(np.eye(size))[~allowed_K]
    for name, row_K in zip(limits.domains, corners_KK, strict=True):
        yield f"vertex {name}", row_K


def _fit_finest_lattice(limits: ShareBounds, chosen: _Chosen, points: int) -> list[Floats]:
    """New points of the finest lattice that fits beside those chosen."""
    finest: list[Floats] = []
    for parts in range(1, FINEST + 1):
        if math.comb(parts + limits.free - 1, parts) > MOST_LATTICE_POINTS:
            break
        new = [row_K for row_K in list_lattice(limits, parts) if not chosen.has(row_K)]
        if len(chosen.rows) + len(new) > points:
            break
        finest = new
    return finest


def list_lattice(limits: ShareBounds, parts: int) -> list[Floats]:
    """All mixtures whose shares above the lowest allowed are multiples of 1/`parts` of what is left to give out."""
    free_F = np.flatnonzero(limits.high_K - limits.low_K > 1e-9)
    step = (1 - limits.low_K.sum()) / parts
    rows = []
    for bars in itertools.combinations(range(parts + len(free_F) - 1), len(free_F) - 1):
        edges = np.array([-1, *bars, parts + len(free_F) - 1])
        row_K = limits.low_K.copy()
        row_K[free_F] += step * (np.diff(edges) - 1)
        rows.append(row_K)
    return [row_K for row_K in rows if limits.admits(row_K[None])[0]]


def _fill(limits: ShareBounds, points: int, seed: int) -> Iterator[tuple[str, Floats]]:
    sequence = qmc.Halton(len(limits.domains), scramble=True, rng=derived_seed(seed, "mixture design"))
    for number, uniform_K in enumerate(sequence.random(points * MOST_DRAWS)):
        sizes_K = gamma.ppf(uniform_K, CONCENTRATIONS[number % len(CONCENTRATIONS)])
        if sizes_K.sum() > 0:
            yield "fill", limits.nearest((sizes_K / sizes_K.sum())[None])[0]


def _choose_anchors(kinds: Sequence[str], repeats: int) -> tuple[int, ...]:
    """Points of unlike kinds first: noise differs between mixtures."""
    by_kind: dict[str, list[int]] = {}
    for number, kind in enumerate(kinds):
        by_kind.setdefault(kind.split()[0], []).append(number)
    turns = itertools.zip_longest(*by_kind.values())
    return tuple([number for turn in turns for number in turn if number is not None][:repeats])
