"""A study proposes what the search of a file would, from scores that it is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import aftermix
from aftermix.errors import SearchError

Family = Mapping[str, Path]


def score(weights: Mapping[str, float]) -> float:
    return -((weights["a"] - 0.6) ** 2) - (weights["b"] - 0.2) ** 2


@pytest.fixture
def study(family: Family) -> aftermix.Study:
    pool = aftermix.Pool(family["base"], {"a": family["a"], "b": family["b"]})
    return aftermix.Study(pool, ranges={"b": (0.1, 0.9)}, startup=6, seed=1)


def run_points(study: aftermix.Study, batches: int, size: int) -> None:
    for _ in range(batches):
        for point in study.ask(size):
            study.tell(point.number, {"task": score(point.weights)})


def test_points_lie_within_the_ranges_and_the_best_gets_near(study: aftermix.Study) -> None:
    run_points(study, batches=10, size=3)
    table = study.trials
    assert list(table.columns) == ["number", "state", "origin", "objective", "weights.a", "weights.b", "scores.task"]
    assert len(table) == 30
    assert table["weights.b"].between(0.1, 0.9).all()
    assert study.best is not None
    assert study.best.values[0] == table["objective"].max() > -0.02


def test_the_same_scores_give_the_same_points(study: aftermix.Study, family: Family) -> None:
    pool = aftermix.Pool(family["base"], {"a": family["a"], "b": family["b"]})
    again = aftermix.Study(pool, ranges={"b": (0.1, 0.9)}, startup=6, seed=1)
    for each in (study, again):
        run_points(each, batches=4, size=3)
    assert study.trials.equals(again.trials)


def test_open_points_are_kept_away_from(study: aftermix.Study) -> None:
    points = [tuple(point.weights.values()) for point in study.ask(12)]
    assert len(set(points)) == 12


def test_scores_of_items_are_averaged_and_failures_are_trials(study: aftermix.Study) -> None:
    first, second = study.ask(2)
    study.tell(first.number, {"task": [1.0, 0.0, None, 1.0, 0.0]})
    study.tell(second.number, None, error="out of memory")
    assert study.trials["objective"].tolist()[0] == 0.5
    assert study.trials["state"].tolist() == ["complete", "failed"]
    assert study.best is not None
    assert dict(study.merge(study.best).tensors()).keys() == dict(first.tensors()).keys()


def test_scores_of_any_kind_of_number_are_taken(study: aftermix.Study) -> None:
    first, second, third = study.ask(3)
    study.tell(first.number, {"task": np.float32(0.25)})
    study.tell(second.number, {"task": np.array([1.0, 0.0, 0.0, 0.0])})
    study.tell(third.number, {"task": True})
    assert study.trials["objective"].tolist() == [0.25, 0.25, 1.0]
    (fourth,) = study.ask()
    with pytest.raises(SearchError, match=r"point 3: task 'task': expected a number, found nan"):
        study.tell(fourth.number, {"task": []})


def test_floors_bind_and_the_objective_is_weighted(family: Family) -> None:
    pool = aftermix.Pool(family["base"], {"a": family["a"], "b": family["b"]})
    study = aftermix.Study(pool, objective={"tasks": {"x": 3.0, "y": 1.0}, "floors": {"y": 0.5}})
    low, high = study.ask(2)
    study.tell(low.number, {"x": 1.0, "y": 0.4})
    study.tell(high.number, {"x": 0.2, "y": 0.6})
    assert study.trials["objective"].tolist() == pytest.approx([0.85, 0.3])
    assert study.best is not None
    assert study.best.number == high.number


def test_what_cannot_be_told_is_refused_and_nothing_is_lost(study: aftermix.Study) -> None:
    (point,) = study.ask()
    with pytest.raises(SearchError, match=r"expected one of the open points \(0\), found 7"):
        study.tell(7, {"task": 0.5})
    with pytest.raises(SearchError, match=r"point 0: task 'task': expected a number, found nan"):
        study.tell(0, {"task": float("nan")})
    study.tell(point.number, {"task": 0.5})
    with pytest.raises(SearchError, match=r"expected one of the open points \(none\), found 0"):
        study.tell(0, {"task": 0.5})
    (point,) = study.ask()
    with pytest.raises(SearchError, match=r"point 1: expected scores of task, found other"):
        study.tell(point.number, {"other": 0.5})
    assert len(study.trials) == 1
