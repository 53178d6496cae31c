"""Baselines of one tuned number: what is scanned, what is chosen on select items, and that the plan counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from aftermix.config import Config, Split
from aftermix.config.file import parse_config
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.parallel.tasks import MeasureTask
from aftermix.jobs.plan.counts import count_search_measurements
from aftermix.jobs.search.baselines import (
    PROBE_WEIGHTS,
    BaselineMerge,
    build_single_scan,
    build_uniform_scan,
    list_fixed_baselines,
    list_single_weights,
)
from aftermix.jobs.search.score_cache import BaselineScorer, ScoreCache, build_baseline_records
from aftermix.runs.records import BaselineRecord
from aftermix.runs.trials import ItemMeasurement
from aftermix.search.objective import ObjectiveSet

WINNER = {"x": [1.0, 1.0]}


def build_config(folder: Path, **vectors: dict[str, Any]) -> Config:
    named = {name: {"model": name, **vector} for name, vector in vectors.items()}
    return parse_config({"base": "base", "vectors": named, "evaluate": {"tasks": ["x"]}}, where="file", folder=folder)


class IdleEvaluator:
    """Refuses to measure: all that is asked for is kept."""

    def announce(self, task: MeasureTask, split: Split) -> None:
        raise AssertionError(f"{task.name} was to be measured on {split} items")

    def evaluate_baseline(self, baseline: BaselineMerge, split: Split) -> ItemMeasurement:
        raise AssertionError(f"{baseline.name} was to be measured on {split} items")


class KeptScores:
    """A run folder in which every merge that may be asked for is measured: nothing is evaluated."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.config, self.cache = config, ScoreCache(folder, ["x"])
        for baseline in list_fixed_baselines(config):
            self.keep(baseline, "test", 0.1)

    def keep(self, baseline: BaselineMerge | str, split: Split, score: float) -> None:
        name = baseline if isinstance(baseline, str) else baseline.name
        self.cache.scores(name, split, lambda _: ItemMeasurement({"x": [score, score]}, {}))

    def list_tuned(self, *names: str) -> list[BaselineRecord]:
        """Records of tuned baselines, which have to have these names."""
        for name in names:
            self.keep(name, "test", 0.2)
        objectives = ObjectiveSet.build(self.config.search.objective, tasks=["x"])
        scorer = BaselineScorer(cast("MergeEvaluator", IdleEvaluator()), self.cache, objectives)
        return list(build_baseline_records(scorer, self.config, WINNER)[-len(names) :])


@pytest.mark.parametrize(
    ("high", "weights"),
    [
        (1.0, [0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.5, [0.2, 0.4, 0.6, 0.8, 1.0]),
        (1.5, [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4]),
        (1.6, [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6]),
    ],
)
def test_a_single_vector_is_scanned_as_far_as_its_range_and_at_least_to_1(high: float, weights: list[float]) -> None:
    assert list_single_weights(high) == weights


def test_a_uniform_scan_gives_every_vector_the_same_share_of_each_scale() -> None:
    scan = build_uniform_scan(["a", "b", "c", "d"])
    assert [baseline.weights["a"] for baseline in scan] == [0.0625, 0.125, 0.25, 0.375, 0.5, 0.75]
    assert all(len(set(baseline.weights.values())) == 1 for baseline in scan)
    assert len({baseline.name for baseline in scan}) == len(scan)


def test_best_single_vector_is_tuned_even_where_another_one_is_better_at_1(tmp_path: Path) -> None:
    config = build_config(tmp_path, long={"range": [0.0, 1.2]}, short={})
    kept = KeptScores(tmp_path, config)
    for weight in list_single_weights(1.2):
        (at_long,), (at_short,) = build_single_scan("long", [weight]), build_single_scan("short", [weight])
        kept.keep(at_long, "select", 0.9 - abs(weight - 0.4))
        kept.keep(at_short, "select", 0.5 + 0.1 * weight)
    for place, uniform in enumerate(build_uniform_scan(config.vectors)):
        kept.keep(uniform, "select", 0.3 - 0.01 * abs(place - 3))

    single, uniform = kept.list_tuned(
        "long at its best weight (long 0.4)", "uniform Task Arithmetic at its best scale (each 0.75)"
    )
    assert (single.kind, single.weights, single.method) == ("single scan", {"long": 0.4}, "task_arithmetic")
    assert (uniform.kind, uniform.weights) == ("uniform scan", {"long": 0.75, "short": 0.75})
    assert single.difference is not None
    assert single.difference.objective == (pytest.approx(0.8),)


def test_an_instruction_vector_that_is_the_best_single_one_is_not_told_twice(tmp_path: Path) -> None:
    config = build_config(tmp_path, it={"role": "instruction"})
    kept = KeptScores(tmp_path, config)
    for scanned in build_single_scan("it", list_single_weights(1.0)):
        kept.keep(scanned, "select", scanned.weights["it"])
    for uniform in build_uniform_scan(config.vectors):
        kept.keep(uniform, "select", 1.0 - uniform.weights["it"])

    alone, uniform = kept.list_tuned(
        "it at its best weight (it 1)", "uniform Task Arithmetic at its best scale (each 0.25)"
    )
    assert (alone.kind, uniform.kind) == ("instruction scan", "uniform scan")


def test_the_plan_counts_scans_and_what_they_choose(tmp_path: Path) -> None:
    config = build_config(tmp_path, a={}, b={"range": [0.0, 2.0]})
    scans = len(PROBE_WEIGHTS) * 2 + 10 + 6
    fixed = len(list(list_fixed_baselines(config)))
    assert count_search_measurements(config) == {"search": 100, "select": 3 + scans, "test": 1 + fixed + 2}
    without = config.model_copy(update={"search": config.search.model_copy(update={"baselines": False})})
    assert count_search_measurements(without) == {"search": 100, "select": 3, "test": 1}
