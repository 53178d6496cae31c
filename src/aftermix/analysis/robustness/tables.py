"""A forecast of robustness, interference and layer-wise cosines as tables and as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from aftermix.analysis.geometry import VectorGeometry
from aftermix.analysis.geometry_tables import format_percent, tabulate_layer_cosines
from aftermix.analysis.robustness.forecast import GRID, LINE, RobustnessForecast
from aftermix.analysis.robustness.interference import LARGEST, VectorInterference, list_pairs
from aftermix.terminal import open_table_console, print_line

SHOWN = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
"""Coefficients of the table; the file has all."""


@dataclass(frozen=True)
class RobustnessFindings:
    """Everything that `aftermix analyze --robustness` found of the vectors of a file."""

    forecast: RobustnessForecast
    interference: VectorInterference
    geometry: VectorGeometry


def print_robustness(findings: RobustnessFindings, *, base: str, console: Console | None = None) -> None:
    """Print losses along each vector, rises by draws, interference, and the cosines of each layer."""
    console = console or open_table_console(160)
    print_line(console, f"Losses around {base}, in nats a token", style="table.title")
    console.print(_tabulate_lines(findings.forecast))
    console.print(_tabulate_draws(findings.forecast))
    for (one, other), best in _find_best_pairs(findings.forecast).items():
        text = f"{one} and {other}: the joint loss is lowest at {best[0]:g} and {best[1]:g}, of {_join(GRID)}"
        print_line(console, text)

    if len(findings.interference.vectors) > 1:
        console.print(_tabulate_interference(findings.interference))
        console.print(tabulate_layer_cosines(findings.geometry))


def _tabulate_lines(forecast: RobustnessForecast) -> Table:
    columns = [f"{c:g}" for c in SHOWN]
    table = _open_table("Loss of each domain along its own vector", "vector", *columns, "lowest at", "others at 1")
    for place, name in enumerate(forecast.domains):
        own = forecast.list_own(place)
        losses = (f"{own[LINE.index(c)]:.3f}" for c in SHOWN)
        elsewhere = _format_number(forecast.compute_cost_elsewhere(place), "+.3f")
        table.add_row(name, *losses, f"{forecast.find_best(place):g}", elsewhere)
    return table


def _tabulate_draws(forecast: RobustnessForecast) -> Table:
    title = f"Rise at home by {len(forecast.draws)} imagined merges around the expert"
    table = _open_table(
        title, "vector", "scale", "mean rise", "worst rise", "gain of the expert", "mean rise of the gain"
    )
    for place, name in enumerate(forecast.domains):
        rises, gain = forecast.compute_rises(place), forecast.compute_gain(place)
        share = format_percent(rises.mean() / gain) if gain > 0 else "-"
        numbers = (f"{rises.mean():+.4f}", f"{rises.max():+.4f}", f"{gain:.4f}")
        table.add_row(name, f"{forecast.scales_K[place]:.2g}", *numbers, share)
    return table


def _tabulate_interference(interference: VectorInterference) -> Table:
    shared = format_percent(interference.without_conflict)
    title = f"Interference: {shared} of the entries that two vectors or more move have one sign in all"
    table = _open_table(title, "pair", "one sign", f"largest {LARGEST:.0%} in common")
    for pair, (agreeing, overlap) in list_pairs(interference).items():
        table.add_row(", ".join(pair), format_percent(agreeing), format_percent(overlap))
    return table


def dump_robustness(
    findings: RobustnessFindings, *, base: str | None, sources: Mapping[str, Mapping[str, object]]
) -> dict[str, Any]:
    """Every number as plain values, with what is known of the `sources` by vector; what cannot be told is null."""
    forecast = findings.forecast
    vectors = {}
    for place, name in enumerate(forecast.domains):
        rises = forecast.compute_rises(place)
        vectors[name] = {
            "losses": {
                domain: _list_numbers(forecast.line_KCK[place, :, other])
                for other, domain in enumerate(forecast.domains)
            },
            "best": forecast.find_best(place),
            "gain": forecast.compute_gain(place),
            "others_at_1": _drop_nan(forecast.compute_cost_elsewhere(place)),
            "scale": float(forecast.scales_K[place]),
            "rises": _list_numbers(rises),
            "mean_rise": float(rises.mean()),
            "worst_rise": float(rises.max()),
            **sources[name],
        }

    pairs = {
        f"{one},{other}": {"losses": [_list_numbers(row) for row in losses], "best": list(best)}
        for ((one, other), losses), best in zip(
            forecast.pairs.items(), _find_best_pairs(forecast).values(), strict=True
        )
    }
    return {
        "base": base,
        "coefficients": list(LINE),
        "vectors": vectors,
        "draws": [asdict(draw) for draw in forecast.draws],
        "grid": list(GRID),
        "pairs": pairs,
        "interference": _dump_interference(findings.interference),
        "layer_cosines": _dump_layer_cosines(findings.geometry),
    }


def _dump_interference(interference: VectorInterference) -> dict[str, Any]:
    return {
        "entries": interference.entries,
        "without_conflict": _drop_nan(interference.without_conflict),
        "pairs": {
            ",".join(pair): {"one_sign": _drop_nan(agreeing), "largest_in_common": _drop_nan(overlap)}
            for pair, (agreeing, overlap) in list_pairs(interference).items()
        },
    }


def _dump_layer_cosines(geometry: VectorGeometry) -> dict[str, dict[str, float | None]]:
    pairs = list(combinations(range(len(geometry.vectors)), 2))
    return {
        label: {
            f"{geometry.vectors[one]},{geometry.vectors[other]}": _drop_nan(float(part.cosines[one, other]))
            for one, other in pairs
        }
        for label, part in geometry.layers.items()
    }


def _find_best_pairs(forecast: RobustnessForecast) -> dict[tuple[str, str], tuple[float, float]]:
    """Coefficients of the lowest joint loss of each pair."""
    found = {}
    for pair, losses_CC in forecast.pairs.items():
        row, column = np.unravel_index(int(np.argmin(losses_CC)), losses_CC.shape)
        found[pair] = GRID[int(row)], GRID[int(column)]
    return found


def _open_table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _join(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _format_number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _list_numbers(values: Any) -> list[float]:
    return [float(value) for value in values]


def _drop_nan(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
