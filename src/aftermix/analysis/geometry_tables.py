"""A geometry as tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

from rich.console import Console
from rich.table import Table

from aftermix.analysis.geometry import Floats, GeometryPart, VectorGeometry
from aftermix.analysis.tensor_kinds import label_layers
from aftermix.checkpoints.formats.trained_expert import OWN_VECTOR
from aftermix.terminal import open_table_console, print_line

LISTED = 8
MOST_COLUMNS = 10
"""Pairs of vectors side by side; the file has all."""
MEASURES = ("norm", "over the base's", "changed", "largest")


def print_geometry(geometry: VectorGeometry, *, base: str, console: Console | None = None) -> None:
    """Print norms and shares of each vector, the cosines between them, and both by kind and by layer."""
    console = console or open_table_console(160)
    title = f"Distribution vectors on {base}: {geometry.whole.elements:,} elements"
    print_line(console, title, style="table.title")
    console.print(_tabulate_vectors(geometry))
    if len(geometry.vectors) > 1:
        console.print(_tabulate_cosines(geometry))
        console.print(tabulate_layer_cosines(geometry))

    if geometry.rounding:
        console.print(_tabulate_rounding(geometry))

    console.print(_tabulate_parts(geometry, "kind", geometry.kinds))
    console.print(_tabulate_parts(geometry, "layer", geometry.layers))

    for vector in geometry.vectors:
        names = geometry.list_unmoved(vector)
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            text = (
                f"{vector} does not move {len(names)} tensor{'s' * (len(names) > 1)}: {', '.join(names[:LISTED])}{more}"
            )
            print_line(console, text)


def format_percent(share: float) -> str:
    """A share as a percentage with about three digits.

    >>> tuple(map(format_percent, (0.01234, 1.0, 0.00012, 0.0, float("inf"))))
    ('1.23 %', '100.0 %', '0.012 %', '0 %', '-')
    """
    if not math.isfinite(share):
        return "-"
    value = 100 * share
    return f"{value:.1f} %" if value >= 10 else f"{value:.2f} %" if value >= 1 else f"{value:.3g} %"


def _start_table(title: str | None, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _tabulate_vectors(geometry: VectorGeometry) -> Table:
    table = _start_table(None, "vector", *MEASURES, "tensors not moved")
    for row, vector in enumerate(geometry.vectors):
        table.add_row(vector, *_format_measures(geometry.whole, row), f"{len(geometry.list_unmoved(vector))}")
    return table


def _format_measures(part: GeometryPart, row: int) -> tuple[str, ...]:
    norm, largest = f"{part.norms[row]:.4g}", f"{part.max_abs_V[row]:.3g}"
    return norm, format_percent(part.relative[row]), format_percent(part.shares[row]), largest


def _tabulate_cosines(geometry: VectorGeometry) -> Table:
    table = _start_table("Cosine between vectors", "", *geometry.vectors)
    for vector, cosines in zip(geometry.vectors, geometry.whole.cosines, strict=True):
        table.add_row(vector, *(f"{cosine:z.3f}" if math.isfinite(cosine) else "-" for cosine in cosines))
    return table


def tabulate_layer_cosines(geometry: VectorGeometry) -> Table:
    """The cosine of each two vectors in each layer, and over all; of many, the first pairs."""
    pairs = list(combinations(range(len(geometry.vectors)), 2))[:MOST_COLUMNS]
    names = [f"{geometry.vectors[one]}, {geometry.vectors[other]}" for one, other in pairs]
    table = _start_table("Cosine between vectors, by layer", "layer", *names)
    for label, part in [*geometry.layers.items(), ("all", geometry.whole)]:
        cosines = (part.cosines[pair] for pair in pairs)
        table.add_row(label, *(f"{cosine:z.3f}" if math.isfinite(cosine) else "-" for cosine in cosines))
    return table


def _tabulate_rounding(geometry: VectorGeometry) -> Table:
    title = "Rounding of the stored experts, in the tensors that moved"
    table = _start_table(title, "vector", "type", "at the base's value", "one unit away", "norm lost, about", "kept in")
    for vector, entry in geometry.rounding.items():
        shares = (format_percent(share) for share in (entry.unmoved, entry.one_unit, entry.lost))
        table.add_row(vector, entry.dtype, *shares, OWN_VECTOR if entry.is_kept else "-")
    return table


def _tabulate_parts(geometry: VectorGeometry, noun: str, parts: Mapping[str, GeometryPart]) -> Table:
    """All measures of one vector; of several, the two that compare them."""
    if len(geometry.vectors) == 1:
        table = _start_table(f"By {noun}", noun, *MEASURES)
        for label, part in parts.items():
            table.add_row(label, *_format_measures(part, 0))
        return table

    table = _start_table(f"By {noun}: norm over the base's, share of elements changed", noun, *geometry.vectors)
    for label, part in parts.items():
        relative, shares = part.relative, part.shares
        cells = (
            f"{format_percent(relative[row])}, {format_percent(shares[row])}" for row in range(len(geometry.vectors))
        )
        table.add_row(label, *cells)
    return table


def dump_geometry(geometry: VectorGeometry) -> dict[str, Any]:
    """Every number of the tables, the cosines by layer and kind, and each tensor on its own."""
    whole = _dump_part(geometry, geometry.whole)
    labels = label_layers(geometry.places.values())
    rounding = {"rounding": {vector: asdict(entry) for vector, entry in geometry.rounding.items()}}
    return {
        "elements": geometry.whole.elements,
        "base_norm": math.sqrt(geometry.whole.base),
        "vectors": {vector: entry | {"unmoved": geometry.list_unmoved(vector)} for vector, entry in whole.items()},
        "cosines": {
            "vectors": list(geometry.vectors),
            "whole": _dump_matrix(geometry.whole.cosines),
            "layers": {label: _dump_matrix(part.cosines) for label, part in geometry.layers.items()},
            "kinds": {kind: _dump_matrix(part.cosines) for kind, part in geometry.kinds.items()},
        },
        **(rounding if geometry.rounding else {}),
        "layers": {label: _dump_part(geometry, part) for label, part in geometry.layers.items()},
        "kinds": {kind: _dump_part(geometry, part) for kind, part in geometry.kinds.items()},
        "tensors": {
            name: {
                "layer": labels[geometry.places[name].stack, geometry.places[name].number],
                "kind": geometry.places[name].kind,
                "elements": part.elements,
                "base_norm": math.sqrt(part.base),
                "vectors": _dump_part(geometry, part),
            }
            for name, part in geometry.tensors.items()
        },
    }


def _dump_part(geometry: VectorGeometry, part: GeometryPart) -> dict[str, dict[str, Any]]:
    norms, relative, shares = part.norms, part.relative, part.shares
    return {
        vector: {
            "norm": float(norms[row]),
            "relative": _drop_non_finite(relative[row]),
            "changed": float(shares[row]),
            "max_abs": float(part.max_abs_V[row]),
        }
        for row, vector in enumerate(geometry.vectors)
    }


def _dump_matrix(values: Floats) -> list[list[float | None]]:
    return [[_drop_non_finite(value) for value in row] for row in values]


def _drop_non_finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
