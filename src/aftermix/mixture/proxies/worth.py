"""Worth of a proxy: how it ranks mixtures that were really trained; and, where none were, how far proxies agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aftermix.errors import MixtureError
from aftermix.mixture.rank_consistency import DECIMALS, measure_spearman
from aftermix.mixture.simplex import Floats

# N mixtures


@dataclass(frozen=True)
class ProxyForecast:
    """One proxy's values of N mixtures, in the unit of the utility."""

    name: str
    values_N: Floats
    price_tokens: int
    """Tokens that models read before the proxy ranks these mixtures; experts are there already."""


@dataclass(frozen=True)
class ProxyWorth:
    """Forecast against the utility of trained models; None where either has one value for all, or none."""

    spearman: float | None
    rmse: float | None
    regret: float | None
    """Best trained utility minus the trained utility of the mixture that the proxy ranks first."""


def measure_worth(forecast: ProxyForecast, trained: ArrayLike) -> ProxyWorth:
    """Hold `forecast` against the same mixtures `trained` for real, row by row.

    Raises :class:`MixtureError` for another number of mixtures.
    """
    trained_N = np.asarray(trained, dtype=np.float64)
    if forecast.values_N.shape != trained_N.shape:
        found = f"expected {trained_N.size} mixtures as were trained, found {forecast.values_N.size}"
        raise MixtureError(f"proxy '{forecast.name}'", found, "Forecast the mixtures that were trained.")
    if not (np.isfinite(forecast.values_N).all() and np.isfinite(trained_N).all()):
        return ProxyWorth(None, None, None)

    values_N = forecast.values_N.round(DECIMALS)
    return ProxyWorth(
        spearman=measure_spearman(values_N, trained_N.round(DECIMALS)),
        rmse=float(np.sqrt(np.mean((forecast.values_N - trained_N) ** 2))),
        regret=float(trained_N.max() - trained_N[int(values_N.argmax())]),
    )


def compare_proxies(forecasts: Sequence[ProxyForecast]) -> dict[str, dict[str, float | None]]:
    """Spearman's correlation of each pair of proxies over the same mixtures: their agreement, which proves none."""
    return {
        one.name: {
            other.name: measure_spearman(one.values_N.round(DECIMALS), other.values_N.round(DECIMALS))
            for other in forecasts
            if other.name != one.name
        }
        for one in forecasts
    }
