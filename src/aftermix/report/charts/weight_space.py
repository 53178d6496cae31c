"""The weight space of a search, coloured by score: a curve, pairs of vectors, or parallel coordinates.

One vector: score against its weight. Two to four: every pair of vectors. More: parallel coordinates over all of them,
and the pairs of the three vectors whose weight goes with the score most (largest absolute Spearman correlation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from typing import TypeVar

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

from aftermix.report.charts.result import HALF_PX, WHOLE_PX, label_axis
from aftermix.report.charts.svg import ACCENT, INK, MUTED, SCORES, Tooltips, draw
from aftermix.report.number_format import ScoreScale, shorten
from aftermix.report.trials import describe_trial, select_measured
from aftermix.runs.trials import Trial

# T trials, V vectors

T = TypeVar("T")

MAX_MARKS = 3000
"""Marks that one report's weight space may hold, which bounds the size of the file."""
MAX_LINES = 150
"""Trials in parallel coordinates; more lines are only a smear."""
_SCORES = ListedColormap(SCORES)


@dataclass(frozen=True)
class WeightSpace:
    """The drawings, and the two ends of the colour scale in the report's unit."""

    charts: tuple[Markup, ...]
    low: str
    high: str
    note: str


@dataclass(frozen=True)
class _SpacePoints:
    names: tuple[str, ...]
    weights: NDArray[np.float64]
    """(T, V)"""
    scores: NDArray[np.float64]
    """(T,), in the report's unit"""
    texts: tuple[str, ...]
    winner: int | None
    """Row of the winner."""


def draw_weight_space(
    trials: Sequence[Trial], *, vectors: Sequence[str], winner: int | None, scale: ScoreScale
) -> WeightSpace | None:
    """The weight space of all measured trials, coloured by the first objective; None when there is none to show.

    A searched setting that is a number is drawn like a weight: its name stands among `vectors`.
    """
    scored = select_measured(trials)
    if not scored or not vectors:
        return None

    points = _collect_points(scored, tuple(vectors), winner, scale)
    low = float(np.quantile(points.scores, 0.1)) if len(vectors) > 1 else float(points.scores.min())
    high = max(float(points.scores.max()), low + 1e-9)
    norm = Normalize(low, high, clip=True)
    ends = scale.format(low / scale.factor), scale.format(high / scale.factor)

    if len(vectors) == 1:
        return WeightSpace((_draw_curve(points, scale),), *ends, "")
    if len(vectors) <= 4:
        pairs = list(combinations(range(len(vectors)), 2))
        return WeightSpace((_draw_pairs(points, pairs, norm),), *ends, "Each panel is one pair.")

    # Too many vectors for all pairs.
    top = sorted(np.argsort(-measure_influence(points.weights, points.scores), kind="stable")[:3].tolist())
    charts = (_draw_parallel(points, norm), _draw_pairs(points, list(combinations(top, 2)), norm))

    chosen = ", ".join(vectors[place] for place in top)
    note = f"Below, the pairs of the three that go with the score most (rank correlation): {chosen}."
    if len(points.texts) > MAX_LINES:
        note = f"The lines show the best trials and an even sample of the others. {note}"
    return WeightSpace(charts, *ends, note)


def measure_influence(weights_TV: NDArray[np.float64], scores_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Absolute Spearman correlation of every vector's weight with the score; 0 where either does not vary."""
    ranks_TV, ranks_T = rankdata(weights_TV, axis=0), rankdata(scores_T)
    centred_TV, centred_T = ranks_TV - ranks_TV.mean(axis=0), ranks_T - ranks_T.mean()
    product = np.sqrt((centred_TV**2).sum(axis=0) * (centred_T**2).sum())
    correlation_V: NDArray[np.float64] = np.zeros(len(product))
    np.divide(centred_T @ centred_TV, product, out=correlation_V, where=product > 0)
    return np.abs(correlation_V)


def _collect_points(
    trials: Sequence[Trial], vectors: tuple[str, ...], winner: int | None, scale: ScoreScale
) -> _SpacePoints:
    """Trials sorted by score, so that the best are drawn on top."""
    ordered = thin_out(sorted(trials, key=lambda trial: trial.objective or ()), MAX_MARKS)
    numbers = [trial.number for trial in ordered]
    return _SpacePoints(
        names=vectors,
        weights=np.array([[_read_coordinate(trial, name) for name in vectors] for trial in ordered]),
        scores=np.array([scale.convert(trial.objective[0]) for trial in ordered if trial.objective]),
        texts=tuple(describe_trial(trial, scale) for trial in ordered),
        winner=numbers.index(winner) if winner in numbers else None,
    )


def _read_coordinate(trial: Trial, name: str) -> float:
    value = trial.weights.get(name, trial.settings.get(name, 0.0))
    return float(value) if isinstance(value, int | float) else 0.0


def thin_out(ordered: Sequence[T], limit: int) -> list[T]:
    """At most `limit` of the elements in order: the last third of the limit whole, the rest sampled evenly.

    >>> thin_out(range(20), 6)
    [0, 5, 10, 15, 18, 19]
    """
    if len(ordered) <= limit:
        return list(ordered)
    start = len(ordered) - limit // 3
    return [*ordered[: start : ceil(start / (limit - limit // 3))], *ordered[start:]]


def _draw_ring(axes: Axes, x: float, y: float) -> None:
    """The winner's mark; the page's colour scale says what it means."""
    axes.plot([x], [y], "o", ms=14, mfc="none", mec=ACCENT, mew=2.4, zorder=5)


def _draw_curve(points: _SpacePoints, scale: ScoreScale) -> Markup:
    """Score against the weight of the only vector."""

    def paint(figure: Figure) -> Tooltips:
        axes = figure.add_subplot()
        marks = axes.scatter(
            points.weights[:, 0], points.scores, c=points.scores, cmap=_SCORES, s=44, edgecolors=INK,
            linewidths=0.6, zorder=3,
        )  # fmt: skip
        marks.set_gid("curve")

        if points.winner is not None:
            _draw_ring(axes, points.weights[points.winner, 0], points.scores[points.winner])
        axes.set_xlabel(shorten(points.names[0], 40))
        axes.set_ylabel(label_axis(scale, "score"))
        return {"curve": points.texts}

    return draw(paint, name="space", label="Score against weight", width_px=WHOLE_PX * 0.7, height_px=360)


def _draw_pairs(points: _SpacePoints, pairs: Sequence[tuple[int, int]], norm: Normalize) -> Markup:
    """One scatter a pair of vectors; fewer pairs when there are so many trials that the file would grow large."""
    pairs = pairs[: max(1, MAX_MARKS // len(points.texts))]
    columns = min(3, len(pairs))

    def paint(figure: Figure) -> Tooltips:
        tooltips: dict[str, Sequence[str]] = {}
        panels = figure.subplots(ceil(len(pairs) / columns), columns, squeeze=False).ravel()
        for panel, ((first, second), axes) in enumerate(zip(pairs, panels, strict=False)):
            x_T, y_T = points.weights[:, first], points.weights[:, second]
            marks = axes.scatter(
                x_T, y_T, c=points.scores, cmap=_SCORES, norm=norm, s=36, edgecolors=INK, linewidths=0.5, zorder=3
            )
            marks.set_gid(f"pair{panel}")
            tooltips[f"pair{panel}"] = points.texts

            if points.winner is not None:
                _draw_ring(axes, x_T[points.winner], y_T[points.winner])
            axes.set_xlabel(shorten(points.names[first], 28))
            axes.set_ylabel(shorten(points.names[second], 28))

        for axes in panels[len(pairs) :]:
            axes.set_axis_off()
        return tooltips

    width_px = WHOLE_PX if columns > 1 else HALF_PX + 80
    height_px = (320 if columns > 1 else 400) * ceil(len(pairs) / columns)
    label = "Weights of the trials, two vectors a panel, coloured by score"
    return draw(paint, name="pairs", label=label, width_px=width_px, height_px=height_px)


def _draw_parallel(points: _SpacePoints, norm: Normalize) -> Markup:
    """One line a trial over all vectors, the best on top."""
    shown = thin_out(range(len(points.texts)), MAX_LINES)
    weights_TV, scores_T = points.weights[shown], points.scores[shown]
    places_V = np.arange(len(points.names))

    def paint(figure: Figure) -> Tooltips:
        axes = figure.add_subplot()
        lines = LineCollection(
            [np.column_stack([places_V, weights_V]) for weights_V in weights_TV],
            colors=_SCORES(norm(scores_T)), linewidths=1.4, alpha=0.75, zorder=2,
        )  # fmt: skip
        lines.set_gid("lines")
        axes.add_collection(lines)

        if points.winner is not None:
            axes.plot(places_V, points.weights[points.winner], "o-", color=ACCENT, lw=3, ms=8, zorder=4)
            axes.annotate(
                "winner", (places_V[-1], points.weights[points.winner, -1]), (9, 0), textcoords="offset points",
                color=ACCENT, fontweight="bold", va="center",
            )  # fmt: skip

        axes.set_xticks(places_V, [_break_in_two(name) for name in points.names])
        axes.set_xlim(-0.15, len(places_V) - 0.65)
        axes.vlines(places_V, 0, 1, transform=axes.get_xaxis_transform(), color=MUTED, lw=0.8, zorder=1)
        axes.margins(y=0.06)
        axes.set_ylabel("value")

        return {"lines": [points.texts[trial] for trial in shown]}

    label = "Weights of the trials, one line a trial over all vectors, coloured by score"
    return draw(paint, name="parallel", label=label, width_px=WHOLE_PX, height_px=360)


def _break_in_two(name: str, width: int = 16) -> str:
    """`name` shortened to two lines of at most `width` characters."""
    short = shorten(name, 2 * width)
    if len(short) <= width:
        return short
    cut = max((place + 1 for place, letter in enumerate(short[:width]) if letter in "-_./ "), default=width)
    cut = cut if len(short) - cut <= width else len(short) - width
    return f"{short[:cut]}\n{short[cut:]}"
