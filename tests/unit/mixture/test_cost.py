"""The cost table of the paper, that of a run, and the baselines that need no merging."""

from __future__ import annotations

import numpy as np
import pytest

from aftermix.errors import MixtureError
from aftermix.mixture.bounds import ShareBounds
from aftermix.mixture.cost import MethodCost, compare_costs, list_mixture_costs
from aftermix.mixture.regmix import find_regmix, list_plain_mixtures
from aftermix.mixture.utility import MixtureUtility
from aftermix.seeds import generator

TABLE_6 = [
    ("manual", 8e9, 200e9, 10, 16_000, 100.0),
    ("regmix", 8e9, 200e9, 10, 16_000, 100.0),
    ("climb", 350e6, 40e9, 112, 1_568, 9.8),
    ("scaling laws", 1e9, 30e9, 40, 1_200, 7.5),
    ("mergemix", 8e9, 5e9, 4, 160, 1.0),
]
"""MergeMix, Table 6: parameters, tokens of a run, runs, cost in 10^18, relative cost."""


def test_the_papers_table() -> None:
    costs = [MethodCost(method=name, parameters=n, tokens=d, runs=runs) for name, n, d, runs, _, _ in TABLE_6]
    assert [cost.training / 1e18 for cost in costs] == pytest.approx([row[4] for row in TABLE_6])
    assert [row["relative"] for row in compare_costs(costs, to="mergemix")] == [row[5] for row in TABLE_6]
    assert costs[0].trained_tokens == 2e12
    assert costs[-1].trained_tokens == 20e9


def test_the_table_of_a_run() -> None:
    rows = list_mixture_costs(
        parameters=1e6,
        expert_tokens=[100, 300],
        run_tokens=1000,
        runs=12,
        proxy_tokens=2000,
        evaluated={"mergemix": 600, "regmix": 300},
    )
    found = {row["method"]: row for row in rows}
    assert {name: row["trained_tokens"] for name, row in found.items()} == {
        "mergemix": 400,
        "regmix": 12_000,
        "doremi": 2000,
        "manual": 10_000,
    }
    assert found["regmix"]["relative"] == 30.0
    assert found["regmix"]["relative_whole"] == pytest.approx((12_000 + 100) / (400 + 200), abs=1e-6)
    assert found["doremi"]["runs"] == 2


def test_a_method_that_is_not_there() -> None:
    with pytest.raises(MixtureError, match="expected one of a, found 'mergemix'"):
        compare_costs([MethodCost(method="a", parameters=1, tokens=1, runs=1)], to="mergemix")


DOMAINS = ("ja", "math", "code")


def measured(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Two capabilities that peak at ja 0.6 and math 0.3."""
    weights_NK = np.random.default_rng(0).dirichlet(np.ones(3), size=points)
    distance_N = ((weights_NK - [0.6, 0.3, 0.1]) ** 2).sum(axis=1)
    return weights_NK, np.stack([1 - distance_N, 2 - 3 * distance_N], axis=1)


def test_regmix_goes_where_scores_are_high_and_keeps_to_the_simplex() -> None:
    weights_NK, scores_NM = measured(200)
    utility = MixtureUtility.build(["one", "two"], scores_NM)
    found_K = find_regmix(weights_NK, scores_NM, utility, prior_K=np.full(3, 1 / 3), candidates=20_000)
    assert found_K.sum() == pytest.approx(1)
    assert found_K == pytest.approx([0.6, 0.3, 0.1], abs=0.1)
    again_K = find_regmix(weights_NK, scores_NM, utility, prior_K=np.full(3, 1 / 3), candidates=20_000)
    assert again_K.tolist() == found_K.tolist()
    assert find_regmix(weights_NK, scores_NM, utility, prior_K=np.array([0.0, 0.5, 0.5]), candidates=2000)[0] < 0.01


def test_regmix_keeps_within_bounds_even_where_no_candidate_does() -> None:
    weights_NK, scores_NM = measured(12)
    utility = MixtureUtility.build(["one", "two"], scores_NM)
    for low, high in ((0.1, 0.3), (0.123456789, 0.12345679)):
        bounds = ShareBounds.build(DOMAINS, bounds={"ja": (low, high)})
        found_K = find_regmix(weights_NK, scores_NM, utility, prior_K=np.full(3, 1 / 3), bounds=bounds, candidates=2000)
        assert bounds.admits(found_K[None])[0]


def test_regmix_goes_by_its_prediction_where_hardly_a_candidate_is_within_bounds() -> None:
    weights_NK, scores_NM = measured(200)
    utility, prior_K = MixtureUtility.build(["one", "two"], scores_NM), np.full(3, 1 / 3)
    # Some 10 of 20,000 candidates lie within; the best allowed mixture is at the lowest share of `code`.
    bounds = ShareBounds.build(DOMAINS, bounds={"ja": (0.599, 0.601), "code": (0.1, 0.4)})
    found_K = find_regmix(weights_NK, scores_NM, utility, prior_K=prior_K, bounds=bounds, candidates=20_000)
    drawn_CK = generator(0, "regmix").dirichlet(prior_K, size=20_000)
    inside_CK = drawn_CK[bounds.admits(drawn_CK)]
    assert 0 < len(inside_CK) < 128
    assert bounds.admits(found_K[None])[0]
    assert found_K[2] < inside_CK.mean(axis=0)[2] - 0.05


def test_regmix_refuses_what_tells_nothing() -> None:
    weights_NK, scores_NM = measured(5)
    utility = MixtureUtility.build(["one", "two"], scores_NM)
    with pytest.raises(MixtureError, match="every trained mixture scored the same"):
        find_regmix(weights_NK, np.ones((5, 2)), utility, prior_K=np.full(3, 1 / 3))
    with pytest.raises(MixtureError, match="expected one row for each of the 5 mixtures, found 4"):
        find_regmix(weights_NK, scores_NM[:4], utility, prior_K=np.full(3, 1 / 3))


def test_plain_mixtures() -> None:
    found = list_plain_mixtures(
        DOMAINS, tokens={"code": 2, "ja": 1, "math": 1}, priors={"ours": {"ja": 0.9, "code": 0.1}}
    )
    assert {name: row_K.tolist() for name, row_K in found.items()} == {
        "uniform": [1 / 3] * 3,
        "tokens": [0.25, 0.25, 0.5],
        "prior ours": [0.9, 0.0, 0.1],
        "ja alone": [1, 0, 0],
        "math alone": [0, 1, 0],
        "code alone": [0, 0, 1],
    }
    with pytest.raises(MixtureError, match="prior 'bad', row 0: expected shares of at least 0 that sum to 1"):
        list_plain_mixtures(DOMAINS, priors={"bad": {"ja": 0.5}})
