"""Worth against trained mixtures, agreement without them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from aftermix.errors import MixtureError
from aftermix.mixture.proxies.null_proxy import predict_null
from aftermix.mixture.proxies.worth import ProxyForecast, compare_proxies, measure_worth

TRAINED = np.array([0.1, 0.4, 0.3, 0.2])
STUDY = Path(__file__).parents[4] / "studies" / "mergemix" / "results"
CAPABILITIES = ("ja", "math", "code", "problems", "en")


def forecast(values: list[float], name: str = "merges") -> ProxyForecast:
    return ProxyForecast(name, np.array(values), 100)


def test_rank_error_and_regret() -> None:
    found = measure_worth(forecast([0.2, 0.3, 0.5, 0.1]), TRAINED)
    assert found.spearman == pytest.approx(spearmanr([0.2, 0.3, 0.5, 0.1], TRAINED).statistic)
    assert found.rmse == pytest.approx(np.sqrt(np.mean([0.01, 0.01, 0.04, 0.01])))
    assert found.regret == pytest.approx(0.1), "it has the third first, the best is the second"
    perfect = measure_worth(forecast(TRAINED.tolist()), TRAINED)
    assert (perfect.spearman, perfect.rmse, perfect.regret) == (1.0, 0.0, 0.0)


def test_a_proxy_of_one_value_has_no_rank_and_an_expression_without_a_value_nothing() -> None:
    assert measure_worth(forecast([0.5] * 4), TRAINED).spearman is None
    found = measure_worth(forecast([0.5, -np.inf, 0.1, 0.2]), TRAINED)
    assert (found.spearman, found.rmse, found.regret) == (None, None, None)


def test_other_mixtures_are_refused() -> None:
    with pytest.raises(MixtureError, match="proxy 'merges': expected 4 mixtures as were trained, found 3"):
        measure_worth(forecast([0.1, 0.2, 0.3]), TRAINED)


def test_agreement_is_of_each_pair() -> None:
    found = compare_proxies([forecast([1, 2, 3], "a"), forecast([3, 2, 1], "b"), forecast([1, 3, 2], "c")])
    assert found == {"a": {"b": -1.0, "c": 0.5}, "b": {"a": -1.0, "c": -0.5}, "c": {"a": 0.5, "b": -0.5}}


def read_utilities(rows: list[dict[str, float]]) -> np.ndarray:
    scores_NM = -np.array([[row[name] for name in CAPABILITIES] for row in rows])
    return np.asarray(((scores_NM - scores_NM.mean(axis=0)) / scores_NM.std(axis=0)).mean(axis=1))


@pytest.mark.parametrize(("seed", "merged", "null"), [(0, 0.82, 0.84), (1, 0.67, 0.80), (2, 0.57, 0.84)])
def test_on_the_trained_mixtures_of_the_study_the_null_proxy_ranks_best(seed: int, merged: float, null: float) -> None:
    result = json.loads((STUDY / f"seed-{seed}.json").read_text())
    shares = np.array([list(mixture.values()) for mixture in result["checked"].values()])
    experts = np.array([[result["experts"][name][task] for task in CAPABILITIES] for name in result["experts"]])
    mixed = [dict(zip(CAPABILITIES, row, strict=True)) for row in predict_null(shares, experts).tolist()]

    trained = read_utilities(result["trained"])
    of_null = measure_worth(ProxyForecast("null", read_utilities(mixed), 4), trained)
    of_merges = measure_worth(ProxyForecast("merges", read_utilities(result["merged"]), 13), trained)
    assert (of_merges.spearman, of_null.spearman) == (pytest.approx(merged, abs=0.01), pytest.approx(null, abs=0.01))
    assert of_null.regret is not None
    assert of_merges.regret is not None
    assert of_null.regret <= of_merges.regret
