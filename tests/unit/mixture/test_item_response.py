"""The response of a task's items among the regressors of a surrogate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.pools import RecordedTask, load_pool
from tests.unit.response.response_world import ParabolaWorld

from aftermix.mixture.simplex import Floats
from aftermix.mixture.surrogates.item_response import RESPONSE, ItemResponse, fit_item_responses
from aftermix.mixture.surrogates.out_of_fold import OutOfFold, choose, draw_folds
from aftermix.mixture.surrogates.surrogate import Surrogate
from aftermix.response.margins import ChoiceItems
from aftermix.response.measurements import TaskMeasurements

TASKS = ["task0", "task1"]


def draw_mixtures(count: int, *, seed: int) -> Floats:
    return np.random.default_rng(seed).dirichlet(np.ones(6), count)


def tabulate(measured: dict[str, TaskMeasurements]) -> Floats:
    return np.stack([measured[task].means for task in TASKS], axis=1)


@pytest.fixture(scope="module")
def world() -> ParabolaWorld:
    """Six domains and a dozen points: too few for their scores alone."""
    return ParabolaWorld(dimensions=6, items=200, seed=2)


@pytest.fixture(scope="module")
def points() -> Floats:
    return draw_mixtures(12, seed=0)


@pytest.fixture(scope="module")
def responses(world: ParabolaWorld, points: Floats) -> dict[str, ItemResponse]:
    return fit_item_responses(points, world.measure(points), seed=0)


@pytest.fixture(scope="module")
def without(world: ParabolaWorld, points: Floats) -> Surrogate:
    return Surrogate.fit(points, tabulate(world.measure(points)), capabilities=TASKS)


def test_it_is_chosen_where_it_predicts_better(
    world: ParabolaWorld, points: Floats, responses: dict[str, ItemResponse], without: Surrogate
) -> None:
    assert set(responses) == set(TASKS)
    scores = tabulate(world.measure(points))
    surrogate = Surrogate.fit(points, scores, capabilities=TASKS, responses=responses)
    assert surrogate.choice == (RESPONSE, RESPONSE)
    for ours, theirs in zip(surrogate.report, without.report, strict=True):
        assert ours.candidates[RESPONSE].error < min(each.error for each in theirs.candidates.values())
        assert {name: each for name, each in ours.candidates.items() if name != RESPONSE} == dict(theirs.candidates)

    # And so it does at mixtures that nobody measured.
    new = draw_mixtures(60, seed=1)
    truth = tabulate(world.measure(new))
    ours, theirs = (float(np.square(each.mean(new) - truth).mean()) for each in (surrogate, without))
    assert ours < 0.65 * theirs


def test_without_log_likelihoods_it_is_no_candidate(world: ParabolaWorld, points: Floats, without: Surrogate) -> None:
    measured = world.measure(points)
    alone = {name: replace(task, loglikelihood_NR=None, items=None) for name, task in measured.items()}
    assert fit_item_responses(points, alone, seed=0) == {}

    # Of one task of two: the other chooses among what it always had, as if there were no response.
    half = fit_item_responses(points, {"task0": measured["task0"], "task1": alone["task1"]}, seed=0)
    assert set(half) == {"task0"}
    surrogate = Surrogate.fit(points, tabulate(measured), capabilities=TASKS, responses=half)
    assert RESPONSE not in surrogate.report[1].candidates
    assert surrogate.choice[1] == without.choice[1]


def test_where_margins_tell_nothing_of_the_score_another_is_chosen(
    points: Floats, responses: dict[str, ItemResponse]
) -> None:
    smooth = np.stack([points @ [1, 0.2, 0, 0, 0, 0], points @ [0, 0.9, 0.3, 0, 0, 0]], axis=1)
    assert RESPONSE not in Surrogate.fit(points, smooth, capabilities=TASKS, responses=responses).choice


def test_a_point_held_out_is_predicted_without_its_margins(
    world: ParabolaWorld, points: Floats, responses: dict[str, ItemResponse]
) -> None:
    folds, ours, values = draw_folds(points, seed=0), responses["task0"], world.measure(points)["task0"].means
    before = ours.predict_held_out(values, folds)

    broken = replace(ours, outputs_NR=np.where(np.arange(12)[:, None] == 5, 9.0, ours.outputs_NR).astype(np.float32))
    after = broken.predict_held_out(np.where(np.arange(12) == 5, 0.0, values), folds)
    assert after[:, 5] == pytest.approx(before[:, 5], abs=1e-6)


def test_other_scores_move_the_line_alone(
    world: ParabolaWorld, points: Floats, responses: dict[str, ItemResponse]
) -> None:
    values, new = world.measure(points)["task0"].means, draw_mixtures(10, seed=4)
    line = responses["task0"].fit(values)
    moved = line.refitted(0.5 * values + 0.1)
    assert moved.predict(new) == pytest.approx(0.5 * line.predict(new) + 0.1)


def test_errors_are_averaged_over_capabilities_with_the_same_regressors() -> None:
    def figures(error: float) -> OutOfFold:
        return OutOfFold(spearman=0.5, rmse=0.1, regret=0.0, optimism=0.0, error=error)

    found = {
        0: {"ridge": figures(0.5), "lightgbm": figures(0.9), RESPONSE: figures(0.6)},
        1: {"ridge": figures(0.9), "lightgbm": figures(0.2), RESPONSE: figures(0.4)},
        2: {"ridge": figures(0.1), "lightgbm": figures(0.8)},
    }
    # 0: ridge 0.5 + 0.7, lightgbm 0.9 + 0.55, response 0.6 + 0.5; 1: 1.6, 0.75, 0.9; 2: 0.1 + 0.5, 0.8 + 0.63
    assert choose(found) == {0: RESPONSE, 1: "lightgbm", 2: "ridge"}


def read_task(task: RecordedTask) -> TaskMeasurements:
    """All merges of a recorded task."""
    offsets, gold = task.offsets.astype(np.int64), task.gold_N.astype(np.int64)
    return TaskMeasurements(
        "choice",
        task.score_MN.astype(np.float32),
        np.full(task.items, 1 / task.items),
        np.unique(task.document_N, return_inverse=True)[1].astype(np.int64),
        task.loglikelihood_MR,
        ChoiceItems(offsets, gold, task.length_R.astype(np.float64)),
    )


def test_on_recorded_merges_it_is_chosen_for_most_tasks_from_a_dozen_points() -> None:
    """The demo's pool, each merge a mixture of its vectors and of what is left of the base."""
    pool = load_pool("demo")
    inside = np.flatnonzero((pool.weights_MV >= 0).all(axis=1) & (pool.weights_MV.sum(axis=1) <= 3))
    chosen: list[str] = []
    for draw in (0, 1):
        rows = np.random.default_rng(draw).permutation(inside)[:12]
        shares = pool.weights_MV[rows].astype(np.float64) / 3
        mixtures = np.concatenate([shares, 1 - shares.sum(axis=1, keepdims=True)], axis=1)

        measured = {name: read_task(task).take(rows) for name, task in pool.tasks.items()}
        responses = fit_item_responses(mixtures, measured, seed=0)
        scores = np.stack([task.means for task in measured.values()], axis=1)
        surrogate = Surrogate.fit(mixtures, scores, capabilities=list(measured), responses=responses)
        chosen += surrogate.choice
    assert chosen.count(RESPONSE) > len(chosen) / 2
