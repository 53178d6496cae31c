"""A study that is told log-likelihoods of items is searched by response; what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aftermix
from aftermix.errors import SearchError

Family = Mapping[str, Path]
ITEMS, CHOICES = 60, 4
GOLD = (np.arange(ITEMS) % CHOICES).tolist()


def answer(weights: Mapping[str, float]) -> dict[str, Any]:
    """Items that the two vectors help each its half of, up to a point: what an own evaluation gives for one task."""
    rng = np.random.default_rng(7)
    base, noise = rng.normal(-4, 1, (ITEMS, CHOICES)), rng.normal(0, 1, (2, ITEMS, CHOICES))
    for item, right in enumerate(GOLD):
        noise[item % 2, item, right] += 3.0
    a, b = weights["a"], weights["b"]
    rows = base + noise[0] * (a - a**2) * 4 + noise[1] * (b - b**2) * 4
    return {
        "scores": (rows.argmax(axis=1) == GOLD).astype(float).tolist(),
        "loglikelihoods": rows.tolist(),
        "gold": GOLD,
    }


def open_study(family: Family, output: Path | None = None, **options: Any) -> aftermix.Study:
    pool = aftermix.Pool(family["base"], {"a": family["a"], "b": family["b"]})
    return aftermix.Study(pool, output=output, **{"strategy": "response", "seed": 1} | options)


def run_points(study: aftermix.Study, batches: int) -> None:
    for _ in range(batches):
        for point in study.ask(4):
            study.tell(point.number, {"task": answer(point.weights)})


def test_the_response_proposes_where_it_expects_the_best(family: Family) -> None:
    study = open_study(family)
    run_points(study, batches=4)
    origins = study.trials["origin"].tolist()
    assert set(origins[:8]) <= {"base", "prior", "single", "startup"}
    assert set(origins[8:]) == {"sampled optimum"}
    assert study.best is not None
    best = max(np.mean(answer({"a": a, "b": b})["scores"]) for a in np.linspace(0, 1, 9) for b in np.linspace(0, 1, 9))
    assert study.best.values[0] >= best - 1 / ITEMS

    # It knows what a merge scores that it never asked for, and how little is left to find.
    between = {"a": 0.45, "b": 0.35}
    predicted = study.predict(between)
    assert predicted.objective.low < np.mean(answer(between)["scores"]) < predicted.objective.high
    assert predicted.objective.mean == pytest.approx(predicted.tasks["task"].mean)
    assert predicted.inside
    assert study.predict({"a": 1.5}).weights == {"a": 1.5, "b": 0.0}
    assert not study.predict({"a": 1.5}).inside
    certificate = study.certificate()
    assert (certificate.model, certificate.runs, certificate.items) == ("response", 16, ITEMS)
    assert certificate.bound_items_fixed is not None
    assert certificate.bound is not None
    assert 0 <= certificate.bound_items_fixed <= certificate.bound < 0.25
    with pytest.raises(SearchError, match=r"expected a vector of the run \(a, b\), found 'c'"):
        study.predict({"c": 1.0})


def test_before_four_points_nothing_is_predicted_and_nothing_bounded(family: Family) -> None:
    study = open_study(family)
    (point,) = study.ask()
    for call in (lambda: study.predict({"a": 0.5}), study.certificate):
        with pytest.raises(
            SearchError, match="expected log-likelihoods of items, found a study that has none. Tell th"
        ):
            call()
    study.tell(point.number, {"task": answer(point.weights)})
    with pytest.raises(SearchError, match="expected 4 points with log-likelihoods, found fewer"):
        study.predict({"a": 0.5})
    certificate = study.certificate()
    assert (certificate.status, certificate.model, certificate.bound, certificate.runs) == ("trials", "none", None, 1)
    assert not certificate.is_met


def test_open_points_are_no_reason_to_ask_for_the_same_again(family: Family) -> None:
    study = open_study(family)
    run_points(study, batches=2)
    points = [tuple(point.weights.values()) for _ in range(3) for point in study.ask(2)]
    assert len(set(points)) == 6


def test_opened_again_it_asks_for_the_same_points(family: Family, tmp_path: Path) -> None:
    whole = open_study(family)
    run_points(whole, batches=3)
    run_points(open_study(family, tmp_path / "study"), batches=2)
    run_points(open_study(family, tmp_path / "study"), batches=1)
    assert open_study(family, tmp_path / "study").trials.equals(whole.trials)


def test_parts_may_be_told_apart_and_the_right_choices_once(family: Family) -> None:
    study, other = open_study(family), open_study(family)
    for number in range(12):
        (point,), (twin,) = study.ask(), other.ask()
        told = answer(point.weights)
        scores, rows, gold = {"task": told["scores"]}, {"task": told["loglikelihoods"]}, {"task": GOLD}
        study.tell(point.number, scores, rows, gold=gold if number == 0 else None)
        other.tell(twin.number, scores, {"task": {"loglikelihoods": told["loglikelihoods"], "gold": GOLD}})
    assert study.trials.equals(other.trials)


def test_a_task_without_log_likelihoods_stands_beside_one_with_them(family: Family) -> None:
    study = open_study(family, objective={"tasks": {"task": 1.0, "speed": 1.0}})
    for _ in range(3):
        for point in study.ask(4):
            study.tell(point.number, {"task": answer(point.weights), "speed": 0.5 + 0.1 * point.weights["a"]})
    assert study.trials["state"].tolist() == ["complete"] * 12
    assert study.trials["scores.speed"].between(0.5, 0.6).all()


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"gold": None}, "task 'task': expected the right choice of each item, found log-likelihoods alone"),
        ({"gold": GOLD[:-1]}, r"task 'task': expected 60 indices, found int64 of shape \(59,\)"),
        ({"gold": [*GOLD[:-1], 4]}, "task 'task', item 59: expected an index below 4, found 4"),
        ({"loglikelihoods": [[-1.0, -2.0]]}, "expected log-likelihoods of 60 items, as many as have scores, found 1"),
        ({"loglikelihoods": [[float("nan"), -2.0]] * ITEMS}, "item 0: expected finite log-likelihoods"),
        ({"loglikelihoods": [[-2.0]] * ITEMS}, r"item 0: expected two choices or more, found shape \(1,\)"),
        ({"scores": 0.5}, "expected a score for each item, whose log-likelihoods are told, found one number"),
        ({"loglikelihoods": None}, "expected log-likelihoods, which `strategy: response` needs, found scores alone"),
        ({"logliklihoods": []}, "expected scores, loglikelihoods, gold, found"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_point_stays_open(
    family: Family, parts: dict[str, Any], text: str
) -> None:
    study = open_study(family)
    (point,) = study.ask()
    with pytest.raises(SearchError, match=rf"point 0.*{text}"):
        study.tell(0, {"task": answer(point.weights) | parts})
    study.tell(0, {"task": answer(point.weights)})
    assert len(study.trials) == 1


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (slice(0, 59), "expected 60 items, as at the points before, found 59"),
        (slice(None, None, -1), "expected the right choices that were told before, found others"),
    ],
)
def test_other_items_than_before_are_refused(family: Family, items: slice, text: str) -> None:
    study = open_study(family)
    first, second = study.ask(2)
    study.tell(first.number, {"task": answer(first.weights)})
    told = {name: part[items] for name, part in answer(second.weights).items()}
    with pytest.raises(SearchError, match=text):
        study.tell(second.number, {"task": told})
