"""Fits of vectors as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from aftermix.analysis.distribution import Distribution, VectorFit
from aftermix.terminal import table_console

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
    console = console or table_console(160)
    table = Table(title=f"Entries of the vectors on {base}", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("vector", "fitted") else "right", overflow="fold")
    for vector, found in fits.items():
        for row in _rows(vector, found):
            table.add_row(*row)
    console.print(table)


def _rows(vector: str, found: VectorFit) -> list[list[str]]:
    if found.whole is None:
        return [[vector, f"{found.tallied.elements:,}", "all equal", *["-"] * 5]]
    fitted = [one for one in found.tensors.values() if one is not None]
    laplace = sum(one.laplace.mean_log_likelihood > one.gaussian.mean_log_likelihood for one in fitted)
    return [
        [vector, f"{found.whole.elements:,}", "Laplace", *_numbers(found.whole.laplace), f"{laplace} of {len(fitted)}"],
        ["", "", "Gaussian", *_numbers(found.whole.gaussian), f"{len(fitted) - laplace} of {len(fitted)}"],
    ]


def _numbers(fitted: Distribution) -> list[str]:
    return [
        f"{fitted.location:.2e}",
        f"{fitted.scale:.3e}",
        f"{fitted.ks_distance:.3f}",
        f"{fitted.mean_log_likelihood:.3f}",
    ]
