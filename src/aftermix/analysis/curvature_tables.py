"""Curvature, gradients and vectors of the domains: what one run of derivatives found, as tables and plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from aftermix.analysis.curvature import LossCurvature
from aftermix.analysis.geometry import Floats
from aftermix.terminal import open_table_console

# K domains


@dataclass(frozen=True)
class DomainDerivatives:
    """Curvature at the base beside the vectors of the experts of the same domains, in the same order."""

    curvature: LossCurvature
    vector_cosines_KK: Floats
    descent_cosines_KK: Floats
    """Cosine between the vector of row k and minus the gradient of column j."""
    tokens: Mapping[str, int]
    """Tokens read, by domain."""


def list_matrices(derivatives: DomainDerivatives) -> dict[str, tuple[str, Floats]]:
    """Title and values of every matrix, by the key that it has in a file."""
    return {
        "gamma": (
            "Relative curvature gamma of the row's loss along the column's gradient",
            derivatives.curvature.gamma_KK,
        ),
        "gradient_cosines": ("Cosine between gradients at the base", derivatives.curvature.gradient_cosines_KK),
        "vector_cosines": ("Cosine between vectors", derivatives.vector_cosines_KK),
        "descent_cosines": (
            "Cosine between vectors (rows) and minus gradients (columns)",
            derivatives.descent_cosines_KK,
        ),
    }


def print_derivatives(derivatives: DomainDerivatives, *, base: str, console: Console | None = None) -> None:
    """Print loss and gradient of each domain, and the four matrices."""
    console = console or open_table_console(160)
    table = _open_table(f"Losses at {base}", "tokens read", "loss (nats a token)", "norm of the gradient")
    flat = derivatives.curvature
    for name, loss, norm in zip(flat.domains, flat.losses_nats_K, flat.gradient_norms_K, strict=True):
        table.add_row(name, f"{derivatives.tokens[name]:,}", f"{loss:.3f}", f"{norm:.3g}")
    console.print(table)
    for title, values_KK in list_matrices(derivatives).values():
        console.print(_tabulate_matrix(title, flat.domains, values_KK))


def dump_derivatives(derivatives: DomainDerivatives) -> dict[str, Any]:
    """Every number as plain values; what cannot be told is null."""
    flat = derivatives.curvature
    rows = zip(flat.domains, flat.losses_nats_K, flat.gradient_norms_K, strict=True)
    return {
        "domains": {
            name: {"tokens": derivatives.tokens[name], "loss_nats": float(loss), "gradient_norm": float(norm)}
            for name, loss, norm in rows
        },
        "responses": list_values(flat.responses_KK),
        **{key: list_values(values_KK) for key, (_, values_KK) in list_matrices(derivatives).items()},
    }


def list_values(values: Floats) -> list[list[float | None]]:
    """A matrix as lists.

    >>> import numpy as np
    >>> list_values(np.array([[1.0, np.nan]]))
    [[1.0, None]]
    """
    return [[float(value) if math.isfinite(value) else None for value in row] for row in values]


def _open_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", min_width=len(title))
    table.add_column("", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _tabulate_matrix(title: str, names: tuple[str, ...], values_KK: Floats) -> Table:
    table = _open_table(title, *names)
    for name, row in zip(names, values_KK, strict=True):
        table.add_row(name, *(f"{value:z.3f}" if math.isfinite(value) else "-" for value in row))
    return table
