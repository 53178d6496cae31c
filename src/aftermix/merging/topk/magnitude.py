"""Exact choice of the k largest magnitudes of a streamed tensor, in one reading and without a sort.

The bits of a non-negative float32, read as an integer, order as the number does; float64 values are ranked as float32.
A sample of slices brackets the k-th largest; one reading counts what lies above the bracket and at its ends, and
gathers the little that lies inside. Entries equal to the threshold are taken by lower index. A bracket that misses
costs more readings, never the result.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from aftermix.checkpoints.model import Span

HALF_BITS = 16
LOWER_HALF = (1 << HALF_BITS) - 1
SLICE_ELEMENTS, LEAST_SLICES, MOST_SLICES, ELEMENTS_PER_SLICE = 256, 32, 256, 1 << 16
"""A sample: enough for a quantile within one or two per cent, read in a fraction of the time of the whole."""
MARGINS = (0.015, 0.08)
"""Half the width of the bracket, as a share of all entries: the first attempt and the second."""
GOLDEN = 0.6180339887498949

Bits = NDArray[np.int32]
Places = NDArray[np.int32]


@dataclass(frozen=True)
class TensorBlocks:
    """A flattened tensor (or a whole vector) that is read one run of elements at a time."""

    spans: Sequence[Span]
    """Of the blocks, in order and without gaps, beginning at 0."""
    read: Callable[[Span], torch.Tensor]
    """A run within one block in its working type (float32 or float64), the caller's to change."""
    read_runs: Callable[[Sequence[Span]], torch.Tensor] | None = None
    """Several runs, each within one block, as one tensor; where that is cheaper than one by one."""

    @property
    def elements(self) -> int:
        """Number of elements of all blocks."""
        return self.spans[-1][1] if self.spans else 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Every block, in order."""
        return map(self.read, self.spans)

    def draw_sample(self) -> torch.Tensor:
        """All entries of a small tensor; slices of a large one, spread so that they favour no row or column."""
        count = min(max(self.elements // ELEMENTS_PER_SLICE, LEAST_SLICES), MOST_SLICES)
        if self.elements <= count * SLICE_ELEMENTS:
            return torch.cat(list(self))

        starts = [span[0] for span in self.spans]
        runs = []
        for number in range(count):
            start = int((number + 0.5) * GOLDEN % 1 * self.elements)
            end = self.spans[bisect_right(starts, start) - 1][1]
            runs.append((start, min(start + SLICE_ELEMENTS, end)))
        return self.read_runs(runs) if self.read_runs else torch.cat([self.read(run) for run in runs])


@dataclass(frozen=True)
class TopKMask:
    """Keep what is larger than `threshold` (in magnitude bits), and what equals it up to index `last`."""

    threshold: int
    last: int

    def shift_indices(self, offset: int) -> TopKMask:
        """The same mask for entries counted from `offset` on."""
        return TopKMask(self.threshold, self.last - offset)

    def apply(self, values: torch.Tensor, start: int) -> torch.Tensor:
        """The flat block `values`, whose first entry has index `start`; in place, what is not kept becomes zero."""
        inside = min(max(self.last + 1 - start, 0), len(values))
        _zero_smaller(values[:inside], self.threshold - 1)
        _zero_smaller(values[inside:], self.threshold)
        return values


def _zero_smaller(values: torch.Tensor, bits: int) -> None:
    """Make zero, in place, the entries whose magnitude bits do not exceed `bits`. NaN stays."""
    if bits >= 0 and values.dtype == torch.float64:
        # Ranked as float32, so cut off as float32: an entry just above the threshold may be rounded to it.
        np.multiply(values.numpy(), read_magnitude_bits(values) > bits, out=values.numpy())
    elif bits >= 0:
        torch.ops.aten.hardshrink.out(values, float(np.int32(bits).view(np.float32)), out=values)


def count_kept(elements: int, density: float) -> int:
    """`max(1, floor(density * elements))`, or 0 for an empty tensor (docs/methods.md, `magnitude`).

    >>> count_kept(10, 0.35), count_kept(3, 0.1), count_kept(0, 0.5), count_kept(100, 0.29)
    (3, 1, 0, 29)
    """
    return min(elements, max(1, count_share(elements, density))) if elements else 0


def count_share(elements: int, share: float) -> int:
    """`floor(share * elements)` of the share that was written.

    >>> count_share(100, 0.29), count_share(3, 0.3)
    (29, 0)
    """
    # 0.29 * 100 is 28.999999999999996 in binary; a count that close to a whole number was meant to be it.
    return int(share * elements * (1 + 1e-12))


def read_magnitude_bits(values: torch.Tensor) -> Bits:
    """Values, as float32, as flat integers that order like their magnitudes."""
    bits: Bits = values.reshape(-1).to(torch.float32).numpy().view(np.int32) & np.int32(0x7FFFFFFF)
    return bits


def find_top_k(blocks: TensorBlocks, count: int) -> TopKMask:
    """Mask that keeps exactly the `count` entries of largest magnitude, equal ones by lower index.

    Holds one block and a few per cent of the entries. `count` is at least 1 and at most the number of entries.
    """
    threshold = find_threshold(blocks, count)
    return TopKMask(threshold.bits, threshold.find_last_equal(blocks))


@dataclass(frozen=True)
class TopKThreshold:
    """The `count`-th largest entry of a tensor, and what equals it."""

    bits: int
    """Its magnitude."""
    wanted: int
    """Number of those that equal it and are among the `count` largest."""
    equal: Sequence[int]
    """Number of entries that equal it, by block."""
    places: Sequence[Places] | None
    """Their indices by block, counted from the block's first; None where they would be too many to keep."""

    @property
    def takes_all(self) -> bool:
        """True where nothing that equals it is left out."""
        return self.wanted == sum(self.equal)

    def find_last_equal(self, blocks: TensorBlocks) -> int:
        """Index of the last that is wanted, when lower indices come first."""
        if self.takes_all:
            return blocks.elements - 1  # no block has to be split
        before = np.cumsum([0, *self.equal])
        number = int(np.searchsorted(before, self.wanted)) - 1
        start, end = blocks.spans[number]
        places = self.places[number] if self.places is not None else self._find_places(blocks.read((start, end)))
        return start + int(places[self.wanted - before[number] - 1])

    def _find_places(self, block: torch.Tensor) -> Places:
        return np.flatnonzero(read_magnitude_bits(block) == self.bits).astype(np.int32)


def find_threshold(blocks: TensorBlocks, count: int) -> TopKThreshold:
    """The `count`-th largest entry by magnitude."""
    sample = read_magnitude_bits(blocks.draw_sample())
    for margin in MARGINS:
        counts = _count_around_bracket(blocks, *_bracket_quantile(sample, count / blocks.elements, margin))
        nth_largest = counts.find_largest(count)
        if nth_largest is not None:
            bits, above = nth_largest
            return counts.build_threshold(bits, wanted=count - above)

    bits, above = _find_by_histograms(blocks, count)
    equal = [int(np.count_nonzero(read_magnitude_bits(block) == bits)) for block in blocks]
    return TopKThreshold(bits, count - above, equal, None)


def _bracket_quantile(sample: Bits, share: float, margin: float) -> tuple[int, int]:
    """Two entries of the sample between which the one that `share` of all entries reach is expected to lie."""
    last = len(sample) - 1
    places = [min(max(round((1 - share + step) * last), 0), last) for step in (-margin, margin)]
    sample = np.partition(sample, places)
    return int(sample[places[0]]), int(sample[places[1]])


@dataclass
class _BracketCounts:
    """One reading: counts around a bracket, and the entries strictly within it, by block."""

    low: int
    high: int
    above: int = 0
    at_high: list[int] = field(default_factory=list)
    at_low: list[int] = field(default_factory=list)
    inside: list[Bits] = field(default_factory=list)
    places: list[Places] = field(default_factory=list)
    """Indices of the entries within the bracket, counted from the first of their block."""

    def find_largest(self, count: int) -> tuple[int, int] | None:
        """The `count`-th largest entry and the number of entries above it; None when the bracket missed it."""
        below_high = self.above + sum(self.at_high)
        if self.above < count <= below_high:
            return self.high, self.above

        within = np.concatenate(self.inside)
        wanted = count - below_high
        if 0 < wanted <= len(within):
            threshold = int(np.partition(within, len(within) - wanted)[len(within) - wanted])
            return threshold, below_high + int(np.count_nonzero(within > threshold))
        if len(within) < wanted <= len(within) + sum(self.at_low):
            return self.low, below_high + len(within)
        return None

    def build_threshold(self, bits: int, *, wanted: int) -> TopKThreshold:
        """Threshold that :meth:`find_largest` has found, and what equals it."""
        if bits in (self.low, self.high):
            return TopKThreshold(bits, wanted, self.at_high if bits == self.high else self.at_low, None)
        places = [where[part == bits] for where, part in zip(self.places, self.inside, strict=True)]
        return TopKThreshold(bits, wanted, [len(part) for part in places], places)


def _count_around_bracket(blocks: TensorBlocks, low: int, high: int) -> _BracketCounts:
    counts = _BracketCounts(low, high)
    for block in blocks:
        bits = read_magnitude_bits(block)
        counts.above += int(np.count_nonzero(bits > high))
        counts.at_high.append(int(np.count_nonzero(bits == high)))
        counts.at_low.append(int(np.count_nonzero(bits == low)) if low < high else 0)
        # Unsigned, one comparison serves both ends: what lies below `low` wraps around to the top.
        within = (bits - np.int32(low + 1)).view(np.uint32) < np.uint32(max(high - low - 1, 0))
        places = np.flatnonzero(within)
        counts.places.append(places.astype(np.int32))
        counts.inside.append(bits[places])
    return counts


def _find_by_histograms(blocks: TensorBlocks, count: int) -> tuple[int, int]:
    """The `count`-th largest entry and the number of entries above it, in two readings and whatever the values."""
    upper = np.zeros(1 << (31 - HALF_BITS), dtype=np.int64)
    for block in blocks:
        upper += np.bincount(read_magnitude_bits(block) >> HALF_BITS, minlength=len(upper))
    bucket, above = _find_bucket(upper, count)

    lower = np.zeros(LOWER_HALF + 1, dtype=np.int64)
    for block in blocks:
        bits = read_magnitude_bits(block)
        lower += np.bincount(bits[bits >> HALF_BITS == bucket] & LOWER_HALF, minlength=len(lower))
    rest, above_in_bucket = _find_bucket(lower, count - above)
    return bucket << HALF_BITS | rest, above + above_in_bucket


def _find_bucket(histogram: NDArray[np.int64], count: int) -> tuple[int, int]:
    """The bucket that holds the `count`-th largest entry, and how many entries lie in higher buckets."""
    from_top = np.cumsum(histogram[::-1])
    place = int(np.searchsorted(from_top, count))
    return len(histogram) - 1 - place, int(from_top[place - 1]) if place else 0
