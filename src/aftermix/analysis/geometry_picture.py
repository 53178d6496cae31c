"""A geometry as one picture: a heat map of layers by kinds for each vector, and the cosines between vectors.

Dark cells moved far from the base, light ones little; grey ones did not move at all. The scale is logarithmic and the
same for all vectors. The same geometry gives the same SVG: fixed hash salt, no date.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator

from aftermix.analysis.drawing import INK, STILL, render_figure, shorten_name
from aftermix.analysis.geometry import Floats, VectorGeometry
from aftermix.analysis.tensor_kinds import OUTSIDE

COLUMNS = 3
"""Heat maps side by side; four stand in a square."""
BEYOND = "#a40e26"
ROW_PX, COLUMN_PX, COSINE_PX, LABELS_PX = 17, 27, 62, 150


def draw_geometry(geometry: VectorGeometry, *, kind: str) -> bytes:
    """The picture as `kind`, `svg` or `png`."""
    return render_figure(lambda: _build_geometry_figure(geometry), kind=kind)


def _build_geometry_figure(geometry: VectorGeometry) -> Figure:
    count = len(geometry.vectors)
    columns = 2 if count in (2, 4) else min(COLUMNS, count)
    rows = ceil(count / columns)
    maps_px = rows * (ROW_PX * max(8, min(48, len(geometry.layers))) + LABELS_PX) + 20
    cosines_px = COSINE_PX * count + LABELS_PX if count > 1 else 0
    width_px = columns * (COLUMN_PX * max(8, len(geometry.kinds)) + 70) + 150

    size = (max(width_px, cosines_px + 120 if count > 1 else 0) / 72, (maps_px + cosines_px) / 72)
    figure = Figure(figsize=size, dpi=72, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))

    if count == 1:
        _draw_maps(figure, geometry, rows, columns)
        return figure
    parts: Any = figure.subfigures(2, 1, height_ratios=[maps_px, cosines_px])
    _draw_maps(parts[0], geometry, rows, columns)
    _draw_cosines(parts[1].subplots(), geometry)
    return figure


def _draw_maps(figure: Any, geometry: VectorGeometry, rows: int, columns: int) -> None:
    layers, kinds = list(geometry.layers), list(geometry.kinds)
    values_VLK = _tabulate_relative(geometry, layers, kinds)
    low, high = _choose_scale(values_VLK)
    norm = LogNorm(low, high)
    # Below the scale stands only what did not move, which has a colour of its own.
    shown_VLK = np.where(values_VLK > 0, np.maximum(values_VLK, low), values_VLK + low / 2)
    colours = mpl.colormaps["viridis_r"].with_extremes(bad="white", under=STILL, over=BEYOND)

    panels = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(panels.ravel()):
        if place >= len(geometry.vectors):
            axes.set_axis_off()
            continue
        axes.pcolormesh(shown_VLK[place], cmap=colours, norm=norm, edgecolors="white", linewidth=1)
        axes.set_title(shorten_name(geometry.vectors[place], 28))
        _label_map(axes, layers, kinds)

    bar = figure.colorbar(
        ScalarMappable(norm, colours),
        ax=panels,
        fraction=0.09 / columns,
        aspect=14 * rows,
        pad=0.02,
        extend=_choose_extension(values_VLK),
    )
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    bar.ax.yaxis.set_minor_formatter("")
    bar.outline.set_visible(False)
    bar.set_label("norm of the vector over the base's\n(grey: not moved; white: no such tensor)")


def _tabulate_relative(geometry: VectorGeometry, layers: list[str], kinds: list[str]) -> Floats:
    """(V, L, K) relative norms; NaN where the model has no such tensor."""
    values_VLK = np.full((len(geometry.vectors), len(layers), len(kinds)), np.nan)
    for (layer, kind), part in geometry.cells.items():
        values_VLK[:, layers.index(layer), kinds.index(kind)] = part.relative
    return values_VLK


def _choose_scale(values_VLK: Floats) -> tuple[float, float]:
    """From the smallest movement to the largest, over at most three decades and at least a factor of four."""
    moved = values_VLK[np.isfinite(values_VLK) & (values_VLK > 0)]
    high = float(moved.max()) if moved.size else 1.0
    low = max(float(moved.min()) if moved.size else 0.1, high / 1000)
    return min(low, high / 4), high


def _choose_extension(values_VLK: Floats) -> str:
    """The colour above the scale stands for a part of the base that is 0 and has been moved."""
    return "max" if np.isposinf(values_VLK).any() else "neither"


def _label_map(axes: Axes, layers: list[str], kinds: list[str]) -> None:
    step = ceil(len(layers) / 24)
    shown = [place for place, layer in enumerate(layers) if layer == OUTSIDE or place % step == 0]
    axes.set_yticks([place + 0.5 for place in shown], [layers[place] for place in shown])
    axes.set_xticks(
        [place + 0.5 for place in range(len(kinds))], kinds, rotation=55, ha="right", rotation_mode="anchor"
    )
    axes.tick_params(length=0)
    axes.invert_yaxis()
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_cosines(axes: Axes, geometry: VectorGeometry) -> None:
    cosines_VV = geometry.whole.cosines
    places = range(len(geometry.vectors))
    colours = mpl.colormaps["RdBu"].with_extremes(bad=STILL)
    axes.pcolormesh(cosines_VV, cmap=colours, vmin=-1, vmax=1, edgecolors="white", linewidth=2)

    for row in places:
        for column in places:
            cosine = cosines_VV[row, column]
            text = f"{cosine:z.2f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(cosine) else "-"
            colour = "white" if abs(cosine) > 0.6 else INK
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=12)

    names = [shorten_name(vector, 22) for vector in geometry.vectors]
    axes.set_xticks([place + 0.5 for place in places], names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks([place + 0.5 for place in places], names)
    axes.tick_params(length=0)

    axes.invert_yaxis()
    axes.set_aspect("equal", anchor="W")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("Cosine between vectors")
