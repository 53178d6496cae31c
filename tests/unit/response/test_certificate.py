"""Draws, certificate and proposals on a world whose truth can be asked."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.response.response_world import ParabolaWorld, list_design, place_merges

from aftermix.response.calibration import calibrate_score
from aftermix.response.certificate import certify_winner, compute_gains
from aftermix.response.draws import CandidateScores, draw_objective
from aftermix.response.proposals import choose_sampled_optima, find_front
from aftermix.response.response_model import ResponseModel

WEIGHTS = {"task0": 0.5, "task1": 0.5}


@pytest.fixture(scope="module")
def world() -> ParabolaWorld:
    return ParabolaWorld()


@pytest.fixture(scope="module")
def model(world: ParabolaWorld) -> ResponseModel:
    design = list_design(2, 10)
    return ResponseModel.fit(place_merges(design), world.measure(design), seed=0)


@pytest.fixture(scope="module")
def scores(model: ResponseModel) -> CandidateScores:
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9)), axis=-1).reshape(-1, 2)
    return CandidateScores.predict(model, model.points.join(place_merges(grid)))


def test_draws_stand_about_the_prediction_with_the_error_of_the_items(
    model: ResponseModel, scores: CandidateScores
) -> None:
    drawn = draw_objective(model, scores, WEIGHTS, rng=np.random.default_rng(0), draws=4000)
    means = scores.compute_means(model)
    assert drawn.mean(axis=0) == pytest.approx(0.5 * means["task0"] + 0.5 * means["task1"], abs=0.004)

    # At a measured merge the items alone leave something open: the variance of a bootstrap of their mean.
    items = [scores.items[name][0] for name in WEIGHTS]
    expected = np.sqrt(sum(0.25 * values.var() / (len(values) + 1) for values in items))
    assert drawn[:, 0].std() == pytest.approx(expected, rel=0.15)


def test_with_items_fixed_a_measured_merge_is_known(model: ResponseModel, scores: CandidateScores) -> None:
    drawn = draw_objective(model, scores, WEIGHTS, rng=np.random.default_rng(0), items_fixed=True)
    assert drawn[:, :10].std(axis=0).max() < 0.1 * drawn[:, 10:].std(axis=0).max() + 1e-3


def test_gains_are_over_the_winner_and_never_below_nothing() -> None:
    draws = np.array([[1.0, 2.0, 5.0], [3.0, 1.0, 9.0]], dtype=np.float32)
    within = np.array([True, True, False])
    assert compute_gains(draws, 0, within).tolist() == [1.0, 0.0]
    assert compute_gains(draws, 0, np.zeros(3, dtype=bool)).tolist() == [0.0, 0.0]


def test_the_bound_holds_for_the_best_of_all_merges(
    world: ParabolaWorld, model: ResponseModel, scores: CandidateScores
) -> None:
    """A world of ten thousand items is the population that 150 were drawn from."""
    means = scores.compute_means(model)
    winner = int(np.argmax((means["task0"] + means["task1"])[:10]))
    everything = np.ones(len(scores.candidates), dtype=bool)
    certificate = certify_winner(
        model, scores, WEIGHTS, winner=winner, within=everything, precision=0.01, rng=np.random.default_rng(0)
    )
    truth = sum(task.means for task in world.measure(scores.candidates.numbers_ND).values()) / 2
    assert truth.max() - truth[winner] <= certificate.bound + 0.01
    assert 0 <= certificate.bound_items_fixed <= certificate.bound
    assert certificate.is_met == (certificate.bound_items_fixed <= 0.01)


def test_a_winner_is_off_its_line_by_what_the_items_do_not_explain(model: ResponseModel) -> None:
    """Scatter that drawing the items explains is in the bootstrap already, and is not drawn once more."""
    scores = [model.left_out[name] for name in WEIGHTS]
    assert all(each.sampling > 0 for each in scores)
    off = sum(0.5 * (each.measured_N - each.smooth_N) for each in scores)
    explained = sum(0.25 * each.sampling for each in scores)
    left = max(float(off @ off) / (10 - 2) - explained, 0.0)
    assert model.calibrate(WEIGHTS).line_deviation == pytest.approx(np.sqrt(left))

    # What is off by as much as the items explain is off by nothing else; by ten times as much, by the rest.
    spread, error = np.full(10, 1e-4), np.tile([1.0, -1.0], 5) * 0.02
    level = np.linspace(0.3, 0.6, 10)
    explained = float(error @ error) / 8
    alone, tenth = (
        calibrate_score(level, level + error, level, spread, sampling=share * explained) for share in (1.0, 0.1)
    )
    assert alone.line_deviation == pytest.approx(0.0, abs=1e-9)
    assert tenth.line_deviation == pytest.approx(np.sqrt(0.9 * explained))


def test_the_slope_of_a_line_is_as_uncertain_as_its_points_are() -> None:
    """The standard error of a least squares slope, by a hundred lines drawn with the same scatter."""
    rng, level = np.random.default_rng(0), np.linspace(0.2, 0.6, 12)
    slopes = [np.polyfit(level, level + 0.03 * rng.standard_normal(12), 1)[0] for _ in range(2000)]
    errors = []
    for _ in range(200):
        drawn = level + 0.03 * rng.standard_normal(12)
        smooth = np.polyval(np.polyfit(level, drawn, 1), level)
        errors.append(calibrate_score(smooth, drawn, smooth, np.ones(12)).slope_error)
    assert np.median(errors) == pytest.approx(np.std(slopes), rel=0.1)


def test_more_items_halve_a_bound_that_the_items_leave_open() -> None:
    from aftermix.response.certificate import _count_items_to_halve

    assert _count_items_to_halve(0.04, 0.0) == 4.0
    factor = _count_items_to_halve(0.04, 0.01)
    assert factor is not None
    assert 0.01**2 + (0.04**2 - 0.01**2) / factor == pytest.approx(0.02**2)
    assert _count_items_to_halve(0.04, 0.02) is None


def test_sampled_optima_are_different_and_allowed() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(50, 6)).astype(np.float32)
    allowed = np.array([True, True, False, True, True, False])
    chosen = choose_sampled_optima([draws], allowed, 4, rng=rng)
    assert sorted(chosen) == [0, 1, 3, 4]
    assert chosen[0] == max((0, 1, 3, 4), key=lambda number: draws[0, number])


def test_draws_that_agree_are_followed_by_the_next_best() -> None:
    draws = np.tile(np.array([3.0, 1.0, 2.0], dtype=np.float32), (5, 1))
    assert choose_sampled_optima([draws], np.ones(3, dtype=bool), 3, rng=np.random.default_rng(0)) == [0, 2, 1]


def test_random_weights_reach_both_ends_of_a_front() -> None:
    angles = np.linspace(0, np.pi / 2, 11)
    draws = [np.tile(values, (40, 1)).astype(np.float32) for values in (np.cos(angles), np.sin(angles))]
    chosen = choose_sampled_optima(draws, np.ones(11, dtype=bool), 8, rng=np.random.default_rng(0))
    assert min(chosen) <= 2
    assert max(chosen) >= 8


def test_a_front_has_what_nothing_is_better_than() -> None:
    values = np.array([[1.0, 0.0], [0.5, 0.5], [0.4, 0.4], [0.0, 1.0], [1.0, 0.0]])
    assert sorted(find_front(values)) == [0, 1, 3]
