"""A forecast of robustness as one picture: losses along vectors, joint losses of pairs, cosines of each layer."""

from __future__ import annotations

from itertools import combinations
from math import ceil
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from aftermix.analysis.drawing import INK, MUTED, STILL, render_figure, shorten_name
from aftermix.analysis.geometry import VectorGeometry
from aftermix.analysis.robustness.forecast import GRID, LINE, RobustnessForecast
from aftermix.analysis.robustness.tables import RobustnessFindings

COLUMNS = 3
PANEL_PX, ROW_PX, CAPTION_PX = 330, 290, 60
OWN, OTHERS, DRAWN = "#0550ae", "#8c959f", "#a40e26"


def draw_robustness(findings: RobustnessFindings, *, kind: str) -> bytes:
    """The picture as `kind`, `svg` or `png`."""
    return render_figure(lambda: _build_figure(findings), kind=kind)


def _build_figure(findings: RobustnessFindings) -> Figure:
    forecast = findings.forecast
    count, pairs = len(forecast.domains), len(forecast.pairs)
    heights = [ROW_PX * ceil(count / COLUMNS)]
    if pairs:
        layers_px = 22 * len(findings.geometry.layers) + 2 * CAPTION_PX
        heights += [ROW_PX * ceil(pairs / COLUMNS), max(layers_px, 220)]

    columns = min(COLUMNS, max(count, pairs))
    width_px = max(PANEL_PX * columns, 2 * PANEL_PX)
    figure = Figure(
        figsize=(width_px / 72, sum(heights) / 72), dpi=72, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    )
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_lines(parts[0], forecast, columns)
    if pairs:
        _draw_pairs(parts[1], forecast, columns)
        _draw_layers(parts[2].subplots(), findings.geometry)
    return figure


def _draw_lines(figure: Any, forecast: RobustnessForecast, columns: int) -> None:
    panels = figure.subplots(ceil(len(forecast.domains) / columns), columns, squeeze=False).ravel()
    for place, axes in enumerate(panels):
        if place >= len(forecast.domains):
            axes.set_axis_off()
            continue
        for other in range(len(forecast.domains)):
            if other != place:
                rise = forecast.line_KCK[place, :, other] - forecast.line_KCK[place, 0, other]
                axes.plot(LINE, rise, color=OTHERS, linewidth=1.0)
        own = forecast.list_own(place)
        axes.plot(LINE, own - own[0], color=OWN, linewidth=2.2)
        axes.plot([1.0] * len(forecast.draws), forecast.drawn_KD[place] - own[0], "_", color=DRAWN, markersize=9)
        axes.set_title(shorten_name(forecast.domains[place], 28))
        _finish_lines(axes, first=place % columns == 0)


def _finish_lines(axes: Axes, *, first: bool) -> None:
    axes.axhline(0.0, color=STILL, linewidth=1.0, zorder=0)
    axes.set_xlabel("coefficient of the vector")
    if first:
        axes.set_ylabel("loss minus the base's, nats a token\n(blue: at home; grey: others; red: draws)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_pairs(figure: Any, forecast: RobustnessForecast, columns: int) -> None:
    panels = figure.subplots(ceil(len(forecast.pairs) / columns), columns, squeeze=False).ravel()
    for place, axes in enumerate(panels):
        if place >= len(forecast.pairs):
            axes.set_axis_off()
            continue

        (one, other), losses_CC = list(forecast.pairs.items())[place]
        rise_CC = losses_CC - losses_CC[0, 0]
        reach = max(float(np.abs(rise_CC).max()), 1e-9)
        drawn = axes.contourf(
            GRID, GRID, rise_CC.T, levels=np.linspace(-reach, reach, 21), cmap=mpl.colormaps["RdBu_r"]
        )
        row, column = np.unravel_index(int(np.argmin(rise_CC)), rise_CC.shape)
        axes.plot(GRID[int(row)], GRID[int(column)], "*", color=INK, markersize=13, clip_on=False)

        axes.set_xlabel(shorten_name(one, 24))
        axes.set_ylabel(shorten_name(other, 24))
        axes.set_title("joint loss minus the base's")
        bar = figure.colorbar(drawn, ax=axes, fraction=0.05, format="%.2g", ticks=MaxNLocator(5))
        bar.outline.set_visible(False)


def _draw_layers(axes: Axes, geometry: VectorGeometry) -> None:
    pairs = list(combinations(range(len(geometry.vectors)), 2))
    layers = list(geometry.layers)
    cosines_LP = np.array([[geometry.layers[layer].cosines[pair] for pair in pairs] for layer in layers])
    colours = mpl.colormaps["RdBu"].with_extremes(bad=STILL)
    axes.pcolormesh(np.ma.masked_invalid(cosines_LP), cmap=colours, vmin=-1, vmax=1, edgecolors="white", linewidth=1)

    if len(pairs) <= 2 * COLUMNS:
        for row, column in np.ndindex(cosines_LP.shape):
            cosine = cosines_LP[row, column]
            text = f"{cosine:z.2f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(cosine) else "-"
            colour = "white" if abs(cosine) > 0.6 else MUTED
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=10)

    names = [f"{shorten_name(geometry.vectors[a], 14)}, {shorten_name(geometry.vectors[b], 14)}" for a, b in pairs]
    axes.set_xticks([place + 0.5 for place in range(len(pairs))], names)
    axes.set_yticks([place + 0.5 for place in range(len(layers))], layers)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("Cosine between vectors, by layer")
