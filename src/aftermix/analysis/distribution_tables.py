"""Fits of vectors as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from aftermix.analysis.distribution import FittedDistribution, VectorFit
from aftermix.terminal import open_table_console

COLUMNS = (
    "vector",
    "entries",
    "fitted",
    "location",
    "scale",
    "K-S distance",
    "log-likelihood",
    "tensors it fits better",
)


def print_fits(fits: Mapping[str, VectorFit], *, base: str, console: Console | None = None) -> None:
    """Print both distributions of each vector, and of how many tensors each is the likelier one."""
    console = console or open_table_console(160)
    table = Table(title=f"Entries of the vectors on {base}", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("vector", "fitted") else "right", overflow="fold")
    for vector, vector_fit in fits.items():
        for row in _list_rows(vector, vector_fit):
            table.add_row(*row)
    console.print(table)


def _list_rows(vector: str, vector_fit: VectorFit) -> list[list[str]]:
    if vector_fit.whole is None:
        return [[vector, f"{vector_fit.tallied.elements:,}", "all equal", *["-"] * 5]]
    fitted = [one for one in vector_fit.tensors.values() if one is not None]
    laplace = sum(one.laplace.mean_log_likelihood > one.gaussian.mean_log_likelihood for one in fitted)
    return [
        [
            vector,
            f"{vector_fit.whole.elements:,}",
            "Laplace",
            *_format_numbers(vector_fit.whole.laplace),
            f"{laplace} of {len(fitted)}",
        ],
        ["", "", "Gaussian", *_format_numbers(vector_fit.whole.gaussian), f"{len(fitted) - laplace} of {len(fitted)}"],
    ]


def _format_numbers(fitted: FittedDistribution) -> list[str]:
    return [
        f"{fitted.location:.2e}",
        f"{fitted.scale:.3e}",
        f"{fitted.ks_distance:.3f}",
        f"{fitted.mean_log_likelihood:.3f}",
    ]
