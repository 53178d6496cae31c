"""Rows of the vectors: what each is, its weight as a bar, its data ratio."""

from __future__ import annotations

from dataclasses import dataclass

from aftermix.config import Config
from aftermix.config.places import WeightDimension, list_dimensions
from aftermix.files import shorten_path
from aftermix.report.number_format import format_percent, format_tokens, format_weight
from aftermix.runs.reader import RunContents


@dataclass(frozen=True)
class WeightBar:
    """A bar on a track, all in percent of the track's width: where it starts, its length, and where zero is."""

    left: float
    width: float
    zero: float


@dataclass(frozen=True)
class VectorRow:
    """One vector: what it is, and, in a finished run, its weight and data ratio."""

    name: str
    model: str
    role: str
    tokens: str
    range: str
    weight: str = ""
    bar: WeightBar | None = None
    ratio: str = ""
    ratio_percent: float | None = None


def list_weights(config: Config) -> dict[str, WeightDimension]:
    """The weights of a run by name: a vector's, or where they are searched by rules of its range those of the rules."""
    if config.search.over.weights:
        return list_dimensions(config.vectors)
    return {name: WeightDimension(name, vector.bounds) for name, vector in config.vectors.items()}


def build_vector_rows(run: RunContents) -> tuple[VectorRow, ...]:
    """Every vector in the file's order; all bars share one track, so that lengths compare."""
    weights = run.best.weights if run.best else {}
    ratios = (run.best.ratios if run.best else None) or {}

    # The track of the bars: it holds every bound and every weight.
    searched = run.config.search.over.weights
    dimensions = list_weights(run.config)
    bounds = [dimension.bounds for dimension in dimensions.values()]
    low = min([low for low, _ in bounds] + list(weights.values()), default=0.0)
    high = max([high for _, high in bounds] + list(weights.values()), default=1.0)

    rows = []
    for name, dimension in dimensions.items():
        vector = run.config.vectors[dimension.vector]
        rows.append(
            VectorRow(
                name=name,
                model=shorten_path(vector.model, run=run.folder),
                role=vector.role,
                tokens=format_tokens(vector.tokens),
                range=" to ".join(format_weight(bound) for bound in dimension.bounds) if searched else "not searched",
                weight=format_weight(weights[name]) if name in weights else "",
                bar=place_bar(weights[name], low, high) if name in weights else None,
                ratio=format_percent(ratios[name]) if name in ratios else "",
                ratio_percent=round(100 * ratios[name], 2) if name in ratios else None,
            )
        )
    return tuple(rows)


def place_bar(value: float, low: float, high: float) -> WeightBar:
    """The bar from 0 to `value` on a track that holds both and [`low`, `high`].

    >>> place_bar(0.5, -1.0, 1.0)
    WeightBar(left=50.0, width=25.0, zero=50.0)
    """
    start, stop = min(0.0, low, value), max(0.0, high, value)
    place = 100 / ((stop - start) or 1.0)
    return WeightBar(
        left=round((min(0.0, value) - start) * place, 2), width=round(abs(value) * place, 2),
        zero=round(-start * place, 2),
    )  # fmt: skip
