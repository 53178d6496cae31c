"""The surrogate: choice, report, error bars, determinism, refusals."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from aftermix.errors import MixtureError
from aftermix.mixture import Surrogate
from aftermix.mixture.simplex import check_simplex
from aftermix.mixture.surrogates.out_of_fold import CONSTANT, OutOfFold, choose, draw_folds, score_predictions
from aftermix.mixture.surrogates.regressors import BLENDS, REGRESSORS, fit
from aftermix.mixture.surrogates.surrogate import FEWEST_POINTS

DRAW = np.random.default_rng(0)
WEIGHTS = DRAW.dirichlet(np.ones(3), 30)


def smooth(weights: np.ndarray) -> np.ndarray:
    """Two capabilities: one with a peak inside, one that grows with the logarithm of the first share."""
    peak = 1 - ((weights - [0.5, 0.3, 0.2]) ** 2).sum(axis=1)
    return np.stack([peak, np.log(weights[:, 0] + 0.01)], axis=1)


@pytest.fixture(scope="module")
def fitted() -> Surrogate:
    return Surrogate.fit(WEIGHTS, smooth(WEIGHTS), capabilities=["peak", "log"])


def test_it_foretells_a_smooth_surface(fitted: Surrogate) -> None:
    others = np.random.default_rng(1).dirichlet(np.ones(3), 200)
    mean, std = fitted.predict(others)
    assert mean.shape == std.shape == (200, 2)
    assert np.abs(mean[:, 0] - smooth(others)[:, 0]).max() < 0.03
    assert (std > 0).all()


def test_every_regressor_is_reported_and_the_choice_is_among_them(fitted: Surrogate) -> None:
    assert [report.capability for report in fitted.report] == ["peak", "log"]
    for name, report in zip(fitted.choice, fitted.report, strict=True):
        assert set(report.candidates) == {*REGRESSORS, *BLENDS}
        assert report.choice == name
        assert report.chosen == report.candidates[name]
    peak = fitted.report[0].candidates
    assert peak["gaussian_process"].spearman > peak["log_linear"].spearman
    assert peak["gaussian_process"].rmse < 0.1 * peak["log_linear"].rmse
    assert fitted.choice[0].startswith("gaussian_process")


def test_one_regressor_may_be_all_that_is_wanted() -> None:
    """As MergeMix's LightGBM is; the figures of the others still tell what it costs."""
    peak = smooth(WEIGHTS)[:, :1]
    found = Surrogate.fit(WEIGHTS, peak, only="lightgbm")
    assert (found.choice, found.report[0].choice) == (("lightgbm",), "lightgbm")
    assert found.report[0].candidates["gaussian_process"].error < found.report[0].candidates["lightgbm"].error
    np.testing.assert_array_equal(found.mean(WEIGHTS)[:, 0], fit("lightgbm", WEIGHTS, peak[:, 0]).predict(WEIGHTS))


def test_the_same_seed_gives_the_same_bits_and_another_one_other_folds() -> None:
    scores = smooth(WEIGHTS) + 0.1 * DRAW.standard_normal((30, 2))
    one, two, three = (Surrogate.fit(WEIGHTS, scores, seed=seed) for seed in (5, 5, 6))
    for left, right in zip(one.predict(WEIGHTS), two.predict(WEIGHTS), strict=True):
        assert np.array_equal(left, right)
    assert one.report == two.report
    assert one.report != three.report


def test_error_bars_hold_what_they_promise() -> None:
    inside, below = [], []
    for draw in range(4):
        numbers = np.random.default_rng(draw)
        weights, others = numbers.dirichlet(np.ones(3), 40), numbers.dirichlet(np.ones(3), 400)
        scores = smooth(weights) + 0.1 * numbers.standard_normal((40, 2))
        mean, std = Surrogate.fit(weights, scores, seed=draw).predict(others)
        measured = smooth(others) + 0.1 * numbers.standard_normal((400, 2))
        inside.append(np.mean(np.abs(measured - mean) < 1.96 * std))
        below.append(np.mean(np.abs(measured - mean) < std))
    assert 0.9 <= np.mean(inside) <= 0.99
    assert 0.6 <= np.mean(below) <= 0.85


def test_error_bars_grow_away_from_the_points() -> None:
    weights = np.stack([np.linspace(0.3, 0.7, 20), 1 - np.linspace(0.3, 0.7, 20)], axis=1)
    surrogate = Surrogate.fit(weights, np.sin(9 * weights[:, :1]))
    _, std = surrogate.predict([[0.5, 0.5], [1.0, 0.0]])
    assert std[1, 0] > 3 * std[0, 0]


def test_a_constant_capability_is_named_and_predicted_without_error() -> None:
    surrogate = Surrogate.fit(WEIGHTS, np.column_stack([np.full(30, 0.25), smooth(WEIGHTS)[:, 0]]))
    mean, std = surrogate.predict(WEIGHTS)
    assert surrogate.choice[0] == CONSTANT
    assert surrogate.report[0].candidates == {}
    assert surrogate.report[0].chosen is None
    assert (mean[:, 0] == 0.25).all()
    assert (std[:, 0] == 0).all()


def test_a_score_that_differs_at_one_point_only() -> None:
    scores = np.zeros((30, 1))
    scores[7] = 1.0
    mean, std = Surrogate.fit(WEIGHTS, scores).predict(WEIGHTS)
    assert np.isfinite(mean).all()
    assert (std > 0).all()


@pytest.mark.parametrize(("points", "domains"), [(5, 2), (5, 5)])
def test_as_few_points_as_there_may_be(points: int, domains: int) -> None:
    draw = np.random.default_rng(2)
    weights = draw.dirichlet(np.ones(domains), points)
    mean, std = Surrogate.fit(weights, draw.standard_normal((points, 1))).predict(np.eye(domains))
    assert np.isfinite(mean).all()
    assert (std > 0).all()


def test_rounded_shares_are_taken_as_what_they_stand_for() -> None:
    rounded = WEIGHTS.round(3) * 1.004
    exact = rounded / rounded.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(check_simplex(rounded), exact, rtol=0, atol=1e-15)


def test_repeats_of_a_mixture_share_a_fold() -> None:
    repeated = np.concatenate([WEIGHTS, WEIGHTS[:5]])
    assigned = draw_folds(repeated, seed=3)
    assert (assigned[:, :5] == assigned[:, 30:]).all()
    assert sorted(np.bincount(draw_folds(WEIGHTS, seed=3)[0])) == [3, 3, 4, 4, 4, 4, 4, 4]


def test_figures_by_hand() -> None:
    measured = np.array([1.0, 2.0, 3.0, 6.0])
    predicted = np.array([[1.0, 2.0, 5.0, 4.0]])
    found = score_predictions(predicted, measured, larger_is_better=True)
    assert found.rmse == pytest.approx(np.sqrt(8 / 4))
    assert found.spearman == pytest.approx(0.8)
    assert found.regret == 3.0  # the third is predicted best, the fourth is
    assert found.optimism == 2.0
    assert found.error == pytest.approx(np.sqrt(2) / measured.std() + 0.2)
    smaller = score_predictions(predicted, measured, larger_is_better=False)
    assert (smaller.regret, smaller.optimism) == (0.0, 0.0)


def test_other_capabilities_break_a_near_tie() -> None:
    def figure(error: float) -> OutOfFold:
        return OutOfFold(spearman=0.9, rmse=1.0, regret=0.0, optimism=0.0, error=error)

    def row(process: float, trees: float) -> dict[str, OutOfFold]:
        return {name: figure(9.0) for name in (*REGRESSORS, *BLENDS)} | {
            "gaussian_process": figure(process),
            "lightgbm": figure(trees),
        }

    assert choose({0: row(0.31, 0.30)}) == {0: "lightgbm"}
    assert choose({0: row(0.31, 0.30), 1: row(0.2, 0.4)}) == dict.fromkeys((0, 1), "gaussian_process")
    assert choose({0: row(0.9, 0.3), 1: row(0.25, 0.4)}) == {0: "lightgbm", 1: "lightgbm"}
    assert choose({0: row(0.6, 0.3), 1: row(0.2, 0.6)}) == {0: "lightgbm", 1: "gaussian_process"}


def test_resampled_surrogates_vary_around_the_fit_and_are_seeded(fitted: Surrogate) -> None:
    drawn = [other.mean(WEIGHTS) for other in fitted.resampled(seed=1, draws=20)]
    again = [other.mean(WEIGHTS) for other in fitted.resampled(seed=1, draws=20)]
    assert all(np.array_equal(left, right) for left, right in zip(drawn, again, strict=True))
    spread = np.std(drawn, axis=0)
    assert (spread > 0).any()
    assert np.abs(np.mean(drawn, axis=0) - fitted.mean(WEIGHTS)).max() < 3 * spread.max() + 1e-6


@pytest.mark.parametrize(
    ("weights", "scores", "said"),
    [
        (
            [[0.5, 0.6]] * 9,
            np.ones((9, 1)),
            "weights, row 0: expected shares of at least 0 that sum to 1, found a sum of",
        ),
        ([[0.5, 0.5], [1.5, -0.5]] * 5, np.ones((10, 1)), "row 1: expected shares .* a lowest share of -0.5"),
        ([[1.0]] * 9, np.ones((9, 1)), "weights: expected two domains or more, found 1"),
        (WEIGHTS[:2], np.ones((2, 1)), f"expected at least {FEWEST_POINTS} distinct points for 3 domains, found 2"),
        (WEIGHTS[:1].repeat(9, 0), np.ones((9, 1)), "for 3 domains, found 1. Measure more points, or join domains"),
        (WEIGHTS, np.ones((29, 1)), "scores: expected one row for each of the 30 points, found 29"),
        (WEIGHTS, np.ones(30), r"scores: expected a table \(points, columns\), found the shape \(30,\)"),
        (WEIGHTS, np.full((30, 2), np.nan), "scores, row 0, column 0: expected finite numbers, found nan"),
        (WEIGHTS, [["a"]] * 30, "scores: expected a table of numbers"),
    ],
)
def test_unusable_tables_are_refused(weights: object, scores: object, said: str) -> None:
    with pytest.raises(MixtureError, match=said):
        Surrogate.fit(weights, scores)


def test_fewer_points_than_domains_are_refused() -> None:
    with pytest.raises(MixtureError, match="weights: expected at least 17 distinct points for 17 domains, found 16"):
        Surrogate.fit(np.random.default_rng(0).dirichlet(np.ones(17), 16), np.ones((16, 1)))


def test_names_must_fit_the_columns() -> None:
    with pytest.raises(
        MixtureError, match="capabilities: expected 2 names, one for each column of the scores, found 1"
    ):
        Surrogate.fit(WEIGHTS, smooth(WEIGHTS), capabilities=["peak"])
    with pytest.raises(MixtureError, match="capabilities: expected distinct names, found 'peak' twice"):
        Surrogate.fit(WEIGHTS, smooth(WEIGHTS), capabilities=["peak", "peak"])


def test_candidates_of_other_domains_are_refused(fitted: Surrogate) -> None:
    with pytest.raises(MixtureError, match="candidates: expected 3 domains as in the fit, found 2"):
        fitted.predict([[0.5, 0.5]])
    with pytest.raises(MixtureError, match="candidates, row 0: .* found a sum of 3"):
        fitted.predict([[1, 1, 1]])


def test_importing_the_package_loads_no_trees() -> None:
    code = "import sys, aftermix.mixture, aftermix.mixture.ratios; print('lightgbm' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        from aftermix.mixture import Nothing  # noqa: F401
