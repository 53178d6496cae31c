"""The tempered score: what it is at its ends, and that it holds on other items better than the accuracy does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from tests.unit.response.response_world import ParabolaWorld, list_design

from aftermix.response.tempered import (
    TEMPERATURES,
    TemperedScore,
    choose_factor,
    fit_line,
    fit_tempered,
    measure_agreements,
)


def test_a_cold_score_is_the_accuracy() -> None:
    gaps = np.array([[0.2, -0.1, 3.0, -4.0]], dtype=np.float32)
    assert TemperedScore(1e-3, 1.0, 0.0).score_items(gaps) == pytest.approx(np.array([[1.0, 0.0, 1.0, 0.0]]))


def test_the_line_is_that_of_least_squares() -> None:
    soft, score = np.array([0.1, 0.2, 0.4]), np.array([0.3, 0.35, 0.6])
    slope, intercept = fit_line(soft, score)
    assert [slope, intercept] == pytest.approx(np.polyfit(soft, score, 1))


def test_a_score_that_falls_where_answers_grow_likelier_is_predicted_by_its_mean() -> None:
    assert fit_line(np.array([0.1, 0.2]), np.array([0.6, 0.4])) == (0.0, 0.5)


def test_a_score_that_cannot_change_keeps_a_slope_of_one() -> None:
    assert fit_line(np.array([0.25, 0.25]), np.array([0.5, 0.5])) == (1.0, 0.25)


def test_a_tempered_score_ranks_merges_on_new_items_better_than_the_accuracy() -> None:
    world = ParabolaWorld(dimensions=3, tasks=1, items=600, seed=5)
    task = world.measure(list_design(3, 40))["task0"]
    assert task.items is not None
    gaps = task.items.compute_gaps(task.compute_outputs())
    here, there = np.arange(100), np.arange(100, 600)

    shares = np.full(100, 0.01)
    documents = np.arange(100)
    rng = np.random.default_rng(0)
    agreements = measure_agreements(gaps[:, here], task.scores_NI[:, here], shares, documents_I=documents, rng=rng)
    tempered = fit_tempered(gaps[:, here], task.scores_NI[:, here], shares, factor=choose_factor(agreements))
    held = task.scores_NI[:, there].mean(axis=1)
    soft = tempered.score_items(gaps[:, here]) @ shares
    ours = spearmanr(soft, held).statistic
    assert ours > spearmanr(task.scores_NI[:, here].mean(axis=1), held).statistic
    assert np.sqrt(np.mean((soft - held) ** 2)) < 0.05


def test_equal_documents_stand_in_one_half() -> None:
    """Two copies of each item would make every temperature look perfect if halves were drawn by item."""
    rng = np.random.default_rng(0)
    gaps = rng.normal(size=(12, 40)).astype(np.float32)
    twice = np.concatenate([gaps, gaps], axis=1)
    scores, shares = (twice > 0).astype(np.float32), np.full(80, 1 / 80)
    alone = measure_agreements(
        gaps, scores[:, :40], np.full(40, 1 / 40), documents_I=np.arange(40), rng=np.random.default_rng(1)
    )
    documents = np.concatenate([np.arange(40)] * 2)
    doubled = measure_agreements(twice, scores, shares, documents_I=documents, rng=np.random.default_rng(1))
    assert doubled == pytest.approx(alone, abs=1e-6)


def test_of_temperatures_that_agree_alike_the_highest_is_taken() -> None:
    agreements = np.array([0.1, 0.3, 0.395, 0.4, 0.392, 0.38, 0.2])
    assert choose_factor(agreements) == TEMPERATURES[4]
    # Where halves agree well, little is a difference.
    assert choose_factor(0.6 + agreements - 0.01) == TEMPERATURES[3]
    assert choose_factor(np.array([0.5, 0.3, 0.2, 0.1, 0.0, 0.0, 0.0])) == TEMPERATURES[0]


def test_a_temperature_is_told_over_the_size_of_a_gap() -> None:
    gaps = np.array([[1.0, -2.0, 3.0], [2.0, -1.0, 4.0]], dtype=np.float32)
    scores, shares = (gaps > 0).astype(np.float32), np.full(3, 1 / 3)
    assert fit_tempered(gaps, scores, shares, factor=4.0).temperature == pytest.approx(8.0)
    assert fit_tempered(10 * gaps, scores, shares, factor=4.0).temperature == pytest.approx(80.0)
