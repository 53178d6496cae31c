"""A merge as a point: the coordinates in which items answer smoothly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# N merges, D coordinates, S settings without order

SMALLEST_SUM = 1e-3
"""Sum of absolute weights from which on its logarithm counts: a method that divides by the sum has no merge at 0."""


@dataclass(frozen=True)
class MergePoints:
    """Merges as the process sees them."""

    numbers_ND: Floats
    """Coordinates with an order."""
    choices_NS: Integers
    """Settings without one: the number of the choice."""

    def __len__(self) -> int:
        return len(self.numbers_ND)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> MergePoints:
        """Some of the merges."""
        return MergePoints(self.numbers_ND[rows], self.choices_NS[rows])

    def join(self, others: MergePoints) -> MergePoints:
        """These merges, then `others`."""
        return MergePoints(
            np.concatenate([self.numbers_ND, others.numbers_ND]), np.concatenate([self.choices_NS, others.choices_NS])
        )


@dataclass(frozen=True)
class MergeCoordinates:
    """The way from weights and settings to coordinates, a function of the method.

    A method that adds weighted vectors is smooth in the weights `w`. One that divides by their sum is smooth in
    `w / sum |w|` and `log sum |w|`, of which the latter is dropped where it plays no part (`scaled` False: the sum
    cancels). Numbers of searched settings are coordinates of their own; choices are compared for equality alone.
    """

    vectors: tuple[str, ...]
    """Weights that are not fixed, each of a vector or of a rule of its range."""
    normalised: bool = False
    """True for a method that divides by the sum of the weights."""
    numbers: tuple[str, ...] = ()
    """Settings that are numbers."""
    choices: Mapping[str, tuple[object, ...]] | None = None
    """Setting -> its choices."""
    placed: bool = False
    """True where weights depend on the place of a tensor: they sum up otherwise at each, and are left as they are."""

    @property
    def dimensions(self) -> int:
        """D, the number of coordinates with an order."""
        return len(self.vectors) + (self.normalised and not self.placed) + len(self.numbers)

    def locate(
        self, weights: Sequence[Mapping[str, float]], settings: Sequence[Mapping[str, object]] | None = None
    ) -> MergePoints:
        """The points of merges by their weights and settings.

        Raises `KeyError` for a merge without one of the vectors or settings, `ValueError` for a choice that is none.
        """
        held = settings or [{}] * len(weights)
        raw_NV = np.array([[merge[name] for name in self.vectors] for merge in weights], dtype=np.float64)
        raw_NV = raw_NV.reshape(len(weights), len(self.vectors))
        options = [[_read_number(setting[name]) for name in self.numbers] for setting in held]
        number_NO = np.array(options, dtype=np.float64).reshape(len(weights), len(self.numbers))

        table = self.choices or {}
        chosen = [[list(values).index(setting[name]) for name, values in table.items()] for setting in held]
        choices_NS = np.array(chosen, dtype=np.int64).reshape(len(weights), len(table))
        return MergePoints(np.concatenate([self._shape_weights(raw_NV), number_NO], axis=1), choices_NS)

    def _shape_weights(self, raw_NV: Floats) -> Floats:
        if not self.normalised or self.placed:
            return raw_NV
        sums_N1 = np.maximum(np.abs(raw_NV).sum(axis=1, keepdims=True), SMALLEST_SUM)
        return np.concatenate([raw_NV / sums_N1, np.log(sums_N1)], axis=1)


def _read_number(value: object) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"expected a number, found {value!r}")
    return float(value)
