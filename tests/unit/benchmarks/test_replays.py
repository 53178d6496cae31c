"""Replays of searches: worlds that answer, the product's own proposals in them, and what is counted at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from benchmarks.pools import RecordedPool, RecordedTask
from benchmarks.pools.design import list_design
from benchmarks.pools.emulator import PoolEmulator
from benchmarks.replays.ceilings import compare_scores, measure_ceiling
from benchmarks.replays.coverage import count_coverage
from benchmarks.replays.proposer import ReplayProposer, certify_replay, search_by_response
from benchmarks.replays.strategies import NEEDS, STRATEGIES, list_missing, race
from benchmarks.replays.worlds import ContinuousWorld, FiniteWorld, ReplayWorld, SeenItems
from benchmarks.search_quality import compute_interval, print_budgets, replay_once

from aftermix.runs.trials import Point
from aftermix.search.proposing.first_design import list_first_design

ITEMS, CHOICES, MERGES = 60, 4, 40
VECTORS = ("it", "math")
WORLDS = ("finite", "continuous")


def build_pool(*, method: str = "task_arithmetic", written: bool = False) -> RecordedPool:
    """One task whose right choices gain by both vectors up to 0.5 and lose beyond; maybe one that is written."""
    rng = np.random.default_rng(0)
    weights_MV = list_design(2, MERGES, seed=0)
    requests, gold_N = ITEMS * CHOICES, rng.integers(0, CHOICES, ITEMS)
    right = np.arange(ITEMS) * CHOICES + gold_N
    gain_M = (weights_MV - 2 * (weights_MV - 0.25) ** 2).sum(axis=1).astype(np.float64)
    told_MR = rng.normal(-20, 1.5, requests) + weights_MV @ rng.normal(0, 0.4, (2, requests))
    told_MR[:, right] += 2 * gain_M[:, None]

    offsets, ones = CHOICES * np.arange(ITEMS + 1), np.ones(requests, dtype=int)
    right_MN = told_MR.reshape(MERGES, ITEMS, CHOICES).argmax(axis=2) == gold_N
    documents = np.arange(ITEMS)
    scores_MN = right_MN.astype(np.float32)
    tasks = {
        "choose": RecordedTask("choose", "multiple_choice", "acc", told_MR, offsets, gold_N, ones, documents, scores_MN)
    }
    if written:
        told_MN = told_MR[:, right]
        scores_MN = (told_MN > np.median(told_MN)).astype(np.float32)
        tasks["write"] = RecordedTask(
            "write", "generate_until", "exact_match", told_MN, np.arange(ITEMS + 1), 0 * gold_N, ones[:ITEMS],
            documents, scores_MN,
        )  # fmt: skip
    facts = {"merge": json.dumps({"method": method}), "machine": "none"}
    return RecordedPool("made", method, VECTORS, weights_MV, tasks, facts)


POOL = build_pool()
EMULATOR = PoolEmulator.fit(POOL)


def open_world(kind: str, items: SeenItems | None = None) -> ReplayWorld:
    seen = items or SeenItems.draw(POOL, 0.5, seed=0)
    return FiniteWorld(POOL, seen) if kind == "finite" else ContinuousWorld(POOL, seen, EMULATOR)


def test_documents_are_seen_or_judge_and_never_both() -> None:
    items = SeenItems.draw(POOL, 0.25, seed=3)
    assert len(items.search["choose"]) == 15
    assert sorted([*items.search["choose"], *items.test["choose"]]) == list(range(ITEMS))


def test_a_finite_world_runs_the_nearest_merge_that_is_left() -> None:
    world = open_world("finite")
    base = Point({"it": 0.0, "math": 0.0})
    assert world.place(base, []) == 0
    second = world.place(base, [0])
    distances = (POOL.weights_MV**2).sum(axis=1)
    assert second == 1 + int(np.argmin(distances[1:]))
    assert world.build_trial(0, 5, origin="base").objective == (pytest.approx(world.score([0])[0]),)


def test_a_continuous_world_runs_what_is_asked() -> None:
    world = open_world("continuous")
    asked = Point({"it": 0.123, "math": 0.456})
    number = world.place(asked, [])
    assert world.read_point(number) == asked
    told = EMULATOR.answer(np.array([[0.123, 0.456]]))["choose"]
    assert world.read_answers(np.array([number]))["choose"].score_MN.tolist() == told.score_MN.tolist()
    assert world.judge_points([asked])[0] == world.judge([number])[0]
    assert world.list_others([]) is None


def test_emulated_answers_that_are_written_are_right_or_wrong_and_near_merges_alike() -> None:
    pool = build_pool(written=True)
    world = ContinuousWorld(pool, SeenItems.draw(pool, 0.5, seed=0), PoolEmulator.fit(pool))
    points = [Point({"it": weight, "math": 0.3}) for weight in (0.4, 0.4001, 0.9)]
    numbers = [world.place(point, []) for point in points]
    scores = world.read_answers(np.array(numbers))["write"].score_MN
    assert set(np.unique(scores)) <= {0.0, 1.0}
    assert (scores[0] == scores[1]).mean() > 0.95


@pytest.mark.parametrize("kind", WORLDS)
def test_a_replay_begins_with_the_product_s_first_design(kind: str) -> None:
    world = open_world(kind)
    proposer = ReplayProposer.open(world, 11, seed=0)
    trials = proposer.run_all()
    design = list_first_design(world.space, 5, seed=0, is_short=True)
    assert len(trials) == 11
    assert len(set(proposer.taken)) == 11
    assert [trial.origin for trial in trials[:5]] == [suggestion.origin for suggestion in design]
    if kind == "continuous":
        assert [trial.point for trial in trials[:5]] == [suggestion.point for suggestion in design]
    assert all(trial.origin in ("sampled optimum", "sampler") for trial in trials[5:])


def test_a_method_that_divides_has_no_axes_in_its_design() -> None:
    pool = build_pool(method="ties")
    proposer = ReplayProposer.open(FiniteWorld(pool, SeenItems.draw(pool, 0.5, seed=0)), 8, seed=0)
    assert proposer.coordinates.normalised
    assert not {"base", "single"} & {suggestion.origin for suggestion in proposer.design}


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in list_missing()])
def test_every_strategy_plays_in_every_world(kind: str, name: str) -> None:
    world = open_world(kind)
    winner = STRATEGIES[name](world, 10, 0)
    assert world.judge([winner])[0] >= world.judge([world.place(Point({"it": 1.0, "math": 1.0}), [])])[0]
    assert STRATEGIES[name](open_world(kind), 10, 0) == winner


def test_a_finite_world_that_was_seen_whole_ends_a_search() -> None:
    few = replace(POOL, weights_MV=POOL.weights_MV[:9], tasks={"choose": _cut(POOL.tasks["choose"], 9)})
    items = SeenItems.draw(few, 0.5, seed=0)
    assert 0 <= search_by_response(FiniteWorld(few, items), 30, 0) < 9
    assert 0 <= STRATEGIES["tpe"](FiniteWorld(few, items), 30, 0) < 9


def _cut(task: RecordedTask, merges: int) -> RecordedTask:
    return replace(task, loglikelihood_MR=task.loglikelihood_MR[:merges], score_MN=task.score_MN[:merges])


def test_a_race_drops_what_is_surely_worse_and_counts_its_blocks() -> None:
    world = open_world("finite", SeenItems.draw(POOL, 1.0, seed=0))
    order = np.argsort(world.score(range(MERGES)))
    won, spent = race(world, int(order[0]), int(order[-1]), 0)
    assert not won
    assert spent < 5
    assert race(world, int(order[-1]), int(order[0]), 0) == (True, 5)


def test_a_strategy_without_its_package_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(list_missing()) == {name for name, package in NEEDS.items() if find_spec(package) is None}
    print_budgets(POOL, "finite", {("tpe", 100, 0.4): np.array([1.0, 2.0]), ("random", 20, 0.4): np.array([0.0, 1.0])})
    printed = capsys.readouterr().out
    # The pool has no more than forty merges for a hundred.
    assert "| tpe | 40 x 24 | 1.00 | 1.50 | +0.00 [0.00, 0.00] |" in printed
    assert "| random | 20 x 24 | 0.50 | 0.50 | -1.00 [-1.00, -1.00] |" in printed
    assert ("cma-es is LEFT OUT: the package cmaes is not installed" in printed) == (find_spec("cmaes") is None)


def test_a_replay_is_judged_against_the_base() -> None:
    items = SeenItems.draw(POOL, 0.5, seed=0)
    assert replay_once(open_world("finite", items), "random", MERGES, 0) > 0
    assert compute_interval(np.array([1.0, 1.0])) == (1.0, 1.0, 1.0)


def test_a_certificate_speaks_of_all_merges_of_its_world() -> None:
    found = certify_replay(open_world("finite"), 10, 0)
    places = {tuple(point.weights.values()) for point in found.points}
    assert len(places) == len(np.unique(POOL.weights_MV, axis=0))  # of two vectors even ones are there twice
    assert found.certificate.bound >= found.certificate.bound_items_fixed >= 0

    count = count_coverage(POOL, lambda items: FiniteWorld(POOL, items), 2, 10, share=0.5)
    assert count.replays == 2
    assert 0 <= count.held <= 1
    assert count.trivial > count.bound > 0
    assert count.gain_quantile >= count.gain >= 0


def test_a_ceiling_is_the_correlation_of_a_score_with_itself_less_its_noise() -> None:
    truth = np.linspace(0, 1, 11)
    perfect = compare_scores(truth, truth)
    assert (perfect.rho, perfect.points, perfect.rho_better) == (1.0, 0.0, 1.0)
    ceiling = measure_ceiling(FiniteWorld(POOL, SeenItems.draw(POOL, 1.0, seed=0)))
    fewer = measure_ceiling(FiniteWorld(POOL, SeenItems.draw(POOL, 0.25, seed=0)))
    assert 1 > ceiling.rho > fewer.rho
    assert ceiling.rho > ceiling.rho_better
    assert fewer.points > ceiling.points > 0
