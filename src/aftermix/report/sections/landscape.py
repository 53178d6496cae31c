"""The landscape of a run as a section of its report."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from aftermix.report.charts.landscape import is_triangle
from aftermix.report.charts.landscape_slices import draw_slices
from aftermix.report.charts.landscape_triangle import draw_triangles
from aftermix.report.number_format import format_weight
from aftermix.runs.landscape_records import CosinesRecord, LandscapeRecord

MOST_TRIANGLES, MOST_SLICES = 12, 120
"""Panels on a page, which bound the size of its file; the utility comes first."""


@dataclass(frozen=True)
class LandscapeSection:
    """The section's drawings, and the table of cosines."""

    triangles: Markup | None
    slices: tuple[tuple[str, Markup], ...]
    vectors: tuple[str, ...]
    cosines: tuple[tuple[str, tuple[str, ...]], ...]
    left_out: tuple[str, ...]
    """Capabilities that are not drawn along each domain, since there are too many."""


def build_landscape_section(
    landscape: LandscapeRecord | None, cosines: CosinesRecord | None
) -> LandscapeSection | None:
    """The section on what is known."""
    if landscape is None and cosines is None:
        return None

    rows = zip(cosines.vectors, cosines.cosines, strict=True) if cosines else ()
    lines = len(landscape.slices) if landscape else 0
    drawn = max(1, MOST_SLICES // lines) if lines else 0
    return LandscapeSection(
        triangles=draw_triangles(_limit_quantities(landscape, MOST_TRIANGLES))
        if landscape and is_triangle(landscape)
        else None,
        slices=tuple(
            (name, draw_slices(landscape, quantity=quantity))
            for quantity, name in enumerate(landscape.quantities[:drawn])
        )
        if landscape
        else (),
        vectors=cosines.vectors if cosines else (),
        cosines=tuple((name, tuple(map(_format_cosine, row))) for name, row in rows),
        left_out=landscape.quantities[drawn:] if landscape and drawn else (),
    )


def _limit_quantities(landscape: LandscapeRecord, quantities: int) -> LandscapeRecord:
    """`landscape` with so many of its quantities."""
    return landscape.model_copy(update={"capabilities": landscape.capabilities[: quantities - 1]})


def _format_cosine(value: float | None) -> str:
    return "-" if value is None else format_weight(value)
