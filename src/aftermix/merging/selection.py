"""Exact choice of the k largest magnitudes, streamed over blocks, without a sort.

The bits of a non-negative float32, read as an integer, order as the number does. Two histograms of 16 bits each find
the k-th largest exactly; entries equal to it are taken by lower index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

Blocks = Callable[[], Iterator[torch.Tensor]]
"""Float32 blocks of a flattened tensor (or of a whole vector), in order, as often as they are asked for."""

HALF_BITS = 16
UPPER_BUCKETS = 1 << 15  # the sign bit is gone
LOWER_BUCKETS = 1 << HALF_BITS


@dataclass(frozen=True)
class Cut:
    """Keep what is larger than `threshold` (in magnitude bits), and what equals it up to index `last`."""

    threshold: int
    last: int

    def seen_from(self, offset: int) -> Cut:
        """The same cut for entries counted from `offset` on."""
        return Cut(self.threshold, self.last - offset)

    def mask(self, values: torch.Tensor, start: int) -> torch.Tensor:
        """Which entries of the flat block `values`, whose first has index `start`, are kept."""
        bits = magnitude_bits(values)
        if self.last >= start + len(bits) - 1:
            return bits >= self.threshold
        mask = bits > self.threshold
        if self.last >= start:
            inside = self.last - start + 1
            mask[:inside] |= bits[:inside] == self.threshold
        return mask


def kept_count(elements: int, density: float) -> int:
    """`max(1, floor(density * elements))`, or 0 for an empty tensor (SPEC section 0, `ties`).

    >>> kept_count(10, 0.35), kept_count(3, 0.1), kept_count(0, 0.5), kept_count(100, 0.29)
    (3, 1, 0, 29)
    """
    # 0.29 * 100 is 28.999999999999996 in binary; a count that close to a whole number was meant to be it.
    return min(elements, max(1, int(density * elements * (1 + 1e-12)))) if elements else 0


def magnitude_bits(values: torch.Tensor) -> torch.Tensor:
    """Float32 values as flat int32 that order like their magnitudes."""
    return values.reshape(-1).abs().view(torch.int32)


def find_cut(blocks: Blocks, count: int) -> Cut:
    """The cut that keeps exactly the `count` entries of largest magnitude, equal ones by lower index.

    Reads the blocks two or three times and holds one of them. `count` is at least 1 and at most the number of entries.
    """
    upper = torch.zeros(UPPER_BUCKETS, dtype=torch.int64)  # a whole model's counts do not fit in 32 bits
    for block in blocks():
        upper += torch.bincount(magnitude_bits(block) >> HALF_BITS, minlength=UPPER_BUCKETS)
    bucket, above = _bucket_of(upper, count)
    lower = torch.zeros(LOWER_BUCKETS, dtype=torch.int64)
    for block in blocks():
        bits = magnitude_bits(block)
        inside = bits[(bits >> HALF_BITS) == bucket] & (LOWER_BUCKETS - 1)
        lower += torch.bincount(inside, minlength=LOWER_BUCKETS)
    rest, above_in_bucket = _bucket_of(lower, count - above)
    threshold = (bucket << HALF_BITS) | rest
    wanted = count - above - above_in_bucket
    everything = int(upper.sum())
    return Cut(threshold, everything - 1 if wanted == int(lower[rest]) else _nth_equal(blocks, threshold, wanted))


def _bucket_of(histogram: torch.Tensor, count: int) -> tuple[int, int]:
    """The bucket that holds the `count`-th largest entry, and how many entries lie in higher buckets."""
    from_top = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, count))
    above = int(from_top[place - 1]) if place else 0
    return len(histogram) - 1 - place, above


def _nth_equal(blocks: Blocks, threshold: int, wanted: int) -> int:
    """Index of the `wanted`-th entry that equals `threshold`."""
    start = 0
    for block in blocks():
        places = (magnitude_bits(block) == threshold).nonzero().squeeze(1)
        if len(places) >= wanted:
            return start + int(places[wanted - 1])
        wanted -= len(places)
        start += block.numel()
    raise ValueError("the blocks changed between two readings")
