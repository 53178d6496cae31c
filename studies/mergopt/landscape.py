"""Figure 2 of the paper: the joint loss of two tasks over both coefficients, AdamW beside the merge-aware optimizer.

A rows (first coefficient), B columns (second coefficient).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aftermix.files import write_atomically
from studies.mergopt.bench import SUM, Bench, NotMeasured
from studies.mergopt.crew import EQUAL_STEPS, GROUPS, trained
from studies.mergopt.results import head
from studies.world.lab import Point
from studies.world.layout import World

COEFFICIENTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
TINY_COEFFICIENTS = (0.0, 0.6, 1.2)
SHOWN = ("constant", "fitted")
WITHIN = 0.02
FINE = 121
LEVELS = 24
Grid = NDArray[np.float64]


def measure(bench: Bench, seed: int) -> dict[str, Any]:
    """Joint loss by pair and variant: mean over both tasks of bits per byte of select text, % of the base's."""
    kinds = [kind for kind in trained(bench.world, EQUAL_STEPS, seed=seed) if kind.name in SHOWN]
    try:
        return {
            " and ".join(tasks): {
                kind.name: _grid(bench, kind.models(bench.world, tasks, seed=seed), tasks, seed=seed) for kind in kinds
            }
            for tasks in GROUPS[2]
        }
    except NotMeasured:
        return {}


def _grid(bench: Bench, models: Mapping[str, Path], tasks: Sequence[str], *, seed: int) -> list[list[float]]:
    base = bench.base(tasks, "select")

    def loss(first: float, second: float) -> float:
        weights = {task: value for task, value in zip(tasks, (first, second), strict=True) if value}
        point = Point({**SUM, "seed": seed}, weights)
        return round(bench.bits(models, point, tasks, "select").relative_bits(base, tasks), 4)

    side = coefficients(bench.world)
    return [[loss(first, second) for second in side] for first in side]


def coefficients(world: World) -> tuple[float, ...]:
    """Those of one expert; the other's are the same."""
    return world.pick(COEFFICIENTS, tiny=TINY_COEFFICIENTS)


def share_within(loss_AB: Sequence[Sequence[float]], *, best: float | None = None, within: float = WITHIN) -> float:
    """Share of the square, in %, whose loss is at most `(1 + within)` times the best, by default the grid's own.

    Between grid points the loss is bilinear.

    >>> share_within([[1.0, 1.0], [1.0, 1.0]]), share_within([[1.0, 2.0], [1.0, 2.0]], within=0.25)
    (100.0, 25.6...)
    """
    fine = finer(loss_AB)
    limit = (1 + within) * (float(np.min(loss_AB)) if best is None else best)
    return float(100 * (fine <= limit + 1e-12).mean())


def finer(loss_AB: Sequence[Sequence[float]]) -> Grid:
    """Bilinear values on a square of :data:`FINE` points a side."""
    given = np.asarray(loss_AB)
    places = np.linspace(0, len(given) - 1, FINE)
    low = np.minimum(places.astype(int), len(given) - 2)
    part = places - low
    rows = given[low] * (1 - part)[:, None] + given[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def write(path: Path, by_seed: Mapping[int, Mapping[str, Any]], side: Sequence[float] = COEFFICIENTS) -> None:
    """As a file: by seed, pair and variant. `side` has the coefficients."""
    values = {**head(), "coefficients": side, "seeds": {str(seed): grids for seed, grids in by_seed.items()}}
    write_atomically(path, json.dumps(values) + "\n")


def draw(
    path: Path, grids: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], side: Sequence[float], *, seed: int
) -> None:
    """One row a pair, one column a variant; a row's panels share their levels. `side` has the coefficients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4 * len(grids)), dpi=110, layout="constrained")
    panels = figure.subplots(len(grids), len(SHOWN), squeeze=False, sharex=True, sharey=True)
    for row, (pair, by_variant) in zip(panels, grids.items(), strict=True):
        first, second = pair.split(" and ")
        values = [np.asarray(by_variant[name]) for name in SHOWN]
        levels = np.linspace(min(map(np.min, values)), max(map(np.max, values)), LEVELS)
        for axes, name, loss_AB in zip(row, SHOWN, values, strict=True):
            _panel(axes, loss_AB, side, levels)
            axes.set_title(f"{name}, {pair}", fontsize=10)
            axes.set_xlabel(f"coefficient of {first}")
            axes.set_ylabel(f"coefficient of {second}")
        figure.colorbar(row[0].collections[0], ax=list(row), format="%.0f", label="bits per byte, % of base")
    figure.suptitle(f"Joint loss of two tasks, seed {seed}; white line: within {WITHIN:.0%} of the panel's best")
    figure.savefig(path)


def _panel(axes: Any, loss_AB: Grid, side: Sequence[float], levels: Grid) -> None:
    axes.contourf(side, side, loss_AB.T, levels=levels, cmap="viridis")
    best = float(loss_AB.min())
    axes.contour(side, side, loss_AB.T, levels=[best * (1 + WITHIN)], colors="white", linewidths=1.5)
    first, second = np.unravel_index(loss_AB.argmin(), loss_AB.shape)
    axes.plot(side[first], side[second], marker="+", color="white", markersize=10)
    axes.set_aspect("equal")
