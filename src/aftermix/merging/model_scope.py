"""Selection over a whole vector, streamed: how many of its largest entries fall into each tensor.

Three passes over the tensors in order of name: a histogram of the upper 16 bits of the magnitudes, one of the lower 16
within the deciding bucket, and a count per tensor. Memory is one tensor, whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from aftermix.checkpoints.pool import Pool
from aftermix.merging.selection import BUCKETS, HALF_BITS, bucket_of, kept_count, magnitude_bits


def counts_over_model(pool: Pool, vector: str, names: Sequence[str], *, density: float) -> dict[str, int]:
    """Entries of each tensor among the `floor(density * n)` largest of the vector, n counted over all `names`.

    Equal magnitudes at the threshold go to the earlier tensor by name.
    """
    count = kept_count(sum(pool.frame.info(name).elements for name in names), density)
    threshold = _threshold(pool, vector, names, count)
    above: dict[str, int] = {}
    equal: dict[str, int] = {}
    for name, bits in _magnitudes(pool, vector, names):
        above[name] = int((bits > threshold).sum())
        equal[name] = int((bits == threshold).sum())
    left = count - sum(above.values())
    counts = {}
    for name in names:
        taken = min(left, equal[name])
        left -= taken
        counts[name] = above[name] + taken
    return counts


def _threshold(pool: Pool, vector: str, names: Sequence[str], count: int) -> int:
    histogram = torch.zeros(BUCKETS, dtype=torch.int64)
    for _, bits in _magnitudes(pool, vector, names):
        histogram += torch.bincount(bits >> HALF_BITS, minlength=BUCKETS)
    bucket, higher = bucket_of(histogram, count)
    histogram.zero_()
    for _, bits in _magnitudes(pool, vector, names):
        inside = bits[(bits >> HALF_BITS) == bucket] & (BUCKETS - 1)
        histogram += torch.bincount(inside, minlength=BUCKETS)
    rest, _ = bucket_of(histogram, count - higher)
    return (bucket << HALF_BITS) | rest


def _magnitudes(pool: Pool, vector: str, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
    for name in names:
        base = pool.base_tensor(name).to(torch.float32)
        yield name, magnitude_bits(pool.delta(name, vector, base))
