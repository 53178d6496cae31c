"""The entries of each vector as a histogram, with the Laplace and the Gaussian distribution fitted to them.

The scale of densities is logarithmic: the two differ in the tails, which hold few entries. Source: MergOPT, figure 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy import stats

from aftermix.analysis.distribution import DistributionFit, EntryTally, VectorFit
from aftermix.analysis.drawing import render_figure, shorten_name

COLUMNS = 3
BINS = 161
REACH = 12
"""Half the width of a histogram, in Laplace scales: e^-12 of a Laplace distribution lies beyond."""
BARS, LAPLACE, GAUSSIAN = "#c6ccd3", "#a40e26", "#0b5cad"


def draw_distributions(fits: Mapping[str, VectorFit], *, kind: str) -> bytes:
    """The picture as `kind`, `svg` or `png`."""
    return render_figure(lambda: _build_distribution_figure(fits), kind=kind)


def _build_distribution_figure(fits: Mapping[str, VectorFit]) -> Figure:
    columns = min(COLUMNS, len(fits))
    rows = ceil(len(fits) / columns)
    figure = Figure(figsize=(4.4 * columns + 0.4, 3.4 * rows + 0.4), layout=ConstrainedLayoutEngine(w_pad=0.1))

    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (vector, vector_fit) in zip(panels, fits.items(), strict=False):
        axes.set_title(shorten_name(vector, 28), pad=34)
        if vector_fit.whole is None:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "all entries are equal", ha="center", transform=axes.transAxes)
        else:
            _draw_histogram(axes, vector_fit.tallied, vector_fit.whole)

    for axes in panels[len(fits) :]:
        axes.set_axis_off()
    return figure


def _draw_histogram(axes: Axes, tallied: EntryTally, fitted: DistributionFit) -> None:
    laplace, gaussian = fitted.laplace, fitted.gaussian
    edges = laplace.location + laplace.scale * np.linspace(-REACH, REACH, BINS + 1)
    inside, _ = np.histogram(tallied.sums / tallied.counts, edges, weights=tallied.counts)
    densities = inside / (fitted.elements * (edges[1] - edges[0]))
    axes.stairs(densities, edges, fill=True, color=BARS)

    places = np.linspace(edges[0], edges[-1], 601)
    for line, (name, distribution, density, colour) in enumerate(
        (
            ("Gaussian", gaussian, stats.norm(gaussian.location, gaussian.scale), GAUSSIAN),
            ("Laplace", laplace, stats.laplace(laplace.location, laplace.scale), LAPLACE),
        )
    ):
        axes.plot(places, density.pdf(places), color=colour, linewidth=1.6)
        label = f"{name} {distribution.scale:.1e}, K-S {distribution.ks_distance:.3f}"
        axes.text(0, 1.03 + 0.08 * line, label, color=colour, fontsize=10, transform=axes.transAxes)

    axes.set_yscale("log")
    axes.set_ylim(densities[densities > 0].min() / 2, max(densities.max(), 0.5 / laplace.scale) * 2)
    axes.set_xlabel("entry of the vector")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    # Powers of ten as formulas would need the parsing that names of vectors forbid.
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter("")
    axes.spines[["top", "right"]].set_visible(False)
