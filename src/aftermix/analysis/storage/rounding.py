"""Rounding of stored experts, told from the files alone: entries that did not move, or moved by one unit, and the norm.

An entry of a bfloat16 or float16 expert lies on the grid of its type. What training changed is known to half a unit of
the last place, so a small change is lost, or becomes a whole unit. How much of the vector's norm that is depends on the
changes below the grid; they are taken to be Laplace distributed in each tensor, as the changes above it are.

    density of d       theta / 2 * exp(-theta |d|)
    at the base        |d| < u / 2, with u the unit of the last place of the base's entry
    k units away       (k - 1/2) u < |d| < (k + 1/2) u

`theta` of a tensor is fitted to all its entries by maximum likelihood; the squared error and the squared norm are then
expectations given where each entry lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.checkpoints.alignment.view import stores_difference
from aftermix.checkpoints.formats.spans import split_into_spans
from aftermix.checkpoints.formats.trained_expert import TrainedExpert
from aftermix.checkpoints.model import Model, TensorInfo
from aftermix.checkpoints.pool import ModelPool

# E exponents of the base's entries

MANTISSA_BITS = {torch.bfloat16: 7, torch.float16: 10}
"""Stored bits of the mantissa by type that rounds."""
LOWEST, EXPONENTS = -160, 320
"""Exponents of float32, subnormal numbers among them."""
HALVINGS = 100
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StoredRounding:
    """Rounding of one expert in the tensors that it stores with few bits and that differ from the base's."""

    dtype: str
    """As `bfloat16`; several joined by `and`."""
    entries: int
    unmoved: float
    """Share of entries at the base's values."""
    one_unit: float
    """Share of entries one unit of the last place away."""
    lost: float
    """Estimated norm of the rounding over that of the vector before it."""
    is_kept: bool
    """True where the expert has its own vector, in which nothing of this is lost."""

    def __str__(self) -> str:
        where = "; its own vector has what was lost" if self.is_kept else ""
        return (
            f"is stored in {self.dtype}: {self.unmoved:.1%} of the entries of tensors that moved are at the base's "
            f"values, {self.one_unit:.1%} one unit of the last place away; about {self.lost:.1%} of the vector's norm "
            f"is rounding{where}"
        )


def survey_rounding(pool: ModelPool) -> dict[str, StoredRounding]:
    """By vector, the rounding of each expert of `pool` that is stored in bfloat16 or float16; reads all of them.

    An expert that is stored as a difference has none, and one that equals its base tells nothing.
    """
    found = {name: _survey_expert(pool, expert) for name, expert in pool.experts.items() if pool.base is not None}
    return {name: rounding for name, rounding in found.items() if rounding is not None}


def _survey_expert(pool: ModelPool, expert: Model) -> StoredRounding | None:
    served: Model = expert.served if isinstance(expert, TrainedExpert) else expert
    if stores_difference(served):
        return None

    tensors: list[_TensorCounts] = []
    for info in pool.layout:
        if info.mergeable and info.name not in pool.frame.alias:
            counts = _count_tensor(pool, served, info)
            if counts is not None and counts.moved_E.any():
                tensors.append(counts)
    if not tensors:
        return None

    entries = sum(counts.entries for counts in tensors)
    estimates = [counts.estimate() for counts in tensors]
    error, norm = (sum(values) for values in zip(*estimates, strict=True))
    return StoredRounding(
        dtype=" and ".join(sorted({str(counts.dtype).removeprefix("torch.") for counts in tensors})),
        entries=entries,
        unmoved=sum(int(counts.unmoved_E.sum()) for counts in tensors) / entries,
        one_unit=sum(counts.one_unit for counts in tensors) / entries,
        lost=min(1.0, math.sqrt(error / norm)) if norm > 0 else 0.0,
        is_kept=served is not expert,
    )


@dataclass
class _TensorCounts:
    """Entries of one tensor by the exponent of the base's entry, from which its unit follows."""

    dtype: torch.dtype
    is_on_grid: bool
    """True where the base's entries lie on the expert's grid."""
    unmoved_E: Floats
    moved_E: Floats
    sum_E: Floats
    """Of the magnitudes of what moved."""
    squares_E: Floats
    one_unit: int = 0

    @property
    def entries(self) -> int:
        """Number of entries."""
        return int(self.unmoved_E.sum() + self.moved_E.sum())

    @property
    def units(self) -> Floats:
        """(E,) unit of the last place; that of the smallest numbers is one for all of them."""
        smallest = torch.finfo(self.dtype).smallest_normal * 2.0 ** -MANTISSA_BITS[self.dtype]
        return np.maximum(np.ldexp(1.0, np.arange(EXPONENTS) + LOWEST - 1 - MANTISSA_BITS[self.dtype]), smallest)

    def estimate(self) -> tuple[float, float]:
        """Squared norms of the error, and of the vector before rounding."""
        used = (self.unmoved_E + self.moved_E) > 0
        units, unmoved, moved = self.units[used], self.unmoved_E[used], self.moved_E[used]
        total, squares = self.sum_E[used], float(self.squares_E.sum())
        if not self.is_on_grid:  # then the error says nothing about the change: it is anywhere in a unit
            error = float(((unmoved + moved) * units**2 / 12).sum())
            return error, max(squares - error, error)

        theta = _fit_theta(units, unmoved, moved, total)
        at_base = _compute_moment(theta, units / 2, 2)
        mean, square = _compute_moment(theta, units, 1), _compute_moment(theta, units, 2)
        bias, off_base = mean - units / 2, square - units * mean + units**2 / 4
        error = float((unmoved * at_base + moved * off_base).sum())
        norm = float((unmoved * at_base + 2 * total * bias + moved * off_base).sum()) + squares
        return error, norm


def _fit_theta(units: Floats, unmoved: Floats, moved: Floats, total: Floats) -> float:
    """The most likely theta: where the derivative of the concave log likelihood crosses 0."""
    beyond = float((total - moved * units / 2).sum())

    def slope(theta: float) -> float:
        inside = (unmoved * units / 2 / np.expm1(np.minimum(units * theta / 2, 700))).sum()
        cell = (moved * units / np.expm1(np.minimum(units * theta, 700))).sum()
        return float(inside + cell) - beyond

    low, high = -300.0, 300.0  # of the natural logarithm
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp(low)


def _compute_moment(theta: float, width: Floats, order: int) -> Floats:
    """Moment of an exponential variable that is known to lie in `[0, width]`."""
    reach = theta * width
    return np.asarray(math.factorial(order) / theta**order * _compute_gamma_share(order + 1, reach) / -np.expm1(-reach))


def _compute_gamma_share(shape: int, reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """The regularised lower incomplete gamma function, by PyTorch: `inspect` and `doctor` do without SciPy."""
    values = torch.from_numpy(np.asarray(reach, dtype=np.float64).copy())
    return np.asarray(torch.special.gammainc(torch.full_like(values, float(shape)), values).numpy())


def _count_tensor(pool: ModelPool, served: Model, info: TensorInfo) -> _TensorCounts | None:
    """Counts of tensor `info`; None where the expert does not store it with few bits."""
    if not served.has(info.name) or served.info(info.name).dtype not in MANTISSA_BITS:
        return None
    counts: _TensorCounts | None = None
    for base, stored in _read_blocks(pool, served, info):
        if stored.dtype not in MANTISSA_BITS:
            return None
        on_grid = base.to(stored.dtype)
        if counts is None:
            unmoved, moved, total, squares = (np.zeros(EXPONENTS) for _ in range(4))
            counts = _TensorCounts(stored.dtype, True, unmoved, moved, total, squares)
        counts.is_on_grid &= torch.equal(on_grid.to(base.dtype), base)
        _add_block(counts, base, on_grid, stored)
    return counts


def _read_blocks(pool: ModelPool, served: Model, info: TensorInfo) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for span in split_into_spans(info.elements):
        yield pool.read_base_block(info.name, span), served.read_block(info.name, span)


def _add_block(counts: _TensorCounts, base: torch.Tensor, on_grid: torch.Tensor, stored: torch.Tensor) -> None:
    steps = (_number_values(stored) - _number_values(on_grid)).abs()
    counts.one_unit += int((steps == 1).sum())

    exponent = torch.frexp(on_grid.to(torch.float32)).exponent.to(torch.int64) - LOWEST
    exponent[on_grid == 0] = 0
    size = (stored.to(torch.float64) - base.to(torch.float64)).abs()
    is_moved = steps != 0
    sums = {
        "unmoved_E": (~is_moved).to(torch.float64),
        "moved_E": is_moved.to(torch.float64),
        "sum_E": size * is_moved,
        "squares_E": size.square(),
    }
    for name, values in sums.items():
        added = torch.bincount(exponent, weights=values, minlength=EXPONENTS).numpy()
        setattr(counts, name, getattr(counts, name) + added)


def _number_values(values: torch.Tensor) -> torch.Tensor:
    """The place of each 16-bit number among all of its type, in order of value."""
    bits = values.contiguous().view(torch.int16).to(torch.int32)
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)
