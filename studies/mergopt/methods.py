"""The paper's four ways to merge, and how each finds its coefficient on select text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from studies.mergopt.bench import SUM, Bench
from studies.mergopt.results import Row
from studies.world.lab import Point

WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2)
LAMBDAS = (0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0)
DENSITY = 0.2


@dataclass(frozen=True)
class Method:
    """A row of the paper's tables: a method of the product, and the coefficient that is tuned."""

    name: str
    merge: Mapping[str, Any]
    grid: tuple[float, ...] = ()
    """Empty where there is nothing to tune."""
    start: Mapping[int, float] = field(default_factory=dict)
    """Where the walk along the grid begins, by number of experts: near its end for the control, to be short."""
    tunes_lambda: bool = False

    def point(self, tasks: Sequence[str], coefficient: float, *, seed: int) -> Point:
        """The merge of the experts of `tasks`; random masks are the same for all variants."""
        merge: dict[str, Any] = {**self.merge, "seed": seed}
        if self.tunes_lambda:
            return Point({**merge, "lambda": coefficient}, dict.fromkeys(tasks, 1.0))
        return Point(merge, dict.fromkeys(tasks, coefficient))


AVERAGING = Method("averaging", SUM)
TASK_ARITHMETIC = Method("Task Arithmetic", SUM, WEIGHTS, {2: 0.5, 3: 0.4, 4: 0.4, 6: 0.25})
TIES = Method("TIES", {"method": "ties", "density": DENSITY}, LAMBDAS, {2: 0.6, 4: 0.8, 6: 0.6}, tunes_lambda=True)
DARE = Method("DARE", {"method": "dare_linear", "density": DENSITY}, WEIGHTS, {2: 0.3, 4: 0.3, 6: 0.15})
METHODS = (AVERAGING, TASK_ARITHMETIC, TIES, DARE)


def merged(
    bench: Bench, models: Mapping[str, Path], method: Method, *, name: str, seed: int, items: bool = False
) -> Row:
    """The row `name` of one seed: `models` merged by `method`, on test text of their tasks; with `items`, on those."""
    tasks = tuple(models)
    coefficient = best_coefficient(bench, models, method, seed=seed)
    point = method.point(tasks, coefficient, seed=seed)
    found = bench.scores(models, point, tasks) if items else bench.bits(models, point, tasks, "test")
    accuracy = found.mean_accuracy(tasks) if items else None
    return Row(name, seed, tasks, coefficient, found.relative_bits(bench.base(tasks, "test"), tasks), accuracy)


def best_coefficient(bench: Bench, models: Mapping[str, Path], method: Method, *, seed: int) -> float:
    """`1 / K` for averaging, else what has the fewest bits on select text."""
    tasks = tuple(models)
    if not method.grid:
        return 1 / len(tasks)
    base = bench.base(tasks, "select")

    def bits(coefficient: float) -> float:
        point = method.point(tasks, coefficient, seed=seed)
        return bench.bits(models, point, tasks, "select").relative_bits(base, tasks)

    start = method.start[len(tasks)]
    return lowest(bits, bench.world.pick(method.grid, tiny=(start,)), start=start)


def lowest(cost: Callable[[float], float], grid: Sequence[float], *, start: float) -> float:
    """Where a walk downhill along `grid` ends: the minimum of a cost with a single valley.

    >>> lowest(lambda x: (x - 0.3) ** 2, (0.1, 0.2, 0.3, 0.5, 1.0), start=1.0)
    0.3
    """
    known = cache(cost)
    at = grid.index(start)
    while True:
        lower = [at, *(place for place in (at - 1, at + 1) if 0 <= place < len(grid))]
        best = min(lower, key=lambda place: known(grid[place]))
        if best == at:
            return grid[at]
        at = best
