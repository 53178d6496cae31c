"""Bits per byte of merges and of trained models, on the world's select and test text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from studies.mergemix.domains import CAPABILITIES
from studies.world.lab import Lab, Part, Point
from studies.world.layout import World
from studies.world.store import Store

Floats = npt.NDArray[np.float64]
Bits = dict[str, float]
SUM = {"method": "task_arithmetic"}
MODEL = {"method": "linear"}


class Scale:
    """All that is measured from one base."""

    def __init__(self, world: World, folder: Path, *, base: str, label: str, threads: int) -> None:
        store = Store(folder / f"measurements-{label}.jsonl")  # its keys do not name the base
        self._lab = Lab(replace(world, base=base), store, threads=threads)

    def base(self, part: Part = "test") -> Bits:
        """Of the base itself."""
        return self._bits({}, {}, part)

    def model(self, folder: Path, part: Part = "test") -> Bits:
        """Of a model as it was trained."""
        return self._lab.measure({"model": folder}, Point(MODEL, {"model": 1.0}), CAPABILITIES, part, items=False).bits

    def merge(self, experts: Mapping[str, Path], shares: Mapping[str, float], part: Part = "test") -> Bits:
        """Of `base + sum_k w_k (expert_k - base)`."""
        return self._bits(experts, {name: share for name, share in shares.items() if share > 0}, part)

    def _bits(self, models: Mapping[str, Path], weights: Mapping[str, float], part: Part) -> Bits:
        return self._lab.measure(models, Point(SUM, weights), CAPABILITIES, part, items=False).bits


def scores(rows: Sequence[Bits]) -> Floats:
    """(N, M) minus bits per byte of each capability: higher is better."""
    return np.array([[-row[name] for name in CAPABILITIES] for row in rows])


def relative(row: Bits, base: Bits) -> float:
    """Mean over the capabilities of the bits per byte, % of the base's."""
    return 100 * float(np.mean([row[name] / base[name] for name in CAPABILITIES]))
