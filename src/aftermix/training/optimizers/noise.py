"""Noise that is a function of seed, step, parameter name and place: the same however the parameter is sharded.

A parameter is cut into blocks of as many elements in row-major order of the **whole** parameter. Each block has its own
stream, so a shard draws exactly what the unsharded parameter would have there, and no process knows its rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.seeds import derived_seed
from aftermix.training.optimizers.laplace_sums import MOST_SUMMANDS, Samples, compute_sum_magnitudes

BLOCK = 1 << 16
"""Elements of a block: small enough for a core's cache, large enough for two threads to share."""

DEVICE_BLOCK = 1 << 21
"""The same on an accelerator, where launching kernels is what costs."""

TABLE = 1 << 22
"""Samples of the shared table: 16 MiB."""

NoiseKey = tuple[str | int, ...]
Bits = NDArray[np.int32]


def count_block_elements(device: torch.device) -> int:
    """Elements of a block on `device`."""
    return BLOCK if device.type == "cpu" else DEVICE_BLOCK


class NoiseSource(Protocol):
    """Source of standard noise (location 0, scale 1)."""

    def draw_block(
        self, key: NoiseKey, index: int, count: int, device: torch.device, *, summands: int = 1
    ) -> torch.Tensor:
        """The `count` samples of block `index` of the stream `key`: float32, not to be written to.

        Each is the sum of `summands` independent samples.
        """


@dataclass(frozen=True)
class FreshNoise:
    """Independent samples for every step, parameter and element.

    On a CPU they come from SFC64's raw bits and are the same on every machine to the rounding of `log`. On an
    accelerator they come from its own generator, at their best speed, and depend on its kind.
    """

    distribution: str
    seed: int

    def draw_block(
        self, key: NoiseKey, index: int, count: int, device: torch.device, *, summands: int = 1
    ) -> torch.Tensor:
        """See :class:`NoiseSource`. Sums are drawn at once, not one by one, where a formula for them is at hand."""
        if self.distribution == "gaussian" and summands > 1:
            return self.draw_block(key, index, count, device).mul_(math.sqrt(summands))
        if summands > 1 and (device.type != "cpu" or summands > MOST_SUMMANDS):
            return _add_one_by_one(self, key, index, count, device, summands)

        seed = derived_seed(self.seed, "noise", *key, index)
        if device.type != "cpu":
            return _draw_on_device(count, seed, self.distribution, device)

        raw = np.random.SFC64(seed).random_raw((count + 1) // 2)
        # Little-endian whatever the machine, as in aftermix.seeds.
        bits = raw.astype("<u8", copy=False).view("<i4")
        samples = _draw_gaussian(bits) if self.distribution == "gaussian" else _draw_laplace(bits, summands=summands)
        return torch.from_numpy(samples[:count])


def _add_one_by_one(
    source: NoiseSource, key: NoiseKey, index: int, count: int, device: torch.device, summands: int
) -> torch.Tensor:
    total = source.draw_block(key, index, count, device).clone()
    for number in range(1, summands):
        total += source.draw_block((*key, "summand", number), index, count, device)
    return total


# NumPy, not PyTorch: its float32 logarithm takes a third of the time.


def _convert_to_magnitudes(bits: Bits) -> Samples:
    """`|r + 1/2| / 2^31`: uniform on (0, 1], never zero."""
    values = bits.astype(np.float32)
    values += np.float32(0.5)
    np.abs(values, out=values)
    values *= np.float32(2.0**-31)
    return values


def _draw_laplace(bits: Bits, *, summands: int = 1) -> Samples:
    """Standard Laplace samples: a random sign times an exponential, `-sign(r) log(|r + 1/2| / 2^31)`.

    A sum of them is as symmetric, and its magnitude is a function of that exponential (:func:`compute_sum_magnitudes`).

    `r` is uniform on 32-bit integers, so the sign is fair, the magnitude does not depend on it, and the logarithm never
    meets zero (the inverse of the distribution function does, at u = 0). The same distribution as a difference of two
    exponentials, at half the bits and half the time.
    """
    values = _convert_to_magnitudes(bits)
    np.log(values, out=values)
    if summands > 1:
        values = compute_sum_magnitudes(np.negative(values, out=values), summands)

    turned = values.view(np.int32)
    turned ^= bits & np.int32(-(2**31))  # the sign bit alone
    return values


def _draw_gaussian(bits: Bits) -> Samples:
    """Standard normal samples by Box and Muller (1958): `sqrt(-2 log u) (cos, sin)(pi v)`, from 32 bits each.

    The first half of the bits gives `u` and the second `v`, the cosines come before the sines: reading and writing
    every second number would take a quarter of the time.
    """
    half = len(bits) // 2
    radius = _convert_to_magnitudes(bits[:half])
    np.log(radius, out=radius)
    radius *= np.float32(-2.0)
    np.sqrt(radius, out=radius)

    angle = bits[half:].astype(np.float32)
    angle *= np.float32(math.pi * 2.0**-31)

    samples = np.empty(len(bits), np.float32)
    np.cos(angle, out=samples[:half])
    np.sin(angle, out=samples[half:])
    samples.reshape(2, half)[:] *= radius
    return samples


def _draw_on_device(count: int, seed: int, distribution: str, device: torch.device) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    first = torch.empty(count, device=device)
    if distribution == "gaussian":
        return first.normal_(generator=generator)
    return first.exponential_(generator=generator).sub_(torch.empty_like(first).exponential_(generator=generator))


@dataclass(frozen=True)
class TableNoise:
    """An approximation: every block is a stretch of one shared table, from an offset keyed like a fresh stream.

    Each sample follows the distribution exactly, but the samples of a step are not independent: parameters larger than
    the table repeat it, and neighbours within a stretch are always the same. Costs a read instead of a draw.
    """

    distribution: str
    seed: int

    def draw_block(
        self, key: NoiseKey, index: int, count: int, device: torch.device, *, summands: int = 1
    ) -> torch.Tensor:
        """See :class:`NoiseSource`."""
        if summands > 1:
            return _add_one_by_one(self, key, index, count, device, summands)

        table = _build_table(self.distribution, self.seed, device)
        offset = derived_seed(self.seed, "table offset", *key, index) % (TABLE - count_block_elements(device) + 1)
        return table[offset : offset + count]


@lru_cache(maxsize=2)
def _build_table(distribution: str, seed: int, device: torch.device) -> torch.Tensor:
    source = FreshNoise(distribution, seed)
    size = count_block_elements(device)
    return torch.cat([source.draw_block(("table",), index, size, device) for index in range(TABLE // size)])
