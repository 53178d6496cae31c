"""The optimum over the simplex on surfaces whose optimum is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aftermix.errors import MixtureError
from aftermix.mixture import Surrogate
from aftermix.mixture.bounds import ShareBounds
from aftermix.mixture.design import build_design
from aftermix.mixture.optimum import (
    NEAR,
    MixtureGoal,
    choose_neighbours,
    choose_next_points,
    estimate_ratio_interval,
    find_best_measured,
    find_optimum,
    measure_divergence,
    predict_mixture,
    sample_mixtures,
)
from aftermix.mixture.surrogates.regressors import BoostedTrees
from aftermix.mixture.utility import MixtureUtility

DOMAINS = ["a", "b", "c"]
PEAK = np.array([0.5, 0.3, 0.2])
NAMES = ["peak", "ja"]
FREE = ShareBounds.build(DOMAINS)
FEW = 20_000


def surface(weights: np.ndarray) -> np.ndarray:
    """A capability with its peak at `PEAK`, and one that grows with the second share."""
    return np.stack([1 - ((weights - PEAK) ** 2).sum(axis=1), 0.2 + 0.5 * weights[:, 1]], axis=1)


@pytest.fixture(scope="module")
def design() -> np.ndarray:
    return build_design(DOMAINS, points=28).weights_NK


@pytest.fixture(scope="module")
def surrogate(design: np.ndarray) -> Surrogate:
    noise = 0.004 * np.random.default_rng(0).standard_normal((len(design), 2))
    return Surrogate.fit(design, surface(design) + noise, capabilities=NAMES)


def utility(surrogate: Surrogate, expression: str = "peak", floors: dict[str, float] | None = None) -> MixtureUtility:
    return MixtureUtility.build(NAMES, surrogate.scores_NM, expression=expression, floors=floors)


def test_the_peak_is_found(surrogate: Surrogate) -> None:
    found = find_optimum(surrogate, MixtureGoal(utility(surrogate)), FREE, candidates=FEW)
    np.testing.assert_allclose(found.weights_K, PEAK, atol=0.03)
    assert found.utility == pytest.approx(1.0, abs=0.01)
    assert found.floors_met
    assert found.averaged > 1
    assert list(found.shares) == DOMAINS
    assert sum(found.shares.values()) == pytest.approx(1.0)
    again = find_optimum(surrogate, MixtureGoal(utility(surrogate)), FREE, candidates=FEW)
    assert np.array_equal(found.weights_K, again.weights_K)


def test_bounds_fixed_shares_and_epoch_caps_are_kept(surrogate: Surrogate) -> None:
    bounds = ShareBounds.build(
        DOMAINS, fixed={"c": 0.3}, tokens={"a": 1e9, "b": 9e9, "c": 9e9}, budget_tokens=1e10, max_epochs=4
    )
    found = find_optimum(surrogate, MixtureGoal(utility(surrogate)), bounds, candidates=FEW)
    np.testing.assert_allclose(found.weights_K, [0.4, 0.3, 0.3], atol=0.02)
    assert bounds.admits(found.weights_K[None])[0]


def test_floors_come_first(surrogate: Surrogate) -> None:
    floored = utility(surrogate, floors={"ja": 0.45})
    found = find_optimum(surrogate, MixtureGoal(floored), FREE, candidates=FEW)
    assert found.floors_met
    np.testing.assert_allclose(found.weights_K, [0.4, 0.5, 0.1], atol=0.05)
    hopeless = find_optimum(surrogate, MixtureGoal(utility(surrogate, floors={"ja": 2.0})), FREE, candidates=FEW)
    assert not hopeless.floors_met
    assert hopeless.weights_K[1] > 0.9  # as near to the floor as can be


def test_a_pull_moves_the_optimum_to_the_prior(surrogate: Surrogate) -> None:
    prior = np.array([0.1, 0.1, 0.8])
    shares = []
    for pull in (0.0, 0.05, 100.0):
        goal = MixtureGoal.build(utility(surrogate), FREE, prior=prior, pull=pull)
        shares.append(find_optimum(surrogate, goal, FREE, candidates=FEW).weights_K)
    np.testing.assert_allclose(shares[0], PEAK, atol=0.03)
    np.testing.assert_allclose(shares[2], prior, atol=0.03)
    assert shares[0][2] < shares[1][2] < shares[2][2]


def test_divergence_by_hand() -> None:
    found = measure_divergence(np.array([[0.5, 0.5, 0.0]]), np.array([0.25, 0.25, 0.5]))
    assert found[0] == pytest.approx(np.log(2))


def test_plateaus_of_trees_are_averaged() -> None:
    """A plateau from 0.3 to 0.7: the first maximum is anywhere on it, the middle is the answer."""
    first = np.linspace(0, 1, 41)
    weights = np.stack([first, 1 - first], axis=1)
    flat = Surrogate.fit(weights, np.where(np.abs(first - 0.5) < 0.19, 1.0, 0.0)[:, None], capabilities=["x"])
    trees = replace(flat.models[0], regressor=BoostedTrees.fit(weights, flat.scores_NM[:, 0]))
    flat = replace(flat, models=(trees,))
    goal = MixtureGoal(MixtureUtility.build(["x"], flat.scores_NM, expression="x"))
    found = find_optimum(flat, goal, ShareBounds.build(["a", "b"]), candidates=FEW)
    assert found.weights_K[0] == pytest.approx(0.5, abs=0.06)


def test_between_two_peaks_one_is_taken() -> None:
    first = np.linspace(0, 1, 41)
    weights = np.stack([first, 1 - first], axis=1)
    two = Surrogate.fit(weights, np.cos(4 * np.pi * first)[:, None] * -1, capabilities=["x"])
    goal = MixtureGoal(MixtureUtility.build(["x"], two.scores_NM, expression="x"))
    found = find_optimum(two, goal, ShareBounds.build(["a", "b"]), candidates=FEW)
    assert min(abs(found.weights_K[0] - 0.25), abs(found.weights_K[0] - 0.75)) < 0.02


def test_the_prediction_holds_the_measurement(surrogate: Surrogate) -> None:
    both = utility(surrogate, "0.5 * peak + ja")
    at = predict_mixture(surrogate, both, PEAK)
    low, high = at.interval
    assert low < at.utility < high
    assert low < 0.5 + 0.35 < high
    assert high - low < 0.1
    np.testing.assert_allclose(at.scores_M, [1.0, 0.35], atol=0.02)


def test_the_interval_of_ratios_is_narrow_where_it_matters_and_wide_where_not(surrogate: Surrogate) -> None:
    low, high = estimate_ratio_interval(surrogate, MixtureGoal(utility(surrogate)), FREE, draws=10)
    assert (low <= high).all()
    assert (high - low < 0.1).all()
    noise = np.random.default_rng(1).standard_normal((len(surrogate.weights_NK), 1))
    pointless = Surrogate.fit(surrogate.weights_NK, noise, capabilities=["x"])
    goal = MixtureGoal(MixtureUtility.build(["x"], noise, expression="x"))
    low, high = estimate_ratio_interval(pointless, goal, FREE, draws=10)
    assert (high - low).max() > 0.3


def test_neighbours_are_apart_allowed_and_good(surrogate: Surrogate) -> None:
    bounds = ShareBounds.build(DOMAINS, bounds={"c": (0.1, 1.0)})
    goal = MixtureGoal(utility(surrogate))
    near = choose_neighbours(surrogate, goal, bounds, PEAK, count=4, distance=0.05)
    assert near.shape == (4, 3)
    assert bounds.admits(near).all()
    points = np.vstack([PEAK, near])
    gaps = [np.abs(points[i] - points[j]).sum() / 2 for i in range(5) for j in range(i)]
    assert min(gaps) >= 0.05
    assert max(np.abs(near - PEAK).sum(axis=1) / 2) <= NEAR + 1e-9
    assert (surface(near)[:, 0] > 0.97).all()


def test_a_further_round_goes_to_the_peak_and_not_to_measured_points(surrogate: Surrogate) -> None:
    goal = MixtureGoal(utility(surrogate))
    found = choose_next_points(surrogate, goal, FREE, count=6, distance=0.04)
    assert found.shape == (6, 3)
    everything = np.vstack([surrogate.weights_NK, found])
    gaps = [
        np.abs(everything[:i] - everything[i]).sum(axis=1).min() / 2
        for i in range(len(everything) - 6, len(everything))
    ]
    assert min(gaps) >= 0.04
    assert surface(found)[:, 0].min() > 0.97
    assert choose_next_points(surrogate, goal, FREE, count=6, distance=1.5).shape == (0, 3)


def test_the_best_measured_point_is_within_the_bounds(design: np.ndarray, surrogate: Surrogate) -> None:
    bounds = ShareBounds.build(DOMAINS, bounds={"a": (0.0, 0.2)})
    best = find_best_measured(design, surrogate.scores_NM, utility(surrogate), bounds)
    assert best is not None
    inside = bounds.admits(design)
    assert surrogate.scores_NM[best, 0] == surrogate.scores_NM[inside, 0].max()
    assert find_best_measured(design[:1], surrogate.scores_NM[:1], utility(surrogate), bounds) is None


def test_samples_cover_the_allowed_part() -> None:
    bounds = ShareBounds.build(DOMAINS, bounds={"a": (0.1, 0.6)})
    drawn = sample_mixtures(bounds, count=1000, seed=0)
    assert drawn.shape == (1000, 3)
    assert bounds.admits(drawn).all()
    np.testing.assert_allclose(drawn.sum(axis=1), 1, atol=1e-9)
    assert (drawn[:, 0].min(), drawn[:, 0].max()) == pytest.approx((0.1, 0.6))


def test_refusals(surrogate: Surrogate) -> None:
    other = MixtureUtility.build(["x"], np.arange(9.0)[:, None])
    with pytest.raises(MixtureError, match=r"utility's capabilities: expected the surrogate's \(peak, ja\), found x"):
        find_optimum(surrogate, MixtureGoal(other), FREE, candidates=FEW)
    with pytest.raises(MixtureError, match="bounds: expected the surrogate's 3 domains, found 2"):
        find_optimum(surrogate, MixtureGoal(utility(surrogate)), ShareBounds.build(["a", "b"]), candidates=FEW)
    with pytest.raises(MixtureError, match="pull: expected a number of at least 0, found -1"):
        MixtureGoal.build(other, FREE, pull=-1)
    with pytest.raises(MixtureError, match="pull: a pull towards a prior without a prior"):
        MixtureGoal.build(other, FREE, pull=1)
    with pytest.raises(MixtureError, match="prior: gives no share to 'c', so every mixture with it is infinitely far"):
        MixtureGoal.build(other, FREE, prior=np.array([0.5, 0.5, 0.0]), pull=1)
    with pytest.raises(MixtureError, match="prior: expected 3 shares, found 2"):
        MixtureGoal.build(other, FREE, prior=np.array([0.5, 0.5]), pull=1)
