"""Each regressor against a slow twin or a surface of its own kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.linear_model import Ridge

from aftermix.mixture.surrogates.gaussian_process import (
    MEAN_VARIANCE,
    GaussianProcess,
    ProcessData,
    ProcessHyperparameters,
    compute_posterior_loss,
    compute_tied_loss,
)
from aftermix.mixture.surrogates.mixing_law import LawCoefficients, compute_loss, fit_mixing_law
from aftermix.mixture.surrogates.regressors import (
    BLENDS,
    REGRESSORS,
    STRENGTHS,
    BoostedTrees,
    LogLinear,
    LogRidge,
    RidgeLine,
    fit,
    predict_left_out,
)
from support.regmix import drawn

DRAW = np.random.default_rng(0)
WEIGHTS = DRAW.dirichlet(np.ones(4), 40)
OTHERS = DRAW.dirichlet(np.ones(4), 100)
SEEDS = st.integers(0, 2**32 - 1)


def rough(weights: np.ndarray) -> np.ndarray:
    return np.asarray(np.sin(4 * weights[:, 0]) + weights[:, 1] ** 2)


def hyperparameters(draw: np.random.Generator, domains: int) -> ProcessHyperparameters:
    start = ProcessHyperparameters.start(domains).packed
    return ProcessHyperparameters.unpacked(start + 0.3 * draw.standard_normal(len(start)))


@settings(max_examples=15)
@given(SEEDS, st.integers(2, 5))
def test_gradients_are_those_of_finite_differences(seed: int, domains: int) -> None:
    draw = np.random.default_rng(seed)
    data = ProcessData.build(draw.dirichlet(np.full(domains, 0.5), 10), draw.standard_normal(10))
    flat = hyperparameters(draw, domains).packed
    _, gradient = compute_posterior_loss(flat, data)
    slow = approx_fprime(flat, lambda x: compute_posterior_loss(x, data)[0], 1e-6)
    np.testing.assert_allclose(gradient, slow, atol=2e-4, rtol=1e-4)
    _, gradient = compute_tied_loss(flat[-5:], data)
    slow = approx_fprime(flat[-5:], lambda x: compute_tied_loss(x, data)[0], 1e-6)
    np.testing.assert_allclose(gradient, slow, atol=2e-4, rtol=1e-4)


def reference(hyper: ProcessHyperparameters) -> GaussianProcessRegressor:
    """Scikit-learn's process over warped shares; it has no line over the breadth."""
    matern = Matern(length_scale=np.exp(-hyper.rates_K), nu=2.5)
    kernel = np.exp(hyper.amplitude) * matern + ConstantKernel(MEAN_VARIANCE) + WhiteKernel(np.exp(hyper.noise))
    return GaussianProcessRegressor(kernel, optimizer=None)


@settings(max_examples=15)
@given(SEEDS)
def test_predictions_are_those_of_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    packed = hyperparameters(draw, 4).packed
    packed[-3] = -60.0  # no line over the breadth
    hyper = ProcessHyperparameters.unpacked(packed)
    values = rough(WEIGHTS)
    ours = GaussianProcess.at(hyper, WEIGHTS, values)
    warp = np.exp(hyper.exponent)
    theirs = reference(hyper).fit(WEIGHTS**warp, (values - values.mean()) / values.std())
    mean, std = theirs.predict(OTHERS**warp, return_std=True)
    np.testing.assert_allclose(ours.predict(OTHERS), values.mean() + values.std() * mean, atol=1e-6)
    np.testing.assert_allclose(ours.std(OTHERS), values.std() * std, atol=1e-5)


def test_the_breadth_alone_is_learnt_from_few_points() -> None:
    draw = np.random.default_rng(1)
    weights, others = draw.dirichlet(np.full(17, 0.2), 40), draw.dirichlet(np.full(17, 0.2), 200)

    def diversity(rows: np.ndarray) -> np.ndarray:
        return np.asarray((rows**0.25).sum(axis=1))

    predicted = GaussianProcess.fit(weights, diversity(weights)).predict(others)
    assert np.abs(predicted - diversity(others)).max() < 0.05 * diversity(others).std()


def test_domains_that_do_not_matter_get_low_rates() -> None:
    found = GaussianProcess.fit(WEIGHTS, np.sin(5 * WEIGHTS[:, 2])).hyper.rates_K
    assert found.argmax() == 2
    assert found[2] > np.delete(found, 2).max() + 0.5
    shared = GaussianProcess.fit(WEIGHTS, np.sin(5 * WEIGHTS[:, 2]), shared_rate=True).hyper.rates_K
    assert (shared == shared[0]).all()


def test_many_points_are_all_used_though_few_shape_the_surface() -> None:
    many = DRAW.dirichlet(np.ones(3), 400)
    process = GaussianProcess.fit(many, rough(many))
    assert len(process.alpha_N) == 400
    assert np.abs(process.predict(many) - rough(many)).max() < 0.01


@settings(max_examples=20)
@given(SEEDS)
def test_left_out_predictions_are_those_of_refitting(seed: int) -> None:
    draw = np.random.default_rng(seed)
    features, values = draw.standard_normal((8, 3)), draw.standard_normal(8)
    fast = predict_left_out(features, values)
    for number in (0, len(STRENGTHS) // 2, len(STRENGTHS) - 1):
        for row in range(8):
            kept = np.arange(8) != row
            slow = Ridge(alpha=STRENGTHS[number]).fit(features[kept], values[kept]).predict(features[row : row + 1])
            assert fast[number, row] == pytest.approx(slow[0], abs=1e-6)
            line = RidgeLine.at(features[kept], values[kept], STRENGTHS[number])
            assert line.predict(features[row : row + 1])[0] == pytest.approx(slow[0], abs=1e-6)


def test_a_log_linear_surface_is_found_again() -> None:
    def law(weights: np.ndarray) -> np.ndarray:
        return np.asarray(2 + np.exp(weights @ [0.5, -1.0, 0.2, -2.0]))

    fitted = LogLinear.fit(WEIGHTS, law(WEIGHTS))
    assert fitted.law.sign == 1.0
    assert np.abs(fitted.predict(OTHERS) - law(OTHERS)).max() < 0.01
    upside_down = LogLinear.fit(WEIGHTS, -law(WEIGHTS))
    assert upside_down.law.sign == -1.0
    np.testing.assert_allclose(upside_down.predict(OTHERS), -fitted.predict(OTHERS))


def test_the_mixing_law_is_the_one_that_a_general_minimiser_finds() -> None:
    """Slow twin: the loss written out, by BFGS from the same start, on a published table."""

    weights, losses = drawn(1)
    weights, values = weights / weights.sum(axis=1, keepdims=True), losses[:, 3]
    start = LawCoefficients(values.min() - 0.1, 1.0, np.full(17, np.log(values.mean() - values.min() + 0.1)))
    found, spread = fit_mixing_law(weights, values, start), values.std()

    def loss(point: np.ndarray) -> float:
        return compute_loss((point[0] + np.exp(weights @ point[1:]) - values) / spread, point[1:])

    slow = minimize(loss, np.concatenate([[start.asymptote], start.slopes_K]), method="BFGS", options={"maxiter": 400})
    assert loss(np.concatenate([[found.asymptote], found.slopes_K])) == pytest.approx(slow.fun, rel=0.01)
    assert slow.fun < 0.1 * loss(np.concatenate([[start.asymptote], start.slopes_K]))


def test_a_line_in_logarithms_is_found_again() -> None:
    def line(weights: np.ndarray) -> np.ndarray:
        return np.asarray(1 + 0.3 * np.log(weights[:, 1] + 0.01) - weights[:, 3])

    fitted = LogRidge.fit(WEIGHTS, line(WEIGHTS))
    assert fitted.offset == 0.01
    assert np.abs(fitted.predict(OTHERS) - line(OTHERS)).max() < 1e-3


def test_trees_split_forty_points() -> None:
    step = np.where(WEIGHTS[:, 0] > 0.3, 1.0, 0.0)
    predicted = BoostedTrees.fit(WEIGHTS, step).predict(OTHERS)
    assert np.mean((predicted > 0.5) == (OTHERS[:, 0] > 0.3)) > 0.95


@pytest.mark.parametrize("name", [*REGRESSORS, *BLENDS])
def test_refitting_to_the_same_values_changes_nothing(name: str) -> None:
    fitted = fit(name, WEIGHTS, rough(WEIGHTS))
    np.testing.assert_allclose(fitted.refitted(rough(WEIGHTS)).predict(OTHERS), fitted.predict(OTHERS), atol=1e-9)
    other = fitted.refitted(rough(WEIGHTS) + 10).predict(OTHERS)
    np.testing.assert_allclose(other, fitted.predict(OTHERS) + 10, atol=0.02)


@pytest.mark.parametrize("name", [*REGRESSORS, *BLENDS])
def test_values_that_do_not_vary_are_predicted(name: str) -> None:
    np.testing.assert_allclose(fit(name, WEIGHTS, np.full(40, 3.0)).predict(OTHERS), 3.0, atol=1e-6)


def test_a_blend_is_the_mean_of_its_members() -> None:
    members = [fit(member, WEIGHTS, rough(WEIGHTS)).predict(OTHERS) for member in BLENDS["blend"]]
    np.testing.assert_allclose(fit("blend", WEIGHTS, rough(WEIGHTS)).predict(OTHERS), np.mean(members, axis=0))
