"""Rank consistency and offset against SciPy and a resampling written out; which mixtures are trained."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from aftermix.errors import MixtureError
from aftermix.mixture.rank_consistency import DRAWS, measure_consistency, measure_spearman, spread_out
from aftermix.seeds import generator

LATTICE = np.array([[a, b, 4 - a - b] for a in range(5) for b in range(5 - a)]) / 4


def mean_of_a(means: dict[str, np.ndarray]) -> np.ndarray:
    return means["a"]


def items(scores: list[float], *, noise: float = 0.0, size: int = 30, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {"a": np.array(scores)[:, None] + noise * draw.standard_normal((len(scores), size))}


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=12))
def test_spearman_is_scipys_with_ties(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert measure_spearman(first, second) is None
    else:
        assert measure_spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)


def test_the_figures_of_a_known_line() -> None:
    merged = items([0.1, 0.2, 0.3, 0.4])
    trained = {"a": 2 * merged["a"] + 0.05}
    found = measure_consistency(merged, trained, mean_of_a)
    assert (found.mixtures, found.spearman, found.kendall) == (4, 1.0, 1.0)
    assert found.interval == (1.0, 1.0)
    assert found.slope == pytest.approx(2.0)
    assert found.intercept == pytest.approx(0.05)
    assert found.offset == pytest.approx(0.3)
    assert found.regret == 0.0
    low, high = found.offset_interval or (0, 0)
    assert 0.15 <= low < 0.3 < high <= 0.45


def test_regret_is_what_the_merges_choice_loses() -> None:
    found = measure_consistency(items([0.1, 0.5, 0.3]), items([0.2, 0.6, 0.9]), mean_of_a)
    assert found.regret == pytest.approx(0.3)
    assert found.spearman == pytest.approx(0.5)
    assert found.kendall == pytest.approx(kendalltau([0.1, 0.5, 0.3], [0.2, 0.6, 0.9]).statistic)


def test_scores_that_differ_by_rounding_are_one_score() -> None:
    merged = {"a": np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.3, 0.1]])}
    found = measure_consistency(merged, items([0.1, 0.2, 0.3], size=3), mean_of_a)
    assert (found.spearman, found.interval, found.kendall, found.slope, found.intercept) == (None,) * 5
    assert found.offset == pytest.approx(0.0)


@settings(max_examples=5)
@given(st.integers(0, 1000), st.integers(3, 9))
def test_the_interval_is_that_of_drawing_by_hand(seed: int, mixtures: int) -> None:
    scores = np.random.default_rng(seed).random(mixtures).tolist()
    merged, trained = items(scores, noise=0.4, seed=seed), items(scores, noise=0.4, seed=seed + 1)
    found = measure_consistency(merged, trained, mean_of_a, seed=seed, key="k")
    draw = generator(seed, "consistency", "k", "a")
    counts = np.concatenate([draw.multinomial(30, np.full(30, 1 / 30), size=100) for _ in range(DRAWS // 100)])
    rows = generator(seed, "consistency", "k", "mixtures").integers(mixtures, size=(DRAWS, mixtures))
    ranks, offsets = [], []
    for count_I, row_N in zip(counts, rows, strict=True):
        ours, theirs = ((side["a"] * count_I).sum(axis=1)[row_N] / 30 for side in (merged, trained))
        offsets.append(np.mean(theirs - ours))
        if len(set(row_N.tolist())) >= 3:
            ranks.append(spearmanr(ours, theirs).statistic)
    low, high = np.quantile(ranks, [0.025, 0.975])
    assert found.spearman is not None
    assert found.interval == pytest.approx((min(low, found.spearman), max(high, found.spearman)))
    low, high = np.quantile(offsets, [0.025, 0.975])
    assert found.offset_interval == pytest.approx((min(low, found.offset), max(high, found.offset)))


def test_more_mixtures_and_items_narrow_the_interval() -> None:
    def width(mixtures: int, size: int) -> float:
        scores = np.linspace(0, 1, mixtures).tolist()
        sides = [items(scores, noise=0.3, size=size, seed=seed) for seed in (1, 2)]
        low, high = measure_consistency(*sides, mean_of_a).interval or (0, 0)
        return high - low

    assert width(40, 200) < width(8, 10)


def test_an_expression_without_a_value_leaves_ranks_and_no_line() -> None:
    scores = items([0.1, 0.2, 0.3])
    found = measure_consistency(scores, scores, lambda means: np.where(means["a"] > 0.15, means["a"], -np.inf))
    assert found.spearman == 1.0
    assert (found.slope, found.offset, found.offset_interval, found.regret) == (None,) * 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (2, "expected at least 3 mixtures in every task, found 2"),
        (4, "expected the same tasks, mixtures and items on both sides"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(rows: int, message: str) -> None:
    other = items([0.1, 0.2] if rows == 2 else [0.1, 0.2, 0.3])
    with pytest.raises(MixtureError, match=message):
        measure_consistency(items([0.1] * rows), other, mean_of_a)


@given(st.integers(1, len(LATTICE)), st.integers(0, 5))
def test_a_larger_choice_begins_with_the_smaller(count: int, seed: int) -> None:
    chosen = spread_out(LATTICE, first=(7, 7, 0), count=count, seed=seed)
    assert len(set(chosen)) == count
    assert chosen == spread_out(LATTICE, first=(7, 0), count=len(LATTICE), seed=seed)[:count]


def test_the_next_is_the_farthest() -> None:
    uniform = int(np.abs(LATTICE - 1 / 3).max(axis=1).argmin())
    chosen = spread_out(LATTICE, first=(uniform,), count=3)
    assert LATTICE[uniform].tolist() == [0.25, 0.25, 0.5]
    assert sorted(LATTICE[chosen[1:]].tolist()) == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    with pytest.raises(MixtureError, match="expected from 1 to 15 mixtures, found 16"):
        spread_out(LATTICE, first=(), count=16)
