"""Utilities of measured mixtures and their intervals against slow twins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftermix.config import parse_config
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.result import predicted_utility
from aftermix.jobs.mixture.scores import UtilityScorer, compute_interval, estimate_noise
from aftermix.mixture.optimum import MixturePrediction
from aftermix.runs.mixture_records import PredictedUtilityRecord
from aftermix.runs.records import UtilityScore
from aftermix.search.intervals import RESAMPLES
from aftermix.search.objective import ObjectiveSet
from aftermix.seeds import generator

DESIGN_SCORES = np.array([[0.2, 0.5], [0.4, 0.3], [0.9, 0.1], [0.5, 0.8]])


def scoring(utility: object) -> UtilityScorer:
    values = {
        "base": "./base",
        "vectors": {"a": {"model": "./a"}, "b": {"model": "./b"}},
        "evaluate": {"tasks": ["x", "y", "z"]},
        "mixture": {"capabilities": {"xy": ["x", "y"]}, "utility": utility, "seed": 3},
    }
    setting = MixtureProblem.build_flat(parse_config(values, where="f.yaml", folder=Path()))
    objectives = ObjectiveSet.build((setting.objective,), tasks=["x", "y", "z"])
    return UtilityScorer(setting, objectives, setting.build_utility(DESIGN_SCORES))


def slow_draws(items: dict[str, list[float]], utility: str | None) -> list[float]:
    """The bootstrap item by item: the same draws, one resample after the other."""
    draws = {task: generator(3, "mixture bootstrap", task) for task in items}
    chosen = {
        task: np.concatenate([draws[task].integers(len(s), size=(100, len(s))) for _ in range(RESAMPLES // 100)])
        for task, s in items.items()
    }
    found = []
    for resample in range(RESAMPLES):
        mean = {task: sum(s[item] for item in chosen[task][resample]) / len(s) for task, s in items.items()}
        xy, z = (mean["x"] + mean["y"]) / 2, mean["z"]
        if utility is not None:
            found.append(xy - 0.5 * z)
            continue
        scaled = [
            (value - column.mean()) / column.std() for value, column in zip((xy, z), DESIGN_SCORES.T, strict=True)
        ]
        found.append(sum(scaled) / 2)
    return found


scores = st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=8)


@settings(max_examples=8)
@given(x=scores, y=scores, z=scores, utility=st.sampled_from([None, "xy - 0.5*z"]))
def test_the_interval_is_the_percentile_bootstrap_over_items(
    x: list[float], y: list[float], z: list[float], utility: str | None
) -> None:
    items = {"x": x, "y": y, "z": z}
    told = scoring(utility or {}).summarise_items(items)
    low, high = np.quantile(slow_draws(items, utility), [0.025, 0.975])
    value = told.utility.value
    assert told.utility.interval == pytest.approx((min(low, value), max(high, value)))
    xy = told.capabilities["xy"]
    assert xy.score == pytest.approx((np.mean(x) + np.mean(y)) / 2)
    assert xy.interval[0] <= xy.score <= xy.interval[1]


def test_a_difference_is_paired_so_that_equal_items_have_no_width() -> None:
    items = {"x": [0.0, 1.0, 1.0, 0.0], "y": [1.0, 0.0, 0.0, 1.0], "z": [1.0, 1.0, 0.0, 0.0]}
    assert scoring({}).compare_items(items, items).utility == UtilityScore(value=0.0, interval=(0.0, 0.0))


def test_an_expression_without_a_value_is_null_and_not_infinite() -> None:
    judged = scoring("log(z)")
    told = judged.summarise_items({"x": [0.0, 1.0], "y": [0.0, 1.0], "z": [0.0, 0.0]})
    assert told.utility == UtilityScore(value=None, interval=None)
    assert compute_interval(np.array([-np.inf, 1.0, 2.0]), 1.5) == pytest.approx([1.025, 1.975])


@pytest.mark.parametrize(
    ("value", "ends", "expected"),
    [
        (0.5, (0.25, 0.75), {"utility": 0.5, "interval": [0.25, 0.75]}),
        (0.5, (-np.inf, 0.75), {"utility": 0.5, "interval": None}),
        (-np.inf, (-np.inf, np.nan), {"utility": None, "interval": None}),
    ],
)
def test_a_prediction_without_a_value_is_null_for_json(
    value: float, ends: tuple[float, float], expected: dict[str, object]
) -> None:
    found = predicted_utility(MixturePrediction(np.zeros(1), np.zeros(1), value, ends))
    assert json.loads(found.to_bytes()) == expected
    assert PredictedUtilityRecord.parse(found.to_bytes().decode(), where="here") == found


def test_noise_is_the_spread_of_one_of_two_measurements() -> None:
    pairs = {"uniform": (np.array([0.5, 0.2]), np.array([0.6, 0.2])), "vertex a": (np.array([0.3, 0.4]), np.zeros(2))}
    told = estimate_noise(pairs, ["xy", "z"])
    assert told.points == ("uniform", "vertex a")
    assert told.sd == pytest.approx({"xy": ((0.01 + 0.09) / 4) ** 0.5, "z": (0.16 / 4) ** 0.5})
