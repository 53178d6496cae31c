"""Bootstrap intervals: against a loop, against the normal approximation, and where they must not be NaN."""

import math
import warnings

import numpy as np
import pytest

from aftermix.config import Objective
from aftermix.errors import SearchError
from aftermix.runs.records import ScoresRecord, TaskScore
from aftermix.search.intervals import bootstrap_mean, bootstrap_task, subtract_items
from aftermix.search.objective import ObjectiveSet
from aftermix.search.summary import compare, summarise

RNG = np.random.default_rng(0)
RIGHT = {"a": (RNG.random(200) < 0.6).astype(float).tolist(), "b": RNG.random(80).tolist(), "c": [0.25]}
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}


def loop(items, weights, resamples=4000):
    """The slow twin: resample each task with replacement, score, take quantiles."""
    rng = np.random.default_rng(7)
    scores = [
        sum(weights[task] * rng.choice(items[task], size=len(items[task])).mean() for task in weights)
        for _ in range(resamples)
    ]
    return np.quantile(scores, [0.025, 0.975])


def test_the_interval_of_an_objective_is_that_of_a_plain_loop():
    found = bootstrap_mean(RIGHT, weights=WEIGHTS, seed=0)
    assert found == pytest.approx(loop(RIGHT, WEIGHTS), abs=0.004)


def test_the_interval_of_an_accuracy_is_near_the_normal_one():
    low, high = bootstrap_task(RIGHT["a"], seed=0, task="a")
    mean = np.mean(RIGHT["a"])
    half = 1.96 * math.sqrt(mean * (1 - mean) / 200)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.01)


def test_tasks_outside_the_weights_do_not_count():
    assert bootstrap_mean(RIGHT, weights={"c": 1.0}, seed=0) == (0.25, 0.25)


def test_the_seed_and_the_key_decide_and_nothing_else():
    once = bootstrap_task(RIGHT["b"], seed=0, task="b")
    assert once == bootstrap_task(RIGHT["b"], seed=0, task="b")
    assert once != bootstrap_task(RIGHT["b"], seed=1, task="b")
    assert once != bootstrap_task(RIGHT["b"], seed=0, task="another")


@pytest.mark.parametrize("scores", [[1.0] * 50, [0.0], [0.1] * 3])
def test_constant_scores_and_a_single_item_give_a_point(scores):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap_task(scores, seed=0, task="a") == (scores[0], scores[0])


def test_differences_are_paired_item_by_item():
    theirs = {task: list(scores) for task, scores in RIGHT.items()}
    theirs["a"] = [0.0, *theirs["a"][1:]] if RIGHT["a"][0] else [1.0, *theirs["a"][1:]]
    low, high = bootstrap_mean(subtract_items(RIGHT, theirs), weights=WEIGHTS, seed=0)
    # Unpaired it would span 0.1 and more: the items' own spread cancels.
    assert high - low < 0.02
    assert subtract_items(RIGHT, RIGHT)["b"] == [0.0] * 80


def test_measurements_on_other_items_are_not_compared():
    with pytest.raises(SearchError, match="task 'b': expected 2 item scores on the other side, found 1"):
        subtract_items({"a": [1.0], "b": [1.0, 0.0]}, {"a": [1.0], "b": [1.0]})
    with pytest.raises(SearchError, match="task 'a': expected 1 item scores on the other side, found 0"):
        subtract_items({"a": [1.0]}, {})


def test_a_summary_has_the_shape_of_best_json():
    objectives = ObjectiveSet.build(
        (Objective(tasks={"a": 1, "b": 3}), Objective(tasks={"c": 1})), tasks=["a", "b", "c"]
    )
    summary = summarise(RIGHT, objectives=objectives, seed=0)
    assert summary.objective == (pytest.approx((np.mean(RIGHT["a"]) + 3 * np.mean(RIGHT["b"])) / 4), 0.25)
    assert summary.interval[1] == (0.25, 0.25)
    low, high = summary.interval[0]
    assert low < summary.objective[0] < high
    assert summary.tasks["c"] == TaskScore(score=0.25, interval=(0.25, 0.25), items=1)
    assert summary.tasks["a"].items == 200


def test_a_comparison_says_by_how_much_ours_is_better():
    objectives = ObjectiveSet.build((Objective(),), tasks=["a", "b"])
    ours = {"a": [1.0, 1.0, 0.0, 1.0] * 20, "b": [0.5] * 40}
    theirs = {"a": [1.0, 0.0, 0.0, 1.0] * 20, "b": [0.25] * 40}
    difference = compare(ours, theirs, objectives=objectives, seed=0)
    assert difference.objective == (pytest.approx((0.25 + 0.25) / 2),)
    low, high = difference.interval[0]
    assert 0.19 < low < 0.25 < high < 0.31
    assert compare(ours, ours, objectives=objectives, seed=0) == ScoresRecord(objective=(0.0,), interval=((0.0, 0.0),))
