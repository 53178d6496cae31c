"""Every merge that the study of methods tries: the same number of settings for each method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

SETTINGS = 6


@dataclass(frozen=True)
class Setting:
    """Options of a method and one weight for every vector."""

    options: dict[str, Any]
    weight: float = 1.0

    def __str__(self) -> str:
        """For a table: `density 0.5, lambda 1.5`."""
        shown = [f"{key} {_short(value)}" for key, value in self.options.items()]
        return ", ".join([*shown, *([f"weight {_short(self.weight)}"] if self.weight != 1 else [])]) or "-"


@dataclass(frozen=True)
class Rival:
    """A row of the table: a name as in the paper, a method of the product, and what is tried of it."""

    name: str
    method: str
    settings: tuple[Setting, ...]
    of_paper: bool = False
    """Whether the paper has this row."""
    needs_statistics: bool = False

    def merge(self, setting: Setting, *, seed: int) -> dict[str, Any]:
        """The section `merge` of a file."""
        return {"method": self.method, "seed": seed, **setting.options}


def rivals(vectors: int, *, models: int | None = None, reach: float = 1.0) -> list[Rival]:
    """The rows for a merge of so many vectors.

    `models` is K of the shares 1/K, where the base counts as one of them. `reach` makes all coefficients smaller, for
    models that have left the base so far that no sum near 1 is of use. Methods that sum take a weight; those that
    divide by the weights, or share entries out, take `lambda`, because the size of their weights cancels or belongs to
    a vector's own entries.
    """
    share = reach / vectors
    sums = [share / 2, share, 1.5 * share]
    lambdas = [reach * factor for factor in (0.5, 0.75, 1.0)]
    wide = [factor * share for factor in (0.45, 0.75, 1.0, 1.5, 2.25, 3.0)]
    return [
        Rival("Task Arithmetic", "task_arithmetic", _weights(wide), of_paper=True),
        Rival("TIES", "ties", _grid({"density": [0.2, 0.5], "lambda": lambdas}), of_paper=True),
        Rival("DARE", "dare_ties", _weighted({"density": [0.3, 0.7]}, sums), of_paper=True),
        Rival("DARE, summed", "dare_linear", _weighted({"density": [0.3, 0.7]}, sums)),
        Rival("DELLA", "della", _grid({"density": [0.3, 0.7], "lambda": lambdas}), of_paper=True),
        Rival("Breadcrumbs", "breadcrumbs", _weighted({"density": [0.5, 0.9]}, sums)),
        Rival("TALL-mask", "tall_mask", _weighted({"lam": [0.2, 0.4]}, sums), of_paper=True),
        Rival("PCB", "pcb", _grid({"density": [0.1, 0.3], "lambda": [0.5 * reach, reach, 1.5 * reach]}), of_paper=True),
        Rival("WUDI", "wudi", _grid({"others": ["base", "sum"], "lambda": [0.25 * reach, 0.5 * reach, reach]})),
        Rival(
            "Model Stock",
            "model_stock",
            _grid({"lambda": [reach * factor for factor in (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)]}),
        ),
        Rival("OBIM", "obim", _shared_out(models or vectors, reach), of_paper=True, needs_statistics=True),
    ]


def as_printed(models: int) -> Rival:
    """OBIM without a factor: the paper's own setting."""
    return Rival("OBIM, lambda 1", "obim", _grid({"density": [1 / models], "lambda": [1.0]}), needs_statistics=True)


def parts(vectors: int, *, models: int | None = None, reach: float = 1.0) -> list[Rival]:
    """The rows of the ablation: saliency or magnitude, disjoint mean or exclusive shares; options as of `rivals`."""
    mean = _grid({"density": [0.2, 0.5], "lambda": [reach * factor for factor in (0.5, 0.75, 1.0)]})
    shared_out = _shared_out(models or vectors, reach)
    return [
        Rival("TIES", "ties", mean, of_paper=True),
        Rival("TIES+OBM", "ties_obm", mean, of_paper=True, needs_statistics=True),
        Rival("TIES+IM", "ties_im", shared_out, of_paper=True),
        Rival("OBIM", "obim", shared_out, of_paper=True, needs_statistics=True),
    ]


def _shared_out(models: int, reach: float) -> tuple[Setting, ...]:
    densities = [1 / models, 0.6 / models]
    return _grid({"density": densities, "lambda": [reach * factor for factor in (0.7, 1.0, 1.5)]})


def _grid(options: dict[str, list[Any]]) -> tuple[Setting, ...]:
    keys = list(options)
    return tuple(Setting(dict(zip(keys, values, strict=True))) for values in product(*options.values()))


def _weighted(options: dict[str, list[Any]], weights: Iterable[float]) -> tuple[Setting, ...]:
    return tuple(Setting(setting.options, weight) for setting in _grid(options) for weight in weights)


def _weights(weights: Iterable[float]) -> tuple[Setting, ...]:
    return tuple(Setting({}, weight) for weight in weights)


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
