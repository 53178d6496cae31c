"""The ensemble of experts against one written out item by item."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.mixture.proxies.ensemble import score_ensemble
from aftermix.response.margins import ChoiceItems


def make_items(counts: list[int], lengths: list[float], seed: int) -> ChoiceItems:
    draw = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    gold = np.array([draw.integers(count) for count in counts])
    return ChoiceItems(offsets, gold, np.array(lengths))


def score_slowly(weights: list[float], likelihoods: np.ndarray, items: ChoiceItems) -> list[float]:
    found = []
    for item, gold in enumerate(items.gold_I):
        places = range(items.offsets[item], items.offsets[item + 1])
        mixed = [0.0] * len(places)
        for weight, expert in zip(weights, likelihoods, strict=True):
            terms = [math.exp(expert[place] / items.lengths_R[place]) for place in places]
            mixed = [value + weight * term / sum(terms) for value, term in zip(mixed, terms, strict=True)]
        found.append(float(mixed.index(max(mixed)) == gold))
    return found


@given(st.lists(st.integers(2, 4), min_size=1, max_size=6), st.integers(0, 10_000))
def test_it_is_the_one_written_out(counts: list[int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    requests = sum(counts)
    items = make_items(counts, [float(1 + length) for length in draw.integers(0, 9, requests)], seed)
    likelihoods = -20 * draw.random((3, requests))
    weights = draw.dirichlet(np.ones(3), size=4)
    found = score_ensemble(weights, likelihoods, items)
    assert found.tolist() == [score_slowly(row.tolist(), likelihoods, items) for row in weights]


def test_one_expert_alone_scores_its_own_accuracy() -> None:
    items = make_items([2, 2], [1.0] * 4, 0)
    likelihoods = np.array([[-1.0, -2.0, -2.0, -1.0], [-2.0, -1.0, -1.0, -2.0]])
    best = np.array([[0, 1], [1, 0]])
    assert np.array_equal(score_ensemble(np.eye(2), likelihoods, items), (best == items.gold_I).astype(float))


def test_the_surer_expert_decides_and_equal_choices_go_to_the_first() -> None:
    items = ChoiceItems(np.array([0, 2]), np.array([1]), np.ones(2))
    sure, unsure = [-10.0, -0.1], [-0.6, -0.7]
    assert score_ensemble(np.array([[0.3, 0.7]]), np.array([sure, unsure]), items) == pytest.approx(np.array([[1.0]]))
    assert score_ensemble(np.array([[1.0]]), np.array([[-1.0, -1.0]]), items) == pytest.approx(np.array([[0.0]]))


def test_likelihoods_of_long_texts_do_not_vanish() -> None:
    items = ChoiceItems(np.array([0, 2]), np.array([1]), np.ones(2))
    assert score_ensemble(np.array([[1.0]]), np.array([[-9001.0, -9000.0]]), items).tolist() == [[1.0]]
