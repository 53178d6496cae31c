"""Exact choice of the k largest magnitudes without a sort.

The bits of a non-negative float32, read as an integer, order as the number does. Two histograms of 16 bits each find
the k-th largest exactly; entries equal to it are taken by lower index.
"""

from __future__ import annotations

import torch

HALF_BITS = 16
BUCKETS = 1 << HALF_BITS


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


def top_mask(values: torch.Tensor, count: int) -> torch.Tensor:
    """Boolean mask of exactly `count` entries of largest magnitude, equal ones by lower index. Shape of `values`."""
    if count >= values.numel():
        return torch.ones_like(values, dtype=torch.bool)
    if count <= 0:
        return torch.zeros_like(values, dtype=torch.bool)
    bits = magnitude_bits(values)
    threshold = kth_largest(bits, count)
    mask = bits > threshold
    places = (bits == threshold).nonzero().squeeze(1)[: count - int(mask.sum())]
    mask[places] = True
    return mask.view(values.shape)


def kth_largest(bits: torch.Tensor, count: int) -> int:
    """The `count`-th largest of non-negative int32 `bits`."""
    upper = bits >> HALF_BITS
    bucket, above = bucket_of(torch.bincount(upper, minlength=BUCKETS), count)
    lower = bits[upper == bucket] & (BUCKETS - 1)
    rest, _ = bucket_of(torch.bincount(lower, minlength=BUCKETS), count - above)
    return (bucket << HALF_BITS) | rest


def bucket_of(histogram: torch.Tensor, count: int) -> tuple[int, int]:
    """The bucket that holds the `count`-th largest entry, and how many entries lie in higher buckets."""
    from_top = histogram.flip(0).cumsum(0)  # int64: counts of a whole model do not fit in 32 bits
    place = int(torch.searchsorted(from_top, count))
    above = int(from_top[place - 1]) if place else 0
    return len(histogram) - 1 - place, above
