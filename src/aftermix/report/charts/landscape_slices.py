"""Any number of domains: a quantity along each domain from the optimum, with the band of a measurement there."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from aftermix.report.charts.landscape import choose_quantity_scale, stack_rows
from aftermix.report.charts.landscape_colours import PAGE, LandscapePalette
from aftermix.report.charts.result import WHOLE_PX, label_axis
from aftermix.report.charts.svg import Tooltips, draw
from aftermix.report.number_format import shorten
from aftermix.runs.landscape_records import LandscapeRecord, SliceRecord

COLUMNS = 4
ROW_PX, EDGES_PX = 200, 60


def draw_slices(landscape: LandscapeRecord, *, quantity: int) -> Markup:
    """One quantity, for the page."""
    label = f"{landscape.quantities[quantity]} along each domain from the optimum"
    return draw(
        lambda figure: paint_slices(figure, landscape, PAGE, quantity=quantity),
        name=f"slices{quantity}",
        label=label,
        width_px=WHOLE_PX,
        height_px=ROW_PX * _count_rows(landscape) + EDGES_PX,
    )


def measure_slices_px(landscape: LandscapeRecord) -> tuple[int, int]:
    """Width and height of the drawing of all quantities."""
    width = 255 * min(COLUMNS, max(2, len(landscape.slices))) + 20
    return width, len(landscape.quantities) * (ROW_PX * _count_rows(landscape) + EDGES_PX)


def paint_all_slices(figure: Figure, landscape: LandscapeRecord, palette: LandscapePalette) -> None:
    """Every quantity, one below the other."""
    parts: Any = figure.subfigures(len(landscape.quantities), 1, squeeze=False)[:, 0]
    for quantity, part in enumerate(parts):
        part.suptitle(
            shorten(landscape.quantities[quantity], 60), x=0.01, ha="left", fontweight="bold", color=palette.ink
        )
        paint_slices(part, landscape, palette, quantity=quantity)


def paint_slices(
    figure: Figure | SubFigure, landscape: LandscapeRecord, palette: LandscapePalette, *, quantity: int
) -> Tooltips:
    """A panel for each domain whose share is free, all with one scale."""
    columns = min(COLUMNS, len(landscape.slices))
    panels: Any = figure.subplots(_count_rows(landscape), columns, sharey=True, squeeze=False).ravel()
    tooltips: dict[str, Sequence[str]] = {}
    for place, axes in enumerate(panels):
        if place >= len(landscape.slices):
            axes.set_axis_off()
            continue

        tooltips |= _paint_panel(axes, landscape, landscape.slices[place], quantity, palette)
        if place % columns == 0:
            axes.set_ylabel(
                label_axis(choose_quantity_scale(landscape, quantity), "utility" if quantity == 0 else "score")
            )
    return tooltips


def _count_rows(landscape: LandscapeRecord) -> int:
    return ceil(len(landscape.slices) / COLUMNS)


def _paint_panel(
    axes: Axes, landscape: LandscapeRecord, line: SliceRecord, quantity: int, palette: LandscapePalette
) -> Tooltips:
    scale, shares_C = choose_quantity_scale(landscape, quantity), np.array(line.shares)
    values_C, low_C, high_C = (
        scale.factor * stack_rows(part)[:, quantity] for part in (line.values, line.low, line.high)
    )
    axes.fill_between(shares_C, low_C, high_C, color=palette.accent, alpha=0.16, linewidth=0)
    axes.plot(shares_C, values_C, color=palette.accent, lw=2)

    # A measured point may have no value of this quantity.
    near = [landscape.measured[row] for row in line.near if landscape.measured[row].values[quantity] is not None]
    gid = f"near-{quantity}-{line.domain}"
    marks = axes.scatter(
        [point.shares[line.domain] for point in near],
        [scale.convert(point.values[quantity] or 0.0) for point in near],
        s=26, facecolors=palette.surface, edgecolors=palette.muted, linewidths=1.3, zorder=3,
    )  # fmt: skip
    marks.set_gid(gid)

    optimum = landscape.optimum.values[quantity]
    share = landscape.optimum.shares[line.domain]
    axes.axvline(share, color=palette.muted, lw=1, ls=(0, (3, 3)), zorder=1)
    if optimum is not None:
        axes.plot(
            [share], [scale.convert(optimum)], "*", ms=13, mfc=palette.accent, mec=palette.surface, mew=1, zorder=4
        )

    axes.set_xlabel(f"share of {shorten(landscape.domains[line.domain], 20)}")
    axes.grid(visible=True, color=palette.line, lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return {gid: [f"point {point.trial}: {scale.format(point.values[quantity] or 0.0)}" for point in near]}
