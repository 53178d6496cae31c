"""The response of all items: merges that were never run are predicted from a dozen that were."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import spearmanr
from tests.unit.response.response_world import ParabolaWorld, list_design, place_merges

from aftermix.response.measurements import TaskMeasurements
from aftermix.response.response_model import ResponseModel
from aftermix.response.surface.process import ResponseProcess
from aftermix.response.tempered import TEMPERATURES, measure_gap

WEIGHTS = {"task0": 0.5, "task1": 0.5}


@pytest.fixture(scope="module")
def world() -> ParabolaWorld:
    return ParabolaWorld()


@pytest.fixture(scope="module")
def model(world: ParabolaWorld) -> ResponseModel:
    design = list_design(2, 10)
    return ResponseModel.fit(place_merges(design), world.measure(design), seed=0)


def test_merges_never_run_are_ranked_and_scored(world: ParabolaWorld, model: ResponseModel) -> None:
    new = np.random.default_rng(7).uniform(0, 1, (40, 2))
    truth = {name: task.means for name, task in world.measure(new).items()}
    predicted = model.predict(place_merges(new))
    for name in WEIGHTS:
        assert spearmanr(predicted[name], truth[name]).statistic > 0.9
        assert np.sqrt(np.mean((predicted[name] - truth[name]) ** 2)) < 0.03


def test_measured_merges_keep_what_was_measured(world: ParabolaWorld, model: ResponseModel) -> None:
    for name, predicted in model.predict(model.points).items():
        assert predicted == pytest.approx(model.left_out[name].smooth_N, abs=0.005)


def test_errors_left_one_out_are_those_of_models_without_the_merge(world: ParabolaWorld, model: ResponseModel) -> None:
    """The kernel is kept; temperature and line, too, so that the twin is laid through the others by hand."""
    task = model.tasks["task0"]
    measured = world.measure(list_design(2, 10))["task0"]
    assert task.scale is not None
    outputs = task.scale.apply(measured.compute_outputs()).astype(np.float64)
    for left in (0, 4, 9):
        others = np.arange(10) != left
        points = model.points.take(others)
        twin = ResponseProcess.build(model.process.kernel, points)
        rows = twin.compute_rows(model.points.take(~others))
        score = task.score_outputs(rows @ twin.whiten(outputs[others])) @ task.shares_I
        assert score[0] == pytest.approx(model.left_out["task0"].predicted_N[left], abs=1e-4)


def test_the_error_of_an_objective_is_that_of_its_weighted_scores(model: ResponseModel) -> None:
    scores = [model.left_out[name] for name in WEIGHTS]
    errors = sum(0.5 * (each.predicted_N - each.smooth_N) for each in scores)
    calibration = model.calibrate(WEIGHTS)
    assert calibration.scale == pytest.approx(float(np.sqrt(np.mean(errors**2 / model.variances_N))))
    assert calibration.degrees == 5.0
    assert calibration.rmse < 0.7 * calibration.rmse_mean


def test_the_same_measurements_give_the_same_model(world: ParabolaWorld, model: ResponseModel) -> None:
    design = list_design(2, 10)
    again = ResponseModel.fit(place_merges(design), world.measure(design), seed=0)
    assert again.process.kernel.packed.tolist() == model.process.kernel.packed.tolist()
    assert again.tasks["task1"].whitened_NR.tobytes() == model.tasks["task1"].whitened_NR.tobytes()


def test_a_broken_corner_does_not_rule_the_rest(world: ParabolaWorld) -> None:
    """Where log-likelihoods fall off a cliff of the fourth power, the rest is predicted as a parabola all the same."""
    cliffs = {name: np.random.default_rng(4).uniform(0, 400, 600) for name in WEIGHTS}

    def measure(weights: np.ndarray) -> dict[str, TaskMeasurements]:
        measured = world.measure(weights)
        for name, task in measured.items():
            assert task.loglikelihood_NR is not None
            task.loglikelihood_NR[:] -= np.outer((weights[:, 0] * weights[:, 1]) ** 4, cliffs[name])
        return measured

    design = np.concatenate([list_design(2, 10), [[1.0, 1.0], [0.95, 1.0]]])
    broken = ResponseModel.fit(place_merges(design), measure(design), seed=0)
    assert all(task.scale is not None and np.isfinite(task.scale.bound) for task in broken.tasks.values())

    inner = np.random.default_rng(7).uniform(0, 0.6, (30, 2))
    truth = sum(task.means for task in measure(inner).values()) / 2
    predicted = sum(broken.predict(place_merges(inner)).values()) / 2
    assert spearmanr(predicted, truth).statistic > 0.8


def test_a_task_without_likelihoods_is_predicted_by_its_score(world: ParabolaWorld) -> None:
    design = list_design(2, 14)
    measured = world.measure(design)
    measured["task1"] = dataclasses.replace(measured["task1"], kind="score", loglikelihood_NR=None, items=None)
    model = ResponseModel.fit(place_merges(design), measured, seed=0)
    assert [task.used for task in model.tasks.values()] == ["loglikelihood", "score"]

    new = np.random.default_rng(7).uniform(0, 1, (40, 2))
    truth = world.measure(new)["task1"].means
    predicted = model.predict(place_merges(new))["task1"]
    assert spearmanr(predicted, truth).statistic > 0.7
    assert np.sqrt(np.mean((predicted - truth) ** 2)) < 0.05


def test_references_that_tell_nothing_of_the_score_are_not_used(world: ParabolaWorld) -> None:
    design = list_design(2, 14)
    measured = world.measure(design)
    noise = np.random.default_rng(3).normal(size=(14, 150)).astype(np.float32)
    measured["task1"] = dataclasses.replace(measured["task1"], kind="reference", loglikelihood_NR=noise, items=None)
    model = ResponseModel.fit(place_merges(design), measured, seed=0)
    assert [task.used for task in model.tasks.values()] == ["loglikelihood", "score"]


def test_too_few_merges_are_refused(world: ParabolaWorld) -> None:
    design = list_design(2, 3)
    with pytest.raises(ValueError, match="expected log-likelihoods at 4 merges or more, found 3 merges"):
        ResponseModel.fit(place_merges(design), world.measure(design), seed=0)


def test_scores_alone_are_refused(world: ParabolaWorld) -> None:
    design = list_design(2, 10)
    scores: dict[str, TaskMeasurements] = {
        name: dataclasses.replace(task, kind="score", loglikelihood_NR=None, items=None)
        for name, task in world.measure(design).items()
    }
    with pytest.raises(ValueError, match="expected log-likelihoods"):
        ResponseModel.fit(place_merges(design), scores, seed=0)


def test_tasks_of_choices_share_a_temperature_over_the_size_of_their_margins(world: ParabolaWorld) -> None:
    """Ten times the likelihoods are ten times the temperature: what is shared is the factor."""
    design = list_design(2, 14)
    measured = world.measure(design)
    likelihood = measured["task1"].loglikelihood_NR
    assert likelihood is not None
    measured["task1"] = dataclasses.replace(measured["task1"], loglikelihood_NR=10 * likelihood)
    model = ResponseModel.fit(place_merges(design), measured, seed=0)

    factors = {}
    for name, task in model.tasks.items():
        assert task.scale is not None
        assert task.tempered is not None
        outputs = task.scale.apply(measured[name].compute_outputs())
        factors[name] = task.tempered.temperature / measure_gap(task.read_gaps(outputs))
    assert factors["task0"] == pytest.approx(factors["task1"])
    assert factors["task0"] in TEMPERATURES
