"""The mixture of largest predicted utility, and how sure it is.

The whole allowed simplex is sampled, from even to sparse mixtures; the best samples climb by moving share from one
domain to another in ever smaller steps. Trees give plateaus and every surrogate has an error, so the result is not the
first maximum: it is the mean of all mixtures near it whose predicted value is almost the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from aftermix.errors import MixtureError
from aftermix.mixture.bounds import ShareBounds
from aftermix.mixture.simplex import Floats, check_simplex, name_shares
from aftermix.mixture.surrogates.surrogate import Surrogate
from aftermix.mixture.tree import MixtureLimits
from aftermix.mixture.utility import MixtureUtility
from aftermix.seeds import generator

# N design points, C candidates, K domains, M capabilities, T columns of scores, D draws, P pairs of domains

CANDIDATES = 200_000
CONCENTRATIONS = (1.0, 0.5, 0.2)
STARTS = 8
STEPS = (0.08, 0.04, 0.02, 0.01, 0.005)
MOST_MOVES = 40
"""At each step size."""
ALMOST = 0.01
"""Of the distance from the median candidate's value to the best: what counts as the same."""
NEAR = 0.2
"""Total variation distance from the maximum within which the mean is taken."""
BROKEN = -1e9
"""Value of a mixture that breaks floors, minus by how much: below all that break none."""
CONFIDENCE = 0.95
SCORE_DRAWS = 4000
RATIO_POOL = 4000

Value = Callable[[Floats], Floats]
"""(C, K) mixtures to (C,) values."""


@dataclass(frozen=True)
class MixtureOptimum:
    """The best mixture by prediction."""

    domains: tuple[str, ...]
    weights_K: Floats
    utility: float
    """Predicted, without the pull to the prior."""
    floors_met: bool
    """By the predicted scores."""
    averaged: int
    """Mixtures whose mean it is."""

    @property
    def shares(self) -> dict[str, float]:
        """Share by domain."""
        return name_shares(self.weights_K, self.domains)


@dataclass(frozen=True)
class MixturePrediction:
    """Expected result of a measurement at one mixture, by the surrogate."""

    scores_M: Floats
    """Raw scores of capabilities."""
    std_M: Floats
    utility: float
    interval: tuple[float, float]
    """95% interval of the utility, with the noise of a measurement."""


@dataclass(frozen=True)
class MixtureGoal:
    """Objective that is made largest: the utility, less `pull` times the divergence from `prior_K`.

    Formula: `U(f(w)) - pull * sum_k w_k log(w_k / prior_k)`. Mixtures that break floors come after all others.
    """

    utility: MixtureUtility
    prior_K: Floats | None = None
    pull: float = 0.0

    @classmethod
    def build(
        cls, utility: MixtureUtility, bounds: ShareBounds, *, prior: Floats | None = None, pull: float = 0.0
    ) -> MixtureGoal:
        """Raises :class:`MixtureError` for a pull below 0 or without a prior, and for a prior that no mixture can near:
        one of 0 for a domain that may have a share."""
        if not (np.isfinite(pull) and pull >= 0):
            raise MixtureError("pull", f"expected a number of at least 0, found {pull:g}", "Correct it.")
        if pull == 0:
            return cls(utility)
        if prior is None:
            raise MixtureError("pull", "a pull towards a prior without a prior", "Give the prior's shares.")

        prior_K = check_simplex(np.asarray(prior)[None], where="prior")[0]
        if len(prior_K) != len(bounds.domains):
            found = f"expected {len(bounds.domains)} shares, found {len(prior_K)}"
            raise MixtureError("prior", found, "Give one for each domain.")

        for name, share, high in zip(bounds.domains, prior_K, bounds.high_K, strict=True):
            if share <= 0 < high:
                found = f"gives no share to '{name}', so every mixture with it is infinitely far"
                raise MixtureError("prior", found, "Give it a small share, or fix the domain at 0.")
        return cls(utility, np.asarray(prior_K), pull)

    def values(self, weights_CK: Floats, scores_CM: Floats) -> Floats:
        """(C,) what is made largest, at mixtures and their predicted scores."""
        value_C = np.maximum(self.utility.values(scores_CM), -1e6)
        if self.prior_K is not None:
            value_C = value_C - self.pull * measure_divergence(weights_CK, self.prior_K)
        broken_C = self.utility.violation(scores_CM)
        return np.asarray(np.where(broken_C > 0, BROKEN - broken_C, value_C))


def find_optimum(
    surrogate: Surrogate, goal: MixtureGoal, bounds: MixtureLimits, *, seed: int = 0, candidates: int = CANDIDATES
) -> MixtureOptimum:
    """The best mixture within `bounds`; deterministic by `seed`.

    Raises :class:`MixtureError` when surrogate, utility and bounds speak of other capabilities or domains.
    """
    _refuse_strangers(surrogate, goal.utility, bounds)
    pool_CK = np.concatenate(
        [sample_mixtures(bounds, count=candidates, seed=seed), _move_within(surrogate.weights_NK, bounds)]
    )
    weights_K, averaged = _average_near_best(_build_value(surrogate, goal), pool_CK, bounds, starts=STARTS)
    scores_1M = surrogate.mean(weights_K[None])
    return MixtureOptimum(
        bounds.domains,
        weights_K,
        float(goal.utility.values(scores_1M)[0]),
        bool(goal.utility.violation(scores_1M)[0] == 0),
        averaged,
    )


def predict_mixture(
    surrogate: Surrogate, utility: MixtureUtility, weights_K: Floats, *, seed: int = 0
) -> MixturePrediction:
    """Scores and utility that a measurement at `weights_K` is expected to give.

    Scores err together: errors are drawn from a normal distribution with the correlations of the out-of-fold
    residuals, shrunk by a tenth.
    """
    mean_1T, std_1T = surrogate.predict(weights_K[None])
    varying_T = std_1T[0] > 0
    errors_DT = np.zeros((SCORE_DRAWS, len(varying_T)))
    together_TT = np.eye(len(varying_T))
    if varying_T.any():
        size = int(varying_T.sum())
        together = np.atleast_2d(np.corrcoef(surrogate.residuals_NM[:, varying_T].T))
        together_TT[np.ix_(varying_T, varying_T)] = 0.9 * together + 0.1 * np.eye(size)
        factor = np.linalg.cholesky(0.9 * together + 0.1 * np.eye(size))
        drawn = generator(seed, "mixture prediction").standard_normal((SCORE_DRAWS, size))
        errors_DT[:, varying_T] = (drawn @ factor.T) * std_1T[0, varying_T]

    low, high = _take_interval(utility.values(mean_1T + errors_DT))
    std_M = _measure_group_deviations(utility, std_1T[0], together_TT)
    return MixturePrediction(
        utility.score_capabilities(mean_1T)[0],
        std_M,
        float(utility.values(mean_1T)[0]),
        (float(low), float(high)),
    )


def _measure_group_deviations(utility: MixtureUtility, std_T: Floats, together_TT: Floats) -> Floats:
    """(M,) standard deviation of each capability: of several tasks, that of the mean of errors that go together."""
    deviations = []
    for columns in utility.groups.values():
        places = [utility.columns.index(column) for column in columns]
        variance = std_T[places] @ together_TT[np.ix_(places, places)] @ std_T[places]
        deviations.append(std_T[places[0]] if len(places) == 1 else np.sqrt(variance) / len(places))
    return np.array(deviations)


def estimate_ratio_interval(
    surrogate: Surrogate, goal: MixtureGoal, bounds: ShareBounds, *, seed: int = 0, draws: int = 50
) -> tuple[Floats, Floats]:
    """(K,) lowest and highest share of each domain: the 95% interval over optima of resampled surrogates.

    Residual bootstrap (`Surrogate.resampled`); each draw has its own optimum, on a coarser pool. A wide interval says
    that the share of that domain hardly matters, or that it is not known.
    """
    pool_CK = sample_mixtures(bounds, count=RATIO_POOL, seed=seed)
    optima_DK = np.stack(
        [
            _average_near_best(_build_value(drawn, goal), pool_CK, bounds, starts=1)[0]
            for drawn in surrogate.resampled(seed=seed, draws=draws)
        ]
    )
    low_K, high_K = _take_interval(optima_DK)
    return np.asarray(low_K), np.asarray(high_K)


def find_best_measured(
    weights_NK: Floats, scores_NM: Floats, utility: MixtureUtility, bounds: ShareBounds
) -> int | None:
    """The design point of largest measured utility among those within the bounds; None when none is."""
    inside_I = np.flatnonzero(bounds.admits(weights_NK))
    return int(inside_I[utility.best(scores_NM[inside_I])]) if len(inside_I) else None


def choose_neighbours(
    surrogate: Surrogate,
    goal: MixtureGoal,
    bounds: ShareBounds,
    optimum_K: Floats,
    *,
    count: int = 3,
    distance: float = 0.05,
    seed: int = 0,
) -> Floats:
    """(at most `count`, K) mixtures to verify beside the optimum: the best ones that are `distance` apart.

    Distance is total variation, `sum_k |v_k - w_k| / 2`, from the optimum and from each other; none is more than
    `NEAR` from the optimum. Bounds may leave room for fewer.
    """
    drawn_CK = sample_mixtures(bounds, count=RATIO_POOL, seed=seed)
    moved_CK = bounds.nearest(optimum_K + NEAR * (drawn_CK - optimum_K))
    near_CK = moved_CK[_measure_distance(moved_CK, optimum_K) <= NEAR]
    return _choose_apart(
        _build_value(surrogate, goal)(near_CK), near_CK, optimum_K[None], count=count, distance=distance
    )


def choose_next_points(
    surrogate: Surrogate, goal: MixtureGoal, bounds: ShareBounds, *, count: int, distance: float = 0.05, seed: int = 0
) -> Floats:
    """(at most `count`, K) mixtures to measure in a further round: the best predicted ones that are `distance` apart.

    Apart from each other and from all measured points, in total variation. Rounds of n, n/2 and n/4 points narrow down
    on the optimum (DeMix). Bounds may leave room for fewer.
    """
    pool_CK = sample_mixtures(bounds, count=CANDIDATES // 10, seed=seed)
    value_C = _build_value(surrogate, goal)(pool_CK)
    return _choose_apart(value_C, pool_CK, surrogate.weights_NK, count=count, distance=distance)


def sample_mixtures(bounds: MixtureLimits, *, count: int, seed: int) -> Floats:
    """(`count`, K) allowed mixtures, a third each of Dirichlet draws that are even, sparse and very sparse."""
    draw = generator(seed, "mixture candidates")
    size = len(bounds.domains)
    shares = np.diff(np.linspace(0, count, len(CONCENTRATIONS) + 1).round().astype(int))
    drawn = [draw.dirichlet(np.full(size, c), number) for c, number in zip(CONCENTRATIONS, shares, strict=True)]
    return _move_within(np.concatenate(drawn), bounds)


def measure_divergence(weights_CK: Floats, prior_K: Floats) -> Floats:
    """(C,) `sum_k w_k log(w_k / prior_k)`, in nats; a share of 0 adds nothing.

    >>> measure_divergence(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0.5, 0.5])).round(4).tolist()
    [0.0, 0.6931]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        parts_CK = np.where(weights_CK > 0, weights_CK * np.log(weights_CK / prior_K), 0.0)
    return np.asarray(parts_CK.sum(axis=1))


def _choose_apart(value_C: Floats, pool_CK: Floats, taken_TK: Floats, *, count: int, distance: float) -> Floats:
    """(at most `count`, K) rows of the pool, best first, no two and none of `taken_TK` nearer than `distance`."""
    chosen: list[Floats] = []
    for row_K in pool_CK[np.argsort(-value_C, kind="stable")]:
        if len(chosen) == count:
            break
        if (
            _measure_distance(np.concatenate([taken_TK, *(other_K[None] for other_K in chosen)]), row_K) >= distance
        ).all():
            chosen.append(row_K)
    return np.reshape(np.array(chosen), (-1, pool_CK.shape[1]))


def _average_near_best(value: Value, pool_CK: Floats, bounds: MixtureLimits, *, starts: int) -> tuple[Floats, int]:
    """The mean of the near best mixtures, and how many they are."""
    value_C = value(pool_CK)
    seen, values = [pool_CK], [value_C]
    for start in np.argsort(-value_C, kind="stable")[:starts]:
        for climbed_CK, climbed_C in _climb(value, pool_CK[start], float(value_C[start]), bounds):
            seen.append(climbed_CK)
            values.append(climbed_C)

    all_CK, all_C = np.concatenate(seen), np.concatenate(values)
    best_K, top = all_CK[all_C.argmax()], float(all_C.max())
    comparable_C = all_C[all_C > BROKEN / 2] if top > BROKEN / 2 else all_C
    least = top - ALMOST * max(0.0, top - float(np.median(comparable_C)))

    alike_CK = np.unique(all_CK[(all_C >= least) & (_measure_distance(all_CK, best_K) <= NEAR)], axis=0)
    mean_K = alike_CK.mean(axis=0)
    # Between two peaks there may be a valley.
    return (mean_K, len(alike_CK)) if value(mean_K[None])[0] >= least else (best_K, 1)


def _climb(value: Value, start_K: Floats, start_value: float, bounds: MixtureLimits) -> Iterator[tuple[Floats, Floats]]:
    """Yield what is tried on the way up: every transfer of one step from a domain to another, the best one taken."""
    here_K, here = start_K, start_value
    for step in STEPS:
        for _ in range(MOST_MOVES):
            tried_PK = _list_transfers(here_K, step, bounds)
            if not len(tried_PK):
                break
            value_P = value(tried_PK)
            yield tried_PK, value_P
            if value_P.max() <= here:
                break
            here_K, here = tried_PK[int(value_P.argmax())], float(value_P.max())


def _list_transfers(here_K: Floats, step: float, bounds: MixtureLimits) -> Floats:
    """(P, K) allowed mixtures after one transfer of up to `step`, as far as the bounds let both domains go."""
    given_K = np.minimum(step, here_K - bounds.low_K)
    taken_K = np.minimum(step, bounds.high_K - here_K)
    amount_KK = np.minimum(given_K[:, None], taken_K[None])
    np.fill_diagonal(amount_KK, 0.0)
    source_P, target_P = np.nonzero(amount_KK > 1e-9)
    moved_PK = np.tile(here_K, (len(source_P), 1))
    rows_P = np.arange(len(source_P))
    moved_PK[rows_P, source_P] -= amount_KK[source_P, target_P]
    moved_PK[rows_P, target_P] += amount_KK[source_P, target_P]
    return moved_PK[bounds.admits(moved_PK)]


def _build_value(surrogate: Surrogate, goal: MixtureGoal) -> Value:
    return lambda weights_CK: goal.values(weights_CK, surrogate.mean(weights_CK))


def _move_within(weights_CK: Floats, bounds: MixtureLimits) -> Floats:
    """Each mixture as it is, or the nearest allowed one."""
    inside_C = bounds.admits(weights_CK)
    return weights_CK if inside_C.all() else np.where(inside_C[:, None], weights_CK, bounds.nearest(weights_CK))


def _measure_distance(weights_CK: Floats, other_K: Floats) -> Floats:
    return np.asarray(np.abs(weights_CK - other_K).sum(axis=1) / 2)


def _take_interval(draws: Floats) -> Floats:
    tail = (1 - CONFIDENCE) / 2
    return np.asarray(np.quantile(draws, [tail, 1 - tail], axis=0))


def _refuse_strangers(surrogate: Surrogate, utility: MixtureUtility, bounds: MixtureLimits) -> None:
    if surrogate.capabilities != utility.columns:
        found = f"expected the surrogate's ({', '.join(surrogate.capabilities)}), found {', '.join(utility.columns)}"
        raise MixtureError("utility's capabilities", found, "Build both from the same columns of scores.")
    if surrogate.weights_NK.shape[1] != len(bounds.domains):
        found = f"expected the surrogate's {surrogate.weights_NK.shape[1]} domains, found {len(bounds.domains)}"
        raise MixtureError("bounds", found, "Build them for the columns of the weights.")
