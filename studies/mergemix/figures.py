"""From the results of all seeds to figures: correlations, utilities, differences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from aftermix.mixture.proxies.null_proxy import predict_null
from aftermix.mixture.rank_consistency import measure_spearman
from studies.mergemix.domains import CAPABILITIES
from studies.mergemix.measure import Bits, Floats, relative, scores
from studies.world.figures import Mean, difference, mean

Result = dict[str, Any]
"""Of one seed, as `run.py` writes it."""
OVERALL = "overall"


def utilities(rows: Sequence[Bits], against: Sequence[Bits]) -> Floats:
    """(N,) mean over the capabilities of z-scores, normalised by the models `against`."""
    reference_NM = scores(against)
    return np.asarray(((scores(rows) - reference_NM.mean(axis=0)) / reference_NM.std(axis=0)).mean(axis=1))


def columns(rows: Sequence[Bits]) -> dict[str, Floats]:
    """(N,) of each capability, and their utility."""
    table_NM = scores(rows)
    return {OVERALL: utilities(rows, rows)} | {name: table_NM[:, m] for m, name in enumerate(CAPABILITIES)}


def predict_without_merge(result: Result) -> list[Bits]:
    """The null proxy of the mixtures that check the ranks: the mean of the experts' bits, by share."""
    experts = list(result["experts"])
    shares_NK = np.array([[shares[name] for name in experts] for shares in result["checked"].values()])
    bits_KM = np.array([[result["experts"][name][capability] for capability in CAPABILITIES] for name in experts])
    return [dict(zip(CAPABILITIES, row_M, strict=True)) for row_M in predict_null(shares_NK, bits_KM).tolist()]


def correlation(result: Result, *, of: str = "merged") -> dict[str, float]:
    """Spearman between a proxy and trained models over the mixtures of one seed; `null` needs no merge."""
    merged = columns(predict_without_merge(result) if of == "null" else result[of])
    trained = columns(result["trained"])
    return {name: _defined(measure_spearman(merged[name], trained[name])) for name in merged}


def reproduced(results: Sequence[Result]) -> dict[str, Mean]:
    """Spearman between the trained models of two seeds, over all pairs: no proxy can do much better."""
    tables = [columns(result["trained"]) for result in results]
    pairs = list(combinations(tables, 2))
    return {
        name: Mean(fmean(_defined(measure_spearman(one[name], other[name])) for one, other in pairs), None)
        for name in (OVERALL, *CAPABILITIES)
        if pairs
    }


def line(result: Result, capability: str) -> tuple[float, float]:
    """Slope of trained on merged bits per byte, and mean of trained minus merged in % of the base's."""
    merged, trained = ([row[capability] for row in result[side]] for side in ("merged", "trained"))
    slope = float(np.polyfit(merged, trained, 1)[0])
    return slope, 100 * (fmean(trained) - fmean(merged)) / result["base"][capability]


def regret(result: Result, *, of: str = "merged") -> float:
    """Utility that is lost by taking the mixture that a proxy has best among those checked."""
    trained_N = columns(result["trained"])[OVERALL]
    rows = predict_without_merge(result) if of == "null" else result[of]
    return float(trained_N.max() - trained_N[int(columns(rows)[OVERALL].argmax())])


def utility_of(result: Result, rows: str, name: str) -> float:
    """Of one retrained model, in standard deviations of the models trained to check the ranks."""
    return float(utilities([result[rows][name]], result["trained"])[0])


def bits_of(result: Result, rows: str, name: str) -> float:
    """Mean bits per byte, % of the base's."""
    return relative(result[rows][name], result["base"])


def over_seeds(results: Sequence[Result], figure: Any) -> Mean:
    """Mean and interval of a figure of one seed."""
    return mean([figure(result) for result in results])


def apart(results: Sequence[Result], ours: Any, theirs: Any) -> Mean:
    """Paired difference over seeds."""
    return difference([ours(result) for result in results], [theirs(result) for result in results])


def _defined(value: float | None) -> float:
    return float("nan") if value is None else value
