"""Three domains: utility and every capability as filled contours over the triangle of mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.tri import Triangulation

from aftermix.report.charts.barycentric import TRIANGLE, Floats, find_allowed_corners, project_shares
from aftermix.report.charts.landscape import choose_quantity_scale, stack_rows
from aftermix.report.charts.landscape_colours import PAGE, LandscapePalette
from aftermix.report.charts.svg import Tooltips, draw
from aftermix.report.number_format import ScoreScale, shorten
from aftermix.runs.landscape_records import LandscapeRecord, MeasuredPointRecord

PANEL_PX = 335
COLUMNS = 3
"""Panels side by side; four stand in a square."""
LABELS = (
    (0, -0.05, "center", "top"),
    (1, -0.05, "center", "top"),
    (0.5, float(TRIANGLE[2, 1]) + 0.03, "center", "bottom"),
)
"""Place and alignment of the domains' names at the corners."""


def draw_triangles(landscape: LandscapeRecord) -> Markup:
    """All panels, for the page."""
    width_px, height_px = measure_triangles_px(landscape)
    label = "Utility and scores over all mixtures of three domains, as a triangle each"
    return draw(
        lambda figure: paint_triangles(figure, landscape, PAGE),
        name="triangle",
        label=label,
        width_px=width_px,
        height_px=height_px,
    )


def measure_triangles_px(landscape: LandscapeRecord) -> tuple[int, int]:
    """Width and height of the whole drawing."""
    columns = _count_columns(landscape)
    return PANEL_PX * columns, PANEL_PX * ceil(len(landscape.quantities) / columns) + 40


def _count_columns(landscape: LandscapeRecord) -> int:
    count = len(landscape.quantities)
    return 2 if count in (2, 4) else min(COLUMNS, count)


def paint_triangles(figure: Figure, landscape: LandscapeRecord, palette: LandscapePalette) -> Tooltips:
    """One panel a quantity; measured points are filled with what they really scored."""
    names = landscape.quantities
    columns = _count_columns(landscape)
    panels = figure.subplots(ceil(len(names) / columns), columns, squeeze=False).ravel()

    tooltips: dict[str, Sequence[str]] = {}
    for quantity, axes in enumerate(panels):
        axes.set_axis_off()
        if quantity < len(names):
            tooltips |= _paint_panel(figure, axes, landscape, quantity, palette)

    # All panels have the same marks: one legend serves them.
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, labelcolor=palette.muted)
    return tooltips


def _paint_panel(
    figure: Figure, axes: Axes, landscape: LandscapeRecord, quantity: int, palette: LandscapePalette
) -> Tooltips:
    assert landscape.surface is not None  # noqa: S101 - asked before; for the type checker
    scale = choose_quantity_scale(landscape, quantity)
    shares_C3 = np.array(landscape.surface.shares)
    values_C = scale.factor * stack_rows(landscape.surface.values)[:, quantity]

    # Colours run over the allowed mixtures alone, so that their differences show.
    low_3, high_3 = np.array(landscape.low), np.array(landscape.high)
    allowed_C = ((shares_C3 >= low_3 - 1e-9) & (shares_C3 <= high_3 + 1e-9)).all(axis=1) & np.isfinite(values_C)
    edges = _divide_levels(values_C[allowed_C] if allowed_C.any() else values_C, len(palette.scores))
    norm, colours = BoundaryNorm(edges, len(palette.scores)), ListedColormap(palette.scores)

    _draw_frame(axes, landscape, quantity, palette)
    _fill_contours(axes, shares_C3, values_C, edges, palette, clip=find_allowed_corners(low_3, high_3))
    marks = _draw_points(axes, landscape.measured, quantity, scale, palette, norm=norm, colours=colours)
    _mark_mixtures(axes, landscape, palette)

    bar = figure.colorbar(marks, ax=axes, shrink=0.62, aspect=18, pad=0.02, spacing="proportional")
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(4)
    bar.formatter = FuncFormatter(lambda value, _: f"{value:.3g}".replace("-", "\N{MINUS SIGN}"))
    bar.ax.tick_params(length=0, labelcolor=palette.muted)
    bar.minorticks_off()

    gid = f"triangle-points-{quantity}"
    marks.set_gid(gid)
    return {gid: [text for point in landscape.measured if (text := _describe_point(point, landscape, quantity, scale))]}


def _divide_levels(values_C: Floats, levels: int) -> Floats:
    """Ends of the levels; a surface that is flat gets a scale around its value."""
    low, high = float(np.nanmin(values_C)), float(np.nanmax(values_C))
    if high - low <= 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, levels + 1)


def _draw_frame(axes: Axes, landscape: LandscapeRecord, quantity: int, palette: LandscapePalette) -> None:
    axes.add_patch(Polygon(TRIANGLE, closed=True, facecolor="none", edgecolor=palette.muted, linewidth=1, zorder=2))
    for name, (x, y, across, down) in zip(landscape.domains, LABELS, strict=True):
        axes.text(x, y, shorten(name, 18), ha=across, va=down, color=palette.ink, fontsize=12)
    axes.set_title(
        shorten(landscape.quantities[quantity], 34), color=palette.ink, fontsize=13, fontweight="bold", loc="center"
    )
    axes.set_aspect("equal")
    axes.set_xlim(-0.1, 1.1)
    axes.set_ylim(-0.15, 1.0)


def _fill_contours(
    axes: Axes, shares_C3: Floats, values_C: Floats, edges: Floats, palette: LandscapePalette, *, clip: Floats
) -> None:
    mesh = Triangulation(*project_shares(shares_C3, TRIANGLE).T)
    unknown_C = ~np.isfinite(values_C)
    if unknown_C.any():
        mesh.set_mask(unknown_C[mesh.triangles].any(axis=1))

    # A value at the very top belongs to no level; beyond the allowed part it counts as the nearest level.
    inside_C = np.clip(np.where(unknown_C, edges[0], values_C), edges[0], edges[-1] - 1e-6 * (edges[-1] - edges[0]))
    filled = axes.tricontourf(mesh, inside_C, levels=edges, colors=palette.scores, zorder=1)
    outline = Polygon(
        project_shares(clip, TRIANGLE), closed=True, facecolor="none", edgecolor=palette.muted, linewidth=1
    )
    axes.add_patch(outline)
    filled.set_clip_path(outline)


def _draw_points(
    axes: Axes,
    measured: Sequence[MeasuredPointRecord],
    quantity: int,
    scale: ScoreScale,
    palette: LandscapePalette,
    *,
    norm: BoundaryNorm,
    colours: ListedColormap,
) -> PathCollection:
    x_N, y_N = project_shares(np.array([point.shares for point in measured]), TRIANGLE).T
    values_N = scale.factor * stack_rows(tuple(point.values for point in measured))[:, quantity]
    known_N = np.isfinite(values_N)
    axes.scatter(
        x_N[~known_N], y_N[~known_N], s=34, facecolors="none", edgecolors=palette.muted, linewidths=1.3, zorder=4
    )
    return axes.scatter(
        x_N[known_N], y_N[known_N], c=values_N[known_N], cmap=colours, norm=norm, s=34, edgecolors=palette.surface,
        linewidths=1.3, zorder=4,
    )  # fmt: skip


def _mark_mixtures(axes: Axes, landscape: LandscapeRecord, palette: LandscapePalette) -> None:
    # For the legend alone: a white edge would not be seen there.
    axes.plot([], [], "o", ms=6, mfc=palette.scores[8], mec=palette.muted, label="measured, filled with its own score")

    mixtures = (
        (landscape.winner, "o", 15, "none", palette.winner),
        (landscape.optimum, "*", 15, palette.surface, palette.ink),
    )
    for mixture, marker, size, fill, edge in mixtures:
        x, y = project_shares(np.array([mixture.shares]), TRIANGLE)[0]
        label = "optimum by prediction" if mixture is landscape.optimum else "winner"
        if fill == "none":  # a halo, since the ring must stand out from any level
            axes.plot([x], [y], marker, ms=size, mfc="none", mec=palette.surface, mew=5, zorder=5)
        axes.plot([x], [y], marker, ms=size, mfc=fill, mec=edge, mew=2.4 if fill == "none" else 1.2, zorder=6,
                  label=label, linestyle="none")  # fmt: skip


def _describe_point(
    point: MeasuredPointRecord, landscape: LandscapeRecord, quantity: int, scale: ScoreScale
) -> str | None:
    value = point.values[quantity]
    shares = ", ".join(f"{name} {share:.2f}" for name, share in zip(landscape.domains, point.shares, strict=True))
    return None if value is None else f"point {point.trial}: {shares}; {scale.format(value)}"
