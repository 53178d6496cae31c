"""Intervals of predictions: error of the response, drawing of documents, scatter of the metric."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student
from tests.unit.response.response_world import ParabolaWorld, list_design, place_merges

from aftermix.response.draws import CandidateScores, draw_objective
from aftermix.response.margins import ChoiceItems
from aftermix.response.measurements import TaskMeasurements
from aftermix.response.predictions import predict_scores
from aftermix.response.response_model import ResponseModel

WEIGHTS = {"task0": 0.7, "task1": 0.3}
NEW = place_merges(np.array([[0.3, 0.4], [0.9, 0.2]]))


def fit(*, copies: int = 1, grouped: bool = True) -> ResponseModel:
    """A response to 60 documents, each of which stands in `copies` items."""
    design = list_design(2, 10)
    measured = ParabolaWorld(items=60).measure(design)
    if copies > 1:
        measured = {name: repeat_items(task, copies, grouped=grouped) for name, task in measured.items()}
    return ResponseModel.fit(place_merges(design), measured, seed=0)


def repeat_items(task: TaskMeasurements, copies: int, *, grouped: bool) -> TaskMeasurements:
    """Every item `copies` times, one document or as many."""
    items, likelihood = task.items, task.loglikelihood_NR
    assert items is not None
    assert likelihood is not None
    count = len(task.shares_I)
    offsets = np.arange(0, 4 * count * copies + 1, 4)
    return TaskMeasurements(
        "choice",
        np.tile(task.scores_NI, copies),
        np.tile(task.shares_I, copies) / copies,
        np.tile(np.arange(count), copies) if grouped else np.arange(count * copies),
        np.tile(likelihood, copies),
        ChoiceItems(offsets, np.tile(items.gold_I, copies), np.ones(offsets[-1])),
    )


@pytest.fixture(scope="module")
def model() -> ResponseModel:
    return fit()


def test_an_interval_has_three_parts(model: ResponseModel) -> None:
    predicted = predict_scores(model, NEW, {"sum": WEIGHTS})["sum"]
    error = model.calibrate(WEIGHTS)
    deviation = np.sqrt(model.process.compute_variances(NEW))
    items = {name: task.predict_items(NEW) for name, task in model.tasks.items()}
    drawn = sum(weight**2 * items[name].var(axis=1) / 60 for name, weight in WEIGHTS.items())

    response = student.ppf(0.975, error.degrees) * error.scale * deviation
    half = np.sqrt(response**2 + norm.ppf(0.975) ** 2 * (drawn + error.line_deviation**2))
    assert predicted.high_C - predicted.mean_C == pytest.approx(half, rel=1e-4)
    assert predicted.mean_C - predicted.low_C == pytest.approx(half, rel=1e-4)


def test_copies_of_documents_narrow_no_interval(model: ResponseModel) -> None:
    """Twice the items of the same documents are as sure as once; taken for others, they would seem surer."""
    models = model, fit(copies=2), fit(copies=2, grouped=False)
    once, grouped, apart = (predict_scores(each, NEW, {"sum": WEIGHTS})["sum"] for each in models)
    assert grouped.high_C - grouped.low_C == pytest.approx(once.high_C - once.low_C, rel=0.02)
    assert (apart.high_C - apart.low_C < 0.97 * (once.high_C - once.low_C)).all()


def test_copies_share_a_draw_of_the_bootstrap() -> None:
    grouped, apart = fit(copies=2), fit(copies=2, grouped=False)
    spreads = []
    for each in (grouped, apart):
        scores = CandidateScores.predict(each, each.points)
        drawn = draw_objective(each, scores, WEIGHTS, rng=np.random.default_rng(0), draws=4000)
        spreads.append(float(drawn[:, 0].std()))
    assert spreads[0] == pytest.approx(np.sqrt(2) * spreads[1], rel=0.08)
    assert grouped.tasks["task0"].documents_I.tolist() == [*range(60), *range(60)]
