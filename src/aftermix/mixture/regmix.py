"""Mixtures that need no merging: what a mixture found by merging has to beat.

Uniform, token-proportional, single domains and the user's priors cost nothing; RegMix learns from mixtures that were
really trained. DoReMi, which trains a proxy, is `aftermix.training.doremi`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aftermix.errors import MixtureError
from aftermix.mixture.simplex import Floats, check_simplex, check_table, order_shares, share_by_tokens
from aftermix.mixture.surrogates.regressors import BoostedTrees
from aftermix.mixture.surrogates.surrogate import is_constant
from aftermix.mixture.tree import MixtureLimits
from aftermix.mixture.utility import MixtureUtility
from aftermix.seeds import generator

# N trained mixtures, C candidates, K domains, M capabilities

CANDIDATES = 100_000
TOP = 128
"""Candidates, and how many of the best are averaged, as in the authors' code."""
FEWEST_TIMES_TOP = 10
"""Of fewer candidates within the bounds, the best would be hardly better than all of them."""
LOWEST_PRIOR = 1e-6
"""A Dirichlet distribution has no share of exactly 0."""


def list_plain_mixtures(
    domains: Sequence[str],
    *,
    tokens: Mapping[str, float] | None = None,
    priors: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Floats]:
    """(K,) shares by name: `uniform`, `tokens` (in proportion to the data), the priors, and `NAME alone`.

    Raises :class:`MixtureError` for a domain without tokens and a prior off the simplex.

    >>> {name: row.tolist() for name, row in list_plain_mixtures(["ja", "code"], tokens={"ja": 3, "code": 1}).items()}
    {'uniform': [0.5, 0.5], 'tokens': [0.75, 0.25], 'ja alone': [1.0, 0.0], 'code alone': [0.0, 1.0]}
    """
    mixtures = {"uniform": np.full(len(domains), 1 / len(domains))}
    if tokens is not None:
        mixtures["tokens"] = order_shares(
            share_by_tokens({name: tokens[name] for name in domains}), domains, where="tokens"
        )
    for name, shares in (priors or {}).items():
        mixtures[f"prior {name}"] = order_shares(shares, domains, where=f"prior '{name}'")
    return mixtures | {f"{name} alone": row_K for name, row_K in zip(domains, np.eye(len(domains)), strict=True)}


def find_regmix(
    weights_NK: Floats,
    scores_NM: Floats,
    utility: MixtureUtility,
    *,
    prior_K: Floats,
    bounds: MixtureLimits | None = None,
    seed: int = 0,
    candidates: int = CANDIDATES,
    top: int = TOP,
) -> Floats:
    """(K,) the mixture that RegMix finds from `scores_NM` of models trained on the mixtures `weights_NK`.

    One LightGBM regressor for each capability; candidates are drawn from a Dirichlet distribution around the prior
    (`Dirichlet(prior)`, so mostly sparse mixtures), and the mean of the `top` best by predicted utility is the result.
    Source: Liu et al. 2025 (RegMix), section 3 and its published code; MergeMix, appendix C, adapts it to the trained
    runs at hand as is done here. We depart in the trees: their settings suit some tens of points, on which the
    library's find no split. Candidates outside `bounds` do not count; where hardly any lies within, each is moved to
    the nearest mixture that does. Raises :class:`MixtureError` for tables that do not match, and when every capability
    scored the same everywhere.
    """
    points_NK, table_NM = check_simplex(weights_NK), check_table(scores_NM, where="scores")
    if len(points_NK) != len(table_NM):
        found = f"expected one row for each of the {len(points_NK)} mixtures, found {len(table_NM)}"
        raise MixtureError("scores", found, "Give the scores of the same mixtures, in the same order.")
    if all(is_constant(column_N) for column_N in table_NM.T):
        raise MixtureError("scores", "every trained mixture scored the same", "Evaluate more items, or train longer.")

    drawn_CK = _draw_candidates(prior_K, bounds, seed=seed, count=candidates, fewest=FEWEST_TIMES_TOP * top)
    predicted = [
        np.full(len(drawn_CK), column_N[0])
        if is_constant(column_N)
        else BoostedTrees.fit(points_NK, column_N).predict(drawn_CK)
        for column_N in table_NM.T
    ]

    scores_CM = np.stack(predicted, axis=1)
    best_C = np.lexsort((-utility.values(scores_CM), utility.violation(scores_CM)))[:top]
    return np.asarray(drawn_CK[best_C].mean(axis=0))


def _draw_candidates(prior_K: Floats, bounds: MixtureLimits | None, *, seed: int, count: int, fewest: int) -> Floats:
    """Mixtures around the prior that lie within the bounds; where fewer than `fewest` do, the nearest ones of all."""
    strength_K = np.maximum(np.asarray(prior_K, np.float64), LOWEST_PRIOR)
    drawn_CK = generator(seed, "regmix").dirichlet(strength_K, size=count)
    drawn_CK = drawn_CK[np.isfinite(drawn_CK).all(axis=1)]
    if bounds is None:
        return drawn_CK
    inside_CK = drawn_CK[bounds.admits(drawn_CK)]
    return inside_CK if len(inside_CK) >= min(fewest, count) else bounds.nearest(drawn_CK)
