"""The paired test: against scipy, against a slow loop over clusters, and where there is no spread."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from aftermix.analysis.comparison.paired_test import run_paired_test

RNG = np.random.default_rng(4)
A, B = (RNG.random(60) < 0.6).astype(float), RNG.random(60)
ALONE, EVEN = np.arange(60), np.ones(60)


def test_without_clusters_it_is_the_paired_t_test_of_scipy() -> None:
    expected = stats.ttest_rel(A, B)
    found = run_paired_test(A, B, EVEN, ALONE)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-12)
    assert (found.a, found.b) == pytest.approx((A.mean(), B.mean()))
    assert found.difference == pytest.approx((A - B).mean())


@pytest.mark.parametrize("weights", [EVEN, RNG.lognormal(5, 1, 60)], ids=["even", "bytes"])
def test_clusters_and_weights_are_those_of_a_slow_loop(weights: np.ndarray) -> None:
    clusters = RNG.integers(0, 12, 60)
    clusters = np.unique(clusters, return_inverse=True)[1]
    found = run_paired_test(A, B, weights, clusters)
    difference = sum(w * (a - b) for w, a, b in zip(weights, A, B, strict=True)) / sum(weights)
    squares, groups = 0.0, sorted({*clusters.tolist()})
    for group in groups:
        inside = [place for place in range(60) if clusters[place] == group]
        squares += sum(weights[place] * (A[place] - B[place] - difference) for place in inside) ** 2
    error = math.sqrt(len(groups) / (len(groups) - 1) * squares) / sum(weights)
    assert found.difference == pytest.approx(difference)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(difference) / error, len(groups) - 1))
    half = stats.t.ppf(0.975, len(groups) - 1) * error
    assert found.interval == pytest.approx((difference - half, difference + half))
    assert found.clusters == len(groups)


def test_two_copies_of_each_document_in_one_cluster_tell_no_more_than_one() -> None:
    once = run_paired_test(A, B, EVEN, ALONE)
    twice = run_paired_test(np.tile(A, 2), np.tile(B, 2), np.ones(120), np.tile(ALONE, 2))
    assert (twice.p, twice.interval) == (pytest.approx(once.p), pytest.approx(once.interval))


def test_equal_differences_are_tested_by_their_signs() -> None:
    right, wrong = np.ones(5), np.zeros(5)
    found = run_paired_test(right, wrong, np.ones(5), np.arange(5))
    assert (found.p, found.interval) == (2**-4, (1.0, 1.0))
    same = run_paired_test(A, A, EVEN, ALONE)
    assert (same.p, same.interval, same.difference) == (1.0, (0.0, 0.0), 0.0)
    one = run_paired_test(A, B, EVEN, np.zeros(60, np.int64))
    assert (one.p, one.interval, one.clusters) == (None, None, 1)
