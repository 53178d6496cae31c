"""Curvature, gradients and vectors of the domains as four heat maps.

Curvature is dark where it is high, on a scale from 0; cosines are blue above 0 and red below. Source: MergeMix,
figure 7.
"""

from __future__ import annotations

from math import isfinite
from textwrap import fill

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from aftermix.analysis.curvature_tables import DomainDerivatives, list_matrices
from aftermix.analysis.drawing import INK, STILL, render_figure, shorten_name
from aftermix.analysis.geometry import Floats

CELL_INCHES, LEAST_INCHES, LABELS_INCHES = 0.62, 2.6, 1.5
MINUS = "\N{MINUS SIGN}"


def draw_derivatives(derivatives: DomainDerivatives, *, kind: str) -> bytes:
    """The picture as `kind`, `svg` or `png`."""
    return render_figure(lambda: _build_derivatives_figure(derivatives), kind=kind)


def _build_derivatives_figure(derivatives: DomainDerivatives) -> Figure:
    side = max(LEAST_INCHES, CELL_INCHES * len(derivatives.curvature.domains)) + LABELS_INCHES
    figure = Figure(figsize=(2 * side, 2 * side), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15))
    panels = figure.subplots(2, 2).ravel()
    for axes, (key, (title, values_KK)) in zip(panels, list_matrices(derivatives).items(), strict=True):
        _draw_matrix(axes, derivatives.curvature.domains, values_KK, cosines=key != "gamma")
        axes.set_title(fill(title, 34), fontsize=11)
    return figure


def _draw_matrix(axes: Axes, domains: tuple[str, ...], values_KK: Floats, *, cosines: bool) -> None:
    high = 1.0 if cosines else max(1.0, float(np.nanmax(values_KK, initial=1.0)))
    low = -1.0 if cosines else 0.0

    colours = mpl.colormaps["RdBu" if cosines else "viridis_r"].with_extremes(bad=STILL)
    axes.pcolormesh(values_KK, cmap=colours, vmin=low, vmax=high, edgecolors="white", linewidth=2)
    for (row, column), value in np.ndenumerate(values_KK):
        text = f"{value:z.2f}".replace("-", MINUS) if isfinite(value) else "-"
        dark = isfinite(value) and (abs(value) > 0.6 if cosines else value > 0.55 * high)
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color="white" if dark else INK)

    places, names = [place + 0.5 for place in range(len(domains))], [shorten_name(name, 18) for name in domains]
    axes.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, names)

    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set_visible(False)
