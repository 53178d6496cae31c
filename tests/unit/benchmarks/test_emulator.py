"""The emulator of a recorded pool, on answers that are known at all weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
from benchmarks.pools import RecordedPool, RecordedTask
from benchmarks.pools.design import list_design
from benchmarks.pools.emulator import (
    Penalty,
    PoolEmulator,
    build_terms,
    choose_penalty,
    leave_out,
    measure_error,
    read_outputs,
    solve,
)

ITEMS, CHOICES, MERGES = 30, 3, 40


def answer_truly(weights_MV: np.ndarray) -> np.ndarray:
    """Log-likelihoods that are cubic in two weights, (merges, items * choices)."""
    draws = np.random.default_rng(0)
    w, v = weights_MV.T.astype(np.float64)
    terms = np.stack([np.ones_like(w), w, v, w * v, w**2, v**2 * w, w**3], axis=1)
    return terms @ draws.normal(size=(7, ITEMS * CHOICES))


def share_out(weights_MV: np.ndarray) -> np.ndarray:
    """Shares of the sum of the weights; the base's are zeros."""
    return weights_MV / np.maximum(weights_MV.sum(axis=1, keepdims=True), 1e-9)


def make_pool(weights_MV: np.ndarray, *, written: bool = False, method: str = "task_arithmetic") -> RecordedPool:
    """A task of choices by likelihood a character, and with `written` one whose answers are written."""
    values_MR = answer_truly(share_out(weights_MV) if method == "ties" else weights_MV)
    length_R = np.tile([3, 4, 5], ITEMS)
    gold_N = np.arange(ITEMS) % CHOICES
    right_MN = (values_MR / length_R).reshape(-1, ITEMS, CHOICES).argmax(axis=2) == gold_N
    offsets = CHOICES * np.arange(ITEMS + 1)
    zeros = np.zeros(ITEMS, dtype=int)
    tasks = {
        "choose": RecordedTask(
            "choose", "multiple_choice", "acc_norm", values_MR, offsets, gold_N, length_R, zeros, right_MN
        )
    }
    if written:
        ones, told_MR = np.ones(ITEMS, dtype=int), values_MR[:, :ITEMS]
        ends = np.arange(ITEMS + 1)
        tasks["write"] = RecordedTask(
            "write", "generate_until", "exact_match", told_MR, ends, zeros, ones, zeros, told_MR > 0.5
        )
    return RecordedPool("made", method, ("a", "b"), weights_MV, tasks, {"merge": json.dumps({"method": method})})


def test_answers_that_are_cubic_in_the_weights_are_repeated_anywhere() -> None:
    emulator = PoolEmulator.fit(make_pool(list_design(2, MERGES, seed=0)))
    others = np.random.default_rng(1).random((20, 2))
    expected = make_pool(others).tasks["choose"]

    found = emulator.answer(others)["choose"]

    np.testing.assert_allclose(found.loglikelihood_MR, expected.loglikelihood_MR, atol=1e-3)
    np.testing.assert_array_equal(found.score_MN, expected.score_MN)
    assert emulator.error.explained == pytest.approx(1, abs=1e-4)
    assert emulator.error.points < 0.5 > abs(emulator.error.bias)
    assert emulator.answer(others[0])["choose"].score_MN.shape == (1, ITEMS)


def test_a_method_that_divides_by_the_weights_is_a_polynomial_of_shares() -> None:
    emulator = PoolEmulator.fit(make_pool(list_design(2, MERGES, seed=0), method="ties"))
    others = np.random.default_rng(1).random((20, 2))
    expected = make_pool(others, method="ties").tasks["choose"]

    found = emulator.answer(others)["choose"]

    np.testing.assert_allclose(found.loglikelihood_MR, expected.loglikelihood_MR, atol=1e-3)
    np.testing.assert_allclose(emulator.answer(3 * others)["choose"].loglikelihood_MR, found.loglikelihood_MR)


def test_merges_without_a_vector_stand_for_themselves_where_the_method_divides_by_the_weights() -> None:
    pool = make_pool(list_design(2, MERGES, seed=0), method="ties")
    true_MR = pool.tasks["choose"].loglikelihood_MR
    true_MR[:3] += 50  # the base and single vectors, far from what lies around them

    found = PoolEmulator.fit(pool).answer(np.array([[0, 0], [0.3, 0], [0, 1], [1e-4, 0.5]]))["choose"].loglikelihood_MR

    np.testing.assert_allclose(found[:3], true_MR[:3])
    assert np.median(found[3] - true_MR[2]) < -40


def test_written_answers_have_an_expected_score() -> None:
    pool = make_pool(list_design(2, MERGES, seed=0), written=True)

    found = PoolEmulator.fit(pool).answer(pool.weights_MV)["write"]

    assert found.score_MN.shape == (MERGES, ITEMS)
    assert 0 <= found.score_MN.min() <= found.score_MN.max() <= 1
    assert np.corrcoef(found.score_MN.ravel(), pool.tasks["write"].score_MN.ravel())[0, 1] > 0.8


def test_the_error_of_a_merge_left_out_is_that_of_a_fit_without_it() -> None:
    weights_MV = list_design(3, 25, seed=0)
    values_MR = np.random.default_rng(0).normal(size=(25, 4))
    terms, penalty = build_terms(weights_MV), Penalty(0.1, 3.0)

    expected = []
    for row in range(25):
        kept = np.arange(25) != row
        coefficients = solve(build_terms(weights_MV[kept]), values_MR[kept], penalty)
        expected.append(terms.values_MP[row] @ coefficients)

    np.testing.assert_allclose(leave_out(terms, values_MR, penalty), expected)


def test_terms_are_all_products_up_to_the_third_degree() -> None:
    terms = build_terms(np.array([[0.5, 1.0]]))

    assert np.bincount(terms.degrees_P).tolist() == [1, 2, 3, 4]
    assert terms.degrees_P[0] == 0
    assert terms.values_MP[0, 0] == 1


def test_noise_is_penalised_and_a_clean_cubic_is_not() -> None:
    weights_MV = list_design(2, MERGES, seed=0)
    terms, noise_MR = build_terms(weights_MV), np.random.default_rng(0).normal(size=(MERGES, 50))

    assert choose_penalty(terms, noise_MR).first > choose_penalty(terms, answer_truly(weights_MV)).first


def test_errors_are_in_points_and_nats() -> None:
    pool = make_pool(list_design(2, MERGES, seed=0))
    task = pool.tasks["choose"]

    shifted = read_outputs(task, task.loglikelihood_MR + 7)  # every choice alike: margins are as they were
    other = read_outputs(task, task.loglikelihood_MR + np.tile([1.0, -1.0, 0.0], ITEMS))

    rows_M = np.ones(MERGES, dtype=bool)
    assert measure_error(pool, {"choose": shifted}, rows_M).margin_nats == pytest.approx(0, abs=1e-9)
    assert measure_error(pool, {"choose": other}, rows_M).margin_nats == pytest.approx(np.sqrt(2 / 3))
    assert measure_error(pool, {"choose": other}, rows_M).points > 1
