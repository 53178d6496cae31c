"""Optimism of a choice: known answers, a slow twin, and a real response."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from tests.unit.response.response_world import ParabolaWorld, list_design, place_merges

from aftermix.response.optimism import (
    ChoiceRule,
    RepeatedScores,
    SimulatedTask,
    choose_winners,
    simulate_optimism,
)
from aftermix.response.response_model import ResponseModel
from aftermix.search.proposing.procedure_optimism import shrink_merges, simulate_task

NOISE = 0.02


def build_task(expected: Any, **changes: Any) -> SimulatedTask:
    """A task of 100 items with these scores of merges, whose items are off them by noise alone."""
    merges = len(expected)
    scores_N = np.array(expected, float)
    values: dict[str, Any] = {
        "scores_N": scores_N,
        "expected_NI": np.tile(scores_N[:, None], 100),
        "metric_NI": scores_N[:, None] + draw_noise(merges),
        "shares_I": np.full(100, 0.01),
        "documents_I": np.arange(100),
        "error_NN": np.zeros((merges, merges)),
        "degrees": 5.0,
        "own": 0.0,
        "select_ratio": 1.0,
        "is_soft": False,
    }
    return SimulatedTask(**(values | changes))


def draw_noise(merges: int) -> np.ndarray:
    """(N, 100) noise of items, by which the mean of 100 drawn ones is off by `NOISE`; unlike from merge to merge."""
    drawn_NI = np.random.default_rng(merges).standard_normal((merges, 100))
    drawn_NI -= drawn_NI.mean(axis=1, keepdims=True)
    return NOISE * 10 * drawn_NI / drawn_NI.std(axis=1, keepdims=True)


def build_rule(merges: int, *, finalists: int = 1, floors: Mapping[str, float] | None = None) -> ChoiceRule:
    return ChoiceRule({"t": 1.0}, floors or {}, np.ones(merges, dtype=bool), finalists)


def simulate(task: SimulatedTask, rule: ChoiceRule) -> Any:
    return simulate_optimism({"t": task}, rule, {"t": np.random.default_rng(0)})


def expect_maximum(count: int) -> float:
    """Mean of the largest of `count` standard normals."""
    return float(quad(lambda x: x * count * norm.pdf(x) * norm.cdf(x) ** (count - 1), -10, 10)[0])


@pytest.mark.parametrize("merges", [2, 10, 40])
def test_the_best_of_equal_merges_is_flattered_by_the_largest_noise(merges: int) -> None:
    found = simulate(build_task([0.5] * merges), build_rule(merges))
    error = 3 * NOISE / np.sqrt(200)
    assert found.search.mean == pytest.approx(NOISE * expect_maximum(merges), abs=error)
    assert found.select.mean == pytest.approx(0, abs=error)  # these items chose nothing
    assert found.select.deviation == pytest.approx(NOISE, rel=0.2)


def test_finalists_are_flattered_on_select_items_by_their_number() -> None:
    found = simulate(build_task([0.5] * 40, select_ratio=4.0), build_rule(40, finalists=40))
    assert found.select.mean == pytest.approx(NOISE / 2 * expect_maximum(40), abs=3 * NOISE / 2 / np.sqrt(200))
    assert found.search.mean == pytest.approx(0, abs=3 * NOISE / np.sqrt(200))
    few = simulate(build_task([0.5] * 40, select_ratio=4.0), build_rule(40, finalists=3))
    assert 0 < few.select.mean < found.select.mean


def test_noise_that_all_merges_share_flatters_none() -> None:
    shared = simulate(build_task([0.5] * 10, metric_NI=np.tile(draw_noise(1), (10, 1))), build_rule(10))
    assert shared.search.mean == pytest.approx(0, abs=3 * NOISE / np.sqrt(200))
    assert shared.search.deviation == pytest.approx(NOISE, rel=0.2)


def test_a_merge_that_is_far_ahead_is_not_flattered() -> None:
    found = simulate(build_task([0.8, *[0.5] * 20]), build_rule(21, finalists=3))
    for split in (found.search, found.select):
        assert split.mean == pytest.approx(0, abs=3 * NOISE / np.sqrt(200))


def test_of_documents_that_differ_the_drawn_ones_flatter() -> None:
    """Two merges, each right on one half of the documents: the one whose half was drawn more often wins.

    The share that is drawn has the deviation `sqrt(0.25 / 100)`, and the winner the mean of its size.
    """
    expected = np.zeros((2, 100))
    expected[0, :50], expected[1, 50:] = 1.0, 1.0
    found = simulate(build_task([0.5, 0.5], expected_NI=expected, metric_NI=expected), build_rule(2))
    assert found.search.mean == pytest.approx(0.05 * np.sqrt(2 / np.pi), rel=0.2)
    # Documents of ten items each are ten in all.
    grouped = build_task([0.5, 0.5], expected_NI=expected, metric_NI=expected, documents_I=np.arange(100) // 10)
    assert simulate(grouped, build_rule(2)).search.mean == pytest.approx(0.05 * np.sqrt(20 / np.pi), rel=0.25)

    # Who ranks by expectations of half the size is flattered by the whole size of the answers.
    softer = build_task([0.5, 0.5], expected_NI=0.25 + 0.5 * expected, metric_NI=expected, is_soft=True)
    assert simulate(softer, build_rule(2)).search.mean == pytest.approx(0.05 * np.sqrt(2 / np.pi), rel=0.2)


def test_what_is_a_merge_s_own_flatters_none() -> None:
    still = build_task([0.5] * 10, metric_NI=np.full((10, 100), 0.5), own=NOISE)
    found = simulate(still, build_rule(10, finalists=3))
    assert (found.search.mean, found.select.mean) == pytest.approx((0, 0), abs=1e-12)


def choose_slowly(repeated: Mapping[str, RepeatedScores], rule: ChoiceRule, repetition: int) -> int:
    """The rule, merge by merge."""

    def rank(merge: int, field: str) -> tuple[float, float]:
        scores = {name: float(getattr(each, field)[repetition, merge]) for name, each in repeated.items()}
        broken = sum(max(0.0, floor - scores[task]) for task, floor in rule.floors.items())
        return broken, -sum(weight * scores[task] for task, weight in rule.weights.items())

    allowed = [merge for merge in range(len(rule.allowed_N)) if rule.allowed_N[merge]]
    finalists = sorted(allowed, key=lambda merge: rank(merge, "ranked"))[: rule.finalists]
    return min(finalists, key=lambda merge: rank(merge, "select"))


@pytest.mark.parametrize(("finalists", "floors"), itertools.product([1, 3, 9], [{}, {"b": 0.2}, {"a": 0.9, "b": 0.9}]))
def test_winners_are_those_of_the_slow_twin(finalists: int, floors: dict[str, float]) -> None:
    rng = np.random.default_rng(finalists)
    repeated = {name: RepeatedScores(*rng.random((4, 30, 8))) for name in ("a", "b")}
    rule = ChoiceRule({"a": 0.25, "b": 0.75}, floors, rng.random(8) < 0.7, finalists)
    expected = [choose_slowly(repeated, rule, repetition) for repetition in range(30)]
    assert choose_winners(repeated, rule).tolist() == expected


def test_a_real_response_is_repeated_with_the_answers_that_it_is_fitted_to() -> None:
    design = list_design(2, 12)
    measured = ParabolaWorld().measure(design)
    model = ResponseModel.fit(place_merges(design), measured, seed=0)
    root = np.zeros((12, 12))
    task = simulate_task(model, "task0", measured["task0"], root_NN=root, select_ratio=2.0, by_response=True)

    assert np.array_equal(task.metric_NI, measured["task0"].scores_NI)
    assert task.own == model.calibrate({"task0": 1.0}).line_deviation
    assert task.is_soft
    found = simulate(task, build_rule(12, finalists=3))
    assert -0.005 < found.select.mean < found.search.deviation
    assert found == simulate(task, build_rule(12, finalists=3))


def test_merges_that_differ_by_their_documents_alone_are_alike() -> None:
    """Noise about one score is taken off; what stands out of it stays, so that a repetition spreads as was measured."""
    rng, shares, documents = np.random.default_rng(0), np.full(200, 1 / 200), np.arange(200)
    noise = shrink_merges(0.5 + 0.3 * rng.standard_normal((40, 200)), shares, documents)
    assert noise.std() < 0.3 * 0.3 / np.sqrt(200)

    effects = np.linspace(-0.2, 0.2, 40)
    apart = 0.5 + effects[:, None] + 0.3 * rng.standard_normal((40, 200))
    shrunk = shrink_merges(apart, shares, documents)
    assert shrunk.var(ddof=1) == pytest.approx(effects.var(ddof=1), rel=0.1)

    # Items of one document are one drawing: ten of each leave a tenth of the documents.
    alike = np.repeat(0.5 + 0.3 * rng.standard_normal((40, 20)), 10, axis=1)
    assert shrink_merges(alike, shares, documents // 10).std() < 0.5 * (alike @ shares).std()
    assert shrink_merges(alike, shares, documents).std() > 0.8 * (alike @ shares).std()
